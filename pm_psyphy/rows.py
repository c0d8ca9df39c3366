"""A function of rows in; an op of it, which need not be computed for all rows at once, comes out."""

from collections.abc import Callable, Sequence
from typing import Any

import pytensor.tensor as pt
from pytensor.compile.builders import FinalizedOpFromGraph
from pytensor.gradient import DisconnectedType
from pytensor.graph.fg import FunctionGraph
from pytensor.graph.rewriting.basic import MergeOptimizer
from pytensor.tensor.rewriting.elemwise import FusionOptimizer


class RowFunction(FinalizedOpFromGraph):
    """Outputs (N,) whose n-th element depends on the n-th elements of the inputs (N,) only.

    PyTensor leaves the graph inside as it was written: its rewrites, made for one output, undo what value and
    derivatives share, which costs a factor of 2 to 3. All backends but ours compute all rows at once.
    """


def make_row_function(function: Callable[..., tuple[Any, Sequence[Any]]], n_inputs: int, dtype: str) -> RowFunction:
    """Return an op of a function that gives one value a row, and its derivatives with it.

    Parameters
    ----------
    function : callable
        Takes `n_inputs` vectors, returns a vector and its derivative with respect to each input, also vectors.
    n_inputs : int
    dtype : str

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
    FusionOptimizer().rewrite(fgraph)
    return RowFunction(fgraph.inputs, fgraph.outputs, pullback=pull_back)
