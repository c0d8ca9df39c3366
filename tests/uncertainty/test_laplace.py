"""Laplace's approximation against closed forms, numerical integration and other parameterisations."""

import sys
from dataclasses import replace

import arviz_stats
import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
import pytest
from compilations import count_compilations
from scipy import integrate, special, stats

import pm_psyphy as psy

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 3))
Y = X @ [1.0, 2.0, 3.0] + RNG.normal(size=40)


@pytest.fixture(scope="module")
def regression():
    with pm.Model(coords={"predictor": ["a", "b", "c"]}) as model:
        slopes = pm.Normal("slopes", 0, 2, dims="predictor")
        pm.Deterministic("total", slopes.sum())
        pm.Normal("y", X @ slopes, 1.0, observed=Y)
    return psy.laplace(psy.find_map(model), draws=4000, random_seed=1)


def test_a_gaussian_posterior_is_met_exactly(regression):
    covariance = np.linalg.inv(X.T @ X + np.eye(3) / 4)
    np.testing.assert_allclose(regression.mode["slopes"], covariance @ X.T @ Y, rtol=1e-9)
    np.testing.assert_allclose(regression.covariance, covariance, rtol=1e-9)
    np.testing.assert_allclose(regression.standard_errors["slopes"], np.sqrt(np.diag(covariance)), rtol=1e-9)
    np.testing.assert_allclose(regression.standard_errors["total"], np.sqrt(covariance.sum()), rtol=1e-9)
    marginal = stats.multivariate_normal(np.zeros(40), 4 * X @ X.T + np.eye(40))
    np.testing.assert_allclose(regression.log_evidence, marginal.logpdf(Y), atol=1e-6)
    assert regression.pareto_k == -np.inf
    assert (regression.n_flat, regression.method) == (0, "exact")


def test_draws_are_those_of_the_gaussian_by_the_users_names(regression):
    assert list(regression) == ["slopes", "total"]
    assert regression["slopes"].shape == (4000, 3)
    np.testing.assert_allclose(regression["total"], regression["slopes"].sum(axis=1), rtol=1e-12)
    error = np.sqrt(np.diag(regression.covariance) / 4000)
    assert np.all(np.abs(regression["slopes"].mean(axis=0) - regression.mode["slopes"]) < 4 * error)
    c = regression.covariance
    error = np.sqrt((np.outer(np.diag(c), np.diag(c)) + c**2) / 4000)
    assert np.all(np.abs(np.cov(regression["slopes"].T) - c) < 4 * error)


def test_any_expression_is_computed_for_all_draws(regression):
    model = regression.objective.model
    squares, mean = regression.evaluate([model["slopes"] ** 2, (X @ model["slopes"]).mean()])
    np.testing.assert_allclose(squares, regression["slopes"] ** 2)
    np.testing.assert_allclose(mean, regression["slopes"] @ X.mean(axis=0))
    with pytest.raises(ValueError, match="draws random numbers"):
        regression.evaluate(pt.random.normal(model["total"], 1.0))


def test_arviz_reads_the_draws(regression):
    tree = regression.to_datatree(log_likelihood=True)
    assert tree["posterior"]["slopes"].dims == ("chain", "draw", "predictor")
    assert list(arviz_stats.summary(tree).index) == ["slopes[a]", "slopes[b]", "slopes[c]", "total"]
    expected = stats.norm(regression["slopes"] @ X.T, 1).logpdf(Y)
    np.testing.assert_allclose(tree["log_likelihood"]["y"].to_numpy()[0], expected, rtol=1e-9)
    assert np.isfinite(arviz_stats.loo(tree).elpd)


def gamma_poisson(counts):
    with pm.Model() as model:
        rate = pm.Gamma("rate", 2.0, 1.0)
        pm.Poisson("count", rate, observed=counts)
    return model


def test_the_mode_is_that_of_the_unconstrained_space():
    counts = np.array([3, 5, 4, 7, 2])
    shape, scale = 2 + counts.sum(), 1 + len(counts)
    fit = psy.find_map(gamma_poisson(counts))
    posterior = psy.laplace(fit)
    np.testing.assert_allclose(fit["rate"], (shape - 1) / scale, rtol=1e-6)
    # In log rate the density is proportional to exp(shape * log rate - scale * rate).
    np.testing.assert_allclose(posterior.mode["rate_log__"], np.log(shape / scale), rtol=1e-9)
    np.testing.assert_allclose(posterior.covariance, [[1 / shape]], rtol=1e-8)
    np.testing.assert_allclose(posterior.standard_errors["rate"], np.sqrt(shape) / scale, rtol=1e-8)
    exact = special.gammaln(shape) - shape * np.log(scale) - special.gammaln(counts + 1).sum()
    stirling = 0.5 * np.log(2 * np.pi / shape) + shape * np.log(shape) - shape
    np.testing.assert_allclose(posterior.log_evidence, exact + stirling - special.gammaln(shape), rtol=1e-10)


def test_two_parameters_against_numerical_integration():
    y = Y[:30]
    with pm.Model() as model:
        mu, sigma = pm.Normal("mu", 0, 5), pm.HalfNormal("sigma", 5)
        pm.Normal("y", mu, sigma, observed=y)
    posterior = psy.laplace(psy.find_map(model), draws=20_000, random_seed=2)

    mu, log_sigma = np.meshgrid(np.linspace(-6, 8, 400), np.linspace(-0.5, 3.5, 400), indexing="ij")
    sigma = np.exp(log_sigma)
    log_density = stats.norm(0, 5).logpdf(mu) + stats.halfnorm(0, 5).logpdf(sigma) + log_sigma
    log_density += sum(stats.norm(mu, sigma).logpdf(value) for value in y)
    density = np.exp(log_density - posterior.log_evidence) * (14 / 399) * (4 / 399)
    total = density.sum()
    mean = np.sum(sigma * density) / total
    # Laplace's error is of the order 1 / N, here 1 / 30.
    assert abs(np.log(total)) < 1 / 30
    place = list(posterior.mode).index("sigma_log__")
    of_log_normal = np.exp(posterior.mode["sigma_log__"] + posterior.covariance[place, place] / 2)
    assert abs(of_log_normal / mean - 1) < 1 / 30
    error = posterior["sigma"].std() / np.sqrt(20_000)
    assert abs(posterior["sigma"].mean() - of_log_normal) < 4 * error


def test_many_data_make_a_good_approximation():
    rng = np.random.default_rng(5)
    x = rng.normal(size=2000)
    with pm.Model() as model:
        logit = pm.Normal("intercept", 0, 2) + pm.Normal("slope", 0, 2) * x
        pm.Bernoulli("y", logit_p=logit, observed=rng.random(2000) < special.expit(x))
    posterior = psy.laplace(psy.find_map(model), random_seed=6)
    assert posterior.pareto_k < 0.7
    assert "the posterior is near this Gaussian" in posterior.message


def test_another_parameterisation_of_the_same_model_gives_the_same():
    with pm.Model() as transformed:
        pm.Normal("y", 0, pm.HalfNormal("sigma", 2.0), observed=Y)
    with pm.Model() as by_hand:
        log_sigma = pm.Flat("log_sigma")
        sigma = pm.Deterministic("sigma", pt.exp(log_sigma))
        pm.Potential("prior", pm.logp(pm.HalfNormal.dist(2.0), sigma) + log_sigma)
        pm.Normal("y", 0, sigma, observed=Y)
    one, other = (psy.laplace(psy.find_map(model), random_seed=3) for model in (transformed, by_hand))
    np.testing.assert_allclose(one.log_evidence, other.log_evidence, rtol=1e-10)
    np.testing.assert_allclose(one["sigma"], other["sigma"], rtol=1e-6)


@pytest.mark.parametrize(("d", "extra_dims"), [(1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (3, 0), (3, 1)])
def test_the_orthogonal_freedom_of_a_wishart_process_is_counted(d, extra_dims):
    rng = np.random.default_rng(1)
    x = rng.uniform(-0.7, 0.7, (40, d))
    with pm.Model() as model:
        field = psy.WishartProcess("W", input_dim=d, basis_degree=0, extra_dims=extra_dims, diag_term=1e-3)
        distance = psy.tasks.discriminability(field, x, x + rng.uniform(-0.2, 0.2, x.shape))
        psy.Response("y", psy.tasks.mafc_log_odds(distance), observed=rng.integers(0, 2, 40), chance=1 / 2)
    posterior = psy.laplace(psy.find_map(model), draws=50)
    # With all weights of rank r, the orthogonal maps of E dimensions that leave them are those of E - r.
    e, r = d + extra_dims, min(d, d + extra_dims)
    assert posterior.n_flat == e * (e - 1) // 2 - (e - r) * (e - r - 1) // 2
    assert posterior.factor.shape == (d * e, d * e - posterior.n_flat)


@pytest.fixture(scope="module")
def field_and_fit():
    rng = np.random.default_rng(2)
    x = rng.uniform(-0.7, 0.7, (300, 2))
    with pm.Model() as prior:
        psy.WishartProcess("W", input_dim=2, basis_degree=1)
    truth = psy.WishartProcess("truth", input_dim=2, basis_degree=1, weights=pm.draw(prior["W"], random_seed=3))
    comparison = psy.place_comparisons(truth, x, rng.uniform(0.5, 4, 300), random_seed=4)
    trials = psy.simulate_trials(truth, x, comparison, random_seed=5)
    with pm.Model() as model:
        field = psy.WishartProcess("W", input_dim=2, basis_degree=1, diag_term=1e-3)
        psy.Oddity("y", field, trials.reference, trials.comparison, observed=trials.response)
    fit = psy.find_map(model)
    return field, fit, psy.laplace(fit, draws=60, random_seed=6)


def test_thresholds_are_read_off_the_draws(field_and_fit):
    field, fit, posterior = field_and_fit
    grid = np.array([[0.0, 0.0], [0.3, -0.3]])
    contours = psy.threshold_contours(posterior, field, grid, n_directions=4)
    single = psy.threshold_contours(fit, field, grid, n_directions=4)
    assert contours.radii.shape == (60, 2, 4)
    # The mode of a threshold lies below its mean, so that of 60 draws only their whole range surely holds it.
    assert np.all((contours.radii.min(axis=0) < single.radii) & (single.radii < contours.radii.max(axis=0)))


def test_the_hessian_of_the_oddity_likelihood_is_that_of_its_gradient(field_and_fit):
    _, fit, posterior = field_and_fit
    assert posterior.n_flat == 3

    def gradient(vector):
        return np.asarray(fit.objective.value_and_grad({"W_z": vector.reshape(2, 2, 2, 3)})[1]["W_z"]).ravel()

    mode, step = posterior.mode["W_z"].ravel(), 1e-4
    near, far = (np.array([gradient(mode + k * e) - gradient(mode - k * e) for e in step * np.eye(24)]) for k in (1, 2))
    hessian = (8 * near - far) / (12 * step)
    # H C H = H for the pseudo-inverse C.
    np.testing.assert_allclose(hessian @ posterior.covariance @ hessian, hessian, atol=1e-6 * np.abs(hessian).max())


def test_a_model_without_second_derivatives_takes_central_differences():
    with pm.Model() as model:
        mu = pm.Normal("mu", 0.5, 1)
        # JAX has no derivative of this Bessel function, so that the host runs it.
        pm.Normal("y", pt.j0(mu), 0.5, observed=[0.3, 0.4])
    with pytest.warns(UserWarning, match="not in JAX"):
        fit = psy.find_map(model)
    posterior = psy.laplace(fit)
    assert posterior.method == "central differences"

    def loss(mu):
        return 0.5 * (mu - 0.5) ** 2 + np.sum((special.j0(mu) - [0.3, 0.4]) ** 2) / 0.5

    mode, h = float(posterior.mode["mu"]), 1e-4
    curvature = (loss(mode + h) - 2 * loss(mode) + loss(mode - h)) / h**2
    np.testing.assert_allclose(posterior.covariance, [[1 / curvature]], rtol=1e-5)


def test_float32_models_work():
    with pytensor.config.change_flags(floatX="float32"), pm.Model() as model:
        mu = pm.Normal("mu", 0, np.float32(10))
        pm.Normal("y", mu, np.float32(1), observed=Y.astype("float32"))
        posterior = psy.laplace(psy.find_map(model))
        assert posterior["mu"].dtype == np.float32
    np.testing.assert_allclose(posterior.covariance, [[1 / (40 + 0.01)]], rtol=1e-4)


@pytest.mark.parametrize("d", [1, 2])
def test_a_float32_field_has_the_flat_directions_of_a_float64_one(d):
    """Rounding hides what the last steps lower the loss by, and off the mode rotations have a curvature."""
    rng = np.random.default_rng(7)
    reference = rng.uniform(-0.5, 0.5, (2000, d))
    comparison = reference + rng.uniform(-0.4, 0.4, (2000, d))
    correct = rng.random(2000) < 1 - 2 / 3 * np.exp(-((np.linalg.norm(comparison - reference, axis=1) / 0.3) ** 2))
    found = {}
    for floats in ("float64", "float32"):
        with pytensor.config.change_flags(floatX=floats), pm.Model() as model:
            field = psy.WishartProcess("W", input_dim=d, basis_degree=1)
            psy.Oddity("y", field, reference.astype(floats), comparison.astype(floats), observed=correct)
            found[floats] = psy.laplace(psy.find_map(model), random_seed=8)
    for posterior in found.values():
        assert posterior.n_flat == d * (d + 1) // 2
    one, other = found.values()
    assert abs(one.log_evidence - other.log_evidence) < 0.01


def test_a_poor_approximation_says_so():
    with pm.Model() as model:
        pm.Normal("y", pm.Normal("mu", 0, 5), pm.HalfNormal("sigma", 5), observed=Y[:3])
    posterior = psy.laplace(psy.find_map(model), random_seed=4)
    assert posterior.pareto_k > 0.7
    assert "above 0.7: the posterior is not near this Gaussian" in posterior.message


def test_few_draws_tell_nothing_of_the_approximation():
    with pm.Model() as model:
        pm.Poisson("y", pm.Gamma("rate", 2, 1), observed=[1, 4])
    assert psy.laplace(psy.find_map(model), draws=20, random_seed=1).pareto_k == np.inf


def test_a_saddle_is_an_error_with_advice():
    with pm.Model() as model:
        a = pm.Flat("a")
        pm.Potential("two_modes", -((a**2 - 4) ** 2))
    # From a saddle exactly, one fit alone would try other starts.
    saddle = psy.find_map(model, initvals={"a": 0.0}, starts=2, init="jitter", random_seed=1)
    saddle = replace(saddle, unconstrained={"a": np.array(0.0)})
    assert abs(psy.find_map(model, initvals={"a": 0.0})["a"]) == pytest.approx(2)
    with pytest.raises(ValueError, match=r"at a saddle: the density grows from there along 'a'.*starts=8"):
        psy.laplace(saddle)
    assert psy.laplace(psy.find_map(model, initvals={"a": 1.0})).covariance == pytest.approx(1 / 32)


def test_no_mode_in_the_unconstrained_space_is_an_error():
    with pm.Model() as model:
        sigma = pm.HalfFlat("sigma")
        # Its density of sigma has a mode at 1, but times sigma, the Jacobian, it grows without end.
        pm.Potential("slow", -pt.log1p((sigma - 1) ** 2) / 4)
    fit = psy.find_map(model, initvals={"sigma": 1.2})
    np.testing.assert_allclose(fit["sigma"], 1.0, atol=1e-5)
    with pytest.raises(ValueError, match="No mode of the density in the unconstrained space"):
        psy.laplace(fit)


@pytest.mark.parametrize("extra_dims", [0, 2])
def test_the_evidence_of_a_wishart_process_counts_its_rotations(extra_dims):
    rng = np.random.default_rng(0)
    comparison = rng.uniform(0.05, 0.3, (2000, 1))
    known = psy.WishartProcess("known", input_dim=1, basis_degree=0, extra_dims=0, weights=[[[0.08]]])
    trials = psy.simulate_trials(known, np.zeros_like(comparison), comparison, random_seed=1)
    with pm.Model() as model:
        field = psy.WishartProcess("W", input_dim=1, basis_degree=0, extra_dims=extra_dims, variance_scale=0.01)
        psy.Oddity("correct", field, trials.reference, trials.comparison, observed=trials.response)
    posterior = psy.laplace(psy.find_map(model))
    n = extra_dims + 1
    assert posterior.n_flat == n - 1
    assert posterior.rotating == ("W_z",)
    # Only the length of the weights matters; the rest is the surface of a sphere.
    length = np.linalg.norm(posterior.mode["W_z"])
    nodes = length * np.linspace(0.7, 1.3, 400)
    losses = [float(posterior.objective.value({"W_z": r * np.eye(n)[0][None, None]})) for r in nodes]
    sphere = 2 * np.pi ** (n / 2) / special.gamma(n / 2)
    density = sphere * nodes ** (n - 1) * np.exp(posterior.loss - np.array(losses))
    expected = np.log(integrate.simpson(density, nodes)) - posterior.loss
    # Laplace errs by a few of the reciprocal of the number of trials.
    np.testing.assert_allclose(posterior.log_evidence, expected, atol=20 / 2000)


def test_nothing_is_compiled_twice(regression):
    fit = psy.find_map(regression.objective.model)
    expression = regression.objective.model["slopes"].sum()
    for seed in (1, 2):
        with count_compilations() as compiled:
            posterior = psy.laplace(fit, draws=50, random_seed=seed)
            _ = posterior["total"], posterior.standard_errors, posterior.pareto_k, posterior.log_likelihood()
            posterior.evaluate([expression, pt.as_tensor(1.5)])
    assert not compiled


def few_data():
    """More slopes than data: the prior, and what the data tell of a few combinations."""
    rng = np.random.default_rng(7)
    x = rng.normal(size=(30, 300)) / 10
    with pm.Model() as model:
        slopes = pm.Normal("slopes", 0, np.exp(rng.normal(0, 0.5, 300)), shape=300)
        pm.Deterministic("total", slopes.sum())
        pm.Bernoulli("y", logit_p=x @ slopes, observed=rng.integers(0, 2, 30))
    return model


def own_data():
    """Groups with data of their own, whose mean and spread they share."""
    rng = np.random.default_rng(8)
    group = rng.integers(300, size=6000)
    with pm.Model() as model:
        effects = pm.Normal("mean", 0, 1) + pm.HalfNormal("spread", 1) * pm.Normal("offsets", 0, 1, shape=300)
        chance = special.expit(rng.normal(size=300)[group])
        pm.Bernoulli("y", logit_p=effects[group], observed=rng.random(6000) < chance)
    return model


def flat_data():
    """Two intercepts of which the data tell the sum only."""
    rng = np.random.default_rng(9)
    x = rng.normal(size=(30, 300)) / 10
    with pm.Model() as model:
        level = pm.Flat("a") + 2 * pm.Flat("b")
        pm.Normal("y", x @ pm.Normal("slopes", 0, 1, shape=300) + level, 0.5, observed=rng.normal(size=30))
    return model


@pytest.mark.parametrize(("build", "n_flat"), [(few_data, 0), (own_data, 0), (flat_data, 1)])
def test_many_parameters_take_a_diagonal_plus_few_directions(monkeypatch, build, n_flat):
    fit = psy.find_map(build())
    whole = psy.laplace(fit, draws=2000, random_seed=1)
    monkeypatch.setattr(sys.modules["pm_psyphy.uncertainty.hessian_spectrum"], "MOST_PARAMETERS", 100)
    low = psy.laplace(fit, draws=2000, random_seed=1)
    assert "diagonal plus rank" in low.method
    assert low.n_flat == whole.n_flat == n_flat
    # Eigenvalues that are left out differ from 1 by up to 0.01.
    deviations = np.sqrt(np.diag(whole.covariance))
    off = (low.covariance - whole.covariance) / np.outer(deviations, deviations)
    assert np.abs(off).max() < 0.01
    np.testing.assert_allclose(low.log_evidence, whole.log_evidence, atol=1e-3)
    for name in whole.mode:
        np.testing.assert_allclose(low.mode[name], whole.mode[name], atol=1e-6)
    for name in whole:
        np.testing.assert_allclose(low.standard_errors[name], whole.standard_errors[name], rtol=0.01)
        # Of 2,000 draws a standard deviation errs by 1.6 %, and 300 of them are compared.
        np.testing.assert_allclose(low[name].std(axis=0), low.standard_errors[name], rtol=0.08)
    assert low.factor.shape == whole.factor.shape
    np.testing.assert_allclose(low.factor.T @ low.flat, 0, atol=1e-10)


def test_refits_and_chains_run_in_coordinates_of_few_directions(monkeypatch):
    monkeypatch.setattr(sys.modules["pm_psyphy.uncertainty.hessian_spectrum"], "MOST_PARAMETERS", 100)
    fit = psy.find_map(few_data())
    assert all(np.isfinite(psy.bootstrap(fit, n_refits=3, method="parametric", progressbar=False).loss))
    tree = psy.sample(fit, draws=300, tune=100, chains=2, random_seed=0, progressbar=False)
    low = psy.laplace(fit)
    ratio = tree["posterior"]["slopes"].std(("chain", "draw")).to_numpy() / low.standard_errors["slopes"]
    assert abs(ratio.mean() - 1) < 0.1
    with pytest.raises(ValueError, match="flat along 1 direction of 302 parameters at the mode"):
        psy.sample(psy.find_map(flat_data()))


def test_a_hessian_that_would_not_fit_is_refused(monkeypatch, regression):
    monkeypatch.setattr(sys.modules["pm_psyphy.uncertainty.hessian_spectrum"], "MOST_PARAMETERS", 2)
    with pytest.raises(
        ValueError, match="A whole Hessian is computed for at most 2, and this one is not close to a diagonal"
    ):
        psy.laplace(psy.find_map(regression.objective.model))


def test_bad_input_is_said():
    fit = psy.find_map(gamma_poisson([1, 2, 3]))
    with pytest.raises(TypeError, match="Expected a MAPResult, got Model. Pass what find_map returns"):
        psy.laplace(fit.objective.model)
    with pytest.raises(ValueError, match="draws is 0. Pass a whole number of at least 1"):
        psy.laplace(fit, draws=0)
    with pytest.warns(UserWarning, match="Not converged"):
        rough = psy.find_map(gamma_poisson([1, 2, 3]), optimizer="sgd", steps=2)
    with pytest.raises(ValueError, match=r"has not converged.*find_map\(model, initvals=fit.unconstrained\)"):
        psy.laplace(rough)
    with pm.Model() as batches:
        pm.Normal("y", pm.Normal("mu"), observed=pm.Minibatch(Y, batch_size=10), total_size=40)
    random = psy.find_map(batches, steps=5)
    with pytest.raises(ValueError, match=r"pm.Minibatch.*Fit the model with all its data"):
        psy.laplace(random)
    with pytest.raises(KeyError, match="'sigma' is not in these draws, which have rate"):
        psy.laplace(fit)["sigma"]
