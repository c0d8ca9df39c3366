"""An objective, and how its rows are to be taken, in; what a search runs on comes out."""

from dataclasses import dataclass, replace
from typing import Any

import jax

from pm_psyphy.compiling.objective import Objective
from pm_psyphy.rows.minibatches import Batches, Minibatches, make_batches
from pm_psyphy.rows.sharding import shard_batches, shard_objective


@dataclass(frozen=True, eq=False)
class LaidRows:
    """The rows of a search: all at once, over several devices, or batch by batch.

    Attributes
    ----------
    objective : Objective
        What is searched; of one batch, if there are batches.
    batches : Batches or None
    whole : Objective
        As it was given.
    unsharded : Batches or None
        The batches on one device.
    is_whole : bool
        Whether all rows are there, on one device.
    """

    objective: Objective
    batches: Batches | None
    whole: Objective
    unsharded: Batches | None
    is_whole: bool

    @property
    def example(self) -> Objective:
        """The objective of some rows on one device, to explain a failure."""
        return self.whole if self.unsharded is None else self.unsharded.take_first()

    @property
    def stochastic(self) -> bool:
        """Whether the loss is random."""
        return self.objective.stochastic or self.batches is not None


def lay_rows(
    objective: Objective, rows: Minibatches | None, shard: str | None, device: Any, platform: str | None
) -> LaidRows:
    """Decide how a search takes the rows of its data.

    Parameters
    ----------
    objective : Objective
    rows : Minibatches, optional
        Default: all rows at once.
    shard : str, optional
        A dim along which rows are laid over all devices.
    device : jax.Device
        The device of rows that are not laid over several.
    platform : {"cpu", "gpu"}, optional
        The platform of the devices over which rows are laid.

    Returns
    -------
    LaidRows

    Raises
    ------
    TypeError, ValueError
        As `make_batches`, `shard_batches` and `shard_objective`.
    """
    if rows is None:
        laid = objective if shard is None else shard_objective(objective, shard, platform)
        return LaidRows(laid, None, objective, None, is_whole=shard is None)
    if not isinstance(rows, Minibatches):
        raise TypeError(f"rows is {rows!r}. Pass psy.Minibatches(size), or None for all rows at once.")
    n_processes = 1 if shard is None else jax.process_count()
    own = make_batches(objective, replace(rows, dim=rows.dim or shard), device, n_processes)
    batches = own if shard is None else shard_batches(own, shard, platform)
    return LaidRows(batches.objective, batches, objective, own, is_whole=False)
