"""An objective in; the same objective with its rows laid over several devices comes out."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as Spec

from pm_psyphy.division import divide, measure_dim
from pm_psyphy.objective import Objective
from pm_psyphy.processes import agree_on_largest, check_same
from pm_psyphy.program import Program
from pm_psyphy.weights import REST, WEIGHTS

ROWS = "rows"


def shard_objective(objective: Objective, dim: str, platform: str | None = None) -> Objective:
    """Return the objective with its rows on all devices: each computes its own, and the sums are added up.

    Parameters
    ----------
    objective : Objective
    dim : str
        Along the rows. Where their number is no multiple of that of the devices, rows of weight 0 fill them up. Of
        several processes, each has rows of its own.
    platform : {"cpu", "gpu"}, optional
        Default: JAX's own choice.

    Returns
    -------
    Objective
        The same density.

    Raises
    ------
    ValueError
        If the model draws minibatches, or as `divide`.
    """
    if objective.stochastic:
        raise ValueError("The model draws minibatches, which lie on one device. Take pm.Minibatch out of it.")
    divided, axes = divide(objective, dim)
    mesh = Mesh(np.array(jax.devices(platform)), (ROWS,))
    n_here = len(mesh.local_devices)
    per_device = agree_on_largest(-(-len(divided.data[WEIGHTS]) // n_here))
    check_same(objective.start, "start")
    check_same({name: array for name, array in divided.data.items() if name not in axes and name != dim}, "value of")
    specs = {name: Spec(*[None] * axes[name], ROWS) if name in axes else Spec() for name in divided.data}
    data: dict[str, Any] = {}
    for name, array in (divided.data | measure_dim(divided, dim, per_device)).items():
        host = np.asarray(array)
        if name in axes:
            host = _fill_up(host, axes[name], per_device * n_here, zero=name == WEIGHTS)
        data[name] = jax.make_array_from_process_local_data(NamedSharding(mesh, specs[name]), host)
    key = "sharded", dim, tuple(mesh.devices.flat)
    program = divided.program.remember(key, lambda: _shard_program(divided.program, mesh, specs))
    return replace(divided, program=program, data=data)


def _fill_up(array: np.ndarray, axis: int, length: int, *, zero: bool) -> np.ndarray:
    widths = [(0, length - n if i == axis else 0) for i, n in enumerate(array.shape)]
    return np.pad(array, widths, mode="constant" if zero else "edge")


def _shard_program(program: Program, mesh: Mesh, specs: Mapping[str, Spec]) -> Program:
    def share(function):
        def compute(params, data):
            # Each device has its share of what is not a row, so that all of them add up to the whole.
            found = function(params, data | {REST: data[REST] / mesh.size}, None)
            return jax.lax.psum(found, ROWS)

        summed = jax.shard_map(compute, mesh=mesh, in_specs=(Spec(), dict(specs)), out_specs=Spec(), check_vma=False)
        return lambda params, data, key: summed(params, data)

    return replace(program, value=share(program.value), value_and_grad=share(program.value_and_grad), compiled={})
