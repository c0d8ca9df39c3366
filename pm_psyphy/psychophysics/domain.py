"""Ends of the stimulus space in; the way from stimulus units to those of the model, and back, comes out."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from pm_psyphy.common.arrays import convert_array, read_array


@dataclass(frozen=True, eq=False)
class Domain:
    """A box of the stimulus space, which models see as [-1, 1]^D.

    Attributes
    ----------
    low, high : ndarray, (D,)
        In stimulus units, read-only.

    Examples
    --------
    >>> domain = Domain([0, 10], [1, 20])
    >>> domain.rescale([0.5, 20])
    array([0., 1.])
    >>> domain.restore([0, 1])
    array([ 0.5, 20. ])
    """

    low: np.ndarray
    high: np.ndarray

    def __post_init__(self):
        for name in ("low", "high"):
            end = np.atleast_1d(_read_floats(name, getattr(self, name))).copy()
            end.setflags(write=False)
            object.__setattr__(self, name, end)
        ends = f"The domain goes from {self.low} to {self.high}."
        if self.low.ndim != 1 or self.low.shape != self.high.shape or not np.all(self.low < self.high):
            raise ValueError(f"{ends} Pass a lower and a higher end for each D.")
        if not np.all(np.isfinite([self.low, self.high, self.high - self.low])):
            raise ValueError(f"{ends} Pass finite ends.")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Domain) and np.array_equal([self.low, self.high], [other.low, other.high])

    def __hash__(self) -> int:
        return hash((*self.low.tolist(), *self.high.tolist()))

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy is made anew, for NumPy's copies are not read-only.
        return Domain, (self.low, self.high)

    def rescale(self, x: Any) -> np.ndarray:
        """Return points (..., D) in [-1, 1]^D, from stimulus units."""
        return (2 * self._read_points(x) - self.low - self.high) / (self.high - self.low)

    def restore(self, x: Any) -> np.ndarray:
        """Return points (..., D) in stimulus units, from [-1, 1]^D."""
        return (self._read_points(x) * (self.high - self.low) + self.low + self.high) / 2

    def restore_covariance(self, covariance: Any) -> np.ndarray:
        """Return covariances (..., D, D) in stimulus units squared."""
        found, d = _read_floats("covariance", covariance), len(self.low)
        if found.shape[-2:] != (d, d):
            raise ValueError(f"Covariances have shape {found.shape}, the domain has {d} dimensions. Pass (..., D, D).")
        scale = (self.high - self.low) / 2
        return found * scale[:, None] * scale

    def _read_points(self, x: Any) -> np.ndarray:
        points, d = _read_floats("points", x), len(self.low)
        # In one dimension levels (N,) are points, too.
        if d > 1 and points.shape[-1:] != (d,):
            raise ValueError(f"Points have shape {points.shape}, the domain has {d} dimensions. Pass (..., {d}).")
        return points


def _read_floats(name: str, values: Any) -> np.ndarray:
    return convert_array(name, read_array(name, values), float)
