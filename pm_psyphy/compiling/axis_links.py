"""Ops in; which axes of their inputs run along which axes of their outputs, element by element, out."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pytensor.compile.builders import OpFromGraph
from pytensor.compile.ops import DeepCopyOp, ViewOp
from pytensor.conditional.op import IfElse
from pytensor.graph.basic import Apply, Constant
from pytensor.raise_op import CheckAndRaise
from pytensor.scalar.basic import Cast
from pytensor.tensor.basic import Alloc, ARange, ExtractDiag, Join, Split
from pytensor.tensor.blockwise import Blockwise
from pytensor.tensor.elemwise import CAReduce, DimShuffle, Elemwise
from pytensor.tensor.extra_ops import CumOp, Repeat, SearchsortedOp
from pytensor.tensor.math import Argmax, Dot
from pytensor.tensor.reshape import JoinDims, SplitDims
from pytensor.tensor.shape import Reshape, SpecifyShape
from pytensor.tensor.sort import ArgSortOp, SortOp
from pytensor.tensor.subtensor import (
    AdvancedIncSubtensor,
    AdvancedSubtensor,
    IncSubtensor,
    Subtensor,
    indices_from_subtensor,
)

from pm_psyphy.common.row_function import RowFunction
from pm_psyphy.compiling.model_graph import Tensor
from pm_psyphy.compiling.row_kinds import Kind, Numbers

type Link = tuple[int, int, int]
"""The number of an input, one of its axes, and the axis of the outputs that runs along with it."""


def find_row_inputs(outputs: Mapping[Tensor, int], inputs: Iterable[Tensor]) -> dict[Tensor, set[int]]:
    """Return the inputs whose elements meet the rows of the outputs one by one, and along which axes.

    It is a proposal, which `infer_kinds` proves or refuses.

    Parameters
    ----------
    outputs : dict of Tensor to int
        The axis of the rows, of each output.
    inputs : iterable of Tensor
        Variables at which the graph is taken to begin.

    Returns
    -------
    dict of Tensor to set of int
    """
    inputs = set(inputs)
    found: dict[Tensor, set[int]] = {}
    waiting, seen = list(outputs.items()), set()
    while waiting:
        variable, axis = waiting.pop()
        if (variable, axis) in seen:
            continue
        seen.add((variable, axis))
        if variable in inputs or variable.owner is None:
            found.setdefault(variable, set()).add(axis)
        else:
            waiting.extend(pull(variable.owner, variable.owner.outputs.index(variable), axis))
    return found


def link(node: Apply, kinds: Sequence[Kind] = ()) -> Iterator[Link]:
    """Yield which axes of the inputs run along which axis of the outputs, element by element."""
    op, inputs = node.op, node.inputs
    first: Any = inputs[0] if inputs else None
    match op:
        case RowFunction():
            yield from ((i, 0, 0) for i in range(len(inputs)))
        case Elemwise():
            yield from _link_broadcast(inputs, range(node.outputs[0].type.ndim))
        case DimShuffle():
            yield from ((0, a, b) for b, a in enumerate(op.new_order) if a != "x")
        case CheckAndRaise() | SpecifyShape() | ViewOp() | DeepCopyOp():
            yield from ((0, a, a) for a in range(getattr(first.type, "ndim", 0)))
        case CAReduce() | Argmax():
            reduced = range(first.type.ndim) if op.axis is None else op.axis
            yield from ((0, a, b) for b, a in enumerate(a for a in range(first.type.ndim) if a not in reduced))
        case Dot():
            yield from ((0, 0, 0) for _ in range(first.type.ndim == 2))
            yield from ((1, 1, node.outputs[0].type.ndim - 1) for _ in range(inputs[1].type.ndim == 2))
        case Blockwise():
            yield from _link_blockwise(node)
        case Alloc():
            offset = node.outputs[0].type.ndim - first.type.ndim
            yield from ((0, a, a + offset) for a in range(first.type.ndim) if not first.type.broadcastable[a])
        case Join():
            yield from ((i, a, a) for i, v in enumerate(inputs) for a in range(v.type.ndim) if a != op.axis)
        case CumOp() | SortOp() | ArgSortOp() | Repeat() | Split():
            known = isinstance(op.axis, int)
            yield from ((0, a, a) for a in range(first.type.ndim) if known and a != op.axis % first.type.ndim)
        case SearchsortedOp():
            yield from ((1, a, a) for a in range(inputs[1].type.ndim))
        case ExtractDiag():
            kept = [a for a in range(first.type.ndim) if a not in (op.axis1, op.axis2)]
            yield from ((0, a, b) for b, a in enumerate(kept))
        case JoinDims():
            shift = op.n_axes - 1
            yield from ((0, a, a) for a in range(op.start_axis))
            yield from ((0, a, a - shift) for a in range(op.start_axis + op.n_axes, first.type.ndim))
        case SplitDims():
            shift = node.outputs[0].type.ndim - first.type.ndim
            yield from ((0, a, a) for a in range(op.axis))
            yield from ((0, a, a + shift) for a in range(op.axis + 1, first.type.ndim))
        case IfElse() if len(node.outputs) == 1:
            yield from ((i, a, a) for i in (1, 2) for a in range(getattr(inputs[i].type, "ndim", 0)))
        case Subtensor():
            yield from ((0, a, b) for a, b in _find_whole_axes(node))
        case IncSubtensor():
            yield from _link_set(node)
        case AdvancedSubtensor():
            yield from _link_gather(node, kinds)
        case AdvancedIncSubtensor():
            whole = [a for a, index in enumerate(list_indices(node, 2)) if _is_whole(index)]
            yield from ((0, a, a) for a in whole)


def _link_broadcast(inputs: Sequence[Tensor], axes: Iterable[int], offset: int = 0) -> Iterator[Link]:
    for a in axes:
        yield from ((i, a, a + offset) for i, v in enumerate(inputs) if not v.type.broadcastable[a])


def _link_blockwise(node: Apply) -> Iterator[Link]:
    op = node.op
    n_batch = node.outputs[0].type.ndim - len(op.outputs_sig[0])
    yield from _link_broadcast(node.inputs, range(n_batch))
    try:
        core = op._create_dummy_core_node(node.inputs)
    except Exception:  # whatever an op says of inputs that it was not made with
        return
    yield from ((i, n_batch + a, n_batch + b) for i, a, b in link(core))


def _link_set(node: Apply) -> Iterator[Link]:
    """Axes that an assignment ``x[i, :] = y`` takes whole run along those of x and of y."""
    y = node.inputs[1]
    indices = list_indices(node, 2)
    yield from ((0, a, a) for a, index in enumerate(indices) if _is_whole(index))
    kept = [a for a, index in enumerate(indices) if isinstance(index, slice)]
    for a_of_y, a in zip(reversed(range(y.type.ndim)), reversed(kept), strict=False):
        if _is_whole(indices[a]) and not y.type.broadcastable[a_of_y]:
            yield 1, a_of_y, a


def _link_gather(node: Apply, kinds: Sequence[Kind]) -> Iterator[Link]:
    """Yield the links of ``x[i, :, j]``: the axes of i and j, which run together, and those that are taken whole."""
    indices = list_indices(node, 1)
    arrays = {a: index for a, index in enumerate(indices) if not isinstance(index, slice)}
    if any(index.type.dtype == "bool" for index in arrays.values()):
        return
    n_joint = max(index.type.ndim for index in arrays.values())
    places = list(arrays)
    together = places[-1] - places[0] + 1 == len(places)
    begin = sum(a < places[0] for a in range(len(indices)) if a not in arrays) if together else 0
    kept = [a for a in range(len(indices)) if a not in arrays]
    for k, a in enumerate(kept):
        if _is_whole(indices[a]):
            yield 0, a, k if k < begin else k + n_joint
    for a, index in arrays.items():
        i, ours = 1 + node.op.idx_list[a], n_joint - index.type.ndim
        yield from ((i, b, begin + ours + b) for b in range(index.type.ndim) if not index.type.broadcastable[b])
        # By the rows' own numbers, each row takes what is its own.
        kind = kinds[i] if kinds else _guess_numbers(index)
        if isinstance(kind, Numbers):
            yield 0, a, begin + ours + kind.axis


def _guess_numbers(index: Tensor) -> Kind:
    """Return the axis of an index that counts from 0, before it is known what is counted."""
    if index.owner is None:
        return None
    op = index.owner.op
    if isinstance(op, ARange):
        return Numbers(0) if equals(index.owner.inputs[0], 0) and equals(index.owner.inputs[2], 1) else None
    kind = _guess_numbers(index.owner.inputs[0]) if isinstance(op, DimShuffle | Reshape | Elemwise) else None
    if not isinstance(kind, Numbers):
        return None
    if isinstance(op, DimShuffle):
        return Numbers(op.new_order.index(kind.axis)) if kind.axis in op.new_order else None
    return kind if isinstance(op, Reshape) or isinstance(op.scalar_op, Cast) else None


def pull(node: Apply, output: int, axis: int) -> Iterator[tuple[Tensor, int]]:
    """Yield the inputs, and their axes, that run along an axis of an output."""
    if isinstance(node.op, OpFromGraph) and not isinstance(node.op, RowFunction):
        inner = node.op.inner_inputs
        for variable, axes in find_row_inputs({node.op.inner_outputs[output]: axis}, inner).items():
            if variable in inner:
                yield from ((node.inputs[inner.index(variable)], a) for a in axes)
    elif isinstance(node.op, Reshape):
        if axis == 0 and node.inputs[0].type.ndim:
            yield node.inputs[0], 0
    else:
        yield from ((node.inputs[i], a) for i, a, b in link(node) if b == axis)


def _find_whole_axes(node: Apply) -> list[tuple[int, int]]:
    """Return the axes of x that ``x[...]`` takes whole, and what they are in the result."""
    indices = list_indices(node, 1)
    kept = [a for a, index in enumerate(indices) if isinstance(index, slice)]
    return [(a, b) for b, a in enumerate(kept) if _is_whole(indices[a])]


def list_indices(node: Apply, n_operands: int) -> list[Any]:
    """Return the index of each axis: a slice, or a variable."""
    indices = list(indices_from_subtensor(node.inputs[n_operands:], node.op.idx_list))
    return indices + [slice(None)] * (node.inputs[0].type.ndim - len(indices))


def _is_whole(index: Any) -> bool:
    return isinstance(index, slice) and index == slice(None)


def equals(variable: Tensor, number: int) -> bool:
    """Whether a variable is this constant."""
    return isinstance(variable, Constant) and int(variable.data) == number
