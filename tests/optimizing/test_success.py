"""Success is reported where there is success: convergence in nats, and ends of searches that are no optimum."""

import warnings

import models
import numpy as np
import pymc as pm
import pytest

import pm_psyphy as psy
from pm_psyphy import Status

RNG = np.random.default_rng(1)
QUIET = {"progressbar": False}


def separated(*, unit: float = 1.0, shift: float = 0.0, prior: bool = False) -> pm.Model:
    with pm.Model() as model:
        a, b = (pm.Normal("a", 0, 10), pm.Normal("b", 0, 10)) if prior else (pm.Flat("a"), pm.Flat("b"))
        levels = unit * (np.array([-3, -2, -1, 1, 2, 3.0]) + shift)
        pm.Bernoulli("y", logit_p=a + b * levels, observed=[0, 0, 0, 1, 1, 1])
    return model


def without_threshold() -> pm.Model:
    """Palamedes' example of data that rise nowhere."""
    x, k = np.arange(-4, 5) / 10, np.array([6, 6, 5, 5, 5, 6, 7, 4, 6])
    with pm.Model() as model:
        t, log_slope = pm.Flat("t", initval=0.0), pm.Flat("log_slope", initval=1.0)
        p = psy.psychometric(x, t, slope=pm.math.exp(log_slope), guess_rate=0.5)
        pm.Binomial("k", n=10, p=p, observed=k)
    return model


def one_group_separated() -> pm.Model:
    group, y = np.repeat(np.arange(3), 4), np.array([0, 1, 0, 1, 1, 1, 1, 1, 0, 1, 1, 0])
    with pm.Model() as model:
        pm.Bernoulli("y", logit_p=pm.Flat("b", shape=3)[group], observed=y)
    return model


@pytest.mark.parametrize(
    ("model", "names"),
    [
        (separated(), "'b'"),
        (separated(unit=1e4, shift=3.5), "'a' and 'b'"),
        (separated(unit=1e-4), "'b'"),
        (without_threshold(), "'t'"),
        (one_group_separated(), "'b'"),
    ],
    ids=["separated", "in large units", "in small units", "no threshold", "one group"],
)
def test_what_has_no_optimum_is_unbounded_and_named(model, names):
    with pytest.warns(UserWarning, match=f"There is no optimum: the loss does not rise however far .*{names}"):
        fit = psy.find_map(model, **QUIET)
    assert fit.status is Status.UNBOUNDED
    with pytest.raises(ValueError, match="There is no mode to expand around"):
        psy.laplace(fit)


def test_a_prior_bounds_what_the_data_do_not():
    assert psy.find_map(separated(prior=True), **QUIET).converged


def test_a_field_whose_rotations_are_farther_away_has_an_optimum():
    rng = np.random.default_rng(0)
    reference = rng.uniform(-0.7, 0.7, (400, 2))
    comparison = reference + rng.uniform(-0.2, 0.2, (400, 2))
    with pm.Model() as model:
        field = psy.WishartProcess("W", input_dim=2, basis_degree=1)
        psy.Oddity("y", field, reference, comparison, observed=rng.random(400) < 0.7)
    weights = psy.find_map(model).unconstrained["W_z"]
    for seed in (3, 15, 51):
        near = weights + 0.1 * np.random.default_rng(seed).normal(size=weights.shape)
        assert psy.find_map(model, initvals={"W_z": near}).converged


def test_data_sets_without_an_optimum_are_named_among_others():
    with pm.Model() as model:
        pm.Bernoulli("y", logit_p=pm.Flat("b"), observed=np.zeros(6, int))
    sets = {"some": {"y": [0, 1, 0, 1, 0, 0]}, "all": {"y": np.ones(6, int)}}
    with pytest.warns(UserWarning, match="1 of 2 fits did not converge: 'all'.*There is no optimum"):
        fits = psy.find_maps(model, sets, **QUIET)
    assert fits.status == (Status.CONVERGED, Status.UNBOUNDED)


@pytest.mark.parametrize("unit", [1e-6, 1e-3, 1.0, 1e4, 1e6])
def test_neither_units_nor_constants_decide_convergence(unit):
    levels = np.array([1, 2, 3, 4, 5, 6.0])
    with pm.Model() as model:
        a, b, c = pm.Normal("a", 0, 3), pm.Normal("b", 0, 3 / unit), pm.Normal("c", 0, 1)
        pm.Bernoulli("y", logit_p=a + b * levels * unit, observed=[0, 0, 1, 0, 1, 1])
        pm.Normal("z", c, 1, observed=[1.0, 2.0])
        pm.Potential("constant", -1e3 + 0 * a)
    fit = psy.find_map(model, **QUIET)
    assert fit.converged
    # Of the model with the unit 1, by SciPy to 1e-6; the rest is 1e-5 of a standard error.
    np.testing.assert_allclose([fit["a"], fit["b"] * unit, fit["c"]], [-2.233120, 0.701419, 1.0], atol=2e-4)


def test_a_large_constant_does_not_end_a_fit_at_its_start():
    y = 2 + RNG.normal(size=30)
    with pm.Model() as far:
        pm.Normal("y", pm.Normal("a", 0, 1e12), 1, observed=1e9 + y)
    with pm.Model() as constant:
        a = pm.Normal("a", 0, 10)
        pm.Normal("y", a, 1, observed=y)
        pm.Potential("c", -1e10 + 0 * a)
    assert psy.find_map(far, **QUIET)["a"] == pytest.approx(1e9 + y.mean(), abs=1e-3)
    assert psy.find_map(constant, **QUIET)["a"] == pytest.approx(y.sum() / (30 + 0.01), abs=1e-4)


@pytest.mark.parametrize(("optimizer", "rate"), [("adam", 0.05), ("sgd", 1e-3)])
def test_first_order_methods_converge_in_nats_too(optimizer, rate):
    best = psy.find_map(models.logistic(), **QUIET).loss
    fit = psy.find_map(models.logistic(), optimizer=optimizer, learning_rate=rate, steps=20_000, **QUIET)
    assert fit.converged
    assert fit.loss - best < 1e-6


def bump(start: float, *, prior: bool) -> pm.Model:
    x = np.linspace(0, 100, 200)
    with pm.Model() as model:
        c = pm.Normal("c", 0, 100, initval=start) if prior else pm.Flat("c", initval=start)
        pm.Normal("y", pm.math.exp(-((x - c) ** 2) / 2), 0.1, observed=np.exp(-((x - 60) ** 2) / 2))
    return model


def test_a_plateau_is_left_or_named():
    with pytest.warns(UserWarning, match="The loss does not depend on 'c' near the start"):
        fit = psy.find_map(bump(-2000.0, prior=False), random_seed=1, **QUIET)
    assert fit.status is Status.PLATEAU
    with pm.Model() as narrow:
        c = pm.Normal("c", 0, 10, initval=0.0)
        pm.Normal("y", pm.math.exp(-((np.linspace(-20, 20, 400) - c) ** 2)), 0.1, observed=np.exp(
            -((np.linspace(-20, 20, 400) - 9) ** 2)
        ))  # fmt: skip
    found = psy.find_map(narrow, random_seed=1, **QUIET)
    assert found["c"] == pytest.approx(9, abs=0.1)


def test_a_variable_that_nothing_depends_on_is_flat():
    with pm.Model() as model:
        pm.Flat("unused", initval=1.0)
        pm.Normal("y", pm.Normal("a"), 1, observed=[1.0, 2.0])
    with pytest.warns(UserWarning, match="The loss does not depend on 'unused'"):
        assert psy.find_map(model, **QUIET).status is Status.PLATEAU


def test_a_collapsed_scale_is_named_with_what_to_do():
    effect = np.array([28.0, 8, -3, 7, -1, 1, 18, 12])
    with pm.Model() as model:
        mu, tau = pm.Normal("mu", 0, 5), pm.HalfCauchy("tau", 5)
        theta = pm.Normal("theta", mu, tau, shape=8)
        pm.Normal("y", theta, 10.0, observed=effect)
    with pytest.warns(UserWarning, match=r"'tau' has gone to 0.*mean \+ scale \* z"):
        fit = psy.find_map(model, steps=2000, **QUIET)
    assert not fit.converged


def test_no_message_advises_what_was_done():
    with pytest.warns(UserWarning, match="Not converged") as caught:
        psy.find_map(models.logistic(), steps=2, **QUIET)
    assert "lbfgs" not in str(caught[0].message)


@pytest.mark.parametrize("start", [-15, -25, -34, -45, -60])
def test_laplace_finds_the_mode_from_wherever_a_search_for_an_edge_has_ended(start):
    with pm.Model() as model:
        pm.Poisson("k", 50 * pm.Beta("p", 1, 20), observed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = psy.find_map(model, initvals={"p_logodds__": start}, **QUIET)
    # log p + 20 log(1 - p) - 50 p has its maximum where 1 / p - 20 / (1 - p) = 50.
    p = (71 - np.sqrt(71**2 - 200)) / 100
    assert 1 / (1 + np.exp(-psy.laplace(fit).mode["p_logodds__"])) == pytest.approx(p, rel=1e-6)


@pytest.mark.parametrize(("prior", "rate"), [(pm.HalfNormal, 50.0), (pm.Exponential, 51.0)])
def test_laplace_leaves_the_edge_of_a_scale(prior, rate):
    with pm.Model() as model:
        pm.Poisson("k", 50 * prior("p", 1), observed=0)
    fit = psy.find_map(model, initvals={"p_log__": -40}, **QUIET)
    assert "'p' is at the edge of its support" in fit.message
    posterior = psy.laplace(fit)
    # log p - 50 p - p^2 / 2, and log p - 51 p.
    mode = (-50 + np.sqrt(2504)) / 2 if prior is pm.HalfNormal else 1 / rate
    assert np.exp(posterior.mode["p_log__"]) == pytest.approx(mode, rel=1e-6)
    assert not np.isnan(posterior.pareto_k)


def test_another_optimum_of_the_same_height_is_no_ridge():
    with pm.Model() as model:
        pm.Normal("y", pm.Normal("x", 0, 100, initval=0.5) ** 2, 1, observed=4.0)
    # From 6.5 on, three times as far, the first step leads to the other optimum, at -2.
    fit = psy.find_map(model, optimizer="sgd", learning_rate=0.016, tolerance=1e-8, **QUIET)
    assert fit.status is Status.CONVERGED
    assert fit["x"] == pytest.approx(2, abs=1e-2)
