"""Covariance matrices in; the same, checked, come out."""

from typing import Any

import numpy as np


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
