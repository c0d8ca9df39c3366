"""Draws of posteriors, by all methods: against closed forms, numerical integration, NUTS, and how often they hold."""

import numpy as np
import pymc as pm
import pytest
import xarray as xr
from compilations import count_compilations
from scipy import special, stats

import pm_psyphy as psy
from pm_psyphy.uncertainty.laplace import find_gaussian
from pm_psyphy.uncertainty.modes import find_modes
from pm_psyphy.uncertainty.pareto_smoothing import smooth_weights

QUIET = {"progressbar": False}
METHODS = ["importance", "hmc"]


def regression():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 3)) @ [[1, 0.9, 0], [0, 0.4, 0], [0, 0, 20]]
    with pm.Model(coords={"predictor": list("abc"), "trial": range(50)}) as model:
        slopes = pm.Normal("slopes", 0, 2, dims="predictor")
        pm.Normal("y", x @ slopes, 0.7, observed=rng.normal(size=50), dims="trial")
    return model, np.linalg.inv(x.T @ x / 0.49 + np.eye(3) / 4)


def few_trials():
    """A psychometric function of 30 trials: skewed, with a lapse rate whose mode is 0."""
    level, correct = np.repeat([-1.0, 0.0, 1.0], 10), np.tile([1, 1, 0, 1, 0], 6)
    correct[10:] = 1
    with pm.Model() as model:
        threshold, lapse = pm.Normal("threshold", 0, 1), pm.Beta("lapse", 1, 19)
        log_odds = psy.psychometric_log_odds(level, threshold, slope=0.7, guess_rate=0.5, lapse_rate=lapse)
        psy.Response("correct", log_odds, observed=correct)
    return model, level, correct


def field_model(n=300, degree=1, seed=0):
    rng = np.random.default_rng(seed)
    reference = rng.uniform(-0.8, 0.8, (n, 2))
    comparison = np.clip(reference + 0.12 * rng.normal(size=(n, 2)), -1, 1)
    distance = np.linalg.norm(comparison - reference, axis=1) / 0.1
    correct = rng.random(n) < 1 - 2 / 3 * np.exp(-(distance**2) / 6)
    with pm.Model(coords={"trial": range(n)}) as model:
        field = psy.WishartProcess("W", input_dim=2, basis_degree=degree)
        psy.Oddity("correct", field, reference, comparison, observed=correct.astype(int), dims="trial")
    return model, field


@pytest.mark.parametrize("method", METHODS)
def test_a_gaussian_posterior_has_its_mean_and_covariance(method):
    model, covariance = regression()
    fit = psy.find_map(model, **QUIET)
    found = psy.posterior(fit, draws=2000, method=method, random_seed=1, **QUIET)
    assert found.method == method
    assert found.is_good
    assert found["slopes"].shape == (2000, 3)
    sd = np.sqrt(np.diag(covariance))
    errors = sd / np.sqrt(found.ess)
    assert np.all(np.abs(found["slopes"].mean(axis=0) - fit["slopes"]) < 4.5 * errors)
    assert np.all(np.abs(found.standard_errors["slopes"] - sd) < 4.5 * errors)
    correlation = np.corrcoef(found["slopes"].T)
    expected = covariance / np.outer(sd, sd)
    np.testing.assert_allclose(correlation, expected, atol=0.1)


@pytest.mark.parametrize("method", METHODS)
def test_a_skewed_posterior_at_an_edge_is_that_of_numerical_integration(method):
    model, level, correct = few_trials()
    found = psy.posterior(psy.find_map(model, **QUIET), draws=4000, method=method, random_seed=2, **QUIET)
    assert found.is_good, found.message
    threshold, lapse = np.linspace(-5, 4, 900), np.linspace(0, 0.4, 400)[1:]
    t, rate = np.meshgrid(threshold, lapse, indexing="ij")
    p = 0.5 + (0.5 - rate[..., None]) * special.expit(4 * 0.7 * (level - t[..., None]))
    log_density = np.log(np.where(correct, p, 1 - p)).sum(axis=-1)
    log_density += stats.norm.logpdf(t) + stats.beta.logpdf(rate, 1, 19)
    mass = np.exp(log_density - log_density.max())
    for name, grid, axis in (("threshold", threshold, 1), ("lapse", lapse, 0)):
        cdf = np.cumsum(mass.sum(axis=axis))
        for q in (0.05, 0.5, 0.95):
            edge = grid[np.searchsorted(cdf / cdf[-1], q)]
            share = np.mean(found[name] < edge)
            assert abs(share - q) < 4.5 * np.sqrt(q * (1 - q) / min(found.ess, 4000)) + 0.005, (name, q, share)


def test_importance_is_taken_where_it_is_good_and_chains_where_not():
    easy = psy.posterior(psy.find_map(regression()[0], **QUIET), random_seed=1, **QUIET)
    assert easy.method == "importance"
    assert easy.message.startswith("Importance sampling around the mode: k-hat is ")
    assert easy.pareto_k < 0.7
    hard = psy.posterior(psy.find_map(field_model()[0], **QUIET), random_seed=1, **QUIET)
    assert hard.method == "hmc"
    assert "Importance sampling was tried first, and its k-hat is" in hard.message
    assert hard.r_hat <= 1.02
    assert hard.ess >= 400


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_field_has_the_posterior_of_nuts():
    model, field = field_model()
    fit = psy.find_map(model, **QUIET)
    ours = psy.posterior(fit, draws=2000, random_seed=3, **QUIET)
    theirs = psy.posterior(fit, draws=600, method="nuts", random_seed=4, **QUIET)
    assert theirs.method == "nuts"
    points = np.array([[0.0, 0.0], [0.5, -0.5]])
    for expression in (field.covariance(points)[..., 0, 0], pm.math.log(field.covariance(points)[..., 1, 1])):
        first, second = ours.evaluate(expression), theirs.evaluate(expression)
        error = np.sqrt(first.var(axis=0) / ours.ess + second.var(axis=0) / max(theirs.ess, 100))
        assert np.all(np.abs(first.mean(axis=0) - second.mean(axis=0)) < 4.5 * error)
        np.testing.assert_allclose(first.std(axis=0), second.std(axis=0), rtol=0.25)


def test_what_is_asked_for_decides_when_chains_end():
    model, field = field_model()
    fit = psy.find_map(model, **QUIET)
    seen = []

    def radii(draws):
        seen.append(draws.n_draws)
        return psy.threshold_contours(draws, field, [[0.0, 0.0]], n_directions=4).radii

    found = psy.posterior(fit, method="hmc", of=radii, random_seed=5, **QUIET)
    # Each draw is looked at once.
    assert sum(seen) >= found.n_draws
    one = psy.posterior(fit, method="hmc", of=field.covariance([[0.0, 0.0]])[0, 0, 0], random_seed=5, **QUIET)
    assert one.is_good
    several = psy.posterior(fit, method="hmc", of=[field.covariance([[0.0, 0.0]])], random_seed=5, **QUIET)
    assert several.is_good


def test_new_data_and_other_seeds_compile_nothing():
    model, _ = field_model()
    fit = psy.find_map(model, **QUIET)
    first = psy.posterior(fit, method="hmc", random_seed=6, **QUIET)
    with count_compilations() as compiled:
        again = psy.posterior(fit, method="hmc", random_seed=6, **QUIET)
        other = psy.posterior(fit, method="hmc", random_seed=7, **QUIET)
    assert compiled == []
    np.testing.assert_array_equal(first["W"], again["W"])
    assert not np.array_equal(first["W"], other["W"])


@pytest.mark.parametrize("draws", [7, 500, 997, 1000])
def test_as_many_draws_are_returned_as_were_asked_for(draws):
    fit = psy.find_map(regression()[0], **QUIET)
    for method in ("hmc", "importance", "laplace"):
        found = psy.posterior(fit, draws=draws, method=method, random_seed=8, **QUIET)
        assert found["slopes"].shape == (draws, 3)
        assert found.loss.shape == (draws,)


def test_losses_are_those_of_the_density():
    model, *_ = few_trials()
    fit = psy.find_map(model, **QUIET)
    objective = psy.compile_objective(model, jacobian=True)
    for method in METHODS:
        found = psy.posterior(fit, draws=40, method=method, random_seed=9, **QUIET)
        expected = [float(objective.value({n: v[i] for n, v in found.unconstrained.items()})) for i in range(40)]
        np.testing.assert_allclose(found.loss, expected, rtol=1e-10)


def test_a_tree_has_the_diagnostics_and_reads_back(tmp_path):
    model, _ = regression()
    found = psy.posterior(psy.find_map(model, **QUIET), method="hmc", random_seed=10, **QUIET)
    tree = found.to_datatree()
    assert tree["posterior"]["slopes"].dims == ("chain", "draw", "predictor")
    assert tree["sample_stats"]["lp"].shape == (20, 50)
    assert tree["sample_stats"].attrs["method"] == "hmc"
    assert tree["sample_stats"].attrs["r_hat"] == found.r_hat
    assert "pareto_k" not in tree["sample_stats"].attrs
    found.save(tmp_path / "posterior.nc")
    with xr.open_datatree(tmp_path / "posterior.nc") as read:
        assert read["sample_stats"].attrs["message"] == found.message
    predicted = pm.sample_posterior_predictive(tree, model=model, random_seed=1, progressbar=False)
    assert predicted["posterior_predictive"]["y"].shape == (20, 50, 50)
    assert " ".join(repr(found).split()).endswith(found.message)


def test_chains_begin_at_all_modes_that_the_starts_have_found():
    rng = np.random.default_rng(1)
    with pm.Model() as model:
        mu = pm.Normal("mu", 0, 10, shape=2)
        pm.Normal("y", pm.math.abs(mu), 0.1, observed=rng.normal(5, 0.1, (20, 2)))
    fit = psy.find_map(model, starts=16, init="prior", random_seed=1, **QUIET)
    with pytest.warns(UserWarning, match="That is not enough.* found 4 modes, at which 5, 5, 5, 5 chains began"):
        found = psy.posterior(fit, random_seed=1, **QUIET)
    np.testing.assert_array_equal((found["mu"] > 0).mean(axis=0), 0.5)
    assert not found.is_good
    with pytest.warns(UserWarning, match="They are of one of the 4 modes"):
        assert not psy.posterior(fit, method="importance", random_seed=1, **QUIET).is_good
    # From one start there is one mode, of which all diagnostics are good.
    one = psy.find_map(model, initvals={"mu": [4.0, 4.0]}, **QUIET)
    assert psy.posterior(one, random_seed=1, **QUIET).is_good


def test_ends_of_searches_that_differ_by_a_rotation_are_one_mode():
    model, _ = field_model()
    fit = psy.find_map(model, starts=4, init="prior", random_seed=1, **QUIET)
    near = find_gaussian(fit)
    best = np.isclose(fit.starts.loss, fit.loss, atol=1e-6, rtol=0)
    assert best.sum() > 1
    assert np.abs(np.diff(fit.starts.unconstrained["W_z"][best], axis=0)).max() > 0.1
    modes, shares = find_modes(fit, near)
    assert len(modes) == len(np.unique(fit.starts.loss.round(3)))
    assert shares.sum() == pytest.approx(1)
    np.testing.assert_allclose(shares[1:], np.exp([m.log_evidence - near.log_evidence for m in modes[1:]]), rtol=0.01)


def test_poor_draws_are_returned_with_a_warning():
    with pm.Model() as funnel:
        scale = pm.Normal("scale", 0, 3)
        pm.Normal("x", 0, pm.math.exp(scale), shape=30)
        pm.Normal("y", scale, 3, observed=0.0)
    with pytest.warns(UserWarning, match="That is not enough"):
        found = psy.posterior(psy.find_map(funnel, **QUIET), method="hmc", random_seed=1, **QUIET)
    assert not found.is_good
    assert found["x"].shape == (1000, 30)


def test_ctrl_c_keeps_the_draws_made_so_far():
    fit = psy.find_map(regression()[0], **QUIET)
    calls = []

    def interrupt(draws):
        calls.append(draws.n_draws)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return draws["slopes"]

    with pytest.warns(UserWarning, match="They were interrupted"):
        found = psy.posterior(fit, method="hmc", of=interrupt, draws=800, random_seed=1, **QUIET)
    assert found["slopes"].shape == (800, 3)


def test_bad_input_is_said():
    model, _ = regression()
    fit = psy.find_map(model, **QUIET)
    with pytest.raises(ValueError, match="draws is 0. Pass a whole number of at least 1"):
        psy.posterior(fit, draws=0)
    with pytest.raises(
        ValueError, match="method is 'mcmc'. Pass one of 'auto', 'laplace', 'importance', 'hmc', 'nuts'"
    ):
        psy.posterior(fit, method="mcmc")
    with pytest.raises(TypeError, match="Expected a MAPResult, got dict"):
        psy.posterior({"a": 1})
    assert psy.posterior(model, random_seed=1, **QUIET)["slopes"].shape == (1000, 3)


@pytest.mark.parametrize(("scale", "shape"), [(0.5, 0.75), (0.7, 0.51), (2.0, None)])
def test_k_hat_is_that_of_the_weights_tail(scale, shape):
    """Weights N(0, 1) / N(0, scale): for scale < 1 their tail has the shape 1 - scale^2, for > 1 they are bounded."""
    noise = np.random.default_rng(3).normal(0, scale, 20_000)
    weights, k = smooth_weights(stats.norm.logpdf(noise) - stats.norm.logpdf(noise, 0, scale))
    assert weights.sum() == pytest.approx(1)
    if shape is None:
        assert k < 0
        assert np.sum(weights * noise**2) == pytest.approx(1, abs=0.05)
    else:
        assert k == pytest.approx(shape, abs=0.06)


def test_k_hat_of_laplace_is_large_where_the_gaussian_is_narrower_than_the_posterior():
    with pm.Model() as heavy:
        x = pm.StudentT("x", nu=1, mu=0, sigma=1, shape=6)
        pm.Potential("nothing", 0 * pm.math.sum(x))
    with pm.Model() as light:
        # The density falls faster than that of the Gaussian at its mode.
        x = pm.Normal("x", 0, 1, shape=3)
        pm.Potential("fourth power", -pm.math.sum(x**4) / 10)
    fits = psy.find_map(heavy, initvals={"x": np.full(6, 0.1)}, **QUIET), psy.find_map(light, **QUIET)
    with pytest.warns(UserWarning, match=r"k-hat is .*, above 0.7"):
        assert psy.posterior(fits[0], method="laplace", random_seed=1, **QUIET).pareto_k > 0.7
    wide = psy.laplace(fits[1], random_seed=1)
    assert wide.pareto_k < 0.3
    # Weights would mend it; draws without them are too wide.
    assert not wide.is_near
    assert "weighted by the posterior the draws count for only" in wide.message


@pytest.mark.parametrize("method", ["auto", "hmc"])
def test_ranks_of_the_truth_among_draws_are_uniform(method):
    """Simulation-based calibration (Talts, Betancourt, Simpson, Vehtari and Gelman, 2018)."""
    n, draws, level = 80, 99, np.tile(np.linspace(-1, 1, 6), 10)
    with pm.Model(coords={"trial": range(60)}) as model:
        threshold, width = pm.Normal("threshold", 0, 0.5), pm.LogNormal("width", 0, 0.5)
        lapse = pm.Beta("lapse", 1, 19)
        log_odds = psy.psychometric_log_odds(level, threshold, width=width, guess_rate=0.5, lapse_rate=lapse)
        psy.Response("y", log_odds, observed=pm.Data("answers", np.zeros(60, int), dims="trial"), dims="trial")
    names = "threshold", "width", "lapse"
    *prior, p = pm.draw([*(model[name] for name in names), pm.math.sigmoid(log_odds)], draws=n, random_seed=1)
    answers = (np.random.default_rng(2).random(p.shape) < p).astype(int)
    objective, ranks = psy.compile_objective(model), []
    for i in range(n):
        fit = psy.find_map(objective.with_data(answers=answers[i]), **QUIET)
        found = psy.posterior(fit, draws=draws, method=method, random_seed=i, **QUIET)
        ranks.append([np.sum(found[name] < truth[i]) for name, truth in zip(names, prior, strict=True)])
    for counts in np.transpose(ranks):
        observed, _ = np.histogram(counts, bins=8, range=(0, draws + 1))
        # Once in a thousand times by chance, of each.
        assert stats.chisquare(observed).pvalue > 1e-3, observed
