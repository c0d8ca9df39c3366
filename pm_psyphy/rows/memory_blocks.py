"""An objective in; the same objective, in blocks of rows if its gradient would take much memory, comes out."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pm_psyphy.compiling.devices import find_device
from pm_psyphy.compiling.from_model import find_observed, move
from pm_psyphy.compiling.objective import Objective
from pm_psyphy.compiling.program import Data, Params, Program
from pm_psyphy.compiling.row_weights import REST, WEIGHTS, RowsDepend
from pm_psyphy.rows.weighted_objective import divide, measure_dim

# What a gradient may take beside its data: bytes on a CPU, a share of an accelerator's memory.
BYTES_OF_CPU, SHARE_OF_ACCELERATOR = 2**28, 0.25
# So few numbers of data are not looked at, which would cost a compilation; the likelihood of oddity in space takes 850
# bytes for each.
FEW_NUMBERS = 300_000


def spare_memory(objective: Objective, n_at_once: int = 1) -> Objective:
    """Return the objective, in blocks of rows if the gradient needs more memory than allowed.

    Rows are those of the longest of the observed variables' dims along which they do not depend on each other; where
    there is none, the objective stays as it is.

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
    if objective.stochastic or is_little(objective, n_at_once):
        return objective
    device = find_place(objective)
    if n_at_once * measure_memory(objective) <= find_budget(device):
        return objective
    # What the graph says of a dim, it says of all data.
    mixed = objective.program.remember("dims whose rows depend on each other", set)
    for dim in list_row_dims(objective):
        if dim in mixed:
            continue
        try:
            divided, axes = divide(objective, dim)
        except RowsDepend:
            mixed.add(dim)
            continue
        except (ValueError, NotImplementedError):
            continue
        own = {name: objective.data[name] for name in (WEIGHTS, REST) if name in objective.data}
        placed = move(replace(divided, data=divided.data | own), device)
        size = choose_size(placed, dim, axes, n_at_once)
        if size < len(placed.data[WEIGHTS]):
            return replace(placed, program=divide_program(placed.program, dim, axes, size))
    return objective


def choose_size(objective: Objective, dim: str, axes: Mapping[str, int], n_at_once: int = 1) -> int:
    """Return how many rows of a divided objective a block has; all, if it needs no blocks or they do not help.

    Parameters
    ----------
    objective : Objective
    dim : str
    axes : dict of str to int
        As `divide` gives them.
    n_at_once : int

    Returns
    -------
    int
    """
    (n_rows,) = np.shape(objective.data[WEIGHTS])
    if is_little(objective, n_at_once):
        return n_rows
    budget, needed = find_budget(find_place(objective)), measure_memory(objective)
    if n_at_once * needed <= budget:
        return n_rows
    # Half of the budget is for the rows of a block, the rest for what does not depend on their number.
    size = max(1, n_rows * budget // (2 * n_at_once * needed))
    blocked = replace(objective, program=divide_program(objective.program, dim, axes, size))
    # What does not depend on the rows is computed anew for each block; where that is most of it, blocks do not help.
    return size if measure_memory(blocked) < 0.75 * needed else n_rows


def list_row_dims(objective: Objective) -> list[str]:
    """Return the dims along which rows may be, the longest first."""
    if objective.program.weighted_dim is not None:
        return [objective.program.weighted_dim]
    lengths: dict[str, int] = {}
    for name, ours in find_observed(objective).items():
        dims = objective.model.named_vars_to_dims.get(name) or ()
        lengths |= dict(zip(map(str, dims), np.shape(objective.data[ours]), strict=True)) if dims else {}
    return sorted(lengths, key=lambda dim: -lengths[dim])


def is_little(objective: Objective, n_at_once: int) -> bool:
    """Return whether the data are so few that their gradients cannot take much memory."""
    return n_at_once * count_numbers(objective) <= FEW_NUMBERS


def find_budget(device: Any) -> int:
    """Return how many bytes a gradient may take beside its data."""
    if device.platform == "cpu":
        return BYTES_OF_CPU
    return int(SHARE_OF_ACCELERATOR * (device.memory_stats() or {}).get("bytes_limit", 2**33))


def count_numbers(objective: Objective) -> int:
    """Return how many numbers the data are."""
    return sum(np.size(array) for array in objective.data.values())


def find_place(objective: Objective) -> Any:
    """Return the device on which an objective is computed."""
    shardings = (array.sharding for array in objective.data.values())
    return next((next(iter(s.device_set)) for s in shardings), objective.device or find_device(None))


def measure_memory(objective: Objective) -> int:
    """Return how many bytes a gradient takes beside its data, as XLA plans it."""
    program, data = objective.program, objective.data

    def measure() -> int:
        function: Any = program.jitted_value_and_grad
        compiled = function.lower(dict(objective.start), data, None).compile()
        return int(compiled.memory_analysis().temp_size_in_bytes)

    shapes = tuple((name, np.shape(array)) for name, array in (objective.start | data).items())
    needed, key = program.compiled.bytes_needed, (shapes, find_place(objective))
    if key not in needed:
        needed[key] = measure()
    return needed[key]


def divide_program(program: Program, dim: str, axes: Mapping[str, int], size: int) -> Program:
    """Return a program as a sum over blocks of rows, whose gradients are computed one after the other.

    Parameters
    ----------
    program : Program
        The program of an objective that is divided along `dim`.
    dim : str
    axes : dict of str to int
        The axis along the rows, of each of the data that have one.
    size : int
        How many rows a block has.

    Returns
    -------
    Program
    """

    def add_up(function):
        def compute(params: Params, data: Data, key: Any):
            n_rows = data[WEIGHTS].shape[0]
            n_blocks = -(-n_rows // size)
            length = measure_dim(data, dim, size)

            # A derivative of the sum keeps nothing of a block, and computes it again.
            @partial(jax.checkpoint, prevent_cse=False)
            def take(params, i):
                # The last block goes back over rows of the one before, which have a weight of 0 in it.
                first = jnp.minimum(i * size, n_rows - size)
                own = {n: jax.lax.dynamic_slice_in_dim(data[n], first, size, axis) for n, axis in axes.items()}
                fresh = first + jnp.arange(size) >= i * size
                own[WEIGHTS] = jnp.where(fresh, own[WEIGHTS], 0)
                return function(params, data | own | length | {REST: data[REST] / n_blocks}, key)

            def add(i, total):
                return jax.tree.map(jnp.add, total, take(params, i))

            nothing = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(take, params, 0))
            return jax.lax.fori_loop(0, n_blocks, add, nothing)

        return compute

    def make() -> Program:
        return program.derive(add_up(program.value), add_up(program.value_and_grad))

    return program.remember(("blocks", dim, tuple(axes.items()), size), make)
