"""Covariances of percepts in the plane in; log P(incorrect) by a fitted polynomial, for samplers, comes out.

With C = (2 S0 + S1) / 3 = L L', H = L^-1 S0 L^-T and m = L^-1 (x1 - x0), the probability depends on four numbers: the
length d of m, the mean sigma and half the difference rho of the eigenvalues of H, and delta = m' H m / d^2 - sigma. The
eigenvalues lie between 0 and 1.5, so that all of these but d have bounds, and

    log P(incorrect) + v,   v = d^2 / (6 (1 + sigma + delta)),

is a polynomial of log(1 + v / 2), sigma, delta and rho^2 to a few times 1e-5. `benchmarks/fit_oddity.py` found it.
"""

from functools import cache, lru_cache, partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from pm_psyphy.common.row_function import make_row_function
from pm_psyphy.psychophysics.covariances import draw_examples, find_scales
from pm_psyphy.psychophysics.tensor import grad, pt

# The total degree of products of Chebyshev polynomials, in which that of rho^2 counts for more.
DEGREE, COST_OF_LAST = 8, 1.5
# Beyond it the polynomial stays as it is there.
FARTHEST = 150.0
# What is nearer to 0 than log P(incorrect) can be.
HIGHEST = -1e-3
# In place of 0 in a denominator.
TINY = 1e-30
COEFFICIENTS = Path(__file__).with_suffix(".npy")


@cache
def list_degrees() -> list[tuple[int, int, int, int]]:
    """Return the degrees of each term in the four variables."""
    most = *(DEGREE,) * 3, int(DEGREE / COST_OF_LAST)
    every = product(*(range(degree + 1) for degree in most))
    return [degrees for degrees in every if sum(degrees[:3]) + COST_OF_LAST * degrees[3] <= DEGREE]


def find_variables(v, sigma, delta, rho_squared, log: Any = pt.log, minimum: Any = pt.minimum) -> list[Any]:
    """Return the four variables, each in [-1, 1]; by PyTensor or, with its functions, NumPy."""
    u = log(1 + minimum(v, FARTHEST) / 2) * float(2 / np.log1p(FARTHEST / 2)) - 1
    return [u, sigma * (2 / 1.5) - 1, delta / 0.75, rho_squared * (2 / 0.75**2) - 1]


@lru_cache
def fitted_plane_op(dtype: str) -> Any:
    """Return the op of two dimensions that computes log P(incorrect) by the fitted polynomial."""

    def evaluate(*entries):
        v, *others = find_invariants(*entries)
        polynomial = _expand(np.load(COEFFICIENTS).astype(dtype), find_variables(v, *others))
        value = pt.minimum(polynomial - v, HIGHEST)
        return value, lambda: grad(pt.sum(value), list(entries))

    maker = fitted_plane_op, dtype
    return make_row_function(evaluate, 8, dtype, partial(find_scales, 2), partial(draw_examples, 2, dtype), maker)


def find_invariants(x1, x2, a11, a12, a22, b11, b12, b22, sqrt: Any = pt.sqrt) -> list[Any]:
    """Return v, sigma, delta and rho^2 of a difference of means and two covariances."""
    c11, c12, c22 = (2 * a11 + b11) / 3, (2 * a12 + b12) / 3, (2 * a22 + b22) / 3
    l11 = sqrt(c11)
    l21 = c12 / l11
    l22 = sqrt(c22 - l21 * l21)
    h11 = a11 / c11
    h12 = (a12 / l11 - l21 * h11) / l22
    h22 = (a22 - 2 * l21 * a12 / l11 + l21 * l21 * h11) / (l22 * l22)
    m1 = x1 / l11
    m2 = (x2 - l21 * m1) / l22
    square, cross = m1 * m1 - m2 * m2, 2 * m1 * m2
    d_squared = m1 * m1 + m2 * m2
    sigma, half = (h11 + h22) / 2, (h11 - h22) / 2
    # Where the means are equal there is no direction, and none matters.
    delta = (half * square + h12 * cross) / (d_squared + TINY)
    return [d_squared / (6 * (1 + sigma + delta)), sigma, delta, half * half + h12 * h12]


def _expand(coefficients: np.ndarray, variables: list[Any]) -> Any:
    """Return the sum of products of Chebyshev polynomials; the first variable's are summed first."""
    most = np.max(list_degrees(), axis=0)
    powers = [_chebyshev(x, n) for x, n in zip(variables, most, strict=True)]
    terms = dict(zip(list_degrees(), coefficients, strict=True))
    for k in range(4):
        sums: dict[tuple[int, ...], list[Any]] = {}
        for (degree, *rest), factor in terms.items():
            sums.setdefault(tuple(rest), []).append(factor if degree == 0 else factor * powers[k][degree])
        terms = {rest: parts[0] if len(parts) == 1 else pt.add(*parts) for rest, parts in sums.items()}
    return terms[()]


def _chebyshev(x: Any, n: int) -> list[Any]:
    """Return the polynomials of degrees 0 to n."""
    found = [pt.ones_like(x), x]
    for _ in range(n - 1):
        found.append(2 * x * found[-1] - found[-2])
    return found
