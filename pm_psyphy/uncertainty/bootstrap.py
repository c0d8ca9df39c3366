"""A fit in; the estimates of resampled or simulated data come out, fitted all at once."""

import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pymc as pm
import pytensor
import xarray as xr
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.replace import clone_replace
from pytensor.graph.traversal import graph_inputs
from pytensor.tensor.type import TensorType

from pm_psyphy.common.settings import check_whole
from pm_psyphy.common.tables import Table
from pm_psyphy.compiling.devices import compute_plainly
from pm_psyphy.compiling.from_model import change_density, count_rows, find_observed
from pm_psyphy.compiling.row_weights import WEIGHTS, find_row_dim
from pm_psyphy.fitting.find_map import find_map
from pm_psyphy.optimizing.status import Status
from pm_psyphy.results.draws import Draws
from pm_psyphy.results.map_result import MAPResult
from pm_psyphy.uncertainty.laplace import approximate, check_fit
from pm_psyphy.uncertainty.refit_from_mode import refit

# In standard errors. Those of a thousand data sets err by 0.02 themselves.
TOLERANCE = 0.01


@dataclass(frozen=True, repr=False, eq=False)
class Bootstrap(Draws):
    """Estimates of n bootstrap data sets: a mapping from the model's names to arrays, (n, ...).

    Attributes
    ----------
    fit : MAPResult
        The fit to the original data.
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

    def _tabulate(self) -> Table:
        converged = sum(status is Status.CONVERGED for status in self.status)
        foot = f"{converged:,} of {self.n_draws:,} fits to resampled data converged"
        return replace(super()._tabulate(), foot=foot)

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
        groups = self.describe_along("bootstrap", log_likelihood=log_likelihood)
        groups["fit"] = xr.Dataset(
            {
                "loss": ("bootstrap", self.loss),
                "status": ("bootstrap", [str(status) for status in self.status]),
                "n_steps": ("bootstrap", self.n_steps),
            }
        )
        return xr.DataTree.from_dict(groups)


@compute_plainly
def bootstrap(
    fit: MAPResult | pm.Model,
    *,
    n_refits: int = 120,
    dim: str | None = None,
    method: str = "resample",
    strata: Any = None,
    random_seed: Any = None,
    progressbar: bool = True,
) -> Bootstrap:
    """Fit a model again to data sets that are resampled or simulated, all in one compiled program.

    Each fit begins at the original estimate, in coordinates in which its Hessian is the identity, so that it takes a
    few steps. It ends about a hundredth of a standard error from its optimum.

    Parameters
    ----------
    fit : MAPResult or pm.Model
        Converged; a model is fitted first.
    n_refits : int
        Number of data sets.
    dim : str, optional
        The dim of the rows that are drawn with replacement. Observed variables have it, and no parameter does.
        Default: the only such dim of the model.
    method : {"resample", "parametric"}
        ``"resample"`` draws rows with replacement; ``"parametric"`` draws responses from the model at the estimate.
    strata : array, (N,), optional
        A label for each row, such as its condition or observer: each row is replaced by one with the same label.
    random_seed : int or numpy.random.Generator, optional
    progressbar : bool

    Returns
    -------
    Bootstrap

    Raises
    ------
    ValueError
        If the fit did not converge, a setting is out of range, or no observed variable has the dim.

    References
    ----------
    Efron and Tibshirani (1993), An Introduction to the Bootstrap.
    """
    if isinstance(fit, pm.Model):
        fit = find_map(fit, progressbar=False)
    check_fit(fit)
    check_whole(n_refits=n_refits)
    if method not in ("resample", "parametric"):
        raise ValueError(f"method is {method!r}. Pass 'resample' or 'parametric'.")
    rng = np.random.default_rng(random_seed)
    objective = fit.objective
    if method == "resample":
        dim = dim or find_row_dim(objective.model)
        take = _resample(count_rows(objective, dim), n_refits, strata, rng)
        objective = change_density(objective, weighted_dim=dim)
    else:
        take = _simulate(fit, n_refits, rng)
    near = approximate(objective, fit.unconstrained)
    found = refit(near, take, n_refits, tolerance=TOLERANCE, progressbar=progressbar)
    failed = [i for i, status in enumerate(found.status) if status not in (Status.CONVERGED, Status.STALLED)]
    if failed:
        warnings.warn(
            f"{len(failed)} of {n_refits} fits did not converge ({_count(found.status[failed])}), the first at index "
            f"{failed[0]}. The standard errors include these fits; see `status`.",
            stacklevel=3,
        )
    return Bootstrap(fit.objective, found.params, fit, found.loss, tuple(found.status), found.n_steps)


def _count(status: Iterable[Any]) -> str:
    return ", ".join(f"{n} {name}" for name, n in Counter(map(str, status)).items())


def _resample(length: int, n: int, strata: Any, rng: Any) -> Callable[[np.ndarray], dict]:
    """Return the function that draws rows with replacement: how often each is in a data set is its weight."""
    labels = np.zeros(length, int) if strata is None else np.asarray(strata)
    if labels.shape != (length,):
        raise ValueError(f"strata has shape {labels.shape}. Pass a label for each of the {length} rows.")
    counts = np.empty((n, length), pytensor.config.floatX)
    for label in np.unique(labels):
        (members,) = np.nonzero(labels == label)
        counts[:, members] = rng.multinomial(len(members), np.full(len(members), 1 / len(members)), size=n)
    return lambda i: {WEIGHTS: counts[i]}


def _simulate(fit: MAPResult, n: int, rng: Any) -> Callable[[np.ndarray], dict]:
    """Return the function that takes data sets whose responses were drawn at the estimate."""
    objective, model = fit.objective, fit.objective.model
    observed = find_observed(objective)
    missing = [rv.name for rv in model.observed_RVs if rv.name not in observed]
    if missing:
        raise ValueError(
            f"The observed values of {', '.join(missing)} are computed in the model, so simulated ones cannot replace "
            "them. Use method='resample', or observe an array or pm.Data."
        )
    values = objective.constrain(fit.unconstrained, [rv.name for rv in model.free_RVs])
    known = {model[name]: np.asarray(value) for name, value in values.items()}
    outputs = [model[name] for name in observed]
    # Covariates and lengths are those of the fit, whatever the model holds now.
    held = {v: np.asarray(objective.data[name]) for name, v in objective.program.graph.sources.items()}
    known |= {v: held[v] for v in _find_shared(outputs) if v in held}
    constants = {v: v.type.constant_type(v.type, value) for v, value in known.items()}
    outputs = clone_replace(outputs, constants, rebuild_strict=False)
    drawn = pm.draw(outputs, draws=n, random_seed=rng)
    stacks = {ours: np.asarray(draws) for ours, draws in zip(observed.values(), drawn, strict=True)}
    return lambda i: {name: stack[i].astype(objective.data[name].dtype) for name, stack in stacks.items()}


def _find_shared(outputs: list[Any]) -> list[Any]:
    return [v for v in graph_inputs(outputs) if isinstance(v, SharedVariable) and isinstance(v.type, TensorType)]
