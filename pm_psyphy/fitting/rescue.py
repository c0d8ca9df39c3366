"""A search in; where it ended comes out, from another route or start if the first one could not move."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from pm_psyphy.compiling.from_model import compile_objective, forget_program, move
from pm_psyphy.compiling.objective import Objective
from pm_psyphy.compiling.starts import draw_others
from pm_psyphy.optimizing.compiled_loop import Loop, evaluate_loss, get_loop
from pm_psyphy.optimizing.diagnosis import Diagnosis, diagnose
from pm_psyphy.optimizing.minimise import Trajectory
from pm_psyphy.optimizing.status import Status
from pm_psyphy.optimizing.surroundings import UNNOTICED
from pm_psyphy.rows.memory_blocks import spare_memory
from pm_psyphy.rows.spare_rows import arrange_rows

# So many other starts are tried where the model's own is of no use.
OTHERS = 8


def search_whole(
    objective: Objective,
    search: partial[Trajectory],
    points: dict[str, np.ndarray],
    initvals: Mapping[str, Any] | None,
    seed: int,
    is_given: bool,
) -> tuple[Objective, Trajectory, Diagnosis]:
    """Search from the starts, on all data at once.

    Parameters
    ----------
    objective : Objective
    search : partial
        `minimise`, given all but its objective.
    points : dict of ndarray, each (B, ...)
        The starts.
    initvals : dict, optional
        As the user gave them. Without any, other starts are tried where loss or gradient are not finite.
    seed : int
        Seed for other starts.
    is_given : bool
        Whether the user gave the objective, which keeps its route then.

    Returns
    -------
    objective : Objective
        The objective of the route that was taken.
    trajectory : Trajectory
        Without a finite loss if there is none at any start.
    diagnosis : Diagnosis

    Raises
    ------
    ValueError
        If no route gives a finite loss and gradient; the message names the variable.
    """
    n_starts = len(next(iter(points.values())))
    may_restart = n_starts == 1
    trajectory, failure = search(_lay(objective, search, n_starts)), None
    if not _is_finite(trajectory) and not is_given:
        # The search saw what the routes were not asked before: let them be tried at this start.
        forget_program(objective)
        try:
            objective = move(compile_objective(objective.model, initvals=initvals), objective.device)
            trajectory = search(_lay(objective, search, n_starts))
        except ValueError as error:
            failure = error
    if not _is_finite(trajectory):
        if may_restart and not initvals:
            points, trajectory = _search_elsewhere(objective, search, points, trajectory, seed)
        if not _is_finite(trajectory):
            if failure is not None:
                raise failure
            return objective, trajectory, Diagnosis()
        return (
            objective,
            trajectory,
            replace(_examine(objective, search, points, trajectory), elsewhere="the first with a finite loss"),
        )
    if objective.stochastic:
        return objective, trajectory, Diagnosis()
    found = _examine(objective, search, points, trajectory)
    if found.still and may_restart:
        others, best = _search_elsewhere(objective, search, points, trajectory, seed, first_only=False)
        if best.loss[0] < trajectory.loss[0] - UNNOTICED:
            return objective, best, replace(_examine(objective, search, others, best), elsewhere="the best of several")
    return objective, trajectory, found


def _lay(objective: Objective, search: partial[Trajectory], n_starts: int = 1) -> Objective:
    # A checkpoint knows its data by their rows, whatever else was fitted in this process.
    lay = arrange_rows if search.keywords["checkpoint"] is None else spare_memory
    return lay(objective, n_starts)


def _is_finite(trajectory: Trajectory) -> bool:
    return bool(np.isfinite(trajectory.loss).any())


def _examine(
    objective: Objective, search: partial[Trajectory], points: dict[str, np.ndarray], trajectory: Trajectory
) -> Diagnosis:
    """Diagnose the end of the best search."""
    best = int(np.nanargmin(trajectory.loss))
    if trajectory.status[best] in (Status.DIVERGED, Status.INTERRUPTED):
        return Diagnosis()
    start, params = ({name: stack[best] for name, stack in stacks.items()} for stacks in (points, trajectory.params))
    moves = None if trajectory.last_moves is None else trajectory.last_moves.pick(best)

    laid, quiet = _lay(objective, search), {"progressbar": False, "callback": None, "checkpoint": None}

    def repeat(point: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return a point for as many starts as the loop has that is compiled already."""
        return {name: np.repeat(value[None], len(trajectory.loss), axis=0) for name, value in point.items()}

    def search_from(point: Mapping[str, np.ndarray]) -> tuple[float, dict[str, np.ndarray]]:
        found = search(laid, starts=repeat(point), **quiet)
        return float(found.loss[0]), {name: stack[0] for name, stack in found.params.items()}

    loops: list[Loop] = []

    def evaluate(point: Mapping[str, np.ndarray]) -> float:
        starts = repeat(point)
        if not loops:
            loops.append(get_loop(laid.program, search.keywords["transformation"], starts, laid.data)[0])
        return evaluate_loss(loops[0], starts, laid.data)

    loss = float(trajectory.loss[best])
    return diagnose(laid, start, params, moves, trajectory.status[best], loss, evaluate, search_from)


def _search_elsewhere(
    objective: Objective,
    search: partial[Trajectory],
    points: dict[str, np.ndarray],
    trajectory: Trajectory,
    seed: int,
    *,
    first_only: bool = True,
) -> tuple[dict[str, np.ndarray], Trajectory]:
    """Search from other starts, one after the other in the same compiled loop; return the first or the best end."""
    start = {name: stack[0] for name, stack in points.items()}
    laid, best = _lay(objective, search), (points, trajectory)
    for other in draw_others(objective.model, start, OTHERS, seed, objective.values):
        point = {name: value[None] for name, value in other.items()}
        found = search(laid, starts=point, progressbar=False, callback=None, checkpoint=None)
        if _is_finite(found) and not found.loss[0] >= best[1].loss[0]:
            best = point, found
            if first_only:
                break
    return best
