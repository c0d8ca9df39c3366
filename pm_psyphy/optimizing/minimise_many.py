"""An Objective and n data sets in; where the search of each ended comes out, all of them from one compiled loop."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from threading import Event, Lock
from typing import Any

import jax
import numpy as np
import optax
from rich.progress import Progress

from pm_psyphy.compiling.devices import compute_plainly, count_cores
from pm_psyphy.compiling.objective import Objective
from pm_psyphy.optimizing.compiled_loop import Loop, Settings, get_loop
from pm_psyphy.optimizing.minimise import LastMoves, find_last_moves, name_status
from pm_psyphy.optimizing.search_step import UNSTARTED, Code, Search
from pm_psyphy.optimizing.status import Status
from pm_psyphy.rows.memory_blocks import count_numbers, find_budget, find_place, measure_memory

# The lanes of a loop wait for each other. On a CPU the first few save Python's and XLA's own time at each step; a
# search of more numbers than the second has a loop for itself.
LANES_OF_CPU, NUMBERS_OF_LANE = 128, 10_000
# Between two looks at which searches have ended.
STEPS_OF_CHUNK = 8
# Of the loops that wait for the same compiled search, one compiles it.
_COMPILING = Lock()


@dataclass(frozen=True)
class Ends:
    """Where n searches ended."""

    params: dict[str, np.ndarray]
    """Best unconstrained parameters, each (n, ...)."""
    loss: np.ndarray
    """Infinite where it was nowhere finite."""
    gradient_norm: np.ndarray
    status: np.ndarray
    n_steps: np.ndarray
    last_moves: LastMoves | None
    """The last moves of L-BFGS; None for other optimisers."""

    @property
    def interrupted(self) -> bool:
        """Whether some searches could not end."""
        return Status.INTERRUPTED in self.status


def minimise_each(
    objective: Objective,
    transformation: optax.GradientTransformationExtraArgs,
    starts: dict[str, np.ndarray],
    take: Callable[[np.ndarray], dict[str, np.ndarray]],
    settings: Settings,
    *,
    label: str = "fitting",
    progressbar: bool = False,
) -> Ends:
    """Search for n minima, each on data of its own. A search that ends makes room for one that waits.

    Parameters
    ----------
    objective : Objective
    transformation : optax.GradientTransformationExtraArgs
    starts : dict of ndarray, each (n, ...)
    take : callable
        Given the numbers of B searches, returns the data that differ among them by name, each (B, ...). They have the
        shapes and types of those of the objective.
    settings : Settings
    label : str
    progressbar : bool

    Returns
    -------
    Ends
        After Ctrl-C too; what had not ended by then is INTERRUPTED.
    """
    n, dtype = len(next(iter(starts.values()))), np.result_type(*starts.values())
    n_lanes, n_loops = _choose_lanes(objective, n)
    waiting, stop = deque(range(n)), Event()
    params = {name: stack.copy() for name, stack in starts.items()}
    loss, norm = np.full(n, np.inf, dtype), np.full(n, np.inf, dtype)
    code, n_steps = np.full(n, Code.RUNNING), np.zeros(n, int)
    n_parameters = sum(stack[0].size for stack in starts.values())
    last_moves, is_known = LastMoves(*np.zeros((len(LastMoves._fields), n, n_parameters), dtype)), False

    with Progress(disable=not progressbar, transient=True) as bar, ThreadPoolExecutor(n_loops) as threads:
        task = bar.add_task(label, total=n)

        def note(loop: Loop, search: Search, lanes: np.ndarray, numbers: np.ndarray) -> None:
            nonlocal is_known
            for name, stack in loop.name(search.best_params).items():
                params[name][numbers] = stack[lanes] if n_lanes > 1 else stack
            steps = np.asarray(search.step) - 1
            reached = search.best_loss, search.best_gradient_norm, search.code, steps
            for ours, theirs in zip((loss, norm, code, n_steps), reached, strict=True):
                ours[numbers] = np.atleast_1d(theirs)[lanes]
            if (moves := find_last_moves(loop, search)) is not None:
                is_known = True
                for ours, theirs in zip(last_moves, moves, strict=True):
                    ours[numbers] = theirs[lanes]
            bar.advance(task, len(numbers))

        run = partial(_run_lanes, objective, transformation, starts, take, settings, n_lanes, waiting, stop, note)
        loops = [threads.submit(run) for _ in range(n_loops)]
        try:
            wait(loops, return_when=FIRST_EXCEPTION)
        except KeyboardInterrupt:
            stop.set()
    for each in loops:
        each.result()
    still = Status.INTERRUPTED if stop.is_set() else Status.MAX_STEPS
    status = np.array([name_status(int(c), still) for c in code], dtype=object)
    return Ends(params, loss, norm, status, n_steps, last_moves if is_known else None)


def _choose_lanes(objective: Objective, n: int) -> tuple[int, int]:
    """Return how many searches a loop takes at once, and how many loops run side by side."""
    device = find_place(objective)
    if device.platform != "cpu":
        # It is as fast for many lanes as for one, if it has the memory.
        of_lane = measure_memory(objective) + sum(array.nbytes for array in objective.data.values())
        return min(n, max(1, find_budget(device) // of_lane)), 1
    size, n_loops = count_numbers(objective), min(count_cores(), n)
    return (1 if size > NUMBERS_OF_LANE else min(LANES_OF_CPU, -(-n // n_loops))), n_loops


@compute_plainly
def _run_lanes(
    objective: Objective,
    transformation: optax.GradientTransformationExtraArgs,
    starts: dict[str, np.ndarray],
    take: Callable,
    settings: Settings,
    n_lanes: int,
    waiting: deque,
    stop: Event,
    note: Callable[[Loop, Search, np.ndarray, np.ndarray], None],
) -> None:
    """Advance the lanes of one loop until nothing is left; hand over each search that has ended."""
    held = np.full(n_lanes, -1)
    if not _fill(held, waiting).any():
        return
    # A lane without a search of its own repeats another's.
    shown = np.where(held < 0, held[0], held)

    def place() -> dict[str, Any]:
        stacks = {name: stack if n_lanes > 1 else stack[0] for name, stack in take(shown).items()}
        return {n: jax.device_put(s, getattr(objective.data[n], "sharding", None)) for n, s in stacks.items()}

    def arrange() -> dict[str, np.ndarray]:
        return {name: stack[shown] for name, stack in starts.items()}

    own = place()
    data, batched = objective.data | own, frozenset(own) if n_lanes > 1 else frozenset()
    with _COMPILING:
        loop, search, _ = get_loop(objective.program, transformation, arrange(), data, batched)
    if n_lanes > 1:
        search = search._replace(code=np.where(held < 0, Code.STALLED, Code.RUNNING).astype(np.int32))
    tolerance = np.asarray(settings.tolerance, search.best_loss.dtype)
    zero, n_steps, evaluations, log_every = map(np.int32, (0, STEPS_OF_CHUNK, settings.steps + 1, STEPS_OF_CHUNK))
    while (held >= 0).any() and not stop.is_set():
        search, _ = loop.advance(search, data, {}, zero, zero, n_steps, evaluations, log_every, tolerance)
        running = (np.asarray(search.code) == Code.RUNNING) & (np.asarray(search.step) < evaluations)
        lanes = np.flatnonzero((held >= 0) & ~running)
        if not lanes.size:
            continue
        note(loop, search, lanes, held[lanes])
        held[lanes] = -1
        new = _fill(held, waiting)
        if new.any():
            shown = np.where(held < 0, shown, held)
            data |= place()
            search = _restart(loop, search, loop.arrange(arrange()), new)


def _fill(held: np.ndarray, waiting: deque) -> np.ndarray:
    """Give lanes that are free the searches that wait; return which lanes have got one."""
    free = held < 0
    for lane in np.flatnonzero(free):
        with suppress(IndexError):
            held[lane] = waiting.popleft()
    return free & (held >= 0)


def _restart(loop: Loop, search: Search, starts: Any, lanes: np.ndarray) -> Search:
    """Let some lanes begin anew, at starts of theirs."""
    if lanes.all():
        return loop.unstarted._replace(params=starts)

    def choose(new: Any, old: Any) -> np.ndarray:
        return np.where(np.expand_dims(lanes, tuple(range(1, np.ndim(old)))), new, np.asarray(old))

    return search._replace(
        params=jax.tree.map(choose, starts, search.params),
        step=choose(UNSTARTED, search.step),
        code=choose(np.int32(Code.RUNNING), search.code),
    )
