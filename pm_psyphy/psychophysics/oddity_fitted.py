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
from pm_psyphy.psychophysics.tensor import pt, pull_back

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
def list_degrees() -> list[tuple[int, ...]]:
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
        variables = find_variables(v, *others)
        polynomial, slopes = _expand(np.load(COEFFICIENTS).astype(dtype), variables)
        value = polynomial - v
        inside = pt.switch(value < HIGHEST, np.ones((), dtype), np.zeros((), dtype))
        outputs, cotangents = [*variables, v], [*(inside * slope for slope in slopes), -inside]
        return pt.minimum(value, HIGHEST), lambda: pull_back(outputs, cotangents, list(entries))

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


def _expand(coefficients: np.ndarray, variables: list[Any]) -> tuple[Any, list[Any]]:
    """Return the sum of products of Chebyshev polynomials, and its derivatives by the variables.

    The first variable's polynomials are summed first, with their derivatives, then the second's: so most of the work is
    one multiplication and one addition a coefficient for the value, and one of each for one derivative.
    """
    terms: dict[tuple[int, ...], list[Any]] = {d: [c] for d, c in zip(list_degrees(), coefficients, strict=True)}
    for x in variables:
        polynomials, slopes = _chebyshev(x, max(degree for degree, *_ in terms))
        groups: dict[tuple[int, ...], list[tuple[int, list[Any]]]] = {}
        for (degree, *rest), numbers in terms.items():
            groups.setdefault(tuple(rest), []).append((degree, numbers))
        terms = {rest: _sum_up(group, polynomials, slopes) for rest, group in groups.items()}
    value, *derivatives = terms[()]
    return value, derivatives


def _sum_up(group: list[tuple[int, list[Any]]], polynomials: list[Any], slopes: list[Any]) -> list[Any]:
    """Return a sum over degrees of one variable: of the value, of its derivatives so far, and by this variable."""
    columns = zip(*(numbers for _, numbers in group), strict=True)
    degrees = [degree for degree, _ in group]
    by_value = [_dot(polynomials, degrees, column) for column in columns]
    return [*by_value, _dot(slopes, degrees, [numbers[0] for _, numbers in group])]


def _dot(factors: list[Any], degrees: list[int], numbers: Any) -> Any:
    terms = [number * factors[degree] for degree, number in zip(degrees, numbers, strict=True)]
    return terms[0] if len(terms) == 1 else pt.add(*terms)


def _chebyshev(x: Any, n: int) -> tuple[list[Any], list[Any]]:
    """Return the polynomials of degrees 0 to n, and their derivatives."""
    one = pt.ones_like(x)
    first, second = [one, x], [one, 2 * x]
    for _ in range(n - 1):
        first.append(2 * x * first[-1] - first[-2])
        second.append(2 * x * second[-1] - second[-2])
    return first[: n + 1], [pt.zeros_like(x), *(k * second[k - 1] for k in range(1, n + 1))]
