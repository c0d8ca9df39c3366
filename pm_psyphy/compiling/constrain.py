"""A model and names of its variables in; these, as compiled functions of unconstrained parameters and data, out."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import pymc as pm

from pm_psyphy.compiling.jax_linker import translate
from pm_psyphy.compiling.model_graph import LiftedGraph, lift, read_data
from pm_psyphy.compiling.program import Data, Params, call_by_name


class Constrain(NamedTuple):
    """Some of the user's own variables and deterministics, as functions of unconstrained parameters and data."""

    function: Callable[[Params, Data], Params]
    """By name; compiled by JAX."""
    graph: LiftedGraph
    on_host: tuple[str, ...]
    """What JAX cannot compute, for example when a shape depends on values: for the host."""


def build_constrain(
    model: pm.Model,
    names: Sequence[str],
    freeze: str,
    values: Mapping[Any, Any],
    start: Mapping[str, np.ndarray],
) -> Constrain:
    """Compile variables and deterministics.

    Parameters
    ----------
    model : pm.Model
    names : sequence of str
    freeze : str
        What the program holds fixed; variables whose shapes depend on lengths may need more than that.
    values : dict of Tensor to array
        Values of shared variables and constants.
    start : dict of str to ndarray

    Returns
    -------
    Constrain
    """
    variables = [v for v in [*model.free_RVs, *model.deterministics] if v.name in names]
    levels = [freeze, "shapes"] if freeze == "nothing" else [freeze]
    for level in levels:
        found = _compile_constrain(model, variables, level, values)
        if _can_trace(found, values, start):
            return found
    singles = {v.name: _compile_constrain(model, [v], levels[-1], values) for v in variables}
    on_host = {name for name, single in singles.items() if not _can_trace(single, values, start)}
    able = [v for v in variables if v.name not in on_host]
    return _compile_constrain(model, able, levels[-1], values)._replace(
        on_host=tuple(name for name in names if name in on_host)
    )


def _can_trace(constrain: Constrain, values: Mapping[Any, Any], start: Mapping[str, np.ndarray]) -> bool:
    try:
        jax.eval_shape(constrain.function, dict(start), read_data(constrain.graph.sources, values))
    except Exception:  # whatever an op without a translation, or one of unknown shape, raises
        return False
    return True


def _compile_constrain(model: pm.Model, variables: list[Any], freeze: str, values: Mapping[Any, Any]) -> Constrain:
    graph = lift(model, model.replace_rvs_by_values(variables), freeze=freeze, values=values)
    names = [v.name for v in variables]
    function = translate(graph.inputs, graph.outputs, check_bounds=model.check_bounds, on_host=set())
    by_name = call_by_name(function, graph, lambda out: dict(zip(names, out, strict=True)))

    def compute(params: Params, data: Data) -> Params:
        return by_name(params, data, jax.random.key(0) if graph.generators else None)

    return Constrain(jax.jit(compute), graph, ())
