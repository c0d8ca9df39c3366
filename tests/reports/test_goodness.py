"""Goodness of fit against its own distribution under the model, and comparisons against closed forms."""

import copy
import pickle

import numpy as np
import pandas as pd
import pymc as pm
import pytest
from scipy import stats

import pm_psyphy as psy
from pm_psyphy.results.draws import Draws

LEVELS = np.linspace(-2, 2, 8)


def observer(lapse_rate=0.0, seed=0, n=40):
    """Fit a psychometric function without lapses to an observer with some."""
    rng = np.random.default_rng(seed)
    level = np.repeat(LEVELS, n)
    p = 1 / (1 + np.exp(-3 * level))
    response = (rng.random(level.size) < (1 - lapse_rate) * p).astype(int)
    with pm.Model(coords={"trial": range(level.size)}) as model:
        threshold, slope = pm.Normal("threshold", 0, 1), pm.LogNormal("slope", 0, 1)
        pm.Bernoulli("yes", logit_p=slope * (level - threshold), observed=response, dims="trial")
    return model, level, response


def test_levels_are_those_of_the_data():
    model, level, response = observer()
    fit = psy.find_map(model, progressbar=False)
    found = psy.goodness_of_fit(fit, by=level, random_seed=1)
    np.testing.assert_array_equal(found.levels, LEVELS)
    np.testing.assert_array_equal(found.n_trials, 40)
    np.testing.assert_allclose(found.observed, response.reshape(8, 40).mean(axis=1))
    p = 1 / (1 + np.exp(-fit["slope"] * (LEVELS - fit["threshold"])))
    np.testing.assert_allclose(found.expected, p)
    counts = 40 * found.observed
    saturated = stats.binom.logpmf(counts, 40, found.observed) - stats.binom.logpmf(counts, 40, p)
    np.testing.assert_allclose(found.deviance, 2 * saturated.sum())
    np.testing.assert_allclose(found.residuals**2, 2 * saturated, atol=1e-12)
    assert np.all(np.sign(found.residuals) == np.sign(found.observed - p))
    assert repr(found).splitlines()[0].startswith("GoodnessOfFit: deviance")


def test_a_right_model_passes_as_often_as_it_should():
    model, level, _ = observer()
    objective, p_values = psy.compile_objective(model), []
    for seed in range(60):
        _, _, response = observer(seed=seed)
        posterior = psy.laplace(psy.find_map(objective.with_data(yes=response)), draws=200, random_seed=seed)
        p_values.append(psy.goodness_of_fit(posterior, by=level, draws=200, random_seed=seed).p_value)
    p_values = np.array(p_values)
    # A posterior predictive p-value is drawn towards 0.5, or above by what the fit follows of its data.
    assert np.mean(p_values < 0.05) <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 60)
    assert 0.4 < p_values.mean() < 0.75


def test_a_wrong_model_is_found_out():
    model, level, _ = observer(lapse_rate=0.2)
    fit = psy.find_map(model, progressbar=False)
    assert psy.goodness_of_fit(fit, by=level, random_seed=1).p_value < 0.01
    # Without levels of its own, trials are grouped by what the model expects.
    found = psy.goodness_of_fit(fit, bins=4, random_seed=1)
    assert len(found.levels) == 4
    assert found.n_trials.sum() == level.size


def test_counts_are_the_same_as_their_trials():
    model, level, response = observer()
    counts = response.reshape(8, 40).sum(axis=1)
    with pm.Model() as binomial:
        threshold, slope = pm.Normal("threshold", 0, 1), pm.LogNormal("slope", 0, 1)
        pm.Binomial("yes", n=40, logit_p=slope * (LEVELS - threshold), observed=counts)
    one = psy.goodness_of_fit(psy.find_map(binomial, progressbar=False), by=LEVELS, random_seed=1)
    other = psy.goodness_of_fit(psy.find_map(model, progressbar=False), by=level, random_seed=1)
    np.testing.assert_allclose(one.deviance, other.deviance, rtol=1e-5)
    np.testing.assert_array_equal(one.n_trials, other.n_trials)


@pytest.fixture(scope="module")
def with_gaps():
    """Counts of an incomplete session: levels 1 and 4 have no trials."""
    x, n, counts = np.array([1, 2, 3, 4, 5.0]), np.array([0, 10, 10, 0, 10]), np.array([0, 3, 8, 0, 10])
    with pm.Model() as model:
        threshold = pm.Normal("threshold", 2, 2)
        pm.Binomial("k", n=n, logit_p=psy.psychometric_log_odds(x, threshold, slope=1.0), observed=counts)
    return x, psy.find_map(model, progressbar=False)


def test_levels_without_trials_have_no_row(with_gaps):
    x, fit = with_gaps
    found = psy.goodness_of_fit(fit, by=x, random_seed=1)
    np.testing.assert_array_equal(found.levels, [2, 3, 5])
    np.testing.assert_array_equal(found.n_trials, 10)
    np.testing.assert_allclose(found.observed, [0.3, 0.8, 1.0])
    p = 1 / (1 + np.exp(-4 * (x[[1, 2, 4]] - fit["threshold"])))
    np.testing.assert_allclose(found.expected, p)
    counts = np.array([3, 8, 10])
    saturated = stats.binom.logpmf(counts, 10, counts / 10) - stats.binom.logpmf(counts, 10, p)
    np.testing.assert_allclose(found.deviance, 2 * saturated.sum())
    # Nor do they count among the groups, and a level is not needed where no trial is.
    missing = np.where(x == 1, np.nan, x)
    np.testing.assert_array_equal(psy.goodness_of_fit(fit, by=missing, random_seed=1).residuals, found.residuals)
    assert psy.goodness_of_fit(fit, bins=1, random_seed=1).n_trials == [30]
    with pytest.raises(ValueError, match="Row 4 of by is NaN. Every response with trials needs a number there"):
        psy.goodness_of_fit(fit, by=np.where(x == 5, np.nan, x))
    with pytest.raises(ValueError, match="'by' has 1 masked values, the first at row 2"):
        psy.goodness_of_fit(fit, by=np.ma.masked_array(x, mask=x == 3))
    with pytest.raises(ValueError, match="bins is 0. Pass a whole number of at least 1"):
        psy.goodness_of_fit(fit, bins=0)


def test_levels_may_be_labels_of_any_table(with_gaps):
    _, fit = with_gaps
    labels = pd.Series(["none", "low", "low", None, "high"])
    found = psy.goodness_of_fit(fit, by=labels, random_seed=1)
    assert list(found.levels) == ["high", "low"]
    np.testing.assert_array_equal(found.n_trials, [10, 20])
    by_number = psy.goodness_of_fit(fit, by=pd.array([1, 2, 2, None, 3], dtype="Int64"), random_seed=1)
    np.testing.assert_array_equal(by_number.n_trials, [20, 10])


def test_no_trial_at_all_is_an_error(with_gaps):
    x, _ = with_gaps
    with pm.Model() as model:
        threshold = pm.Normal("threshold", 2, 2)
        pm.Binomial("k", n=0, logit_p=x - threshold, observed=np.zeros(5, int))
    with pytest.raises(ValueError, match="The responses hold no trial: all their n are 0"):
        psy.goodness_of_fit(psy.find_map(model, progressbar=False))


@pytest.mark.parametrize(("far", "counts", "deviance"), [(1000, [10, 0], 0), (1000, [9, 0], np.inf), (30, [10, 0], 0)])
def test_certain_responses_have_a_deviance_without_warnings(far, counts, deviance):
    x = np.array([far, -far])
    with pm.Model() as model:
        threshold = pm.Normal("threshold", 0, 1)
        pm.Binomial("k", n=10, p=pm.math.sigmoid(x - threshold), observed=counts)
    draws = Draws(psy.compile_objective(model), {"threshold": np.zeros(2)})
    found = psy.goodness_of_fit(draws, by=x, draws=50, random_seed=1)
    np.testing.assert_allclose(found.deviance, deviance, atol=1e-9)
    assert found.p_value == (1.0 if deviance == 0 else 0.0)
    assert not np.isnan([*found.residuals, *found.expected, *found.observed]).any()
    single = psy.goodness_of_fit(draws, by=[0, 0], draws=50, random_seed=1)
    np.testing.assert_allclose(single.expected, [0.5])
    assert len(repr(single).splitlines()) == 3


def test_results_can_be_copied_pickled_and_compared(with_gaps):
    x, fit = with_gaps
    found = psy.goodness_of_fit(fit, by=x, draws=20, random_seed=1)
    difference = psy.compare_draws(np.arange(40.0), np.zeros(40))
    for result in (found, difference):
        for again in (copy.copy(result), copy.deepcopy(result), pickle.loads(pickle.dumps(result))):
            assert repr(again) == repr(result)
            assert result == result
            assert result != again
            assert len({result, again}) == 2


def test_what_is_certain_has_a_p_value_of_nought_or_one():
    rng = np.random.default_rng(0)
    draws = rng.normal(size=100)
    assert psy.compare_draws(draws, draws).p_value == 1
    assert psy.compare_draws(draws + 2.5, draws - 0.5 + 3).p_value == 1
    assert psy.compare_draws(np.full(100, 2.0), np.ones(100)).p_value == 0
    pair = np.stack([draws, np.full(100, 3.0)], axis=1)
    assert psy.compare_draws(pair, np.zeros((100, 2))).p_value == 0
    with pytest.raises(ValueError, match="'second' has 1 masked values"):
        psy.compare_draws(draws, np.ma.masked_array(draws, mask=np.arange(100) == 4))
    with pytest.raises(ValueError, match="1 of 100 draws hold NaN, as thresholds .* or infinite numbers"):
        psy.compare_draws(np.where(np.arange(100) == 3, np.inf, draws), draws)


@pytest.mark.usefixtures("users_mode")
def test_responses_of_a_wishart_process_can_be_predicted_and_compared():
    rng = np.random.default_rng(3)
    reference = rng.uniform(-0.8, 0.8, (400, 1))
    field = psy.WishartProcess("true", input_dim=1, basis_degree=1, extra_dims=0, weights=[[[0.08]], [[0.03]]])
    comparison = psy.place_comparisons(field, reference, rng.uniform(1, 4, 400), random_seed=rng)
    trials = psy.simulate_trials(field, reference, comparison, random_seed=rng)
    with pm.Model() as model:
        field = psy.WishartProcess("W", input_dim=1, basis_degree=1, extra_dims=0)
        psy.Oddity("correct", field, trials.reference, trials.comparison, observed=trials.response)
    posterior = psy.laplace(psy.find_map(model, progressbar=False), draws=60, random_seed=1)
    assert psy.goodness_of_fit(posterior, random_seed=1).p_value > 0.05
    new = np.array([[0.2]])
    p = posterior.evaluate(psy.tasks.oddity_probability(field, np.zeros((1, 1)), new))
    truth = psy.tasks.oddity_probability(
        psy.WishartProcess("true", input_dim=1, basis_degree=1, extra_dims=0, weights=[[[0.08]], [[0.03]]]),
        np.zeros((1, 1)),
        new,
    ).eval()
    low, high = np.quantile(p, [0, 1])
    assert low < truth[0] < high
    drawn = pm.sample_posterior_predictive(
        posterior.to_datatree(), model=model, random_seed=1, progressbar=False
    ).posterior_predictive["correct"]
    expected = posterior.evaluate(psy.tasks.oddity_probability(field, trials.reference, trials.comparison)).mean()
    assert abs(float(drawn.mean()) - expected) < 4 * np.sqrt(0.25 / drawn.size)


def test_a_difference_has_the_interval_and_the_p_value_of_a_normal_one():
    rng = np.random.default_rng(0)
    first, second = rng.normal(0.5, 1, (20_000, 3)), rng.normal(0, 1, (10_000, 3))
    found = psy.compare_draws(first, second, interval=0.9)
    edge = stats.norm.ppf(0.95) * np.sqrt(2)
    np.testing.assert_allclose(found.low, 0.5 - edge, atol=0.1)
    np.testing.assert_allclose(found.high, 0.5 + edge, atol=0.1)
    np.testing.assert_allclose(found.probability, stats.norm.cdf(0.5 / np.sqrt(2)), atol=0.02)
    np.testing.assert_allclose(found.p_value, stats.chi2.sf(3 * 0.25 / 2, 3), atol=0.02)
    # Twice the same number tells no more than once, and draws of one posterior are compared draw by draw.
    again = psy.compare_draws(first[:, [0, 0, 1, 2]], second[:, [0, 0, 1, 2]])
    np.testing.assert_allclose(again.p_value, found.p_value, rtol=1e-6)
    assert psy.compare_draws(first + 1e-3 * rng.normal(size=first.shape), first - 0.01).p_value < 1e-6
    assert repr(psy.compare_draws(first[:, 0], second[:, 0])).startswith("Difference: 0.5")
    assert "intervals without 0 in 0 of 3 entries" in repr(found)


def test_bad_input_is_said():
    model, *_ = observer()
    fit = psy.find_map(model, progressbar=False)
    with pytest.raises(ValueError, match=r"by has shape \(2,\). Pass a level for each of the 320 responses"):
        psy.goodness_of_fit(fit, by=[1, 2])
    with pytest.raises(ValueError, match="Responses by pm.Bernoulli or pm.Binomial: yes. 'no' is none of them"):
        psy.goodness_of_fit(fit, "no")
    with pytest.raises(ValueError, match="draws is 0. Pass a whole number of at least 1"):
        psy.goodness_of_fit(fit, draws=0)
    with pytest.raises(ValueError, match=r"Draws have shapes \(5, 2\) and \(5,\)"):
        psy.compare_draws(np.zeros((5, 2)), np.zeros(5))
    with pytest.raises(ValueError, match="1 of 5 draws hold NaN"):
        psy.compare_draws(np.array([0, np.nan, 1, 2, 3]), np.zeros(5))
    with pytest.raises(ValueError, match="There are 5 draws of 2 numbers, too few"):
        psy.compare_draws(np.zeros((5, 2)), np.zeros((5, 2)))
    with pytest.raises(ValueError, match="interval is 90. Pass a share between 0 and 1"):
        psy.compare_draws(np.zeros(50), np.zeros(50), interval=90)
