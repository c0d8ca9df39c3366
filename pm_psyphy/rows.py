"""A function of rows in; an op of it, which need not be computed for all rows at once, comes out."""

import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
from pytensor.compile.builders import FinalizedOpFromGraph
from pytensor.compile.mode import Mode, optdb
from pytensor.gradient import DisconnectedType
from pytensor.graph.basic import Apply
from pytensor.graph.fg import FunctionGraph
from pytensor.graph.op import Op
from pytensor.graph.rewriting.basic import MergeOptimizer, graph_rewriter
from pytensor.tensor.rewriting.elemwise import FusionOptimizer

# So many rows at a time bound the memory that NumPy takes for some hundred numbers a row and node.
ROWS_OF_NUMPY = 4096
# For graphs that run once or a few times. Without its virtual machine PyTensor does not load its C compiler either.
RUN_ONCE = Mode(linker="py", optimizer="fast_compile")
# The same, without looking for anything to improve.
UNCHANGED = Mode(linker="py", optimizer="merge")


class RowFunction(FinalizedOpFromGraph):
    """Outputs (N,) whose n-th element depends on the n-th elements of the inputs (N,) only.

    PyTensor leaves the graph inside as it was written: its rewrites, made for one output, undo what value and
    derivatives share, which costs a factor of 2 to 3. Where nothing is compiled, NumPy computes it in blocks.
    """

    plain: tuple[Any, Any] = ([], [])
    """Inputs and outputs of the graph inside, in operations that NumPy has."""
    scales: Any = None
    """A graph of the inputs: for each, how far it must go to change the function by as much as itself."""

    def perform(self, node: Any, inputs: Any, outputs: Any) -> None:
        """Compute the outputs by NumPy."""
        run_by_numpy(self, inputs, outputs)


def make_row_function(
    function: Callable[..., tuple[Any, Sequence[Any]]],
    n_inputs: int,
    dtype: str,
    find_scales: Callable[..., Sequence[Any]],
) -> RowFunction:
    """Return an op of a function that gives one value a row, and its derivatives with it.

    Parameters
    ----------
    function : callable
        Takes `n_inputs` vectors, returns a vector and its derivative with respect to each input, also vectors.
    n_inputs : int
    dtype : str
    find_scales : callable
        Takes the inputs, returns for each a vector of distances over which the derivatives change little. Second
        derivatives are central differences of the first: to derive and compile them would take longer than most fits.

    Returns
    -------
    RowFunction
        Its outputs are the value and the derivatives; the value's gradient uses these.
    """
    inputs = [pt.vector(dtype=dtype) for _ in range(n_inputs)]
    value, derivatives = function(*inputs)

    def pull_back(inner_inputs, outputs, cotangents):
        seed, *others = cotangents
        if not all(isinstance(c.type, DisconnectedType) for c in others):
            raise NotImplementedError(
                "PyTensor cannot differentiate this likelihood twice. Let JAX do it, from the gradient: "
                "jax.jacfwd(lambda params: objective.value_and_grad(params)[1])."
            )
        return [seed * derivative for derivative in outputs[1:]]

    # The elementwise operations become few large ones, which every backend compiles faster. Nothing else is rewritten.
    fgraph = FunctionGraph(inputs, [value, *derivatives], clone=True)
    MergeOptimizer().rewrite(fgraph)
    plain = fgraph.clone()
    FusionOptimizer().rewrite(fgraph)
    op = RowFunction(fgraph.inputs, fgraph.outputs, pullback=pull_back)
    op.plain = plain.inputs, plain.outputs
    op.scales = FunctionGraph(inputs, list(find_scales(*inputs)), clone=True)
    return op


@lru_cache(maxsize=64)
def _compile_plain(function: RowFunction, n_outputs: int) -> Callable[..., Any]:
    inputs, outputs = function.plain
    return pytensor.function(inputs, outputs[:n_outputs], mode=UNCHANGED, on_unused_input="ignore")


def run_by_numpy(function: RowFunction, inputs: Sequence[Any], storage: Sequence[list[Any]]) -> None:
    """Compute the first outputs of a row function, one for each storage cell."""
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


@graph_rewriter
def spare_numba(fgraph: FunctionGraph) -> None:
    """Leave values to NumPy where no gradient is asked for: a value is wanted once, and numba takes half a minute."""
    nodes = [node for node in fgraph.toposort() if isinstance(node.op, RowFunction)]
    for node in nodes:
        value, *derivatives = node.outputs
        if not any(fgraph.clients[d] for d in derivatives):
            fgraph.replace_validate(value, RowValue(node.op)(*node.inputs))
    if nodes:
        _let_numba_call_numpy()


def _let_numba_call_numpy() -> None:
    """Register what numba would do anyway, but for its warning; it is not imported before it is used."""
    from pytensor.link.numba.dispatch.basic import generate_fallback_impl, numba_funcify

    @numba_funcify.register(RowValue)
    def funcify(op, node=None, **kwargs):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Numba will use object mode")
            return generate_fallback_impl(op, node)


optdb.register("spare_numba_row_functions", spare_numba, "numba", position=49)
