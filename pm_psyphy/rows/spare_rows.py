"""An objective in; the same density, laid out so that a search compiles little and takes little memory, comes out.

Data grow: each session of an experiment adds trials. What XLA compiles is for one number of rows, so from the second
number of rows on, rows of weight 0 fill them up to one of few capacities, for which it is compiled once.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from pm_psyphy.compiling.objective import Objective
from pm_psyphy.compiling.placing import place
from pm_psyphy.compiling.program import list_shapes
from pm_psyphy.compiling.row_weights import WEIGHTS, RowsDepend
from pm_psyphy.rows.memory_blocks import FEW_NUMBERS, count_numbers, list_row_dims, spare_memory
from pm_psyphy.rows.weighted_objective import divide, fill_up, measure_dim

# Rows of the smallest capacity; each other one is twice another.
SMALLEST = 64


def arrange_rows(objective: Objective, n_at_once: int = 1) -> Objective:
    """Return the objective with rows up to a capacity, or in blocks, as its data ask for.

    Parameters
    ----------
    objective : Objective
    n_at_once : int
        How many gradients are computed at the same time.

    Returns
    -------
    Objective
        The same density.
    """
    return spare_memory(add_rows(objective), n_at_once)


def add_rows(objective: Objective) -> Objective:
    """Return the objective with rows of weight 0, if its program is used for another number of rows already.

    Parameters
    ----------
    objective : Objective

    Returns
    -------
    Objective
        The same density. Where rows depend on each other, or are so many that a search takes longer than compiling, it
        stays as it is.
    """
    program = objective.program
    if program.stochastic or count_numbers(objective) > FEW_NUMBERS:
        return objective
    shapes, known = list_shapes({}, objective.data), program.remember("shapes without spare rows", set)
    if known and shapes not in known:
        for dim in list_row_dims(objective):
            axes = _find_axes(objective, dim)
            if axes:
                return _fill_up(objective, dim, axes)
    known.add(shapes)
    return objective


def lay_stacks(laid: Objective, objective: Objective, stacks: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return data of several searches as an objective takes them that `arrange_rows` has made of another.

    Parameters
    ----------
    laid, objective : Objective
    stacks : dict of str to ndarray, each (n, ...)
        By the names, and with the rows, of `objective`.

    Returns
    -------
    dict of str to ndarray
    """
    if laid.program is objective.program and list_shapes({}, laid.data) == list_shapes({}, objective.data):
        return dict(stacks)
    theirs = {ours: name for name, ours in objective.names_in(laid.program.graph).items()}
    renamed = {theirs.get(name, name): stack for name, stack in stacks.items()}
    axes, length = {**laid.program.row_axes, WEIGHTS: 0}, len(laid.data[WEIGHTS])
    return {
        name: fill_up(stack, axes[name] + 1, length, zero=name == WEIGHTS) if name in axes else stack
        for name, stack in renamed.items()
    }


def find_capacity(n_rows: int) -> int:
    """Return to how many rows so many are filled up: a power of two."""
    return max(SMALLEST, 1 << (n_rows - 1).bit_length())


def _find_axes(objective: Objective, dim: str) -> Mapping[str, int]:
    """Return which data have rows along a dim, and along which axis; nothing where rows depend on each other."""
    if objective.program.weighted_dim is not None:
        return {**objective.program.row_axes, WEIGHTS: 0}

    def find() -> Mapping[str, int]:
        try:
            divided, _ = divide(objective, dim)
        except (RowsDepend, ValueError, NotImplementedError):
            return {}
        ours = objective.names_in(divided.program.graph)
        axes = divided.program.row_axes
        return {ours[name]: axis for name, axis in axes.items()} if axes.keys() <= ours.keys() else {}

    # What the graph says of a dim, it says of all data.
    return objective.program.remember(("axes of rows", dim), find)


def _fill_up(objective: Objective, dim: str, axes: Mapping[str, int]) -> Objective:
    data = {name: np.asarray(objective.data[name]) for name in axes}
    (n_rows,) = {data[name].shape[axis] for name, axis in axes.items()}
    capacity = find_capacity(n_rows)
    full = {n: fill_up(data[n], axis, capacity, zero=n == WEIGHTS) for n, axis in axes.items()}
    full |= measure_dim(objective.data, dim, capacity)
    placed = {name: place(array, objective.device) for name, array in full.items()}
    filled = replace(objective, data=objective.data | placed)
    if WEIGHTS in axes:
        return filled
    divided, _ = divide(filled, dim)
    weights = (np.arange(capacity) < n_rows).astype(divided.data[WEIGHTS].dtype)
    return replace(divided, data=divided.data | {WEIGHTS: place(weights, objective.device)})
