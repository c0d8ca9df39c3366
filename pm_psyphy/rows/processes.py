"""A host's address in; processes on several machines that fit one model together come out."""

import zlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np


def join_processes(
    coordinator: str | None = None,
    n_processes: int | None = None,
    process_id: int | None = None,
    *,
    timeout: int = 60,
) -> None:
    """Join the other processes that run this program, on this machine or on others, to fit one model together.

    Each calls it first, before anything is computed, and then does the same as the others, but for the rows that it
    holds: ``find_map(model, shard="trial")`` is the fit of all of them.

    Parameters
    ----------
    coordinator : str, optional
        Address and port of the first process, as ``"node1:9876"``. Under SLURM and Open MPI none of these is needed.
    n_processes : int, optional
    process_id : int, optional
        From 0.
    timeout : int
        Seconds after which a process that no longer answers is given up, and the others end with an error.

    Raises
    ------
    RuntimeError
        If JAX has computed something already, or the others do not come in time.
    """
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(
        coordinator,
        n_processes,
        process_id,
        initialization_timeout=timeout,
        heartbeat_timeout_seconds=timeout,
        shutdown_timeout_seconds=timeout,
    )


def is_first() -> bool:
    """Return whether this process shows progress and writes files."""
    return jax.process_index() == 0


def agree_on_largest(number: int) -> int:
    """Return the largest of the numbers that the processes have."""
    return int(np.max(_gather(np.int64(number))))


def follow_first(tree: Any) -> Any:
    """Return what the first process has, of the same shapes."""
    if jax.process_count() == 1:
        return tree
    from jax.experimental.multihost_utils import broadcast_one_to_all

    return jax.tree.map(np.asarray, broadcast_one_to_all(tree))


def check_same(arrays: Mapping[str, Any], what: str) -> None:
    """Raise if a process has other arrays than the first."""
    for name, array in sorted(arrays.items()):
        found = _gather(np.int64(zlib.crc32(np.ascontiguousarray(array).tobytes())))
        if (found != found[0]).any():
            other = int(np.argmax(found != found[0]))
            raise ValueError(f"Process {other} has another {what} {name!r} than process 0. Give all the same.")


def _gather(value: Any) -> np.ndarray:
    """Return the values of all processes, one after the other."""
    if jax.process_count() == 1:
        return np.asarray(value)[None]
    from jax.experimental.multihost_utils import process_allgather

    return np.asarray(process_allgather(value))
