"""Where a search began and ended in; whether that is an optimum, and if not, which variable is why, comes out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pm_psyphy.compiling.model_graph import list_rotating
from pm_psyphy.compiling.objective import Objective
from pm_psyphy.optimizing.minimise import LastMoves
from pm_psyphy.optimizing.status import Status
from pm_psyphy.optimizing.surroundings import UNNOTICED, Surroundings

# What moves less than this share of its way in the last step has arrived.
ARRIVED = 1e-3
# What moves together moves by at least this share of its way, of the largest share.
TOGETHER = 0.1
# In nats: what all of the way back would cost, by the curvature at its end, where the end is not in a valley.
SHALLOW = 0.02
# So many variables are looked at by searches; so many times as far as they have gone, all are looked at.
MOST_SEARCHES, BEYOND = 3, 64.0
# What has shrunk to this share of its start, or is so near to 0 or 1, is at that edge.
NEGLIGIBLE = 1e-4
# Whose way is shorter has not gone anywhere.
SHORTEST = 1e-8
# In nats: a loss that does not change by so much is flat.
FLAT = 1e-9
# In place of infinity, of which 0 times is no number.
HUGE = 1e150
# A scale that has shrunk by this factor has collapsed.
COLLAPSED = 1e-6


@dataclass(frozen=True)
class Diagnosis:
    """What was found out about the end of a search; all by the user's names of variables."""

    unbounded: tuple[str, ...] = ()
    """The loss does not rise however far they move."""
    at_edge: tuple[str, ...] = ()
    """They are as near to an edge of their support as makes no difference."""
    still: tuple[str, ...] = ()
    """They have not moved: their gradient is 0."""
    flat: tuple[str, ...] = ()
    """Those of them on which the loss does not depend nearby."""
    collapsed: tuple[str, ...] = ()
    """Scales that have gone to 0, where the search did not converge."""
    elsewhere: str = ""
    """Which of several other starts the search began at, where the model's own start did not work."""

    def judge(self, status: Status) -> Status:
        """Return how the search ended, all in all."""
        has_ended = status in (Status.CONVERGED, Status.STALLED, Status.MAX_STEPS)
        if has_ended and self.unbounded and not self.collapsed:
            return Status.UNBOUNDED
        return Status.PLATEAU if status is Status.CONVERGED and self.flat else status

    def describe(self, status: Status, values: Mapping[str, np.ndarray]) -> str:
        """Say in a sentence or two what was found; nothing where that is an optimum inside."""
        sentences = [self._describe_end(status, values)]
        if self.elsewhere:
            sentences.append(
                f"This result comes from another start ({self.elsewhere}), because the model's own start did not work."
            )
        return " ".join(filter(None, sentences))

    def _describe_end(self, status: Status, values: Mapping[str, np.ndarray]) -> str:
        if status is Status.UNBOUNDED:
            reached = ", ".join(f"{name} = {_show(values[name])}" for name in self.unbounded if name in values)
            it = _pick(self.unbounded, "it", "them")
            return (
                f"There is no optimum: the loss does not rise however far {_list(self.unbounded)} "
                f"{_pick(self.unbounded, 'moves', 'move')}"
                f"{f' (reached: {reached})' if reached else ''}. This happens when predictors separate the responses "
                f"perfectly, or when the data show no threshold. Give {it} a prior that keeps {it} finite."
            )
        if status is Status.PLATEAU:
            it = _pick(self.flat, "it", "them")
            return (
                f"The loss does not depend on {_list(self.flat)} near the start, so the search could not move {it}. "
                f"Either the start is too far away for the data to inform {it}, or the data do not inform {it} at all. "
                f"Give other initvals or a prior, or leave {it} out of the model."
            )
        if self.collapsed and status is not Status.CONVERGED:
            return (
                f"{_list(self.collapsed)} {_pick(self.collapsed, 'has', 'have')} gone to 0, where the density of a "
                "scale may grow without bound and has no mode. Write the effects as mean + scale * z with "
                "z ~ Normal(0, 1), or give the scale a prior that is 0 at 0, such as pm.Gamma with alpha = 2."
            )
        if self.at_edge and status in (Status.CONVERGED, Status.STALLED):
            at = _pick(self.at_edge, "is at the edge of its", "are at the edges of their")
            it = _pick(self.at_edge, "it", "them")
            return (
                f"{_list(self.at_edge)} {at} support. If the estimate should lie inside, give {it} a prior that is 0 "
                "at the edge."
            )
        return ""


def diagnose(
    objective: Objective,
    start: Mapping[str, np.ndarray],
    params: Mapping[str, np.ndarray],
    moves: LastMoves | None,
    status: Status,
    loss: float,
    evaluate: Callable[[Mapping[str, np.ndarray]], float],
    search: Callable[[Mapping[str, np.ndarray]], tuple[float, Mapping[str, np.ndarray]]] | None = None,
) -> Diagnosis:
    """Look at the loss beyond where a search ended, if its last moves leave a doubt; else nothing is computed.

    Parameters
    ----------
    objective : Objective
    start, params : dict of str to ndarray
        Unconstrained, where it began and ended.
    moves : LastMoves, optional
        Its last ones, if they are known.
    status : Status
    loss : float
        Where it ended.
    evaluate : callable
        Returns the loss at a point.
    search : callable, optional
        Searches from another point, and returns where it ends: the loss and the parameters.

    Returns
    -------
    Diagnosis
    """
    way = np.concatenate([np.ravel(params[name] - start[name]) for name in params]).astype(float)
    if not np.isfinite(way).all():
        return Diagnosis()
    going, resting = _find_going(way, moves), np.abs(way) <= SHORTEST
    found = Diagnosis()
    if going.any():
        ways, masks = _split(way, params), _split(going, params)
        if moves is not None:
            masks = _drop_idle(masks, ways, _split(moves.steepest, params))
        found = _look_beyond(objective, Surroundings(start, params, ways, loss, evaluate, search), masks, status)
    if resting.any() and status is Status.CONVERGED:
        names = _name_variables(objective)
        still = [name for name, mask in _split(resting, params).items() if mask.size and mask.all()]
        flat = tuple(names[name] for name in still if _is_flat(evaluate, params, name))
        found = replace(found, still=tuple(names[name] for name in still), flat=flat)
    return found


def find_doubtful(
    starts: Mapping[str, np.ndarray], params: Mapping[str, np.ndarray], moves: LastMoves | None
) -> np.ndarray:
    """Return which of n searches leave a doubt that they have come to an optimum, (n,); each array is (n, ...).

    Parameters
    ----------
    starts, params : dict of str to ndarray
    moves : LastMoves, optional
        Without them, all of them do.

    Returns
    -------
    ndarray of bool
    """
    n = len(next(iter(params.values())))
    if moves is None:
        return np.ones(n, bool)
    way = _flatten({name: params[name] - starts[name] for name in params})
    resting = [np.all(np.abs(_flatten({n: params[n] - starts[n]})) <= SHORTEST, axis=1) for n in params]
    has_arrived = np.max(_find_shares(way, moves.next), axis=1, initial=0) <= ARRIVED
    return ~has_arrived | _is_shallow(way, moves) | np.any(resting, axis=0)


def _find_going(way: np.ndarray, moves: LastMoves | None) -> np.ndarray:
    """Return which parameters, (P,), may go on without end: none, if the last moves have settled."""
    if moves is None:
        return np.abs(way) > SHORTEST
    going = np.zeros(len(way), bool)
    shares = _find_shares(way, moves.next)
    if np.max(shares, initial=0) > ARRIVED:
        going |= _move_together(shares)
    if _is_shallow(way[None], moves.pick(None))[0]:
        going |= _move_together(_find_shares(way, moves.moved))
    return going


def _drop_idle(masks: Mapping[str, np.ndarray], ways: Mapping[str, np.ndarray], steepest: Mapping[str, np.ndarray]):
    """Return the masks without those of variables whose whole way cannot have gained what is noticed.

    A transformed variable may have moved little because it began at an edge.
    """

    def is_idle(name: str) -> bool:
        slope = np.minimum(steepest[name].astype(float), HUGE)
        return not name.endswith("__") and bool(np.sum(slope * np.abs(ways[name])) <= UNNOTICED)

    return {name: mask & (not (mask.any() and is_idle(name))) for name, mask in masks.items()}


def _move_together(shares: np.ndarray) -> np.ndarray:
    """Return which parameters move on: all that move by about as much of their way as the one that moves most."""
    return (shares > ARRIVED) | ((shares >= TOGETHER * np.max(shares, initial=0)) & (shares > 0))


def _split(vector: np.ndarray, params: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return a vector's parts by the names of parameters."""
    parts, begin = {}, 0
    for name, value in params.items():
        parts[name] = vector[begin : begin + value.size].reshape(value.shape)
        begin += value.size
    return parts


def _name_variables(objective: Objective) -> dict[str | None, str]:
    """Return the user's names of variables by those of their values."""
    return {objective.model.rvs_to_values[rv].name: rv.name for rv in objective.model.free_RVs}


def _flatten(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return arrays (n, ...) side by side, (n, P)."""
    return np.concatenate([np.reshape(a, (len(a), -1)) for a in arrays.values()], axis=1).astype(float)


def _find_shares(way: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Return how much of its way each parameter goes in a step, (..., P)."""
    length = np.abs(way)
    return np.divide(np.abs(step), length, out=np.zeros_like(length), where=length > SHORTEST)


def _is_shallow(way: np.ndarray, moves: LastMoves) -> np.ndarray:
    """Whether all of the way back, along the last step, would cost little, were the curvature the same everywhere."""
    others = moves.moved, moves.turned, way
    square, curvature, back = (np.einsum("np,np->n", moves.moved, other, dtype=float) for other in others)
    return (square > 0) & (curvature * back**2 / 2 < SHALLOW * square**2)


def _look_beyond(
    objective: Objective, around: Surroundings, going: Mapping[str, np.ndarray], status: Status
) -> Diagnosis:
    """Return what is found beyond the end of a search, of the parameters that are going on."""
    names, way, params = _name_variables(objective), around.way, around.end
    suspects = [name for name, mask in going.items() if mask.any()]
    at_edge: list[str] = []
    if status is Status.CONVERGED:
        at_edge = [n for n in suspects if _is_at_edge(n, way[n][going[n]], params[n][going[n]])]
        suspects = [n for n in suspects if n not in at_edge]
    nothing = {name: np.zeros_like(mask) for name, mask in going.items()}
    going = nothing | {name: going[name] for name in suspects}
    if suspects and not around.stays_low(going):
        # The rotations of a field's weights are as low and farther on, and its prior leaves it no ridge.
        rotating = list_rotating(objective.model)
        may_bend = [n for n in suspects if n not in rotating][:MOST_SEARCHES] if status is Status.CONVERGED else ()
        alone = {name: nothing | {name: going[name]} for name in suspects}
        suspects = [
            name
            for name, masks in alone.items()
            if (len(suspects) > 1 and around.stays_low(masks)) or (name in may_bend and around.is_ridge(masks))
        ]
    unbounded = []
    if suspects:
        # All variables, as the result needs them too: what computes them is compiled once.
        before, now, beyond = map(objective.constrain, (around.start, params, around.move(going, BEYOND)))
        for name in suspects:
            own_name = names[name]
            # To an edge, such as 0, there is not far to go.
            step = np.abs(np.asarray(beyond[own_name]) - now[own_name])
            near = np.isfinite(step) & (step <= np.maximum(np.abs(now[own_name]), np.abs(before[own_name])))
            (at_edge if near.all() else unbounded).append(name)
    collapsed = _find_collapsed(objective, around.start, params) if status is not Status.CONVERGED else []
    in_order = (tuple(names[n] for n in names if n in chosen) for chosen in (unbounded, at_edge))
    return Diagnosis(*in_order, collapsed=tuple(collapsed))


def _is_at_edge(name: str, way: np.ndarray, end: np.ndarray) -> bool:
    """Whether a transformed variable has come to an edge of its support, where there is nowhere to go on to."""
    far = -np.log(NEGLIGIBLE)
    if name.endswith("_logodds__"):
        return bool(np.all((np.abs(end) > far) & (end * way > 0)))
    return name.endswith("_log__") and bool(np.all(way < -far))


def _find_collapsed(objective: Objective, start, params) -> list[str]:
    """Return the variables that are positive and have come near to 0."""
    model = objective.model
    own = [rv.name for rv in model.free_RVs if model.rvs_to_values[rv].name.endswith("_log__")]
    before, now = map(objective.constrain, (start, params))
    return [name for name in own if np.any(np.asarray(now[name]) < COLLAPSED * np.asarray(before[name]))]


def _is_flat(evaluate: Callable, params: Mapping[str, np.ndarray], name: str) -> bool:
    here = evaluate(params)
    moved = ({**params, name: (params[name] + step).astype(params[name].dtype)} for step in (-1.0, 1.0))
    return all(abs(evaluate(point) - here) <= FLAT * max(1.0, abs(here)) for point in moved)


def _list(names: Sequence[str]) -> str:
    return " and ".join(map(repr, names)) if len(names) < 3 else f"{', '.join(map(repr, names[:-1]))} and {names[-1]!r}"


def _pick(names: Sequence[str], one: str, several: str) -> str:
    return one if len(names) == 1 else several


def _show(value: Any) -> str:
    return np.array2string(np.asarray(value), precision=4, threshold=6)
