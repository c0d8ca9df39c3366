"""Parameters by name in; one vector of them comes out, and the way back."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax


class VectorTransformation(optax.GradientTransformationExtraArgs):
    """An optax transformation that may see all parameters as one vector: fewer kernels than for a dict of many."""


@dataclass(frozen=True)
class Layout:
    """Where each parameter stands in the vector of all P of them."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[Any, ...]

    def join(self, params: Mapping[str, Any]) -> Any:
        """Return (..., P) from a dict of (..., *shape)."""
        arrays = [params[name] for name in self.names]
        module = jnp if any(isinstance(a, jax.Array) for a in arrays) else np
        lead = np.shape(arrays[0])[: np.ndim(arrays[0]) - len(self.shapes[0])]
        return module.concatenate([module.reshape(a, (*lead, -1)) for a in arrays], axis=-1)

    def split(self, vector: Any) -> dict[str, Any]:
        """Return a dict of (..., *shape) from (..., P)."""
        lead, params, begin = vector.shape[:-1], {}, 0
        for name, shape, dtype in zip(self.names, self.shapes, self.dtypes, strict=True):
            end = begin + prod(shape)
            params[name] = vector[..., begin:end].reshape((*lead, *shape)).astype(dtype)
            begin = end
        return params


def find_layout(params: Mapping[str, np.ndarray]) -> Layout:
    """Return the layout of a dict of parameters."""
    names = tuple(params)
    return Layout(names, tuple(np.shape(params[n]) for n in names), tuple(np.dtype(params[n].dtype) for n in names))
