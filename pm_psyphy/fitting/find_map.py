"""A PyMC model in; its MAP estimate comes out: compile the model, choose the starts, search, describe the best."""

import secrets
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import optax
import pymc as pm

from pm_psyphy.common.settings import check_whole
from pm_psyphy.compiling.devices import compute_plainly, find_device, name_device
from pm_psyphy.compiling.from_model import explain_at, prepare_objective
from pm_psyphy.compiling.objective import Objective
from pm_psyphy.compiling.starts import draw_starts
from pm_psyphy.fitting.rescue import search_whole
from pm_psyphy.optimizing.compiled_loop import Settings
from pm_psyphy.optimizing.minimise import Progress, minimise
from pm_psyphy.optimizing.optimizers import LearningRate, make_transformation, name_optimizer
from pm_psyphy.results.map_result import MAPResult, make_result
from pm_psyphy.rows.lay_rows import lay_rows
from pm_psyphy.rows.minibatches import Minibatches
from pm_psyphy.rows.processes import check_same, follow_first

# In nats: far below what an estimate of a posterior's mode can be asked for.
TOLERANCE = 1e-10


@compute_plainly
def find_map(
    model: pm.Model | Objective | None = None,
    *,
    optimizer: str | optax.GradientTransformation | None = None,
    learning_rate: LearningRate | None = None,
    momentum: float | None = None,
    steps: int = 10_000,
    tolerance: float | None = None,
    log_every: int = 1,
    initvals: Mapping[str, Any] | None = None,
    starts: int = 1,
    init: str | None = None,
    random_seed: int | np.random.Generator | None = None,
    var_names: Sequence[str] | None = None,
    progressbar: bool = True,
    callback: Callable[[Progress], Any] | None = None,
    checkpoint: str | Path | None = None,
    device: str | None = None,
    rows: Minibatches | None = None,
    shard: str | None = None,
) -> MAPResult:
    """Find the maximum a posteriori (MAP) estimate of a PyMC model: its most probable parameters.

    JAX compiles the model at the first call. Further calls on the same model compile nothing, even after
    `pm.set_data`. The loss is the negative log posterior of the model's own variables.

    Parameters
    ----------
    model : pm.Model or Objective, optional
        Default: the model in context.
    optimizer : {"lbfgs", "adam", "sgd", "adamw"} or optax.GradientTransformation, optional
        Default: ``"lbfgs"``, or ``"adam"`` where the loss draws random numbers (`pm.Minibatch`). An optax
        transformation sees the parameters as a dict by value-variable name.
    learning_rate : float or optax schedule, optional
        Default: 1e-2 for Adam and AdamW, 1e-3 for SGD. L-BFGS finds its own.
    momentum : float, optional
        For SGD, in [0, 1).
    steps : int
        Largest number of steps. Each step evaluates the loss and its gradient once.
    tolerance : float, optional
        The fit has converged when one more step would lower the loss by less than this, or by less than its rounding
        error. In nats, the units of a log probability. Default: 1e-10.
    log_every : int
        Number of steps between two entries of the history, and between two calls of `callback`.
    initvals : dict, optional
        Initial values by variable name, as in `pm.sample`: arrays, ``"prior"`` or ``"support_point"``. Transformed
        names (``"sigma_log__"``) take unconstrained values.
    starts : int
        Number of starting points. All are run at once, and the best fit is returned; ``fit.starts`` describes all.
    init : {"jitter", "prior"}, optional
        ``"jitter"``, the default for several starts: the initial point, and U(-1, 1) around it in the unconstrained
        space for every start but the first. ``"prior"``: draws from the prior.
    random_seed : int or numpy.random.Generator, optional
        Seed for starts and minibatches.
    var_names : sequence of str, optional
        Names of the variables in the result. Default: all free variables and deterministics.
    progressbar : bool
        Show step, loss, gradient norm and rate on a terminal.
    callback : callable, optional
        Called with a `Progress` (step, loss, gradient_norm, params) at every step that is logged and at the end; it
        stops the fit by returning a true value. It makes the device wait for Python: raise `log_every` if it is slow.
    checkpoint : path, optional
        File to which the state is written, atomically, at the end and about once a second (less often when writing is
        slow). If the file exists, the fit continues from it, and ends where an uninterrupted one would. A file of
        another model, other data, another optimiser or another seed is refused. Of data that come as an iterable of
        blocks, only the first block is compared.
    device : {"cpu", "gpu"}, optional
        Default: a GPU if there is one.
    rows : Minibatches, optional
        Use some of the rows for each step, as in ``rows=psy.Minibatches(500)``. Default: use all rows for each step.
    shard : str, optional
        Name of the rows' dim. The rows are divided among all devices, and each device computes its share. After
        `join_processes`, the devices of all processes are used, and each process passes rows of its own. With
        minibatches, the rows of each batch are divided.

    Returns
    -------
    MAPResult
        Returned even if the fit did not converge. Check `status` and `message`; a warning is issued as well.

    Raises
    ------
    TypeError
        If there is no model.
    ValueError
        If the model cannot be fitted (see `compile_objective`), a setting is out of range, or loss or gradient at the
        start are not finite; the message names the variable.
    NotImplementedError
        If the model cannot be compiled; the message names the op and the variable.

    Examples
    --------
    >>> import pymc as pm
    >>> import pm_psyphy as psy
    >>> with pm.Model() as model:
    ...     mu = pm.Normal("mu", 0, 10)
    ...     sigma = pm.HalfNormal("sigma", 10)
    ...     y = pm.Normal("y", mu, sigma, observed=[4.0, 5.0, 7.0, 8.0])
    >>> fit = psy.find_map(model)
    >>> round(float(fit["mu"]), 3), fit.converged
    (5.963, True)
    """
    begun = time.perf_counter()
    check_settings(steps=steps, log_every=log_every, starts=starts, tolerance=tolerance, init=init)
    place, is_given = find_device(device), isinstance(model, Objective)
    objective = prepare_objective(model, initvals=initvals, device=place)
    _check_names(var_names, objective.model)
    laid = lay_rows(objective, rows, shard, place, device)
    watching = {"progressbar": progressbar, "callback": callback, "checkpoint": checkpoint}
    optimizing = {"stochastic": laid.stochastic, "learning_rate": learning_rate, "momentum": momentum}
    points_seed, draws_seed = _draw_seeds(random_seed, shared=shard is not None)
    points = choose_starts(objective, model, starts, init, initvals, points_seed, shared=shard is not None)
    search = partial(
        minimise,
        transformation=make_transformation(optimizer, **optimizing),
        starts=points,
        settings=choose_settings(steps, tolerance, log_every, stochastic=laid.stochastic, watched=callback is not None),
        seed=draws_seed,
        given_seed=int(random_seed) if isinstance(random_seed, int | np.integer) else None,
        label=name_optimizer(optimizer, **optimizing),
        **watching,
    )
    if laid.is_whole:
        objective, trajectory, diagnosis = search_whole(objective, search, points, initvals, points_seed, is_given)
    else:
        trajectory, diagnosis = search(laid.objective, batches=laid.batches), None
    if not np.isfinite(trajectory.loss).any():
        raise ValueError(explain_at(laid.example, {name: stack[0] for name, stack in points.items()}))
    fit = make_result(
        objective,
        trajectory,
        optimizer=search.keywords["label"],
        device=name_device(place),
        compile_seconds=time.perf_counter() - begun - trajectory.run_seconds,
        var_names=var_names,
        stochastic=laid.stochastic,
        diagnosis=diagnosis,
        is_of_model=not is_given and (rows is None or rows.data is None),
    )
    if fit.has_failed:
        warnings.warn(fit.message, stacklevel=3)
    return fit


def choose_settings(
    steps: int, tolerance: float | None, log_every: int, *, stochastic: bool = False, watched: bool = False
) -> Settings:
    """Return what a search is told; one that is random has no test of convergence, one that is watched stops to log."""
    chosen = -1.0 if stochastic else TOLERANCE if tolerance is None else tolerance
    return Settings(steps, chosen, log_every, log_every if watched else None)


def check_settings(*, steps: int, log_every: int, starts: int, tolerance: float | None, init: str | None) -> None:
    """Raise if a setting is out of its range."""
    check_whole(steps=steps, log_every=log_every, starts=starts)
    if tolerance is not None and not tolerance >= 0:
        raise ValueError(f"tolerance is {tolerance}. Pass a number of at least 0, or None for the default.")
    if init not in (None, "jitter", "prior"):
        raise ValueError(f"init is {init!r}. Pass 'jitter' or 'prior'.")


def _draw_seeds(random_seed: Any, *, shared: bool) -> tuple[int, int]:
    """Return seeds of starts and of draws, the same in all processes if they are shared."""
    if random_seed is None and not shared:
        # A generator takes ten times as long to make.
        return secrets.randbits(31), secrets.randbits(31)
    seeds = np.random.default_rng(random_seed).integers(2**31, size=2)
    first, second = follow_first(seeds) if shared else seeds
    return int(first), int(second)


def _check_names(var_names: Sequence[str] | None, model: pm.Model) -> None:
    known = [v.name for v in [*model.free_RVs, *model.deterministics]]
    for name in var_names or ():
        if name not in known:
            raise ValueError(f"var_names contains {name!r}, which is not in the model. It has {', '.join(known)}.")


def choose_starts(objective, model, starts, init, initvals, seed, *, shared: bool = False) -> dict[str, np.ndarray]:
    """Return the starts of a fit, each (B, ...), the same in all processes if they are shared.

    `model` is what the user gave.
    """
    if starts == 1 and init is None and (initvals is None or not isinstance(model, Objective)):
        points = {name: value[None] for name, value in objective.start.items()}
    else:
        settings = {"init": init or ("jitter" if starts > 1 else None), "initvals": initvals, "random_seed": seed}
        points = draw_starts(objective.model, n=starts, data=objective.values, **settings)
    if shared:
        check_same(points, "start")
    return points
