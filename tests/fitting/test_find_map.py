"""The estimate against closed forms and SciPy's optimum from the same start."""

import jax
import jax.numpy as jnp
import models
import numpy as np
import optax
import pymc as pm
import pytensor
import pytest
from scipy.optimize import minimize

import pm_psyphy as psy

CASES = [
    models.normal,
    models.eight_schools,
    models.hierarchical,
    models.logistic,
    models.dirichlet,
    models.lkj,
    models.ordered,
    models.potential_only,
]


def scipy_optimum(model):
    """Return SciPy's L-BFGS-B optimum of PyTensor's own -log p, from the model's initial point."""
    loss = -model.logp(jacobian=False)
    function = model.compile_fn(
        [loss, *pytensor.grad(loss, model.value_vars)], inputs=model.value_vars, point_fn=False, mode="FAST_COMPILE"
    )
    start = {v.name: model.initial_point()[v.name] for v in model.value_vars}
    ends = np.cumsum([np.size(value) for value in start.values()])[:-1]

    def loss_and_grad(x):
        parts = (p.reshape(np.shape(v)) for p, v in zip(np.split(x, ends), start.values(), strict=True))
        value, *grads = function(*parts)
        return value, np.concatenate([np.ravel(g) for g in grads])

    options = {"maxiter": 10_000, "maxfun": 20_000, "ftol": 1e-14, "gtol": 1e-8}
    x0 = np.concatenate([np.ravel(value) for value in start.values()])
    return minimize(loss_and_grad, x0, jac=True, method="L-BFGS-B", options=options).fun


@pytest.mark.parametrize("build", CASES)
def test_loss_is_no_worse_than_scipys(build):
    model = build()
    fit = psy.find_map(model)
    assert fit.converged
    best = scipy_optimum(build())
    assert fit.loss <= best + 1e-6 * abs(best)


@pytest.mark.parametrize("flat", [False, True])
def test_normal_model_equals_its_closed_form(flat):
    x = np.random.default_rng(7).normal(-40.0, 0.01, size=300)
    with models.normal(x, flat=flat) as model:
        fit = psy.find_map()
    assert fit.converged
    np.testing.assert_allclose(fit["mu"], x.mean(), rtol=1e-6)
    np.testing.assert_allclose(fit["variance"], x.var(), rtol=1e-6)
    assert fit.objective.model is model


def test_float32_models_stay_float32_and_reach_the_closed_form():
    x = np.random.default_rng(7).normal(3.0, 2.0, size=300).astype("float32")
    with pytensor.config.change_flags(floatX="float32"):
        model = models.normal(x)
        fit = psy.find_map(model)
    assert fit.unconstrained["mu"].dtype == np.float32
    assert fit.objective.value(fit.objective.start).dtype == jnp.float32
    # The default tolerance of float32 leaves a relative error of about its square root.
    np.testing.assert_allclose(fit["mu"], x.mean(), rtol=1e-3)
    np.testing.assert_allclose(fit["variance"], x.var(), rtol=2e-3)


@pytest.mark.filterwarnings("ignore:Not converged after 5,000 steps")
@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": "adam", "learning_rate": 0.1},
        {"optimizer": "adamw", "learning_rate": optax.cosine_decay_schedule(0.1, 3000)},
        {"optimizer": "sgd", "learning_rate": 1e-3, "momentum": 0.9},
        {"optimizer": optax.chain(optax.clip(10.0), optax.adam(0.1))},
        {"optimizer": optax.lbfgs()},
        {"optimizer": psy.lbfgs(memory_size=5)},
        {"optimizer": "L-BFGS"},
    ],
    ids=["adam", "adamw", "sgd", "chain", "optax lbfgs", "own lbfgs", "name"],
)
def test_every_optimizer_reaches_the_optimum(settings):
    model = models.logistic()
    expected = psy.find_map(model)
    # AdamW decays the weights, so that its optimum lies elsewhere by about its weight decay of 1e-4.
    rtol = 1e-3 if settings["optimizer"] == "adamw" else 1e-6
    fit = psy.find_map(model, steps=5000, tolerance=1e-13, **settings)
    np.testing.assert_allclose(fit["beta"], expected["beta"], rtol=rtol)


def test_the_second_optimum_is_found_from_several_starts():
    with pm.Model() as model:
        x = pm.Normal("x", 0, 10, initval=2.5)
        pm.Potential("two_wells", -((x**2 - 9) ** 2) / 4 - 4 * x)
    alone = psy.find_map(model)
    best = psy.find_map(model, starts=24, init="prior", random_seed=1)
    assert alone["x"] > 2
    assert best["x"] < -2
    assert best.loss < alone.loss - 10
    assert best.starts.loss.shape == (24,)
    assert best.loss == best.starts.loss.min()
    grid = np.linspace(-5, 5, 200_001)
    np.testing.assert_allclose(best["x"], grid[np.argmin((grid**2 - 9) ** 2 / 4 + 4 * grid + grid**2 / 200)], atol=1e-4)


def test_a_batch_of_starts_ends_where_each_start_ends_alone():
    model = models.logistic()
    together = psy.find_map(model, starts=4, random_seed=3)
    assert [str(s) for s in together.starts.status] == ["converged"] * 4
    first = psy.find_map(model)
    np.testing.assert_allclose(together.starts.loss[0], first.loss, rtol=1e-12)
    assert together.starts.n_steps[0] == first.n_steps


def test_starts_with_no_finite_loss_are_reported_and_the_rest_fitted():
    with pm.Model() as model:
        x = pm.Normal("x", 0, 1, shape=2)
        pm.Potential("edge", pm.math.switch(x[0] > -0.3, pm.math.log(x[0] + 0.3), -np.inf))
    with np.errstate(all="ignore"):
        fit = psy.find_map(model, starts=16, random_seed=0)
    statuses = [str(s) for s in fit.starts.status]
    assert "diverged" in statuses
    assert fit.converged
    assert np.isinf(fit.starts.loss[statuses.index("diverged")])


@pytest.mark.filterwarnings("ignore:Not converged after 1 step")
def test_initial_values_are_taken_by_name_and_by_transformed_name():
    model = models.eight_schools()
    objective = psy.compile_objective(model, initvals={"mu": 2.0, "tau_log__": 0.5, "z": np.ones(8)})
    assert objective.start["mu"] == 2.0
    assert objective.start["tau_log__"] == 0.5
    np.testing.assert_array_equal(objective.start["z"], np.ones(8))
    assert psy.compile_objective(model, initvals={"tau": 3.0}).start["tau_log__"] == np.log(3.0)
    assert psy.find_map(objective, initvals={"mu": 1.0}, steps=1).history.loss[0] == objective.value(
        objective.start | {"mu": 1.0, "tau_log__": np.log(5.0), "z": np.zeros(8)}
    )


def test_prior_starts_differ_and_repeat_with_the_seed():
    model = models.eight_schools()
    fits = [psy.find_map(model, starts=3, init="prior", random_seed=seed, steps=200) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(fits[0].starts.unconstrained["mu"], fits[1].starts.unconstrained["mu"])
    assert not np.array_equal(fits[0].starts.unconstrained["mu"], fits[2].starts.unconstrained["mu"])


@pytest.mark.filterwarnings("ignore:Interrupted")
def test_the_callback_sees_the_steps_and_stops_the_fit():
    seen = []

    def stop_at_forty(progress):
        seen.append(progress)
        return progress.step >= 40

    fit = psy.find_map(models.logistic(), optimizer="adam", log_every=10, callback=stop_at_forty)
    assert fit.status is psy.Status.INTERRUPTED
    assert [p.step for p in seen] == [0, 10, 20, 30, 40]
    assert fit.n_steps == 40
    np.testing.assert_array_equal(fit.history.step, [0, 10, 20, 30, 40])
    assert seen[-1].params.keys() == {"beta"}
    assert seen[-1].loss == fit.loss < seen[0].loss


def test_minibatch_models_use_adam_and_reach_the_full_data_estimate():
    fit = psy.find_map(
        models.minibatch(), learning_rate=optax.exponential_decay(5.0, 500, 0.5), steps=5000, random_seed=1
    )
    assert fit.optimizer == "Adam (scheduled learning rate)"
    assert not fit.converged
    assert "no test of convergence" in fit.message
    # The mean of 0..199 shrunk by the prior; minibatch noise decays with the learning rate.
    np.testing.assert_allclose(fit["mu"], 99.5, atol=0.5)


def test_minibatches_visit_every_row():
    with pm.Model() as model:
        batch = pm.Minibatch(np.eye(50), batch_size=5)
        weights = pm.Normal("weights", 0, 1, shape=50)
        pm.Potential("visits", pm.math.sum(batch @ weights))
    init, step = psy.map_kernel(psy.compile_objective(model), optax.set_to_zero())

    objective = psy.compile_objective(model)

    def visit(state, _):
        key = jax.random.fold_in(state.key, state.step)
        # At weights of zero, the gradient is minus how often each row is in the batch.
        _, grads = objective.program.value_and_grad(state.params, state.data, key)
        return step(state), -grads["weights"]

    _, visits = jax.lax.scan(visit, init(random_seed=0), length=200)
    # 1,000 draws over 50 rows miss some row with a probability of 1e-7.
    assert visits.sum(axis=0).min() > 0
    assert visits.sum() == 1000


def test_the_same_seed_repeats_a_stochastic_fit():
    model = models.minibatch()
    fits = [psy.find_map(model, steps=50, random_seed=seed)["mu"] for seed in (1, 1, 2)]
    assert fits[0] == fits[1] != fits[2]


def test_the_device_is_reported():
    fit = psy.find_map(models.normal(), device="cpu")
    assert fit.device == "cpu"


def test_a_bounded_parameter_at_its_edge_is_not_called_a_success_in_silence():
    with pm.Model() as model:
        x = pm.HalfFlat("x")
        pm.Potential("downhill", -x)
    fit = psy.find_map(model)
    assert fit["x"] < 1e-7


def test_a_number_as_initial_value_fills_a_variable_whose_dims_may_grow():
    with pm.Model(coords={"group": range(3)}) as model:
        effect = pm.Normal("effect", 0, 1, dims="group")
        scale = pm.HalfNormal("scale", 1, dims="group")
        pm.Normal("y", effect, scale, observed=[1.0, 2.0, 3.0], dims="group")
    objective = psy.compile_objective(model, initvals={"effect": 0.5, "scale_log__": -1.0})
    np.testing.assert_array_equal(objective.start["effect"], [0.5, 0.5, 0.5])
    np.testing.assert_array_equal(objective.start["scale_log__"], [-1.0, -1.0, -1.0])
