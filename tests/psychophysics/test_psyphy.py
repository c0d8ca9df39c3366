"""Fields and both likelihoods against psyphy 0.0.5, by the figures that benchmarks/psyphy_figures.py wrote."""

from pathlib import Path

import jax
import numpy as np
import pymc as pm
import pytensor.tensor as pt
import pytest

import pm_psyphy as psy

FIGURES = np.load(Path(__file__).parent / "psyphy.npz")


def read_case(d):
    field = psy.WishartProcess(
        "W", input_dim=d, basis_degree=3, diag_term=float(FIGURES["diag_term"]), weights=FIGURES[f"weights_{d}"]
    )
    return field, FIGURES[f"reference_{d}"], FIGURES[f"comparison_{d}"]


def simulate(d, **settings):
    field, *stimuli = read_case(d)
    log_odds = psy.tasks.simulated_oddity_log_odds(field, *stimuli, bandwidth=float(FIGURES["bandwidth"]), **settings)
    return pt.sigmoid(log_odds).eval(mode="FAST_COMPILE")


def error(p, draws):
    return np.sqrt(p * (1 - p) / draws)


@pytest.mark.parametrize("d", [1, 2, 3])
def test_fields_are_psyphys_for_the_same_weights(d):
    field, reference, _ = read_case(d)
    np.testing.assert_allclose(field.sqrt_covariance(reference).eval(), FIGURES[f"u_{d}"], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(field.covariance(reference).eval(), FIGURES[f"covariance_{d}"], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("d", [1, 2, 3])
def test_the_exact_probability_is_psyphys_within_its_standard_error(d):
    field, *stimuli = read_case(d)
    exact, found = psy.tasks.oddity_probability(field, *stimuli).eval(), FIGURES[f"p_gaussian_{d}"]
    # psyphy clips at 1e-6 from 0 and 1.
    assert np.all(np.abs(found - exact) < 4 * error(exact, FIGURES["draws"]) + 1e-6)


@pytest.mark.parametrize("noise", ["gaussian", "student"])
@pytest.mark.parametrize("d", [1, 2, 3])
def test_the_simulated_mode_agrees_with_psyphy(d, noise):
    draws = 20_000
    settings = {"noise": noise, "degrees_of_freedom": float(FIGURES["degrees_of_freedom"])}
    p, found = simulate(d, draws=draws, random_seed=1, **settings), FIGURES[f"p_{noise}_{d}"]
    assert np.all(np.abs(found - p) < 4 * np.hypot(error(found, FIGURES["draws"]), error(found, draws)) + 1e-6)


def test_common_random_numbers_repeat_and_fresh_ones_do_not():
    field, *stimuli = read_case(2)
    common = psy.tasks.simulated_oddity_log_odds(field, *stimuli, draws=50, random_seed=3)
    np.testing.assert_array_equal(*(common.eval(mode="FAST_COMPILE") for _ in range(2)))

    def compile_with(fresh):
        with pm.Model() as model:
            field = psy.WishartProcess("W", input_dim=2, basis_degree=1)
            log_odds = psy.tasks.simulated_oddity_log_odds(field, *stimuli, draws=50, fresh=fresh, random_seed=3)
            psy.Response("correct", log_odds, observed=np.arange(8) % 2, chance=1 / 3)
        return psy.compile_objective(model)

    noisy, steady = compile_with(True), compile_with(False)
    assert noisy.stochastic
    assert not steady.stochastic
    losses = [float(noisy.value(noisy.start, jax.random.key(i))) for i in range(2)]
    assert losses[0] != losses[1]
    assert float(steady.value(steady.start)) == float(steady.value(steady.start))


@pytest.mark.parametrize("noise", ["gaussian", "student"])
def test_fresh_numbers_have_the_same_distribution(noise):
    draws = 20_000
    p, found = simulate(1, draws=draws, noise=noise, fresh=True, random_seed=1), FIGURES[f"p_{noise}_1"]
    assert np.all(np.abs(found - p) < 4 * np.hypot(error(found, FIGURES["draws"]), error(found, draws)) + 1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"draws": 0}, "draws is 0. Pass a whole number"),
        ({"bandwidth": 0.0}, "bandwidth is 0.0. Pass a positive number"),
        ({"noise": "cauchy"}, "There is no noise 'cauchy'. Pass 'gaussian' or 'student'"),
    ],
)
def test_bad_settings_are_named(settings, message):
    field, *stimuli = read_case(2)
    with pytest.raises(ValueError, match=message):
        psy.tasks.simulated_oddity_log_odds(field, *stimuli, **settings)


def test_common_numbers_need_the_number_of_trials():
    field, *_ = read_case(2)
    with pytest.raises(ValueError, match="The number of trials is unknown"):
        psy.tasks.simulated_oddity_log_odds(field, pt.matrix(), pt.matrix())
