"""Bad input: what was found, and what to do."""

import models
import numpy as np
import optax
import pymc as pm
import pytest

import pm_psyphy as psy


def discrete():
    with pm.Model() as model:
        k = pm.Poisson("k", 3)
        z = pm.Bernoulli("z", 0.5)
        pm.Normal("y", k + z, 1, observed=[1.0])
    return model


def without_data():
    with pm.Model() as model:
        pm.Normal("x")
    return model


def without_variables():
    with pm.Model() as model:
        pm.Normal("y", 0, 1, observed=[1.0])
    return model


def outside_the_support():
    with pm.Model() as model:
        scale = pm.HalfNormal("scale", 1)
        pm.Exponential("waiting", scale, observed=[1.0, -2.0])
    return model


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        (None, TypeError, "There is no model. Pass one, or call inside `with pm.Model"),
        (3, TypeError, "Expected a pm.Model, got int"),
        (without_variables(), ValueError, "The model has no free variables"),
        (
            discrete(),
            ValueError,
            "Discrete free variables have no gradient: k, z. Marginalise .* or give them `observed`",
        ),
        (
            outside_the_support(),
            ValueError,
            r"loss at the start is inf: log p of 'waiting' is -inf.*Give other `initvals`",
        ),
    ],
    ids=["none", "int", "no variables", "discrete", "outside the support"],
)
def test_models_that_cannot_be_fitted(model, error, message):
    with pytest.raises(error, match=message):
        psy.find_map(model)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        (
            {"optimizer": "newton"},
            ValueError,
            "no optimizer 'newton'. Pass 'lbfgs', 'adam', 'sgd', 'adamw' or an optax",
        ),
        ({"optimizer": 3}, TypeError, "optimizer is a int"),
        ({"steps": -5}, ValueError, "steps is -5. Pass a whole number of at least 1"),
        ({"steps": 2.5}, ValueError, "steps is 2.5"),
        ({"log_every": 0}, ValueError, "log_every is 0"),
        ({"starts": 0}, ValueError, "starts is 0"),
        ({"tolerance": -1.0}, ValueError, "tolerance is -1.0"),
        ({"init": "zeros"}, ValueError, "init is 'zeros'. Pass 'jitter' or 'prior'"),
        ({"learning_rate": 0.1}, ValueError, "L-BFGS finds its step sizes itself. Drop learning_rate"),
        ({"optimizer": "adam", "momentum": 0.9}, ValueError, "'adam' has no momentum"),
        ({"optimizer": "sgd", "momentum": 1.5}, ValueError, "momentum is 1.5"),
        ({"optimizer": "sgd", "learning_rate": -1.0}, ValueError, "learning_rate is -1.0"),
        ({"optimizer": optax.sgd(0.1), "learning_rate": 0.1}, ValueError, "carries its own learning_rate"),
        ({"initvals": {"nu": 1.0}}, ValueError, "'nu', which is no free variable. The model has mu, sigma"),
        (
            {"initvals": {"mu": "best"}},
            ValueError,
            r"initvals\['mu'\] is 'best'. Give an array, 'prior' or 'support_point'",
        ),
        (
            {"initvals": {"mu": np.zeros(3)}},
            ValueError,
            r"initvals\['mu'\] has shape \(3,\). The variable has shape \(\)",
        ),
        (
            {"initvals": {"sigma": -1.0}},
            ValueError,
            "The start is not finite for sigma_interval__. Give `initvals` inside",
        ),
        (
            {"var_names": ["nu"]},
            ValueError,
            "var_names contains 'nu', which is not in the model. It has mu, sigma, variance",
        ),
        ({"device": "abacus"}, ValueError, "JAX has no device 'abacus' here; it has cpu"),
    ],
)
def test_settings_out_of_range(settings, error, message):
    with pytest.raises(error, match=message):
        psy.find_map(models.normal(), **settings)


def test_nan_in_new_data_is_named_with_its_place():
    model = models.logistic()
    x = np.asarray(model["x"].get_value())
    psy.find_map(model)
    x[7, 2] = np.nan
    with pytest.raises(ValueError, match=r"The data hold NaN: 'x' \(1 NaN, the first at index \(7, 2\)\)."):
        psy.find_map(psy.compile_objective(model).with_data(x=x))
    with model:
        pm.set_data({"x": x})
    with pytest.raises(ValueError, match=r"The data hold NaN: 'x' \(1 NaN"):
        psy.find_map(model)


def test_a_model_of_priors_alone_is_fitted_with_a_warning():
    with pytest.warns(UserWarning, match="its posterior is its prior"):
        fit = psy.find_map(without_data())
    assert fit.converged


def test_a_start_outside_the_domain_names_the_variable():
    with pm.Model() as model:
        rate = pm.Normal("rate", 0, 1)
        pm.Exponential("waiting", rate, observed=[1.0, 2.0])
    with pytest.raises(ValueError, match=r"log p of 'waiting' is -inf \(.*\)"):
        psy.find_map(model, initvals={"rate": -0.5})
    assert psy.find_map(model, initvals={"rate": 0.5}).converged
    # PyMC's own start is none of the user's making, so that others are tried.
    assert "another start" in psy.find_map(model).message


def test_an_index_out_of_bounds_is_an_error_and_not_a_silent_clamp():
    with pm.Model() as model:
        group = pm.Data("group", np.arange(100) % 4)
        effect = pm.Normal("effect", shape=4)
        pm.Normal("y", effect[group], 1, observed=np.zeros(100))
    assert psy.find_map(model).converged
    with model:
        pm.set_data({"group": np.arange(100) % 5})
    with pytest.raises(ValueError, match="'group' holds or gives the index 4 at row 4"):
        psy.find_map(model)


@pytest.mark.filterwarnings("ignore:Diverged")
def test_a_divergent_fit_returns_the_best_finite_parameters_and_says_where():
    model = models.logistic()
    with pytest.warns(UserWarning, match="Diverged at step"):
        fit = psy.find_map(model, optimizer=optax.sgd(lambda step: -1e3 * 10.0**step), steps=500)
    assert fit.status is psy.Status.DIVERGED
    assert not fit.converged
    assert np.isfinite(fit["beta"]).all()
    assert np.isfinite(fit.loss)
    assert fit.loss == fit.history.loss[np.isfinite(fit.history.loss)].min()
    assert f"step {fit.n_steps}" in fit.message


def test_a_fit_that_ran_out_of_steps_warns_with_its_gradient():
    with pytest.warns(UserWarning, match="Not converged after 3 steps: the gradient is [0-9.]+. Allow more steps"):
        fit = psy.find_map(models.logistic(), steps=3)
    assert fit.status is psy.Status.MAX_STEPS


def test_a_fit_that_can_go_no_lower_says_so():
    with pm.Model() as model:
        x = pm.Flat("x", initval=2.3)
        pm.Potential("kink", -pm.math.switch(x > 1 / 3, 3 * (x - 1 / 3), 1 / 3 - x))
    with pytest.warns(UserWarning, match="no lower loss was found"):
        fit = psy.find_map(model)
    assert fit.status is psy.Status.STALLED
    np.testing.assert_allclose(fit["x"], 1 / 3, atol=1e-6)
