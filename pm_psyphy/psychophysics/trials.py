"""Arrays, a data frame or a CSV file in; a checked, frozen table of trials in the units of the model comes out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from pm_psyphy.psychophysics.domain import Domain
from pm_psyphy.psychophysics.wishart import MARGIN

RESPONSES = {"0": 0, "1": 1, "false": 0, "true": 1, "incorrect": 0, "correct": 1}


@dataclass(frozen=True, eq=False)
class Trials:
    """A table of N trials: two stimuli and a binary response each.

    Made by `from_arrays`, `from_frame`, `read_csv`, `load` or `simulate_trials`. A slice, mask or array of indices
    gives the trials it selects.

    Attributes
    ----------
    reference, comparison : ndarray, (N, D)
        In [-1, 1], read-only.
    response : ndarray of int, (N,)
        1 for correct (or "yes", "different"), else 0.
    domain : Domain
        What -1 and 1 mean in stimulus units.
    columns : dict of str to ndarray
        Anything else that is known of each trial, (N,) each: observer, session, time.

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
        for array in (self.reference, self.comparison, self.response, *self.columns.values()):
            array.setflags(write=False)

    def __len__(self) -> int:
        return len(self.response)

    def __repr__(self) -> str:
        held = f", columns {', '.join(self.columns)}" if self.columns else ""
        return f"Trials(N={len(self)}, D={self.reference.shape[1]}, {self.response.mean():.0%} correct{held})"

    def __getitem__(self, rows: Any) -> "Trials":
        rows = np.atleast_1d(np.arange(len(self))[rows])
        if not len(rows):
            raise ValueError("The selection holds no trial. Check the mask or slice.")
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

        Returns
        -------
        Trials

        Raises
        ------
        ValueError
            If there is no trial, lengths differ, a number is missing, a stimulus is outside the domain, or a response
            is none of these; the message names the row, counted from 0.
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
        return _from_frame(frame, reference, comparison, response, domain, columns, "row {}".format)

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

        The files of Hong et al. (2025) are read with ``reference="xref", comparison="x1", response="y",
        columns=["TrialType"]``.
        """
        import pandas as pd

        frame = pd.read_csv(path, **options)
        return _from_frame(
            frame, reference, comparison, response, domain, columns, lambda row: f"line {row + 2} of {path}"
        )

    def to_frame(self) -> Any:
        """Return a pandas data frame in stimulus units: reference_1 .., comparison_1 .., response, and the columns."""
        import pandas as pd

        stimuli = {
            f"{name}_{i + 1}": values
            for name, points in (("reference", self.reference), ("comparison", self.comparison))
            for i, values in enumerate(self.domain.restore(points).T)
        }
        return pd.DataFrame({**stimuli, "response": self.response, **self.columns})

    def save(self, path: str | Path) -> None:
        """Save the table, with its domain, as a NumPy archive (``.npz``) that `load` reads."""
        held: dict[str, Any] = {f"column_{name}": values for name, values in self.columns.items()}
        held |= {"reference": self.reference, "comparison": self.comparison, "response": self.response}
        with Path(path).open("wb") as file:
            np.savez(file, **held, low=self.domain.low, high=self.domain.high)

    @classmethod
    def load(cls, path: str | Path) -> "Trials":
        """Read what `save` wrote."""
        with np.load(path) as archive:
            held = dict(archive)
        missing = {"reference", "comparison", "response", "low", "high"} - held.keys()
        if missing:
            raise ValueError(f"{path} lacks {', '.join(sorted(missing))}. Pass a file that Trials.save wrote.")
        prefix = "column_"
        columns = {name.removeprefix(prefix): values for name, values in held.items() if name.startswith(prefix)}
        return cls(held["reference"], held["comparison"], held["response"], Domain(held["low"], held["high"]), columns)


def _make_trials(reference, comparison, response, domain, columns, name_row: Callable[[int], str]) -> Trials:
    stimuli = {"reference": reference, "comparison": comparison}
    stimuli = {name: _to_points(points, name, name_row) for name, points in stimuli.items()}
    answers = _to_responses(response, name_row)
    lengths = {name: len(values) for name, values in (*stimuli.items(), ("response", answers), *columns.items())}
    if not len(answers):
        raise ValueError("The table holds no trial. Check the file, or the selection it comes from.")
    if len(set(lengths.values())) > 1:
        raise ValueError(
            f"Lengths differ: {', '.join(f'{k} {n}' for k, n in lengths.items())}. Pass one row per trial."
        )
    widths = [points.shape[1] for points in stimuli.values()]
    if widths[0] != widths[1]:
        raise ValueError(f"References have {widths[0]} dimensions, comparisons {widths[1]}. Pass points of one space.")
    box = _choose_domain(domain, np.concatenate(list(stimuli.values())))
    rescaled = {name: points if domain is None else box.rescale(points) for name, points in stimuli.items()}
    for name, points in rescaled.items():
        outside = np.argwhere(~(np.abs(points) <= 1 + MARGIN))
        if len(outside):
            row, dimension = outside[0]
            raise ValueError(
                f"The {name} in {name_row(row)} is {stimuli[name][row, dimension]:g} in dimension {dimension + 1}, "
                f"outside {box.low[dimension]:g} to {box.high[dimension]:g}. Pass domain=(low, high) or domain='data'."
            )
    held = {name: np.array(values) for name, values in columns.items()}
    return Trials(rescaled["reference"], rescaled["comparison"], answers, box, held)


def _choose_domain(domain: Any, points: np.ndarray) -> Domain:
    if domain is None:
        return Domain(np.full(points.shape[1], -1.0), np.ones(points.shape[1]))
    if isinstance(domain, str):
        if domain != "data":
            raise ValueError(f"domain is {domain!r}. Pass (low, high), 'data' or None.")
        return Domain(points.min(axis=0), points.max(axis=0))
    box = domain if isinstance(domain, Domain) else Domain(*domain)
    if len(box.low) != points.shape[1]:
        raise ValueError(
            f"The domain has {len(box.low)} dimensions, the stimuli {points.shape[1]}. Pass one end for each."
        )
    return box


def _to_points(values: Any, name: str, name_row: Callable[[int], str]) -> np.ndarray:
    array = np.array(values)
    if array.dtype.kind in "OUST":
        array = _parse_points(array, name, name_row)
    points = array.astype(float)
    points = points[:, None] if points.ndim == 1 else points
    if points.ndim != 2:
        raise ValueError(f"The {name} has shape {points.shape}. Pass (N, D), one row per trial.")
    missing = np.argwhere(~np.isfinite(points))
    if len(missing):
        raise ValueError(f"The {name} in {name_row(missing[0, 0])} is not a finite number. Drop or mend that trial.")
    return points


def _parse_points(array: np.ndarray, name: str, name_row: Callable[[int], str]) -> np.ndarray:
    rows = []
    for row, entry in enumerate(array):
        parts = entry.strip(" ()[]").split(",") if isinstance(entry, str) else np.atleast_1d(entry)
        try:
            rows.append([float(part) for part in parts])
        except (TypeError, ValueError):
            raise ValueError(
                f"The {name} in {name_row(row)} is {str(entry)!r}. Pass numbers, or strings such as '0.1,-0.2'."
            ) from None
        if len(rows[row]) != len(rows[0]):
            raise ValueError(
                f"The {name} in {name_row(row)} has {len(rows[row])} dimensions, the first one {len(rows[0])}."
            )
    return np.array(rows).reshape(len(rows), -1)


def _to_responses(values: Any, name_row: Callable[[int], str]) -> np.ndarray:
    array = np.asarray(values)
    array = array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array
    if array.ndim != 1:
        raise ValueError(f"The response has shape {array.shape}. Pass (N,), one response per trial.")
    if array.dtype.kind in "biuf":
        codes = np.where(np.isin(array, (0, 1)), array, -1).astype(int)
    else:
        keys = [str(v).strip().lower().removesuffix(".0") for v in array]
        codes = np.array([RESPONSES.get(key, -1) for key in keys], int)
    wrong = np.flatnonzero(codes < 0)
    if len(wrong):
        raise ValueError(
            f"The response in {name_row(wrong[0])} is {array[wrong[0]]!s}. "
            "Responses are 0 or 1, or correct or incorrect."
        )
    return codes


def _from_frame(frame, reference, comparison, response, domain, columns, name_row) -> Trials:
    def pick(names):
        names = [names] if isinstance(names, str) else list(names)
        for name in names:
            if name not in frame:
                raise ValueError(f"There is no column {name!r}. The table has {', '.join(map(str, frame.columns))}.")
        return frame[names[0]].to_numpy() if len(names) == 1 else frame[names].to_numpy()

    kept = {name: _as_plain(pick(name)) for name in columns}
    return _make_trials(pick(reference), pick(comparison), pick(response), domain, kept, name_row)


def _as_plain(values: np.ndarray) -> np.ndarray:
    """Return strings as strings, not as objects, which cannot be saved."""
    return values.astype(str) if values.dtype == object else values
