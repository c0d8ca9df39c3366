"""Covariances of percepts in the plane in; the logarithm of P(incorrect) in the oddity task and its derivatives, out.

See `oddity` for S, T and m. In polar coordinates both radial integrals have closed forms, which leaves two angles.
"""

from functools import lru_cache, partial
from typing import Any

import numpy as np
from scipy import special

from pm_psyphy.common.row_function import make_row_function
from pm_psyphy.psychophysics.covariances import draw_examples, find_scales
from pm_psyphy.psychophysics.oddity_fitted import fitted_plane_op
from pm_psyphy.psychophysics.tensor import pt, pull_back

# Where the nodes begin to gather around the directions that matter, in units of about d'^2.
GATHER_W, GATHER_U = 16.0, 120.0

# (z + c) erfcx(z) as a polynomial of t = (z - c) / (z + c): relative error below 1e-10 for z >= 0.
ERFCX_CENTRE = 3.0
ERFCX = np.polynomial.chebyshev.cheb2poly(
    np.polynomial.chebyshev.chebinterpolate(
        lambda t: special.erfcx(ERFCX_CENTRE * (1 + t) / (1 - t)) * 2 * ERFCX_CENTRE / (1 - t), 15
    )
)
# sqrt(pi) e^y erf(sqrt y) / (2 sqrt y) is the sum of (2 y)^n / (2 n + 1)!!.
SERIES = 1 / np.cumprod(np.arange(1.0, 20.0, 2.0))


@lru_cache
def plane_op(n_w: int, n_u: int, dtype: str) -> Any:
    """Return the op of two dimensions, of n_w directions of w and n_u angles between u and w."""

    def evaluate(*entries):
        whitened, offset = _whiten_plane(*entries)
        mean_s, *_ = whitened
        by_w, by_u = _place_directions(n_w, dtype, *whitened), _place_angles(n_u, dtype, *whitened[-2:])
        integral, derivatives = _integrate_plane(dtype, mean_s, *by_w, *by_u)
        outputs, cotangents = [mean_s, *by_w, *by_u, offset], [*derivatives, pt.ones_like(offset)]
        return integral + offset, lambda: pull_back(outputs, cotangents, list(entries))

    maker = plane_op, n_w, n_u, dtype
    op = make_row_function(evaluate, 8, dtype, partial(find_scales, 2), partial(draw_examples, 2, dtype), maker)
    op.find_nearby = partial(fitted_plane_op, dtype)
    return op


def _whiten_plane(x1, x2, a11, a12, a22, b11, b12, b22) -> tuple[list[Any], Any]:
    """Return what the levels need, and the terms of log P(incorrect) outside the integral.

    They belong to a difference of means x and covariances a of the reference and b of the comparison. A quadratic form
    e' M e of a direction e at the angle c is m0 + m1 cos 2c + m2 sin 2c: here of S and of T^-1; further sqrt det S and
    T^-1 m.
    """
    c11, c12, c22 = (2 * a11 + b11) / 3, (2 * a12 + b12) / 3, (2 * a22 + b22) / 3
    l11 = pt.sqrt(c11)
    l21 = c12 / l11
    l22 = pt.sqrt(c22 - pt.sqr(l21))
    # S = 2 L^-1 a L^-T, m = L^-1 x
    s11 = 2 * a11 / c11
    s12 = (2 * a12 / l11 - l21 * s11) / l22
    s22 = (2 * a22 - 4 * l21 * a12 / l11 + pt.sqr(l21) * s11) / pt.sqr(l22)
    m1 = x1 / l11
    m2 = (x2 - l21 * m1) / l22
    t11, t12, t22 = 3 - 0.75 * s11, -0.75 * s12, 3 - 0.75 * s22
    root_s = 2 * pt.sqrt(a11 * a22 - pt.sqr(a12)) / (l11 * l22)
    det_t = t11 * t22 - pt.sqr(t12)
    h1, h2 = (t22 * m1 - t12 * m2) / det_t, (t11 * m2 - t12 * m1) / det_t
    s = [0.5 * (s11 + s22), 0.5 * (s11 - s22), s12]
    t = [0.5 * (t22 + t11) / det_t, 0.5 * (t22 - t11) / det_t, -t12 / det_t]
    offset = -0.5 * (m1 * h1 + m2 * h2) - 0.5 * pt.log(det_t) - float(2 * np.log(np.pi))
    return [*s, root_s, *t, h1, h2], offset


def _place_directions(n: int, dtype: str, s0, s1, s2, root_s, t0, t1, t2, h1, h2) -> list[Any]:
    """Return, of n directions e of w, weight, e' T^-1 e, (e' h)^2, and what u's direction needs; (n, N) each.

    u has the direction of S^1/2 times one that turns evenly: a narrow S makes no peak. Its angle counts from that of
    S^1/2 e, where <u, w> is largest; at a quarter turn from there <u, w> = 0. After a turn by c the square of the
    length of S^1/2 times the direction is s0 + along cos 2c + across sin 2c, and <u, w> / |w| is cos c e' S e.
    """
    cos, sin, weight = _gather_around(n, dtype, h1, h2)
    e_s_e = s0 + s1 * cos + s2 * sin
    b2 = 0.5 * (pt.sqr(h1) + pt.sqr(h2)) + 0.5 * (pt.sqr(h1) - pt.sqr(h2)) * cos + h1 * h2 * sin
    along, across = s0 - pt.sqr(root_s) / e_s_e, root_s * (s2 * cos - s1 * sin) / e_s_e
    return [weight, t0 + t1 * cos + t2 * sin, pt.maximum(b2, 0), pt.sqrt(e_s_e), along, across]


def _place_angles(n: int, dtype: str, h1, h2) -> list[Any]:
    """Return weight, cos c, cos 2c and sin 2c of n angles c in (-pi/2, pi/2) that gather at 0 as h grows; (n, N)."""
    nodes, weights = np.polynomial.legendre.leggauss(n)
    cos, sin = (f(np.pi / 2 * nodes).astype(dtype)[:, None] for f in (np.cos, np.sin))
    eta = 1 / pt.sqrt(1 + 1.5 / GATHER_U * (pt.sqr(h1) + pt.sqr(h2)))
    inverse = 1 / (cos**2 + pt.sqr(eta * sin))
    weight = (np.pi / 2 * weights).astype(dtype)[:, None] * eta * inverse
    return [weight, cos * pt.sqrt(inverse), (cos**2 - pt.sqr(eta * sin)) * inverse, 2 * eta * cos * sin * inverse]


def _integrate_plane(
    dtype: str, mean_s, weight_w, t, b2, root, along, across, weight_u, cos, cos2, sin2
) -> tuple[Any, list[Any]]:
    """Return the logarithm of the double integral over the directions of w and u, and its derivatives.

    Both radial integrals have closed forms, which leave, with s = |S^1/2 direction|^2 and k = |<u, w>| / (|u| |w|),

        integral over both angles of H(y) / a,   a = t + g(k)^2 / s,   y = b2 / (2 a),   H(y) = 1 + 2 y W(y).
    """
    # From here on (n_w, n_u, N); what belongs to one of the directions is constant along the other's axis.
    s = mean_s + along[:, None] * cos2 + across[:, None] * sin2
    # g(k) = 2/3 (sqrt(k^2 + 3) - k), with k sqrt s = cos c sqrt(e' S e)
    k = root[:, None] * cos
    hypotenuse = pt.sqrt(pt.sqr(k) + 3 * s)
    difference = hypotenuse - k
    inverse_s = 1 / s
    g2 = (4 / 9) * pt.sqr(difference * inverse_s)
    inverse_a = 1 / (t[:, None] + g2)
    y = 0.5 * b2[:, None] * inverse_a
    highest = pt.max(y, axis=(0, 1))
    base, w_scaled = pt.exp(-highest), scaled_w(y, highest, dtype)
    share = weight_w[:, None] * weight_u * inverse_a
    term = share * (base + 2 * y * w_scaled)
    slope = share * (base + (1 + 2 * y) * w_scaled)

    # Reverse mode by hand: one pass over the nodes, and no exponential beside those of the value.
    d_a = -(y * slope + term) * inverse_a
    d_s = d_a * ((4 / 3) * difference * pt.sqr(inverse_s) / hypotenuse - 2 * g2 * inverse_s)
    d_k = d_a * g2 * -2 / hypotenuse
    by_w, by_u = pt.sum(term, 1), pt.sum(term, 0)
    total = pt.sum(by_w, 0)
    derivatives = [
        pt.sum(d_s, (0, 1)),
        by_w / weight_w,
        pt.sum(d_a, 1),
        pt.sum(0.5 * slope * inverse_a, 1),
        pt.sum(d_k * cos, 1),
        pt.sum(d_s * cos2, 1),
        pt.sum(d_s * sin2, 1),
        by_u / weight_u,
        pt.sum(d_k * root[:, None], 0),
        pt.sum(d_s * along[:, None], 0),
        pt.sum(d_s * across[:, None], 0),
    ]
    return highest + pt.log(total), [d / total for d in derivatives]


def _gather_around(n: int, dtype: str, h1, h2) -> tuple[Any, Any, Any]:
    """Return cos 2a, sin 2a and weights of directions a in [0, pi) that gather around h as it grows.

    The nodes are those of the midpoint rule for a periodic function, under a Moebius map of the circle of 2 a.
    """
    h_squared = pt.sqr(h1) + pt.sqr(h2)
    angles = 2 * np.pi * (np.arange(n) + 0.5) / n
    z_real, z_imaginary = (f(angles).astype(dtype)[:, None] for f in (np.cos, np.sin))
    size = (1.5 / GATHER_W) / pt.sqr(pt.sqrt(1 + 1.5 / GATHER_W * h_squared) + 1)
    p_real, p_imaginary = size * (pt.sqr(h1) - pt.sqr(h2)), size * 2 * h1 * h2
    real = 1 + p_real * z_real + p_imaginary * z_imaginary
    imaginary = p_imaginary * z_real - p_real * z_imaginary
    inverse = 1 / (pt.sqr(real) + pt.sqr(imaginary))
    square, cross = (pt.sqr(real) - pt.sqr(imaginary)) * inverse, 2 * real * imaginary * inverse
    weights = (np.pi / n) * (1 - pt.sqr(size * h_squared)) * inverse
    return z_real * square - z_imaginary * cross, z_real * cross + z_imaginary * square, weights


def scaled_w(y, highest, dtype: str) -> Any:
    r"""Return :math:`W(y) e^{-h}` with :math:`W(y) = \sqrt\pi e^y \mathrm{erf}(z) / (2 z)`, :math:`z = \sqrt y`.

    For small y by its series, else by :math:`e^y \mathrm{erf}(z) = e^y - \mathrm{erfcx}(z)`.
    """
    z = pt.sqrt(pt.maximum(y, 0.2))
    u = 1 / (z + ERFCX_CENTRE)
    erfcx = u * _horner(ERFCX, 1 - 2 * ERFCX_CENTRE * u, dtype)
    base = pt.exp(-highest)
    large = float(0.5 * np.sqrt(np.pi)) * (pt.exp(y - highest) - base * erfcx) / z
    return pt.switch(y < 0.25, base * _horner(SERIES, 2 * y, dtype), large)


def _horner(coefficients, x, dtype: str) -> Any:
    total: Any = np.asarray(coefficients[-1], dtype)
    for c in coefficients[-2::-1]:
        total = total * x + np.asarray(c, dtype)
    return total
