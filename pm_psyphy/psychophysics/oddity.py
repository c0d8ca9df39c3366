r"""Percepts of three stimuli in; the probability that the odd one is found comes out, without simulation.

Two stimuli are the reference, one is the comparison: z0, z0' ~ N(x0, S0) and z1 ~ N(x1, S1). The observer measures
distances in the metric of the average covariance, A = ((2 S0 + S1) / 3)^-1, and is correct where z1 is farther from
both others than they are from each other. With u = z0 - z0' and w = z1 - (z0 + z0') / 2, which are independent,

    incorrect  <=>  |w|^2 < |<u, w>| + 3/4 |u|^2.

In whitened coordinates let S be the covariance of u, T that of w, and m the mean of w. Because u and w come from the
same three stimuli, T = 3 I - 3/4 S.
"""

from functools import lru_cache
from typing import Any

import numpy as np
from scipy import special

from pm_psyphy.psychophysics.logarithms import log_complement
from pm_psyphy.psychophysics.tasks import Response, add_lapses
from pm_psyphy.psychophysics.tensor import as_tensor, grad, graph_replace, pt
from pm_psyphy.rows import make_row_function

# In one dimension, nodes over the angle; in two, over the direction of w and over the angle between u and w.
NODES = {1: (16,), 2: (8, 8)}
# Where the nodes begin to gather around the directions that matter, in units of about d'^2.
GATHER_LINE, GATHER_W, GATHER_U = 6.0, 16.0, 120.0

# (z + c) erfcx(z) as a polynomial of t = (z - c) / (z + c): relative error below 1e-10 for z >= 0.
ERFCX_CENTRE = 3.0
ERFCX = np.polynomial.chebyshev.cheb2poly(
    np.polynomial.chebyshev.chebinterpolate(
        lambda t: special.erfcx(ERFCX_CENTRE * (1 + t) / (1 - t)) * 2 * ERFCX_CENTRE / (1 - t), 15
    )
)
# sqrt(pi) e^y erf(sqrt y) / (2 sqrt y) is the sum of (2 y)^n / (2 n + 1)!!.
SERIES = 1 / np.cumprod(np.arange(1.0, 20.0, 2.0))


def Oddity(  # noqa: N802 (a distribution, as its users see it)
    name: str,
    field: Any,
    reference: Any,
    comparison: Any,
    *,
    observed: Any = None,
    lapse_rate: Any = 0.0,
    nodes: tuple[int, ...] | None = None,
    dims: Any = None,
) -> Any:
    """Declare responses to an oddity task, which of three stimuli was the odd one, in the model in context.

    Two stimuli are the reference and one is the comparison, shown in any order. The probability of a correct response
    is exact; see `oddity_probability`.

    Parameters
    ----------
    name : str
    field : WishartProcess
        Covariances of the percepts over the stimulus space; anything with ``covariance(x)`` will do.
    reference, comparison : tensor, (N, D)
        Stimuli of each trial, in the units of the field.
    observed : array of 0 and 1, (N,), optional
        1 for a correct response. Without it the responses are free, for prior predictive draws.
    lapse_rate : float or tensor
        By how much the best performance falls short of 1, in [0, 2/3).
    nodes : tuple of int, optional
        Of the quadrature; see `oddity_probability`.
    dims : str or tuple of str, optional

    Returns
    -------
    TensorVariable
        The variable, Bernoulli distributed.

    Raises
    ------
    ValueError
        If a response is neither 0 nor 1, or a stimulus is outside the field's domain.
    """
    log_odds = oddity_log_odds(field, reference, comparison, nodes=nodes)
    return Response(name, log_odds, observed=observed, chance=1 / 3, lapse_rate=lapse_rate, dims=dims)


def oddity_probability(
    field: Any, reference: Any, comparison: Any, *, lapse_rate: Any = 0.0, nodes: tuple[int, ...] | None = None
) -> Any:
    r"""Return the probability of a correct response in the oddity task.

    The observer takes for odd the stimulus that is farther from both others than they are from each other, by
    Mahalanobis distance in the average covariance :math:`(2 \Sigma(x_0) + \Sigma(x_1)) / 3`.

    Parameters
    ----------
    field : WishartProcess
        Covariances of the percepts over the stimulus space; anything with ``covariance(x)`` will do.
    reference, comparison : tensor, (..., D)
        D = 1 or 2.
    lapse_rate : float or tensor
        In [0, 2/3).
    nodes : tuple of int, optional
        Of the quadrature: (n,) in one dimension, default (16,); in two, directions of the comparison and angles between
        it and the references' difference, default (8, 8). The default's error of log P, of correct and of incorrect
        responses, is below 1e-4 at d' = 4, 1e-3 at 8 and 1e-2 at 12 (95th percentile over covariances that differ by
        up to a half).

    Returns
    -------
    TensorVariable, (...)
        In [1/3, 1 - lapse_rate] for equal covariances.
    """
    return pt.sigmoid(add_lapses(oddity_log_odds(field, reference, comparison, nodes=nodes), 1 / 3, lapse_rate))


def oddity_log_odds(field: Any, reference: Any, comparison: Any, *, nodes: tuple[int, ...] | None = None) -> Any:
    """Return the log-odds of a correct response in the oddity task; right also where the probability rounds to 1.

    Parameters
    ----------
    field, reference, comparison, nodes
        As for `oddity_probability`.

    Returns
    -------
    TensorVariable, (...)
    """
    s0, s1 = field.covariance(reference), field.covariance(comparison)
    log_q = log_incorrect(as_tensor(comparison) - as_tensor(reference), s0, s1, nodes)
    return log_complement(log_q) - log_q


def log_incorrect(difference: Any, s0: Any, s1: Any, nodes: tuple[int, ...] | None = None) -> Any:
    """Return the logarithm of the probability of an incorrect response in the oddity task.

    Parameters
    ----------
    difference : tensor, (..., D)
        Comparison minus reference.
    s0, s1 : tensor, (..., D, D)
        Covariances of the reference and of the comparison.
    nodes : tuple of int, optional

    Returns
    -------
    TensorVariable, (...)
    """
    d = s0.type.shape[-1]
    if d not in NODES:
        raise NotImplementedError(f"The oddity task is written for 1 and 2 stimulus dimensions; the field has {d}.")
    nodes = NODES[d] if nodes is None else tuple(nodes)
    if len(nodes) != d or min(nodes) < 1:
        raise ValueError(f"nodes is {nodes}. Pass {d} positive whole number{'s' * (d > 1)} for {d} dimensions.")
    entries = [difference[..., i] for i in range(d)]
    entries += [s[..., i, j] for s in (s0, s1) for i in range(d) for j in range(i, d)]
    entries = pt.broadcast_arrays(*(pt.cast(entry, s0.dtype) for entry in entries))
    shape = [entries[0].shape[i] for i in range(entries[0].ndim)]
    op = {1: _line_op, 2: _plane_op}[d](*nodes, entries[0].dtype)
    return op(*(entry.reshape((-1,)) for entry in entries))[0].reshape(shape)


@lru_cache
def _line_op(n: int, dtype: str) -> Any:
    """Return the op of one dimension, where |w| < 3/2 |u| is a double wedge of the plane of u and w."""
    nodes, weights = np.polynomial.legendre.leggauss(n)
    nodes, weights = (0.5 * (nodes + 1)).astype(dtype)[:, None], (0.5 * weights).astype(dtype)[:, None]

    def evaluate(x, a, b):
        # With the radius integrated out, the angle runs from 0 to the wedge's edge, near which a distant mean's share
        # of the integral lies.
        mu_squared = pt.sqr(x) / (b + 0.5 * a)
        edge = pt.arctan(1.5 * pt.sqrt(2 * a / (b + 0.5 * a)))
        gather = mu_squared / GATHER_LINE
        inverse = 1 / (1 + gather * nodes)
        angle = edge * (1 + gather) * nodes * inverse
        weight = edge * (1 + gather) * weights * pt.sqr(inverse)
        y = 0.5 * mu_squared * pt.sqr(pt.sin(angle))
        highest = pt.max(y, axis=0)
        total = pt.sum(weight * (pt.exp(-highest) + 2 * y * _scaled_w(y, highest, dtype)), axis=0)
        value = highest - 0.5 * mu_squared + pt.log(total) + np.asarray(np.log(2 / np.pi), dtype)
        return value, grad(pt.sum(value), [x, a, b])

    return make_row_function(evaluate, 3, dtype)


@lru_cache
def _plane_op(n_w: int, n_u: int, dtype: str) -> Any:
    def evaluate(*entries):
        whitened, offset = _whiten_plane(*entries)
        integral, d_whitened = _integrate_plane(n_w, n_u, dtype, *whitened)
        ones = pt.ones_like(offset)
        return integral + offset, _pull_back([*whitened, offset], [*d_whitened, ones], list(entries))

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
    base, w_scaled = pt.exp(-highest), _scaled_w(y, highest, dtype)
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
    through_nodes = _pull_back(levels, d_levels, [h1, h2])
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


def _pull_back(outputs, cotangents, inputs) -> list[Any]:
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


def _scaled_w(y, highest, dtype: str) -> Any:
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
