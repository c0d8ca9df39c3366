"""PyTensor's functions, typed loosely: by its own declarations most of them return None."""

from typing import Any

import numpy as np
import pytensor
import pytensor.graph
import pytensor.graph.replace
import pytensor.tensor

pt: Any = pytensor.tensor
grad: Any = pytensor.grad
graph_replace: Any = pytensor.graph.replace.graph_replace


def as_tensor(value: Any) -> Any:
    """Return a tensor of floats; of numbers in PyTensor's floatX, for left alone 0.5 would become a float32."""
    if isinstance(value, pytensor.graph.Variable):
        return value if value.type.dtype.startswith("float") else pt.cast(value, pytensor.config.floatX)
    return pt.constant(np.asarray(value, pytensor.config.floatX))
