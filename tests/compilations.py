"""Counting what XLA compiles, by JAX's own events."""

from collections.abc import Iterator
from contextlib import contextmanager

import jax

_COMPILED: list[float] = []


def _listen(event: str, seconds: float, **_) -> None:
    if event == "/jax/core/compile/backend_compile_duration":
        _COMPILED.append(seconds)


jax.monitoring.register_event_duration_secs_listener(_listen)


@contextmanager
def count_compilations() -> Iterator[list[float]]:
    """Yield a list that grows by one entry for each program that XLA compiles inside the block."""
    before = len(_COMPILED)
    counted: list[float] = []
    yield counted
    counted.extend(_COMPILED[before:])
