"""Percepts of three stimuli in; the log-odds that the odd one is found, by simulation as psyphy does it, come out."""

from typing import Any

import numpy as np
import pytensor
from pymc.data import MinibatchOp, minibatch_index
from pytensor.compile.sharedvalue import SharedVariable

from pm_psyphy.common.settings import check_whole
from pm_psyphy.psychophysics.tensor import as_tensor, pt
from pm_psyphy.psychophysics.wishart import WishartProcess


def simulated_oddity_log_odds(
    field: WishartProcess,
    reference: Any,
    comparison: Any,
    *,
    draws: int = 500,
    bandwidth: float = 1e-2,
    noise: str = "gaussian",
    degrees_of_freedom: float = 3.0,
    fresh: bool = False,
    random_seed: Any = None,
) -> Any:
    r"""Return the log-odds of a correct response in the oddity task, by simulation.

    For comparison with psyphy, and for noise that is not Gaussian; for Gaussian noise `oddity_log_odds` is exact and
    about a hundred times cheaper. Percepts are :math:`z = x + U n + \sqrt{\text{diag\_term}}\, n'` with independent
    noise n, n', and a draw counts by a smooth step of its margin,

    .. math:: P = \frac{1}{S} \sum_s \sigma\left(\frac{\min(d_{01}^2, d_{0'1}^2) - d_{00'}^2}{\text{bandwidth}}\right)

    with squared Mahalanobis distances d in :math:`(2 \Sigma(x_0) + \Sigma(x_1)) / 3`.

    Parameters
    ----------
    field : WishartProcess
    reference, comparison : tensor, (N, D)
    draws : int
        Draws S of each trial; they take 3 N S (2 D + extra_dims) numbers of memory.
    bandwidth : float
        Width of the logistic step, in squared units of d'; the exact rule is the limit 0.
    noise : {"gaussian", "student"}
        Distribution of the percepts, element by element.
    degrees_of_freedom : float
        Degrees of freedom of Student's t, which is not scaled to unit variance.
    fresh : bool
        Draw anew at each evaluation: the loss is then noisy, and `find_map` takes Adam. Default: common random numbers,
        drawn once for the present trials.
    random_seed : int or numpy.random.Generator, optional

    Returns
    -------
    TensorVariable, (N,)

    Raises
    ------
    ValueError
        If a setting is out of range, or the number of trials unknown, which common random numbers need.
    """
    check_whole(draws=draws)
    for label, number in {"bandwidth": bandwidth, "degrees_of_freedom": degrees_of_freedom}.items():
        if not 0 < number < np.inf:
            raise ValueError(f"{label} is {number}. Pass a positive number.")
    if noise not in ("gaussian", "student"):
        raise ValueError(f"There is no noise {noise!r}. Pass 'gaussian' or 'student'.")
    reference, comparison = as_tensor(reference), as_tensor(comparison)
    d, e = field.input_dim, field.input_dim + field.extra_dims
    rng, width = np.random.default_rng(random_seed), (3, e + d)
    if fresh:
        n = _draw_anew(rng, (reference.shape[0], draws, *width), noise, degrees_of_freedom)
    else:
        size = (_count_trials(reference, comparison), draws, *width)
        n = as_tensor(rng.normal(size=size) if noise == "gaussian" else rng.standard_t(degrees_of_freedom, size=size))

    roots = [field.sqrt_covariance(x) for x in (reference, comparison)]
    s0, s1 = (u @ u.swapaxes(-1, -2) + field.diag_term * np.eye(d) for u in roots)
    offset = pt.sqrt(as_tensor(field.diag_term)) * n[..., e:]
    # (N, draws, D): both references and the comparison, from the reference's mean.
    z0, z00 = (pt.matmul(n[:, :, i, :e], roots[0].swapaxes(-1, -2)) + offset[:, :, i] for i in (0, 1))
    z1 = pt.matmul(n[:, :, 2, :e], roots[1].swapaxes(-1, -2)) + offset[:, :, 2] + (comparison - reference)[:, None]
    metric = pt.linalg.inv((2 * s0 + s1) / 3)

    def square(difference):
        return pt.sum(pt.matmul(difference, metric) * difference, axis=-1)

    margin = (pt.minimum(square(z0 - z1), square(z00 - z1)) - square(z0 - z00)) / bandwidth
    # Both means by their logarithms: where every draw is correct, the log-odds still have a slope.
    return pt.logsumexp(-pt.softplus(-margin), axis=1) - pt.logsumexp(-pt.softplus(margin), axis=1)


def _draw_anew(rng: np.random.Generator, size: tuple[Any, ...], noise: str, degrees_of_freedom: float) -> Any:
    """Return noise that is another at each evaluation.

    PyMC allows no random variable in a log probability but the indices of `pm.Minibatch`. Two of them give a radius and
    an angle, one coordinate of which is normal (Box and Muller, 1958) or Student's t (Bailey, 1994).
    """
    largest = 2**30
    generator, *lengths = pytensor.shared(rng), *(pt.as_tensor(n) for n in size)
    inner = [*(n.type() for n in lengths), generator.type()]
    drawn: Any = minibatch_index(0, largest, size=(2, *inner[:-1]), rng=inner[-1], return_next_rng=True)
    update, indices = drawn
    hidden: Any = MinibatchOp(inner, [indices, update])
    uniform = (hidden(*lengths, generator)[0] + 0.5) / largest
    if noise == "gaussian":
        square = -2 * pt.log(uniform[0])
    else:
        square = degrees_of_freedom * (pt.power(uniform[0], -2 / degrees_of_freedom) - 1)
    return pt.cast(pt.sqrt(square) * pt.cos(2 * np.pi * uniform[1]), pytensor.config.floatX)


def _count_trials(*stimuli: Any) -> int:
    for x in stimuli:
        n = x.get_value(borrow=True).shape[0] if isinstance(x, SharedVariable) else x.type.shape[0]
        if n is not None:
            return int(n)
    raise ValueError("The number of trials is unknown, for which numbers are drawn once. Pass arrays, or fresh=True.")
