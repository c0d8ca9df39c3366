"""A PyMC model and many data sets in; the MAP estimate of each, from one compiled program, comes out."""

import time
import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import optax
import pymc as pm

from pm_psyphy.compiling.devices import compute_plainly, find_device, name_device
from pm_psyphy.compiling.from_model import (
    assemble_objective,
    compile_objective,
    explain_at,
    forget_program,
    move,
    prepare_objective,
)
from pm_psyphy.compiling.objective import Objective, check_data, check_values
from pm_psyphy.compiling.placing import place
from pm_psyphy.compiling.program import check_trace
from pm_psyphy.compiling.row_weights import WEIGHTS
from pm_psyphy.fitting.find_map import check_settings, choose_settings, choose_starts
from pm_psyphy.optimizing.compiled_loop import Settings
from pm_psyphy.optimizing.diagnosis import Diagnosis, diagnose, find_doubtful
from pm_psyphy.optimizing.minimise import LastMoves, minimise
from pm_psyphy.optimizing.minimise_many import Ends, minimise_each
from pm_psyphy.optimizing.optimizers import LearningRate, make_transformation, name_optimizer
from pm_psyphy.optimizing.status import Status, describe
from pm_psyphy.results.map_results import MAPResults, find_row_dim, list_labels
from pm_psyphy.rows.data_sets import DataSets, read_data_sets
from pm_psyphy.rows.spare_rows import add_rows, lay_stacks
from pm_psyphy.rows.weighted_objective import divide

# More parts than workers, so that a fast worker takes more of them.
PARTS_OF_WORKER = 4


@compute_plainly
def find_maps(
    model: pm.Model | Objective | None,
    data: Any,
    *,
    dim: str = "dataset",
    optimizer: str | optax.GradientTransformation | None = None,
    learning_rate: LearningRate | None = None,
    momentum: float | None = None,
    steps: int = 10_000,
    tolerance: float | None = None,
    initvals: Mapping[str, Any] | None = None,
    starts: int = 1,
    init: str | None = None,
    random_seed: int | np.random.Generator | None = None,
    progressbar: bool = True,
    device: str | None = None,
    client: Any = None,
) -> MAPResults:
    """Find the MAP estimate of one model for many data sets, such as observers, sessions or simulations.

    All fits run in one compiled program, many side by side; one that ends makes room for the next. Each ends where
    `find_map` on its data would.

    Parameters
    ----------
    model : pm.Model or Objective or None
        None is the model in context. The data it holds are an example of the shapes.
    data : mapping of arrays, mapping or sequence of mappings, or xarray.Dataset
        New values by name: of `pm.Data`, or of variables observed as plain arrays. Either arrays with a leading axis
        for data sets; or a dict for each data set, in a list or by label; or a Dataset with the dim `dim`. Data sets
        given as dicts may differ in their number of rows, if the model names the rows' dim on its observed variables.
    dim : str
        What the axis of the data sets is called.
    optimizer, learning_rate, momentum, steps, tolerance, initvals
        As in `find_map`, for each fit.
    starts, init, random_seed
        As in `find_map`; all data sets have the same starts, and each keeps its best.
    progressbar : bool
    device : {"cpu", "gpu"}, optional
        Default: the best there is.
    client : distributed.Client, optional
        A client of a Dask cluster. Its workers share the data sets, and each compiles the model once. If a worker is
        lost, another one does its part.

    Returns
    -------
    MAPResults
        Returned even if some fits failed. Check `status` and `messages`; a warning is issued as well.

    Raises
    ------
    TypeError, ValueError
        If the data sets do not fit the model or each other, have different numbers of rows where rows depend on each
        other, or if loss or gradient are finite for none of them; and as `find_map`.

    Examples
    --------
    >>> import numpy as np, pymc as pm
    >>> import pm_psyphy as psy
    >>> with pm.Model(coords={"trial": range(2)}) as model:
    ...     mu = pm.Normal("mu", 0, 10)
    ...     y = pm.Normal("y", mu, 1, observed=np.zeros(2), dims="trial")
    >>> fits = psy.find_maps(model, {"ann": {"y": [1.0, 2.0]}, "bob": {"y": [4.0, 5.0, 6.0]}}, dim="observer")
    >>> fits["mu"].round(2)
    array([1.49, 4.98])
    """
    begun = time.perf_counter()
    check_settings(steps=steps, log_every=1, starts=starts, tolerance=tolerance, init=init)
    chosen = find_device(device)
    template = prepare_objective(model, initvals=initvals, device=chosen)
    sets = read_data_sets(data, dim, template.model.named_vars_to_dims)
    if template.stochastic:
        raise ValueError(
            "The model uses pm.Minibatch, but find_maps fits each data set as a whole. Take pm.Minibatch out of it."
        )
    transformation = make_transformation(optimizer, stochastic=False, learning_rate=learning_rate, momentum=momentum)
    seed = int(np.random.default_rng(random_seed).integers(2**31))
    points = choose_starts(template, model, starts, init, initvals, seed)
    settings = choose_settings(steps, tolerance, log_every=1)

    def search(template: Objective) -> tuple[Objective, dict[str, np.ndarray], Ends, float]:
        objective, stacks = _fill_in(template, sets)
        before = time.perf_counter()
        if client is None:
            ends = _search_each(objective, stacks, transformation, points, settings, progressbar)
        else:
            chosen_optimizer = {"optimizer": optimizer, "learning_rate": learning_rate, "momentum": momentum}
            ends = _search_on(client, template.model, sets, chosen_optimizer, points, settings)
        return objective, stacks, ends, time.perf_counter() - before

    objective, stacks, ends, seconds = search(template)
    if not np.isfinite(ends.loss).any() and not ends.interrupted and not isinstance(model, Objective):
        # The search saw what the routes were not asked before: let them be tried on the model's own data.
        forget_program(template)
        objective, stacks, ends, seconds = search(move(compile_objective(template.model, initvals=initvals), chosen))
    _check_any(objective, stacks, points, ends)
    found = _diagnose_each(objective, stacks, transformation, points, settings, ends)
    status = tuple(found[i].judge(s) if i in found else s for i, s in enumerate(ends.status))
    ends = replace(ends, status=np.array(status, dtype=object))
    fits = MAPResults(
        objective,
        {name: _blank(stack, ends.loss) for name, stack in ends.params.items()},
        sets.labels,
        dim,
        ends.loss,
        ends.gradient_norm,
        ends.n_steps,
        status,
        tuple(_describe_end(ends, sets, i, found.get(i)) for i in range(len(sets.labels))),
        name_optimizer(optimizer, False, learning_rate, momentum),
        name_device(chosen),
        time.perf_counter() - begun - seconds,
        seconds,
        sets,
        own=stacks,
    )
    _warn_of_failed(fits)
    return fits


def _fill_in(template: Objective, sets: DataSets) -> tuple[Objective, dict[str, np.ndarray]]:
    """Return the objective of the first data set, and stacks of what differs among them."""
    first = {name: stack[0] for name, stack in sets.stacks.items()}
    if sets.row_axes:
        objective, _ = divide(template, find_row_dim(template.model, sets), first)
    else:
        objective = template.with_data(**first)
    stacks = {name: objective.convert(name, stack, stacked=True) for name, stack in sets.stacks.items()}
    check_data(objective)
    held = {name: np.asarray(array) for name, array in objective.data.items()}
    for i, label in enumerate(sets.labels):
        try:
            check_values(objective, held | {name: stack[i] for name, stack in stacks.items()}, stacks)
        except Exception as error:
            raise type(error)(f"Data set {label!r}: {error}") from error
    if sets.row_axes:
        stacks[WEIGHTS] = sets.row_weights.astype(objective.data[WEIGHTS].dtype)
    return objective, stacks


def _add_rows(objective: Objective, stacks: dict[str, np.ndarray]) -> tuple[Objective, dict[str, np.ndarray]]:
    laid = add_rows(objective)
    return laid, lay_stacks(laid, objective, stacks)


def _search_each(
    objective: Objective, stacks: dict[str, np.ndarray], transformation, points, settings: Settings, progressbar: bool
) -> Ends:
    """Search from each start for each data set, and keep the best of each."""
    objective, stacks = _add_rows(objective, stacks)
    n_sets, n_points = len(next(iter(stacks.values()))), len(next(iter(points.values())))
    starts = {name: np.concatenate([stack] * n_sets) for name, stack in points.items()}

    def take(numbers: np.ndarray) -> dict[str, np.ndarray]:
        return {name: stack[numbers // n_points] for name, stack in stacks.items()}

    ends = minimise_each(objective, transformation, starts, take, settings, label="data sets", progressbar=progressbar)
    best = np.arange(n_sets) * n_points + np.argmin(ends.loss.reshape(n_sets, n_points), axis=1)
    return replace(
        ends,
        params={name: stack[best] for name, stack in ends.params.items()},
        **{name: getattr(ends, name)[best] for name in ("loss", "gradient_norm", "status", "n_steps")},
        last_moves=None if ends.last_moves is None else ends.last_moves.pick(best),
    )


def _search_on(client: Any, model: pm.Model, sets: DataSets, optimizer, points, settings: Settings) -> Ends:
    """Let the workers of a Dask cluster search, each for a part of the data sets at a time."""
    n_workers = max(1, len(client.scheduler_info(n_workers=-1)["workers"]))
    parts = np.array_split(np.arange(len(sets.labels)), min(len(sets.labels), PARTS_OF_WORKER * n_workers))
    # The model is sent to each worker once, which keeps it and what it has compiled.
    there = client.scatter(model, broadcast=True)
    futures = [client.submit(_search_part, there, sets.part(p), optimizer, points, settings, pure=False) for p in parts]
    ends = client.gather(futures)
    return Ends(
        {name: np.concatenate([end.params[name] for end in ends]) for name in ends[0].params},
        *(
            np.concatenate([getattr(end, name) for end in ends])
            for name in ("loss", "gradient_norm", "status", "n_steps")
        ),
        last_moves=_join_moves([end.last_moves for end in ends]),
    )


def _join_moves(parts: list[LastMoves | None]) -> LastMoves | None:
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    return LastMoves(*map(np.concatenate, zip(*known, strict=True)))


def _search_part(model: pm.Model, sets: DataSets, optimizer, points, settings: Settings) -> Ends:
    """Do the work of `find_maps` on a worker."""
    template = assemble_objective(model, jacobian=False, initvals=None, accept=check_trace)
    objective, stacks = _fill_in(template, sets)
    transformation = make_transformation(stochastic=False, **optimizer)
    return _search_each(objective, stacks, transformation, points, settings, progressbar=False)


def _check_any(objective: Objective, stacks: dict[str, np.ndarray], points, ends: Ends) -> None:
    """Raise an error that says why, if no fit has got anywhere."""
    if np.isfinite(ends.loss).any():
        return
    if ends.interrupted:
        raise KeyboardInterrupt
    single = objective.with_data(**{name: stack[0] for name, stack in stacks.items()})
    raise ValueError(explain_at(single, {name: stack[0] for name, stack in points.items()}))


def _warn_of_failed(fits: MAPResults) -> None:
    failed = np.flatnonzero(~fits.converged)
    if failed.size:
        first = failed[0]
        warnings.warn(
            f"{failed.size} of {len(fits.labels)} fits did not converge: "
            f"{list_labels([fits.labels[i] for i in failed])}. {fits.labels[first]!r}: {fits.messages[first]}",
            stacklevel=4,
        )


def _blank(stack: np.ndarray, loss: np.ndarray) -> np.ndarray:
    """Return parameters with NaN for those that have no loss."""
    return np.where(np.isfinite(loss).reshape(-1, *[1] * (stack.ndim - 1)), stack, np.nan)


def _diagnose_each(
    objective: Objective, stacks: dict[str, np.ndarray], transformation, points, settings: Settings, ends: Ends
) -> dict[int, Diagnosis]:
    """Diagnose the searches whose ends leave a doubt."""
    objective, stacks = _add_rows(objective, stacks)
    n_sets = len(ends.loss)
    starts = {name: np.broadcast_to(stack[0], (n_sets, *stack.shape[1:])) for name, stack in points.items()}
    doubtful = find_doubtful(starts, ends.params, ends.last_moves) & np.isfinite(ends.loss)
    found: dict[int, Diagnosis] = {}
    for i in map(int, np.flatnonzero(doubtful)):
        own = {name: place(stack[i], objective.device) for name, stack in stacks.items()}
        single = replace(objective, data=objective.data | own)

        def search_from(point: Mapping[str, np.ndarray], single: Objective = single) -> tuple[float, dict]:
            ended = minimise(single, transformation, {name: v[None] for name, v in point.items()}, settings)
            return float(ended.loss[0]), {name: stack[0] for name, stack in ended.params.items()}

        def evaluate(point: Mapping[str, np.ndarray], single: Objective = single) -> float:
            return float(single.value(point))

        start, params = ({name: stack[i] for name, stack in part.items()} for part in (starts, ends.params))
        moves = None if ends.last_moves is None else ends.last_moves.pick(i)
        found[i] = diagnose(single, start, params, moves, ends.status[i], ends.loss[i], evaluate, search_from)
    return found


def _describe_end(ends: Ends, sets: DataSets, i: int, diagnosis: Diagnosis | None) -> str:
    if np.isfinite(ends.loss[i]) or ends.status[i] is Status.INTERRUPTED:
        norm, step = float(ends.gradient_norm[i]), int(ends.n_steps[i])
        message = describe(ends.status[i], step=step, gradient_norm=norm, stochastic=False)
        return " ".join(filter(None, [message, diagnosis.describe(ends.status[i], {}) if diagnosis else ""]))
    for name, array in sets.pick(i).items():
        if array.dtype.kind == "f" and np.isnan(array).any():
            at = tuple(map(int, np.argwhere(np.isnan(array))[0]))
            return f"The data hold NaN: {name!r} ({np.isnan(array).sum()} NaN, first at index {at})."
    return "Loss or gradient at the start are not finite. Run find_map on this data set to see why."
