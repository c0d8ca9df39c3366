"""A fit and its responses in; how far they are from what it expects, and whether two sets of draws differ, come out."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from pytensor.tensor.random.basic import BernoulliRV, BinomialRV
from scipy import special

from pm_psyphy.common.arrays import convert_array, read_array
from pm_psyphy.common.settings import check_interval, check_whole
from pm_psyphy.common.tables import MOST_ROWS, ShownAsTable, Table, say_left_out
from pm_psyphy.psychophysics.columns import as_plain
from pm_psyphy.results.draws import Draws
from pm_psyphy.results.map_result import MAPResult

MOST_DIRECTIONS = 0.1
"""At most this share of the number of draws is how many numbers may be compared together."""


@dataclass(frozen=True, repr=False, eq=False)
class GoodnessOfFit(ShownAsTable):
    """How far responses are from those a model expects, level by level.

    Attributes
    ----------
    levels : ndarray, (L,)
        Labels, or the mean of each group of numbers; of those with trials.
    n_trials : ndarray of int, (L,)
    observed, expected : ndarray, (L,)
        Proportions of responses 1.
    residuals : ndarray, (L,)
        Deviance residuals: about standard normal if the model is right.
    deviance : float
        The sum of their squares.
    p_value : float
        How often responses that the model makes have as large a deviance.
    """

    levels: np.ndarray
    n_trials: np.ndarray
    observed: np.ndarray
    expected: np.ndarray
    residuals: np.ndarray
    deviance: float
    p_value: float

    def _tabulate(self) -> Table:
        head = ["level", "trials", "observed", "expected", "residual"]
        rows = [
            [_format(level), f"{n:,}", f"{o:.3f}", f"{e:.3f}", f"{r:+.2f}"]
            for level, n, o, e, r in zip(
                self.levels, self.n_trials, self.observed, self.expected, self.residuals, strict=True
            )
        ]
        title = f"GoodnessOfFit: deviance {self.deviance:.1f} over {len(self.levels)} levels, p = {self.p_value:.3f}"
        return Table(title, rows, head)


def goodness_of_fit(
    fit: MAPResult | Draws,
    name: str | None = None,
    *,
    by: Any = None,
    bins: int = 10,
    draws: int = 1000,
    random_seed: Any = None,
) -> GoodnessOfFit:
    """Compare responses with what a model expects at each level, by the deviance.

    The deviance is compared with that of responses drawn from the model: at the estimate, or, with draws, at each of
    them, a posterior predictive check. The p-values are
    conservative, because the parameters were fitted to the same data.

    Parameters
    ----------
    fit : MAPResult or Draws
        A fit of a model whose responses are `pm.Bernoulli` (`Response` and `Oddity` are) or `pm.Binomial`.
    name : str, optional
        Name of the responses, if the model has several.
    by : array, (N,), optional
        The level of each response: labels, or numbers. Default: the expected proportion.
    bins : int
        Numbers of more levels than this are put in so many groups of about equal size.
    draws : int
        Number of sets of responses that are drawn from the model.
    random_seed : int or numpy.random.Generator, optional

    Returns
    -------
    GoodnessOfFit

    Raises
    ------
    ValueError
        If there are no such responses, none of them has trials, what the model expects is NaN, or `by` has not one
        level for each.

    References
    ----------
    Wichmann and Hill (2001), The psychometric function: I. Gelman, Meng and Stern (1996), Posterior predictive
    assessment of model fitness.
    """
    check_whole(draws=draws, bins=bins)
    rng = np.random.default_rng(random_seed)
    counts, trials, p = _read_responses(fit, name)
    by = p.mean(axis=0) if by is None else as_plain("by", by)
    if by.size != trials.size:
        raise ValueError(f"by has shape {by.shape}. Pass a level for each of the {trials.size} responses.")
    # An incomplete session has levels without trials, which say nothing.
    asked = trials > 0
    if not asked.any():
        raise ValueError("The responses hold no trial: all their n are 0. Check the data.")
    by = by.ravel()
    _refuse_nan("by", by, asked)
    _refuse_nan("the model's expectation", p.mean(axis=0), asked)
    # A proportion may round to more than 1.
    counts, trials, p = counts[asked], trials[asked], np.clip(p[:, asked], 0, 1)
    level, levels = group_levels(by[asked], bins)

    def add_up(values):
        return np.bincount(level, values, minlength=len(levels))

    n_trials, n_ones = add_up(trials), add_up(counts)
    expected = np.stack([add_up(trials * row) for row in p])
    larger = np.empty(draws, bool)
    for i in range(draws):
        row = i % len(p)
        drawn = add_up(rng.binomial(trials, p[row]))
        larger[i] = _deviance(drawn, expected[row], n_trials).sum() >= _deviance(n_ones, expected[row], n_trials).sum()
    mean = expected.mean(axis=0)
    parts = _deviance(n_ones, mean, n_trials)
    return GoodnessOfFit(
        levels,
        n_trials.astype(int),
        n_ones / n_trials,
        mean / n_trials,
        np.sign(n_ones - mean) * np.sqrt(parts),
        float(parts.sum()),
        float(larger.mean()),
    )


@dataclass(frozen=True, repr=False, eq=False)
class Difference(ShownAsTable):
    """What draws say of the difference of two quantities.

    Attributes
    ----------
    mean, low, high : ndarray, (...)
        Mean, and the edges of the central interval that holds `interval` of the draws.
    probability : ndarray, (...)
        The probability that the first is larger.
    p_value : float
        The p-value of a Wald test that all entries are equal.
    interval : float
    """

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    probability: np.ndarray
    p_value: float
    interval: float

    def _tabulate(self) -> Table:
        apart = (self.low > 0) | (self.high < 0)
        if self.mean.ndim == 0:
            return Table(
                f"Difference: {self.mean:.4g}, {self.interval:.0%} in [{self.low:.4g}, {self.high:.4g}], larger with "
                f"probability {self.probability:.3f}"
            )
        entries = [tuple(map(int, index)) for index in np.ndindex(self.mean.shape)][:MOST_ROWS]
        columns = self.mean, self.low, self.high, self.probability
        return Table(
            f"Difference: {self.interval:.0%} intervals without 0 in {apart.sum()} of {apart.size} entries; "
            f"all of them equal: p = {self.p_value:.2g}",
            [[", ".join(map(str, index)), *(f"{column[index]:.4g}" for column in columns)] for index in entries],
            ["entry", "mean", "low", "high", "P(> 0)"],
            say_left_out(self.mean.size),
        )


def compare_draws(first: Any, second: Any, *, interval: float = 0.95) -> Difference:
    """Ask whether two quantities differ: two thresholds of an observer, or the same one of two observers.

    Parameters
    ----------
    first, second : array, (S, ...)
        Draws of each. Of one posterior, draw by draw, they may depend on each other; of two posteriors they are
        independent, and the first of the longer are used.
    interval : float
        Share of the draws inside, in (0, 1).

    Returns
    -------
    Difference

    Raises
    ------
    ValueError
        If the shapes differ, draws are NaN, or there are too few of them for a joint test.
    """
    check_interval(interval)
    first, second = (
        convert_array(label, read_array(label, draws), float) for label, draws in (("first", first), ("second", second))
    )
    if first.ndim == 0 or first.shape[1:] != second.shape[1:]:
        raise ValueError(f"Draws have shapes {first.shape} and {second.shape}. Pass (S, ...) of the same quantity.")
    size = min(len(first), len(second))
    finite = [np.isfinite(draws[:size].reshape(size, -1)).all(axis=1) for draws in (first, second)]
    n_missing = np.sum(~(finite[0] & finite[1]))
    if n_missing:
        raise ValueError(
            f"{n_missing} of {size} draws hold NaN, as thresholds outside the domain are, or infinite numbers. Leave "
            "those entries out."
        )
    first, second = first[:size], second[:size]
    # What differs by rounding is the same.
    rounding = 4 * np.finfo(float).eps * np.maximum(np.abs(first), np.abs(second))
    gap = np.where(np.abs(first - second) <= rounding, 0.0, first - second)
    flat = gap.reshape(size, -1)
    if flat.shape[1] > MOST_DIRECTIONS * size:
        raise ValueError(
            f"There are {size} draws of {flat.shape[1]} numbers, too few to compare them together. Pass at least "
            f"{int(np.ceil(flat.shape[1] / MOST_DIRECTIONS))} draws, or fewer numbers."
        )
    low, high = np.quantile(gap, [(1 - interval) / 2, (1 + interval) / 2], axis=0)
    mean, covariance = flat.mean(axis=0), np.atleast_2d(np.cov(flat.T))
    # What is the same in all draws is known for certain.
    fixed = np.ptp(flat, axis=0) == 0
    certain = np.any(mean[fixed] != 0)
    scale = 1 / np.sqrt(np.maximum(np.diag(covariance), np.finfo(float).tiny))
    inverse = np.linalg.pinv(scale[:, None] * covariance * scale, rcond=1e-8, hermitian=True)
    rank = np.linalg.matrix_rank(inverse, hermitian=True)
    distance = (scale * mean) @ inverse @ (scale * mean)
    p_value = 0.0 if certain else 1.0 if rank == 0 else float(special.chdtrc(rank, distance))
    return Difference(gap.mean(axis=0), low, high, (gap > 0).mean(axis=0), p_value, interval)


def _read_responses(fit: MAPResult | Draws, name: str | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return responses 1 and trials, both (N,), and the probability of a response 1 for each draw, (S, N)."""
    model = fit.objective.model
    binary = [v for v in model.observed_RVs if isinstance(v.owner.op, BernoulliRV | BinomialRV)]
    found = [v for v in binary if name in (None, v.name)]
    if len(found) != 1:
        names = ", ".join(v.name for v in binary) or "none"
        raise ValueError(
            f"Responses by pm.Bernoulli or pm.Binomial: {names}."
            + (f" {name!r} is none of them." if name else " Name one of them.")
        )
    (variable,) = found
    *trials, p = variable.owner.op.dist_params(variable.owner)
    values = fit.evaluate([p, model.rvs_to_values[variable], *trials])
    if isinstance(fit, MAPResult):
        values = [np.asarray(value)[None] for value in values]
    p, (counts, *_), *trials = values
    shape = (len(p), *counts.shape)
    p, n = (
        np.broadcast_to(value.reshape(len(value), *[1] * (len(shape) - value.ndim), *value.shape[1:]), shape)
        for value in (p, *(trials or [np.ones((1, 1))]))
    )
    return counts.ravel(), n[0].ravel().astype(int), p.reshape(len(p), -1)


def _refuse_nan(name: str, values: np.ndarray, asked: np.ndarray) -> None:
    missing = np.flatnonzero(asked & np.isnan(values)) if values.dtype.kind == "f" else []
    if len(missing):
        raise ValueError(f"Row {missing[0]} of {name} is NaN. Every response with trials needs a number there.")


def group_levels(by: np.ndarray, bins: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the level of each trial, a number from 0, and the labels of the L levels, or the means of their groups.

    Parameters
    ----------
    by : ndarray, (N,)
        Without NaN.
    bins : int
        Numbers of more levels than this are put in so many groups of about equal size.

    Returns
    -------
    group : ndarray of int, (N,)
    levels : ndarray, (L,)
    """
    levels, group = np.unique(by, return_inverse=True)
    if len(levels) <= bins or not np.issubdtype(by.dtype, np.number):
        return group, levels
    edges = np.unique(np.quantile(by, np.linspace(0, 1, bins + 1)[1:-1]))
    group = np.unique(np.searchsorted(edges, by, side="right"), return_inverse=True)[1]
    return group, np.bincount(group, by) / np.bincount(group)


def _deviance(ones: np.ndarray, expected: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Return each level's part of the deviance; infinite where responses were given that cannot be."""
    # A sum of probabilities may round to more than their number.
    expected = np.clip(expected, 0, n)
    zeros = n - ones
    parts = special.xlogy(ones, ones) - special.xlogy(ones, expected)
    parts += special.xlogy(zeros, zeros) - special.xlogy(zeros, n - expected)
    return np.maximum(2 * parts, 0)


def _format(level: Any) -> str:
    return f"{level:.4g}" if isinstance(level, float | np.floating) else str(level)
