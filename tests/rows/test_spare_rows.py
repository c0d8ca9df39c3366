"""Data that grow: other numbers of rows compile little, and change no answer."""

import numpy as np
import pymc as pm
import pytensor.tensor as pt
import pytest
from compilations import count_compilations

import pm_psyphy as psy
from pm_psyphy.rows.spare_rows import SMALLEST, add_rows

N = 300
RNG = np.random.default_rng(0)
LEVEL = RNG.uniform(-2, 2, N)
CORRECT = (RNG.random(N) < 0.5 + 0.48 / (1 + np.exp(-3 * LEVEL))).astype(int)
REFERENCE = RNG.uniform(-0.5, 0.5, (N, 2))
COMPARISON = REFERENCE + RNG.uniform(-0.4, 0.4, (N, 2))
QUIET = {"progressbar": False}


def declare_psychometric(n):
    with pm.Model(coords={"trial": range(n)}) as model:
        threshold, slope = pm.Normal("threshold", 0, 1), pm.Gamma("slope", 2, 1)
        x = pm.Data("x", LEVEL[:n], dims="trial")
        log_odds = psy.psychometric_log_odds(x, threshold, slope=slope, guess_rate=0.5, lapse_rate=0.02)
        pm.Deterministic("log_odds", log_odds, dims="trial")
        psy.Response("correct", log_odds, observed=pm.Data("y", CORRECT[:n], dims="trial"), dims="trial")
    return model


def declare_field(n):
    with pm.Model(coords={"trial": range(n)}) as model:
        field = psy.WishartProcess("W", input_dim=2, basis_degree=1)
        reference = pm.Data("reference", REFERENCE[:n], dims=("trial", "axis"))
        comparison = pm.Data("comparison", COMPARISON[:n], dims=("trial", "axis"))
        y = pm.Data("y", CORRECT[:n], dims="trial")
        psy.Oddity("correct", field, reference, comparison, observed=y, dims="trial")
    return model


def declare_penalty(n):
    with pm.Model(coords={"trial": range(n)}) as model:
        x, y = pm.Data("x", LEVEL[:n], dims="trial"), pm.Data("y", CORRECT[:n].astype(float), dims="trial")
        slope = pm.Normal("slope", 0, 1)
        pm.Normal("response", slope * x, 1, observed=y, dims="trial")
        pm.Potential("penalty", -((slope * x) ** 2) / 7, dims="trial")
    return model


def declare_walk(n):
    with pm.Model(coords={"trial": range(n)}) as model:
        rho, y = pm.Normal("rho", 0, 1), pm.Data("y", LEVEL[:n], dims="trial")
        pm.Potential("walk", -pt.sum((y[1:] - rho * y[:-1]) ** 2))
        pm.Normal("level", 0, 1, observed=y, dims="trial")
    return model


def declare_length(n):
    with pm.Model(coords={"trial": range(n)}) as model:
        slope, y = pm.Normal("slope", 0, 1), pm.Data("y", LEVEL[:n], dims="trial")
        pm.Potential("of the number of trials", -(slope**2) * y.shape[0])
        pm.Normal("level", slope, 1, observed=y, dims="trial")
    return model


def cut(model, n):
    """Return the first n rows of a model's data."""
    rows = {"x": LEVEL, "y": CORRECT, "reference": REFERENCE, "comparison": COMPARISON}
    return {name: array[:n] for name, array in rows.items() if name in model.named_vars}


@pytest.mark.parametrize("declare", [declare_psychometric, declare_field, declare_penalty])
def test_rows_of_no_weight_change_no_loss_and_no_gradient(declare):
    model = declare(N)
    objective = psy.compile_objective(model)
    assert add_rows(objective) is objective
    for n in (1, 70, 200):
        own = objective.with_data(**cut(model, n))
        laid = add_rows(own)
        sizes = {array.shape[0] for array in laid.data.values() if array.ndim}
        assert sizes == {max(SMALLEST, 2 ** int(np.ceil(np.log2(n))))}
        point = {name: value + 0.3 for name, value in own.start.items()}
        loss, grads = laid.value_and_grad(point)
        expected, slopes = own.value_and_grad(point)
        np.testing.assert_allclose(loss, expected, rtol=1e-12)
        for name in grads:
            np.testing.assert_allclose(grads[name], slopes[name], rtol=1e-12, atol=1e-12 * abs(float(expected)))


@pytest.mark.parametrize("declare", [declare_walk, declare_length])
def test_what_depends_on_several_rows_is_left_alone(declare):
    objective = add_rows(psy.compile_objective(declare(N)))
    shorter = objective.with_data(y=LEVEL[:100])
    assert add_rows(shorter) is shorter


def test_120_lengths_compile_at_most_8_programs():
    model = declare_psychometric(N)
    lengths = np.linspace(2, N, 120).astype(int)
    # What a result shows of variables with rows is no part of the search.
    names = ["threshold", "slope"]
    with count_compilations() as compiled:
        for n in lengths:
            with model:
                pm.set_data(cut(model, n), coords={"trial": range(n)})
            fit = psy.find_map(model, var_names=names, **QUIET)
    assert len(compiled) <= 8
    assert fit.converged


def go_on(objective, n):
    """Fit the first n rows and do what follows; return the numbers that this gives."""
    model = objective.model
    own = objective.with_data(**cut(model, n))
    fit = psy.find_map(own, var_names=[rv.name for rv in model.free_RVs], **QUIET)
    posterior = psy.laplace(fit, draws=50, random_seed=1)
    refits = psy.bootstrap(fit, n_refits=3, dim="trial", random_seed=2, **QUIET)
    simulated = psy.bootstrap(fit, n_refits=3, method="parametric", random_seed=3, **QUIET)
    both = psy.find_maps(own, [cut(model, n), cut(model, n - 5)], **QUIET)
    return fit.loss, posterior.log_evidence, posterior.pareto_k, refits.loss, simulated.loss, both.loss


def test_what_follows_a_fit_of_more_data_compiles_nothing():
    objective = psy.compile_objective(declare_field(N))
    for n in (N, 100, 115):
        go_on(objective, n)
    with count_compilations() as compiled:
        go_on(objective, 120)
    assert compiled == []


def test_what_follows_a_fit_of_more_data_is_that_of_these_data():
    objective = psy.compile_objective(declare_psychometric(N))
    go_on(objective, N)
    found, alone = go_on(objective, 120), go_on(psy.compile_objective(declare_psychometric(120)), 120)
    for ours, theirs in zip(found, alone, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    np.testing.assert_allclose(found[0], alone[0], rtol=1e-12)


def test_results_have_the_rows_that_were_given():
    model = declare_psychometric(N)
    psy.find_map(model, **QUIET)
    fit = psy.find_map(psy.compile_objective(model).with_data(**cut(model, 90)), **QUIET)
    assert fit["log_odds"].shape == (90,)
    assert fit.objective.data["x"].shape == (90,)
    assert psy.laplace(fit, draws=7, random_seed=1)["log_odds"].shape == (7, 90)


def test_a_checkpoint_is_of_the_rows_that_were_given(tmp_path):
    settings = {"optimizer": "adam", "learning_rate": 0.01, "checkpoint": tmp_path / "fit.npz", **QUIET}
    model = declare_psychometric(N)
    psy.find_map(model, **QUIET)
    with pytest.warns(UserWarning, match="steps"):
        begun = psy.find_map(psy.compile_objective(model).with_data(**cut(model, 90)), steps=20, **settings)
    with pytest.warns(UserWarning, match="steps"):
        resumed = psy.find_map(declare_psychometric(90), steps=40, **settings)
    assert (begun.n_steps, resumed.n_steps) == (20, 40)
    assert len(resumed.history.loss) == 41
