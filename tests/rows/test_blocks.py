"""An objective whose rows are taken in blocks: the same density, in less memory."""

from dataclasses import replace

import numpy as np
import pymc as pm
import pytest

import pm_psyphy as psy
from pm_psyphy.rows import memory_blocks as blocks
from pm_psyphy.rows.memory_blocks import divide_program, measure_memory, spare_memory
from pm_psyphy.rows.weighted_objective import divide

N = 2500
RNG = np.random.default_rng(0)
REFERENCE = RNG.uniform(-0.8, 0.8, (N, 2))
COMPARISON = np.clip(REFERENCE + RNG.normal(0, 0.15, (N, 2)), -1, 1)
RESPONSE = RNG.integers(0, 2, N)


@pytest.fixture(scope="module")
def objective():
    with pm.Model(coords={"trial": range(N)}) as model:
        field = psy.WishartProcess("W", input_dim=2, basis_degree=2, extra_dims=0)
        stimuli = [pm.Data("reference", REFERENCE), pm.Data("comparison", COMPARISON)]
        psy.Oddity("correct", field, *stimuli, observed=pm.Data("response", RESPONSE), dims="trial")
    return psy.compile_objective(model)


def cut(objective, size):
    divided, axes = divide(objective, "trial")
    return replace(divided, program=divide_program(divided.program, "trial", axes, size))


@pytest.mark.parametrize("size", [N, 1000, 357, 1])
def test_blocks_add_up(objective, size):
    blocked = cut(objective, size)
    loss, grads = blocked.value_and_grad(objective.start)
    expected, expected_grads = objective.value_and_grad(objective.start)
    np.testing.assert_allclose(loss, expected, rtol=1e-12)
    for name, grad in expected_grads.items():
        np.testing.assert_allclose(grads[name], grad, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(blocked.value(objective.start), expected, rtol=1e-12)


def test_blocks_need_less_memory(objective):
    assert measure_memory(cut(objective, N // 20)) < 0.15 * measure_memory(objective)


def test_few_rows_stay_as_they_are(objective):
    assert spare_memory(objective) is objective


@pytest.fixture
def small_budget(monkeypatch):
    monkeypatch.setattr(blocks, "BYTES_OF_CPU", 300_000)
    monkeypatch.setattr(blocks, "FEW_NUMBERS", 100)


@pytest.mark.parametrize("starts", [1, 3])
def test_a_fit_of_blocks_is_that_of_all_rows(objective, starts, small_budget, monkeypatch):
    assert measure_memory(spare_memory(objective)) < 0.75 * measure_memory(objective)
    settings = {"starts": starts, "random_seed": 1, "progressbar": False}
    ours = psy.find_map(objective, **settings)
    monkeypatch.setattr(blocks, "FEW_NUMBERS", 10**9)
    theirs = psy.find_map(objective, **settings)
    np.testing.assert_allclose(ours.loss, theirs.loss, rtol=1e-9)
    covariances = [np.einsum("ijkl,ijml->ijkm", fit["W"], fit["W"]) for fit in (ours, theirs)]
    # Both have converged to a gradient of 1e-5, and the loss is flat along rotations of W.
    np.testing.assert_allclose(*covariances, rtol=1e-2, atol=1e-4)


def test_what_follows_a_fit_is_that_of_all_rows(small_budget, monkeypatch):
    with pm.Model(coords={"trial": range(N)}) as model:
        slope, sigma = pm.Normal("slope", 0, 2), pm.HalfNormal("sigma", 2)
        x = pm.Data("x", REFERENCE, dims=("trial", "side"))
        pm.Deterministic("mean", slope * x.sum(axis=1), dims="trial")
        pm.Normal("y", pm.math.tanh(slope * x).sum(axis=1), sigma, observed=COMPARISON[:, 0], dims="trial")
    monkeypatch.setattr(blocks, "BYTES_OF_CPU", 30_000)
    sizes = []
    monkeypatch.setattr(blocks, "divide_program", lambda *a: sizes.append(a[-1]) or divide_program(*a))
    fit = psy.find_map(model, progressbar=False)

    def follow():
        near = psy.laplace(fit, draws=50, random_seed=1)
        again = psy.bootstrap(fit, n_refits=10, dim="trial", random_seed=1, progressbar=False)
        held_out = psy.cross_validate(fit, dim="trial", folds=3, random_seed=1, progressbar=False)
        return near, again, held_out

    near, again, held_out = follow()
    assert measure_memory(near.laid) < 0.75 * measure_memory(psy.compile_objective(model, jacobian=True))
    assert len(sizes) >= 4
    assert max(sizes) < N / 2
    monkeypatch.setattr(blocks, "FEW_NUMBERS", 10**9)
    near_whole, again_whole, held_out_whole = follow()
    assert near.method == near_whole.method
    np.testing.assert_allclose(near.log_evidence, near_whole.log_evidence, rtol=1e-9)
    np.testing.assert_allclose(near.covariance, near_whole.covariance, rtol=1e-6)
    assert near["mean"].shape == (50, N)
    # Refits end within 0.01 standard errors of the optimum.
    np.testing.assert_allclose(again["slope"], again_whole["slope"], atol=0.02 * again_whole["slope"].std())
    np.testing.assert_allclose(held_out.total, held_out_whole.total, atol=0.01)


def test_the_gradient_of_a_million_trials_stays_within_the_budget(objective):
    n = 1_000_000
    many = objective.with_data(reference=np.resize(REFERENCE, (n, 2)), comparison=np.resize(COMPARISON, (n, 2)),
        response=np.resize(RESPONSE, n))  # fmt: skip
    assert measure_memory(spare_memory(many)) < blocks.BYTES_OF_CPU < measure_memory(many)


def test_stimuli_given_as_arrays_are_cut_too(small_budget):
    with pm.Model(coords={"trial": range(N)}) as model:
        scale = pm.HalfNormal("scale", 1)
        field = psy.WishartProcess("W", input_dim=2, basis_degree=2, extra_dims=0)
        log_odds = psy.tasks.oddity_log_odds(field, REFERENCE, COMPARISON)
        psy.Response("correct", scale * log_odds, observed=RESPONSE, dims="trial")
    objective = psy.compile_objective(model, jacobian=True)
    spared = spare_memory(objective)
    assert measure_memory(spared) < 0.75 * measure_memory(objective)
    expected = objective.value_and_grad(objective.start)
    loss, grads = spared.value_and_grad(objective.start)
    np.testing.assert_allclose(loss, expected[0], rtol=1e-12)
    for name, grad in expected[1].items():
        np.testing.assert_allclose(grads[name], grad, rtol=1e-9, atol=1e-9)


def test_rows_that_depend_on_each_other_stay_together(small_budget, monkeypatch):
    monkeypatch.setattr(blocks, "BYTES_OF_CPU", 1000)
    with pm.Model(coords={"trial": range(200)}) as model:
        mean = pm.Normal("mean", 0, 1)
        pm.MvNormal("y", mean * np.ones(200), np.eye(200), observed=np.zeros(200), dims="trial")
    objective = psy.compile_objective(model)
    assert measure_memory(objective) > 1000
    assert spare_memory(objective) is objective
