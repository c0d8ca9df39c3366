"""Covariance matrices in; the same, checked, or what sizes they have in their narrowest direction, come out."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from pm_psyphy.psychophysics.tensor import pt


def check_covariances(covariances: Any) -> np.ndarray:
    """Return covariances as an array of float64.

    Parameters
    ----------
    covariances : array, (..., D, D)

    Raises
    ------
    ValueError
        If one is singular to the precision of its type, or not finite.
    """
    found = np.asarray(covariances)
    if found.ndim < 2 or found.shape[-1] != found.shape[-2]:
        raise ValueError(f"Covariances have shape {found.shape}. Pass (..., D, D).")
    precision = np.finfo(found.dtype if found.dtype.kind == "f" else float).eps
    found = found.astype(float)
    finite = np.isfinite(found).all(axis=(-1, -2), keepdims=True)
    eigenvalues = np.linalg.eigvalsh(np.where(finite, found, 0))
    bad = np.argwhere(np.atleast_1d(eigenvalues[..., 0] <= found.shape[-1] * precision * eigenvalues[..., -1]))
    if len(bad):
        raise ValueError(
            f"The covariance at index {tuple(map(int, bad[0]))} is singular or not finite. Pass positive definite "
            "ones; a Wishart process has them where diag_term > 0."
        )
    return found


def find_scales(d: int, *entries: Any) -> list[Any]:
    """Return how far each entry of a difference and two covariances may go before a likelihood of them changes much.

    Parameters
    ----------
    d : int
        D.
    *entries : tensor, (N,)
        D of the difference, then the upper triangles of both covariances.

    Returns
    -------
    list of tensor, (N,)
        The least variance, given the dimensions before it, for a covariance; its root for the difference.
    """
    size = d * (d + 1) // 2
    variances = [_find_least_pivot(d, entries[d + i * size : d + (i + 1) * size]) for i in (0, 1)]
    return [pt.sqrt(pt.minimum(*variances))] * d + [variances[0]] * size + [variances[1]] * size


def draw_examples(d: int, dtype: str) -> list[np.ndarray]:
    """Return rows on which a likelihood of a difference and two covariances is tried, near and far in its tails.

    Parameters
    ----------
    d : int
        D.
    dtype : {"float64", "float32"}

    Returns
    -------
    list of ndarray, (61,)
        As `find_scales` takes them: differences up to 15 standard deviations.
    """
    rng, n = np.random.default_rng(d), 61
    roots = rng.normal(size=(2, n, d, d + 1))
    covariances = roots @ np.swapaxes(roots, -1, -2) / (d + 1) + 0.1 * np.eye(d)
    direction = rng.normal(size=(n, d))
    distance = np.r_[0.0, np.geomspace(1e-3, 15, n - 1)]
    whitened = distance[:, None] * direction / np.linalg.norm(direction, axis=1, keepdims=True)
    difference = np.einsum("nij,nj->ni", np.linalg.cholesky(covariances.mean(axis=0)), whitened)
    upper = [covariances[k, :, i, j] for k in (0, 1) for i in range(d) for j in range(i, d)]
    return [np.ascontiguousarray(rows, dtype) for rows in (*difference.T, *upper)]


def _find_least_pivot(d: int, upper: Sequence[Any]) -> Any:
    rest = dict(zip([(i, j) for i in range(d) for j in range(i, d)], upper, strict=True))
    least = rest[0, 0]
    for k in range(1, d):
        pivot = rest[k - 1, k - 1]
        for i in range(k, d):
            for j in range(i, d):
                rest[i, j] = rest[i, j] - rest[k - 1, i] * rest[k - 1, j] / pivot
        least = pt.minimum(least, rest[k, k])
    return least


def read_entry(covariances: Any, i: int, j: int) -> Any:
    """Return the entries (...) in row i and column j of covariances (..., D, D), as they were before they were stacked.

    Parameters
    ----------
    covariances : tensor, (..., D, D)
        Those of a `WishartProcess` have their entries with them.
    i, j : int
    """
    entries = getattr(covariances.tag, "entries", None)
    return covariances[..., i, j] if entries is None else entries[i][j]
