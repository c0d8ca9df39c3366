"""A node that JAX has no translation for in; a function of JAX arrays, which calls the host, comes out."""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytensor
from pytensor.graph.basic import Constant
from pytensor.graph.rewriting.utils import rewrite_graph
from pytensor.tensor.elemwise import Elemwise
from pytensor.tensor.type import TensorType

from pm_psyphy.common.row_function import RUN_ONCE
from pm_psyphy.compiling.model_graph import Tensor, name_op

# How ops failed on the host, the latest time.
HOST_FAILURES: dict[str, str] = {}


def run_on_host(node: Any) -> Callable:
    """Wrap one node, compiled by PyTensor, in a callback whose output shapes follow from its input shapes."""
    import jax

    free = [i for i, v in enumerate(node.inputs) if not isinstance(v, Constant)]
    if not all(isinstance(v.type, TensorType) for v in [*(node.inputs[i] for i in free), *node.outputs]):
        raise NotImplementedError(f"{node.op} has inputs or outputs that are not arrays.")
    compiled: list[Callable] = []

    def call(shapes, *values):
        if not compiled:
            inputs = {i: node.inputs[i].type() for i in free}
            outputs = _rebuild(node, inputs)
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Numba will use object mode")
                # Scalar functions need a compiler to be fast; ops on whole arrays are NumPy's and SciPy's already, and
                # some take minutes to compile.
                mode = None if isinstance(node.op, Elemwise) else RUN_ONCE
                compiled.append(pytensor.function(list(inputs.values()), outputs, mode, on_unused_input="ignore"))
        arrays = [np.array(v, node.inputs[i].dtype) for i, v in zip(free, values, strict=True)]
        try:
            results = compiled[0](*arrays)
        except Exception as error:
            # A search may come to where an op of the user's own, such as a solver, fails: no density is there.
            HOST_FAILURES[name_op(node.op)] = f"{type(error).__name__}: {error}".partition("\n")[0]
            results = [np.full(s.shape, np.nan) for s in shapes]
        return tuple(np.asarray(r, s.dtype).reshape(s.shape) for r, s in zip(results, shapes, strict=True))

    def on_host(*args):
        inputs = {i: TensorType(node.inputs[i].dtype, shape=np.shape(args[i]))() for i in free}
        outputs = _rebuild(node, inputs)
        try:
            known = [_static_shape(v) for v in outputs]
        except NotImplementedError:
            known = _try_shapes(node, inputs)
        shapes = tuple(
            jax.ShapeDtypeStruct(shape, jax.dtypes.canonicalize_dtype(v.dtype))
            for shape, v in zip(known, outputs, strict=True)
        )
        arrays = (args[i] for i in free)
        results = jax.pure_callback(partial(call, shapes), shapes, *arrays, vmap_method="sequential")
        return results if len(results) > 1 else results[0]

    return on_host


def _try_shapes(node: Any, inputs: dict[int, Tensor]) -> list[tuple[int, ...]]:
    """Return the shapes that an op of the user's own, which does not tell them, gives of ones.

    Those of PyTensor's own ops that cannot tell have shapes that depend on values.
    """
    if type(node.op).__module__.startswith("pytensor."):
        raise NotImplementedError(f"{node.op} has an output whose shape depends on values.")
    ones = [inputs[i].type.filter(np.ones(inputs[i].type.shape, inputs[i].dtype)) for i in inputs]
    function: Any = pytensor.function(list(inputs.values()), _rebuild(node, inputs), RUN_ONCE, on_unused_input="ignore")
    return [np.shape(result) for result in function(*ones)]


def _rebuild(node: Any, inputs: dict[int, Tensor]) -> list[Tensor]:
    return node.clone_with_new_inputs([inputs.get(i, v) for i, v in enumerate(node.inputs)], strict=False).outputs


def _static_shape(variable: Tensor) -> tuple[int, ...]:
    if None not in variable.type.shape:
        return variable.type.shape
    shape = rewrite_graph(variable.shape, include=("canonicalize", "ShapeOpt"), clone=True)
    if not isinstance(shape, Constant):
        raise NotImplementedError(f"{variable.owner.op} has an output whose shape depends on values.")
    return tuple(int(n) for n in shape.data)
