"""A PyMC model and initial values in; starting points in the unconstrained space come out, or the reason why not."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
from pymc.initial_point import make_initial_point_expression
from pymc.logprob.utils import CheckParameterValue
from pymc.pytensorf import compile as compile_graph
from pymc.pytensorf import find_rng_nodes, replace_rng_nodes, reseed_rngs
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.basic import Constant
from pytensor.graph.replace import clone_replace
from pytensor.graph.traversal import ancestors, graph_inputs
from pytensor.tensor.type import TensorType

from pm_psyphy.common.arrays import convert_array, read_array
from pm_psyphy.common.row_function import RUN_ONCE
from pm_psyphy.compiling.host_ops import HOST_FAILURES
from pm_psyphy.compiling.model_graph import lift

_DRAWERS: WeakKeyDictionary[pm.Model, dict[Any, Any]] = WeakKeyDictionary()


def draw_starts(
    model: pm.Model,
    *,
    n: int = 1,
    init: str | None = None,
    initvals: Mapping[str, Any] | None = None,
    random_seed: int | None = None,
    data: Mapping[Any, Any] | None = None,
) -> dict[str, np.ndarray]:
    """Return `n` starting points, stacked along a leading axis.

    Parameters
    ----------
    model : pm.Model
    n : int
    init : {None, "jitter", "prior"}
        None: the model's initial point. ``"jitter"``: the initial point, and U(-1, 1) around it in the unconstrained
        space for all but the first. ``"prior"``: draws from the prior.
    initvals : dict, optional
        Values by variable name, transformed names for unconstrained values, or ``"prior"``, ``"support_point"``.
    random_seed : int, optional
    data : dict of Tensor to array, optional
        Values of shared variables that differ from their present ones.

    Returns
    -------
    dict of str to ndarray, each of shape (n, ...)
    """
    data = data or {}
    values, strategies, unconstrained = _sort_initvals(model, initvals or {}, data)
    if init == "prior":
        strategies = {rv.name: "prior" for rv in model.free_RVs if rv.name not in values} | strategies
    rng = None
    names = [model.rvs_to_values[rv].name for rv in model.free_RVs]
    points = []
    for i in range(n):
        jitter = init == "jitter" and (i > 0 or n == 1)
        draw, inputs, generators = _drawer(model, jitter, values, strategies)
        for name, value in values.items():
            inputs[name].set_value(value)
        if generators:
            rng = rng or np.random.default_rng(random_seed)
            reseed_rngs(generators, int(rng.integers(2**30)))
        drawn = dict(zip(names, draw(data), strict=True))
        points.append({name: _come_inside(model, name, v, values) for name, v in drawn.items()} | unconstrained)
    if n == 1:
        return {name: np.asarray(value)[None] for name, value in points[0].items()}
    return {name: np.stack([point[name] for point in points]) for name in points[0]}


def draw_others(
    model: pm.Model, start: Mapping[str, np.ndarray], n: int, seed: int, data: Mapping[Any, Any]
) -> Iterator[dict[str, np.ndarray]]:
    """Yield starts elsewhere: draws of the prior, where it can be drawn from, and ever farther from a given start.

    Parameters
    ----------
    model : pm.Model
    start : dict of str to ndarray
    n : int
    seed : int
    data : dict of Tensor to array
        Values of shared variables.

    Yields
    ------
    dict of str to ndarray
    """
    rng = np.random.default_rng(seed)
    for i in range(n):
        width = 2.0**i
        point = {k: (v + width * rng.uniform(-1, 1, np.shape(v))).astype(v.dtype) for k, v in start.items()}
        if i % 2:
            with suppress(Exception):  # what PyMC raises for priors that cannot be drawn from is not of one type
                drawn = draw_starts(model, init="prior", random_seed=seed + i, data=data)
                point = {name: stack[0] for name, stack in drawn.items()}
        yield {k: np.where(np.isfinite(v), v, 0).astype(v.dtype) for k, v in point.items()}


def _sort_initvals(model, initvals: Mapping[str, Any], data) -> tuple[dict, dict, dict]:
    """Split initial values into arrays by variable name, strategies, and values already unconstrained."""
    free = {rv.name: rv for rv in model.free_RVs}
    value_vars = {v.name: v for v in model.value_vars}
    arrays, strategies, unconstrained = {}, {}, {}
    for key, value in initvals.items():
        name = getattr(key, "name", key)
        if isinstance(value, str) and name in free:
            if value not in ("prior", "support_point"):
                raise ValueError(f"initvals[{name!r}] is {value!r}. Give an array, 'prior' or 'support_point'.")
            strategies[name] = value
        elif name in free:
            arrays[name] = _fill(model, name, value, free[name].type, data)
        elif name in value_vars:
            unconstrained[name] = _fill(model, name, value, value_vars[name].type, data)
        else:
            raise ValueError(f"initvals name {name!r}, which is no free variable. The model has {', '.join(free)}.")
    return arrays, strategies, unconstrained


def _come_inside(model, name: str, value: np.ndarray, given: Mapping[str, Any]) -> np.ndarray:
    """Begin inside the support where PyMC's own initial point is outside of it, as for imputed censored values."""
    (rv,) = (rv for rv in model.free_RVs if model.rvs_to_values[rv].name == name)
    outside = ~np.isfinite(value)
    if rv.name in given or model.rvs_to_transforms[rv] is None or not outside.any():
        return value
    return np.where(outside, 0, value).astype(value.dtype)


def _fill(model, name: str, given: Any, kind: Any, data: Mapping[Any, Any]) -> np.ndarray:
    """Return a value with the type and shape of its variable; data or dims decide a length that is None."""
    what, shape = f"initvals[{name!r}]", kind.shape
    value = convert_array(what, read_array(what, given), kind.dtype)
    if value.ndim == len(shape) and all(n in (None, m) for n, m in zip(shape, value.shape, strict=True)):
        return value
    fixed = tuple(n for n in shape if n is not None)
    present = fixed if len(fixed) == len(shape) else _find_shape(model, name, data)
    try:
        return np.broadcast_to(value, present).copy()
    except ValueError:
        raise ValueError(f"{what} has shape {value.shape}. The variable has shape {present}.") from None


def _find_shape(model, name: str, data: Mapping[Any, Any]) -> tuple[int, ...]:
    """Return the shape of a free variable, or of its unconstrained value."""
    known = _DRAWERS.setdefault(model, {})
    if name not in known:
        (rv,) = (rv for rv in model.free_RVs if name in (rv.name, model.rvs_to_values[rv].name))
        transform = model.rvs_to_transforms[rv] if name != rv.name else None
        variable = rv if transform is None else transform.forward(rv, *rv.owner.inputs)
        known[name] = _compile_on_data([variable.shape])[0]
    return tuple(int(n) for n in known[name](data)[0])


def _compile_on_data(outputs: list[Any]) -> tuple[Callable, Any]:
    """Return a function of data, by the shared variables that hold them, and the generators that it draws from."""
    sources = [v for v in graph_inputs(outputs) if isinstance(v, SharedVariable) and isinstance(v.type, TensorType)]
    inputs = [v.type() for v in sources]
    outputs = clone_replace(outputs, dict(zip(sources, inputs, strict=True)), rebuild_strict=False)
    function: Any = compile_graph(inputs, outputs, mode=RUN_ONCE, on_unused_input="ignore")
    generators = find_rng_nodes(function.maker.fgraph.outputs)
    # The latest results, of lengths and other numbers alone.
    latest: dict[tuple, list[np.ndarray]] = {}

    def call(data: Mapping[Any, Any]) -> list[np.ndarray]:
        arrays = [np.asarray(data[v]) if v in data else v.get_value(borrow=True) for v in sources]
        if generators or any(array.ndim for array in arrays):
            return function(*arrays)
        numbers = tuple(array.item() for array in arrays)
        if numbers not in latest:
            latest.clear()
            latest[numbers] = function(*arrays)
        return [result.copy() for result in latest[numbers]]

    return call, generators


def _drawer(model, jitter, values, strategies):
    """Return the function that draws a start, and the shared variables with the given values and the generators."""
    signature = (
        jitter,
        tuple((name, np.shape(value)) for name, value in values.items()),
        tuple(strategies.items()),
        tuple((id(rv), id(initval)) for rv, initval in model.rvs_to_initial_values.items()),
        tuple(id(transform) for transform in model.rvs_to_transforms.values()),
    )
    known = _DRAWERS.setdefault(model, {})
    if signature not in known:
        inputs = {name: pytensor.shared(value, name=f"{name}_initval") for name, value in values.items()}
        by_variable = {model[name]: value for name, value in (inputs | strategies).items()}
        expressions = make_initial_point_expression(
            free_rvs=model.free_RVs,
            rvs_to_transforms=model.rvs_to_transforms,
            initval_strategies=model.rvs_to_initial_values | by_variable,
            jitter_rvs=set(model.free_RVs) if jitter else None,
            return_transformed=True,
        )
        draw, generators = _compile_on_data(replace_rng_nodes(expressions))
        known[signature] = draw, inputs, generators
    return known[signature]


def explain_start(
    model: pm.Model,
    start: Mapping[str, np.ndarray],
    data: Mapping[str, Any],
    values_of: Callable,
    loss: Any,
    grads: Any,
) -> str:
    """Say which data, variables and gradients make a start unusable.

    Parameters
    ----------
    model : pm.Model
    start : dict
        The unconstrained point.
    data : dict
        Data of the objective by name.
    values_of : callable
        Returns the data of another graph of this model; see `Objective.values_of`.
    loss : float
    grads : dict
        Gradient of the loss there.

    Returns
    -------
    str
    """
    held = dict(_list_arrays(model, data))
    with_nan = {name: np.argwhere(np.isnan(values)) for name, values in held.items() if _has_nan(values)}
    if with_nan:
        counts = (f"{name} ({len(at)} NaN, the first at {_say(at[0])})" for name, at in with_nan.items())
        return f"The data hold NaN: {', '.join(counts)}. Drop these rows, or model them as missing."
    outside = [name for name, value in start.items() if not np.isfinite(value).all()]
    if outside:
        return f"The start is not finite for {', '.join(outside)}. Give `initvals` inside the variable's support."
    faults = [
        f"log p of {name!r} is {value}{why}"
        for name, value, why in _term_values(model, start, values_of)
        if not np.isfinite(value)
    ]
    faults += [
        f"the gradient for {name!r} is not finite" for name, grad in grads.items() if not np.isfinite(grad).all()
    ]
    faults += [f"{op} failed ({why})" for op, why in HOST_FAILURES.items()]
    values = ", ".join(
        f"{name} = {np.array2string(np.asarray(v), threshold=6, precision=4)}" for name, v in start.items()
    )
    infinite = [f"{name} holds inf at {_say(np.argwhere(np.isinf(v))[0])}" for name, v in held.items() if _has_inf(v)]
    also = f" Besides, {', '.join(infinite)}." if infinite else ""
    return (
        f"The loss at the start is {loss}: {'; '.join(faults) or 'a sum of finite terms overflows'}.{also} "
        f"Give other `initvals`, or check this variable's prior and data. The start was {values}."
    )


def _list_arrays(model, data: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the arrays of a model, with a name for each: the user's own, or that of the variable that needs it."""
    named = {v.name for v in model.named_vars.values()} | {rv.name for rv in model.observed_RVs}
    yield from ((repr(name), np.asarray(values)) for name, values in data.items() if name in named)
    terms = [*model.free_RVs, *model.observed_RVs, *model.potentials]
    graphs = model.logp(vars=terms, sum=False, jacobian=False)
    seen: set[Any] = set()
    for term, graph in zip(terms, graphs, strict=True):
        sources: Any = graph_inputs([graph])
        for source in sources:
            is_new = isinstance(source, Constant) and source not in seen and source.name not in named
            if is_new and np.ndim(source.data):
                seen.add(source)
                yield f"an array {np.shape(source.data)} that {term.name!r} needs", np.asarray(source.data)


def _say(at: np.ndarray) -> str:
    return f"row {int(at[0])}" if len(at) == 1 else f"index {tuple(map(int, at))}"


def _has_inf(values: Any) -> bool:
    array = np.asarray(values)
    return array.dtype.kind == "f" and bool(np.isinf(array).any())


def _has_nan(values: Any) -> bool:
    array = np.asarray(values)
    return array.dtype.kind == "f" and bool(np.isnan(array).any())


def _term_values(model, start, values_of) -> Iterator[tuple[str, float, str]]:
    """Yield the log probability of each term, and which check of its parameters fails."""
    terms = [*model.free_RVs, *model.observed_RVs, *model.potentials]
    graph = lift(model, [t.sum() for t in model.logp(vars=terms, sum=False, jacobian=False)])
    held = values_of(graph)
    values = [start[p.name] for p in graph.parameters] + [np.asarray(held[name]) for name in graph.data]
    checks = {
        i: [v.owner for v in ancestors([output]) if v.owner and isinstance(v.owner.op, CheckParameterValue)]
        for i, output in enumerate(graph.outputs)
    }
    conditions = [condition for nodes in checks.values() for node in nodes for condition in node.inputs[1:]]
    # PyMC's own compile turns its parameter checks into -inf, where PyTensor's would raise.
    function: Any = compile_graph(
        [*graph.parameters, *graph.data.values()],
        [*graph.outputs, *(pt.as_tensor(condition) for condition in conditions)],
        mode=RUN_ONCE,
        on_unused_input="ignore",
        givens={g: pytensor.shared(np.random.default_rng(0)) for g in graph.generators},
    )
    found = function(*values)
    holds = dict(zip(conditions, found[len(terms) :], strict=True))
    for i, (term, value) in enumerate(zip(terms, found, strict=False)):
        failed = [node.op.msg for node in checks[i] if not all(np.all(holds[c]) for c in node.inputs[1:])]
        yield term.name, float(value), f" ({', '.join(dict.fromkeys(failed))} does not hold)" if failed else ""
