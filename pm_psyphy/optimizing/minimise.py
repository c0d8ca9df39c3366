"""An Objective, starts and a transformation in; where each search ended, and the path it took, come out."""

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from pm_psyphy.compiling.objective import Objective
from pm_psyphy.optimizing.checkpoint import Checkpoint, check_path, describe_run, read_checkpoint, write_checkpoint
from pm_psyphy.optimizing.compiled_loop import Loop, Settings, get_loop, run_chunks
from pm_psyphy.optimizing.lbfgs import LBFGSState, Line
from pm_psyphy.optimizing.progress_line import ProgressLine
from pm_psyphy.optimizing.search_step import UNSTARTED, Code, Peaks, Search, find_limit
from pm_psyphy.optimizing.status import Status
from pm_psyphy.rows.minibatches import Batches
from pm_psyphy.rows.processes import follow_first, is_first

# Between two checkpoints, and by how many times as long as one takes to write.
SECONDS_BETWEEN, SHARE_OF_WRITING = 1.0, 20


class Progress(NamedTuple):
    """What a callback sees: the best of the starts so far."""

    step: int
    loss: float
    gradient_norm: float
    params: dict[str, np.ndarray]
    """Unconstrained, by value-variable name."""


class LastMoves(NamedTuple):
    """How B searches by L-BFGS went on at their end: arrays (B, P), parameters side by side in the order of a dict."""

    next: np.ndarray
    """The step that would have come next."""
    moved: np.ndarray
    """The last one, and by how much the gradient changed along it."""
    turned: np.ndarray
    steepest: np.ndarray
    """The largest size that each derivative has had; infinite if it is not known."""

    def pick(self, i: Any) -> "LastMoves":
        """Return those of one search, or of some."""
        return LastMoves(*(stack[i] for stack in self))


@dataclass(frozen=True)
class Trajectory:
    """Where B searches ended, and how they got there."""

    params: dict[str, np.ndarray]
    """Best unconstrained parameters, each (B, ...)."""
    loss: np.ndarray
    gradient_norm: np.ndarray
    status: list[Status]
    last_step: np.ndarray
    last_moves: LastMoves | None
    """The last moves of L-BFGS; None for other optimisers."""
    logged_steps: np.ndarray
    """(T,)"""
    logged: np.ndarray
    """(T, B, 2): loss and gradient norm."""
    compile_seconds: float
    run_seconds: float


def minimise(
    objective: Objective,
    transformation: optax.GradientTransformationExtraArgs,
    starts: dict[str, np.ndarray],
    settings: Settings,
    *,
    seed: int = 0,
    given_seed: int | None = None,
    label: str = "",
    progressbar: bool = False,
    callback: Callable[[Progress], Any] | None = None,
    checkpoint: str | Path | None = None,
    batches: Batches | None = None,
) -> Trajectory:
    """Search for the minimum from several starts at once.

    Parameters
    ----------
    objective : Objective
    transformation : optax.GradientTransformationExtraArgs
    starts : dict of ndarray, each (B, ...)
    settings : Settings
    seed : int
        Seed for the random draws of a stochastic objective.
    given_seed : int, optional
        What the user gave; a checkpoint of another is refused.
    label : str
        Names the optimiser, on the progress bar and in the checkpoint.
    progressbar : bool
    callback : callable, optional
        Called with a `Progress` at the end of each chunk; a true return value stops the search.
    checkpoint : path, optional
        Written at the ends of chunks, about once a second and less often where writing takes long, and at the end of
        the search; read at the start if it is there.
    batches : Batches, optional
        Data that each step has for itself.

    Returns
    -------
    Trajectory
    """
    interrupted, writer = False, None
    with ProgressLine(label) if progressbar and is_first() else nullcontext() as line:
        example = None if batches is None else batches.example()
        loop, search, compile_seconds = get_loop(
            objective.program, transformation, starts, objective.data, stream=example
        )
        state = Checkpoint(search, seed, np.zeros(0, int), np.zeros((0, search.code.size, 2)))
        if checkpoint is not None:
            check_path(checkpoint, state)
            rows = "" if batches is None else batches.sign()
            run = describe_run(objective, search, transformation, label, given_seed, rows)
            writer = Writer(checkpoint, run)
            state = _resume(state, checkpoint, run)
            writer.written = state.search.furthest
        state = state._replace(search=_reopen(state.search, settings.tolerance))
        begun = time.perf_counter()
        chunks = None if batches is None else batches.draw(state.seed, max(state.search.furthest, 0))
        try:
            for search, steps, rows in run_chunks(loop, state.search, objective.data, state.seed, settings, chunks):
                state = state.extend(search, steps, rows.reshape(len(steps), search.code.size, 2))
                if writer is not None:
                    writer.write(state)
                if _is_due(search, settings) and _report(loop, search, line, callback):
                    interrupted = True
                    break
        except KeyboardInterrupt:
            if state.search.furthest == UNSTARTED:
                raise
            interrupted = True
        except jax.errors.JaxRuntimeError as error:
            if jax.process_count() == 1:
                raise
            then = f", from {str(checkpoint)!r}" if checkpoint else "; with `checkpoint` it goes on where it was"
            raise RuntimeError(f"A process of this fit is gone: start all of them again{then}. ({error})") from error
        finally:
            if chunks is not None:
                chunks.close()
        if writer is not None:
            writer.write(state, last=True)
    return _conclude(loop, state, interrupted, compile_seconds, time.perf_counter() - begun)


class Writer:
    """Writes checkpoints, as often as they take little of the time."""

    def __init__(self, path: str | Path, run: dict[str, str]):
        self.path, self.run = path, run
        self.due, self.written = 0.0, UNSTARTED

    def write(self, state: Checkpoint, *, last: bool = False) -> None:
        """Write a state that has got somewhere, if it is time or the last one."""
        step, now = state.search.furthest, time.perf_counter()
        is_new = step != self.written and np.isfinite(state.search.best_loss).any()
        if not is_first() or not is_new or not (last or now >= self.due):
            return
        write_checkpoint(self.path, state, self.run)
        self.written, done = step, time.perf_counter()
        self.due = done + max(SECONDS_BETWEEN, SHARE_OF_WRITING * (done - now))


def _resume(state: Checkpoint, checkpoint: str | Path, run: dict[str, str]) -> Checkpoint:
    """Return the state from the checkpoint, if there is one, in all processes."""
    found = read_checkpoint(checkpoint, state.search, run) if is_first() else None
    state = state if found is None else found
    length = int(follow_first(np.int64(len(state.logged_steps))))
    room = state._replace(logged_steps=np.zeros(length, int), logged=np.zeros((length, state.search.code.size, 2)))
    state = follow_first(state if is_first() else room)
    return state._replace(seed=int(state.seed))


def _is_due(search: Search, settings: Settings) -> bool:
    """Return whether the search has ended or is at a step that a callback wants to see, if one does."""
    step, every = search.furthest - 1, settings.chunk_steps
    return (
        not every or step % every == 0 or step == settings.steps or not (np.asarray(search.code) == Code.RUNNING).any()
    )


def _report(loop: Loop, search: Search, line: ProgressLine | None, callback: Callable[[Progress], Any] | None) -> bool:
    """Show the search to whoever watches; return whether the callback wants to stop."""
    if line is None and callback is None:
        return False
    progress = _summarise(loop, search)
    if line is not None:
        line.show(progress.step, progress.loss, progress.gradient_norm)
    return callback is not None and bool(follow_first(np.int32(bool(callback(progress)))))


def _conclude(
    loop: Loop, state: Checkpoint, interrupted: bool, compile_seconds: float, run_seconds: float
) -> Trajectory:
    codes = np.atleast_1d(state.search.code)
    still = Status.INTERRUPTED if interrupted else Status.MAX_STEPS
    return Trajectory(
        params=_stack(loop.name(state.search.best_params), len(codes)),
        loss=np.atleast_1d(state.search.best_loss),
        gradient_norm=np.atleast_1d(state.search.best_gradient_norm),
        status=[name_status(code, still) for code in codes],
        last_step=np.atleast_1d(state.search.step) - 1,
        last_moves=find_last_moves(loop, state.search),
        logged_steps=state.logged_steps,
        logged=state.logged,
        compile_seconds=compile_seconds,
        run_seconds=run_seconds,
    )


def find_last_moves(loop: Loop, search: Search) -> LastMoves | None:
    """Return how the searches of a state go on, if their optimiser tells."""
    state = search.opt_state
    if not isinstance(state, LBFGSState):
        return None
    pairs, n_searches = np.asarray(state.pairs), search.code.size
    pairs = pairs.reshape(n_searches, *pairs.shape[-2:])
    n_slots = pairs.shape[1] // 2 - 1
    n_pairs = np.asarray(state.numbers)[..., Line._fields.index("n_pairs")]
    newest = 2 * ((np.atleast_1d(n_pairs).astype(int) - 1) % n_slots)
    rows = np.arange(n_searches)
    direction = np.asarray(state.direction).reshape(n_searches, -1)
    known = isinstance(search.watch, Peaks)
    steepest = np.asarray(search.watch.sizes).reshape(direction.shape) if known else np.full_like(direction, np.inf)
    return LastMoves(direction, pairs[rows, newest], pairs[rows, newest + 1], steepest)


def name_status(code: int, still: Status) -> Status:
    """Return how a search ended; `still` is what to call one that runs."""
    names = {Code.CONVERGED: Status.CONVERGED, Code.STALLED: Status.STALLED, Code.DIVERGED: Status.DIVERGED}
    return names.get(Code(code), still)


def _stack(params: dict[str, np.ndarray], n_starts: int) -> dict[str, np.ndarray]:
    """Return parameters with a leading axis for the starts, of which one search has none."""
    return params if n_starts > 1 else {name: value[None] for name, value in params.items()}


def _summarise(loop: Loop, search: Search) -> Progress:
    losses, norms = np.atleast_1d(search.best_loss), np.atleast_1d(search.best_gradient_norm)
    best = int(np.argmin(losses))
    params = {name: stack[best] for name, stack in _stack(loop.name(search.best_params), losses.size).items()}
    return Progress(search.furthest - 1, float(losses[best]), float(norms[best]), params)


def _reopen(search: Search, tolerance: float) -> Search:
    """Let a resumed search go on where the tolerance is stricter now."""
    if search.furthest == UNSTARTED:
        return search
    loose = np.asarray(search.promise) > np.asarray(find_limit(tolerance, np.asarray(search.best_loss)))
    again = loose & (np.asarray(search.code) == Code.CONVERGED)
    code = np.where(again, Code.RUNNING, search.code).astype(np.int32)
    return search._replace(code=code, step=np.where(again, search.furthest, search.step).astype(np.int32))
