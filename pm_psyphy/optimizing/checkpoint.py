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

from pm_psyphy.compiling.model_graph import OWN, lift
from pm_psyphy.compiling.objective import Objective
from pm_psyphy.compiling.signatures import sign, sign_graph
from pm_psyphy.optimizing.search_step import Search

FORMAT = 3
# Of what has to agree: what is shown if it does not, and what is one thing.
SHOWN = ("parameters", "rows", "random_seed")
SINGULAR = ("model", "optimizer", "state", "random_seed")


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


def describe_run(
    objective: Objective, search: Search, transformation: Any, label: str, seed: int | None, rows: str
) -> dict[str, str]:
    """Return what a checkpoint has to agree with, part by part.

    Parameters
    ----------
    objective : Objective
    search : Search
    transformation : optax.GradientTransformation
    label : str
        Names the optimiser.
    seed : int, optional
        As the caller gave it.
    rows : str
        What minibatches are drawn from, or nothing.

    Returns
    -------
    dict of str to str
    """
    model, jacobian = objective.model, objective.program.jacobian
    graph = lift(model, [model.logp(jacobian=jacobian)])
    parameters = ", ".join(f"{name}{list(np.shape(v))}" for name, v in sorted(objective.start.items()))
    leaves = [f"{np.asarray(leaf).dtype}{list(np.shape(leaf))}" for leaf in jax.tree.leaves(search)]
    return {
        "parameters": parameters,
        "model": sign_graph(graph.outputs),
        "rows": rows,
        "data": _sign_data(objective),
        "optimizer": f"{label} {sign(transformation) or type(transformation).__qualname__}",
        "state": " ".join(leaves),
        "random_seed": "" if seed is None else str(seed),
    }


def _sign_data(objective: Objective) -> str:
    digest = hashlib.blake2b(digest_size=16)
    # Weights fill up rows and take them in blocks, which another device may do otherwise.
    held = {name: a for name, a in objective.data.items() if not name.startswith(OWN)}
    held |= {f"{source.name} {i}": value for i, (source, value) in enumerate(objective.program.graph.baked)}
    for name, array in sorted(held.items(), key=lambda item: item[0]):
        digest.update(f"{name}{array.dtype}{array.shape}".encode())
        for part in [shard.data for shard in array.addressable_shards] if isinstance(array, jax.Array) else [array]:
            digest.update(np.ascontiguousarray(part).data)
    return digest.hexdigest()


def check_path(path: str | Path, state: Checkpoint) -> None:
    """Raise if a checkpoint cannot be written there; leave nothing behind.

    Raises
    ------
    ValueError
        If the path is empty.
    OSError
        If the folder is missing or full, or may not be written to.
    """
    if not str(path):
        raise ValueError("checkpoint is an empty path. Pass the name of a file, or None for no checkpoint.")
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"The checkpoint {str(path)!r} is a directory. Give the name of a file in it.")
    if path.exists():
        return
    try:
        _write_scratch(path, state, {}).unlink()
    except OSError as error:
        raise type(error)(error.errno, f"{_unwritable(path, error)} Give another path, or make room.") from error


def _write_scratch(path: Path, state: Checkpoint, run: dict[str, str]) -> Path:
    """Write a whole checkpoint beside its place, and return where; what is not whole is removed, after Ctrl-C too."""
    leaves: dict[str, Any] = {f"leaf_{i}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(state))}
    text = np.frombuffer(json.dumps(run).encode(), np.uint8)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        try:
            np.savez(file, format=np.int64(FORMAT), run=text, **leaves)
            file.flush()
            os.fsync(file.fileno())
        except BaseException:
            Path(file.name).unlink()
            raise
    return Path(file.name)


def _unwritable(path: Path, error: OSError) -> str:
    return f"The checkpoint {str(path)!r} cannot be written: {error.strerror or error}."


def write_checkpoint(path: str | Path, state: Checkpoint, run: dict[str, str]) -> None:
    """Write a checkpoint so that at every moment the file is whole: the old one or the new one.

    Where it cannot be written, a warning says so; the last one stays, and the fit goes on.

    Parameters
    ----------
    path : path
    state : Checkpoint
    run : dict of str to str
        From `describe_run`.
    """
    path, scratch = Path(path), None
    try:
        scratch = _write_scratch(path, state, run)
        os.replace(scratch, path)
    except OSError as error:
        warnings.warn(
            f"{_unwritable(path, error)} The fit goes on without it; the last one written stays.", stacklevel=2
        )
    finally:
        if scratch is not None:
            scratch.unlink(missing_ok=True)


def read_checkpoint(path: str | Path, search: Search, run: dict[str, str]) -> Checkpoint | None:
    """Read a checkpoint, if the file is there.

    Parameters
    ----------
    path : path
    search : Search
        Any search of the same run, for its structure.
    run : dict of str to str
        From `describe_run`; without a seed it gets that of the file.

    Returns
    -------
    Checkpoint or None

    Raises
    ------
    ValueError
        If the file is no checkpoint, is truncated or changed, or belongs to another fit; the message says what
        differs.
    """
    path = Path(path)
    if not path.exists():
        return None
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            version, found = int(file["format"]), json.loads(bytes(file["run"]).decode())
            leaves = [file[f"leaf_{i}"] for i in range(len(file.files) - 2)]
    except OSError as error:
        if isinstance(error, PermissionError | IsADirectoryError):
            raise
        raise ValueError(_unreadable(path)) from error
    except Exception as error:
        raise ValueError(_unreadable(path)) from error
    if version != FORMAT or not isinstance(found, dict):
        raise ValueError(
            f"{str(path)!r} was written by another version of pm_psyphy (format {version}, here {FORMAT}). Give "
            "another path, or delete it to start anew."
        )
    _check_run(path, found, run)
    empty = Checkpoint(search, 0, np.zeros(0, int), np.zeros((0, search.code.size, 2)))
    expected, structure = jax.tree.flatten(empty)
    if not _are_whole(leaves, [np.asarray(leaf) for leaf in expected]):
        raise ValueError(_unreadable(path))
    state = jax.tree.unflatten(structure, leaves)
    return state._replace(seed=int(state.seed))


def _check_run(path: Path, found: dict[str, str], run: dict[str, str]) -> None:
    for name, ours in list(run.items()):
        theirs = found.get(name)
        if theirs == ours:
            continue
        if name == "random_seed" and not ours:
            # Who gives no seed takes the one that the fit began with.
            run[name] = theirs or ""
            continue
        shown = f" ({theirs or 'none'}, here {ours or 'none'})" if name in SHOWN else ""
        raise ValueError(
            f"{str(path)!r} is the checkpoint of another fit: its {name} differ{'s' * (name in SINGULAR)}{shown}. Give "
            "another path, or delete it to start anew."
        )


def _are_whole(leaves: list[np.ndarray], expected: list[np.ndarray]) -> bool:
    """Whether arrays have the types and shapes of a state; only the history may be of any length."""
    if len(leaves) != len(expected):
        return False
    n_logged = len(leaves[-1]) if leaves[-1].ndim else -1
    shapes = [leaf.shape for leaf in expected]
    shapes[-2:] = [(n_logged,), (n_logged, *shapes[-1][1:])]
    kinds = zip(leaves, expected, strict=True)
    return [leaf.shape for leaf in leaves] == shapes and all(a.dtype.kind == b.dtype.kind for a, b in kinds)


def _unreadable(path: Path) -> str:
    return f"{str(path)!r} is no checkpoint, or a truncated one. Delete it to start anew, or give another path."
