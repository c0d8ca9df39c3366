"""Draws of chains in; whether there are enough of them, by r-hat and effective numbers of draws, comes out."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from pytensor.graph.basic import Variable

from pm_psyphy.compiling.flat_parameters import find_layout
from pm_psyphy.results.draws import Draws
from pm_psyphy.uncertainty.laplace import Gaussian

# What draws must reach: the largest r-hat (Vehtari, Gelman, Simpson, Carpenter and Buerkner, 2021), and the least
# number of independent draws that they count for.
MOST_R_HAT, LEAST_ESS = 1.02, 400
# Short chains are compared as so few long ones, of several chains each: r-hat of many short ones would ask for more
# draws the more of them there are (Margossian, Hoffman, Sountsov, Riou-Durand, Vehtari and Gelman, 2024).
GROUPS = 4
# The first look at the chains comes after so many moves, each other one after so many times as many as the last.
FIRST_LOOK, GROWTH = 60, 1.3
# Of a field's weights, all products of so few rows are watched; of more, the squares of the rows.
FEW_ROWS = 12


class Watch:
    """What decides whether chains are long enough: r-hat and effective numbers of draws of some numbers."""

    def __init__(self, near: Gaussian, of: Any, least: int = 1):
        self.near, self.of, self.least = near, of, least
        self.values: list[np.ndarray] = []
        self.next_look, self.r_hat, self.ess = FIRST_LOOK, np.nan, np.nan

    def __str__(self) -> str:
        return "" if np.isnan(self.r_hat) else f"r-hat {self.r_hat:.3f}, {self.ess:,.0f} independent draws"

    @property
    def is_good(self) -> bool:
        """Whether the chains were long enough at the last look."""
        return self.r_hat <= MOST_R_HAT and self.ess >= LEAST_ESS

    def add(self, vectors: np.ndarray, losses: np.ndarray) -> None:
        """Take note of the next n draws, (n, B, P), and their losses, (n, B)."""
        flat = vectors.reshape(-1, vectors.shape[-1])
        found = self._evaluate(flat)
        table = np.concatenate([np.reshape(a, (len(flat), -1)) for a in found], axis=1)
        self.values.append(np.concatenate([losses[..., None], table.reshape(*losses.shape, -1)], axis=-1))

    def look(self, vectors: np.ndarray, losses: np.ndarray) -> bool:
        """Take note of a chunk of draws, and say whether there are enough."""
        self.add(vectors, losses)
        n = sum(len(part) for part in self.values)
        if n < max(self.next_look, self.least):
            return False
        self.next_look = GROWTH * n
        self.judge()
        return self.is_good

    def judge(self) -> None:
        """Compute r-hat and the effective number of draws of all numbers, and keep the worst."""
        from arviz_stats.base import array_stats

        values = np.concatenate(self.values)
        # What has no number in some draws, such as a threshold out of reach, has no r-hat, either.
        usable = np.isfinite(values).all(axis=(0, 1)) & (np.ptp(values, axis=(0, 1)) > 0)
        if not usable.any() or len(values) < 4:
            return
        values = values[..., usable]
        n, n_chains, n_numbers = values.shape
        groups = GROUPS if n_chains % GROUPS == 0 else n_chains
        together = np.swapaxes(values.reshape(n, groups, -1, n_numbers), 1, 2).reshape(-1, groups, n_numbers)
        self.r_hat = float(np.max(array_stats.rhat(together, chain_axis=1, draw_axis=0)))
        self.ess = float(np.min(array_stats.ess(values, chain_axis=1, draw_axis=0)))

    def _evaluate(self, vectors: np.ndarray) -> Sequence[np.ndarray]:
        params = find_layout(self.near.mode).split(vectors)
        if self.of is None:
            rotating = self.near.left_out
            return [_square(value) if name in rotating else value for name, value in params.items()]
        draws = Draws(self.near.objective, params)
        if isinstance(self.of, Variable):
            return [draws.evaluate(self.of)]
        if isinstance(self.of, Callable):
            return [np.asarray(self.of(draws))]
        return draws.evaluate(self.of)


def _square(weights: np.ndarray) -> np.ndarray:
    """Return products of rows of weights (S, ..., E), which no rotation changes."""
    rows = weights.reshape(len(weights), -1, weights.shape[-1])
    if rows.shape[1] > FEW_ROWS:
        return np.sum(rows**2, axis=-1)
    first, second = np.triu_indices(rows.shape[1])
    return np.sum(rows[:, first] * rows[:, second], axis=-1)
