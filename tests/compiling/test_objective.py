"""The objective: its routes, its data, its errors."""

import gc
import weakref

import jax
import jax.numpy as jnp
import models
import numpy as np
import optax
import pymc as pm
import pytensor
import pytensor.tensor as pt
import pytest
from compilations import count_compilations
from pytensor.graph.basic import Apply
from pytensor.graph.op import Op
from pytensor.raise_op import CheckAndRaise

import pm_psyphy as psy
from pm_psyphy.compiling.jax_linker import translate


def reference_value(model, params):
    function = model.compile_fn(-model.logp(jacobian=False), inputs=model.value_vars, mode="FAST_COMPILE")
    return function(params)


def test_constrain_gives_the_models_own_variables():
    objective = psy.compile_objective(models.eight_schools())
    values = objective.constrain(objective.start | {"tau_log__": np.log(3.0), "mu": 1.0, "z": np.full(8, 2.0)})
    assert list(values) == ["mu", "tau", "z", "theta"]
    np.testing.assert_allclose(values["theta"], np.full(8, 7.0))


@pytest.mark.parametrize("jacobian", [False, True])
def test_the_jacobian_is_added_on_request(jacobian):
    model = models.eight_schools()
    objective = psy.compile_objective(model, jacobian=jacobian)
    expected = -model.compile_logp(jacobian=jacobian, mode="FAST_COMPILE")(objective.start)
    np.testing.assert_allclose(objective.value(objective.start), expected, rtol=1e-12)


def test_new_data_of_the_same_shape_compile_nothing():
    model = models.logistic()
    objective = psy.compile_objective(model)
    objective.value_and_grad(objective.start)
    flipped = 1 - np.asarray(objective.data["labels"])
    with count_compilations() as compiled:
        loss, _ = objective.with_data(labels=flipped).value_and_grad(objective.start)
    assert compiled == []
    with model:
        pm.set_data({"labels": flipped})
    np.testing.assert_allclose(loss, reference_value(model, objective.start), rtol=1e-12)


def test_a_second_call_returns_the_same_program_with_the_present_data():
    model = models.logistic()
    first = psy.compile_objective(model)
    with model:
        pm.set_data({"x": np.asarray(first.data["x"]) * 2})
    second = psy.compile_objective(model)
    assert second.program is first.program
    np.testing.assert_allclose(second.data["x"], first.data["x"] * 2)


def test_a_model_that_grew_is_compiled_again():
    model = models.normal()
    first = psy.compile_objective(model)
    with model:
        pm.Potential("more", -(model["mu"] ** 2))
    second = psy.compile_objective(model)
    assert second.program is not first.program
    np.testing.assert_allclose(
        second.value(second.start | {"mu": 2.0}), first.value(first.start | {"mu": 2.0}) + 4, rtol=1e-12
    )


def test_new_data_of_another_length_fit_where_the_model_allows_it():
    model = models.logistic(n=300)
    objective = psy.compile_objective(model)
    other = models.logistic(n=200, seed=9)
    data = {name: other[name].get_value() for name in ("x", "labels")}
    rebound = objective.with_data(**data)
    np.testing.assert_allclose(rebound.value(rebound.start), reference_value(other, rebound.start), rtol=1e-12)


def test_data_do_not_enter_the_program_text():
    def program_size(n):
        objective = psy.compile_objective(models.hierarchical(n=n))
        lowered = objective.program.jitted_value_and_grad.lower(objective.start, objective.data, None)
        return len(lowered.as_text()), len(lowered.compile().as_text())

    small, large = program_size(200), program_size(20_000)
    # The sizes differ by the digits of the shapes only; 20,000 rows in the text would add a hundred thousand.
    assert abs(large[0] - small[0]) < 2000
    assert abs(large[1] - small[1]) < 20_000


def test_an_objective_is_a_pytree_and_jits_as_an_argument():
    objective = psy.compile_objective(models.logistic())
    value = jax.jit(lambda o, p: o.value(p))
    assert value(objective, objective.start) == pytest.approx(float(objective.value(objective.start)), rel=1e-12)
    other = objective.with_data(x=np.zeros_like(objective.data["x"]))
    with count_compilations() as compiled:
        value(other, other.start)
    assert compiled == []


def test_models_are_released_with_their_programs():
    model = models.normal()
    fit = psy.find_map(model)
    reference = weakref.ref(model)
    del model, fit
    gc.collect()
    assert reference() is None


@pytest.mark.parametrize("build", [models.normal, models.logistic, models.hierarchical], ids=lambda b: b.__name__)
def test_float32_agrees_with_float64_to_single_precision(build):
    exact = psy.compile_objective(build())
    with pytensor.config.change_flags(floatX="float32"):
        single = psy.compile_objective(build())
    loss, grads = single.value_and_grad({k: np.asarray(v, "float32") for k, v in single.start.items()})
    expected, expected_grads = exact.value_and_grad(exact.start)
    assert loss.dtype == jnp.float32
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    for name, grad in grads.items():
        assert grad.dtype == jnp.float32
        np.testing.assert_allclose(grad, expected_grads[name], rtol=1e-3, atol=1e-4 * float(abs(expected)))


class Cube(Op):
    """An op that JAX knows nothing of, with a gradient that PyTensor knows."""

    __props__ = ()

    def make_node(self, x):
        return Apply(self, [pt.as_tensor(x)], [pt.as_tensor(x).type()])

    def perform(self, node, inputs, outputs):
        outputs[0][0] = inputs[0] ** 3

    def pullback(self, inputs, outputs, cotangents):
        return [3 * inputs[0] ** 2 * cotangents[0]]


class Opaque(Cube):
    """The same without a gradient."""

    def pullback(self, inputs, outputs, cotangents):
        raise NotImplementedError("Opaque has no gradient")


def test_an_op_that_jax_lacks_runs_on_the_host_with_a_warning():
    with pm.Model() as model:
        x = pm.Normal("x", 1.0, 1.0, shape=3)
        pm.Normal("y", Cube()(x), 1.0, observed=np.array([1.0, 8.0, 27.0]))
    with pytest.warns(UserWarning, match="Cube.* not in JAX.*host"):
        objective = psy.compile_objective(model)
    assert objective.route == "callback"
    point = {"x": np.array([1.0, 1.5, 2.0])}
    loss, grads = objective.value_and_grad(point)
    cubes, y = point["x"] ** 3, np.array([1.0, 8.0, 27.0])
    np.testing.assert_allclose(loss, 0.5 * np.sum((point["x"] - 1) ** 2 + (cubes - y) ** 2) + 3 * np.log(2 * np.pi))
    np.testing.assert_allclose(grads["x"], point["x"] - 1 + (cubes - y) * 3 * point["x"] ** 2)
    assert psy.find_map(model, starts=2).converged


def test_an_op_without_any_route_is_named_with_its_variable():
    with pm.Model() as model:
        x = pm.Normal("x", 1.0, 1.0)
        pm.Normal("speed", Opaque()(x), 1.0, observed=2.0)
    with pytest.raises(NotImplementedError, match=r"Opaque.*needed by speed"):
        psy.compile_objective(model)


def test_data_that_decide_a_shape_are_frozen_and_the_rest_stay_arguments():
    with pm.Model() as model:
        n = pm.Data("n", 5)
        scale = pm.Data("scale", np.ones(5))
        slope = pm.Normal("slope", 0, 1)
        pm.Normal("y", slope * pt.arange(n) * scale, 1.0, observed=np.arange(5.0))
    objective = psy.compile_objective(model)
    assert objective.route == "pytensor-frozen"
    assert "scale" in objective.data
    assert "n" not in objective.data
    np.testing.assert_allclose(objective.value({"slope": 0.5}), reference_value(model, {"slope": 0.5}), rtol=1e-12)
    with pytest.raises(ValueError, match="'n' decides a shape and is part of the compiled program"):
        objective.with_data(n=6)
    with model:
        pm.set_data({"n": 5, "scale": np.full(5, 2.0)})
    assert psy.compile_objective(model).program is objective.program


def test_a_stochastic_objective_wants_a_key():
    objective = psy.compile_objective(models.minibatch())
    assert objective.stochastic
    with pytest.raises(ValueError, match="draws random numbers. Pass a fresh key"):
        objective.value(objective.start)
    first, again, other = (float(objective.value(objective.start, jax.random.key(k))) for k in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"nothing": 1.0}, "'nothing' is no data of this model. It has "),
        ({"labels": np.zeros((3, 2))}, r"'labels' was given with shape \(3, 2\), the model has \(1000,\)"),
        ({"labels": np.zeros(7, int)}, r"The shapes of the data do not fit the model: labels \(7,\)"),
        ({"labels": np.full(1000, 0.5)}, "'labels' holds 0.5 at row 0, and the model has int32"),
    ],
)
def test_bad_data_are_refused(data, message):
    objective = psy.compile_objective(models.logistic())
    with pytest.raises(ValueError, match=message):
        objective.with_data(**data)


def test_observed_arrays_are_rebound_by_the_variables_name():
    objective = psy.compile_objective(models.eight_schools())
    doubled = 2 * np.asarray(objective.data["y"])
    fit = psy.find_map(objective.with_data(y=doubled))
    np.testing.assert_allclose(fit.to_datatree()["observed_data"]["y"], doubled)
    assert fit.loss > psy.find_map(objective).loss
    with pytest.raises(ValueError, match=r"'y' was given with shape \(3,\), the model has \(8,\)"):
        objective.with_data(y=doubled[:3])


def test_wrong_parameter_names_are_listed():
    objective = psy.compile_objective(models.normal())
    with pytest.raises(ValueError, match="Parameters are named mu, sigma, expected mu, sigma_interval__"):
        objective.value({"mu": 0.0, "sigma": 1.0})


def test_map_kernel_steps_as_a_hand_written_loop():
    objective = psy.compile_objective(models.logistic())
    transformation = optax.sgd(1e-3, momentum=0.9)
    init, step = psy.map_kernel(objective, transformation)

    @jax.jit
    def by_hand(params, objective):
        def body(carry, _):
            params, state = carry
            loss, grads = objective.value_and_grad(params)
            updates, state = transformation.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), loss

        return jax.lax.scan(body, (params, transformation.init(params)), length=50)

    (params, _), losses = by_hand(objective.start, objective)
    state, kernel_losses = jax.lax.scan(lambda s, _: (step(s), step(s).loss), init(extra={"mine": 7}), length=50)
    np.testing.assert_allclose(state.params["beta"], params["beta"], rtol=1e-12)
    np.testing.assert_allclose(kernel_losses, losses, rtol=1e-12)
    assert state.step == 50
    assert state.extra == {"mine": 7}


def test_a_jitted_kernel_takes_new_data_without_compiling():
    objective = psy.compile_objective(models.logistic())
    init, step = psy.map_kernel(objective, optax.adam(0.1))
    step = jax.jit(step)
    state = step(init())
    other = objective.with_data(x=-np.asarray(objective.data["x"]))
    fresh = init()._replace(data=other.data)
    with count_compilations() as compiled:
        new = step(fresh)
    assert compiled == []
    np.testing.assert_allclose(new.params["beta"], -state.params["beta"], rtol=1e-9)


def test_a_reshape_by_the_lengths_of_data_freezes_nothing():
    with pm.Model() as model:
        x = pm.Data("x", np.ones((4, 6)))
        weights = pm.Normal("weights", shape=6)
        pm.Normal("y", (x @ weights).reshape((x.shape[0] // 2, 2)), 1, observed=np.zeros((2, 2)))
    objective = psy.compile_objective(model)
    assert objective.route == "pytensor"
    assert np.isfinite(objective.value(objective.start))


def test_what_a_model_asserts_of_its_data_is_checked_when_they_change():
    with pm.Model() as model:
        x = pm.Data("x", np.ones(4))
        positive = CheckAndRaise(ValueError, "x must be positive.")(x, pt.all(x > 0))
        slope = pm.Normal("slope")
        pm.Normal("y", slope * pt.log(positive), 1, observed=np.zeros(4))
    objective = psy.compile_objective(model)
    with pytest.raises(ValueError, match=r"x must be positive\."):
        objective.with_data(x=[1.0, 2.0, 0.0, 1.0])
    with model:
        pm.set_data({"x": -np.ones(4)})
    with pytest.raises(ValueError, match=r"x must be positive\."):
        psy.compile_objective(model)
    assert np.isfinite(objective.with_data(x=2 * np.ones(4)).value(objective.start))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_softplus_is_right_to_the_last_places(dtype):
    x = pt.vector("x", dtype=dtype)
    at = np.concatenate([np.linspace(-40, 40, 4001), [0, 1e-9, -80, 1e3, -1e3]]).astype(dtype)
    (found,) = translate([x], [pt.softplus(x)])(at)
    expected = np.logaddexp(at.astype(np.longdouble), 0)
    assert np.asarray(found).dtype == dtype
    np.testing.assert_allclose(np.asarray(found, np.longdouble), expected, rtol=2 * np.finfo(dtype).eps, atol=1e-300)


def test_softplus_is_differentiable_by_jax():
    x = pt.vector("x")
    function = translate([x], [pt.softplus(x)])
    at = np.array([-30.0, -1.0, 0.0, 2.0, 50.0])
    np.testing.assert_allclose(jax.grad(lambda v: function(v)[0].sum())(at), 1 / (1 + np.exp(-at)), rtol=1e-14)
