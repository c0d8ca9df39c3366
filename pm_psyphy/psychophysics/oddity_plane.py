"""Covariances of percepts in the plane in; the logarithm of P(incorrect) in the oddity task and its derivatives, out.

See `oddity` for S, T and m. In polar coordinates both radial integrals have closed forms, which leaves two angles.
"""

from functools import lru_cache
from typing import Any

import numpy as np
from scipy import special

from pm_psyphy.psychophysics.tensor import grad, graph_replace, pt
from pm_psyphy.rows import make_row_function

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
        integral, d_whitened = _integrate_plane(n_w, n_u, dtype, *whitened)
        ones = pt.ones_like(offset)
        return integral + offset, pull_back([*whitened, offset], [*d_whitened, ones], list(entries))

    return make_row_function(evaluate, 8, dtype)


def _whiten_plane(x1, x2, a11, a12, a22, b11, b12, b22) -> tuple[list[Any], Any]:
    """Return what `_integrate_plane` needs, and the terms of log P(incorrect) outside the integral.

    Of a difference of means x and covariances a of the reference and b of the comparison.
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
    det_s, det_t = s11 * s22 - pt.sqr(s12), t11 * t22 - pt.sqr(t12)
    h1, h2 = (t22 * m1 - t12 * m2) / det_t, (t11 * m2 - t12 * m1) / det_t
    q = [0.5 * (s22 + s11) / det_s, 0.5 * (s22 - s11) / det_s, -s12 / det_s]
    t = [0.5 * (t22 + t11) / det_t, 0.5 * (t22 - t11) / det_t, -t12 / det_t]
    offset = -0.5 * (m1 * h1 + m2 * h2) - 0.5 * pt.log(det_s * det_t) - float(2 * np.log(np.pi))
    return [*q, *t, h1, h2], offset


def _integrate_plane(n_w, n_u, dtype, q0, q1, q2, t0, t1, t2, h1, h2) -> tuple[Any, list[Any]]:
    """Return the logarithm of the double integral over the directions of w and u, and its derivatives.

    A quadratic form e' M e of a direction e at the angle a is written m0 + m1 cos 2a + m2 sin 2a: q is that of S^-1, t
    that of T^-1; h is T^-1 m. Both radial integrals have closed forms, which leave

        integral over both angles of H(y) / (a q),   y = (e' h)^2 / (2 a),   a = t + q g^2,   H(y) = 1 + 2 y W(y).
    """
    levels = [*_gather_around(n_w, dtype, h1, h2), *_gather_at_zero(n_u, dtype, h1, h2)]
    (cos_w, sin_w, weight_w), (cos_u, sin_u, weight_u, g2) = levels[:3], levels[3:]
    along, across = q1 * cos_w + q2 * sin_w, q2 * cos_w - q1 * sin_w
    half_difference, product = 0.5 * (pt.sqr(h1) - pt.sqr(h2)), h1 * h2
    b2 = 0.5 * (pt.sqr(h1) + pt.sqr(h2)) + half_difference * cos_w + product * sin_w

    # From here on (n_w, n_u, N); what belongs to one of the directions is constant along the other's axis.
    q = q0 + along[:, None] * cos_u + across[:, None] * sin_u
    a = (t0 + t1 * cos_w + t2 * sin_w)[:, None] + g2 * q
    y = 0.5 * pt.maximum(b2, 0)[:, None] / a
    highest = pt.max(y, axis=(0, 1))
    base, w_scaled = pt.exp(-highest), scaled_w(y, highest, dtype)
    inverse = 1 / (a * q)
    share = weight_w[:, None] * weight_u * inverse
    term = share * (base + 2 * y * w_scaled)
    slope = share * (base + (1 + 2 * y) * w_scaled)

    # Reverse mode by hand: one pass over the nodes, and no exponential beside those of the value.
    over_a = q * inverse
    d_a = -(y * slope + term) * over_a
    d_q = d_a * g2 - term * a * inverse
    d_along, d_across, d_t = pt.sum(d_q * cos_u, 1), pt.sum(d_q * sin_u, 1), pt.sum(d_a, 1)
    d_b2, by_w = pt.sum(0.5 * slope * over_a, 1), pt.sum(term, 1)
    total = pt.sum(by_w, 0)
    d_levels = [
        d_along * q1 + d_across * q2 + d_t * t1 + d_b2 * half_difference,
        d_along * q2 - d_across * q1 + d_t * t2 + d_b2 * product,
        by_w / weight_w,
        pt.sum(d_q * along[:, None], 0),
        pt.sum(d_q * across[:, None], 0),
        pt.sum(term, 0) / weight_u,
        pt.sum(d_a * q, 0),
    ]
    through_nodes = pull_back(levels, d_levels, [h1, h2])
    d_b2_sum, d_b2_cos, d_b2_sin = pt.sum(d_b2, 0), pt.sum(d_b2 * cos_w, 0), pt.sum(d_b2 * sin_w, 0)
    derivatives = [
        pt.sum(d_q, (0, 1)),
        pt.sum(d_along * cos_w - d_across * sin_w, 0),
        pt.sum(d_along * sin_w + d_across * cos_w, 0),
        pt.sum(d_t, 0),
        pt.sum(d_t * cos_w, 0),
        pt.sum(d_t * sin_w, 0),
        through_nodes[0] + h1 * (d_b2_sum + d_b2_cos) + h2 * d_b2_sin,
        through_nodes[1] + h2 * (d_b2_sum - d_b2_cos) + h1 * d_b2_sin,
    ]
    return highest + pt.log(total), [d / total for d in derivatives]


def pull_back(outputs, cotangents, inputs) -> list[Any]:
    """Return the gradient for the inputs, from the gradients for the outputs."""
    placeholders = [c.type() for c in cotangents]
    linear = sum(pt.sum(p * output) for p, output in zip(placeholders, outputs, strict=True))
    return graph_replace(grad(linear, inputs), dict(zip(placeholders, cotangents, strict=True)))


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


def _gather_at_zero(n: int, dtype: str, h1, h2) -> tuple[Any, Any, Any, Any]:
    """Return cos 2a, sin 2a, weights and g(cos a)^2 of angles a in (-pi/2, pi/2) that gather at 0 as h grows."""
    nodes, weights = np.polynomial.legendre.leggauss(n)
    cos, sin = (f(np.pi / 2 * nodes).astype(dtype)[:, None] for f in (np.cos, np.sin))
    eta = 1 / pt.sqrt(1 + 1.5 / GATHER_U * (pt.sqr(h1) + pt.sqr(h2)))
    inverse = 1 / (cos**2 + pt.sqr(eta * sin))
    weights = (np.pi / 2 * weights).astype(dtype)[:, None] * eta * inverse
    kappa = cos * pt.sqrt(inverse)
    g = (2 / 3) * (pt.sqrt(pt.sqr(kappa) + 3) - kappa)
    return (cos**2 - pt.sqr(eta * sin)) * inverse, 2 * eta * cos * sin * inverse, weights, pt.sqr(g)


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
