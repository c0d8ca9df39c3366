"""A fit in; an ArviZ DataTree with the model's dims and coords comes out."""

from typing import TYPE_CHECKING, Any, cast

import numpy as np
import xarray as xr
from arviz_base import dict_to_dataset
from pymc.backends.arviz import coords_and_dims_for_inferencedata
from pytensor.graph.traversal import graph_inputs

from pm_psyphy.compiling.from_model import find_observed
from pm_psyphy.compiling.model_graph import lift

if TYPE_CHECKING:
    from pm_psyphy.compiling.objective import Objective
    from pm_psyphy.results.map_result import MAPResult, Starts


def make_datatree(fit: "MAPResult") -> xr.DataTree:
    """Return a fit as a DataTree.

    Parameters
    ----------
    fit : MAPResult

    Returns
    -------
    xarray.DataTree
        Groups as `MAPResult.to_datatree` lists them.
    """
    held = {"posterior": dict(fit), "unconstrained_posterior": fit.unconstrained}
    alone = {group: {n: np.asarray(a)[None, None] for n, a in arrays.items()} for group, arrays in held.items()}
    groups = describe_draws(fit.objective, alone) | {
        "fit": _make_summary(fit),
        "history": xr.Dataset(
            {"loss": ("step", fit.history.loss), "gradient_norm": ("step", fit.history.gradient_norm)},
            coords={"step": fit.history.step},
        ),
    }
    if fit.starts:
        groups["starts"] = _describe_starts(fit.starts)
        groups["unconstrained_starts"] = dict_to_dataset(fit.starts.unconstrained, sample_dims=["start"])
    return xr.DataTree.from_dict(groups)


def describe_draws(objective: "Objective", held: dict[str, dict[str, np.ndarray]]) -> dict[str, xr.Dataset]:
    """Return groups of draws, and the data, with the model's dims and coords.

    Parameters
    ----------
    objective : Objective
    held : dict of dict of ndarray, each (chain, draw, ...)
        By group and variable.

    Returns
    -------
    dict of xarray.Dataset
        The groups held, ``observed_data`` and ``constant_data``, but those that are empty.
    """
    _, dims = coords_and_dims_for_inferencedata(objective.model)
    dims, coords = cast(Any, dims), {dim: np.asarray(labels) for dim, labels in objective.coords.items() if labels}
    observed, constant = _collect_data(objective)
    single = {name: array[0, 0] for arrays in held.values() for name, array in arrays.items()}
    coords = _matching_coords(coords, dims, {**single, **observed, **constant})
    groups = {group: dict_to_dataset(arrays, coords=coords, dims=dims) for group, arrays in held.items()}
    for group, arrays in (("observed_data", observed), ("constant_data", constant)):
        groups[group] = dict_to_dataset(arrays, coords=coords, dims=dims, sample_dims=[])
    return {name: data for name, data in groups.items() if data.data_vars}


def _collect_data(objective: "Objective") -> tuple[dict[str, Any], dict[str, Any]]:
    """Return observed and constant data as the fit saw them; a minibatch is no data set and is left out."""
    model = objective.model
    variables = {rv.name: model.rvs_to_values[rv] for rv in model.observed_RVs}
    variables |= {v.name: v for v in model.data_vars if v.name not in variables}
    held = find_observed(objective)
    found = {name: np.asarray(objective.data[ours]) for name, ours in held.items()}
    for name, variable in variables.items():
        if name in found:
            continue
        graph = lift(model, [variable])
        # A minibatch is no data set; what follows from data and no parameter is.
        if not graph.generators and not set(graph_inputs(graph.outputs)) & set(graph.parameters):
            (found[name],) = objective.evaluate(objective.start, [variable])
    observed = {rv.name for rv in model.observed_RVs}
    return (
        {name: value for name, value in found.items() if name in observed},
        {name: value for name, value in found.items() if name not in observed},
    )


def _matching_coords(coords: dict, dims: dict, arrays: dict) -> dict:
    """Drop the coords that new data of another length have outgrown."""
    lengths = {
        dim: n for name, value in arrays.items() for dim, n in zip(dims.get(name, ()), np.shape(value), strict=False)
    }
    return {dim: labels for dim, labels in coords.items() if lengths.get(dim, len(labels)) == len(labels)}


def _make_summary(fit: "MAPResult") -> xr.Dataset:
    rows = [
        f"{name}[{','.join(map(str, index))}]" if index else name
        for name, value in fit.unconstrained.items()
        for index in np.ndindex(np.shape(value))
    ]
    vector = np.concatenate([np.ravel(value) for value in fit.unconstrained.values()])
    figures = {
        "loss": fit.loss,
        "gradient_norm": fit.gradient_norm,
        "n_steps": fit.n_steps,
        "converged": int(fit.converged),
        "compile_seconds": fit.compile_seconds,
        "run_seconds": fit.run_seconds,
    }
    words = {
        "status": str(fit.status),
        "message": fit.message,
        "optimizer": fit.optimizer,
        "route": fit.route,
        "device": fit.device,
        "stochastic": int(fit.stochastic),
    }
    return xr.Dataset({"mean_vector": ("rows", vector), **figures}, coords={"rows": rows}, attrs=words)


def _describe_starts(starts: "Starts") -> xr.Dataset:
    return xr.Dataset(
        {
            "loss": ("start", starts.loss),
            "status": ("start", [str(status) for status in starts.status]),
            "n_steps": ("start", starts.n_steps),
            "gradient_norm": ("start", starts.gradient_norm),
        }
    )
