"""Data of many observers in; stacks of one shape, and which of their rows are padding, come out."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr

from pm_psyphy.common.arrays import read_array


@dataclass(frozen=True, eq=False)
class DataSets:
    """n data sets of the same variables."""

    labels: tuple[Hashable, ...]
    stacks: dict[str, np.ndarray]
    """Each (n, ...); rows that a data set lacks repeat its last one."""
    row_axes: dict[str, int]
    """By name of each stack whose data sets differ in their number of rows: the axis of the rows in one data set."""
    lengths: np.ndarray
    """(n,) How many rows each has, or (n,) zeros if all have the same shapes."""

    @property
    def row_weights(self) -> np.ndarray:
        """1 for a row, 0 for one that was filled in, (n, N)."""
        name, axis = next(iter(self.row_axes.items()))
        return (np.arange(self.stacks[name].shape[1 + axis])[None] < self.lengths[:, None]).astype(float)

    def part(self, numbers: np.ndarray) -> "DataSets":
        """Return some of the data sets."""
        return replace(
            self,
            labels=tuple(self.labels[i] for i in numbers),
            stacks={name: stack[numbers] for name, stack in self.stacks.items()},
            lengths=self.lengths[numbers],
        )

    def pick(self, i: int) -> dict[str, np.ndarray]:
        """Return one data set, as it was given."""
        return {name: self.trim(name, stack[i], i) for name, stack in self.stacks.items()}

    def trim(self, name: str, array: np.ndarray, i: int) -> np.ndarray:
        """Return an array of one data set without what was filled in."""
        axis = self.row_axes.get(name)
        return array if axis is None else array[(slice(None),) * axis + (slice(self.lengths[i]),)]


def read_data_sets(data: Any, dim: str, dims: Mapping[str, Sequence[str | None]]) -> DataSets:
    """Read data sets in any of the forms that `find_maps` takes.

    Parameters
    ----------
    data : mapping of arrays, mapping or sequence of mappings, or xarray.Dataset
    dim : str
        In a Dataset, the dim along which data sets stand.
    dims : dict of str to sequence of str
        Those of the model's variables.

    Returns
    -------
    DataSets

    Raises
    ------
    TypeError, ValueError
        If the data are of another form, differ in their variables, or have shapes that cannot be padded.
    """
    if isinstance(data, xr.Dataset):
        return _read_dataset(data, dim, dims)
    if isinstance(data, Mapping) and not any(isinstance(value, Mapping) for value in data.values()):
        return _read_stacks(data, dim, dims)
    if isinstance(data, Mapping):
        return _stack(tuple(data), list(data.values()), dims)
    if isinstance(data, Sequence) and not isinstance(data, str):
        return _stack(tuple(range(len(data))), list(data), dims)
    raise TypeError(
        f"data is a {type(data).__name__}. Pass arrays with a leading axis for data sets, by name; a dict for each "
        "data set, in a list or by label; or an xarray.Dataset."
    )


def _read_dataset(data: xr.Dataset, dim: str, dims: Mapping[str, Any]) -> DataSets:
    names = [str(name) for name in data.data_vars if dim in data[name].dims]
    if not names:
        raise ValueError(f"No variable of the Dataset has the dim {dim!r}; it has {', '.join(map(str, data.dims))}.")
    labels = data[dim].to_numpy() if dim in data.coords else np.arange(data.sizes[dim])
    return DataSets(
        tuple(labels.tolist()),
        {name: read_array(name, data[name].transpose(dim, ...), dims=_add(dim, dims.get(name))) for name in names},
        {},
        np.zeros(data.sizes[dim], int),
    )


def _add(dim: str, dims: Sequence[str | None] | None) -> list[str | None] | None:
    return None if dims is None else [dim, *dims]


def _read_stacks(data: Mapping[str, Any], dim: str, dims: Mapping[str, Any]) -> DataSets:
    stacks = {name: read_array(name, stack, dims=_add(dim, dims.get(name))) for name, stack in data.items()}
    counts = {name: len(stack) if stack.ndim else 0 for name, stack in stacks.items()}
    if len(set(counts.values())) != 1 or 0 in counts.values():
        found = ", ".join(f"{name} {stack.shape}" for name, stack in stacks.items()) or "nothing"
        raise ValueError(f"The stacks are {found}. Each needs a leading axis for data sets, of the same length.")
    n = next(iter(counts.values()))
    return DataSets(tuple(range(n)), stacks, {}, np.zeros(n, int))


def _stack(labels: tuple[Hashable, ...], sets: list[Any], dims: Mapping[str, Any]) -> DataSets:
    if not sets:
        raise ValueError("There are no data sets. Pass at least one.")
    for label, single in zip(labels, sets, strict=True):
        if not isinstance(single, Mapping) or set(single) != set(sets[0]):
            held = ", ".join(map(str, single)) if isinstance(single, Mapping) else f"a {type(single).__name__}"
            raise ValueError(
                f"Data set {label!r} holds {held}; the first one holds {', '.join(sets[0])}. Give all the same names."
            )
    lists: dict[str, list[np.ndarray]] = {name: [] for name in sets[0]}
    for label, single in zip(labels, sets, strict=True):
        for name, given in single.items():
            try:
                lists[name].append(read_array(name, given, dims=dims.get(name)))
            except ValueError as error:
                raise ValueError(f"Data set {label!r}: {error}") from error
    row_axes = {name: axis for name, arrays in lists.items() if (axis := _find_row_axis(name, arrays)) is not None}
    lengths = np.zeros(len(sets), int)
    for name, axis in row_axes.items():
        own = np.array([array.shape[axis] for array in lists[name]])
        if lengths.any() and (own != lengths).any():
            i = int(np.argmax(own != lengths))
            raise ValueError(
                f"Data set {labels[i]!r} has {own[i]} rows of {name!r}, and {lengths[i]} of another array."
            )
        lengths = own
    if row_axes and not lengths.all():
        raise ValueError(f"Data set {labels[int(np.argmin(lengths))]!r} has no rows. Leave it out.")
    longest = int(lengths.max())
    stacks = {name: np.stack(list(_pad(arrays, row_axes.get(name), longest))) for name, arrays in lists.items()}
    return DataSets(labels, stacks, row_axes, lengths)


def _find_row_axis(name: str, arrays: list[np.ndarray]) -> int | None:
    shapes = sorted({array.shape for array in arrays})
    if len(shapes) == 1:
        return None
    axes = [i for i, sizes in enumerate(zip(*shapes, strict=False)) if len(set(sizes)) > 1]
    if len({len(shape) for shape in shapes}) > 1 or len(axes) != 1:
        raise ValueError(f"{name!r} has the shapes {shapes[0]} and {shapes[-1]}. Data sets may differ along one axis.")
    return axes[0]


def _pad(arrays: Iterable[np.ndarray], axis: int | None, length: int) -> Iterable[np.ndarray]:
    for array in arrays:
        widths = [(0, length - n if i == axis else 0) for i, n in enumerate(array.shape)]
        yield array if axis is None else np.pad(array, widths, mode="edge")
