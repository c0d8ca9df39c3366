"""Stimulus levels in; the proportion of correct (or "yes") responses comes out, by one of the standard functions.

All of them are P(x) = guess_rate + (1 - guess_rate - lapse_rate) F(x), with F rising from 0 to 1. A threshold is the
level at which P reaches a stated proportion.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from pytensor.graph.basic import Constant
from pytensor.raise_op import CheckAndRaise

from pm_psyphy.psychophysics.logarithms import log_normal_cdf
from pm_psyphy.psychophysics.rates import check_positive, check_rates, is_zero
from pm_psyphy.psychophysics.tensor import as_tensor, pt, read_known


class _Shape(NamedTuple):
    """A standard function F(z) that rises from 0 to 1."""

    log_cdf: Callable[[Any], Any]
    log_complement: Callable[[Any], Any]
    """log(1 - F)"""
    quantile: Callable[[Any], Any]
    density: Callable[[Any], Any]


# Above it the complement of a Gumbel function is 0 by any measure, and its logarithm still a float32.
HIGHEST = 80.0
# Below it F is exp(z), to the precision of float64.
LOWEST = -40.0


def _log_gumbel_cdf(z: Any) -> Any:
    return pt.switch(z < LOWEST, z, pt.log(-pt.expm1(-pt.exp(pt.clip(z, LOWEST, HIGHEST)))))


_GUMBEL = _Shape(
    _log_gumbel_cdf,
    lambda z: -pt.exp(pt.minimum(z, HIGHEST)),
    lambda f: pt.log(-pt.log1p(-f)),
    lambda z: pt.exp(z - pt.exp(z)),
)
SQRT2, SQRT_2PI = float(np.sqrt(2)), float(np.sqrt(2 * np.pi))
# So many logistic units from the threshold, the probability is that at infinity.
FARTHEST = 300.0
# Of log x.
LOGARITHMIC = {"weibull"}
SHAPES = {
    "logistic": _Shape(
        lambda z: -pt.softplus(-z),
        lambda z: -pt.softplus(z),
        lambda f: pt.log(f) - pt.log1p(-f),
        lambda z: pt.sigmoid(z) * pt.sigmoid(-z),
    ),
    "normal": _Shape(
        log_normal_cdf,
        lambda z: log_normal_cdf(-z),
        lambda f: -SQRT2 * pt.erfcinv(2 * f),
        lambda z: pt.exp(-(z**2) / 2) / SQRT_2PI,
    ),
    "gumbel": _GUMBEL,
    "weibull": _GUMBEL,
}


def psychometric(
    x: Any,
    threshold: Any,
    *,
    slope: Any = None,
    width: Any = None,
    guess_rate: Any = 0.0,
    lapse_rate: Any = 0.0,
    shape: str = "logistic",
    proportion: float | None = None,
) -> Any:
    """Return the proportion of correct (or "yes") responses at stimulus levels.

    Parameters
    ----------
    x : tensor, (...)
        Stimulus levels. For ``"weibull"`` at least 0; at 0, as in catch trials, P is `guess_rate`. At infinity it is
        1 - `lapse_rate`.
    threshold : tensor
        The level at which the proportion is `proportion`.
    slope : tensor, optional
        Derivative of F at the threshold; for ``"weibull"`` with respect to log x. Give this or `width`.
    width : tensor, optional
        Distance of the levels at which F is 0.05 and 0.95; for ``"weibull"`` on the scale of log x.
    guess_rate, lapse_rate : tensor
        P at the lowest levels; 1 - P at the highest. Together less than 1.
    shape : {"logistic", "normal", "weibull", "gumbel"}
        ``"normal"`` is the cumulative normal; ``"gumbel"`` is F = 1 - exp(-exp z); ``"weibull"`` is that of log x,
        1 - exp(-(x / scale)^exponent).
    proportion : float, optional
        Default: where F = 0.5, halfway from `guess_rate` to 1 - `lapse_rate`. A Weibull function's scale parameter is
        the threshold at guess_rate + (1 - guess_rate - lapse_rate) * 0.632.

    Returns
    -------
    TensorVariable
        In [guess_rate, 1 - lapse_rate].

    Raises
    ------
    ValueError
        If the shape is unknown, slope and width are both given or both missing, the proportion is out of reach, rates
        are not probabilities, or levels are NaN or (for ``"weibull"``) negative: at once where they are known, also as
        `pm.Data`, else when the model is evaluated.

    Examples
    --------
    >>> psychometric([1.0, 2.0], 2.0, slope=0.5, guess_rate=0.5).eval().round(4)
    array([0.5596, 0.75  ])
    """
    z = _standardise(x, threshold, slope, width, guess_rate, lapse_rate, shape, proportion)
    guess_rate, lapse_rate = as_tensor(guess_rate, "guess_rate"), as_tensor(lapse_rate, "lapse_rate")
    return guess_rate + (1 - guess_rate - lapse_rate) * pt.exp(SHAPES[shape].log_cdf(z))


def psychometric_log_odds(
    x: Any,
    threshold: Any,
    *,
    slope: Any = None,
    width: Any = None,
    guess_rate: Any = 0.0,
    lapse_rate: Any = 0.0,
    shape: str = "logistic",
    proportion: float | None = None,
) -> Any:
    """Return the log-odds of `psychometric`, right also where the proportion rounds to 0 or 1.

    For ``pm.Bernoulli(name, logit_p=...)`` and ``pm.Binomial(name, n=..., logit_p=...)``. The parameters are those of
    `psychometric`.
    """
    z = _standardise(x, threshold, slope, width, guess_rate, lapse_rate, shape, proportion)
    if shape == "logistic":
        # Both probabilities have the denominator 1 + exp(-z), which cancels.
        if not is_zero(guess_rate):
            # With a rate above 0 nothing changes any more, and infinite levels would cancel below.
            z = pt.maximum(z, -FARTHEST)
        if not is_zero(lapse_rate):
            z = pt.minimum(z, FARTHEST)
        missed, guessed = pt.log1p(-as_tensor(lapse_rate)), pt.log1p(-as_tensor(guess_rate))
        log_odds = z + missed - guessed
        if not is_zero(guess_rate):
            log_odds += pt.softplus(pt.log(as_tensor(guess_rate)) - missed - z)
        return log_odds if is_zero(lapse_rate) else log_odds - pt.softplus(pt.log(as_tensor(lapse_rate)) - guessed + z)
    function, room = SHAPES[shape], pt.log1p(-as_tensor(guess_rate) - as_tensor(lapse_rate))
    return _mix(guess_rate, room + function.log_cdf(z)) - _mix(lapse_rate, room + function.log_complement(z))


def psychometric_inverse(
    p: Any,
    threshold: Any,
    *,
    slope: Any = None,
    width: Any = None,
    guess_rate: Any = 0.0,
    lapse_rate: Any = 0.0,
    shape: str = "logistic",
    proportion: float | None = None,
) -> Any:
    """Return the stimulus level at which the proportion is p: the inverse of `psychometric`.

    Parameters
    ----------
    p : tensor
        Between guess_rate and 1 - lapse_rate; beyond them the level is NaN.
    threshold, slope, width, guess_rate, lapse_rate, shape, proportion
        As for `psychometric`.

    Returns
    -------
    TensorVariable
    """
    scale, offset = _find_scale(slope, width, guess_rate, lapse_rate, shape, proportion)
    guess_rate, lapse_rate = as_tensor(guess_rate, "guess_rate"), as_tensor(lapse_rate, "lapse_rate")
    z = SHAPES[shape].quantile((as_tensor(p, "p") - guess_rate) / (1 - guess_rate - lapse_rate))
    distance, threshold = (z - offset) / scale, as_tensor(threshold, "threshold")
    return threshold * pt.exp(distance) if shape in LOGARITHMIC else threshold + distance


def point_of_subjective_equality(threshold: Any, *, shape: str = "logistic", **parameters: Any) -> Any:
    """Return the level at which a comparison is judged greater half the time.

    The parameters are those of `psychometric`.
    """
    return psychometric_inverse(0.5, threshold, shape=shape, **parameters)


def just_noticeable_difference(threshold: Any, *, shape: str = "logistic", **parameters: Any) -> Any:
    """Return half the distance between the levels judged greater 25 % and 75 % of the time.

    The parameters are those of `psychometric`. For a cumulative normal without guesses and lapses it is 0.6745 of its
    standard deviation.
    """
    upper, lower = (psychometric_inverse(p, threshold, shape=shape, **parameters) for p in (0.75, 0.25))
    return (upper - lower) / 2


def weber_fraction(threshold: Any, standard: Any, *, shape: str = "logistic", **parameters: Any) -> Any:
    """Return the just noticeable difference divided by the standard stimulus."""
    return just_noticeable_difference(threshold, shape=shape, **parameters) / standard


def _standardise(x, threshold, slope, width, guess_rate, lapse_rate, shape, proportion) -> Any:
    """Return z of F(z)."""
    scale, offset = _find_scale(slope, width, guess_rate, lapse_rate, shape, proportion)
    is_log = shape in LOGARITHMIC
    if is_log:
        check_positive("threshold", threshold)
    x, threshold = _check_levels(x, shape), as_tensor(threshold, "threshold")
    first, last = (0.0 if is_log else -np.inf), np.inf
    has_ends = not isinstance(x, Constant) or bool(np.any((x.data == first) | (x.data == last)))
    # At its ends F has no slope, whatever its parameters; with a level inside in their place none is infinite.
    inside = pt.switch(pt.eq(x, first) | pt.eq(x, last), pt.ones_like(x), x) if has_ends else x
    z = offset + scale * (pt.log(inside) - pt.log(threshold) if is_log else inside - threshold)
    if not has_ends:
        return z
    end = pt.switch(as_tensor(scale) < 0, as_tensor(-np.inf), as_tensor(np.inf))
    return pt.switch(pt.eq(x, first), -end, pt.switch(pt.eq(x, last), end, z))


def _check_levels(x: Any, shape: str) -> Any:
    """Return levels as a tensor that raises where one is NaN or out of the function's range."""
    x = as_tensor(x, "x")
    least = 0.0 if shape in LOGARITHMIC else -np.inf
    advice = "Drop or correct that trial."
    if least == 0:
        advice = f"{shape!r} is a function of log x: pass levels of at least 0."
    known = read_known(x)
    if known is None:
        return x
    wrong = np.argwhere(~(known >= least))
    if len(wrong):
        at = tuple(map(int, wrong[0]))
        place = f" in row {at[0]}" if len(at) == 1 else f" at index {at}" if at else ""
        raise ValueError(f"The level{place} is {known[at]:g}. {advice}")
    if isinstance(x, Constant):
        return x
    # Data may have other values later.
    return CheckAndRaise(ValueError, f"Levels are NaN or out of range. {advice}")(x, pt.all(x >= least))


def _find_scale(slope, width, guess_rate, lapse_rate, shape, proportion) -> tuple[Any, Any]:
    """Return the factor of the distance from the threshold, and z at the threshold."""
    if shape not in SHAPES:
        raise ValueError(f"There is no psychometric function {shape!r}. Pass one of {', '.join(map(repr, SHAPES))}.")
    if (slope is None) == (width is None):
        raise ValueError(
            f"slope and width are both {'missing' if slope is None else 'given'}. Give one of them: slope, the "
            "derivative of F at the threshold, or width, the distance over which F rises from 5 % to 95 %."
        )
    check_rates(guess_rate, lapse_rate)
    if width is not None:
        check_positive("width", width)
    function, f_at = SHAPES[shape], 0.5
    if proportion is not None:
        f_at = (as_tensor(proportion) - as_tensor(guess_rate)) / (1 - as_tensor(guess_rate) - as_tensor(lapse_rate))
        rates: Any = [read_known(value) for value in (proportion, guess_rate, lapse_rate)]
        if not any(rate is None for rate in rates) and not np.all((rates[1] < rates[0]) & (rates[0] < 1 - rates[2])):
            raise ValueError(
                f"proportion is {proportion}, which the function never reaches: it rises from the guess rate "
                f"{guess_rate} to {1 - lapse_rate}. Pass a number between them."
            )
    offset = function.quantile(as_tensor(f_at))
    if width is None:
        return as_tensor(slope, "slope") / function.density(offset), offset
    rise = function.quantile(as_tensor(0.95)) - function.quantile(as_tensor(0.05))
    return rise / as_tensor(width, "width"), offset


def _mix(rate: Any, log_p: Any) -> Any:
    """Return log(rate + p); a rate of exactly 0 adds nothing."""
    return log_p if is_zero(rate) else pt.logaddexp(pt.log(as_tensor(rate)), log_p)
