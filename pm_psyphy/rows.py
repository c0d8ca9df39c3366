"""A function of rows in; an op of it, which need not be computed for all rows at once, comes out."""

from collections.abc import Callable, Sequence
from typing import Any

import pytensor
import pytensor.tensor as pt
from pytensor.compile.builders import FinalizedOpFromGraph
from pytensor.gradient import DisconnectedType
from pytensor.graph.fg import FunctionGraph
from pytensor.graph.replace import graph_replace
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
        zero = pt.zeros_like(inner_inputs[0])
        first = [zero if isinstance(seed.type, DisconnectedType) else seed * d for d in outputs[1:]]
        pairs = [(i, g) for i, g in enumerate(others) if not isinstance(g.type, DisconnectedType)]
        if not pairs:
            return first
        # Second derivatives come from the graph itself.
        fresh = graph_replace(list(derivatives), dict(zip(inputs, inner_inputs, strict=True)), strict=False)
        second: Any = pytensor.grad(
            None,
            inner_inputs,
            known_grads={fresh[i]: g for i, g in pairs},
            disconnected_inputs="ignore",
            return_disconnected="zero",
        )
        return [a + b for a, b in zip(first, second, strict=True)]

    # The elementwise operations become few large ones, which every backend compiles faster. Nothing else is rewritten.
    fgraph = FunctionGraph(inputs, [value, *derivatives], clone=True)
    MergeOptimizer().rewrite(fgraph)
    FusionOptimizer().rewrite(fgraph)
    return RowFunction(fgraph.inputs, fgraph.outputs, pullback=pull_back)
