"""A file in; the fit or the draws that were saved there, which go on if their model is given, come out."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pymc as pm
import xarray as xr

from pm_psyphy.compiling.devices import compute_plainly
from pm_psyphy.compiling.from_model import find_observed, prepare_objective
from pm_psyphy.compiling.objective import Objective
from pm_psyphy.optimizing.status import Status
from pm_psyphy.results.draws import Draws
from pm_psyphy.results.map_result import History, MAPResult, Starts

# How much the loss may differ, relative to its size: other devices and versions add up in other orders.
SAME_LOSS = {np.dtype(np.float32): 1e-3, np.dtype(np.float64): 1e-6}


@compute_plainly
def load(path: str | Path, model: pm.Model | Objective | None = None) -> Any:
    """Read what `MAPResult.save` or `Draws.save` wrote.

    Parameters
    ----------
    path : path
    model : pm.Model or Objective, optional
        The model that was fitted. With it a fit goes on: `evaluate`, `laplace`, `threshold_contours` and all else that
        takes a fit. Its data are those of the file, whatever the model holds now.

    Returns
    -------
    MAPResult or Draws
        Without the model, an `xarray.DataTree` of all that was saved.

    Raises
    ------
    ValueError
        If the file is of another model, or holds neither a fit nor draws.
    """
    with xr.open_datatree(path) as tree:
        tree.load()
    if model is None:
        return tree
    if "unconstrained_posterior" not in tree.children:
        raise ValueError(
            f"{path} has the groups {', '.join(tree.children)}, and no unconstrained_posterior. Pass a file that a fit "
            "or draws have saved."
        )
    objective = _restore_objective(path, tree, model)
    return _restore_fit(path, tree, objective) if "fit" in tree.children else Draws.from_datatree(objective, tree)


def _restore_objective(path: str | Path, tree: xr.DataTree, model: pm.Model | Objective) -> Objective:
    """Return the objective of a model, on the data of a file."""
    objective = prepare_objective(model)
    shapes = {str(n): a.shape[2:] for n, a in tree["unconstrained_posterior"].data_vars.items()}
    wanted = {name: np.shape(value) for name, value in objective.start.items()}
    if shapes.keys() != wanted.keys():
        raise ValueError(
            f"{path} has the parameters {', '.join(shapes)}, the model has {', '.join(wanted)}. Pass the model "
            "that was fitted."
        )
    names = find_observed(objective)
    groups = [tree[group].data_vars for group in ("constant_data", "observed_data") if group in tree.children]
    saved = {names.get(str(n), str(n)): array.to_numpy() for arrays in groups for n, array in arrays.items()}
    changed = {n: a for n, a in saved.items() if n in objective.data and not _is_same(a, objective.data[n])}
    return objective.with_data(**changed) if changed else objective


def _is_same(first: np.ndarray, second: Any) -> bool:
    second = np.asarray(second)
    return np.array_equal(first, second, equal_nan=first.dtype.kind == second.dtype.kind == "f")


def _restore_fit(path: str | Path, tree: xr.DataTree, objective: Objective) -> MAPResult:
    kinds = {name: np.asarray(value).dtype for name, value in objective.start.items()}
    unconstrained = {n: tree["unconstrained_posterior"][n].to_numpy()[0, 0].astype(kinds[n]) for n in objective.start}
    figures, words = tree["fit"].dataset, tree["fit"].attrs
    is_random = bool(words["stochastic"])
    if not is_random:
        loss, saved = float(objective.value(unconstrained)), float(figures["loss"])
        if not abs(loss - saved) <= SAME_LOSS[np.result_type(*kinds.values())] * max(1.0, abs(saved)):
            raise ValueError(
                f"{path} has a fit with the loss {saved:.6g}; of this model, at the same estimate, it is {loss:.6g}. "
                "Pass the model that was fitted, with the same priors and constants."
            )
    posterior = tree["posterior"].data_vars
    return MAPResult(
        values_by_name={str(name): array.to_numpy()[0, 0] for name, array in posterior.items()},
        unconstrained=unconstrained,
        loss=float(figures["loss"]),
        status=Status(words["status"]),
        message=words["message"],
        n_steps=int(figures["n_steps"]),
        gradient_norm=float(figures["gradient_norm"]),
        history=History(*(tree["history"][name].to_numpy() for name in ("step", "loss", "gradient_norm"))),
        starts=_restore_starts(tree) if "starts" in tree.children else None,
        optimizer=words["optimizer"],
        device=words["device"],
        compile_seconds=float(figures["compile_seconds"]),
        run_seconds=float(figures["run_seconds"]),
        objective=objective,
        stochastic=is_random,
    )


def _restore_starts(tree: xr.DataTree) -> Starts:
    held: Mapping[str, Any] = {str(n): array.to_numpy() for n, array in tree["starts"].data_vars.items()}
    params = {str(n): array.to_numpy() for n, array in tree["unconstrained_starts"].data_vars.items()}
    status = tuple(map(Status, held["status"]))
    return Starts(held["loss"], status, held["n_steps"], held["gradient_norm"], params)
