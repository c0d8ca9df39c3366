"""Psychometric functions at their ends, where gradients are lost first, and what is no level, rate or response."""

import numpy as np
import pandas as pd
import pymc as pm
import pytensor
import pytensor.tensor as pt
import pytest
from scipy import optimize, special, stats

import pm_psyphy as psy
from pm_psyphy.common.row_function import RUN_ONCE

SHAPES = ("logistic", "normal", "gumbel", "weibull")
# Catch trials at level 0, by an observer who guesses right half the time.
LEVELS = np.array([0, 0.5, 1, 2, 4, 8.0])
CORRECT = np.array([26, 27, 31, 41, 48, 50])


def levels_with_ends(shape):
    inside = np.array([0.5, 1.0, 2.0])
    return np.concatenate([[0.0 if shape == "weibull" else -np.inf], inside, [np.inf]])


def quantile(f):
    return np.log(-np.log1p(-f))


@pytest.mark.parametrize("function", [psy.psychometric, psy.psychometric_log_odds])
def test_catch_trials_are_fitted_as_scipy_fits_them(function):
    with pm.Model() as model:
        t, w = pm.HalfFlat("t", initval=1.5), pm.HalfFlat("w", initval=2.0)
        p = function(LEVELS, t, width=w, guess_rate=0.5, lapse_rate=0.02, shape="weibull")
        pm.Binomial("k", n=50, **{"p" if function is psy.psychometric else "logit_p": p}, observed=CORRECT)
    fit = psy.find_map(model, progressbar=False)

    def loss(parameters):
        threshold, width = np.exp(parameters)
        with np.errstate(divide="ignore"):
            z = quantile(0.5) + (quantile(0.95) - quantile(0.05)) * (np.log(LEVELS) - np.log(threshold)) / width
        return -stats.binom.logpmf(CORRECT, 50, 0.5 - 0.48 * np.expm1(-np.exp(z))).sum()

    best = optimize.minimize(loss, [0.4, 0.7], method="Nelder-Mead", options={"xatol": 1e-10, "fatol": 1e-13})
    np.testing.assert_allclose([fit["t"], fit["w"]], np.exp(best.x), rtol=1e-5)
    np.testing.assert_allclose([fit["t"], fit["w"]], [1.58127, 2.37265], rtol=1e-5)
    np.testing.assert_allclose(fit.loss, best.fun, rtol=1e-9)
    # Second derivatives are finite, too.
    errors = psy.laplace(fit, draws=10, random_seed=1).standard_errors
    assert 0 < errors["t"] < 1
    assert 0 < errors["w"] < 2


def test_catch_trials_without_guesses_are_fitted():
    said_yes = np.array([0, 3, 9, 20, 24])
    levels = np.array([0, 0.5, 1, 2, 4.0])

    def fit_to(rows):
        with pm.Model() as model:
            t, w = pm.HalfFlat("t", initval=1.5), pm.HalfFlat("w", initval=2.0)
            log_odds = psy.psychometric_log_odds(levels[rows], t, width=w, shape="weibull")
            pm.Binomial("k", n=25, logit_p=log_odds, observed=said_yes[rows])
        return psy.find_map(model, progressbar=False)

    with_catch, without = fit_to(slice(None)), fit_to(slice(1, None))
    # No "yes" at level 0 is certain, and says nothing of threshold and width.
    np.testing.assert_allclose(with_catch.loss, without.loss, rtol=1e-9)
    np.testing.assert_allclose([with_catch["t"], with_catch["w"]], [without["t"], without["w"]], rtol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("guess_rate", "lapse_rate"), [(0.0, 0.0), (0.25, 0.02), (0.0, 0.02), (0.5, 0.0)])
@pytest.mark.parametrize("is_data", [True, False])
def test_the_ends_of_a_function_have_its_rates_and_no_slope(shape, guess_rate, lapse_rate, is_data):
    t, w = pt.dscalars("t", "w")
    levels = levels_with_ends(shape)
    x = levels if is_data else pt.dvector("x")
    given = [t, w] if is_data else [t, w, x]
    values = [1.2, 2.0] if is_data else [1.2, 2.0, levels]
    settings = {"width": w, "guess_rate": guess_rate, "lapse_rate": lapse_rate, "shape": shape}
    inside = psy.psychometric(levels[1:-1], 1.2, **settings | {"width": 2.0}).eval(mode=RUN_ONCE)
    for function in (psy.psychometric, psy.psychometric_log_odds):
        p = function(x, t, **settings)
        gradients = [gradient for i in range(5) for gradient in pytensor.grad(p[i], given[:2])]
        found, *rows = pytensor.function(given, [p, *gradients], mode=RUN_ONCE)(*values)
        found = special.expit(found) if function is psy.psychometric_log_odds else found
        np.testing.assert_allclose(found, [guess_rate, *inside, 1 - lapse_rate], rtol=1e-14)
        rows = np.reshape(rows, (5, 2))
        np.testing.assert_array_equal(rows[[0, -1]], 0)
        assert np.all(rows[1:-1, 0] < 0)
        assert np.isfinite(rows).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_a_falling_function_has_its_ends_the_other_way_round(shape):
    levels = levels_with_ends(shape)
    p = psy.psychometric(levels, 1.0, slope=-1.0, guess_rate=0.1, lapse_rate=0.05, shape=shape).eval(mode=RUN_ONCE)
    np.testing.assert_allclose(p[[0, -1]], [0.95, 0.1])
    assert np.all(np.diff(p) < 0)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rate", [0.0, 0.02])
def test_gradients_are_finite_however_far_a_search_goes(shape, rate):
    t, w = pt.dscalars("t", "w")
    log_odds = psy.psychometric_log_odds([1e-3, 1.0, 1e3], t, width=w, lapse_rate=rate, guess_rate=rate, shape=shape)
    run = pytensor.function([t, w], [log_odds, *pytensor.grad(log_odds.sum(), [t, w])], mode=RUN_ONCE)
    for threshold in (1e-6, 1.0, 1e6):
        for width in (1e-2, 1.0, 1e3):
            assert all(np.isfinite(out).all() for out in run(threshold, width))


def test_the_lower_tail_of_a_weibull_function_is_that_of_its_power():
    # log F = log(1 - exp(-e^z)) = z - e^z / 2 + ..
    z = np.array([-800.0, -41.0, -39.0, -5.0])
    x = np.exp((z - quantile(0.5)) / (quantile(0.95) - quantile(0.05)))
    log_odds = psy.psychometric_log_odds(x, 1.0, width=1.0, shape="weibull").eval(mode=RUN_ONCE)
    expected = z - np.exp(z) / 2 + np.exp(z)
    np.testing.assert_allclose(log_odds, expected, atol=1e-5, rtol=1e-12)


def test_levels_of_any_table_are_taken():
    expected = psy.psychometric(np.array([1.0, 2.0]), 2.0, slope=0.5).eval(mode=RUN_ONCE)
    for x in ([1, 2], pd.Series([1, 2], dtype="Int64"), np.array([1, 2], "uint8"), np.ma.masked_array([1.0, 2.0])):
        np.testing.assert_array_equal(psy.psychometric(x, 2.0, slope=0.5).eval(mode=RUN_ONCE), expected)
    values = np.array([1.0, 2.0])
    p = psy.psychometric(values, 2.0, slope=0.5)
    values[:] = 7
    np.testing.assert_array_equal(p.eval(mode=RUN_ONCE), expected)


WIDE = {"width": 1.0}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: psy.psychometric([1, 2, -1.0], 1.0, **WIDE, shape="weibull"),
            "The level in row 2 is -1. 'weibull' is a",
        ),
        (lambda: psy.psychometric_log_odds([1, -2.0], 1.0, **WIDE, shape="weibull"), "The level in row 1 is -2"),
        (lambda: psy.psychometric(-1.0, 1.0, **WIDE, shape="weibull"), "The level is -1"),
        (lambda: psy.psychometric([[1, 2], [3, np.nan]], 1.0, **WIDE), r"The level at index \(1, 1\) is nan"),
        (lambda: psy.psychometric(pytensor.shared(np.array([1.0, np.nan])), 1.0, **WIDE), "The level in row 1 is nan"),
        (lambda: psy.psychometric(2 * pm.Data("x", [1.0, -3.0]), 1.0, **WIDE, shape="weibull"), "in row 1 is -6"),
        (
            lambda: psy.psychometric(np.ma.masked_array([1, 2], mask=[0, 1]), 1.0, **WIDE),
            "'x' has 1 masked values.* row 1",
        ),
        (lambda: psy.psychometric(pd.array([1, None], dtype="Int64"), 1.0, **WIDE), "The level in row 1 is nan"),
        (lambda: psy.psychometric(["a"], 1.0, **WIDE), "'x' is of type"),
        (lambda: psy.psychometric(1.0, 1.0, width=-1.0), "width is -1. Pass a positive number"),
        (lambda: psy.psychometric(1.0, -1.0, **WIDE, shape="weibull"), "threshold is -1. Pass a positive number"),
        (
            lambda: psy.psychometric(1.0, 1.0, **WIDE, guess_rate=1.2),
            "guess_rate is 1.2. Pass a probability from 0 up to",
        ),
        (lambda: psy.psychometric(1.0, 1.0, **WIDE, lapse_rate=-0.1), "lapse_rate is -0.1. Pass a probability"),
        (lambda: psy.psychometric(1.0, 1.0, **WIDE, guess_rate=np.nan), "guess_rate is nan. Pass a probability"),
        (
            lambda: psy.psychometric(1.0, 1.0, **WIDE, guess_rate=0.5, lapse_rate=0.5),
            "up to, not including, 0.5, which is",
        ),
        (lambda: psy.psychometric_log_odds(1.0, 1.0, **WIDE, guess_rate=np.float32(-0.1)), "guess_rate is -0.1"),
        (lambda: psy.psychometric_inverse(0.5, 1.0, **WIDE, lapse_rate=[0.0, 2.0]), "lapse_rate is 2"),
        (lambda: psy.point_of_subjective_equality(1.0, **WIDE, guess_rate=-0.5), "guess_rate is -0.5"),
        (lambda: psy.just_noticeable_difference(1.0, **WIDE, lapse_rate=1.5), "lapse_rate is 1.5"),
        (lambda: psy.psychometric(1.0, 1.0, **WIDE, proportion=[0.5, 1.5]), "which the function never reaches"),
        (lambda: psy.tasks.tanh_log_odds(1.0, 1.0, at_zero=1.2), "at_zero is 1.2. Pass a probability"),
        (lambda: psy.tasks.same_different_log_odds(1.0, -1.0), "criterion is -1. Pass a positive number"),
        (lambda: psy.Response("y", 0.0, chance=0.5, lapse_rate=0.5), "lapse_rate is 0.5. Pass a number from 0 up to"),
        (lambda: psy.Response("y", 0.0, chance=0.5, lapse_rate=np.float32(-0.5)), "lapse_rate is -0.5"),
        (lambda: psy.Response("y", 0.0, chance=[0.5, -1.0]), "chance is -1"),
        (
            lambda: psy.Response("y", [0.0, 0.0], observed=np.ma.masked_array([0, 1], mask=[0, 1])),
            "'y' has 1 masked values, the first at row 1",
        ),
        (
            lambda: psy.Response("y", [0.0, 0.0], observed=pd.array([1, None], dtype="Int64")),
            r"response nan at index \(1,\)",
        ),
        (lambda: psy.Response("y", [0.0, 0.0], observed=["correct", "maybe"]), r"the response maybe at index \(1,\)"),
        (
            lambda: psy.Response("y", [0.0, 0.0], observed=pytensor.shared(np.array([0.0, np.nan]))),
            "'y' holds the response nan",
        ),
    ],
)
def test_what_is_no_level_rate_or_response_is_named(call, message):
    with pm.Model(), pytest.raises(ValueError, match=message):
        call()


def test_new_levels_are_checked_too():
    with pm.Model() as model:
        x = pm.Data("x", [0.0, 1.0, 2.0])
        threshold = pm.HalfNormal("threshold")
        log_odds = psy.psychometric_log_odds(2 * x, threshold, width=1.0, shape="weibull")
        pm.Bernoulli("y", logit_p=log_odds, observed=[0, 1, 1])
    objective = psy.compile_objective(model)
    with pytest.raises(ValueError, match="Levels are NaN or out of range. 'weibull' is a function of log x"):
        objective.with_data(x=np.array([0.0, -1.0, 2.0]))


@pytest.mark.parametrize(
    "observed",
    [
        np.array([1, 0], "uint8"),
        pd.Series([True, False], dtype="boolean"),
        ["correct", "incorrect"],
        pd.Series([1, 0], dtype="Int64"),
        np.ma.masked_array([1.0, 0.0]),
    ],
)
def test_responses_of_any_table_are_observed(observed):
    with pm.Model() as model:
        psy.Response("y", [0.5, 0.5], observed=observed)
    np.testing.assert_array_equal(model.rvs_to_values[model["y"]].data, [1, 0])
