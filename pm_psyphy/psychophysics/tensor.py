"""PyTensor's functions, typed loosely: by its own declarations most of them return None."""

from typing import Any

import numpy as np
import pytensor
import pytensor.graph
import pytensor.graph.replace
import pytensor.tensor
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.basic import Constant, Variable
from pytensor.graph.traversal import graph_inputs
from pytensor.tensor.type import TensorType

from pm_psyphy.common.arrays import convert_array, read_array
from pm_psyphy.common.row_function import RUN_ONCE

pt: Any = pytensor.tensor
grad: Any = pytensor.grad
graph_replace: Any = pytensor.graph.replace.graph_replace


def as_tensor(value: Any, name: str = "an input") -> Any:
    """Return a tensor of floats; of numbers in PyTensor's floatX, for left alone 0.5 would become a float32.

    Parameters
    ----------
    value : tensor, number, array, or sequence of them
        Arrays that can be changed are copied, so that later changes of them do not reach the model.
    name : str
        For messages.

    Raises
    ------
    ValueError
        If values are masked, or no numbers.
    """
    if _holds_tensors(value):
        value = pt.stack([as_tensor(v, name) for v in value])
    if isinstance(value, Variable):
        return value if value.type.dtype.startswith("float") else pt.cast(value, pytensor.config.floatX)
    array = convert_array(name, read_array(name, value), pytensor.config.floatX)
    is_frozen = array.base is None and not array.flags.writeable
    return pt.constant(array if is_frozen else array.copy())


def read_known(value: Any, name: str = "an input") -> np.ndarray | None:
    """Return the numbers that a value has now, or None if variables of a model decide them.

    Parameters
    ----------
    value : tensor, number or array
        For data (`pm.Data`), and what is computed from data alone, the numbers are the present ones.
    name : str
        For messages.
    """
    if not isinstance(value, Variable):
        return None if _holds_tensors(value) else read_array(name, value)
    if isinstance(value, SharedVariable) and isinstance(value.type, TensorType):
        return value.get_value(borrow=True)
    if isinstance(value, Constant):
        return np.asarray(value.data)
    inputs = list(graph_inputs([value]))
    if all(isinstance(v, Constant | SharedVariable) and isinstance(v.type, TensorType) for v in inputs):
        computed: Any = pytensor.function([], value, mode=RUN_ONCE)()
        return np.asarray(computed)
    return None


def _holds_tensors(value: Any) -> bool:
    return isinstance(value, list | tuple) and any(isinstance(v, Variable) or _holds_tensors(v) for v in value)


def pull_back(outputs, cotangents, inputs) -> list[Any]:
    """Return the gradient for the inputs, from the gradients for the outputs."""
    placeholders = [c.type() for c in cotangents]
    linear = sum(pt.sum(p * output) for p, output in zip(placeholders, outputs, strict=True))
    return graph_replace(grad(linear, inputs), dict(zip(placeholders, cotangents, strict=True)))
