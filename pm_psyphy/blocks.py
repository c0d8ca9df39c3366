"""An objective in; the same objective, which takes its rows in blocks and so needs less memory, comes out."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from pm_psyphy.division import divide, measure_dim
from pm_psyphy.objective import Objective
from pm_psyphy.program import Program
from pm_psyphy.weights import REST, WEIGHTS


def take_in_blocks(objective: Objective, dim: str, n_blocks: int) -> Objective:
    """Return the objective as a sum over blocks of rows, whose gradients are computed one after the other.

    Parameters
    ----------
    objective : Objective
    dim : str
        Along the rows.
    n_blocks : int

    Returns
    -------
    Objective
        The same density.
    """
    divided, axes = divide(objective, dim)
    n_rows = len(divided.data[WEIGHTS])
    size = -(-n_rows // n_blocks)
    data = divided.data | jax.device_put(measure_dim(divided, dim, size), divided.data[WEIGHTS].sharding)
    key = "blocks", dim, n_rows, size
    program = divided.program.remember(key, lambda: _block_program(divided.program, axes, n_rows, size))
    return replace(divided, program=program, data=data)


def _block_program(program: Program, axes: Mapping[str, int], n_rows: int, size: int) -> Program:
    n_blocks = -(-n_rows // size)

    def add_up(function):
        def compute(params, data, key):
            def take(i):
                # The last block goes back over rows of the one before, which have a weight of 0 in it.
                first = jnp.minimum(i * size, n_rows - size)
                own = {n: jax.lax.dynamic_slice_in_dim(data[n], first, size, axis) for n, axis in axes.items()}
                fresh = first + jnp.arange(size) >= i * size
                own[WEIGHTS] = jnp.where(fresh, own[WEIGHTS], 0)
                return function(params, data | own | {REST: data[REST] / n_blocks}, key)

            def add(i, total: Any):
                return jax.tree.map(jnp.add, total, take(i))

            nothing = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(take, 0))
            return jax.lax.fori_loop(0, n_blocks, add, nothing)

        return compute

    return replace(program, value=add_up(program.value), value_and_grad=add_up(program.value_and_grad), compiled={})
