"""A fit in; the estimates of resampled or simulated data come out, fitted all at once."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pymc as pm
import xarray as xr
from pytensor.graph.basic import Constant
from pytensor.graph.traversal import ancestors

from pm_psyphy.draws import Draws
from pm_psyphy.fit import find_map
from pm_psyphy.graph import read_data
from pm_psyphy.laplace import approximate, check_fit
from pm_psyphy.objective import Objective
from pm_psyphy.refit import refit
from pm_psyphy.result import MAPResult
from pm_psyphy.status import Status


@dataclass(frozen=True, repr=False, eq=False)
class Bootstrap(Draws):
    """Estimates of n bootstrap data sets: a mapping from the model's names to arrays, (n, ...).

    Attributes
    ----------
    fit : MAPResult
        Of the original data.
    loss : ndarray, (n,)
    status : tuple of Status
        How each fit ended.
    n_steps : ndarray, (n,)
    """

    fit: MAPResult
    loss: np.ndarray
    status: tuple[Status, ...]
    n_steps: np.ndarray

    @property
    def standard_errors(self) -> dict[str, np.ndarray]:
        """Standard deviations over the data sets."""
        return {name: values.std(axis=0, ddof=1) for name, values in self.items()}

    def __repr__(self) -> str:
        converged = sum(status is Status.CONVERGED for status in self.status)
        return f"Bootstrap: {self.n_draws:,} data sets, {converged:,} fits converged, of {', '.join(self)}"

    def to_datatree(self, *, log_likelihood: bool = False) -> xr.DataTree:
        """Return the estimates as a DataTree.

        Parameters
        ----------
        log_likelihood : bool
            Add the log likelihood of the original data under each estimate.

        Returns
        -------
        xarray.DataTree
            Groups as `Draws.to_datatree`, with a dim ``bootstrap`` in place of chains and draws.
        """
        tree = super().to_datatree(log_likelihood=log_likelihood)
        groups: dict[str, Any] = {
            name: group.dataset.squeeze("chain", drop=True).rename(draw="bootstrap")
            if "draw" in group.dims
            else group.dataset
            for name, group in tree.children.items()
        }
        groups["fit"] = xr.Dataset(
            {
                "loss": ("bootstrap", self.loss),
                "status": ("bootstrap", [str(status) for status in self.status]),
                "n_steps": ("bootstrap", self.n_steps),
            }
        )
        return xr.DataTree.from_dict(groups)


def bootstrap(
    fit: MAPResult | pm.Model,
    *,
    n: int = 120,
    dim: str = "trial",
    method: str = "resample",
    strata: Any = None,
    random_seed: Any = None,
    progressbar: bool = True,
) -> Bootstrap:
    """Fit a model again to data sets that are resampled or simulated, all in one compiled program.

    Each fit begins at the original estimate, in coordinates in which its Hessian is the identity, so that it takes a
    few steps.

    Parameters
    ----------
    fit : MAPResult or pm.Model
        Converged; a model is fitted first.
    n : int
        How many data sets.
    dim : str
        Along which data are drawn with replacement: of the model's dims, one that all of its rows have.
    method : {"resample", "parametric"}
        ``"parametric"``: responses are drawn from the model at the estimate, and the rest stays as it is.
    strata : array, (N,), optional
        Rows are drawn only from those with the same label, as of a condition or an observer.
    random_seed : int or numpy.random.Generator, optional
    progressbar : bool

    Returns
    -------
    Bootstrap

    Raises
    ------
    ValueError
        If the fit did not converge, a setting is out of range, no data have the dim, or some have its length but not
        its name.

    References
    ----------
    Efron and Tibshirani (1993), An Introduction to the Bootstrap.
    """
    if isinstance(fit, pm.Model):
        fit = find_map(fit, progressbar=False)
    check_fit(fit)
    if not isinstance(n, int | np.integer) or n < 1:
        raise ValueError(f"n is {n!r}. Pass a whole number of at least 1.")
    if method not in ("resample", "parametric"):
        raise ValueError(f"method is {method!r}. Pass 'resample' or 'parametric'.")
    rng = np.random.default_rng(random_seed)
    objective = fit.objective
    take = _resample(objective, dim, n, strata, rng) if method == "resample" else _simulate(fit, n, rng)
    near = approximate(objective, fit.unconstrained)
    found = refit(objective, near.mode, near.factor, take, n, progressbar=progressbar)
    failed = [i for i, status in enumerate(found.status) if status not in (Status.CONVERGED, Status.STALLED)]
    if failed:
        warnings.warn(
            f"{len(failed)} of {n} fits did not converge, the first of them number {failed[0]}; see `status`.",
            stacklevel=2,
        )
    return Bootstrap(objective, found.unconstrained, fit, found.loss, found.status, found.n_steps)


def _resample(objective: Objective, dim: str, n: int, strata: Any, rng: Any) -> Callable[[np.ndarray], dict]:
    """Return the function that takes data sets of rows that are drawn with replacement."""
    axes, length = find_axes(objective, dim)
    labels = np.zeros(length, int) if strata is None else np.asarray(strata)
    if labels.shape != (length,):
        raise ValueError(f"strata has shape {labels.shape}. Pass a label for each of the {length} rows.")
    rows = np.empty((n, length), int)
    for label in np.unique(labels):
        (members,) = np.nonzero(labels == label)
        rows[:, members] = rng.choice(members, (n, len(members)))
    return lambda i: take_rows(objective, axes, rows[i])


def take_rows(objective: Objective, axes: dict[str, int], rows: np.ndarray) -> dict[str, np.ndarray]:
    """Return the data of B selections of rows.

    Parameters
    ----------
    objective : Objective
    axes : dict of str to int
        Which data have rows, and along which axis.
    rows : ndarray of int, (B, N)

    Returns
    -------
    dict of str to ndarray, each (B, ...)
    """
    return {
        name: np.moveaxis(np.take(np.asarray(objective.data[name]), rows, axis), axis, 0) for name, axis in axes.items()
    }


def find_axes(objective: Objective, dim: str) -> tuple[dict[str, int], int]:
    """Return which data of an objective have a dim, along which axis, and its length.

    Parameters
    ----------
    objective : Objective
    dim : str

    Returns
    -------
    axes : dict of str to int
    length : int

    Raises
    ------
    ValueError
        If no data have it, a parameter has it, or data of its length do not say whether they have it.
    """
    model = objective.model
    named = {name: tuple(dims) for name, dims in model.named_vars_to_dims.items() if dim in dims}
    with_dim = [v.name for v in model.free_RVs if v.name in named]
    if with_dim:
        raise ValueError(
            f"{', '.join(with_dim)} has the dim {dim!r}: there is a parameter for each of its rows, which cannot be "
            "drawn apart from it. Pass another dim."
        )
    axes = {name: dims.index(dim) for name, dims in named.items() if name in objective.data}
    axes |= {ours: named[name].index(dim) for name, ours in find_observed(objective).items() if name in named}
    if not axes:
        known = sorted({d for dims in model.named_vars_to_dims.values() for d in dims if d})
        raise ValueError(
            f"No data of the model have the dim {dim!r}; its dims are {', '.join(known) or 'none'}. "
            "Name it in pm.Data(..., dims=...) and in the observed variables."
        )
    name, axis = next(iter(axes.items()))
    length = np.shape(objective.data[name])[axis]
    constants = [v for v in ancestors(objective.program.graph.outputs) if isinstance(v, Constant)]
    others = {name: np.shape(array) for name, array in objective.data.items() if name not in axes}
    others |= {f"a constant {np.asarray(c.data).ravel()[:3]}..": np.shape(c.data) for c in constants}
    unnamed = [name for name, shape in others.items() if length > 1 and length in shape]
    if unnamed:
        raise ValueError(
            f"{', '.join(unnamed)} has the length of the dim {dim!r}, {length}, and does not say whether it has its "
            "rows. Declare it by pm.Data(..., dims=...)."
        )
    return axes, length


def find_observed(objective: Objective) -> dict[str, str]:
    """Return the observed variables whose values the objective holds, and the names under which it does."""
    model, sources = objective.model, objective.program.graph.sources
    names = {id(source): name for name, source in sources.items()}
    values = {rv.name: model.rvs_to_values[rv] for rv in model.observed_RVs}
    return {name: names[id(value)] for name, value in values.items() if id(value) in names}


def _simulate(fit: MAPResult, n: int, rng: Any) -> Callable[[np.ndarray], dict]:
    """Return the function that takes data sets whose responses were drawn at the estimate."""
    objective, model = fit.objective, fit.objective.model
    present = read_data(objective.program.graph.sources)
    changed = [name for name, array in present.items() if not np.array_equal(array, objective.data[name])]
    if changed:
        raise ValueError(
            f"The fit was of other data than the model holds: {', '.join(changed)}. Set them by pm.set_data, and fit "
            "the model, to simulate from it."
        )
    observed = find_observed(objective)
    missing = [rv.name for rv in model.observed_RVs if rv.name not in observed]
    if missing:
        raise ValueError(f"The data of {', '.join(missing)} are computed, not given, and cannot be simulated.")
    values = objective.constrain(fit.unconstrained)
    known = pm.do(model, {rv.name: np.asarray(values[rv.name]) for rv in model.free_RVs})
    drawn = pm.draw([known[name] for name in observed], draws=n, random_seed=rng)
    stacks = {ours: np.asarray(draws) for ours, draws in zip(observed.values(), drawn, strict=True)}
    return lambda i: {name: stack[i].astype(present[name].dtype) for name, stack in stacks.items()}
