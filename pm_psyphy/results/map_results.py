"""Estimates of many data sets in; a mapping from the model's names to all of them comes out."""

from collections.abc import Hashable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import xarray as xr

from pm_psyphy.common.tables import Table, abridge
from pm_psyphy.compiling.from_model import change_density, find_observed
from pm_psyphy.optimizing.minimise import Trajectory
from pm_psyphy.optimizing.status import Status
from pm_psyphy.results.draws import Draws
from pm_psyphy.results.map_result import MAPResult, make_result
from pm_psyphy.rows.data_sets import DataSets


@dataclass(frozen=True, repr=False, eq=False)
class MAPResults(Draws):
    """MAP estimates of n data sets: a mapping from the model's names to arrays, (n, ...).

    Data sets whose loss is nowhere finite have NaN; so have deterministics of rows that a data set does not have.

    Attributes
    ----------
    labels : tuple
        What the data sets are called: keys, coords, or numbers.
    dim : str
        What their axis is called in `to_datatree`.
    loss, gradient_norm, n_steps : ndarray, (n,)
        As of `MAPResult`.
    status : tuple of Status
        How each fit ended.
    messages : tuple of str
        The same with figures.
    optimizer, device : str
    compile_seconds, run_seconds : float
        Time to build and compile, and to run all fits.
    """

    labels: tuple[Hashable, ...]
    dim: str
    loss: np.ndarray
    gradient_norm: np.ndarray
    n_steps: np.ndarray
    status: tuple[Status, ...]
    messages: tuple[str, ...]
    optimizer: str
    device: str
    compile_seconds: float
    run_seconds: float
    data_sets: DataSets = field(repr=False)

    @property
    def converged(self) -> np.ndarray:
        """Whether each fit did, (n,)."""
        return np.array([status is Status.CONVERGED for status in self.status])

    @cached_property
    def values_by_name(self) -> dict[str, np.ndarray]:
        """Free variables and deterministics, each (n, ...)."""
        values = super().values_by_name
        sets, dims = self.data_sets, self.objective.model.named_vars_to_dims
        if not sets.row_axes:
            return values
        row_dim = find_row_dim(self.objective.model, sets)
        real = sets.row_weights > 0
        for name, stack in values.items():
            if row_dim in (own := tuple(dims.get(name) or ())):
                axis = 1 + own.index(row_dim)
                mask = np.expand_dims(real, tuple(i for i in range(1, stack.ndim) if i != axis))
                values[name] = np.where(mask, stack, np.nan)
        return values

    def select(self, label: Hashable) -> MAPResult:
        """Return the fit of one data set, as `find_map` does, to go on with: `laplace`, `bootstrap`, `sample`.

        Parameters
        ----------
        label : hashable
            One of `labels`.

        Returns
        -------
        MAPResult
            Its history has the last step only.
        """
        if label not in self.labels:
            raise KeyError(f"There is no data set {label!r}. There are {', '.join(map(repr, self.labels[:10]))}.")
        i = self.labels.index(label)
        if not np.isfinite(self.loss[i]):
            raise ValueError(f"Data set {label!r} has no estimate. {self.messages[i]}")
        objective = self.objective
        if self.data_sets.row_axes:
            objective = change_density(objective)
        trajectory = Trajectory(
            params={name: stack[i : i + 1] for name, stack in self.unconstrained.items()},
            loss=self.loss[i : i + 1],
            gradient_norm=self.gradient_norm[i : i + 1],
            status=[self.status[i]],
            last_step=self.n_steps[i : i + 1],
            last_moves=None,
            logged_steps=self.n_steps[i : i + 1],
            logged=np.array([[[self.loss[i], self.gradient_norm[i]]]]),
            compile_seconds=0.0,
            run_seconds=0.0,
        )
        return make_result(
            objective.with_data(**self.data_sets.pick(i)),
            trajectory,
            optimizer=self.optimizer,
            device=self.device,
            compile_seconds=0.0,
            var_names=None,
        )

    def to_datatree(self, *, log_likelihood: bool = False) -> xr.DataTree:
        """Return the fits as an ArviZ DataTree.

        Parameters
        ----------
        log_likelihood : bool
            Add the log likelihood of each observation under the estimate of its data set.

        Returns
        -------
        xarray.DataTree
            Groups ``posterior``, ``unconstrained_posterior``, ``observed_data``, ``constant_data`` and ``fit``, with
            the dim of the data sets and their labels. Rows that a data set does not have are NaN.
        """
        groups = self.describe_along(self.dim, log_likelihood=log_likelihood)
        names = find_observed(self.objective)
        for group in ("observed_data", "constant_data"):
            if group in groups:
                own = {v: names.get(str(v), str(v)) for v in groups[group].data_vars}
                groups[group] = groups[group].assign({
                    variable: ((self.dim, *groups[group][variable].dims), self._fill(name))
                    for variable, name in own.items()
                    if name in self.data_sets.stacks
                })  # fmt: skip
        groups["fit"] = xr.Dataset({
            "loss": (self.dim, self.loss),
            "gradient_norm": (self.dim, self.gradient_norm),
            "n_steps": (self.dim, self.n_steps),
            "status": (self.dim, [str(status) for status in self.status]),
        })  # fmt: skip
        labels = {self.dim: list(self.labels)}
        return xr.DataTree.from_dict(
            {name: g.assign_coords(labels) if self.dim in g.dims else g for name, g in groups.items()}
        )

    def _fill(self, name: str) -> np.ndarray:
        """Return a stack with NaN for rows that were filled in."""
        sets, stack = self.data_sets, self.data_sets.stacks[name]
        if name not in sets.row_axes:
            return stack
        axis = 1 + sets.row_axes[name]
        mask = np.expand_dims(sets.row_weights > 0, tuple(i for i in range(1, stack.ndim) if i != axis))
        return np.where(mask, stack, np.nan)

    def _tabulate(self) -> Table:
        failed = [label for label, converged in zip(self.labels, self.converged, strict=True) if not converged]
        count = f"{self.converged.sum():,} of {len(self.labels):,} data sets converged"
        return Table(
            f"MAPResults: {count}{f', not {list_labels(failed)}' if failed else ''}",
            [(name, abridge(value)) for name, value in self.items()],
            foot=f"{self.optimizer} on {self.device}, compiled in {self.compile_seconds:.2f} s, "
            f"ran in {self.run_seconds:.2f} s",
        )


def find_row_dim(model: Any, sets: DataSets) -> str:
    """Return the name of the dim along which data sets have rows of their own number."""
    dims = {name: tuple(named) for name, named in model.named_vars_to_dims.items()}
    observed = [rv.name for rv in model.observed_RVs]
    found = {dims[name][axis] for name, axis in sets.row_axes.items() if name in dims and axis < len(dims[name])}
    found = found or {dims[name][0] for name in observed if name in dims}
    if len(found) != 1:
        raise ValueError(
            f"The data sets have {sets.lengths.min()} to {sets.lengths.max()} rows, and the model names "
            f"{', '.join(sorted(map(str, found))) or 'no dim'} for them. Name one, on the observed variables too: "
            "pm.Normal(..., observed=..., dims='trial')."
        )
    return str(found.pop())


def list_labels(labels: list[Hashable]) -> str:
    """Return the first few labels, and how many more there are."""
    more = f" and {len(labels) - 5:,} more" if len(labels) > 5 else ""
    return ", ".join(map(repr, labels[:5])) + more
