"""A mode and many data sets in; the estimate of each, from a few steps in coordinates of the mode, comes out."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from rich.progress import track

from pm_psyphy.laplace import Gaussian
from pm_psyphy.lbfgs import lbfgs
from pm_psyphy.loop import Settings
from pm_psyphy.objective import Objective
from pm_psyphy.optimize import Trajectory, minimise
from pm_psyphy.program import Program
from pm_psyphy.status import Status
from pm_psyphy.vector import Layout, find_layout

STEPS = 1000
# So many numbers of data may the fits hold that run at once in one loop, and wait for the slowest of them; a fit that
# has more than the second has a loop of its own.
NUMBERS_OF_BATCH, NUMBERS_OF_FIT = 1_000_000, 10_000
# Names of what the program gets beside the model's own parameters and data.
WHITENED, MODE, FACTOR = "whitened parameters", "mode", "factor of the covariance"
# The parameters' curvature is about 1, so that the gradient is about Newton's step.
OPTIMIZER = lbfgs(first_step=np.inf)


@dataclass(frozen=True)
class Refits:
    """Estimates of n data sets."""

    unconstrained: dict[str, np.ndarray]
    """By value-variable name, each (n, ...)."""
    loss: np.ndarray
    status: tuple[Status, ...]
    n_steps: np.ndarray


def refit(
    objective: Objective,
    near: Gaussian,
    take: Callable[[np.ndarray], dict[str, np.ndarray]],
    n: int,
    *,
    tolerance: float,
    progressbar: bool = False,
) -> Refits:
    """Fit n data sets from a mode near all of them, many at once in one compiled loop.

    Parameters
    ----------
    objective : Objective
    near : Gaussian
        At its mode each fit begins; in coordinates of its factor, parameters have about the curvature 1.
    take : callable
        Given the numbers of B data sets, returns the data that differ among them by name, each (B, ...). They have
        the shapes and types of those of the objective.
    n : int
    tolerance : float
        By about how many standard errors an estimate may err.
    progressbar : bool

    Returns
    -------
    Refits
    """
    layout = find_layout(near.mode)
    whitened = whiten(objective, layout, near.mode, near.factor)
    size = sum(array.size for array in objective.data.values())
    n_batches = -(-n // (1 if size > NUMBERS_OF_FIT else NUMBERS_OF_BATCH // max(size, 1)))
    n_at_once = -(-n // n_batches)
    # The last batch is filled up with its last data set, so that all have one shape.
    batches = np.minimum(np.arange(n_batches * n_at_once), n - 1).reshape(n_batches, n_at_once)
    settings = Settings(STEPS, tolerance / max(1.0, abs(near.loss)), log_every=STEPS)
    differing = frozenset(take(batches[0])) if n_at_once > 1 else frozenset()

    def fit(batch: np.ndarray) -> Trajectory:
        data = whitened.data | _unstack(take(batch))
        starts = {name: np.repeat(origin[None], n_at_once, axis=0) for name, origin in whitened.start.items()}
        return minimise(replace(whitened, data=data), OPTIMIZER, starts, settings, batched=differing)

    found = [fit(batches[0])]
    # A fit of many rows runs on one core of a CPU; each thread keeps one busy.
    with ThreadPoolExecutor(os.cpu_count() if n_at_once == 1 else 1) as pool:
        rest = pool.map(fit, batches[1:])
        found += track(rest, "fitting", total=n_batches - 1, disable=not progressbar, transient=True)
    whitened_vectors = np.concatenate([t.params[WHITENED] for t in found])[:n]
    vectors = layout.join(near.mode) + np.asarray(near.factor @ whitened_vectors.T).T
    return Refits(
        layout.split(vectors),
        np.concatenate([t.loss for t in found])[:n],
        tuple(status for t in found for status in t.status)[:n],
        np.concatenate([t.last_step for t in found])[:n],
    )


def _unstack(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return data of one fit without the axis for fits."""
    return {name: array if len(array) > 1 else array[0] for name, array in arrays.items()}


def whiten(objective: Objective, layout: Layout, mode: dict[str, np.ndarray], factor: Any) -> Objective:
    """Return an objective of the coordinates y in which parameters are ``mode + factor @ y``.

    Parameters
    ----------
    objective : Objective
    layout : Layout
    mode : dict of str to ndarray
    factor : ndarray or LowRankFactor, (P, Q)

    Returns
    -------
    Objective
        Of one parameter, (Q,). It is compiled once for all modes and factors.
    """
    program = objective.program
    whitened = program.remember(("whitened", layout), lambda: _whiten_program(program, layout))
    vector = np.asarray(layout.join(mode))
    placed: dict[str, Any] = {MODE: vector, FACTOR: factor.astype(vector.dtype)}
    start = {WHITENED: np.zeros(factor.shape[1], vector.dtype)}
    return Objective(objective.model, whitened, start, objective.data | placed)


def _whiten_program(program: Program, layout: Layout) -> Program:
    def place(params, data):
        return layout.split(data[MODE] + data[FACTOR] @ params[WHITENED])

    def value(params, data, key):
        return program.value(place(params, data), data, key)

    def value_and_grad(params, data, key):
        loss, grads = program.value_and_grad(place(params, data), data, key)
        return loss, {WHITENED: data[FACTOR].T @ layout.join(grads)}

    return replace(program, value=value, value_and_grad=value_and_grad, compiled={})
