"""A model and one of its dims in; its log density, with weights for the rows along the dim, comes out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
from pytensor.compile.builders import OpFromGraph
from pytensor.gradient import disconnected_grad
from pytensor.graph.replace import clone_replace
from pytensor.raise_op import CheckAndRaise
from pytensor.tensor.basic import Alloc, Join, MakeVector, ScalarFromTensor
from pytensor.tensor.elemwise import CAReduce, DimShuffle, Elemwise
from pytensor.tensor.shape import SpecifyShape

from pm_psyphy.common.row_function import RowFunction
from pm_psyphy.compiling.axis_links import find_row_inputs
from pm_psyphy.compiling.model_graph import OWN, Tensor
from pm_psyphy.compiling.row_kinds import Count, Kind, Mixed, Rows
from pm_psyphy.compiling.row_structure import find_baked_lengths, infer_kinds

# The names under which an objective holds the weights of rows, and that of all else.
WEIGHTS, REST = f"{OWN}row weights", f"{OWN}weight of the rest"

# Behind these ops, a row is replaced; what they take in may be outside of what they are defined for.
PASSED = Elemwise | DimShuffle | CheckAndRaise | CAReduce | Alloc | MakeVector | ScalarFromTensor | Join | SpecifyShape


class RowsDepend(ValueError):
    """Rows along a dim cannot be taken apart; the message says why."""


@dataclass(frozen=True)
class WeightedDensity:
    """A log density as a sum over rows, and which shared variables and constants have rows, along which axis."""

    log_density: Tensor
    rows: dict[Tensor, int]
    numbers: frozenset[Tensor] = frozenset()
    """What else changes with the rows: their number, their weights and that of the rest."""


def write_weighted_log_density(model: Any, dim: str, *, jacobian: bool) -> WeightedDensity:
    """Return the log density in which each row's log likelihood is multiplied by its weight.

    The weights are a shared vector, named `WEIGHTS`, all 1. A weight of 0 leaves a row out, wherever its own log
    likelihood may be infinite; one of 2 counts it twice. What is not a row, such as the prior, is multiplied by a
    shared scalar, named `REST`, also 1.

    Parameters
    ----------
    model : pm.Model
    dim : str
    jacobian : bool

    Returns
    -------
    WeightedDensity

    Raises
    ------
    RowsDepend
        If no observed variable has the dim, or some row needs others; the message names what mixes them.
    """
    axes, length = find_rows(model, dim)
    weights: Any = pytensor.shared(np.ones(length, pytensor.config.floatX), name=WEIGHTS)
    rest: Any = pytensor.shared(np.asarray(1, pytensor.config.floatX), name=REST)
    terms = [*model.free_RVs, *model.observed_RVs, *model.potentials]
    names = [term.name for term in terms]
    graphs = model.logp(vars=terms, jacobian=jacobian, sum=False)
    for name, graph in zip(names, graphs, strict=True):
        if axes.get(name, -1) >= graph.ndim:
            raise RowsDepend(f"{name!r} has one log likelihood for all of {dim!r}, not one for each row.")
    graphs = _free_lengths(graphs, [axes.get(name) for name in names], weights)
    with_rows = {graph: axes[name] for name, graph in zip(names, graphs, strict=True) if name in axes}
    rows = _find_rows_of(model, dim, with_rows)
    kinds = infer_kinds(graphs, {v: Rows(axis) for v, axis in rows.items()} | _find_known(model, dim, weights))
    total: Any = 0.0
    for name, graph in zip(names, graphs, strict=True):
        _check_kind(dim, name, kinds.get(graph), axes.get(name))
        if name in axes:
            own: Any = _align(weights, graph, axes[name])
            # By the switch, a row of no weight has none also where its log likelihood is infinite.
            guarded = _replace_unweighted(graph, kinds, weights)
            weighted: Any = pt.switch(own > 0, own * guarded, 0)
            total += weighted.sum()
        else:
            total += rest * graph.sum()
    length = model.dim_lengths.get(dim)
    return WeightedDensity(total, rows, frozenset({weights, rest} | ({length} if length is not None else set())))


def _free_lengths(graphs: Sequence[Tensor], axes: Sequence[int | None], weights: Tensor) -> list[Tensor]:
    """Let what is filled up to the number of rows have as many elements as there are weights."""
    graphs = list(graphs)
    (n_rows,) = weights.get_value(borrow=True).shape
    while n_rows > 1:
        with_rows = {graph: axis for graph, axis in zip(graphs, axes, strict=True) if axis is not None}
        baked = find_baked_lengths(with_rows, n_rows)
        if not baked:
            break
        node, place = baked[0]
        inputs = list(node.inputs)
        inputs[place] = pt.cast(weights.shape[0], "int64")
        graphs = clone_replace(graphs, {node.outputs[0]: node.op(*inputs)}, rebuild_strict=False)
    return graphs


def _find_rows_of(model: Any, dim: str, outputs: Mapping[Tensor, int]) -> dict[Tensor, int]:
    """Return the shared variables and constants that have rows, and along which axis."""
    named = {v: model.named_vars_to_dims.get(v.name) or () for v in model.data_vars}
    found = {v: {dims.index(dim)} for v, dims in named.items() if dim in dims}
    for variable, axes in find_row_inputs(outputs, ()).items():
        found[variable] = found.get(variable, set()) | axes
    for variable, axes in found.items():
        if variable in model.value_vars:
            raise RowsDepend(
                f"{variable.name!r} has a parameter for each row of {dim!r}, which cannot be drawn apart from it. Pass "
                "another dim."
            )
        if len(axes) > 1:
            raise RowsDepend(
                f"Rows of {dim!r} depend on each other: {variable.name or 'an array'!r} has them along the axes "
                f"{', '.join(map(str, sorted(axes)))}."
            )
    return {variable: axis for variable, (axis,) in found.items() if variable.name != WEIGHTS}


def _find_known(model: Any, dim: str, weights: Tensor) -> dict[Tensor, Kind]:
    length = model.dim_lengths.get(dim)
    known: dict[Tensor, Kind] = {weights: Rows(0)}
    return known if length is None else known | {length: Count()}


def _check_kind(dim: str, name: str, kind: Kind, axis: int | None) -> None:
    if isinstance(kind, Mixed):
        raise RowsDepend(
            f"Rows of {dim!r} depend on each other: {name!r} needs several of {kind.variable!r} at once, by {kind.op}. "
            "They cannot be taken apart."
        )
    if axis is None and kind is not None:
        raise RowsDepend(f"{name!r} depends on the rows of {dim!r} and is none of them. They cannot be taken apart.")
    if axis is not None and kind != Rows(axis):
        raise RowsDepend(f"{name!r} has not a log likelihood for each row of {dim!r}. They cannot be taken apart.")


def _align(weights: Tensor, graph: Tensor, axis: int) -> Tensor:
    return weights.dimshuffle(*(0 if i == axis else "x" for i in range(graph.ndim)))


def _replace_unweighted(graph: Tensor, kinds: Mapping[Tensor, Kind], weights: Tensor) -> Tensor:
    """Give rows of weight 0 the values of one that has a weight, where functions follow that not all values suit.

    The derivative of an infinite log likelihood may be infinite too, and no number is 0 times that.
    """
    live = pt.argmax(weights > 0)
    replacements: dict[Tensor, Tensor] = {}
    waiting, seen = [graph], set()
    while waiting:
        variable = waiting.pop()
        if variable in seen:
            continue
        seen.add(variable)
        node, kind = variable.owner, kinds.get(variable)
        if node is not None and _is_passed(node.op):
            waiting.extend(node.inputs)
        elif isinstance(kind, Rows):
            one = pt.expand_dims(pt.take(variable, live, axis=kind.axis), kind.axis)
            has_weight = _align(weights, variable, kind.axis) > 0
            chosen: Any = pt.switch(has_weight, variable, disconnected_grad(one))
            replacements[variable] = chosen.astype(variable.dtype)
    return clone_replace([graph], replacements, rebuild_strict=False)[0] if replacements else graph


def _is_passed(op: Any) -> bool:
    return isinstance(op, PASSED) or (isinstance(op, OpFromGraph) and not isinstance(op, RowFunction))


def find_rows(model: Any, dim: str) -> tuple[dict[str, int], int]:
    """Return which observed variables and potentials have a dim, along which axis, and its length.

    Parameters
    ----------
    model : pm.Model
    dim : str

    Returns
    -------
    axes : dict of str to int
    length : int

    Raises
    ------
    RowsDepend
        If none has it, or a parameter has it.
    """
    named = {name: tuple(dims) for name, dims in model.named_vars_to_dims.items() if dim in dims}
    with_dim = [v.name for v in model.free_RVs if v.name in named]
    if with_dim:
        raise RowsDepend(
            f"{', '.join(with_dim)} has the dim {dim!r}: there is a parameter for each of its rows, which cannot be "
            "drawn apart from it. Pass another dim."
        )
    terms = [*model.observed_RVs, *model.potentials]
    axes = {v.name: named[v.name].index(dim) for v in terms if v.name in named}
    if not axes:
        known = list_dims(model)
        raise RowsDepend(
            f"No observed variable has the dim {dim!r}; theirs are {', '.join(known) or 'none'}. "
            f"Declare it, as in pm.Normal(..., observed=..., dims={dim!r})."
        )
    return axes, int(model.dim_lengths[dim].eval())


def list_dims(model: Any) -> list[str]:
    """Return the dims of a model's observed variables and potentials."""
    terms = [*model.observed_RVs, *model.potentials]
    return sorted({d for v in terms for d in model.named_vars_to_dims.get(v.name) or () if d})


def find_row_dim(model: Any) -> str:
    """Return the one dim of the observed variables, along which rows are if nothing else is said.

    Parameters
    ----------
    model : pm.Model

    Returns
    -------
    str

    Raises
    ------
    ValueError
        If there is none, or several.
    """
    dims = {d for rv in model.observed_RVs for d in model.named_vars_to_dims.get(rv.name) or () if d}
    dims = dims or set(list_dims(model))
    if len(dims) != 1:
        raise ValueError(
            f"The observed variables have {', '.join(sorted(dims)) or 'no'} dims. Say by dim along which of "
            "them the rows are, or declare it: pm.Normal(..., observed=..., dims='trial')."
        )
    return dims.pop()
