"""Variances of percepts on a line in; the logarithm of P(incorrect) in the oddity task and its derivatives, out."""

from functools import lru_cache, partial
from typing import Any

import numpy as np

from pm_psyphy.common.row_function import make_row_function
from pm_psyphy.psychophysics.covariances import draw_examples, find_scales
from pm_psyphy.psychophysics.oddity_plane import scaled_w
from pm_psyphy.psychophysics.tensor import grad, pt

# Where the nodes begin to gather at the wedge's edge, in units of about d'^2.
GATHER_LINE = 6.0


@lru_cache
def line_op(n: int, dtype: str) -> Any:
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
        total = pt.sum(weight * (pt.exp(-highest) + 2 * y * scaled_w(y, highest, dtype)), axis=0)
        value = highest - 0.5 * mu_squared + pt.log(total) + np.asarray(np.log(2 / np.pi), dtype)
        return value, lambda: grad(pt.sum(value), [x, a, b])

    maker = line_op, n, dtype
    return make_row_function(evaluate, 3, dtype, partial(find_scales, 1), partial(draw_examples, 1, dtype), maker)
