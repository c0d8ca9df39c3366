"""Covariance matrices of two fields in; how far apart they are comes out."""

from typing import Any

import numpy as np

from pm_psyphy.psychophysics.covariances import check_covariances


def bures_wasserstein_distance(a: Any, b: Any) -> np.ndarray:
    r"""Return the Bures-Wasserstein distance of covariance matrices.

    .. math:: d^2 = \mathrm{tr} A + \mathrm{tr} B - 2\,\mathrm{tr} (A^{1/2} B A^{1/2})^{1/2}

    The 2-Wasserstein distance of two Gaussians with equal means (Bhatia, Jain and Lim, 2019).

    Parameters
    ----------
    a, b : array, (..., D, D)
        Symmetric and positive definite.

    Returns
    -------
    ndarray, (...)
        In the units of a standard deviation; 0 for equal matrices.

    Examples
    --------
    >>> bures_wasserstein_distance([[4.0]], [[1.0]])
    np.float64(1.0)
    """
    a, b = check_covariances(a), check_covariances(b)
    square = _trace(a) + _trace(b) - 2 * _fidelity(a, b)
    return np.sqrt(np.maximum(square, 0))


def bures_similarity(a: Any, b: Any) -> np.ndarray:
    r"""Return the normalised Bures similarity of covariance matrices.

    .. math:: \frac{\mathrm{tr} (A^{1/2} B A^{1/2})^{1/2}}{\sqrt{\mathrm{tr} A\, \mathrm{tr} B}}

    It compares shapes, not sizes: 1 where one matrix is a multiple of the other.

    Parameters
    ----------
    a, b : array, (..., D, D)
        Symmetric and positive definite.

    Returns
    -------
    ndarray, (...)
        In (0, 1].

    Examples
    --------
    >>> bures_similarity([[4.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, 4.0]])
    np.float64(0.8)
    """
    a, b = check_covariances(a), check_covariances(b)
    return np.minimum(_fidelity(a, b) / np.sqrt(_trace(a) * _trace(b)), 1.0)


def affine_invariant_distance(a: Any, b: Any) -> np.ndarray:
    r"""Return the affine-invariant (Fisher-Rao) distance of covariance matrices.

    .. math:: d = \| \log (A^{-1/2} B A^{-1/2}) \|_F

    A linear change of the stimulus space leaves it as it is (Pennec, Fillard and Ayache, 2006).

    Parameters
    ----------
    a, b : array, (..., D, D)
        Symmetric and positive definite.

    Returns
    -------
    ndarray, (...)
        0 for equal matrices; sqrt(D) log c where one is c times the other.

    Examples
    --------
    >>> affine_invariant_distance([[1.0]], [[np.e**2]])
    np.float64(2.0)
    """
    a, b = check_covariances(a), check_covariances(b)
    root = np.linalg.cholesky(a)
    half = np.linalg.solve(root, b)
    whitened = np.linalg.solve(root, np.swapaxes(half, -1, -2))
    return np.linalg.norm(np.log(np.linalg.eigvalsh(whitened)), axis=-1)


def _fidelity(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return tr (A^1/2 B A^1/2)^1/2, from the eigenvalues of L' B L with A = L L', which are the same."""
    root = np.linalg.cholesky(a)
    return np.sqrt(np.maximum(np.linalg.eigvalsh(np.swapaxes(root, -1, -2) @ b @ root), 0)).sum(axis=-1)


def _trace(a: np.ndarray) -> np.ndarray:
    return np.trace(a, axis1=-2, axis2=-1)
