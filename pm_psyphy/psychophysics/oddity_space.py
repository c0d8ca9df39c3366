r"""Covariances of percepts in any dimension in; the logarithm of P(incorrect) in the oddity task, and derivatives, out.

See `oddity` for S, T and m. By symmetry P(incorrect) = 2 P(A > 0, B > 0) of the quadratic forms

    A = 3/4 |u|^2 + <u, w> - |w|^2,   B = <u, w>.

Their joint moment generating function M(z, v) has a closed form. With T = 3 I - 3/4 S all its matrices are polynomials
of S:

    log M = -1/2 log det F + 1/2 m' (p S - 2 z) F^-1 m,   p = (z + v)^2 + 3 z^2,
    F = (1 + 6 z) I - 3 (z + p) S + 3/4 p S^2.

The probability is its inverse Laplace transform, a double integral whatever D is:

    P(A > 0, B > 0) = 1/(2 pi i)^2 integral of M(z, v) / (z v) along contours with Re z, Re v > 0 on the real axis.

Through the saddle point the terms hardly cancel, and the trapezoidal rule converges exponentially.
"""

from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, NamedTuple

import numpy as np

from pm_psyphy.common.row_function import make_row_function
from pm_psyphy.psychophysics.covariances import draw_examples, find_scales
from pm_psyphy.psychophysics.oddity_plane import pull_back
from pm_psyphy.psychophysics.tensor import pt

# The contours are z = z_start + i z_scale sinh x and v = v_start + v_scale (i sinh x - V_BEND (cosh x - 1)), for x up
# to Z_END, V_END with 8 x 14 nodes. Starts and scales for m = 0, and how soon they leave it for what a distant stimulus
# needs: chosen for the least error with 8 x 14 nodes over d' from 0.3 to 30.
Z_START, Z_LEAVE, Z_SCALE, Z_SHRINK, Z_END = 0.1086, 0.0367, 0.1184, 0.0525, 4.5
V_START, V_LEAVE, V_SCALE, V_SHRINK, V_END, V_BEND, V_SHIFT = 0.1358, 0.0817, 0.1693, 0.063, 4.143, 0.3685, 0.0663


@dataclass(frozen=True)
class Complex:
    """Complex numbers by their parts, which PyTensor differentiates."""

    real: Any
    imag: Any
    __array_ufunc__ = None

    def __add__(self, other: Any) -> "Complex":
        other = _as_complex(other)
        return Complex(self.real + other.real, self.imag + other.imag)

    def __sub__(self, other: Any) -> "Complex":
        other = _as_complex(other)
        return Complex(self.real - other.real, self.imag - other.imag)

    def __mul__(self, other: Any) -> "Complex":
        if not isinstance(other, Complex):
            return Complex(self.real * other, self.imag * other)
        real = self.real * other.real - self.imag * other.imag
        return Complex(real, self.real * other.imag + self.imag * other.real)

    __radd__, __rmul__ = __add__, __mul__

    def invert(self) -> "Complex":
        """Return 1 / z."""
        scale = 1 / (pt.sqr(self.real) + pt.sqr(self.imag))
        return Complex(self.real * scale, -self.imag * scale)

    def sqrt(self) -> "Complex":
        """Return the principal root of numbers with a positive real part."""
        real = pt.sqrt(0.5 * (pt.sqrt(pt.sqr(self.real) + pt.sqr(self.imag)) + self.real))
        return Complex(real, 0.5 * self.imag / real)


def _as_complex(value: Any) -> Complex:
    return value if isinstance(value, Complex) else Complex(value, 0.0)


class Contours(NamedTuple):
    """Where the contours cross the real axis, and their scales."""

    z_start: Any
    z_scale: Any
    v_start: Any
    v_scale: Any


@lru_cache
def space_op(d: int, n_z: int, n_v: int, dtype: str) -> Any:
    """Return the op of D dimensions, of n_z by n_v nodes."""
    pairs = [(i, j) for i in range(d) for j in range(i, d)]

    def unpack(entries):
        by_pair = dict(zip(pairs, entries, strict=True))
        return [[by_pair[min(i, j), max(i, j)] for j in range(d)] for i in range(d)]

    def evaluate(*entries):
        difference, s0, s1 = entries[:d], entries[d : d + len(pairs)], entries[d + len(pairs) :]
        m, s = _whiten(difference, unpack(s0), unpack(s1))
        contours = _place_contours(m, s)
        value, d_m, d_s, d_contours = _integrate(m, s, contours, n_z, n_v, dtype)
        upper = [s[i][j] for i, j in pairs]
        d_upper = [d_s[i][j] * (1 if i == j else 2) for i, j in pairs]
        outputs, cotangents = [*m, *upper, *contours], [*d_m, *d_upper, *d_contours]
        return value, lambda: pull_back(outputs, cotangents, list(entries))

    maker = space_op, d, n_z, n_v, dtype
    return make_row_function(
        evaluate, d * (d + 2), dtype, partial(find_scales, d), partial(draw_examples, d, dtype), maker
    )


def _whiten(difference, s0, s1) -> tuple[list[Any], list[list[Any]]]:
    """Return m and S, of covariances of the reference and of the comparison."""
    d = len(difference)
    root: list[list[Any]] = []
    for i in range(d):
        row: list[Any] = []
        for j in range(i):
            row.append(((2 * s0[i][j] + s1[i][j]) / 3 - _dot(row, root[j][:j])) / root[j][j])
        root.append([*row, pt.sqrt((2 * s0[i][i] + s1[i][i]) / 3 - _dot(row, row))])
    half = [_solve(root, row) for row in s0]
    s = [_solve(root, [row[i] for row in half]) for i in range(d)]
    # Rounding differs between the two halves of a symmetric matrix.
    return _solve(root, difference), [[2 * s[max(i, j)][min(i, j)] for j in range(d)] for i in range(d)]


def _solve(root, b) -> list[Any]:
    x: list[Any] = []
    for row, value in zip(root, b, strict=True):
        x.append((value - _dot(row[:-1], x)) / row[-1])
    return x


def _dot(a, b) -> Any:
    return sum((p * q for p, q in zip(a, b, strict=True)), 0.0)


def _apply(matrix, vector) -> list[Any]:
    return [_dot(row, vector) for row in matrix]


def _make_f(s, s_s, constant, linear, square) -> list[list[Any]]:
    d = range(len(s))
    return [[s[i][j] * linear + s_s[i][j] * square + (constant if i == j else 0.0) for j in d] for i in d]


def _invert(f) -> tuple[list[list[Any]], list[Any]]:
    """Return the inverse of a symmetric matrix, and the inverses of its pivots.

    No pivot is small: the real part of F is positive definite.
    """
    d = len(f)
    lower: list[list[Any]] = []
    inverses: list[Any] = []
    for i in range(d):
        scaled: list[Any] = []
        for j in range(i):
            scaled.append(f[i][j] - _dot(scaled, lower[j]))
        row = [value * inverse for value, inverse in zip(scaled, inverses, strict=True)]
        pivot = f[i][i] - _dot(scaled, row)
        inverses.append(pivot.invert() if isinstance(pivot, Complex) else 1 / pivot)
        lower.append(row)
    # Columns of L^-1
    columns = []
    for j in range(d):
        column: list[Any] = [1.0]
        for i in range(j + 1, d):
            column.append(-1.0 * _dot(lower[i][j:], column))
        columns.append(column)
    inverse: list[list[Any]] = [[None] * d for _ in range(d)]
    for i in range(d):
        for j in range(i, d):
            left, right = columns[i][j - i :], columns[j]
            inverse[i][j] = inverse[j][i] = _dot([a * b for a, b in zip(left, right, strict=True)], inverses[j:])
    return inverse, inverses


def _place_contours(m, s) -> Contours:
    """Return contours through the saddle point of a distant stimulus, at fixed places for a near one.

    The saddle is at v = 0, where the derivative by z is -y' (3 z S - 1) (z S - 1) y with y = F^-1 m: found by two
    iterations from y = m, kept within the z for which F is positive definite.
    """
    s_s = [_apply(s, row) for row in s]
    limit = 0.85 * _limit_z(s_s)
    y, saddle = m, limit
    for _ in range(2):
        s_y = _apply(s, y)
        a, b, c = 3 * (_dot(s_y, s_y) + 4), _dot(y, s_y) + 2, _dot(y, y) + 1
        saddle = (2 * b - pt.sqrt(pt.maximum(4 * b * b - a * c, 0.1 * b * b))) / a
        saddle = pt.minimum(saddle, limit)
        f = _make_f(s, s_s, 1 + 6 * saddle, -3 * (saddle + 4 * pt.sqr(saddle)), 3 * pt.sqr(saddle))
        y = _apply(_invert(f)[0], m)
    s_y = _apply(s, y)
    # Second derivative by z and first by v, in units in which they are |m|^2 for S = 2 I.
    by_z = (2 / 9) * _dot(y, s_y)
    by_v = pt.maximum((8 / 3) * saddle * (_dot(y, s_y) - 1.5 * saddle * _dot(s_y, s_y)), 0)
    return Contours(
        (Z_START + saddle * Z_LEAVE * by_z) / (1 + Z_LEAVE * by_z),
        Z_SCALE / pt.sqrt(1 + Z_SHRINK * by_z),
        V_START / (1 + V_LEAVE * by_v),
        V_SCALE / (1 + V_SHRINK * by_v),
    )


def _limit_z(s_s) -> Any:
    """Return a z up to which F is positive definite at v = 0, from the square of S."""
    fourth = [_apply(s_s, row) for row in s_s]
    # No eigenvalue of S is above 3.
    highest = pt.minimum(sum(_dot(row, row) for row in fourth) ** 0.125, 3.5)
    rest = 6 - 3 * highest
    return (rest + pt.sqrt(pt.sqr(rest) + 12 * highest * (4 - highest))) / (6 * highest * (4 - highest))


class Nodes(NamedTuple):
    """Where the integrand is evaluated, (n_z, n_v, N), and what one node stands for."""

    z: Complex
    v: Complex
    along_z: np.ndarray
    """How many scales a node lies beyond the start of its contour, up the imaginary axis."""
    along_v: Complex
    step_z: np.ndarray
    step_v: Complex
    """Derivatives of these by what is equally spaced."""
    area: float
    """The product of the spacings."""


def _place_nodes(contours: Contours, n_z: int, n_v: int, dtype: str) -> Nodes:
    # With more nodes, cutting off the tails must err less, too.
    h_z, h_v = Z_END / np.sqrt(8 * n_z), 2 * V_END / np.sqrt(14 * n_v)
    x = (h_z * (np.arange(n_z) + 0.5))[:, None, None]
    along_z, step_z = (f(x).astype(dtype) for f in (np.sinh, np.cosh))
    x = (h_v * (np.arange(n_v) + 0.5 - n_v / 2) + V_SHIFT)[:, None]
    along_v = Complex(*(f.astype(dtype) for f in (-V_BEND * (np.cosh(x) - 1), np.sinh(x))))
    step_v = Complex(*(f.astype(dtype) for f in (np.cosh(x), V_BEND * np.sinh(x))))
    z = Complex(contours.z_start, contours.z_scale * along_z)
    return Nodes(z, along_v * contours.v_scale + contours.v_start, along_z, along_v, step_z, step_v, h_z * h_v)


def _integrate(m, s, contours: Contours, n_z, n_v, dtype) -> tuple[Any, list[Any], list[list[Any]], list[Any]]:
    """Return log P(incorrect), and its derivatives by m, by S as if its entries were free, and by the contours."""
    d, nodes = range(len(m)), _place_nodes(contours, n_z, n_v, dtype)
    z, v = nodes.z, nodes.v
    p = (z + v) * (z + v) + z * z * 3.0
    linear, square = (z + p) * -3.0, p * 0.75
    s_s = [_apply(s, row) for row in s]
    inverse, pivots = _invert(_make_f(s, s_s, z * 6.0 + 1.0, linear, square))
    y = _apply(inverse, [_as_complex(value) for value in m])
    s_y = _apply(s, y)
    r = [p * a - z * b * 2.0 for a, b in zip(s_y, y, strict=True)]
    exponent = _dot(m, r) * 0.5
    z_inverse, v_inverse = z.invert(), v.invert()
    share = z_inverse * v_inverse * nodes.step_v * nodes.step_z
    for pivot in pivots:
        share = share * pivot.sqrt()
    highest = pt.max(exponent.real, axis=(0, 1))
    size, cos, sin = pt.exp(exponent.real - highest), pt.cos(exponent.imag), pt.sin(exponent.imag)
    term = share * Complex(size * cos, size * sin)
    total = pt.sum(term.real, (0, 1))

    def average(value: Complex) -> Any:
        return pt.sum(term.real * value.real - term.imag * value.imag, (0, 1)) / total

    # By S: y, S y and F^-1 in the combinations that are left of the product rule.
    y_y, y_sy, sy_sy = p - z * z * 6.0, z * p * 1.5, p * p * -0.75
    d_s: list[list[Any]] = [[None] * len(m) for _ in d]
    for i in d:
        x_s = _apply(s, inverse[i])
        for j in d[i:]:
            pair = y_y * (y[i] * y[j]) + y_sy * (y[i] * s_y[j] + s_y[i] * y[j]) + sy_sy * (s_y[i] * s_y[j])
            d_s[i][j] = d_s[j][i] = average((pair - linear * inverse[i][j] - square * x_s[j] * 2.0) * 0.5)
    one = [[float(i == j) for j in d] for i in d]
    trace, trace_s, trace_ss = (sum((_dot(a, b) for a, b in zip(q, inverse, strict=True)), 0.0) for q in (one, s, s_s))
    # By p and z, and through p by z and v, of the logarithm of a term.
    by_p = (_dot(y, s_y) - z * _dot(s_y, s_y) * 1.5 + trace_s * 3.0 - trace_ss * 0.75) * 0.5
    by_v = by_p * (z + v) * 2.0 - v_inverse
    by_z = p * _dot(s_y, s_y) * 0.75 - _dot(y, y) + by_p * (v + z * 4.0) * 2.0 - trace * 3.0 + trace_s * 1.5 - z_inverse
    d_contours = [
        average(by_z),
        average(by_z * Complex(0.0, nodes.along_z)) + 1 / contours.z_scale,
        average(by_v),
        average(by_v * nodes.along_v) + 1 / contours.v_scale,
    ]
    factor = contours.z_scale * contours.v_scale * float(nodes.area / np.pi**2)
    # Far beyond its reach, d' = 20 and covariances that differ tenfold, the rule may fall below 0.
    value = highest + pt.log(pt.abs(total) * factor)
    return value, [average(a) for a in r], d_s, d_contours
