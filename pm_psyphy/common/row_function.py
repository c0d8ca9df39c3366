"""A function of rows in; an op of it, which need not be computed for all rows at once, comes out."""

import warnings
from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache, reduce
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
from pytensor.compile.builders import FinalizedOpFromGraph, construct_nominal_fgraph
from pytensor.compile.mode import Mode, optdb
from pytensor.gradient import DisconnectedType
from pytensor.graph.basic import Apply
from pytensor.graph.fg import FunctionGraph
from pytensor.graph.op import HasMultipleInnerGraph, Op
from pytensor.graph.replace import clone_replace
from pytensor.graph.rewriting.basic import MergeOptimizer, graph_rewriter
from pytensor.scalar.basic import Add, Mul
from pytensor.tensor.elemwise import Elemwise
from pytensor.tensor.rewriting.elemwise import FusionOptimizer

from pm_psyphy.native.kernels import SWITCH, Kernel, is_switched_off, try_kernel
from pm_psyphy.native.row_graph import NotSupportedError

# Without machine code: so many rows at a time bound the memory that NumPy takes for hundreds of numbers a row.
ROWS_OF_NUMPY = 4096
# PyTensor has NumPy's loops take no more inputs and outputs.
NUMPY_OPERANDS = 32
# For graphs that run once or a few times. Without its virtual machine PyTensor does not load its C compiler either.
RUN_ONCE = Mode(linker="py", optimizer="fast_compile").including("pm_psyphy_numpy")
# The same, without looking for anything to improve.
UNCHANGED = Mode(linker="py", optimizer="merge")


def without_traces(function: Callable[..., Any]) -> Any:
    """Spare PyTensor to note for each node which lines of code made it: a quarter of the time for thousands of them."""
    return pytensor.config.change_flags(traceback__limit=0)(function)


class Hold(Op):
    """The input itself; where JAX's compiler would compute it anew for each that needs it, it is kept in memory."""

    __props__ = ()
    view_map = {0: [0]}  # noqa: RUF012 (by PyTensor's declaration)

    def make_node(self, *inputs: Any) -> Apply:
        """Return a node of an output of the input's type."""
        return Apply(self, list(inputs), [inputs[0].type()])

    def perform(self, node: Any, inputs: Any, output_storage: Any) -> None:
        """Return the input."""
        output_storage[0][0] = inputs[0]

    def infer_shape(self, node: Any, shapes: Any) -> Any:
        """Return the input's shape."""
        return shapes


HOLD = Hold()


class RowFunction(FinalizedOpFromGraph):
    """Outputs (N,) whose n-th element depends on the n-th elements of the inputs (N,) only; see `make_row_function`.

    The first output is the value, the others are its derivatives. On the CPU, machine code of our own computes them
    where there is any (`find_kernel`), for JAX and for PyTensor. Else JAX compiles the graph inside, and NumPy computes
    it in blocks. Only what is asked for is built: a value takes a fraction of the nodes.
    """

    def __init__(
        self, maker: tuple[Any, ...], inputs: list[Any], value: Any, derive: Any, find_scales: Any, draw_examples: Any
    ):
        self.maker, self.arguments, self.value = maker, inputs, value
        self.derive, self.find_scales, self.draw_examples = derive, find_scales, draw_examples
        self.find_nearby: Callable[[], RowFunction] | None = None
        """Returns a cheaper op that is near this one, of the same inputs and outputs."""
        self.kernels: dict[int, Kernel | str] = {}
        """By the number of outputs: their machine code, or why there is none."""
        n_outputs = len(inputs) + 1
        outputs = [value.type() for _ in range(n_outputs)]
        super().__init__(inputs, outputs, fgraph=value, connection_pattern=[[True] * n_outputs for _ in inputs])
        del self.fgraph

    @cached_property
    @without_traces
    def fgraph(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The graph inside, with few large operations in place of many elementwise ones, which compile faster.

        PyTensor leaves it so: its own rewrites, made for one output, undo what value and derivatives share, which costs
        a factor of 2 to 3.
        """
        fgraph = FunctionGraph(self.arguments, [self.value, *self.derivatives], clone=True)
        MergeOptimizer().rewrite(fgraph)
        # Without a C compiler PyTensor joins no more operands than NumPy takes, and warns. This is not for NumPy.
        with pytensor.config.change_flags(cxx=pytensor.config.cxx or "clang++"):
            FusionOptimizer().rewrite(fgraph)
        return construct_nominal_fgraph(fgraph.inputs, fgraph.outputs).freeze()

    @cached_property
    @without_traces
    def derivatives(self) -> list[Any]:
        """Derivatives of the value with respect to each input."""
        return list(self.derive())

    @cached_property
    @without_traces
    def scales(self) -> FunctionGraph:
        """A graph of the inputs: for each, how far it must go to change the function by as much as itself."""
        return FunctionGraph(self.arguments, list(self.find_scales(*self.arguments)), clone=True)

    def find_kernel(self, n_outputs: int) -> Kernel | None:
        """Return machine code of the first outputs, tried on examples; None if there is none or it is switched off."""
        if is_switched_off():
            return None
        if n_outputs not in self.kernels:
            outputs = [self.value, *(self.derivatives[: n_outputs - 1] if n_outputs > 1 else [])]
            try:
                self.kernels[n_outputs] = try_kernel(self.arguments, outputs, self.draw_examples())
            except NotSupportedError as error:
                self.kernels[n_outputs] = str(error)
        found = self.kernels[n_outputs]
        return None if isinstance(found, str) else found

    def describe_road(self) -> str:
        """Say what computes it on the CPU."""
        if self.find_kernel(1) is not None:
            return "machine code"
        return f"XLA: {SWITCH} is 0" if is_switched_off() else f"XLA: {self.kernels[1]}"

    def __eq__(self, other: object) -> bool:
        """Tell ops from each other by identity, for comparing their graphs would build them."""
        return self is other

    __hash__ = object.__hash__

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle how the op is made: its graph has thousands of nodes, and where it is unpickled it may be known."""
        make, *arguments = self.maker
        return make, tuple(arguments)

    def make_node(self, *inputs: Any) -> Apply:
        """Return a node of all outputs."""
        filtered = [kind.filter_variable(v) for kind, v in zip(self.input_types, inputs, strict=True)]
        return Apply(self, filtered, [kind() for kind in self.output_types])

    def make_thunk(self, node: Any, storage_map: Any, compute_map: Any, no_recycling: Any, impl: Any = None) -> Any:
        """Return a thunk that calls `perform`. PyTensor's own has g++ compile the graph inside, which takes minutes."""
        return self.make_py_thunk(node, storage_map, compute_map, no_recycling)

    def perform(self, node: Any, inputs: Any, outputs: Any) -> None:
        """Compute the outputs by NumPy."""
        run_by_numpy(self, inputs, outputs)

    def infer_shape(self, node: Any, shapes: Any) -> Any:
        """Return the shapes of the outputs, which are those of the inputs."""
        return [shapes[0]] * len(node.outputs)

    def pullback(self, inputs: Any, outputs: Any, output_grads: Any) -> list[Any]:
        """Return the gradient with respect to the inputs."""
        seed, *others = output_grads
        if not all(isinstance(c.type, DisconnectedType) for c in others):
            raise NotImplementedError(
                "PyTensor cannot differentiate this likelihood twice. Let JAX do it, from the gradient: "
                "jax.jacfwd(lambda params: objective.value_and_grad(params)[1])."
            )
        # Each derivative is multiplied by the seed, which may have taken long to compute.
        held = HOLD(seed)
        return [held * derivative for derivative in outputs[1:]]


@without_traces
def make_row_function(
    function: Callable[..., tuple[Any, Callable[[], Sequence[Any]]]],
    n_inputs: int,
    dtype: str,
    find_scales: Callable[..., Sequence[Any]],
    draw_examples: Callable[[], Sequence[np.ndarray]],
    maker: tuple[Any, ...],
) -> RowFunction:
    """Return an op of a function that gives one value a row, and its derivatives with it.

    Parameters
    ----------
    function : callable
        Takes `n_inputs` vectors. Returns a vector, and a function that returns its derivatives with respect to each
        input, also vectors.
    n_inputs : int
    dtype : str
    find_scales : callable
        Takes the inputs, returns for each a vector of distances over which the derivatives change little. Second
        derivatives are central differences of the first: to derive and compile them would take longer than most fits.
    draw_examples : callable
        Returns an array of rows for each input, ordinary and extreme ones, on which machine code is tried.
    maker : tuple
        A function of a module that returns this op, and its arguments. It is called where the op is unpickled.

    Returns
    -------
    RowFunction
        Its outputs are the value and the derivatives; the value's gradient uses these.
    """
    inputs = [pt.vector(dtype=dtype) for _ in range(n_inputs)]
    value, derive = function(*inputs)

    # Constants and sums inside may be of more precision.
    def derive_as_given() -> list[Any]:
        return [derivative.astype(dtype) for derivative in derive()]

    return RowFunction(maker, inputs, value.astype(dtype), derive_as_given, find_scales, draw_examples)


@lru_cache(maxsize=64)
def _compile_plain(function: RowFunction, n_outputs: int) -> Callable[..., Any]:
    outputs = [function.value, *(function.derivatives[: n_outputs - 1] if n_outputs > 1 else [])]
    return pytensor.function(function.arguments, outputs, mode=UNCHANGED, on_unused_input="ignore")


def run_by_numpy(function: RowFunction, inputs: Sequence[Any], storage: Sequence[list[Any]]) -> None:
    """Compute the first outputs of a row function, one for each storage cell."""
    kernel = function.find_kernel(len(storage))
    if kernel is not None:
        for cell, values in zip(storage, kernel(*inputs), strict=True):
            cell[0] = values
        return
    run = _compile_plain(function, len(storage))
    starts = range(0, max(len(inputs[0]), 1), ROWS_OF_NUMPY)
    blocks = [run(*(v[i : i + ROWS_OF_NUMPY] for v in inputs)) for i in starts]
    for cell, parts in zip(storage, zip(*blocks, strict=True), strict=True):
        cell[0] = np.concatenate(parts)


class RowValue(Op):
    """The value of a row function alone, by NumPy."""

    __props__ = ("function",)

    def __init__(self, function: RowFunction):
        self.function = function

    def make_node(self, *inputs: Any) -> Apply:
        """Return a node of the function's first output."""
        return Apply(self, list(inputs), [self.function.output_types[0]()])

    def perform(self, node: Any, inputs: Any, output_storage: Any) -> None:
        """Compute the value."""
        run_by_numpy(self.function, inputs, output_storage)

    def infer_shape(self, node: Any, shapes: Any) -> Any:
        """Return the shape of the value."""
        return shapes[:1]


@graph_rewriter
def drop_derivatives(fgraph: FunctionGraph) -> None:
    """Compute only the value of a row function whose derivatives nothing asks for."""
    for node in fgraph.toposort():
        if isinstance(node.op, RowFunction) and not any(fgraph.clients[d] for d in node.outputs[1:]):
            fgraph.replace_all([(node.outputs[0], RowValue(node.op).make_node(*node.inputs).outputs[0])])


class NumPyGraph(Op):
    """A whole graph as one op, which NumPy computes."""

    __props__ = ("inputs", "outputs")

    def __init__(self, inputs: Sequence[Any], outputs: Sequence[Any]):
        self.inputs, self.outputs = tuple(inputs), tuple(outputs)

    @cached_property
    def function(self) -> Callable[..., Any]:
        """The graph as a function of arrays."""
        return pytensor.function(self.inputs, self.outputs, mode=UNCHANGED, on_unused_input="ignore")

    def make_node(self, *inputs: Any) -> Apply:
        """Return a node of the graph's outputs."""
        return Apply(self, list(inputs), [output.type() for output in self.outputs])

    def perform(self, node: Any, inputs: Any, output_storage: Any) -> None:
        """Compute the outputs."""
        for cell, output, value in zip(output_storage, self.outputs, self.function(*inputs), strict=True):
            cell[0] = output.type.filter(value)


@graph_rewriter
def split_long_sums(fgraph: FunctionGraph) -> None:
    """Write sums and products of more terms than NumPy takes at once as chains of two terms, which are as fast."""
    for node in fgraph.toposort():
        is_variadic = isinstance(node.op, Elemwise) and isinstance(node.op.scalar_op, Add | Mul)
        if is_variadic and len(node.inputs) + len(node.outputs) > NUMPY_OPERANDS:
            total: Any = reduce(node.op, node.inputs)
            fgraph.replace_all([(node.outputs[0], total)])


@graph_rewriter
def spare_numba(fgraph: FunctionGraph) -> None:
    """Have NumPy compute all of a function that takes values of row functions, but not their gradients.

    Numba would need 40 seconds to compile the field of covariances and the random variables around them. Such a
    function runs once, or once for each draw, and most of its time goes to the row function, which NumPy computes in
    any case. Numba keeps a function with loops and other ops that have a graph inside.
    """
    ops = [node.op for node in fgraph.apply_nodes]
    if not any(isinstance(op, RowValue) for op in ops):
        return
    _let_numba_call_numpy()
    if any(isinstance(op, HasMultipleInnerGraph) for op in ops):
        return
    split_long_sums.rewrite(fgraph)
    inputs = [variable.type() for variable in fgraph.inputs]
    outputs = [output for output in dict.fromkeys(fgraph.outputs) if output.owner is not None]
    graph = NumPyGraph(inputs, clone_replace(outputs, dict(zip(fgraph.inputs, inputs, strict=True))))
    fgraph.replace_all(zip(outputs, graph.make_node(*fgraph.inputs).outputs, strict=True))


def _let_numba_call_numpy() -> None:
    """Register what numba would do anyway, but for its warning; it is not imported before it is used."""
    from pytensor.link.numba.dispatch.basic import generate_fallback_impl, numba_funcify

    @numba_funcify.register(RowValue)
    @numba_funcify.register(NumPyGraph)
    def funcify(op, node=None, **kwargs):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Numba will use object mode")
            return generate_fallback_impl(op, node)


# Derivatives go before shapes are inferred and constants folded. Numba is spared after all rewrites but the last ones,
# which are for numba alone.
optdb.register("drop_row_derivatives", drop_derivatives, "numba", "fast_compile", position=0.05)
optdb.register("split_long_sums", split_long_sums, "pm_psyphy_numpy", position=48)
optdb.register("spare_numba_row_functions", spare_numba, "numba", position=47)
