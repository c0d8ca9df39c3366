"""Functions in; how long each takes, measured side by side, comes out."""

import time
from collections.abc import Callable

import jax
import numpy as np


def time_in_turn(functions: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Call the functions in turn, so that all meet the same noise, and return the median seconds of each."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for function in functions.values():
        jax.block_until_ready(function())
    for _ in range(repeats):
        for name, function in functions.items():
            begun = time.perf_counter()
            jax.block_until_ready(function())
            times[name].append(time.perf_counter() - begun)
    return {name: float(np.median(values)) for name, values in times.items()}
