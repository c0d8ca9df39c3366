"""An objective in; the same objective with its rows laid over several devices comes out."""

from collections.abc import Mapping
from dataclasses import replace

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as Spec

from pm_psyphy.compiling.objective import Objective
from pm_psyphy.compiling.program import Program
from pm_psyphy.compiling.row_weights import REST, WEIGHTS
from pm_psyphy.rows.memory_blocks import choose_size, divide_program
from pm_psyphy.rows.minibatches import Batches
from pm_psyphy.rows.processes import agree_on_largest, check_same
from pm_psyphy.rows.row_source import Rows
from pm_psyphy.rows.weighted_objective import divide, fill_up, measure_dim

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
    mesh = _lay_mesh(platform)
    n_here = len(mesh.local_devices)
    per_device = agree_on_largest(-(-len(divided.data[WEIGHTS]) // n_here))
    check_same({name: array for name, array in divided.data.items() if name not in axes and name != dim}, "value of")
    specs = {name: _spread(axes.get(name)) for name in divided.data}
    host = {name: np.asarray(array) for name, array in divided.data.items()} | measure_dim(
        divided.data, dim, per_device
    )
    host |= {name: fill_up(host[name], axis, per_device * n_here, zero=name == WEIGHTS) for name, axis in axes.items()}
    # What one device has decides whether it takes that in blocks.
    place = SingleDeviceSharding(mesh.local_devices[0])
    local = replace(
        divided,
        data={
            name: jax.ShapeDtypeStruct(
                _set_length(array.shape, axes.get(name), per_device), array.dtype, sharding=place
            )
            for name, array in host.items()
        },
    )
    size = -agree_on_largest(-choose_size(local, dim, axes))
    program = divided.program if size == per_device else divide_program(divided.program, dim, axes, size)
    return replace(divided, program=_shard_program(program, mesh, specs), data=_lay(host, mesh, specs))


def shard_batches(batches: Batches, dim: str, platform: str | None = None) -> Batches:
    """Return the batches with the rows of each on all devices.

    Parameters
    ----------
    batches : Batches
        Batches of this process's own rows.
    dim : str
        Theirs.
    platform : {"cpu", "gpu"}, optional
        Default: JAX's own choice.

    Returns
    -------
    Batches

    Raises
    ------
    ValueError
        If they are along another dim; or, of several processes, if these have different numbers of batches, or blocks
        of rows as they come.
    """
    if dim != batches.dim:
        raise ValueError(f"Batches are taken along {batches.dim!r}, and shard is {dim!r}. Pass the same dim for both.")
    if jax.process_count() > 1:
        if not isinstance(batches.source, Rows):
            raise ValueError(
                "Each of several processes needs to know its rows. Pass arrays, not an iterable of blocks."
            )
        n_batches = batches.source.count_batches(batches.batch_size)
        fewest, most = -agree_on_largest(-n_batches), agree_on_largest(n_batches)
        if fewest != most:
            raise ValueError(
                f"The rows of one process are {fewest} batches, those of another {most}; here are "
                f"{batches.source.n_rows} rows, in batches of {batches.batch_size}. Give all processes about as many."
            )
    objective, axes, mesh = batches.objective, {**batches.source.axes, WEIGHTS: 0}, _lay_mesh(platform)
    n_here = len(mesh.local_devices)
    per_device = agree_on_largest(-(-batches.batch_size // n_here))
    specs = {name: _spread(axes.get(name)) for name in objective.data | axes}
    weights = np.ones(per_device * n_here, objective.data[WEIGHTS].dtype)
    own = measure_dim(objective.data, dim, per_device) | {WEIGHTS: weights}
    data = _lay({name: np.asarray(array) for name, array in (objective.data | own).items()}, mesh, specs)
    program = _shard_program(objective.program, mesh, specs)

    def lay(name: str, stack: np.ndarray) -> jax.Array:
        full = fill_up(stack, 1 + axes[name], per_device * n_here, zero=name == WEIGHTS)
        return _lay({name: full}, mesh, {name: Spec(None, *specs[name])})[name]

    return replace(batches, objective=replace(objective, program=program, data=data), lay=lay)


def _set_length(shape: tuple[int, ...], axis: int | None, length: int) -> tuple[int, ...]:
    return tuple(length if i == axis else n for i, n in enumerate(shape))


def _lay_mesh(platform: str | None) -> Mesh:
    return Mesh(np.array(jax.devices(platform)), (ROWS,))


def _spread(axis: int | None) -> Spec:
    """Return how what has rows along an axis is spread over devices; what has none is on each."""
    return Spec() if axis is None else Spec(*[None] * axis, ROWS)


def _lay(arrays: Mapping[str, np.ndarray], mesh: Mesh, specs: Mapping[str, Spec]) -> dict[str, jax.Array]:
    return {
        name: jax.make_array_from_process_local_data(NamedSharding(mesh, specs[name]), array)
        for name, array in arrays.items()
    }


def _shard_program(program: Program, mesh: Mesh, specs: Mapping[str, Spec]) -> Program:
    def share(function):
        def compute(params, data):
            # Each device has its share of what is not a row, so that all of them add up to the whole.
            found = function(params, data | {REST: data[REST] / mesh.size}, None)
            return jax.lax.psum(found, ROWS)

        summed = jax.shard_map(compute, mesh=mesh, in_specs=(Spec(), dict(specs)), out_specs=Spec(), check_vma=False)
        return lambda params, data, key: summed(params, data)

    def make() -> Program:
        return program.derive(share(program.value), share(program.value_and_grad))

    return program.remember(("sharded", *specs.items(), *mesh.devices.flat), make)
