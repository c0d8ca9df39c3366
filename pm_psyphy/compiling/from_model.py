"""A PyMC model in; its Objective, compiled once and kept for as long as the model, comes out."""

import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, NamedTuple, cast
from weakref import WeakKeyDictionary

import jax
import numpy as np
import pymc as pm
from pytensor.scalar.basic import Cast

from pm_psyphy.compiling.devices import check_process, compute_plainly
from pm_psyphy.compiling.model_graph import check_model, read_data
from pm_psyphy.compiling.objective import Coords, Objective, check_data
from pm_psyphy.compiling.placing import place
from pm_psyphy.compiling.program import (
    NoRoute,
    NotFinite,
    Program,
    build_program,
    check_finite,
    check_trace,
    explain_no_route,
    list_variables,
    read_program_data,
)
from pm_psyphy.compiling.row_weights import REST, WEIGHTS, find_rows
from pm_psyphy.compiling.starts import draw_starts, explain_start

# Programs hold no model, so a model that is no longer used takes its program with it.
_PROGRAMS: WeakKeyDictionary[pm.Model, dict[Any, Program]] = WeakKeyDictionary()


@compute_plainly
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
    device: Any = None,
) -> Objective:
    """Do the work of `compile_objective`; see `build_program` for `accept` and `weighted_dim`."""
    check_process()
    model = find_model(model)
    check_model(model)
    if not model.observed_RVs and not model.potentials:
        warnings.warn(
            "The model has no observed variable and no potential, so that its posterior is its prior.", stacklevel=4
        )
    start = {name: stack[0] for name, stack in draw_starts(model, initvals=initvals).items()}
    coords = Coords({dim: labels for dim, labels in model.coords.items() if labels is not None})
    held = Held({}, coords, start, device)
    return _bind(model, held, jacobian=jacobian, weighted_dim=weighted_dim, accept=accept)


def prepare_objective(
    model: pm.Model | Objective | None, *, initvals: Mapping[str, Any] | None = None, device: Any = None
) -> Objective:
    """Return what is to be fitted, with its data on a device; an objective that is given stays as it is otherwise."""
    if not isinstance(model, Objective):
        return assemble_objective(model, jacobian=False, initvals=initvals, accept=check_trace, device=device)
    return model if device is None else move(model, device)


def move(objective: Objective, device: Any) -> Objective:
    """Return the objective with its data on a device.

    Parameters
    ----------
    objective : Objective
    device : jax.Device

    Returns
    -------
    Objective
    """
    if objective.device == device:
        return objective
    return replace(objective, data={n: jax.device_put(a, device) for n, a in objective.data.items()}, device=device)


class Held(NamedTuple):
    """What an objective has from a model as it is, or was when it was fitted."""

    values: Mapping[Any, Any]
    """Values of shared variables and constants that differ from their present ones."""
    coords: Coords
    start: dict[str, np.ndarray]
    device: Any


def _bind(model: pm.Model, held: Held, *, accept: Callable, **kind: Any) -> Objective:
    """Return the objective of a kind of program, found or built, and of what is held."""
    program = _find_program(model, held.values, **kind)
    if program is not None:
        objective = _place(model, program, held)
        check_data(objective)
        with suppress(NotFinite):
            accept(program, objective.start, objective.data)
            return objective
    program = _build_or_explain(model, held, accept=accept, **kind)
    _PROGRAMS.setdefault(model, {})[tuple(kind.values())] = program
    objective = _place(model, program, held)
    check_data(objective)
    return objective


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

    Raises
    ------
    ValueError
        If the model has got or lost variables since.
    """
    check_process()
    if not _is_same(objective.program, objective.model):
        raise ValueError("Variables were added to the model after this fit. Fit the model again, and use that fit.")
    # Where the first route did not do, neither may it here.
    accept = check_trace if objective.route == "pytensor" else check_finite
    values = {v: value for v, value in objective.values.items() if v.name not in (WEIGHTS, REST)}
    held = Held(values, objective.coords, objective.start, objective.device)
    return _bind(objective.model, held, jacobian=jacobian, weighted_dim=weighted_dim, accept=accept)


def count_rows(objective: Objective, dim: str) -> int:
    """Return the length of a dim in the data that an objective holds."""
    names, (axes, length) = find_observed(objective), find_rows(objective.model, dim)
    lengths = [np.shape(objective.data[names[name]])[axis] for name, axis in axes.items() if name in names]
    return lengths[0] if lengths else length


def find_observed(objective: Objective) -> dict[str, str]:
    """Return the observed variables whose values the objective holds, and the names under which it does."""
    model, sources = objective.model, objective.program.graph.sources
    names = {source: name for name, source in sources.items()}
    values = {rv.name: _strip_cast(model.rvs_to_values[rv]) for rv in model.observed_RVs}
    return {name: names[value] for name, value in values.items() if value in names}


def _strip_cast(value: Any) -> Any:
    """Return the data behind observed values: PyMC casts them to the type of their distribution."""
    if value.owner is not None and isinstance(getattr(value.owner.op, "scalar_op", None), Cast):
        return value.owner.inputs[0]
    return value


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


def _is_same(program: Program, model: pm.Model) -> bool:
    present = list_variables(model)
    return len(present) == len(program.variables) and all(
        a is b for a, b in zip(present, program.variables, strict=True)
    )


def _find_program(model: pm.Model, values: Mapping[Any, Any], **kind: Any) -> Program | None:
    """Return the program compiled before, unless the model or values inside the program changed since."""
    program = _PROGRAMS.get(model, {}).get(tuple(kind.values()))
    if program is None or not _is_same(program, model):
        return None
    baked = {str(i): source for i, source in enumerate(program.frozen)}
    present = read_data(baked, values)
    same = (np.array_equal(present[i], program.frozen[v], equal_nan=_is_float(v)) for i, v in baked.items())
    return program if all(same) else None


def _is_float(variable: Any) -> bool:
    return str(getattr(variable, "dtype", "")).startswith("float")


def _build_or_explain(model: pm.Model, held: Held, **settings: Any) -> Program:
    try:
        return build_program(model, held.start, values=held.values, **settings)
    except NoRoute as failure:
        if failure.nonfinite is None:
            raise explain_no_route(model, failure.errors) from failure
        found = _place(model, failure.nonfinite.program, held)
        raise ValueError(explain_at(found, held.start)) from failure


def explain_at(objective: Objective, start: dict[str, np.ndarray]) -> str:
    """Say why loss or gradient are not finite at a start."""
    key = jax.random.key(0)
    loss, grads = objective.value_and_grad(start, key)
    return explain_start(objective.model, start, objective.data, objective.values_of, loss, grads)


def _place(model: pm.Model, program: Program, held: Held) -> Objective:
    data = {name: place(array, held.device) for name, array in read_program_data(program, held.values).items()}
    return Objective(model, program, held.start, data, held.coords, held.device)
