"""NUTS against closed forms, against pm.sample, and against Laplace where that is right."""

import sys

import arviz as az
import numpy as np
import pymc as pm
import pytensor
import pytest
from compilations import count_compilations
from scipy import integrate

import pm_psyphy as psy


def summarise(tree, name):
    """Return mean, standard deviation, and the standard errors of both, by ArviZ."""
    table = az.summary(tree, var_names=[name], round_to="none")
    return (table[c].to_numpy(float) for c in ("mean", "sd", "mcse_mean", "mcse_sd"))


def regression():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 3)) @ [[1, 0.9, 0], [0, 0.4, 0], [0, 0, 20]]
    with pm.Model(coords={"predictor": list("abc"), "trial": range(50)}) as model:
        slopes = pm.Normal("slopes", 0, 2, dims="predictor")
        noise = np.asarray(0.7, pytensor.config.floatX)
        observed = rng.normal(size=50).astype(pytensor.config.floatX)
        pm.Normal("y", x.astype(pytensor.config.floatX) @ slopes, noise, observed=observed, dims="trial")
    return model, np.linalg.inv(x.T @ x / 0.49 + np.eye(3) / 4)


@pytest.mark.parametrize("floats", ["float64", "float32"])
def test_a_gaussian_posterior_has_its_mean_and_covariance(floats: str):
    with pytensor.config.change_flags(floatX=floats):
        model, covariance = regression()
        fit = psy.find_map(model, progressbar=False)
        tree = psy.sample(fit, random_seed=1, progressbar=False)
    mean, sd, error, error_of_sd = summarise(tree, "slopes")
    assert np.all(np.abs(mean - fit["slopes"]) < 4 * error)
    assert np.all(np.abs(sd - np.sqrt(np.diag(covariance))) < 4 * error_of_sd)
    # Its coordinates leave nothing to tune but the step size.
    assert np.median(tree["sample_stats"]["n_steps"]) <= 7
    assert tree["posterior"]["slopes"].dtype == floats
    assert tree["posterior"]["slopes"].dims == ("chain", "draw", "predictor")
    assert set(tree["sample_stats"].data_vars) == {
        "acceptance_rate", "diverging", "energy", "lp", "n_steps", "step_size", "tree_depth",
    }  # fmt: skip
    assert abs(float(tree["sample_stats"]["acceptance_rate"].mean()) - 0.8) < 0.15


def schools():
    with pm.Model() as model:
        mu, tau = pm.Normal("mu", 0, 5), pm.HalfNormal("tau", 5)
        theta = pm.Deterministic("theta", mu + tau * pm.Normal("z", shape=8))
        pm.Normal("y", theta, [15, 10, 16, 11, 9, 11, 10, 18], observed=[28, 8, -3, 7, -1, 1, 18, 12])
    return model


@pytest.mark.usefixtures("users_mode")
def test_it_agrees_with_pm_sample_where_laplace_does_not():
    model = schools()
    posterior = psy.laplace(psy.find_map(model, progressbar=False), random_seed=0)
    ours = psy.sample(posterior, target_accept=0.95, init="pathfinder", random_seed=1, progressbar=False)
    theirs = pm.sample(model=model, chains=4, target_accept=0.95, random_seed=2, progressbar=False)
    for name in ("mu", "tau", "theta"):
        mean, sd, error, error_of_sd = summarise(ours, name)
        mean_2, sd_2, error_2, error_of_sd_2 = summarise(theirs, name)
        assert np.all(np.abs(mean - mean_2) < 4 * np.hypot(error, error_2))
        assert np.all(np.abs(sd - sd_2) < 4 * np.hypot(error_of_sd, error_of_sd_2))
    # Laplace's mode of tau is far from its mean, and it says so.
    assert posterior.efficiency < 0.9
    assert "the posterior is not near this Gaussian" in posterior.message
    mean, _, error, _ = summarise(ours, "tau")
    assert np.abs(posterior["tau"].mean() - mean) > 4 * error


def wishart(extra_dims):
    """An observer of one dimension with the same noise everywhere: E weights, of which only the length matters."""
    rng = np.random.default_rng(2)
    comparison = rng.uniform(0.1, 0.5, (25, 1))
    field = psy.WishartProcess("true", input_dim=1, basis_degree=0, extra_dims=0, weights=[[[0.1]]])
    trials = psy.simulate_trials(field, np.zeros_like(comparison), comparison, random_seed=rng)
    with pm.Model() as model:
        field = psy.WishartProcess("W", input_dim=1, basis_degree=0, extra_dims=extra_dims, variance_scale=0.03)
        pm.Deterministic("log_noise", pm.math.log(field.covariance(np.zeros((1, 1)))[0, 0, 0]))
        psy.Oddity("correct", field, trials.reference, trials.comparison, observed=trials.response)
    return model


@pytest.mark.parametrize("extra_dims", [0, 2])
def test_rotations_that_are_not_walked_along_are_counted(extra_dims):
    fit = psy.find_map(wishart(extra_dims), progressbar=False)
    tree = psy.sample(fit, target_accept=0.95, random_seed=3, progressbar=False)
    n = extra_dims + 1
    direction = np.eye(n)[0]

    def density(length):
        """Of the length of the weights: n - 1 of their dimensions are rotations."""
        loss = fit.objective.value({"W_z": (length * direction)[None, None]})
        return length ** (n - 1) * np.exp(fit.loss - float(loss))

    top = 6 * np.linalg.norm(fit["W_z"])
    nodes = np.linspace(1e-3, top, 800)
    values = np.array([density(length) for length in nodes])
    noise = np.log(0.03 * nodes**2 + 1e-6)
    volume = integrate.simpson(values, nodes)
    expected = integrate.simpson(values * noise, nodes) / volume
    spread = np.sqrt(integrate.simpson(values * (noise - expected) ** 2, nodes) / volume)
    mean, sd, error, error_of_sd = summarise(tree, "log_noise")
    assert np.abs(mean[0] - expected) < 4 * error[0]
    assert np.abs(sd[0] - spread) < 4 * error_of_sd[0]


def test_weights_are_all_rotated_like_those_of_the_fit():
    rng = np.random.default_rng(4)
    reference = rng.uniform(-0.8, 0.8, (100, 1))
    field = psy.WishartProcess("true", input_dim=1, basis_degree=1, extra_dims=0, weights=[[[0.08]], [[0.03]]])
    comparison = psy.place_comparisons(field, reference, rng.uniform(1, 4, 100), random_seed=rng)
    trials = psy.simulate_trials(field, reference, comparison, random_seed=rng)
    with pm.Model() as model:
        field = psy.WishartProcess("W", input_dim=1, basis_degree=1, extra_dims=1)
        psy.Oddity("correct", field, trials.reference, trials.comparison, observed=trials.response)
    fit = psy.find_map(model, progressbar=False)
    tree = psy.sample(fit, draws=400, tune=300, target_accept=0.9, random_seed=5, progressbar=False)
    assert np.all(az.rhat(tree["posterior"].dataset[["W_z"]])["W_z"] < 1.02)
    # What rotates the mode changes no draw: W0' W is symmetric.
    weights = tree["posterior"]["W_z"].to_numpy().reshape(-1, 2, 2)
    across = fit["W_z"].reshape(2, 2).T @ weights
    np.testing.assert_allclose(across[:, 0, 1], across[:, 1, 0], atol=1e-5)


def test_draws_can_be_read_back_to_evaluate_expressions():
    model, _ = regression()
    fit = psy.find_map(model, progressbar=False)
    tree = psy.sample(fit, draws=30, tune=50, chains=2, random_seed=1, progressbar=False)
    draws = psy.Draws.from_datatree(fit.objective, tree)
    found = draws.evaluate(model["slopes"].sum())
    np.testing.assert_allclose(found.reshape(2, 30), tree["posterior"]["slopes"].sum("predictor"))
    with pytest.raises(ValueError, match="has the groups posterior, and no unconstrained_posterior"):
        psy.Draws.from_datatree(fit.objective, tree.filter(lambda node: node.name == "posterior"))


def test_the_same_seed_gives_the_same_draws_and_compiles_once():
    model, _ = regression()
    fit = psy.find_map(model, progressbar=False)
    settings = {"draws": 20, "tune": 100, "chains": 2, "progressbar": False}
    first = psy.sample(fit, random_seed=1, **settings)
    with count_compilations() as compiled:
        again, other = (psy.sample(fit, random_seed=seed, **settings) for seed in (1, 2))
    assert not compiled
    np.testing.assert_array_equal(first["posterior"]["slopes"], again["posterior"]["slopes"])
    assert not np.array_equal(first["posterior"]["slopes"], other["posterior"]["slopes"])


def test_bad_input_is_said(monkeypatch):
    model, _ = regression()
    fit = psy.find_map(model, progressbar=False)
    for settings, message in (
        ({"draws": 0}, "draws is 0. Pass a whole number of at least 1"),
        ({"tune": 5}, "tune is 5. Pass a whole number of at least 20"),
        ({"chains": 0}, "chains is 0. Pass a whole number of at least 1"),
        ({"target_accept": 1.0}, "target_accept is 1.0. Pass a number between 0 and 1"),
        ({"init": "prior"}, "init is 'prior'. Pass 'laplace' or 'pathfinder'"),
    ):
        with pytest.raises(ValueError, match=message):
            psy.sample(fit, **settings)
    with pytest.raises(TypeError, match="Expected a MAPResult, got Model"):
        psy.sample(model)
    monkeypatch.setitem(sys.modules, "blackjax", None)
    with pytest.raises(ImportError, match=r"sample needs BlackJAX. Install it: pip install 'pm_psyphy\[nuts\]'"):
        psy.sample(fit)
