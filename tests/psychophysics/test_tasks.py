"""Tasks and psychometric functions against SciPy's integrals and closed forms."""

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
import pytest
from scipy import integrate, special, stats

import pm_psyphy as psy
from pm_psyphy.psychophysics.logarithms import log_normal_cdf

DISTANCES = np.array([0.0, 0.3, 1.0, 2.5, 5.0])


def probability(log_odds):
    return special.expit(log_odds.eval())


@pytest.mark.parametrize("m", [2, 3, 4, 10])
def test_mafc_is_the_integral(m):
    expected = [
        integrate.quad(lambda x, d=d: stats.norm.pdf(x - d) * stats.norm.cdf(x) ** (m - 1), -12, 20, epsabs=1e-12)[0]
        for d in DISTANCES
    ]
    np.testing.assert_allclose(probability(psy.tasks.mafc_log_odds(DISTANCES, m)), expected, atol=1e-9)


def test_mafc_has_a_right_tail():
    # Misses are ruled by one competitor: (m - 1) Phi(-d / sqrt 2).
    log_odds = psy.tasks.mafc_log_odds(np.array([20.0]), 3).eval()
    np.testing.assert_allclose(-log_odds, np.log(2) + stats.norm.logcdf(-20 / np.sqrt(2)), rtol=1e-6)


def by_simulation(rule, n=400_000):
    rng = np.random.default_rng(0)
    return np.array([np.mean(rule(rng, d, n)) for d in DISTANCES])


def play_duo_trio(rng, d, n):
    sample, same, other = rng.normal(size=(2, n)), rng.normal(size=n), rng.normal(size=n) + d
    return np.abs(same - sample[0]) < np.abs(other - sample[0])


def play_abx(rng, d, n):
    """Classify the pair by its difference, and X by the nearer mean."""
    a, b, x = rng.normal(size=n), rng.normal(size=n) + d, rng.normal(size=n)
    return (b > a) == (x < d / 2)


def play_same_different(rng, d, n):
    return np.abs(rng.normal(size=n) - rng.normal(size=n) - d) > 1.2


@pytest.mark.parametrize(
    ("log_odds", "rule"),
    [
        (lambda d: psy.tasks.match_to_sample_log_odds(d), play_duo_trio),
        (lambda d: psy.tasks.match_to_sample_log_odds(d, strategy="independent"), play_abx),
        (lambda d: psy.tasks.same_different_log_odds(d, 1.2), play_same_different),
        (lambda d: psy.tasks.yes_no_log_odds(d, 0.7), lambda rng, d, n: rng.normal(size=n) + d > 0.7),
    ],
    ids=["duo-trio", "ABX", "same-different", "yes-no"],
)
def test_simulated_observers_agree(log_odds, rule):
    p, found = probability(log_odds(DISTANCES)), by_simulation(rule)
    assert np.all(np.abs(p - found) < 4 * np.sqrt(np.maximum(p * (1 - p), 1e-6) / 400_000))


def test_same_different_is_its_closed_form():
    d, tau = DISTANCES, 1.5
    hits = stats.norm.cdf((d - tau) / np.sqrt(2)) + stats.norm.cdf((-d - tau) / np.sqrt(2))
    np.testing.assert_allclose(probability(psy.tasks.same_different_log_odds(d, tau)), hits, rtol=1e-10)
    np.testing.assert_allclose(hits[0], 2 * stats.norm.cdf(-tau / np.sqrt(2)))


def test_tanh_is_the_form_psyphy_began_with():
    d, slope = DISTANCES, 0.8
    oddity = 1 / 3 + 2 / 3 * (1 + np.tanh(slope * d)) / 2
    np.testing.assert_allclose(probability(psy.tasks.tanh_log_odds(d, slope, at_zero=2 / 3)), oddity, rtol=1e-12)
    two = 0.5 + 0.5 * np.tanh(slope * d)
    np.testing.assert_allclose(probability(psy.tasks.tanh_log_odds(d, slope, at_zero=0.5)), two, rtol=1e-12)


def test_discriminability_is_the_mahalanobis_distance_with_a_finite_gradient_at_zero():
    weights = pt.as_tensor(np.array([[[[0.2, 0.0], [0.05, 0.3]]]]))
    field = psy.WishartProcess("W", input_dim=2, basis_degree=0, extra_dims=0, diag_term=0.0, weights=weights)
    x0, x1 = np.array([[0.1, 0.2], [0.3, 0.3]]), np.array([[0.4, -0.2], [0.3, 0.3]])
    d = psy.tasks.discriminability(field, x0, x1)
    sigma = weights.data[0, 0] @ weights.data[0, 0].T
    expected = np.sqrt((x1[0] - x0[0]) @ np.linalg.solve(sigma, x1[0] - x0[0]))
    np.testing.assert_allclose(d.eval(), [expected, 0.0])
    assert np.isfinite(pytensor.grad(d.sum(), weights).eval()).all()


@pytest.mark.parametrize("task", [psy.tasks.mafc_log_odds, psy.tasks.match_to_sample_log_odds])
def test_gradients_stay_finite_far_out(task):
    d = pt.vector("d")
    value, grad = pytensor.function([d], [task(d), pytensor.grad(task(d).sum(), d)])(np.array([0.0, 1.0, 60.0]))
    assert np.isfinite(value).all()
    assert np.isfinite(grad).all()


def test_matching_has_no_slope_between_equal_stimuli():
    d = pt.scalar("d")
    grad = pytensor.grad(psy.tasks.match_to_sample_log_odds(d), d)
    np.testing.assert_allclose(grad.eval({d: 0.0}), 0.0, atol=1e-12)


def test_logarithms_are_right_in_both_tails():
    z = np.array([-200.0, -38.0, -5.0, -1.0, 0.0, 1.0, 5.0, 30.0])
    np.testing.assert_allclose(log_normal_cdf(z).eval(), special.log_ndtr(z), rtol=1e-13)
    log_p = np.array([-1e-12, -0.1, -1.0, -50.0])
    expected = np.where(log_p > -1, np.log(-np.expm1(log_p)), np.log1p(-np.exp(log_p)))
    np.testing.assert_allclose(pt.log1mexp(log_p).eval(), expected, rtol=1e-13)


FUNCTIONS = {
    "logistic": special.expit,
    "normal": stats.norm.cdf,
    "gumbel": lambda z: -np.expm1(-np.exp(z)),
}
RATES = {"guess_rate": 0.25, "lapse_rate": 0.05}


@pytest.mark.parametrize("shape", [*FUNCTIONS, "weibull"])
@pytest.mark.parametrize("proportion", [None, 0.6])
def test_a_psychometric_function_has_the_threshold_slope_and_width_it_was_given(shape, proportion):
    threshold, x = 1.7, np.linspace(0.2, 6, 50)
    at = 0.25 + 0.7 * 0.5 if proportion is None else proportion
    settings = {"shape": shape, "proportion": proportion, **RATES}

    def scale(level):
        return np.log(level) if shape == "weibull" else level

    def by_slope(level):
        return psy.psychometric(np.asarray(level), threshold, slope=0.8, **settings).eval()

    np.testing.assert_allclose(by_slope(threshold), at, rtol=1e-12)
    step = 1e-5
    low, high = threshold - step, threshold + step
    slope = (by_slope(high) - by_slope(low)) / 0.7 / (scale(high) - scale(low))
    np.testing.assert_allclose(slope, 0.8, rtol=1e-8)
    edges = [psy.psychometric_inverse(0.25 + 0.7 * f, threshold, width=1.3, **settings).eval() for f in (0.05, 0.95)]
    np.testing.assert_allclose(scale(edges[1]) - scale(edges[0]), 1.3, rtol=1e-10)
    p = by_slope(x)
    assert np.all(np.diff(p) >= 0)
    assert p.min() >= 0.25
    assert p.max() <= 0.95
    inside = (p > 0.26) & (p < 0.94)
    back = psy.psychometric_inverse(p[inside], threshold, slope=0.8, **settings).eval()
    np.testing.assert_allclose(back, x[inside], rtol=1e-9)
    log_odds = psy.psychometric_log_odds(x, threshold, slope=0.8, **settings).eval()
    np.testing.assert_allclose(special.expit(log_odds), p, rtol=1e-10)


@pytest.mark.parametrize("shape", FUNCTIONS)
def test_a_shape_is_its_closed_form(shape):
    x = np.linspace(-3, 5, 30)
    quantiles = {"logistic": special.logit, "normal": stats.norm.ppf, "gumbel": lambda f: np.log(-np.log1p(-f))}
    rise = quantiles[shape](0.95) - quantiles[shape](0.05)
    expected = FUNCTIONS[shape](quantiles[shape](0.5) + rise * (x - 1) / 2)
    np.testing.assert_allclose(psy.psychometric(x, 1.0, width=2.0, shape=shape).eval(), expected, rtol=1e-9, atol=1e-14)


def test_weibull_is_its_textbook_form():
    x, scale, exponent = np.linspace(0.1, 4, 20), 1.5, 2.2
    expected = 0.5 + 0.5 * -np.expm1(-((x / scale) ** exponent))
    at_scale = 1 - np.exp(-1)
    found = psy.psychometric(
        x, scale, slope=exponent * np.exp(-1), guess_rate=0.5, proportion=0.5 + 0.5 * at_scale, shape="weibull"
    )
    np.testing.assert_allclose(found.eval(), expected, rtol=1e-10)


def test_pse_jnd_and_weber_fraction_are_those_of_a_cumulative_normal():
    settings = {"slope": stats.norm.pdf(0) / 3.0, "shape": "normal"}
    np.testing.assert_allclose(psy.point_of_subjective_equality(12.0, **settings).eval(), 12.0)
    jnd = stats.norm.ppf(0.75) * 3.0
    np.testing.assert_allclose(psy.just_noticeable_difference(12.0, **settings).eval(), jnd, rtol=1e-9)
    np.testing.assert_allclose(psy.weber_fraction(12.0, 12.0, **settings).eval(), jnd / 12, rtol=1e-9)


def test_log_odds_keep_their_gradient_where_the_proportion_rounds_to_one():
    threshold = pt.scalar("threshold")
    for shape in ("logistic", "normal", "gumbel"):
        log_odds = psy.psychometric_log_odds(6.0, threshold, slope=2.0, shape=shape)
        value, grad = pytensor.function([threshold], [log_odds, pytensor.grad(log_odds, threshold)])(0.0)
        assert np.isfinite(value)
        assert grad < 0


def test_a_psychometric_function_is_fitted_as_scipy_fits_it():
    rng = np.random.default_rng(1)
    x, n = np.repeat(np.linspace(-2, 3, 8), 3), np.full(24, 40)
    y = rng.binomial(n, 0.5 + 0.48 * stats.norm.cdf((x - 0.6) / 0.9))
    with pm.Model() as model:
        threshold = pm.Flat("threshold")
        width = pm.HalfFlat("width", initval=2.0)
        log_odds = psy.psychometric_log_odds(x, threshold, width=width, guess_rate=0.5, lapse_rate=0.02, shape="normal")
        pm.Binomial("y", n=n, logit_p=log_odds, observed=y)
    fit = psy.find_map(model)

    def loss(parameters):
        t, log_width = parameters
        sd = np.exp(log_width) / (2 * stats.norm.ppf(0.95))
        return -stats.binom.logpmf(y, n, 0.5 + 0.48 * stats.norm.cdf((x - t) / sd)).sum()

    from scipy.optimize import minimize

    best = minimize(loss, [0.0, 0.7], method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-12})
    np.testing.assert_allclose(fit.loss, best.fun, rtol=1e-9)
    np.testing.assert_allclose([fit["threshold"], np.log(fit["width"])], best.x, rtol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: psy.psychometric(1.0, 0.0, slope=1.0, shape="probit"), "no psychometric function 'probit'. Pass one"),
        (lambda: psy.psychometric(1.0, 0.0), "slope and width are both missing"),
        (lambda: psy.psychometric(1.0, 0.0, slope=1.0, width=1.0), "slope and width are both given"),
        (
            lambda: psy.psychometric(1.0, 0.0, slope=1.0, guess_rate=0.5, proportion=0.4),
            "proportion is 0.4, which the function never reaches: it rises from the guess rate 0.5 to 1",
        ),
        (lambda: psy.tasks.mafc_log_odds(1.0, 1), "m is 1. Pass the number of alternatives, at least 2"),
        (lambda: psy.tasks.match_to_sample_log_odds(1.0, strategy="guess"), "no strategy 'guess'"),
        (lambda: psy.Response("y", 0.0, chance=1.5), "chance is 1.5"),
        (lambda: psy.Response("y", 0.0, observed=[0.5]), r"'y' holds the response 0.5 at index \(0,\)"),
    ],
)
def test_bad_input_is_named(call, message):
    with pm.Model(), pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("guess_rate", [0.0, 0.25])
@pytest.mark.parametrize("lapse_rate", [0.0, 0.02])
def test_levels_at_infinity_have_the_rates_as_their_proportions(guess_rate, lapse_rate):
    x = np.array([-np.inf, -1e4, 1e4, np.inf])
    for given in (float, pytensor.shared):
        rates = {"guess_rate": given(guess_rate), "lapse_rate": given(lapse_rate)}
        log_odds = psy.psychometric_log_odds(x, 0.5, slope=1.0, **rates).eval()
        expected = [guess_rate, guess_rate, 1 - lapse_rate, 1 - lapse_rate]
        np.testing.assert_allclose(special.expit(log_odds), expected, atol=1e-100, rtol=1e-12)
