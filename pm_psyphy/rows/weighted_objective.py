"""An objective and one of its dims in; the same objective as a sum over rows along it comes out.

Rows can then be left out, filled in, drawn as batches, laid on several devices or taken in blocks: each row of the
likelihood has a weight, and all that is not a row, such as the prior, has a share.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from pm_psyphy.compiling.from_model import change_density, count_rows
from pm_psyphy.compiling.objective import Objective
from pm_psyphy.compiling.row_weights import WEIGHTS


def divide(
    objective: Objective, dim: str, data: Mapping[str, np.ndarray] | None = None
) -> tuple[Objective, dict[str, int]]:
    """Return an objective with a weight for each row along a dim, and which of its data have rows.

    Parameters
    ----------
    objective : Objective
    dim : str
        A dim of observed variables or potentials, and of no parameter.
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
        If no observed variable has the dim, a parameter has it, or some row needs others; see `row_structure`.
    """
    weighted = change_density(objective, jacobian=objective.program.jacobian, weighted_dim=dim)
    if data:
        n_rows = count_rows(replace(weighted, data=weighted.data | dict(data)), dim)
        weighted = weighted.with_data(**data, **{WEIGHTS: np.ones(n_rows)})
    return weighted, {**weighted.program.row_axes, WEIGHTS: 0}


def measure_dim(data: Mapping[str, Any], dim: str, length: int) -> dict[str, np.ndarray]:
    """Return the length of a dim as the data hold it, if they do."""
    return {dim: np.asarray(length, data[dim].dtype)} if dim in data else {}


def fill_up(array: np.ndarray, axis: int, length: int, *, zero: bool = False) -> np.ndarray:
    """Return an array with so many rows along an axis: its last one is repeated, or there are zeros."""
    if array.shape[axis] == length:
        return array
    widths = [(0, length - n if i == axis else 0) for i, n in enumerate(array.shape)]
    return np.pad(array, widths, mode="constant" if zero else "edge")
