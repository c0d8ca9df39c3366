"""The state of a search in; a file that survives a crash comes out, and the state again from the file."""

import hashlib
import io
import json
import os
import tempfile
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from pm_psyphy.loop import Search
from pm_psyphy.objective import Objective
from pm_psyphy.weights import REST, WEIGHTS

FORMAT = 2


class Checkpoint(NamedTuple):
    """All that a search needs to go on."""

    search: Search
    seed: int
    logged_steps: np.ndarray
    logged: np.ndarray

    def extend(self, search: Search, steps: np.ndarray, rows: np.ndarray) -> "Checkpoint":
        """Return the state after one more chunk.

        Parameters
        ----------
        search : Search
        steps : ndarray, (T,)
        rows : ndarray, (T, B, 2)

        Returns
        -------
        Checkpoint
        """
        return self._replace(
            search=search,
            logged_steps=np.concatenate([self.logged_steps, steps]),
            logged=np.concatenate([self.logged, rows]),
        )


def describe_run(objective: Objective, search: Search, label: str) -> str:
    """Return the text by which a checkpoint recognises its own model, data and optimiser.

    Parameters
    ----------
    objective : Objective
    search : Search
    label : str
        Names the optimiser.

    Returns
    -------
    str
    """
    digest = hashlib.blake2b(digest_size=16)
    # Weights fill up rows and take them in blocks, which another device may do otherwise.
    for name, array in sorted((name, a) for name, a in objective.data.items() if name not in (WEIGHTS, REST)):
        digest.update(f"{name}{array.dtype}{array.shape}".encode())
        for part in [shard.data for shard in array.addressable_shards] if isinstance(array, jax.Array) else [array]:
            digest.update(np.ascontiguousarray(part).data)
    parameters = ", ".join(f"{name}{list(np.shape(v))}" for name, v in sorted(objective.start.items()))
    leaves = [f"{np.asarray(leaf).dtype}{list(np.shape(leaf))}" for leaf in jax.tree.leaves(search)]
    return json.dumps(
        {"parameters": parameters, "optimizer": label, "state": " ".join(leaves), "data": digest.hexdigest()}
    )


def write_checkpoint(path: str | Path, state: Checkpoint, run: str, *, keep_going: bool = False) -> None:
    """Write a checkpoint so that at every moment the file is whole: the old one or the new one.

    Parameters
    ----------
    path : path
    state : Checkpoint
    run : str
        From `describe_run`.
    keep_going : bool
        Whether a failure is a warning, which leaves the last checkpoint in place and the fit running.

    Raises
    ------
    OSError
        If the file cannot be written, unless `keep_going`.
    """
    path = Path(path)
    leaves: dict[str, Any] = {f"leaf_{i}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(state))}
    scratch = None
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            scratch = Path(file.name)
            np.savez(file, format=np.int64(FORMAT), run=np.frombuffer(run.encode(), np.uint8), **leaves)
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, path)
    except OSError as error:
        if scratch is not None:
            scratch.unlink(missing_ok=True)
        reason = f"The checkpoint {str(path)!r} cannot be written: {error.strerror or error}."
        if not keep_going:
            raise type(error)(error.errno, f"{reason} Give another path, or make room.") from error
        warnings.warn(f"{reason} The fit goes on without it; the last one written stays.", stacklevel=2)


def read_checkpoint(path: str | Path, search: Search, run: str) -> Checkpoint | None:
    """Read a checkpoint, if the file is there.

    Parameters
    ----------
    path : path
    search : Search
        Any search of the same run, for its structure.
    run : str
        From `describe_run`.

    Returns
    -------
    Checkpoint or None

    Raises
    ------
    ValueError
        If the file is no checkpoint, is truncated, or belongs to another model, data or optimiser.
    """
    path = Path(path)
    if not path.exists():
        return None
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            found = bytes(file["run"]).decode()
            leaves = [file[f"leaf_{i}"] for i in range(len(file.files) - 2)]
    except OSError as error:
        if isinstance(error, PermissionError | IsADirectoryError):
            raise
        raise ValueError(_unreadable(path)) from error
    except Exception as error:
        raise ValueError(_unreadable(path)) from error
    if found != run:
        theirs, ours = json.loads(found), json.loads(run)
        what = next(name for name in ours if theirs.get(name) != ours[name])
        raise ValueError(
            f"{str(path)!r} is the checkpoint of another fit: its {what} differ ({theirs.get(what)!r}, here "
            f"{ours[what]!r}). Give another path, or delete it to start anew."
        )
    empty = Checkpoint(search, 0, np.zeros(0, int), np.zeros((0, search.code.size, 2)))
    state = jax.tree.unflatten(jax.tree.structure(empty), leaves)
    return state._replace(seed=int(state.seed))


def _unreadable(path: Path) -> str:
    return f"{str(path)!r} is no checkpoint, or a truncated one. Delete it to start anew, or give another path."
