"""The normal distribution by the logarithm of its probabilities, right in both tails, with finite gradients."""

from typing import Any

import numpy as np

from pm_psyphy.psychophysics.tensor import as_tensor, pt

SQRT_HALF = float(np.sqrt(0.5))


def log_normal_cdf(z: Any) -> Any:
    r"""Return :math:`\log \Phi(z)` of the standard normal distribution.

    Parameters
    ----------
    z : tensor

    Returns
    -------
    TensorVariable

    Examples
    --------
    >>> log_normal_cdf([-4.0, 0.0]).eval().round(4)
    array([-10.3601,  -0.6931])
    """
    z = as_tensor(z)
    is_tail = z < -1
    # Each branch sees only arguments of its own, so that neither puts an infinity into the other's gradient.
    tail, centre = pt.switch(is_tail, z, -1.0), pt.switch(is_tail, -1.0, z)
    in_tail = pt.log(0.5 * pt.erfcx(-SQRT_HALF * tail)) - 0.5 * tail**2
    return pt.switch(is_tail, in_tail, pt.log1p(-0.5 * pt.erfc(SQRT_HALF * centre)))
