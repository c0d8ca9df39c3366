"""A PyMC model in; its MAP estimate comes out: compile the model, choose the starts, search, describe the best."""

import secrets
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import pymc as pm

from pm_psyphy.compiling.devices import compute_plainly, find_device, move
from pm_psyphy.compiling.from_model import assemble_objective, explain_at
from pm_psyphy.compiling.objective import Objective
from pm_psyphy.compiling.program import check_trace
from pm_psyphy.compiling.starts import draw_starts
from pm_psyphy.fitting.rescue import search_whole
from pm_psyphy.optimizing.compiled_loop import Settings
from pm_psyphy.optimizing.minimise import Progress, minimise
from pm_psyphy.optimizing.optimizers import LearningRate, make_transformation, name_optimizer
from pm_psyphy.optimizing.status import Status
from pm_psyphy.results.map_result import MAPResult, make_result
from pm_psyphy.rows.minibatches import make_batches
from pm_psyphy.rows.processes import check_same, follow_first
from pm_psyphy.rows.sharding import shard_batches, shard_objective

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
    batch_size: int | None = None,
    batch_dim: str | None = None,
    data: Any = None,
    total_size: int | None = None,
    shard: str | None = None,
) -> MAPResult:
    """Find the maximum a posteriori estimate of a PyMC model.

    The model is compiled once, by JAX; a second call on the same model, also after `pm.set_data`, compiles nothing.

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
        The most steps to take. A step evaluates loss and gradient once, for L-BFGS too.
    tolerance : float, optional
        Converged where a further step promises to lower the loss, a negative log posterior, by at most so much, or by
        no more than it is rounded. Default: 1e-10.
    log_every : int
        Steps between two entries of the history, and between two calls of `callback`.
    initvals : dict, optional
        Initial values by variable name, as in `pm.sample`: arrays, ``"prior"`` or ``"support_point"``. Transformed
        names (``"sigma_log__"``) take unconstrained values.
    starts : int
        How many starts to run, all at once. The best is the result; ``fit.starts`` reports all.
    init : {"jitter", "prior"}, optional
        ``"jitter"``, the default for several starts: the initial point, and U(-1, 1) around it in the unconstrained
        space for every start but the first. ``"prior"``: draws from the prior.
    random_seed : int or numpy.random.Generator, optional
        Of starts and minibatches.
    var_names : sequence of str, optional
        Which variables the result holds. Default: all free variables and deterministics.
    progressbar : bool
        Show step, loss, gradient norm and rate on a terminal.
    callback : callable, optional
        Called with a `Progress` (step, loss, gradient_norm, params) at every step that is logged and at the end; it
        stops the fit by returning a true value. It makes the device wait for Python: raise `log_every` if it is slow.
    checkpoint : path, optional
        File to which the state is written about once a second, less often where that takes long, and at the end,
        atomically. If it is there already, the fit goes on from it, and ends where an uninterrupted one would. A file
        of another model, other data, another optimiser or another seed is refused. Blocks of rows from an iterable
        are known by the first of them only.
    device : {"cpu", "gpu"}, optional
        Default: the best there is.
    batch_size : int, optional
        Take each step on so many rows, with their log likelihood scaled to all. In each epoch every row is in one
        batch; the order follows from `random_seed`. The loss is random then, and there is no test of convergence.
    batch_dim : str, optional
        The rows' dim. Default: that of the observed variables.
    data : mapping of arrays, or iterable of mappings, optional
        With `batch_size`: rows that need not fit into memory, in place of those of the model, which are an example of
        them. NumPy arrays, memory-mapped ones, zarr's, xarray's or Dask's, by the names of the model's data; or blocks
        of rows as they come, which begin anew in each epoch if they can be iterated again (or a function returns them).
    total_size : int, optional
        How many rows an iterable has.
    shard : str, optional
        Lay the rows along this dim over all devices, each of which computes its own; over those of all processes that
        have called `join_processes`, each of which has rows of its own. With `batch_size`, those of each batch.

    Returns
    -------
    MAPResult
        Also where the fit did not converge: `status` and `message` say how it ended, and a warning does.

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
    chosen, batches = find_device(device), None
    objective = (
        move(model, chosen)
        if isinstance(model, Objective)
        else assemble_objective(model, jacobian=False, initvals=initvals, accept=check_trace, device=chosen)
    )
    _check_names(var_names, objective.model)
    if batch_size is not None:
        n_processes = 1 if shard is None else jax.process_count()
        batches = make_batches(objective, batch_size, batch_dim or shard, data, total_size, chosen, n_processes)
    elif data is not None or batch_dim is not None or total_size is not None:
        raise ValueError("data, batch_dim and total_size are for minibatches. Pass batch_size, too.")
    stochastic = objective.stochastic or batches is not None
    transformation = make_transformation(
        optimizer, stochastic=stochastic, learning_rate=learning_rate, momentum=momentum
    )
    seeds = _draw_seeds(random_seed)
    points_seed, draws_seed = seeds if shard is None else map(int, follow_first(np.array(seeds)))
    points = choose_starts(objective, model, starts, init, initvals, points_seed)
    if shard is not None:
        check_same(points, "start")
    tolerance = -1.0 if stochastic else TOLERANCE if tolerance is None else tolerance
    settings = Settings(steps, tolerance, log_every, log_every if callback else None)
    search = partial(
        minimise,
        transformation=transformation,
        starts=points,
        settings=settings,
        seed=draws_seed,
        given_seed=int(random_seed) if isinstance(random_seed, int | np.integer) else None,
        label=name_optimizer(optimizer, stochastic, learning_rate, momentum),
        progressbar=progressbar,
        callback=callback,
        checkpoint=checkpoint,
    )
    diagnosis = None
    if batches is not None:
        laid = batches if shard is None else shard_batches(batches, shard, device)
        trajectory = search(laid.objective, batches=laid)
    elif shard is not None:
        trajectory = search(shard_objective(objective, shard, device))
    else:
        may_reroute, may_restart = not isinstance(model, Objective), starts == 1
        objective, trajectory, diagnosis = search_whole(
            objective, search, points, initvals, points_seed, may_reroute=may_reroute, may_restart=may_restart
        )
    if not np.isfinite(trajectory.loss).any():
        start = {name: stack[0] for name, stack in points.items()}
        raise ValueError(explain_at(batches.take_first() if batches else objective, start))
    fit = make_result(
        objective,
        trajectory,
        optimizer=search.keywords["label"],
        device=chosen.device_kind if chosen.platform != "cpu" else "cpu",
        compile_seconds=time.perf_counter() - begun - trajectory.run_seconds,
        var_names=var_names,
        stochastic=stochastic,
        diagnosis=diagnosis,
        is_of_model=not isinstance(model, Objective) and data is None,
    )
    if fit.status is not Status.CONVERGED and not (stochastic and fit.status is Status.MAX_STEPS):
        warnings.warn(fit.message, stacklevel=3)
    return fit


def check_settings(*, steps: int, log_every: int, starts: int, tolerance: float | None, init: str | None) -> None:
    """Raise if a setting is out of its range."""
    for name, number in {"steps": steps, "log_every": log_every, "starts": starts}.items():
        if not isinstance(number, int | np.integer) or number < 1:
            raise ValueError(f"{name} is {number!r}. Pass a whole number of at least 1.")
    if tolerance is not None and not tolerance >= 0:
        raise ValueError(f"tolerance is {tolerance}. Pass a number of at least 0, or None for the default.")
    if init not in (None, "jitter", "prior"):
        raise ValueError(f"init is {init!r}. Pass 'jitter' or 'prior'.")


def _draw_seeds(random_seed: Any) -> tuple[int, int]:
    """Return seeds of starts and of draws."""
    if random_seed is None:
        # A generator takes ten times as long to make.
        return secrets.randbits(31), secrets.randbits(31)
    first, second = np.random.default_rng(random_seed).integers(2**31, size=2)
    return int(first), int(second)


def _check_names(var_names: Sequence[str] | None, model: pm.Model) -> None:
    known = [v.name for v in [*model.free_RVs, *model.deterministics]]
    for name in var_names or ():
        if name not in known:
            raise ValueError(f"var_names holds {name!r}, which the model does not. It has {', '.join(known)}.")


def choose_starts(objective, model, starts, init, initvals, seed) -> dict[str, np.ndarray]:
    """Return the starts of a fit, each (B, ...); `model` is what the user gave."""
    if starts == 1 and init is None and (initvals is None or not isinstance(model, Objective)):
        return {name: value[None] for name, value in objective.start.items()}
    init = init or ("jitter" if starts > 1 else None)
    return draw_starts(objective.model, n=starts, init=init, initvals=initvals, random_seed=seed, data=objective.values)
