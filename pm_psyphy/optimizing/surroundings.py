"""Where a search began and ended in; whether the loss stays as low farther on, comes out."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

Params = Mapping[str, np.ndarray]

# In nats: what costs less, the data and priors do not notice.
UNNOTICED = 0.01
# So many times as far from the start as the search has gone, the loss is looked at; where it rises most likely first.
FARTHER = 1e4, 64.0, 8.0, 1.0, 1e8
# A ridge has so many strides. Each begins so many times its way farther on, and ends at least so many times as far.
STRIDES, BENT, GROWN = 2, 3.0, 2.0


@dataclass(frozen=True)
class Surroundings:
    """The loss around the end of a search. Masks say, by name, which of the parameters move."""

    start: Params
    end: Params
    way: Params
    """From the start to the end."""
    loss: float
    """At the end."""
    evaluate: Callable[[Params], float]
    """Returns the loss at a point."""
    search: Callable[[Params], tuple[float, Params]] | None
    """Searches from a point; returns the loss and the point where that ends."""

    def move(self, masks: Params, factor: float) -> dict[str, np.ndarray]:
        """Return the end, moved so many times its way farther on."""
        return {n: (v + factor * np.where(masks[n], self.way[n], 0)).astype(v.dtype) for n, v in self.end.items()}

    def stays_low(self, masks: Params) -> bool:
        """Whether the loss stays as low farther on, as far as it is finite."""
        n_finite = 0
        for factor in FARTHER:
            rise = self.evaluate(self.move(masks, factor)) - self.loss
            if abs(rise) > UNNOTICED and np.isfinite(rise):
                return False
            n_finite += bool(np.isfinite(rise))
        return n_finite > 2

    def is_ridge(self, masks: Params) -> bool:
        """Whether searches from ever farther on find as low a loss there, as along a ridge that is bent.

        Rotations and reflections of an optimum are as low, too, but not ever farther.
        """
        if self.search is None:
            return False
        point = self.end
        for _ in range(STRIDES):
            way = {n: np.where(m, point[n] - self.start[n], 0) for n, m in masks.items()}
            farther = {n: (v + BENT * way[n]).astype(v.dtype) for n, v in point.items()}
            rise = self.evaluate(farther) - self.loss
            if not np.isfinite(rise):
                return False
            # What costs nothing along the search's own way was looked at already.
            if rise <= UNNOTICED:
                return point is not self.end
            loss, ended = self.search(farther)
            if loss > self.loss + UNNOTICED or self._measure(ended, masks) < GROWN * self._measure(point, masks):
                return False
            point = ended
        return True

    def _measure(self, point: Params, masks: Params) -> float:
        """Return how far a point is from the start."""
        return float(np.sqrt(sum(np.sum(np.square(point[n] - self.start[n])[m]) for n, m in masks.items())))
