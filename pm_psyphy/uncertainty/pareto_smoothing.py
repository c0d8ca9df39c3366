"""Logarithms of importance weights in; the same with a smoothed tail, and k-hat, come out."""

from typing import Any

import numpy as np
from scipy import special

# Above this k-hat, importance weights have no usable variance (Vehtari, Simpson, Gelman, Yao and Gabry, 2024).
POOR_K = 0.7
# Logarithms that differ by less are those of weights that are all the same.
EQUAL = 1e-6


def resample(weights: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Return n numbers from 0 on, in random order, each as often as its weight says: systematic resampling.

    Parameters
    ----------
    weights : ndarray, (m,)
        Their sum is 1.
    n : int
    rng : numpy.random.Generator

    Returns
    -------
    ndarray of int, (n,)
    """
    places = (np.arange(n) + rng.random()) / n
    chosen = np.searchsorted(np.cumsum(weights), places * (1 - 1e-12))
    return rng.permutation(np.minimum(chosen, len(weights) - 1))


def smooth_weights(log_weights: np.ndarray) -> tuple[np.ndarray, float]:
    """Return weights whose sum is 1, the largest smoothed by a generalised Pareto distribution, and its shape k-hat.

    Parameters
    ----------
    log_weights : ndarray, (n,)
        But for a constant. What is not a finite number counts as a weight of 0.

    Returns
    -------
    weights : ndarray, (n,)
    pareto_k : float
        -inf where all weights are equal; inf where none is usable, or there are too few to tell.
    """
    from arviz_stats.base import array_stats

    finite = np.where(np.isfinite(log_weights), log_weights, -np.inf)
    if not np.isfinite(finite).any():
        return np.full(len(finite), 1 / len(finite)), np.inf
    relative = finite - finite.max()
    if np.ptp(log_weights) < EQUAL:
        return np.exp(relative - special.logsumexp(relative)), -np.inf
    try:
        # Of log likelihoods that are left out, whose negatives are the logarithms of weights.
        found: Any = array_stats.psislw(-relative)
        smoothed, k = found
    except ValueError:
        smoothed, k = relative, np.inf
    return np.exp(smoothed - special.logsumexp(smoothed)), np.inf if np.isnan(k) else float(k)
