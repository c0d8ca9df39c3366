"""Arrays, a data frame or a CSV file in; a checked, frozen table of trials in the units of the model comes out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from pm_psyphy.common.arrays import convert_array, read_array
from pm_psyphy.psychophysics.archive import read_archive
from pm_psyphy.psychophysics.columns import as_plain, code_responses, read_column
from pm_psyphy.psychophysics.csv_file import check_decimals, explain_text, name_lines, pick_columns, read_csv_file
from pm_psyphy.psychophysics.domain import Domain
from pm_psyphy.psychophysics.wishart import MARGIN

PREFIX = "column_"


@dataclass(frozen=True, eq=False)
class Trials:
    """A table of N trials: two stimuli and a binary response each.

    Made by `from_arrays`, `from_frame`, `read_csv`, `load` or `simulate_trials`. A slice, mask or array of indices
    gives the trials it selects. The table holds copies: later changes of the arrays it was made from do not reach it.

    Attributes
    ----------
    reference, comparison : ndarray, (N, D)
        In [-1, 1], read-only.
    response : ndarray of int, (N,)
        1 for correct (or "yes", "different"), else 0.
    domain : Domain
        What -1 and 1 mean in stimulus units.
    columns : dict of str to ndarray
        Anything else that is known about each trial, (N,) each: observer, session, time.

    Examples
    --------
    >>> trials = Trials.from_arrays([[20.0], [20.0]], [[25.0], [40.0]], ["incorrect", "correct"], domain=([0], [50]))
    >>> trials
    Trials(N=2, D=1, 50% correct)
    >>> trials.comparison.ravel(), trials.response
    (array([0. , 0.6]), array([0, 1]))
    """

    reference: np.ndarray
    comparison: np.ndarray
    response: np.ndarray
    domain: Domain
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self):
        table = _check_table(self.reference, self.comparison, self.response, self.columns, "row {}".format)
        _check_box(self.domain, table["reference"])
        _check_inside(table, table, self.domain, "row {}".format, "Pass points in model units, in [-1, 1].")
        columns = table.pop("columns")
        for array in (*table.values(), *columns.values()):
            array.setflags(write=False)
        for name, value in {**table, "columns": MappingProxyType(columns)}.items():
            object.__setattr__(self, name, value)

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy is made anew, for NumPy's copies are not read-only.
        return Trials, (self.reference, self.comparison, self.response, self.domain, dict(self.columns))

    def __len__(self) -> int:
        return len(self.response)

    def __repr__(self) -> str:
        held = f", columns {', '.join(self.columns)}" if self.columns else ""
        return f"Trials(N={len(self)}, D={self.reference.shape[1]}, {self.response.mean():.0%} correct{held})"

    def __getitem__(self, rows: Any) -> "Trials":
        rows = rows if isinstance(rows, slice) or np.size(rows) == 0 else read_array("rows", rows)
        rows = np.atleast_1d(np.arange(len(self))[rows if isinstance(rows, slice) or np.size(rows) else []])
        if not len(rows):
            raise ValueError("The selection has no trials. Check the mask or slice.")
        return replace(
            self,
            reference=self.reference[rows],
            comparison=self.comparison[rows],
            response=self.response[rows],
            columns={name: values[rows] for name, values in self.columns.items()},
        )

    @classmethod
    def from_arrays(
        cls,
        reference: Any,
        comparison: Any,
        response: Any,
        *,
        domain: Any = None,
        columns: Mapping[str, Any] | None = None,
    ) -> "Trials":
        """Check arrays and make a table of them.

        Parameters
        ----------
        reference, comparison : array, (N, D), or (N,) for one dimension
            Strings such as ``"0.1,-0.2"`` are points, too.
        response : array, (N,)
            0 and 1, booleans, or "correct" and "incorrect".
        domain : Domain, pair of (low, high), or "data", optional
            The box of stimuli that models see as [-1, 1]^D; ``"data"``: the smallest one that holds all stimuli.
            Default: the stimuli are in [-1, 1] already.
        columns : dict of str to array, (N,), optional
            Missing text becomes empty, missing numbers NaN.

        Returns
        -------
        Trials

        Raises
        ------
        ValueError
            If there is no trial, lengths differ, a number is missing or masked, a stimulus is outside the domain, or a
            response is none of these; the message names the row, counted from 0.
        """
        return _make_trials(reference, comparison, response, domain, columns or {}, "row {}".format)

    @classmethod
    def from_frame(
        cls,
        frame: Any,
        *,
        reference: str | Sequence[str],
        comparison: str | Sequence[str],
        response: str,
        domain: Any = None,
        columns: Sequence[str] = (),
    ) -> "Trials":
        """Make a table of the columns of a pandas data frame.

        Parameters
        ----------
        frame : pandas.DataFrame
        reference, comparison : str or sequence of str
            One column for each dimension, or one column of strings such as ``"0.1,-0.2"``.
        response : str
        domain : Domain, pair of (low, high), or "data", optional
            See `from_arrays`.
        columns : sequence of str
            Other columns to keep.

        Returns
        -------
        Trials
        """
        return _from_frame(frame, reference, comparison, response, domain, columns, _name_rows(frame))

    @classmethod
    def read_csv(
        cls,
        path: str | Path,
        *,
        reference: str | Sequence[str],
        comparison: str | Sequence[str],
        response: str,
        domain: Any = None,
        columns: Sequence[str] = (),
        **options: Any,
    ) -> "Trials":
        """Read a table from a CSV file; parameters as for `from_frame`, other options go to `pandas.read_csv`.

        An error names the line of the file, or, where that is not certain (streams, web addresses), the row of the
        table, counted from 0. The files of Hong et al. (2025) are read with ``reference="xref", comparison="x1",
        response="y", columns=["TrialType"]``.
        """
        frame = read_csv_file(path, options)
        name_row = name_lines(path, options, frame)
        check_decimals(frame, [reference, comparison], options, name_row)
        try:
            return _from_frame(frame, reference, comparison, response, domain, columns, name_row, options)
        except ValueError as error:
            hint = explain_text(frame, [reference, comparison, response], options, name_row)
            if not hint:
                raise
            raise ValueError(f"{error} {hint}") from None

    def to_frame(self) -> Any:
        """Return a pandas data frame in stimulus units: reference_1 ..., comparison_1 ..., response, and the columns.

        A column of one of these names is called ``column_`` and its name.
        """
        import pandas as pd

        table = {
            f"{name}_{i + 1}": values
            for name, points in (("reference", self.reference), ("comparison", self.comparison))
            for i, values in enumerate(self.domain.restore(points).T)
        }
        table["response"] = self.response
        for name, values in self.columns.items():
            table[PREFIX + name if name in table else name] = values
        return pd.DataFrame(table)

    def save(self, path: str | Path) -> None:
        """Save the table, with its domain, as a NumPy archive (``.npz``) that `load` reads."""
        held: dict[str, Any] = {PREFIX + name: values for name, values in self.columns.items()}
        held |= {"reference": self.reference, "comparison": self.comparison, "response": self.response}
        with Path(path).open("wb") as file:
            np.savez(file, **held, low=self.domain.low, high=self.domain.high)

    @classmethod
    def load(cls, path: str | Path) -> "Trials":
        """Read what `save` wrote.

        Raises
        ------
        ValueError
            If the file is not such an archive, or does not hold a table of trials.
        """
        advice = f"Pass a file that Trials.save wrote, not {path}."
        held = read_archive(path, advice)
        missing = {"reference", "comparison", "response", "low", "high"} - held.keys()
        if missing:
            raise ValueError(f"{path} lacks {', '.join(sorted(missing))}. Pass a file that Trials.save wrote.")
        columns = {name.removeprefix(PREFIX): values for name, values in held.items() if name.startswith(PREFIX)}
        try:
            domain = Domain(held["low"], held["high"])
            return cls(held["reference"], held["comparison"], held["response"], domain, columns)
        except ValueError as error:
            raise ValueError(f"{path} holds no table of trials. {error}") from None


def _make_trials(reference, comparison, response, domain, columns, name_row: Callable[[int], str]) -> Trials:
    table = _check_table(reference, comparison, response, columns, name_row)
    stimuli = {name: table[name] for name in ("reference", "comparison")}
    box = _choose_domain(domain, np.concatenate(list(stimuli.values())))
    rescaled = {name: points if domain is None else box.rescale(points) for name, points in stimuli.items()}
    _check_inside(rescaled, stimuli, box, name_row, "Pass domain=(low, high) or domain='data'.")
    return Trials(rescaled["reference"], rescaled["comparison"], table["response"], box, table["columns"])


def _check_table(reference, comparison, response, columns, name_row: Callable[[int], str]) -> dict[str, Any]:
    """Return private copies of the arrays of a table, in the types that `Trials` has."""
    stimuli = {"reference": reference, "comparison": comparison}
    table: dict[str, Any] = {name: _to_points(points, name, name_row) for name, points in stimuli.items()}
    table["response"] = _to_responses(response, name_row)
    held = {str(name): _to_column(f"columns[{name!r}]", values) for name, values in columns.items()}
    lengths = {name: len(values) for name, values in (*table.items(), *held.items())}
    if not lengths["response"]:
        raise ValueError("The table has no trials. Check the file, or the selection it comes from.")
    if len(set(lengths.values())) > 1:
        raise ValueError(
            f"The lengths differ: {', '.join(f'{k} {n}' for k, n in lengths.items())}. Pass one row per trial."
        )
    widths = [table[name].shape[1] for name in stimuli]
    if widths[0] != widths[1]:
        raise ValueError(
            f"References have {widths[0]} dimensions, but comparisons have {widths[1]}. Pass points in the same space."
        )
    return table | {"columns": held}


def _check_box(box: Any, points: np.ndarray) -> None:
    if not isinstance(box, Domain):
        raise TypeError(f"domain is a {type(box).__name__}. Pass a Domain, or make the table by Trials.from_arrays.")
    if len(box.low) != points.shape[1]:
        raise ValueError(
            f"The domain has {len(box.low)} dimensions, but the stimuli have {points.shape[1]}. Pass one low and one "
            "high value per dimension."
        )


def _check_inside(rescaled, stimuli, box: Domain, name_row: Callable[[int], str], advice: str) -> None:
    for name in ("reference", "comparison"):
        outside = np.argwhere(~(np.abs(rescaled[name]) <= 1 + MARGIN))
        if len(outside):
            row, dimension = outside[0]
            ends = (-1.0, 1.0) if rescaled is stimuli else (box.low[dimension], box.high[dimension])
            raise ValueError(
                f"The {name} in {name_row(row)} is {stimuli[name][row, dimension]:g} in dimension {dimension + 1}, "
                f"outside {ends[0]:g} to {ends[1]:g}. {advice}"
            )


def _choose_domain(domain: Any, points: np.ndarray) -> Domain:
    if domain is None:
        return Domain(np.full(points.shape[1], -1.0), np.ones(points.shape[1]))
    if isinstance(domain, str):
        if domain != "data":
            raise ValueError(f"domain is {domain!r}. Pass (low, high), 'data' or None.")
        return Domain(points.min(axis=0), points.max(axis=0))
    if not isinstance(domain, Domain):
        if not hasattr(domain, "__len__") or len(domain) != 2:
            raise ValueError(f"domain is {domain!r}. Pass (low, high), 'data' or None.")
        domain = Domain(*domain)
    _check_box(domain, points)
    return domain


def _to_points(values: Any, name: str, name_row: Callable[[int], str]) -> np.ndarray:
    array = read_column(name, values)
    if array.dtype == object:
        array = _parse_points(array, name, name_row)
    points = convert_array(name, array, float)
    points = points[:, None] if points.ndim == 1 else points
    if points.ndim != 2 or (len(points) and not points.shape[1]):
        raise ValueError(f"The {name} has shape {points.shape}. Pass (N, D), one row per trial.")
    missing = np.argwhere(~np.isfinite(points))
    if len(missing):
        raise ValueError(f"The {name} in {name_row(missing[0, 0])} is not a finite number. Drop or correct that trial.")
    return points.copy()


def _parse_points(array: np.ndarray, name: str, name_row: Callable[[int], str]) -> np.ndarray:
    rows = []
    for row, entry in enumerate(array):
        parts = entry.strip(" ()[]").split(",") if isinstance(entry, str) else np.atleast_1d(entry)
        rows.append([_parse_number(part, name, row, name_row) for part in parts])
        if len(rows[row]) != len(rows[0]):
            raise ValueError(
                f"The {name} in {name_row(row)} has {len(rows[row])} dimensions, but the first one has {len(rows[0])}."
            )
    return np.array(rows, float).reshape(len(rows), len(rows[0]) if rows else 1)


def _parse_number(part: Any, name: str, row: int, name_row: Callable[[int], str]) -> float:
    try:
        return np.nan if part is None else float(part)
    except (TypeError, ValueError):
        if type(part).__name__ in ("NAType", "NaTType"):
            return np.nan
        raise ValueError(
            f"The {name} in {name_row(row)} is {str(part)!r}. Pass numbers, or strings such as '0.1,-0.2'."
        ) from None


def _to_responses(values: Any, name_row: Callable[[int], str]) -> np.ndarray:
    given, codes = code_responses("response", values)
    if codes.ndim == 2 and codes.shape[1] == 1:
        given, codes = given[:, 0], codes[:, 0]
    if codes.ndim != 1:
        raise ValueError(f"The response has shape {codes.shape}. Pass (N,), one response per trial.")
    wrong = np.flatnonzero(codes < 0)
    if len(wrong):
        raise ValueError(
            f"The response in {name_row(wrong[0])} is {given[wrong[0]]!s}. "
            "Responses are 0 or 1, or correct or incorrect."
        )
    return codes


def _to_column(name: str, values: Any) -> np.ndarray:
    column = as_plain(name, values)
    column = column[:, 0] if column.ndim == 2 and column.shape[1] == 1 else column
    if column.ndim != 1:
        raise ValueError(f"{name} has shape {column.shape}. Pass (N,), one value per trial.")
    return column.copy()


def _from_frame(frame, reference, comparison, response, domain, columns, name_row, options=None) -> Trials:
    def pick(names):
        return pick_columns(frame, names, options)

    kept = {name: pick(name) for name in ([columns] if isinstance(columns, str) else columns)}
    return _make_trials(pick(reference), pick(comparison), pick(response), domain, kept, name_row)


def _name_rows(frame: Any) -> Callable[[int], str]:
    """Return what a row is called, by its number, and by its label where that is another."""

    def name_row(row):
        label = frame.index[row] if hasattr(frame, "index") else row
        is_number = isinstance(label, int | np.integer) and label == row
        return f"row {row}" if is_number else f"row {row} (index {label})"

    return name_row
