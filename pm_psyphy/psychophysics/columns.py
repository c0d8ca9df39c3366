"""A column of a table, in whatever form, in; numbers or text, or responses as 0 and 1, come out."""

from typing import Any

import numpy as np

from pm_psyphy.common.arrays import join_masked, read_array

RESPONSES = {"0": 0, "1": 1, "false": 0, "true": 1, "incorrect": 0, "correct": 1}


def read_column(name: str, values: Any) -> np.ndarray:
    """Return values as an array: numbers and dates in a type of their own, whatever holds text as objects.

    Parameters
    ----------
    name : str
        For messages.
    values : array
        NumPy's, nested sequences, a pandas or xarray object.

    Returns
    -------
    ndarray
        Missing numbers are NaN.

    Raises
    ------
    ValueError
        If values are masked, or rows differ in length.
    """
    values = join_masked(values)
    if isinstance(values, np.ma.MaskedArray) and not np.any(np.ma.getmaskarray(values)):
        values = values.data
    if isinstance(values, np.ma.MaskedArray) or not _holds_objects(name, values):
        return read_array(name, values)
    array = np.asarray(values, dtype=object)
    for at in np.argwhere([isinstance(value, bytes) for value in array.ravel()]).ravel():
        array.flat[at] = array.flat[at].decode()
    return array


def code_responses(name: str, values: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return responses as they were given and as 0 and 1, with -1 for what is neither.

    Parameters
    ----------
    name : str
        For messages.
    values : array
        0 and 1, booleans, or "correct" and "incorrect".

    Returns
    -------
    given : ndarray
    codes : ndarray of int
    """
    given = read_column(name, values)
    codes = np.full(given.shape, -1)
    if given.dtype.kind in "biufc":
        codes[given == 0] = 0
        codes[given == 1] = 1
    else:
        keys = [str(value).strip().lower().removesuffix(".0") for value in given.ravel()]
        codes = np.array([RESPONSES.get(key, -1) for key in keys], int).reshape(given.shape)
    return given, codes


def as_plain(name: str, values: Any) -> np.ndarray:
    """Return a column as numbers, dates or strings; missing text is empty.

    NumPy saves no other objects.
    """
    array = read_column(name, values)
    if array.dtype != object:
        return array
    return np.array(["" if is_missing(v) else str(v) for v in array.ravel()], dtype=str).reshape(array.shape)


def is_missing(value: Any) -> bool:
    """Whether a value stands for none: None, NaN, NA or NaT."""
    is_nan = isinstance(value, float | np.floating) and np.isnan(value)
    return bool(value is None or type(value).__name__ in ("NAType", "NaTType") or is_nan)


def _holds_objects(name: str, values: Any) -> bool:
    """Whether values are of text, or of Python objects other than numbers."""
    try:
        array = np.asarray(values)
    except ValueError:
        raise ValueError(
            f"{name!r} has rows of different lengths. Pass an array, with one row for each trial."
        ) from None
    if array.dtype.kind in "UST":
        return True
    numbers = bool | int | float | np.number | np.bool_
    return array.dtype == object and not all(isinstance(v, numbers) or is_missing(v) for v in array.ravel())
