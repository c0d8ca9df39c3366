"""A known field in; the trials of an observer who has it come out."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from pm_psyphy.common.arrays import convert_array, read_array
from pm_psyphy.common.row_function import RUN_ONCE
from pm_psyphy.psychophysics.covariances import check_covariances
from pm_psyphy.psychophysics.domain import Domain
from pm_psyphy.psychophysics.oddity import oddity_log_odds
from pm_psyphy.psychophysics.tasks import add_lapses
from pm_psyphy.psychophysics.tensor import as_tensor, pt
from pm_psyphy.psychophysics.trials import Trials


def simulate_trials(
    field: Any,
    reference: Any,
    comparison: Any,
    *,
    task: Callable[[Any, Any, Any], Any] = oddity_log_odds,
    chance: float = 1 / 3,
    lapse_rate: float = 0.0,
    domain: Domain | None = None,
    columns: Mapping[str, Any] | None = None,
    random_seed: Any = None,
) -> Trials:
    """Draw the responses of an observer whose field is known.

    Parameters
    ----------
    field : WishartProcess
        With known weights; anything with ``covariance(x)`` will do.
    reference, comparison : array, (N, D)
        In [-1, 1]; see `place_comparisons`.
    task : callable
        Takes field, reference and comparison, returns the log-odds of a response 1. For a two-alternative task:
        ``lambda *stimuli: mafc_log_odds(discriminability(*stimuli))``, with ``chance=1/2``.
    chance, lapse_rate : float
        See `Response`.
    domain : Domain, optional
        What -1 and 1 mean in stimulus units.
    columns : dict of str to array, (N,), optional
    random_seed : int or numpy.random.Generator, optional

    Returns
    -------
    Trials

    Raises
    ------
    ValueError
        If a stimulus is outside the field's domain, the covariance there is singular, or the task gives no probability.
    """
    reference, comparison = _read_points("reference", reference), _read_points("comparison", comparison)
    for points in (reference, comparison):
        _evaluate(field, points)
    log_odds = as_tensor(task(field, reference, comparison))
    p = pt.sigmoid(add_lapses(log_odds, chance, lapse_rate)).eval(mode=RUN_ONCE)
    if p.shape != (len(reference),):
        raise ValueError(
            f"The task returns shape {p.shape} for {len(reference)} trials. Let it return a number for each."
        )
    if np.isnan(p).any():
        raise ValueError(
            f"The task returns NaN for the trial in row {np.flatnonzero(np.isnan(p))[0]}. Check it there: it has no "
            "probability of a response."
        )
    response = (np.random.default_rng(random_seed).random(len(p)) < p).astype(int)
    trials = Trials.from_arrays(reference, comparison, response, columns=columns)
    return replace(trials, domain=domain) if domain is not None else trials


def place_comparisons(field: Any, reference: Any, distance: Any, *, random_seed: Any = None) -> np.ndarray:
    """Return comparisons at given distances from their references, in random directions.

    Parameters
    ----------
    field : WishartProcess
        With known weights; anything with ``covariance(x)`` will do.
    reference : array, (N, D)
        In [-1, 1].
    distance : float or array, (N,)
        Mahalanobis distance d' in the reference's covariance.
    random_seed : int or numpy.random.Generator, optional

    Returns
    -------
    ndarray, (N, D)
        Moved to the border of [-1, 1]^D where they would be beyond.

    Raises
    ------
    ValueError
        If a reference is outside the field's domain, the covariance there is singular, or a distance no number.
    """
    reference = _read_points("reference", reference)
    d_prime = convert_array("distance", read_array("distance", distance), float)
    if d_prime.shape not in ((), (len(reference),)) or not np.isfinite(d_prime).all():
        raise ValueError(
            f"distance has shape {d_prime.shape} and {np.sum(~np.isfinite(d_prime))} values that are not finite. Pass "
            f"a number, or one for each of the {len(reference)} references."
        )
    direction = np.random.default_rng(random_seed).normal(size=reference.shape)
    direction *= np.broadcast_to(d_prime, len(reference))[:, None] / np.linalg.norm(direction, axis=1, keepdims=True)
    root = np.linalg.cholesky(_evaluate(field, reference))
    return np.clip(reference + np.einsum("nij,nj->ni", root, direction), -1, 1)


def _read_points(name: str, points: Any) -> np.ndarray:
    found = convert_array(name, read_array(name, points), float)
    if found.ndim != 2:
        raise ValueError(f"{name} has shape {found.shape}. Pass (N, D), one row per trial.")
    return found


def _evaluate(field: Any, points: np.ndarray) -> np.ndarray:
    return check_covariances(as_tensor(field.covariance(points)).eval(mode=RUN_ONCE))
