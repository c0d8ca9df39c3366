"""An objective whose rows are taken in blocks: the same density, in less memory."""

import jax
import numpy as np
import pymc as pm
import pytest

import pm_psyphy as psy
from pm_psyphy.blocks import take_in_blocks

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
        psy.Oddity("correct", field, *stimuli, observed=RESPONSE, dims="trial")
    return psy.compile_objective(model)


@pytest.mark.parametrize("n_blocks", [1, 3, 7, N])
def test_blocks_add_up(objective, n_blocks):
    blocked = take_in_blocks(objective, "trial", n_blocks)
    loss, grads = blocked.value_and_grad(objective.start)
    expected, expected_grads = objective.value_and_grad(objective.start)
    np.testing.assert_allclose(loss, expected, rtol=1e-12)
    for name, grad in expected_grads.items():
        np.testing.assert_allclose(grads[name], grad, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(blocked.value(objective.start), expected, rtol=1e-12)


def measure(objective):
    lowered = objective.program.jitted_value_and_grad.lower(objective.start, objective.data, None)
    return lowered.compile().memory_analysis().temp_size_in_bytes


def test_blocks_need_less_memory(objective):
    whole, blocked = measure(objective), measure(take_in_blocks(objective, "trial", 20))
    assert blocked < 0.15 * whole


def test_a_fit_of_blocks_is_that_of_all_rows(objective):
    ours = psy.find_map(take_in_blocks(objective, "trial", 4), progressbar=False)
    theirs = psy.find_map(objective, progressbar=False)
    np.testing.assert_allclose(ours.loss, theirs.loss, rtol=1e-9)
    assert jax.tree.all(jax.tree.map(lambda a, b: np.allclose(a, b, rtol=1e-3, atol=1e-5), dict(ours), dict(theirs)))
