"""A PyMC model in; its Objective, compiled once and kept for as long as the model, comes out."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, cast
from weakref import WeakKeyDictionary

import jax
import jax.numpy as jnp
import numpy as np
import pymc as pm
from pytensor.scalar.basic import Cast

from pm_psyphy.graph import check_model, read_data
from pm_psyphy.objective import Objective, check_data
from pm_psyphy.program import (
    NoRoute,
    NotFinite,
    Program,
    build_program,
    check_finite,
    check_trace,
    explain_no_route,
)
from pm_psyphy.start import draw_starts, explain_start
from pm_psyphy.weights import REST, WEIGHTS, find_rows

# Programs hold no model, so a model that is no longer used takes its program with it.
_PROGRAMS: WeakKeyDictionary[pm.Model, dict[Any, tuple[tuple, dict[str, np.ndarray], Program]]] = WeakKeyDictionary()


def compile_objective(
    model: pm.Model | None = None, *, jacobian: bool = False, initvals: Mapping[str, Any] | None = None
) -> Objective:
    """Compile a model's negative log posterior and gradient with JAX.

    The work is done once for a model: later calls, also after `pm.set_data`, return the same program with the present
    data.

    Parameters
    ----------
    model : pm.Model, optional
        Default: the model in context.
    jacobian : bool, default False
        Whether to add the log Jacobian of the transforms; see `Objective`.
    initvals : dict, optional
        Initial values by variable name, as in `pm.sample`: arrays, ``"prior"`` or ``"support_point"``. Transformed
        names (``"sigma_log__"``) take unconstrained values.

    Returns
    -------
    Objective

    Raises
    ------
    TypeError
        If there is no model.
    ValueError
        If the model has no free variable, discrete free variables, neither data nor potentials, or a start at which
        loss or gradient are not finite.
    NotImplementedError
        If no route compiles; the message names the op and the variables that need it.

    Examples
    --------
    >>> import pymc as pm
    >>> import pm_psyphy as psy
    >>> with pm.Model() as model:
    ...     mu = pm.Normal("mu", 0, 1)
    ...     y = pm.Normal("y", mu, 1, observed=[1.0, 2.0])
    >>> objective = psy.compile_objective(model)
    >>> loss, grads = objective.value_and_grad({"mu": 0.0})
    >>> float(grads["mu"])
    -3.0
    """
    return assemble_objective(model, jacobian=jacobian, initvals=initvals, accept=check_finite)


def assemble_objective(
    model: pm.Model | None,
    *,
    jacobian: bool,
    initvals: Mapping[str, Any] | None,
    accept: Callable,
    weighted_dim: str | None = None,
) -> Objective:
    """Do the work of `compile_objective`; see `build_program` for `accept` and `weighted_dim`."""
    model = find_model(model)
    check_model(model)
    start = {name: stack[0] for name, stack in draw_starts(model, initvals=initvals).items()}
    kind = jacobian, weighted_dim
    program = _find_program(model, kind)
    if program is not None:
        check_data(program, read_data(program.graph.sources))
        program = _recheck(program, start, accept)
    if program is None:
        program = _build_or_explain(model, start, jacobian=jacobian, accept=accept, weighted_dim=weighted_dim)
        check_data(program, read_data(program.graph.sources))
        frozen = {name: source.get_value() for name, source in program.graph.frozen.items()}
        _PROGRAMS.setdefault(model, {})[kind] = (_model_state(model), frozen, program)
    return Objective(model, program, start, _place(program, read_data(program.graph.sources)))


def change_density(objective: Objective, *, jacobian: bool = False, weighted_dim: str | None = None) -> Objective:
    """Return another density of the same model, on the same data.

    Parameters
    ----------
    objective : Objective
    jacobian : bool
        See `compile_objective`.
    weighted_dim : str, optional
        Give each row along this dim a weight, named `WEIGHTS` among the data, at first 1.

    Returns
    -------
    Objective
    """
    # Where the first route did not do, neither may it here.
    accept = check_trace if objective.route == "pytensor" else check_finite
    found = assemble_objective(
        objective.model, jacobian=jacobian, initvals=None, accept=accept, weighted_dim=weighted_dim
    )
    names = objective.names_in(found.program.graph)
    data = found.data | {name: objective.data[ours] for name, ours in names.items()}
    if weighted_dim is not None:
        shapes = {WEIGHTS: count_rows(objective, weighted_dim), REST: ()}
        data |= {name: jnp.ones(shape, data[name].dtype) for name, shape in shapes.items()}
    return replace(found, start=objective.start, data=data)


def count_rows(objective: Objective, dim: str) -> int:
    """Return the length of a dim in the data that an objective holds."""
    names, (axes, length) = find_observed(objective), find_rows(objective.model, dim)
    lengths = [np.shape(objective.data[names[name]])[axis] for name, axis in axes.items() if name in names]
    return lengths[0] if lengths else length


def find_observed(objective: Objective) -> dict[str, str]:
    """Return the observed variables whose values the objective holds, and the names under which it does."""
    model, sources = objective.model, objective.program.graph.sources
    names = {id(source): name for name, source in sources.items()}
    values = {rv.name: _strip_cast(model.rvs_to_values[rv]) for rv in model.observed_RVs}
    return {name: names[id(value)] for name, value in values.items() if id(value) in names}


def _strip_cast(value: Any) -> Any:
    """Return the data behind observed values: PyMC casts them to the type of their distribution."""
    if value.owner is not None and isinstance(getattr(value.owner.op, "scalar_op", None), Cast):
        return value.owner.inputs[0]
    return value


def _recheck(program: Program, start: dict[str, np.ndarray], accept: Callable) -> Program | None:
    """Put a program that was only traced so far to the stricter test, if that is asked."""
    if accept is check_finite and "finite" not in program.compiled:
        try:
            check_finite(program, start)
        except NotFinite:
            return None
    return program


def find_model(model: Any) -> pm.Model:
    """Return the model given, or the one in context."""
    if model is not None:
        return model
    try:
        return cast(pm.Model, pm.modelcontext(None))
    except TypeError:
        raise TypeError("There is no model. Pass one, or call inside `with pm.Model():`.") from None


def forget_program(objective: Objective) -> None:
    """Drop a model's program, so that the next compilation chooses its route anew."""
    _PROGRAMS.pop(objective.model, None)


def _model_state(model: pm.Model) -> tuple:
    return (
        *model.basic_RVs,
        *model.rvs_to_values.values(),
        *model.rvs_to_transforms.values(),
        *model.potentials,
    )


def _find_program(model: pm.Model, kind: tuple[bool, str | None]) -> Program | None:
    """Return the program compiled before, unless the model or data inside the program changed since."""
    state, frozen, program = _PROGRAMS.get(model, {}).get(kind, ((), {}, None))
    present = _model_state(model)
    is_same = len(state) == len(present) and all(a is b for a, b in zip(state, present, strict=True))
    if program is None or not is_same:
        return None
    unchanged = all(np.array_equal(v, program.graph.frozen[name].get_value()) for name, v in frozen.items())
    return program if unchanged else None


def _build_or_explain(model: pm.Model, start: dict[str, np.ndarray], **settings: Any) -> Program:
    try:
        return build_program(model, start, **settings)
    except NoRoute as failure:
        if failure.nonfinite is None:
            raise explain_no_route(model, failure.errors) from failure
        found = Objective(model, failure.nonfinite.program, start, failure.nonfinite.data)
        raise ValueError(explain_at(found, start)) from failure


def explain_at(objective: Objective, start: dict[str, np.ndarray]) -> str:
    """Say why loss or gradient are not finite at a start."""
    key = jax.random.key(0)
    loss, grads = objective.value_and_grad(start, key)
    return explain_start(objective.model, start, objective.data, objective.values_of, loss, grads)


def _place(program: Program, arrays: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    """Put data where JAX computes, and leave there what has not changed since the last time."""
    placed = program.compiled.setdefault("placed", {})
    for name, array in arrays.items():
        if name not in placed or placed[name][0] is not array:
            placed[name] = array, jax.device_put(array)
    return {name: placed[name][1] for name in arrays}
