"""A model and a grid of its hyperparameters in; how well each setting predicts rows it has not seen comes out."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pymc as pm
import xarray as xr
from rich.progress import track

from pm_psyphy.common.tables import MOST_ROWS, ShownAsTable, Table, say_left_out
from pm_psyphy.compiling.devices import compute_plainly
from pm_psyphy.compiling.from_model import assemble_objective, change_density, find_model
from pm_psyphy.compiling.objective import Objective
from pm_psyphy.compiling.program import check_trace
from pm_psyphy.compiling.row_weights import WEIGHTS, find_row_dim, find_rows
from pm_psyphy.fitting.find_map import find_map
from pm_psyphy.optimizing.status import Status
from pm_psyphy.results.draws import Draws
from pm_psyphy.results.map_result import MAPResult
from pm_psyphy.uncertainty.laplace import Gaussian, add_jacobian, approximate
from pm_psyphy.uncertainty.refit_from_mode import refit

# By about so many standard errors may the estimate without a fold err.
TOLERANCE = 1e-3


@dataclass(frozen=True, repr=False, eq=False)
class CrossValidation(ShownAsTable):
    """Held-out log likelihoods and evidence of the settings of a grid, whose G axes are its hyperparameters.

    Attributes
    ----------
    grid : dict of str to ndarray
        The values tried, by hyperparameter.
    log_likelihood : ndarray, (..., N)
        The log likelihood of each row under the fit that left its fold out; NaN at settings that could not be fitted.
    folds : ndarray of int, (N,)
        The fold of each row.
    log_evidence : ndarray, (...)
        Log marginal likelihood of all data, by Laplace's approximation.
    converged : ndarray of bool, (..., folds)
    dim : str
        The rows' dim.
    """

    grid: dict[str, np.ndarray]
    log_likelihood: np.ndarray
    folds: np.ndarray
    log_evidence: np.ndarray
    converged: np.ndarray
    dim: str

    @property
    def total(self) -> np.ndarray:
        """Held-out log likelihood of all rows, (...)."""
        return self.log_likelihood.sum(axis=-1)

    @property
    def by_fold(self) -> np.ndarray:
        """Held-out log likelihood of each fold, (..., folds)."""
        n_folds = self.converged.shape[-1]
        return np.stack([self.log_likelihood[..., self.folds == f].sum(axis=-1) for f in range(n_folds)], axis=-1)

    @property
    def best(self) -> dict[str, Any]:
        """The setting that predicts held-out rows best."""
        return self._name(np.nanargmax(self.total))

    @property
    def best_by_evidence(self) -> dict[str, Any]:
        """The setting with the largest evidence."""
        return self._name(np.nanargmax(self.log_evidence))

    def compare(self) -> tuple[np.ndarray, np.ndarray]:
        """Return how far each setting's total is below the best one's, and the standard error of that, both (...)."""
        flat = self.log_likelihood.reshape(-1, self.log_likelihood.shape[-1])
        lost = flat[np.nanargmax(self.total)] - flat
        error = np.sqrt(lost.shape[-1]) * lost.std(axis=-1, ddof=1)
        return lost.sum(axis=-1).reshape(self.total.shape), error.reshape(self.total.shape)

    def to_datatree(self) -> xr.DataTree:
        """Return all of it as a DataTree, with one group, ``cross_validation``.

        Returns
        -------
        xarray.DataTree
            With a dim for each hyperparameter, one for the rows, and ``fold``.
        """
        names = list(self.grid)
        coords = {name: values for name, values in self.grid.items() if values.ndim == 1}
        arrays = {
            "log_likelihood": ([*names, self.dim], self.log_likelihood),
            "log_evidence": (names, self.log_evidence),
            "converged": ([*names, "fold"], self.converged),
            "fold_of_row": (self.dim, self.folds),
        }
        return xr.DataTree.from_dict({"cross_validation": xr.Dataset(arrays, coords=coords)})

    def _tabulate(self) -> Table:
        lost, error = self.compare()
        head = [*self.grid, "log likelihood", "below the best", "log evidence"]
        rows = [
            [
                *(f"{value:.4g}" if np.ndim(value) == 0 else "array" for value in self._name(i).values()),
                f"{self.total.flat[i]:.1f}",
                f"{lost.flat[i]:.1f} ± {error.flat[i]:.1f}",
                f"{self.log_evidence.flat[i]:.1f}",
            ]
            for i in np.argsort(-self.total, axis=None)[:MOST_ROWS]
        ]
        title = (
            f"CrossValidation: {self.converged.shape[-1]} folds of {len(self.folds):,} rows, "
            f"{self.total.size} setting{'s' * (self.total.size != 1)}"
        )
        return Table(title, rows, head, say_left_out(self.total.size))

    def _name(self, flat_index: Any) -> dict[str, Any]:
        index = np.unravel_index(int(flat_index), self.total.shape)
        return {name: values[i].tolist() for (name, values), i in zip(self.grid.items(), index, strict=True)}


@compute_plainly
def cross_validate(
    model: pm.Model | MAPResult | None = None,
    *,
    dim: str | None = None,
    folds: int | Sequence[int] = 5,
    grid: Mapping[str, Sequence[Any]] | None = None,
    random_seed: Any = None,
    progressbar: bool = True,
) -> CrossValidation:
    """Measure how well a model predicts rows it has not seen, for each setting of a grid of hyperparameters.

    At each setting the model is fitted first to all data, starting from the estimate of the nearest setting that was
    fitted before; this fit gives the evidence. From its estimate the model is fitted again without each of the folds.
    All fits run in one compiled program.

    Parameters
    ----------
    model : pm.Model or MAPResult, optional
        A fit is where the search begins. Default: the model in context.
    dim : str, optional
        The dim of the rows, some of which are held out at a time. Observed variables have it, and no parameter does.
        Default: the only such dim of the model.
    folds : int or array of int, (N,)
        The number of folds, to which rows are assigned at random; or a label for each row, such as its session.
    grid : dict of str to sequence, optional
        Values of hyperparameters, which are declared as ``pm.Data("decay_rate", 0.4)``. All combinations are tried.
    random_seed : int or numpy.random.Generator, optional
        Seed for the folds.
    progressbar : bool

    Returns
    -------
    CrossValidation

    Raises
    ------
    ValueError
        If there are more folds than rows, no observed variable has the dim, the grid names something that is not
        pm.Data in the model, or no setting can be fitted. If some can, warnings name the others.
    """
    found = model.objective.model if isinstance(model, MAPResult) else find_model(model)
    dim = dim or find_row_dim(found)
    objective = _weigh(model, dim)
    n_rows = len(objective.data[WEIGHTS])
    labels = _assign_folds(folds, n_rows, np.random.default_rng(random_seed))
    values = _check_grid(grid or {}, objective)
    shape, n_folds = tuple(len(v) for v in values.values()), int(labels.max()) + 1
    log_likelihood = np.full((*shape, n_rows), np.nan)
    log_evidence, converged = np.full(shape, np.nan), np.zeros((*shape, n_folds), bool)
    with_jacobian = add_jacobian(objective)
    kept = (labels != np.arange(n_folds)[:, None]).astype(objective.data[WEIGHTS].dtype)
    reached: dict[tuple[int, ...], dict[str, np.ndarray]] = {}
    failures: list[ValueError] = []
    for index in track(list(np.ndindex(shape)), "settings", disable=not progressbar, transient=True):
        setting = {name: v[i] for (name, v), i in zip(values.items(), index, strict=True)}
        here = replace(objective.with_data(**setting), start=_find_nearest(reached, index, objective.start))
        try:
            reached[index], near, log_evidence[index] = _fit(here, with_jacobian.with_data(**setting))
        except ValueError as error:
            failures.append(error)
            warnings.warn(f"No fit at {_say(setting)}: {error}", stacklevel=3)
            continue
        found = refit(near, lambda i: {WEIGHTS: kept[i]}, n_folds, tolerance=TOLERANCE)
        converged[index] = [status in (Status.CONVERGED, Status.STALLED) for status in found.status]
        if not converged[index].all():
            n_failed = np.sum(~converged[index])
            warnings.warn(f"{n_failed} of {n_folds} folds did not converge at {_say(setting)}.", stacklevel=3)
        by_fold = _evaluate_rows(Draws(here, found.params), dim)
        log_likelihood[index] = by_fold[labels, np.arange(n_rows)]
    if not reached:
        raise failures[0]
    return CrossValidation(values, log_likelihood, labels, log_evidence, converged, dim)


def _fit(objective: Objective, with_jacobian: Objective) -> tuple[dict[str, np.ndarray], Gaussian, float]:
    """Return the estimate, the Gaussian around it, and the evidence."""
    estimate = find_map(objective, progressbar=False).unconstrained
    near = approximate(objective, estimate)
    is_same = with_jacobian.program is objective.program
    return estimate, near, near.log_evidence if is_same else approximate(with_jacobian, estimate).log_evidence


def _weigh(model: pm.Model | MAPResult | None, dim: str) -> Objective:
    """Return the objective in which each row has a weight."""
    if isinstance(model, MAPResult):
        return replace(change_density(model.objective, weighted_dim=dim), start=model.unconstrained)
    found = assemble_objective(find_model(model), jacobian=False, initvals=None, accept=check_trace, weighted_dim=dim)
    return change_density(found, weighted_dim=dim)


def _assign_folds(folds: Any, n_rows: int, rng: np.random.Generator) -> np.ndarray:
    if np.ndim(folds):
        given = np.asarray(folds)
        if given.shape != (n_rows,):
            raise ValueError(f"folds has shape {given.shape}. Pass a number, or a label for each of the {n_rows} rows.")
        names, labels = np.unique(given, return_inverse=True)
        if len(names) < 2:
            raise ValueError(f"All rows are in the fold {names.tolist()[0]!r}. Use at least two different fold labels.")
        return labels
    if not isinstance(folds, int | np.integer) or not 2 <= folds <= n_rows:
        raise ValueError(f"folds is {folds!r}, but there are {n_rows} rows. Pass a whole number from 2 to {n_rows}.")
    return rng.permutation(np.arange(n_rows) % folds)


def _check_grid(grid: Mapping[str, Sequence[Any]], objective: Objective) -> dict[str, np.ndarray]:
    values = {name: np.asarray(v) for name, v in grid.items()}
    own = {v.name for v in objective.model.data_vars} & objective.data.keys()
    for name, array in values.items():
        if name not in own:
            raise ValueError(
                f"The grid has {name!r}, which is not pm.Data in the model (data: {', '.join(sorted(own)) or 'none'}). "
                f"Declare it by {name} = pm.Data({name!r}, ...), and build the model with that."
            )
        if array.ndim == 0 or not len(array):
            raise ValueError(f"The grid has {array} for {name!r}. Pass a sequence of values.")
    return values


def _find_nearest(reached: dict, index: tuple[int, ...], start: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    nearest = min(reached, key=lambda other: np.abs(np.subtract(other, index)).sum(), default=None)
    return start if nearest is None else reached[nearest]


def _say(setting: dict[str, Any]) -> str:
    return ", ".join(f"{name} = {value}" for name, value in setting.items()) or "the model's own setting"


def _evaluate_rows(draws: Draws, dim: str) -> np.ndarray:
    """Return the log likelihood of each row for each draw, (S, N)."""
    model = draws.objective.model
    axes, _ = find_rows(model, dim)
    terms = draws.log_likelihood()
    terms |= {p.name: draws.evaluate(p) for p in model.potentials if p.name in axes}
    by_row = [np.moveaxis(terms[name], axis + 1, 1) for name, axis in axes.items()]
    return np.sum([term.reshape(*term.shape[:2], -1).sum(axis=-1) for term in by_row], axis=0)
