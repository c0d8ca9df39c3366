"""What PyMC allows is fitted, or refused by name."""

import warnings

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
import pytest
from pymc.pytensorf import collect_default_updates
from pytensor.graph.basic import Apply
from pytensor.graph.op import Op

import pm_psyphy as psy

RNG = np.random.default_rng(0)
QUIET = {"progressbar": False}


def check_loss(model: pm.Model, fit: psy.MAPResult) -> None:
    own = model.compile_logp(jacobian=False)(fit.unconstrained)
    assert fit.loss == pytest.approx(-float(own), rel=1e-9)


@pytest.mark.filterwarnings("ignore::pymc.exceptions.ImputationWarning")
@pytest.mark.parametrize("dims", [None, "a"])
def test_missing_observations_with_and_without_dims(dims):
    with pm.Model(coords={"a": range(5)}) as model:
        pm.Normal("y", pm.Normal("mu"), 1, observed=np.array([0, 0.5, np.nan, 1, np.nan]), dims=dims)
    fit = psy.find_map(model, **QUIET)
    assert fit["mu"] == pytest.approx(1.5 / 4, abs=1e-4)
    np.testing.assert_allclose(fit["y"], [0, 0.5, 0.375, 1, 0.375], atol=1e-4)
    assert psy.laplace(fit, draws=5)["y"].shape == (5, 5)


def test_deterministics_whose_shape_depends_on_values():
    with pm.Model() as model:
        x, b = pm.Data("x", np.array([1.0, -2, 3, 4])), pm.Normal("b")
        pm.Normal("y", b * x, 1, observed=[1.0, 2, 3, 4])
        pm.Deterministic("chosen", x[(x > 0).nonzero()] * b)
        pm.Deterministic("positive", (b * x)[b * x > 0])
    fit = psy.find_map(model, **QUIET)
    np.testing.assert_allclose(fit["chosen"], fit["b"] * np.array([1.0, 3, 4]))
    np.testing.assert_allclose(fit["positive"], fit["b"] * np.array([1.0, 3, 4]))
    assert list(psy.find_map(model, var_names=["b"], **QUIET)) == ["b"]
    assert psy.laplace(fit, draws=4, random_seed=1)["chosen"].shape == (4, 3)


def test_sums_of_many_terms():
    x = RNG.normal(size=(40, 60))
    with pm.Model() as model:
        b = [pm.Normal(f"b{i}", 0, 1) for i in range(40)]
        mu = sum(b[i] * pm.Data(f"x{i}", x[i]) for i in range(40))
        pm.Normal("y", mu, 1, observed=x.sum(0))
    fit = psy.find_map(model, **QUIET)
    expected = sum(fit[f"b{i}"] * x[i] for i in range(40))
    np.testing.assert_allclose(fit.evaluate(mu), expected)
    np.testing.assert_allclose(fit.evaluate(pt.add(*b)), sum(fit[f"b{i}"] for i in range(40)))


def test_an_autoregression_by_a_loop():
    y = np.zeros(60)
    for t in range(2, 60):
        y[t] = 0.5 * y[t - 1] - 0.3 * y[t - 2] + 0.5 * RNG.normal()

    def loop(start, rho, sigma, size):
        def step(before, last, rho, sigma):
            new = pm.Normal.dist(last * rho[0] + before * rho[1], sigma)
            return new, collect_default_updates(inputs=[before, last, rho, sigma], outputs=[new])

        initial = {"initial": start, "taps": [-2, -1]}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            return pytensor.scan(step, outputs_info=[initial], non_sequences=[rho, sigma], n_steps=58, strict=True)[0]

    with pm.Model(coords={"lag": [1, 2], "step": range(2, 60)}) as model:
        rho, sigma = pm.Normal("rho", 0, 0.5, dims="lag"), pm.HalfNormal("sigma", 1)
        pm.CustomDist("y", y[:2], rho, sigma, dist=loop, dims="step", observed=y[2:])
    fit = psy.find_map(model, **QUIET)
    check_loss(model, fit)
    residual = y[2:] - fit["rho"][0] * y[1:-1] - fit["rho"][1] * y[:-2]
    # At the mode of sigma: -58 / sigma + sum of squares / sigma^3 - sigma = 0.
    assert -58 / fit["sigma"] + np.sum(residual**2) / fit["sigma"] ** 3 == pytest.approx(fit["sigma"], abs=1e-3)


def test_shapes_that_follow_from_lengths_of_data():
    x, y = np.linspace(-1, 1, 80), RNG.normal(size=80)
    with pm.Model(coords={"N": range(80), "K": range(24)}) as model:
        data = pm.Data("x", x, dims="N")
        a, b = pm.Normal("a", 0, 5, dims="K"), pm.Normal("b", 0, 5, dims="K")
        v = pm.math.invlogit(a + pt.outer(data, b))
        left = pt.concatenate([pt.ones_like(v[:, :1]), pt.extra_ops.cumprod(1 - v[:, :-1], axis=1)], axis=1)
        w = pm.Deterministic("w", v * left, dims=("N", "K"))
        pm.NormalMixture("y", w, pm.Normal("mu", 0, 3, dims="K"), sigma=1.0, observed=y, dims="N")
    objective = psy.compile_objective(model)
    own = model.compile_logp(jacobian=False)(model.initial_point())
    assert float(objective.value(objective.start)) == pytest.approx(-float(own), rel=1e-9)


class Decay(Op):
    """A solver in NumPy, with a gradient of its own, which does not say of what shape its result is."""

    itypes = (pt.dvector,)
    otypes = (pt.dvector,)
    times = np.linspace(0, 9, 10)

    def perform(self, node, inputs, outputs):
        rate, size = inputs[0]
        if rate > 3:
            raise RuntimeError("the solver has failed")
        outputs[0][0] = size * np.exp(-rate * self.times)

    def pullback(self, inputs, outputs, gradients):
        return [DecayGradient()(inputs[0], gradients[0])]


class DecayGradient(Op):
    def make_node(self, parameters, gradient):
        return Apply(self, [parameters, gradient], [pt.dvector()])

    def perform(self, node, inputs, outputs):
        (rate, size), gradient = inputs
        shape = np.exp(-rate * Decay.times)
        outputs[0][0] = np.array([-(gradient * size * Decay.times * shape).sum(), (gradient * shape).sum()])


@pytest.mark.filterwarnings("ignore:Decay.*not in JAX")
@pytest.mark.parametrize("start", [0.1, 2.5])
def test_an_op_of_the_users_own_with_its_own_gradient_that_fails_on_the_way(start):
    with pm.Model() as model:
        parameters = pm.HalfNormal("parameters", 5, shape=2, initval=[start, 1.0])
        pm.Normal("y", Decay()(parameters), 0.1, observed=3 * np.exp(-0.5 * Decay.times))
    fit = psy.find_map(model, **QUIET)
    np.testing.assert_allclose(fit["parameters"], [0.5, 3.0], rtol=1e-3)


def test_rows_of_zero_exposure():
    exposure, k = np.array([0.0, 1, 2, 3, 0]), np.array([0, 1, 2, 5, 0])
    with pm.Model() as model:
        pm.Poisson("k", exposure * pm.math.exp(pm.Normal("b", 0, 1)), observed=k)
    fit = psy.find_map(model, **QUIET)
    assert fit.converged
    # b = 8 - 6 exp(b), by Newton's method.
    assert float(fit["b"]) == pytest.approx(8 - 6 * np.exp(float(fit["b"])), abs=1e-4)
    check_loss(model, fit)


def test_a_start_outside_of_an_interval_is_moved_inside():
    beyond = pm.distributions.transforms.Interval(None, -5.0)
    with pm.Model() as model:
        mu = pm.Normal("mu", 0, 10)
        pm.Normal("left", mu, 1, transform=beyond, shape=3)
        pm.Normal("y", mu, 1, observed=[1.0, 2.0])
    fit = psy.find_map(model, **QUIET)
    assert np.all(fit["left"] <= -5)


def test_a_start_that_is_not_finite_gives_way_to_others():
    with pm.Model() as model:
        shift = pm.HalfNormal("shift", 1)
        pm.CustomDist("y", shift, logp=lambda v, s: pt.log(v - s) - v, observed=np.linspace(0.3, 0.9, 20))
    fit = psy.find_map(model, random_seed=1, **QUIET)
    assert "another start" in fit.message
    assert fit["shift"] < 0.3
    with pytest.raises(ValueError, match="log p of 'y' is nan"):
        psy.find_map(model, initvals={"shift": 0.5}, **QUIET)


def test_checks_that_fail_are_said_with_the_log_probability():
    with pm.Model() as model:
        pm.NormalMixture("y", w=np.array([0.5, 0.4]), mu=pm.Normal("mu", shape=2), sigma=1, observed=[1.0])
    with pytest.raises(
        ValueError, match=r"log p of 'y' is -inf \(0 <= weights <= 1, sum\(weights\) == 1 does not hold\)"
    ):
        psy.find_map(model, **QUIET)


def test_the_diagnosis_of_a_start_takes_data_by_their_names():
    with pm.Model() as model:
        group = pm.Data("group", np.repeat(np.arange(2), 50))
        t = pm.HalfNormal("t", 1, shape=2)

        def logp(value, t):
            floor = pt.as_tensor(np.linspace(-66.0, -60.0, 100))
            return floor + pt.log(value - t)

        pm.CustomDist("y", t[group], logp=logp, observed=np.linspace(0.3, 0.9, 100))
    with pytest.raises(ValueError, match="The loss at the start is nan: log p of 'y' is nan"):
        psy.find_map(model, initvals={"t": [1.0, 1.0]}, **QUIET)


def test_sums_of_trees_are_refused_by_name():
    class BARTRV(pm.Normal.rv_type):
        pass

    class Trees(pm.Normal):
        rv_type = BARTRV
        rv_op = BARTRV()

    with pm.Model() as model:
        mu = pm.Normal("mu")
        mu.owner.op.__class__ = BARTRV
        pm.Normal("y", mu, 1, observed=[1.0])
    try:
        with pytest.raises(ValueError, match=r"mu is a sum of trees \(BART\)"):
            psy.find_map(model, **QUIET)
    finally:
        mu.owner.op.__class__ = pm.Normal.rv_type


def test_a_row_of_no_weight_is_absent_where_its_log_density_is_infinite():
    values = np.array([0.5, 1.0, 1.5, 2.0, 7.0])
    with pm.Model(coords={"trial": range(5)}) as model:
        top = pm.HalfNormal("top", 20, initval=10.0)
        pm.Uniform("y", 0, top, observed=values, dims="trial")
    with pytest.warns(UserWarning, match="no lower loss|no usable|Not converged"):
        fit = psy.find_map(model, **QUIET)
    from pm_psyphy.compiling.from_model import change_density
    from pm_psyphy.compiling.row_weights import WEIGHTS

    weighted = change_density(fit.objective, weighted_dim="trial")
    without = weighted.with_data(**{WEIGHTS: [1.0, 1, 1, 1, 0]})
    # Below the outlier, which is left out, the density of the others is finite: 4 log top, and the prior.
    loss, grads = without.value_and_grad({"top_log__": np.log(3.0)})
    prior = pm.logp(pm.HalfNormal.dist(20), 3.0).eval()
    assert float(loss) == pytest.approx(4 * np.log(3.0) - prior, rel=1e-9)
    assert np.isfinite(grads["top_log__"])


def test_a_row_of_no_weight_has_no_gradient_where_its_own_is_infinite():
    from pm_psyphy.compiling.from_model import change_density
    from pm_psyphy.compiling.row_weights import WEIGHTS

    x = np.array([1.0, 2.0, 4.0])
    with pm.Model(coords={"trial": range(3)}) as model:
        shift = pm.Normal("shift", 0, 1)
        pm.Normal("y", pt.sqrt(pm.Data("x", x, dims="trial") - shift), 1, observed=[1.0, 1.2, 1.7], dims="trial")
    weighted = change_density(psy.compile_objective(model), weighted_dim="trial")
    without = weighted.with_data(**{WEIGHTS: [0.0, 1, 1]})
    loss, grads = without.value_and_grad({"shift": 1.5})
    residuals = np.sqrt(x[1:] - 1.5) - [1.2, 1.7]
    slope = 1.5 - (residuals / (2 * np.sqrt(x[1:] - 1.5))).sum()
    assert np.isfinite(loss)
    assert float(grads["shift"]) == pytest.approx(slope, rel=1e-9)
