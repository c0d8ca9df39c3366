"""An array of NumPy's in; one of JAX's own, which nothing that is done to the other changes, comes out."""

from functools import lru_cache
from typing import Any

import jax
import numpy as np

from pm_psyphy.compiling.devices import find_device

# In bytes.
SMALL = 4096


def place(array: Any, device: Any = None) -> jax.Array:
    """Return an array of JAX's own, which nothing that is done to the given one changes."""
    if isinstance(array, jax.Array):
        return array
    array = np.asarray(array)
    if array.nbytes <= SMALL:
        settings = jax.config.jax_default_device, jax.config.read("jax_enable_x64")
        return _place_small(array.tobytes(), array.dtype, array.shape, device, settings)
    if (device or find_device(None)).platform == "cpu":
        # JAX takes over an array of NumPy's without copying it, where it lies well in memory.
        return jax.device_put(array.copy(), device)
    # Until the array is there, it is read from here.
    return jax.block_until_ready(jax.device_put(array, device))


@lru_cache(maxsize=256)
def _place_small(buffer: bytes, dtype: np.dtype, shape: tuple[int, ...], device: Any, settings: Any) -> jax.Array:
    """Return small arrays of equal content as the same one, which saves the time to place them for each fit."""
    return jax.device_put(np.frombuffer(buffer, dtype).reshape(shape).copy(), device)
