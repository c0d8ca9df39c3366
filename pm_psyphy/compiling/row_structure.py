"""Graphs in; which of their inputs have rows, and whether each row of the outputs follows from its own rows alone, out.

Rows may be left out, weighted, drawn as batches, laid on several devices or taken in blocks only where no row needs
another. That follows from the graph. For most ops it is enough to know which axis of which input runs along which axis
of the outputs, element by element (`axis_links`). From the axis of the rows in an output, `find_row_inputs` follows
these links back to the inputs. `infer_kinds` goes forward from there, and says of each variable what its rows are: a
sum, a lag or a sort along them, or an op that is not known, mixes them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pytensor.compile.builders import OpFromGraph
from pytensor.compile.ops import DeepCopyOp, ViewOp
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.basic import Apply, Constant
from pytensor.graph.traversal import ancestors, toposort
from pytensor.raise_op import CheckAndRaise
from pytensor.scalar.basic import Cast, Maximum, Minimum, Second
from pytensor.tensor.basic import Alloc, AllocEmpty, ARange, Join, MakeVector, ScalarFromTensor, TensorFromScalar
from pytensor.tensor.elemwise import CAReduce, DimShuffle, Elemwise
from pytensor.tensor.shape import Reshape, Shape, Shape_i, SpecifyShape
from pytensor.tensor.subtensor import AdvancedSubtensor, Subtensor, indices_from_subtensor

from pm_psyphy.common.row_function import RowFunction
from pm_psyphy.compiling.axis_links import equals, link, list_indices, pull
from pm_psyphy.compiling.model_graph import Tensor, name_op
from pm_psyphy.compiling.row_kinds import Count, Kind, Lengths, Mixed, Numbers, Rows


def infer_kinds(outputs: Sequence[Tensor], known: Mapping[Tensor, Kind]) -> dict[Tensor, Kind]:
    """Return what the rows of each variable of a graph are.

    Parameters
    ----------
    outputs : sequence of Tensor
    known : dict of Tensor to Kind
        The kinds of the inputs that have rows or are their number. All others have none.

    Returns
    -------
    dict of Tensor to Kind
    """
    kinds = dict(known)
    for node in toposort(outputs, blockers=list(known)):
        kinds |= zip(node.outputs, _infer(node, [kinds.get(v) for v in node.inputs]), strict=True)
    return kinds


def find_baked_lengths(outputs: Mapping[Tensor, int], n_rows: int) -> list[tuple[Apply, int]]:
    """Return the nodes that fill the rows with one value, and which of their inputs is the number of rows, a constant.

    Parameters
    ----------
    outputs : dict of Tensor to int
        The axis of the rows, of each output.
    n_rows : int

    Returns
    -------
    list of (Apply, int)
    """
    found, seen = [], set()
    waiting = list(outputs.items())
    while waiting:
        variable, axis = waiting.pop()
        if variable.owner is None or (variable, axis) in seen:
            continue
        seen.add((variable, axis))
        node = variable.owner
        if isinstance(node.op, Alloc | ARange):
            place = 1 + axis
            if isinstance(node.inputs[place], Constant) and int(node.inputs[place].data) == n_rows:
                found.append((node, place))
        waiting.extend(pull(node, node.outputs.index(variable), axis))
    return found


def _infer(node: Apply, kinds: list[Kind]) -> list[Kind]:
    """Return the kinds of a node's outputs."""
    if isinstance(node.op, CheckAndRaise | SpecifyShape):
        # What is checked is that all rows are sound; a row that is not makes the loss infinite wherever it is.
        return [kinds[0]]
    if all(kind is None for kind in kinds):
        return [None] * len(node.outputs)
    mixed = next((kind for kind in kinds if isinstance(kind, Mixed)), None)
    if mixed is not None:
        return [mixed] * len(node.outputs)
    if isinstance(node.op, OpFromGraph) and not isinstance(node.op, RowFunction):
        inner = infer_kinds(node.op.inner_outputs, dict(zip(node.op.inner_inputs, kinds, strict=True)))
        return [_rename(inner.get(v), node, kinds) for v in node.op.inner_outputs]
    found = _infer_lengths(node, kinds)
    if found is not None:
        # Lengths of which none is the number of rows are numbers like any others.
        return [None if found == Lengths(frozenset()) else found]
    axis = _find_output_axis(node, kinds)
    return [_mix(node, kinds) if axis is None else Rows(axis)] * len(node.outputs)


def _find_output_axis(node: Apply, kinds: list[Kind]) -> int | None:
    """Return the axis of the outputs along which rows stay apart, or None if they do not."""
    links = list(link(node, kinds))
    axes = set()
    for i, kind in enumerate(kinds):
        if isinstance(kind, Rows):
            own = {b for j, a, b in links if (j, a) == (i, kind.axis)}
            if len(own) != 1:
                return None
            axes |= own
        elif isinstance(kind, Numbers):
            # By their own numbers rows can be taken from rows only: in a part of them the numbers begin anew.
            if not (isinstance(node.op, AdvancedSubtensor) and _takes_own_rows(node, i, kinds[0])):
                return None
            axes |= {b for j, a, b in links if (j, a) == (i, kind.axis)}
        elif kind is not None and not _is_shape_argument(node, i):
            return None
    if isinstance(node.op, Alloc | AllocEmpty):
        first = isinstance(node.op, Alloc)
        axes |= {i - first for i, kind in enumerate(kinds) if isinstance(kind, Count)}
    if len(axes) != 1:
        return None
    (axis,) = axes
    # What has no rows and yet as many elements along the axis stands beside other rows in each part of them.
    beside = {j for j, _, b in links if b == axis and kinds[j] is None}
    return None if beside else axis


def _infer_lengths(node: Apply, kinds: list[Kind]) -> Kind:
    """Return the kind of an output that is made of lengths or row numbers, or None if it is not."""
    op, first = node.op, kinds[0]
    if isinstance(op, Shape) and isinstance(first, Rows | Numbers):
        return Lengths(frozenset({first.axis}))
    if isinstance(op, Shape_i) and isinstance(first, Rows | Numbers) and op.i == first.axis:
        return Count()
    if isinstance(op, MakeVector) and all(kind is None or isinstance(kind, Count) for kind in kinds):
        return Lengths(frozenset(i for i, kind in enumerate(kinds) if kind))
    if isinstance(op, ARange):
        start, _, step = node.inputs
        counts = isinstance(kinds[1], Count) and kinds[0] is kinds[2] is None
        return Numbers(0) if counts and equals(start, 0) and equals(step, 1) else None
    if isinstance(op, Reshape):
        return _reshape(node, first, kinds[1])
    if isinstance(first, Count | Lengths) and isinstance(op, TensorFromScalar | ScalarFromTensor | ViewOp | DeepCopyOp):
        return first
    if isinstance(op, DimShuffle):
        if isinstance(first, Count):
            return first if not op.new_order else Lengths(frozenset({0})) if op.new_order == ("x",) else None
        if isinstance(first, Lengths):
            return first if op.new_order == (0,) else None
        if isinstance(first, Numbers) and first.axis in op.new_order:
            return Numbers(op.new_order.index(first.axis))
    if isinstance(op, Elemwise) and isinstance(op.scalar_op, Cast) and isinstance(first, Count | Lengths | Numbers):
        return first
    if isinstance(op, Elemwise) and isinstance(op.scalar_op, Maximum | Minimum | Second):
        return first if all(kind == first == Count() for kind in kinds) else None
    if isinstance(op, Subtensor) and isinstance(first, Lengths):
        return _pick_lengths(node, first)
    if isinstance(op, Join) and all(kind is None or isinstance(kind, Lengths) for kind in kinds):
        return _join_lengths(node, kinds)
    return None


def _pick_lengths(node: Apply, kind: Lengths) -> Kind:
    (length,) = node.inputs[0].type.shape
    index = indices_from_subtensor(node.inputs[1:], node.op.idx_list)[0]
    try:
        picked = np.arange(length)[_as_constant(index)]
    except (TypeError, ValueError, IndexError):
        return None
    if picked.ndim == 0:
        return Count() if int(picked) in kind.at else Lengths(frozenset())
    return Lengths(frozenset(i for i, place in enumerate(picked) if int(place) in kind.at))


def _join_lengths(node: Apply, kinds: list[Kind]) -> Kind:
    at, offset = set(), 0
    for vector, kind in zip(node.inputs, kinds, strict=True):
        (length,) = vector.type.shape
        if length is None:
            return None
        at |= {offset + place for place in kind.at} if isinstance(kind, Lengths) else set()
        offset += length
    return Lengths(frozenset(at))


def _reshape(node: Apply, kind: Kind, lengths: Kind) -> Kind:
    """Rows stay rows where they are the first axis before and after."""
    if not isinstance(kind, Rows | Numbers) or kind.axis != 0:
        return None
    if isinstance(lengths, Lengths) and 0 in lengths.at:
        return kind
    array: Any = node.inputs[0]
    rest = (np.shape(array.get_value(borrow=True)) if isinstance(array, SharedVariable) else array.type.shape)[1:]
    if isinstance(node.inputs[1], Constant) and None not in rest:
        first, *others = node.inputs[1].data
        return kind if first == -1 and np.prod(others) == np.prod(rest) else None
    return None


def _takes_own_rows(node: Apply, i: int, kind: Kind) -> bool:
    return isinstance(kind, Rows) and list_indices(node, 1)[kind.axis] is node.inputs[i]


def _is_shape_argument(node: Apply, i: int) -> bool:
    return isinstance(node.op, AllocEmpty) or (isinstance(node.op, Alloc) and i > 0)


def _as_constant(index: Any) -> Any:
    if isinstance(index, slice):
        return slice(*(_as_constant(part) for part in (index.start, index.stop, index.step)))
    if isinstance(index, Constant):
        return None if index.data is None else int(index.data)
    if getattr(index, "owner", None) is not None and isinstance(index.owner.op, ScalarFromTensor):
        return _as_constant(index.owner.inputs[0])
    if index is None or isinstance(index, int):
        return index
    raise ValueError(f"{index} is no constant.")


def _mix(node: Apply, kinds: Sequence[Kind]) -> Mixed:
    for variable, kind in zip(node.inputs, kinds, strict=True):
        # What has as many elements as rows, and none of their own, was mixed before.
        while kind is None and variable.owner and isinstance(variable.owner.op, Elemwise | DimShuffle | CheckAndRaise):
            variable = next(
                (v for v in variable.owner.inputs if not all(v.type.broadcastable)), variable.owner.inputs[0]
            )
        if kind is None and variable.owner and not all(getattr(variable.type, "broadcastable", [True])):
            return Mixed(_describe(variable.owner.op), _find_name(variable))
    source = next(v for v, kind in zip(node.inputs, kinds, strict=True) if kind is not None)
    return Mixed(_describe(node.op), _find_name(source))


def _rename(kind: Kind, node: Apply, kinds: Sequence[Kind]) -> Kind:
    """Name the variable outside of an op that has a graph inside."""
    return Mixed(kind.op, _mix(node, kinds).variable) if isinstance(kind, Mixed) else kind


def _describe(op: Any) -> str:
    name = type(op).__name__ if isinstance(op, CAReduce) else name_op(op)
    axis = getattr(op, "axis", None)
    return name if axis is None else f"{name} along axis {axis if isinstance(axis, int) else axis[0]}"


def _find_name(variable: Tensor) -> str:
    """Return the name of the nearest variable behind this one that has one."""
    return next((v.name for v in ancestors([variable]) if v.name), "a constant")
