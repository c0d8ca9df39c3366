"""A PyTensor graph of rows in; its operations on the numbers of one row, as nests of loops over nodes, come out."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import numpy as np
from pytensor.graph.basic import Apply, Constant
from pytensor.graph.traversal import io_toposort
from pytensor.scalar.basic import Cast, Identity, Second
from pytensor.tensor.elemwise import CAReduce, DimShuffle, Elemwise

ROW = "row"
"""The axis of the rows, which is the last one of each tensor that has it."""

FOLDED = {
    "Abs": np.abs, "Add": np.add, "ArcTan": np.arctan, "Cos": np.cos, "EQ": np.equal, "Exp": np.exp,
    "GE": np.greater_equal, "GT": np.greater, "LE": np.less_equal, "LT": np.less, "Log": np.log,
    "Maximum": np.maximum, "Minimum": np.minimum, "Mul": np.multiply, "Neg": np.negative, "Pow": np.power,
    "Rcp": np.reciprocal, "Sin": np.sin, "Sqrt": np.sqrt, "Sub": np.subtract, "Switch": np.where,
}  # fmt: skip
"""All operations on numbers, and what computes them of constants."""
COMPARISONS = frozenset({"EQ", "GE", "GT", "LE", "LT"})


class NotSupportedError(Exception):
    """A graph, a processor or a version for which no machine code is made; the message says what."""


class Axis:
    """An axis of nodes. Those that stand beside each other in an operation are one and the same."""

    def __init__(self, size: int):
        self.size, self.same = size, self

    @property
    def root(self) -> "Axis":
        """What stands for all axes that are the same."""
        axis = self
        while axis.same is not axis:
            axis = axis.same
        return axis


type Dims = tuple[Axis | str | None, ...]
"""What each axis of a tensor is: nodes, the rows, or None where it is broadcast."""


@dataclass(eq=False, repr=False)
class Step:
    """One number of a row, or one for each node along some axes."""

    op: str
    """``"input"``, ``"constant"``, ``"sum"``, ``"max"`` or a name of `FOLDED`."""
    args: tuple["Step", ...] = ()
    axes: tuple[Axis, ...] = ()
    detail: Any = None
    """The number of an input; the array of a constant, along its axes; the axes that a reduction is over."""
    users: list["Step"] = field(default_factory=list)
    stage: int = 0
    """How many reductions, one after the other, come before."""

    @property
    def is_reduction(self) -> bool:
        """Whether it is made in the loops over more axes than it has."""
        return self.op in ("sum", "max")

    @property
    def roots(self) -> frozenset[Axis]:
        """Its axes."""
        return frozenset(axis.root for axis in self.axes)


@dataclass(frozen=True, repr=False)
class Nest:
    """Steps that are made in the same loops, in order."""

    axes: tuple[Axis, ...]
    """From the outermost loop to the innermost."""
    steps: list[Step]


def read_graph(inputs: Sequence[Any], outputs: Sequence[Any]) -> list[Step]:
    """Return the steps of the outputs of a graph.

    Parameters
    ----------
    inputs : sequence of vector
        One number a row each.
    outputs : sequence of vector

    Returns
    -------
    list of Step

    Raises
    ------
    NotSupportedError
        If an operation of it is not known, or it is not of the kind that is computed row by row.
    """
    reader = _Reader()
    for number, variable in enumerate(inputs):
        reader.known[variable] = reader.make("input", detail=number), (ROW,)
    for node in io_toposort(inputs, outputs):
        try:
            reader.known[node.outputs[0]] = reader.read(node)
        except NotSupportedError as error:
            # Of some variables only the shape is wanted.
            reader.unknown[node.outputs[0]] = error
    return [reader.look_up(variable)[0] for variable in outputs]


class _Reader:
    """What a graph has been read to so far."""

    def __init__(self) -> None:
        self.known: dict[Any, tuple[Step, Dims]] = {}
        self.unknown: dict[Any, NotSupportedError] = {}
        self.steps: dict[Any, Step] = {}

    def look_up(self, variable: Any) -> tuple[Step, Dims]:
        if variable in self.unknown:
            raise self.unknown[variable]
        if variable not in self.known and isinstance(variable, Constant):
            array = np.asarray(variable.data, float)
            dims = tuple(Axis(size) if size > 1 else None for size in array.shape)
            self.known[variable] = self.make_constant(array.squeeze(), tuple(a for a in dims if a)), dims
        return self.known[variable]

    def read(self, node: Apply) -> tuple[Step, Dims]:
        op: Any = node.op
        if isinstance(op, DimShuffle):
            step, dims = self.look_up(node.inputs[0])
            return step, tuple(None if a == "x" else dims[a] for a in op.new_order)
        if isinstance(op, CAReduce):
            return self.reduce(node)
        if not isinstance(op, Elemwise):
            raise NotSupportedError(f"{op} is no operation on rows.")
        is_filled = isinstance(op.scalar_op, Second) and node.inputs[0] in self.unknown
        found = [self.look_up(v) for v in node.inputs[is_filled:]]
        dims = tuple(map(self.join, *(dims for _, dims in found)))
        steps = [step for step, _ in found]
        return steps[-1] if isinstance(op.scalar_op, Second) else self.compute(op.scalar_op, steps), dims

    def join(self, *dims: Axis | str | None) -> Axis | str | None:
        """Return what an axis of an elementwise operation is, from what it is in its operands."""
        kinds = [d for d in dims if d is not None]
        if not kinds:
            return None
        if ROW in kinds:
            if any(isinstance(kind, Axis) for kind in kinds):
                raise NotSupportedError("an axis of nodes stands beside that of the rows.")
            return ROW
        axes = [kind.root for kind in kinds if isinstance(kind, Axis)]
        for other in axes[1:]:
            other.root.same = axes[0].root
        return axes[0].root

    def reduce(self, node: Apply) -> tuple[Step, Dims]:
        op: Any = node.op
        kind = {"Add": "sum", "Maximum": "max"}.get(type(op.scalar_op).__name__)
        step, dims = self.look_up(node.inputs[0])
        over = range(len(dims)) if op.axis is None else op.axis
        if kind is None or any(dims[a] == ROW for a in over):
            raise NotSupportedError(f"{op} is no reduction over nodes.")
        axes = [axis.root for a in over if isinstance(axis := dims[a], Axis)]
        own = frozenset(axes) & step.roots
        if kind == "sum":
            # What is the same for all nodes along an axis is so many times as much.
            times = np.prod([axis.size for axis in axes if axis not in own])
            step = self.multiply(step, self.make_constant(times))
        if own:
            step = self.make(kind, step, axes=tuple(a for a in step.axes if a.root not in own), detail=own)
        return step, tuple(d for a, d in enumerate(dims) if a not in over)

    def compute(self, scalar_op: Any, args: list[Step]) -> Step:
        if isinstance(scalar_op, Cast | Identity):
            return args[0]
        match type(scalar_op).__name__:
            case "Add":
                return reduce(self.add, args)
            case "Mul":
                return reduce(self.multiply, args)
            case "Sub":
                return self.add(args[0], self.negate(args[1])) if _is(args[0], 0) else self.subtract(*args)
            case "Neg":
                return self.negate(args[0])
            case "Sqr":
                return self.multiply(args[0], args[0])
            case "TrueDiv":
                return self.multiply(args[0], self.make("Rcp", args[1]))
            case name if name in FOLDED:
                return self.make(name, *args)
            case name:
                raise NotSupportedError(f"{name} has no machine code.")

    def add(self, a: Step, b: Step) -> Step:
        return b if _is(a, 0) else a if _is(b, 0) else self.make("Add", a, b)

    def subtract(self, a: Step, b: Step) -> Step:
        return a if _is(b, 0) else self.make("Sub", a, b)

    def negate(self, a: Step) -> Step:
        return a if _is(a, 0) else self.make("Neg", a)

    def multiply(self, a: Step, b: Step) -> Step:
        a, b = (b, a) if a.op == "constant" else (a, b)
        if _is(b, 0) or _is(a, 0):
            return self.make_constant(0.0)
        return a if _is(b, 1) else self.negate(a) if _is(b, -1) else self.make("Mul", a, b)

    def make(self, op: str, *args: Step, axes: tuple[Axis, ...] | None = None, detail: Any = None) -> Step:
        """Return a step: a constant one of constants, and one that is there already if it is the same."""
        axes = tuple(dict.fromkeys(axis.root for arg in args for axis in arg.axes)) if axes is None else axes
        if args and all(arg.op == "constant" for arg in args) and op in FOLDED:
            return self.make_constant(np.asarray(FOLDED[op](*(_align(arg, axes) for arg in args)), float), axes)
        key = op, tuple(sorted(map(id, args))) if op in ("Add", "Mul") else tuple(map(id, args)), detail
        if key not in self.steps:
            self.steps[key] = Step(op, args, axes, detail)
        return self.steps[key]

    def make_constant(self, array: Any, axes: tuple[Axis, ...] = ()) -> Step:
        array = np.asarray(array, float)
        if array.ndim and np.all(array == array.flat[0]):
            array, axes = array.ravel()[0], ()
        array = np.asarray(array)
        key = "constant", array.tobytes(), tuple(map(id, axes))
        if key not in self.steps:
            self.steps[key] = Step("constant", (), axes, array)
        return self.steps[key]


def _is(step: Step, number: float) -> bool:
    return step.op == "constant" and not step.axes and float(step.detail) == number


def _align(constant: Step, axes: Sequence[Axis]) -> np.ndarray:
    """Return a constant's array with these axes, of length 1 where it has none of its own."""
    own = [axis.root for axis in constant.axes]
    order = [axis.root for axis in axes]
    array = constant.detail.transpose([own.index(axis) for axis in order if axis in own])
    return array.reshape([axis.size if axis in own else 1 for axis in order])


def schedule(outputs: Sequence[Step]) -> list[Nest]:
    """Return the loops in which the steps of some outputs are made, one after the other.

    A step is made after those it needs: in the same loops, in loops over fewer axes before them, or, where a reduction
    lies between, at a later stage. What has axes is made as late as may be, so that less has to be kept in memory.
    """
    steps = list(_list_needed(outputs))
    for step in steps:
        if len(step.roots) < len(step.axes):
            raise NotSupportedError("two axes of nodes of one operation are the same in another.")
        step.users, step.stage = [], max((arg.stage for arg in step.args), default=0) + step.is_reduction
        for arg in step.args:
            arg.users.append(step)
    for step in reversed(steps):
        if step.axes and step.users and not step.is_reduction and step not in outputs:
            step.stage = min(user.stage - user.is_reduction for user in step.users)
    order = list(dict.fromkeys(axis.root for step in steps for axis in step.axes))
    nests: dict[tuple[int, frozenset[Axis]], list[Step]] = {}
    for step in steps:
        if step.op != "constant":
            place = (step.stage - 1, step.args[0].roots) if step.is_reduction else (step.stage, step.roots)
            nests.setdefault(place, []).append(step)
    keys = sorted(nests, key=lambda key: (key[0], len(key[1]), sorted(map(order.index, key[1]))))
    return [Nest(tuple(axis for axis in order if axis in axes), nests[stage, axes]) for stage, axes in keys]


def _list_needed(outputs: Sequence[Step]) -> Iterator[Step]:
    """Yield the steps of outputs, each after those it needs, depth first, so that few are wanted at a time."""
    done: set[Step] = set()
    waiting = [(step, False) for step in reversed(outputs)]
    while waiting:
        step, ready = waiting.pop()
        if step in done:
            continue
        if ready:
            done.add(step)
            yield step
        else:
            waiting.append((step, True))
            waiting.extend((arg, False) for arg in reversed(step.args) if arg not in done)


def evaluate_by_numpy(inputs: Sequence[Any], outputs: Sequence[Any], rows: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Compute a graph by PyTensor's own NumPy functions, one op after the other."""
    values: dict[Any, Any] = dict(zip(inputs, rows, strict=True))

    def look_up(variable: Any) -> Any:
        return variable.data if isinstance(variable, Constant) else values[variable]

    for node in io_toposort(inputs, outputs):
        cells: list[list[Any]] = [[None] for _ in node.outputs]
        op: Any = node.op
        op.prepare_node(node, None, None, "py")
        op.perform(node, [look_up(v) for v in node.inputs], cells)
        values |= {variable: cell[0] for variable, cell in zip(node.outputs, cells, strict=True)}
    return [look_up(variable) for variable in outputs]
