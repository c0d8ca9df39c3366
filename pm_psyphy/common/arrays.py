"""What users hold their data in comes in; a NumPy array of the wanted type, with the same numbers, comes out."""

import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np


def read_array(name: str, given: Any, *, dims: Sequence[str | None] | None = None) -> np.ndarray:
    """Return data as a NumPy array, of whatever type its numbers have.

    Parameters
    ----------
    name : str
        For messages.
    given : array
        NumPy's, nested sequences, a pandas or xarray object, or anything else that NumPy can read.
    dims : sequence of str, optional
        The names of the axes. An `xarray.DataArray` is transposed to them.

    Returns
    -------
    ndarray
        The given array itself, not a copy, if it is NumPy's.

    Raises
    ------
    ValueError
        If values are masked, an xarray object has other dims, or what is given holds no numbers.
    """
    given = join_masked(given)
    if isinstance(given, np.ma.MaskedArray):
        at = np.argwhere(np.ma.getmaskarray(given))
        if len(at):
            raise ValueError(
                f"{name!r} has {len(at)} masked values, the first at {_say(at[0])}. Drop these rows, or fill them in."
            )
        given = given.data
    given = order_dims(name, given, dims)
    if _is_nullable(given):
        # NA has no place among integers; as NaN it is refused where an integer is wanted.
        array = given.to_numpy(dtype=float, na_value=np.nan)
        return array if np.isnan(array).any() else given.to_numpy(dtype=given.dtype.numpy_dtype)
    array = np.asarray(given)
    return _read_objects(name, array) if array.dtype == object else array


def join_masked(given: Any) -> Any:
    """Return a sequence that has masked parts, whose masks NumPy would drop, as one masked array."""
    if not isinstance(given, list | tuple) or not any(isinstance(part, np.ma.MaskedArray) for part in given):
        return given
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Warning: converting a masked element to nan")
        return np.ma.array(given)


def convert_array(name: str, array: np.ndarray, dtype: Any, *, first: int = 0) -> np.ndarray:
    """Return an array in another type, if that holds the same numbers.

    Floats may be rounded to floats of fewer digits, and integers to floats.

    Parameters
    ----------
    name : str
        For messages.
    array : ndarray
    dtype : dtype
    first : int
        The number of the first row, where the array is a part of more.

    Returns
    -------
    ndarray
        The array itself if it has the type already.

    Raises
    ------
    ValueError
        If numbers are missing or have fractions where integers or booleans are wanted, are out of the type's range,
        or are complex; or if the array holds no numbers.
    """
    dtype = np.dtype(dtype)
    if array.dtype == dtype:
        return array
    if array.dtype.kind not in "biuf" or dtype.kind not in "biuf":
        if array.dtype.kind == "c" and dtype.kind == "c":
            return array.astype(dtype)
        raise ValueError(f"{name!r} is of type {array.dtype}, the model has {dtype}. Pass real numbers.")

    def refuse(wrong: np.ndarray, what: str) -> None:
        if np.any(wrong):
            at = np.argwhere(wrong)[0]
            raise ValueError(f"{name!r} holds {array[tuple(at)]} at {_say(at, first)}, and the model has {what}.")

    if dtype.kind == "b":
        refuse(~np.isin(array, (0, 1)), "booleans. Pass True and False, or 1 and 0")
    elif dtype.kind in "iu" and array.dtype.kind == "f":
        refuse(np.isnan(array), f"{dtype}. Drop these rows, or fill them in")
        refuse(array != np.round(array), f"{dtype}. Pass whole numbers, without fractions")
    if dtype.kind in "iu" and array.dtype.kind != "b":
        refuse((array < np.iinfo(dtype).min) | _is_above(array, dtype), f"{dtype}. Pass numbers in its range")
    if dtype.kind == "f" and array.dtype.kind == "f":
        with np.errstate(over="ignore"):
            converted = array.astype(dtype)
        refuse(np.isinf(converted) & np.isfinite(array), f"{dtype}. Pass numbers in its range")
        return converted
    return array.astype(dtype)


def _is_above(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Return where numbers are above the largest integer of a type, which as a float would be rounded up."""
    info = np.iinfo(dtype)
    return array >= math.ldexp(1.0, info.bits - (dtype.kind == "i")) if array.dtype.kind == "f" else array > info.max


def _say(at: np.ndarray, first: int = 0) -> str:
    """Return an index as a person reads it: a row of a vector, or all indices."""
    row, *others = map(int, at) if len(at) else (0,)
    return f"row {first + row}" if not others else f"index {(first + row, *others)}"


def order_dims(name: str, given: Any, dims: Sequence[str | None] | None) -> Any:
    """Return an xarray object with its axes in the order of the dims of these names; anything else as it is.

    Parameters
    ----------
    name : str
        For messages.
    given : array
    dims : sequence of str, optional

    Returns
    -------
    array

    Raises
    ------
    ValueError
        If the object has some of the dims and not the others.
    """
    if dims is None or not (hasattr(given, "dims") and hasattr(given, "transpose")):
        return given
    ours, theirs = [d for d in dims if d is not None], list(map(str, given.dims))
    if not set(ours) & set(theirs):
        # It knows nothing of the model's names, as one that was made from an array.
        return given
    if None in dims or set(ours) != set(theirs):
        raise ValueError(
            f"{name!r} has the dims {', '.join(theirs)}, the model has {', '.join(map(str, dims))}. Give it the same, "
            "or pass a plain array with the axes in this order."
        )
    return given.transpose(*ours)


def _is_nullable(given: Any) -> bool:
    """Whether this is a pandas object of integers, floats or booleans that may be missing (``Int64``)."""
    dtype = getattr(given, "dtype", None)
    return hasattr(dtype, "na_value") and hasattr(dtype, "numpy_dtype") and getattr(dtype, "kind", "O") in "biuf"


def _read_objects(name: str, array: np.ndarray) -> np.ndarray:
    """Return an array of Python objects as one of numbers, with NaN for what is missing."""
    flat = [np.nan if _is_missing(value) else value for value in array.ravel()]
    for i, value in enumerate(flat):
        if not isinstance(value, bool | int | float | np.number | np.bool_):
            at = np.unravel_index(i, array.shape)
            raise ValueError(f"{name!r} holds {value!r} at {_say(np.array(at))}. Pass numbers.")
    return np.array(flat).reshape(array.shape)


def _is_missing(value: Any) -> bool:
    return value is None or type(value).__name__ in ("NAType", "NaTType")
