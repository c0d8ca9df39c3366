"""The covariance field against NumPy's Chebyshev polynomials, and what it refuses."""

import numpy as np
import pymc as pm
import pytensor.tensor as pt
import pytest
from numpy.polynomial import chebyshev

import pm_psyphy as psy
from pm_psyphy.psychophysics import WishartProcess
from pm_psyphy.psychophysics.basis import chebyshev_polynomials


def field_by_numpy(weights, x):
    """Sum the polynomials one by one."""
    d = x.shape[-1]
    u = np.zeros((len(x), *weights.shape[d:]))
    for degrees in np.ndindex(*weights.shape[:d]):
        product = np.ones(len(x))
        for axis, degree in enumerate(degrees):
            product *= chebyshev.chebval(x[:, axis], np.eye(degree + 1)[degree])
        u += product[:, None, None] * weights[degrees]
    return u


@pytest.mark.parametrize(("d", "degree", "extra"), [(1, 4, 1), (1, 0, 0), (2, 4, 1), (2, 1, 0), (3, 3, 2), (4, 2, 1)])
def test_the_field_is_the_sum_of_chebyshev_products(d, degree, extra):
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(*[degree + 1] * d, d, d + extra))
    x = rng.uniform(-1, 1, (7, d))
    field = WishartProcess("W", input_dim=d, basis_degree=degree, extra_dims=extra, diag_term=0.25, weights=weights)
    u = field_by_numpy(weights, x)
    np.testing.assert_allclose(field.sqrt_covariance(x).eval(), u, rtol=1e-12, atol=1e-12)
    expected = u @ u.transpose(0, 2, 1) + 0.25 * np.eye(d)
    np.testing.assert_allclose(field.covariance(x).eval(), expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(field.covariance(x[0]).eval(), expected[0], rtol=1e-12, atol=1e-12)


def test_high_degrees_are_stable():
    x = np.linspace(-1, 1, 101)
    np.testing.assert_allclose(chebyshev_polynomials(x, 60).eval()[:, 60], np.cos(60 * np.arccos(x)), atol=1e-12)


def test_the_prior_has_the_variance_of_each_degree():
    with pm.Model() as model:
        WishartProcess("W", input_dim=2, basis_degree=2, variance_scale=0.5, decay_rate=0.3)
    draws = pm.draw(model["W"], draws=4000, random_seed=1)
    assert draws.shape == (4000, 3, 3, 2, 3)
    a, b = np.indices((3, 3))
    expected = 0.5 * 0.3 ** (a + b)
    # The variance of a variance estimate from n draws is 2 / n of its square; here n = 6 * 4000.
    np.testing.assert_allclose(draws.var(axis=(0, 3, 4)), expected, rtol=4 * np.sqrt(2 / 24_000))


def test_hyperparameters_may_be_random_variables():
    with pm.Model() as model:
        scale, decay = pm.HalfNormal("scale", 1), pm.Beta("decay", 2, 3)
        field = WishartProcess("W", input_dim=1, basis_degree=2, variance_scale=scale, decay_rate=decay)
        pm.Potential("fit", -pt.sum((field.covariance([[0.5]]) - 0.3) ** 2))
    loss, grads = psy.compile_objective(model).value_and_grad(model.initial_point())
    assert np.isfinite(loss)
    assert all(np.any(np.asarray(g) != 0) for g in grads.values())


def test_each_trial_may_have_weights_of_its_own():
    rng = np.random.default_rng(2)
    weights, x, observer = rng.normal(size=(3, 4, 4, 2, 3)), rng.uniform(-1, 1, (10, 2)), rng.integers(0, 3, 10)
    settings = {"input_dim": 2, "basis_degree": 3}
    together = WishartProcess("W", weights=weights[observer], **settings).covariance(x).eval()
    for n, who in enumerate(observer):
        alone = WishartProcess("W", weights=weights[who], **settings).covariance(x[n]).eval()
        np.testing.assert_allclose(together[n], alone, rtol=1e-12)


def test_a_search_does_not_begin_at_the_saddle():
    with pm.Model() as model:
        field = WishartProcess("W", input_dim=2, basis_degree=1)
        pm.Potential("fit", -pt.sum((field.covariance([[0.5, 0.1], [-0.5, 0.3]]) - 0.3) ** 2))
    objective = psy.compile_objective(model)
    _, grads = objective.value_and_grad(objective.start)
    assert np.all(np.abs(grads["W_z"]) > 1e-8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_dim": 0}, "input_dim is 0. Pass a whole number of at least 1"),
        ({"basis_degree": -1}, "basis_degree is -1"),
        ({"extra_dims": 1.5}, "extra_dims is 1.5"),
        ({"variance_scale": 0.0}, "variance_scale is 0.0. Pass a positive number"),
        ({"decay_rate": -0.4}, "decay_rate is -0.4"),
        ({"diag_term": -1e-6}, "diag_term is -1e-06. Pass a number of at least 0"),
        (
            {"weights": np.zeros((5, 5, 2, 2))},
            r"weights has shape \(5, 5, 2, 2\), but the field needs \(..., 5, 5, 2, 3\)",
        ),
    ],
)
def test_bad_settings_are_named(arguments, message):
    with pm.Model(), pytest.raises(ValueError, match=message):
        WishartProcess("W", **{"input_dim": 2} | arguments)


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([[0.0, 0.0], [0.0, 1.5]], r"point at index \(1,\) holds 1.5, outside \[-1, 1\]. Rescale"),
        ([[np.nan, 0.0]], r"point at index \(0,\) holds nan"),
        ([[0.0, 0.0, 0.0]], r"The points have shape \(1, 3\), but the field has 2 dimensions"),
        (0.5, r"The points have shape \(\), but the field has 2 dimensions"),
    ],
)
@pytest.mark.parametrize("as_data", [False, True], ids=["array", "pm.Data"])
def test_points_off_the_domain_are_errors_where_they_are_known(points, message, as_data):
    if as_data and np.isnan(points).any():
        message = "nan"  # PyMC's own error
    with pm.Model():
        field = WishartProcess("W", input_dim=2)
        with pytest.raises((ValueError, NotImplementedError), match=message):
            field.covariance(pm.Data("x", np.asarray(points)) if as_data else points)


def test_new_data_off_the_domain_are_errors_too():
    with pm.Model() as model:
        x = pm.Data("x", np.zeros((3, 2)))
        field = WishartProcess("W", input_dim=2, basis_degree=1)
        pm.Normal("y", field.covariance(x)[:, 0, 0], 1, observed=np.zeros(3))
    objective = psy.compile_objective(model)
    for bad in (np.full((3, 2), 1.1), np.full((3, 2), np.nan)):
        with pytest.raises(ValueError, match="NaN or outside"):
            objective.with_data(x=bad)
        with model:
            pm.set_data({"x": bad})
        with pytest.raises(ValueError, match="NaN or outside"):
            psy.find_map(model)
    with model:
        pm.set_data({"x": np.ones((3, 2))})
    assert np.isfinite(psy.find_map(model).loss)
