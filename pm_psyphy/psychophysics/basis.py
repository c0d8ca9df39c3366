"""Points of the stimulus space in; products of Chebyshev polynomials at these points come out."""

from typing import Any

import numpy as np

from pm_psyphy.psychophysics.tensor import as_tensor, pt


def chebyshev_polynomials(x: Any, degree: int) -> Any:
    """Return the Chebyshev polynomials of the first kind T_0(x) ... T_degree(x).

    By the recurrence T_n+1(x) = 2 x T_n(x) - T_n-1(x), which is stable for x in [-1, 1].

    Parameters
    ----------
    x : tensor, (...)
        In [-1, 1].
    degree : int
        At least 0.

    Returns
    -------
    TensorVariable, (..., degree + 1)

    Examples
    --------
    >>> chebyshev_polynomials([-1.0, 0.5], degree=3).eval()
    array([[ 1. , -1. ,  1. , -1. ],
           [ 1. ,  0.5, -0.5, -1. ]])
    """
    x = as_tensor(x)
    polynomials = [pt.ones_like(x), x]
    for _ in range(degree - 1):
        polynomials.append(2 * x * polynomials[-1] - polynomials[-2])
    return pt.stack(polynomials[: degree + 1], axis=-1)


def chebyshev_products(x: Any, degree: int, input_dim: int) -> Any:
    """Return all products T_a(x_1) T_b(x_2) ... of D polynomials, K = degree + 1 for each dimension.

    Parameters
    ----------
    x : tensor, (..., D)
        In [-1, 1].
    degree : int
    input_dim : int
        D.

    Returns
    -------
    TensorVariable, (..., K ** D)
        The last dimension's degree runs fastest.
    """
    polynomials = chebyshev_polynomials(x, degree)
    products = polynomials[..., 0, :]
    for i in range(1, input_dim):
        products = products[..., :, None] * polynomials[..., i, None, :]
        products = products.reshape((*[products.shape[j] for j in range(products.ndim - 2)], (degree + 1) ** (i + 1)))
    return products


def total_degrees(degree: int, input_dim: int) -> np.ndarray:
    """Return the sum of the degrees of each product, (K, ..., K) with D axes."""
    return np.indices([degree + 1] * input_dim).sum(axis=0)
