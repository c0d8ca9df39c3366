"""A distance between percepts in; the log-odds of a correct response, task by task, come out.

A task is one function from percepts to log-odds, and `Response` makes an observed variable of them. To add a task,
write such a function; nothing else is needed.
"""

from typing import Any

import numpy as np
import pymc as pm
from pytensor.graph.basic import Variable

from pm_psyphy.psychophysics.columns import code_responses
from pm_psyphy.psychophysics.logarithms import log_normal_cdf
from pm_psyphy.psychophysics.rates import check_positive, check_rates, is_zero
from pm_psyphy.psychophysics.tensor import as_tensor, pt, read_known

SQRT2, SQRT6 = float(np.sqrt(2)), float(np.sqrt(6))


def Response(  # noqa: N802 (a distribution, as its users see it)
    name: str, log_odds: Any, *, observed: Any = None, chance: float = 0.0, lapse_rate: Any = 0.0, dims: Any = None
) -> Any:
    """Declare binary responses in the model in context, by their log-odds.

    Parameters
    ----------
    name : str
    log_odds : tensor, (N,)
        Log-odds of a response 1 (correct, "yes", "different") by an observer who never lapses.
    observed : array of 0 and 1, (N,), optional
        Or booleans, or "correct" and "incorrect". Without it the responses are free, for prior predictive draws.
    chance : float
        Probability of a response 1 by guessing, in [0, 1).
    lapse_rate : float or tensor
        By how much the best performance falls short of 1: a response 1 has probability
        chance + (1 - chance - lapse_rate) (p - chance) / (1 - chance).
    dims : str or tuple of str, optional

    Returns
    -------
    TensorVariable
        The variable, Bernoulli distributed.

    Raises
    ------
    ValueError
        If a response is neither 0 nor 1, missing or masked, or a rate given as a number is out of its range.
    """
    if observed is not None:
        observed = _read_binary(name, observed)
    return pm.Bernoulli(name, logit_p=add_lapses(log_odds, chance, lapse_rate), observed=observed, dims=dims)


def add_lapses(log_odds: Any, chance: float, lapse_rate: Any) -> Any:
    """Return the log-odds of an observer who lapses; see `Response`.

    Parameters
    ----------
    log_odds : tensor
    chance : float
        In [0, 1).
    lapse_rate : float or tensor
        In [0, 1 - chance).
    """
    check_rates(chance, lapse_rate, guess_name="chance")
    if is_zero(lapse_rate):
        return log_odds
    # Of the incorrect responses: q' = lapse_rate + (1 - lapse_rate / (1 - chance)) q, a sum of positive terms.
    log_q = -pt.softplus(as_tensor(log_odds))
    lapse_rate, chance = as_tensor(lapse_rate, "lapse_rate"), as_tensor(chance, "chance")
    log_q = pt.logaddexp(pt.log(lapse_rate), pt.log1p(-lapse_rate / (1 - chance)) + log_q)
    return pt.log1mexp(log_q) - log_q


def discriminability(field: Any, reference: Any, comparison: Any) -> Any:
    r"""Return d', the Mahalanobis distance of two stimuli in the mean of their covariances.

    .. math:: d'^2 = \delta^T \left(\frac{\Sigma(x_0) + \Sigma(x_1)}{2}\right)^{-1} \delta

    Parameters
    ----------
    field : WishartProcess
    reference, comparison : tensor, (N, D)

    Returns
    -------
    TensorVariable, (N,)
    """
    difference = as_tensor(comparison) - as_tensor(reference)
    mean = (field.covariance(reference) + field.covariance(comparison)) / 2
    square = pt.sum(difference * pt.linalg.solve(mean, difference[..., None], assume_a="pos")[..., 0], axis=-1)
    return _safe_sqrt(square)


def mafc_log_odds(d_prime: Any, m: int = 2, *, nodes: int = 49) -> Any:
    r"""Return the log-odds of a correct choice among m alternatives, one of which is d' above the rest.

    .. math:: P = \int \varphi(x - d') \Phi(x)^{m-1} dx

    (Green and Swets, 1966), for m = 2 :math:`\Phi(d' / \sqrt 2)`.

    Parameters
    ----------
    d_prime : tensor
        At least 0.
    m : int
        At least 2.
    nodes : int
        Nodes of the trapezoidal rule, for m > 2; the default leaves an error of P below 1e-9 for d' to 5.

    Returns
    -------
    TensorVariable
    """
    if not isinstance(m, int | np.integer) or m < 2:
        raise ValueError(f"m is {m!r}. Pass the number of alternatives, at least 2.")
    d = as_tensor(d_prime)
    if m == 2:
        return log_normal_cdf(d / SQRT2) - log_normal_cdf(-d / SQRT2)
    # Both tails of the integrand lie within 9 of d' / 2, where an incorrect choice is likeliest.
    grid = np.linspace(-9.0, 9.0, nodes)
    x = d[..., None] / 2 + grid
    log_density = -0.5 * (x - d[..., None]) ** 2 - 0.5 * np.log(2 * np.pi) + np.log(grid[1] - grid[0])
    log_miss = pt.log1mexp(pt.minimum((m - 1) * log_normal_cdf(x), -1e-300))
    log_q = pt.logsumexp(log_density + log_miss, axis=-1)
    return pt.log1mexp(log_q) - log_q


def match_to_sample_log_odds(d_prime: Any, *, strategy: str = "differencing") -> Any:
    r"""Return the log-odds of matching the right one of two stimuli to a sample (ABX, duo-trio).

    .. math:: P = a b + (1 - a)(1 - b), \quad a = \Phi(d' / \sqrt 2)

    with :math:`b = \Phi(d' / \sqrt 6)` for an observer who compares two differences, and :math:`b = \Phi(d' / 2)` for
    one who classifies each stimulus by itself (Macmillan and Creelman, 2005, chapter 9).

    Parameters
    ----------
    d_prime : tensor
        At least 0.
    strategy : {"differencing", "independent"}

    Returns
    -------
    TensorVariable
    """
    divisors = {"differencing": SQRT6, "independent": 2.0}
    if strategy not in divisors:
        raise ValueError(f"There is no strategy {strategy!r}. Pass 'differencing' or 'independent'.")
    first, second = as_tensor(d_prime) / SQRT2, as_tensor(d_prime) / divisors[strategy]
    a, not_a, b, not_b = (log_normal_cdf(z) for z in (first, -first, second, -second))
    log_p, log_q = pt.logaddexp(a + b, not_a + not_b), pt.logaddexp(a + not_b, not_a + b)
    return log_p - log_q


def same_different_log_odds(d_prime: Any, criterion: Any) -> Any:
    r"""Return the log-odds of the response "different" to two stimuli that are d' apart; d' = 0 for the same.

    The observer says "different" where the percepts differ by more than the criterion:

    .. math:: P = \Phi((d' - \tau) / \sqrt 2) + \Phi((-d' - \tau) / \sqrt 2)

    (differencing; Macmillan and Creelman, 2005, chapter 9).

    Parameters
    ----------
    d_prime : tensor
        At least 0.
    criterion : tensor
        tau > 0, in the units of d'.

    Returns
    -------
    TensorVariable
    """
    check_positive("criterion", criterion)
    d, tau = as_tensor(d_prime), as_tensor(criterion)
    log_p = pt.logaddexp(log_normal_cdf((d - tau) / SQRT2), log_normal_cdf((-d - tau) / SQRT2))
    log_q = pm.math.logdiffexp(log_normal_cdf((tau - d) / SQRT2), log_normal_cdf((-tau - d) / SQRT2))
    return log_p - log_q


def yes_no_log_odds(d_prime: Any, criterion: Any) -> Any:
    r"""Return the log-odds of "yes" to a stimulus that is d' above the noise; d' = 0 for the noise itself.

    .. math:: P = \Phi(d' - \lambda)

    Parameters
    ----------
    d_prime : tensor
    criterion : tensor
        lambda, counted from the mean of the noise, in units of its standard deviation.

    Returns
    -------
    TensorVariable
    """
    z = as_tensor(d_prime) - criterion
    return log_normal_cdf(z) - log_normal_cdf(-z)


def tanh_log_odds(distance: Any, slope: Any, *, at_zero: float) -> Any:
    r"""Return the log-odds of a correct response by a closed form that saturates with the distance.

    .. math:: P = p_0 + (1 - p_0) \tanh(\text{slope} \cdot d)

    psyphy began with it: ``at_zero=1/2`` is its two-alternative form, and ``at_zero=2/3`` equals its form for the
    oddity task, 1/3 + 2/3 (1 + tanh(slope d)) / 2. It describes data; it follows from no model of the observer.

    Parameters
    ----------
    distance : tensor
        At least 0, for instance a Mahalanobis distance.
    slope : tensor
        Positive.
    at_zero : float
        P for equal stimuli, in [0, 1).

    Returns
    -------
    TensorVariable
    """
    check_rates(at_zero, 0.0, guess_name="at_zero")
    log_q = pt.log(2 * (1 - as_tensor(at_zero))) - pt.softplus(2 * as_tensor(slope) * as_tensor(distance))
    return pt.log1mexp(log_q) - log_q


def _safe_sqrt(square: Any) -> Any:
    """Return a square root whose derivative at 0 is 0."""
    positive = square > 0
    return pt.switch(positive, pt.sqrt(pt.switch(positive, square, 1.0)), 0.0)


def _read_binary(name: str, observed: Any) -> Any:
    """Return responses as 0 and 1, checked; of tensors the present values are checked, if they have any."""
    known = read_known(observed, name) if isinstance(observed, Variable) else observed
    if known is None:
        return observed
    given, codes = code_responses(name, known)
    wrong = np.argwhere(codes < 0)
    if len(wrong):
        at = tuple(map(int, wrong[0]))
        raise ValueError(f"{name!r} holds the response {given[at]!s} at index {at}. Responses are 0 or 1.")
    return observed if isinstance(observed, Variable) else codes
