"""A mode and many data sets in; the estimate of each, from a few steps in coordinates of the mode, comes out."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from pm_psyphy.compiling.flat_parameters import Layout, find_layout
from pm_psyphy.compiling.model_graph import OWN
from pm_psyphy.compiling.objective import Objective
from pm_psyphy.compiling.placing import place
from pm_psyphy.compiling.program import Program
from pm_psyphy.optimizing.compiled_loop import Settings
from pm_psyphy.optimizing.diagnosis import diagnose
from pm_psyphy.optimizing.lbfgs import lbfgs
from pm_psyphy.optimizing.minimise_many import Ends, minimise_each
from pm_psyphy.optimizing.status import Status
from pm_psyphy.rows.spare_rows import lay_stacks
from pm_psyphy.uncertainty.laplace import Gaussian

STEPS = 1000
# In standard errors. At an optimum the next step is about as long as the estimate may err, a hundredth.
RESTLESS = 0.1
# Names of what the program gets beside the model's own parameters and data.
WHITENED, MODE, FACTOR = f"{OWN}whitened parameters", f"{OWN}mode", f"{OWN}factor of the covariance"
# The parameters' curvature is about 1, so that the gradient is about Newton's step.
OPTIMIZER = lbfgs(first_step=np.inf)


def refit(
    near: Gaussian,
    take: Callable[[np.ndarray], dict[str, np.ndarray]],
    n: int,
    *,
    tolerance: float,
    progressbar: bool = False,
) -> Ends:
    """Fit n data sets from a mode near all of them, many at once in one compiled loop.

    Parameters
    ----------
    near : Gaussian
        The Gaussian of the objective to fit. Each fit begins at its mode; in coordinates of its factor, parameters have
        about the curvature 1.
    take : callable
        Given the numbers of B data sets, returns the data that differ among them by name, each (B, ...). They have
        the shapes and types of those of the objective.
    n : int
    tolerance : float
        By about how many standard errors an estimate may err.
    progressbar : bool

    Returns
    -------
    Ends
        With the model's own parameters.
    """
    layout = find_layout(near.mode)
    whitened = whiten(near.laid, layout, near.mode, near.factor)
    # An estimate that errs by e standard errors has a loss that is e^2 / 2 above the lowest.
    settings = Settings(STEPS, tolerance**2 / 2, log_every=STEPS)
    starts = {name: np.repeat(origin[None], n, axis=0) for name, origin in whitened.start.items()}

    def lay(numbers: np.ndarray) -> dict[str, np.ndarray]:
        return lay_stacks(near.laid, near.objective, take(numbers))

    found = minimise_each(whitened, OPTIMIZER, starts, lay, settings, progressbar=progressbar)
    if found.interrupted:
        raise KeyboardInterrupt
    vectors = layout.join(near.mode) + np.asarray(near.factor @ found.params[WHITENED].T).T
    return _judge(near, lay, replace(found, params=layout.split(vectors)))


def _judge(near: Gaussian, take: Callable[[np.ndarray], dict[str, np.ndarray]], ends: Ends) -> Ends:
    """Return the same ends; the status of those that ran off, as in a sample that predictors separate, says so."""

    def judge(i: int) -> Status:
        own = {name: place(stack[0], near.laid.device) for name, stack in take(np.array([i])).items()}
        objective = replace(near.laid, data=near.laid.data | own)
        params = {name: stack[i] for name, stack in ends.params.items()}
        status, loss = ends.status[i], float(ends.loss[i])
        return diagnose(objective, near.mode, params, None, status, loss, lambda p: float(objective.value(p))).judge(
            status
        )

    status = ends.status.copy()
    for i in np.flatnonzero(_find_restless(ends) & np.isfinite(ends.loss)):
        status[i] = judge(int(i))
    return replace(ends, status=status)


def _find_restless(ends: Ends) -> np.ndarray:
    """Return which searches would have gone on by more than a little of a standard error."""
    if ends.last_moves is None:
        return np.ones(len(ends.loss), bool)
    return np.linalg.norm(ends.last_moves.next, axis=1) > RESTLESS


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
        An objective of one parameter, (Q,). It is compiled once for all modes and factors.
    """
    whitened = whiten_program(objective.program, layout)
    vector = np.asarray(layout.join(mode))
    placed: dict[str, Any] = {MODE: vector, FACTOR: factor.astype(vector.dtype)}
    start = {WHITENED: np.zeros(factor.shape[1], vector.dtype)}
    return replace(objective, program=whitened, start=start, data=objective.data | placed)


def whiten_program(program: Program, layout: Layout) -> Program:
    """Return a program of the coordinates of `whiten`; `MODE` and `FACTOR` are among its data.

    Parameters
    ----------
    program : Program
    layout : Layout

    Returns
    -------
    Program
    """
    return program.remember(("whitened", layout), lambda: _whiten_program(program, layout))


def _whiten_program(program: Program, layout: Layout) -> Program:
    def place(params, data):
        return layout.split(data[MODE] + data[FACTOR] @ params[WHITENED])

    def value(params, data, key):
        return program.value_alone(place(params, data), data, key)

    def value_and_grad(params, data, key):
        loss, grads = program.value_and_grad(place(params, data), data, key)
        return loss, {WHITENED: data[FACTOR].T @ layout.join(grads)}

    return program.derive(value, value_and_grad)
