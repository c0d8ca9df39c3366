"""An objective and one of its dims in; the same objective as a sum over rows along it comes out.

Rows can then be left out, filled in, drawn as batches, laid on several devices or taken in blocks: each row of the
likelihood has a weight, and all that is not a row, such as the prior, has a share.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytensor

from pm_psyphy.assembly import change_density, count_rows, find_observed
from pm_psyphy.objective import Objective
from pm_psyphy.rows import RUN_ONCE
from pm_psyphy.weights import WEIGHTS, find_rows

# So many rows are tried: the first half with and without the second.
ROWS_TRIED = 16


def divide(
    objective: Objective, dim: str, data: Mapping[str, np.ndarray] | None = None
) -> tuple[Objective, dict[str, int]]:
    """Return an objective with a weight for each row along a dim, and which of its data have rows.

    Parameters
    ----------
    objective : Objective
    dim : str
        Of observed variables or potentials, and of no parameter.
    data : dict of ndarray, optional
        New data, which may have another number of rows, as in `Objective.with_data`.

    Returns
    -------
    objective : Objective
        The same density. Its data hold `WEIGHTS`, 1 for each row, and `REST`, 1.
    axes : dict of str to int
        The axis along the rows, of each of the data that have one.

    Raises
    ------
    ValueError
        If no observed variable has the dim, a parameter has it, it is not clear which data have it, or rows depend on
        each other.
    """
    weighted = change_density(objective, jacobian=objective.program.jacobian, weighted_dim=dim)
    if data:
        n_rows = count_rows(replace(weighted, data=weighted.data | dict(data)), dim)
        weighted = weighted.with_data(**data, **{WEIGHTS: np.ones(n_rows)})
    axes = _find_axes(weighted, dim, len(weighted.data[WEIGHTS]))
    _check_rows(weighted, dim, axes)
    return weighted, axes


def take_rows(objective: Objective, axes: Mapping[str, int], dim: str, rows: Any) -> dict[str, np.ndarray]:
    """Return the data of some rows, as arrays on the host, with the length of their dim.

    Parameters
    ----------
    objective : Objective
    axes : dict of str to int
    dim : str
    rows : slice or array of int

    Returns
    -------
    dict of str to ndarray
    """
    taken = {n: np.asarray(objective.data[n])[(slice(None),) * axis + (rows,)] for n, axis in axes.items()}
    return taken | measure_dim(objective.data, dim, len(taken[WEIGHTS]))


def measure_dim(data: Mapping[str, Any], dim: str, length: int) -> dict[str, np.ndarray]:
    """Return the length of a dim as the data hold it, if they do."""
    return {dim: np.asarray(length, data[dim].dtype)} if dim in data else {}


def _find_axes(objective: Objective, dim: str, n_rows: int) -> dict[str, int]:
    """Return the axis of each array along the rows: the one that is named so, or the only one that is as long."""
    model = objective.model
    observed = {ours: name for name, ours in find_observed(objective).items()}
    own_axes, _ = find_rows(model, dim)
    axes = {WEIGHTS: 0}
    for name, array in objective.data.items():
        variable = observed.get(name, name)
        named = model.named_vars_to_dims.get(name) or model.named_vars_to_dims.get(variable)
        as_long = [axis for axis, n in enumerate(np.shape(array)) if n == n_rows]
        if variable in own_axes:
            axes[name] = own_axes[variable]
        elif named:
            axes |= {name: tuple(named).index(dim)} if dim in named else {}
        elif len(as_long) > 1:
            raise ValueError(
                f"Which axis of {name!r} {np.shape(array)} is {dim!r}? Name its dims: pm.Data({name!r}, ..., dims=...)."
            )
        elif as_long and name != WEIGHTS:
            axes[name] = as_long[0]
    return axes


def _check_rows(objective: Objective, dim: str, axes: Mapping[str, int]) -> None:
    """Raise if rows with a weight of 0 change the density: if they depend on each other."""
    if objective.program.compiled.get("rows apart") == (dim, axes):
        return
    graph = objective.program.graph
    evaluate: Any = pytensor.function(graph.inputs, graph.outputs, mode=RUN_ONCE, on_unused_input="ignore")
    n = min(len(objective.data[WEIGHTS]), ROWS_TRIED)
    half = max(n // 2, 1)

    # The start may be a point at which data have no effect, as a slope of 0.
    rng = np.random.default_rng(0)
    params = [
        (start + 0.3 * rng.normal(size=np.shape(start))).astype(start.dtype)
        for start in (objective.start[p.name] for p in graph.parameters)
    ]

    def find_loss(n: int) -> float:
        own = take_rows(objective, axes, dim, slice(n))
        own[WEIGHTS] = (np.arange(n) < half).astype(own[WEIGHTS].dtype)
        data = objective.data | own
        loss = evaluate(*params, *(np.asarray(data[name]) for name in graph.data))
        return float(loss[0])

    try:
        alone, filled = find_loss(half), find_loss(n)
    except Exception as error:
        raise ValueError(
            f"The model cannot be evaluated for some of its rows along {dim!r}: {error} Give all that has rows as "
            f"pm.Data with the dim {dim!r}."
        ) from error
    if abs(filled - alone) > np.sqrt(np.finfo(objective.data[WEIGHTS].dtype).eps) * max(1, abs(alone)):
        raise ValueError(
            f"Rows of {dim!r} depend on each other: the loss of {half} rows is {alone:.6g}, and {filled:.6g} with "
            f"{n - half} more of weight 0. They cannot be taken apart."
        )
    objective.program.compiled["rows apart"] = dim, axes
