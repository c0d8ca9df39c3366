"""Ends of the stimulus space in; the way from stimulus units to those of the model, and back, comes out."""

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class Domain:
    """A box of the stimulus space, which models see as [-1, 1]^D.

    Attributes
    ----------
    low, high : ndarray, (D,)
        In stimulus units.

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
            object.__setattr__(self, name, np.atleast_1d(np.asarray(getattr(self, name), float)))
        if self.low.ndim != 1 or self.low.shape != self.high.shape or not np.all(self.low < self.high):
            raise ValueError(
                f"The domain goes from {self.low} to {self.high}. Pass a lower and a higher end for each D."
            )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Domain) and np.array_equal([self.low, self.high], [other.low, other.high])

    __hash__ = None  # type: ignore[assignment]

    def rescale(self, x: Any) -> np.ndarray:
        """Return points (..., D) in [-1, 1]^D, from stimulus units."""
        return (2 * np.asarray(x, float) - self.low - self.high) / (self.high - self.low)

    def restore(self, x: Any) -> np.ndarray:
        """Return points (..., D) in stimulus units, from [-1, 1]^D."""
        return (np.asarray(x, float) * (self.high - self.low) + self.low + self.high) / 2

    def restore_covariance(self, covariance: Any) -> np.ndarray:
        """Return covariances (..., D, D) in stimulus units squared."""
        scale = (self.high - self.low) / 2
        return np.asarray(covariance, float) * scale[:, None] * scale
