"""An objective and a source of rows in; the objective of a batch, and the batches for its steps, come out."""

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import Any

import jax
import numpy as np

from pm_psyphy.common.arrays import convert_array, order_dims, read_array
from pm_psyphy.compiling.objective import Objective, check_limits
from pm_psyphy.compiling.row_weights import WEIGHTS, find_row_dim
from pm_psyphy.rows.row_source import Blocks, Chunk, Rows, run_ahead
from pm_psyphy.rows.weighted_objective import divide, measure_dim


@dataclass(frozen=True, eq=False)
class Minibatches:
    """Rows in batches: each step of a search takes some of them, with their log likelihood scaled to all.

    In each epoch every row is in one batch; the order follows from the fit's `random_seed`. The loss is random then,
    and there is no test of convergence.

    Attributes
    ----------
    size : int
        Number of rows per step.
    dim : str, optional
        The rows' dim. Default: the dim of the observed variables, if they have just one.
    data : mapping of arrays, or iterable of mappings, optional
        Rows that need not fit into memory, in place of those of the model, which are an example of them. Arrays of
        NumPy, memory-mapped ones, zarr's, xarray's or Dask's, by the names of the model's data. Or blocks of rows as
        they come, which begin anew in each epoch if they can be iterated again (or a function returns them).
    total_size : int, optional
        How many rows an iterable has.

    Examples
    --------
    >>> import pm_psyphy as psy
    >>> psy.Minibatches(500, dim="trial").size
    500
    """

    size: int
    dim: str | None = None
    data: Any = None
    total_size: int | None = None


@dataclass(frozen=True, eq=False)
class Batches:
    """Batches of rows, each with the likelihood of all rows in expectation."""

    objective: Objective
    """The objective of one batch: the first rows of the model."""
    source: Rows | Blocks
    batch_size: int
    dim: str
    lay: Callable[[str, np.ndarray], jax.Array]
    """Puts what is called so, (K, ...) for K steps, on the device."""

    def sign(self) -> str:
        """Return a text that equal rows in equal batches share."""
        return f"{self.batch_size} of {self.source.n_rows} along {self.dim!r}, {self.source.sign()}"

    def draw(self, seed: int, first_step: int) -> Generator[tuple[dict[str, Any], int]]:
        """Yield data for the next steps, (K, ...), and how many steps they are for, from a step on.

        Parameters
        ----------
        seed : int
        first_step : int

        Yields
        ------
        arrays : dict of str to jax.Array
        n_steps : int
        """
        return run_ahead(self.source.draw(self.batch_size, seed, first_step), self._place)

    def example(self) -> dict[str, Any]:
        """Return data of the shapes that `draw` yields."""
        return self._place(self.source.example(self.batch_size))[0]

    def take_first(self) -> Objective:
        """Return the objective of some batch."""
        first = {name: stack[0] for name, stack in self.example().items()}
        return replace(self.objective, data=self.objective.data | first)

    def _place(self, chunk: Chunk) -> tuple[dict[str, Any], int]:
        dtype = self.objective.data[WEIGHTS].dtype
        each = self.source.n_rows / np.maximum(chunk.n_real, 1)
        weights = np.where(np.arange(self.batch_size) < chunk.n_real[:, None], each[:, None], 0).astype(dtype)
        arrays = {n: np.moveaxis(array, 1, 1 + self.source.axes[n]) for n, array in chunk.arrays.items()}
        return {name: self.lay(name, array) for name, array in (arrays | {WEIGHTS: weights}).items()}, chunk.n_steps


def make_batches(objective: Objective, rows: Minibatches, device: Any = None, n_processes: int = 1) -> Batches:
    """Return batches of rows along a dim.

    Parameters
    ----------
    objective : Objective
        Its data are the rows, or an example of them.
    rows : Minibatches
    device : jax.Device, optional
    n_processes : int
        How many share a batch.

    Returns
    -------
    Batches

    Raises
    ------
    TypeError, ValueError
        If the rows are not the model's, depend on each other, or are of unknown number.
    """
    if not isinstance(rows.size, int | np.integer) or rows.size < 1:
        raise ValueError(f"The size of minibatches is {rows.size!r}. Pass a whole number of at least 1.")
    if objective.stochastic:
        raise ValueError("The model draws minibatches itself. Take pm.Minibatch out of it, or rows out of the call.")
    dim = rows.dim or find_row_dim(objective.model)
    divided, axes = divide(objective, dim)
    axes = {name: axis for name, axis in axes.items() if name != WEIGHTS}
    source = _read_source(divided, axes, partial(_convert_rows, divided, axes), rows.data, rows.total_size)
    batch_size = min(-(-int(rows.size) // n_processes), source.n_rows)
    kept = {name: value for name, value in divided.data.items() if name not in axes and name != WEIGHTS}
    own = measure_dim(kept, dim, batch_size) | {WEIGHTS: np.ones(batch_size, divided.data[WEIGHTS].dtype)}
    placed = replace(divided, data=jax.device_put(kept | own, device))
    return Batches(placed, source, batch_size, dim, lambda _, array: jax.device_put(array, device))


def _convert_rows(objective: Objective, axes: Mapping[str, int], rows: dict[str, Any], first: int) -> dict[str, Any]:
    """Return rows as the model has them, along the first axis; they are checked as all data are."""
    dims = objective.model.named_vars_to_dims
    arrays = {
        name: convert_array(name, read_array(name, given, dims=dims.get(name)), objective.data[name].dtype, first=first)
        for name, given in rows.items()
    }
    check_limits(objective, arrays, first)
    return {name: np.moveaxis(array, axes[name], 0) for name, array in arrays.items()}


def _read_source(objective: Objective, axes, convert, data: Any, total_size: int | None) -> Rows | Blocks:
    if data is None:
        return Rows({name: np.asarray(objective.data[name]) for name in axes}, axes, convert)
    if isinstance(data, Mapping):
        dims = objective.model.named_vars_to_dims
        arrays = {name: order_dims(name, _as_array(given), dims.get(name)) for name, given in data.items()}
        _check_arrays(objective, axes, arrays)
        return Rows({name: arrays[name] for name in axes}, axes, convert)
    if not callable(data) and not isinstance(data, Iterable):
        raise TypeError(
            f"data is a {type(data).__name__}. Pass arrays by name, or an iterable of blocks of rows: dicts of arrays."
        )
    if not isinstance(total_size, int | np.integer) or total_size < 1:
        raise ValueError(
            f"total_size is {total_size!r}. Say how many rows the blocks have in all: the likelihood of a batch is "
            "scaled by it."
        )
    blocks: Any = data if callable(data) else lambda: data
    if isinstance(data, Iterator):
        # It comes only once, so what was seen of it is put back.
        first = next(data, None)
        once = iter([chain([first], data)])
        blocks = lambda: next(once, ())  # noqa: E731
    else:
        first = next(iter(blocks()), None)
    if first is None:
        raise ValueError("The iterable of blocks of rows is empty. Give one that has rows.")
    return Blocks(blocks, first, int(total_size), axes, convert)


def _as_array(given: Any) -> Any:
    """Return what has no shape, such as a list, or cannot be sliced along its axes as an array."""
    is_array = hasattr(given, "shape") and hasattr(given, "__getitem__") and not hasattr(given, "iloc")
    return given if is_array else read_array("data", given)


def _check_arrays(objective: Objective, axes: Mapping[str, int], data: Mapping[str, Any]) -> None:
    missing, unknown = axes.keys() - data.keys(), data.keys() - axes.keys()
    if missing or unknown:
        which = "lack" if missing else "have, beside those with rows,"
        raise ValueError(
            f"The data {which} {', '.join(sorted(missing or unknown))}. Give all that has rows: {', '.join(axes)}."
        )
    lengths = {name: data[name].shape[axis] for name, axis in axes.items()}
    if len(set(lengths.values())) > 1 or 0 in lengths.values():
        raise ValueError(f"The rows are {lengths}. Give each array as many, and at least one.")
    for name, axis in axes.items():
        ours, theirs = list(np.shape(objective.data[name])), list(data[name].shape)
        ours[axis] = theirs[axis] if len(ours) == len(theirs) else -1
        if ours != theirs:
            expected = np.shape(objective.data[name])
            raise ValueError(
                f"{name!r} was given with shape {tuple(theirs)}, the model has {expected}. Only the number of rows may "
                "differ."
            )
