"""Threshold contours against closed forms, the probability they invert, and posterior draws."""

import numpy as np
import pymc as pm
import pytest
import xarray as xr
from scipy import optimize, special, stats

import pm_psyphy as psy
from pm_psyphy.thresholds import fit_ellipses, spread_directions


def constant_field(covariance, basis_degree=0):
    covariance = np.atleast_2d(covariance)
    d = len(covariance)
    weights = np.zeros((*[basis_degree + 1] * d, d, d))
    weights[(0,) * d] = np.linalg.cholesky(covariance)
    return psy.WishartProcess("W", input_dim=d, basis_degree=basis_degree, extra_dims=0, diag_term=0, weights=weights)


def two_alternatives(field, reference, comparison):
    return psy.mafc_log_odds(psy.discriminability(field, reference, comparison))


def test_a_constant_covariance_gives_its_own_ellipse():
    covariance = np.array([[0.02, 0.008], [0.008, 0.01]])
    contours = psy.threshold_contours(
        None, constant_field(covariance), np.zeros((1, 2)), criterion=0.75, task=two_alternatives, chance=0.5
    )
    # P = Phi(d' / sqrt 2)
    d_prime = np.sqrt(2) * special.ndtri(0.75)
    inverse = np.linalg.inv(covariance)
    expected = d_prime / np.sqrt(np.einsum("nd,de,ne->n", contours.directions, inverse, contours.directions))
    np.testing.assert_allclose(contours.radii[0], expected, rtol=1e-9)
    np.testing.assert_allclose(contours.ellipses[0], covariance * d_prime**2, rtol=1e-8)
    assert contours.n_missing == 0


def test_one_dimension_is_the_triangle_test():
    contours = psy.threshold_contours(None, constant_field([[0.01]]), [[0.0]], criterion=0.6)

    def p(d):  # Ennis (1993)
        x = np.linspace(0, 9, 20001)
        both = stats.norm.cdf(-x * np.sqrt(3) + d * np.sqrt(2 / 3)) + stats.norm.cdf(
            -x * np.sqrt(3) - d * np.sqrt(2 / 3)
        )
        return np.trapezoid(2 * stats.norm.pdf(x) * both, x)

    expected = optimize.brentq(lambda d: p(d) - 0.6, 0.1, 8)
    np.testing.assert_allclose(contours.radii, [[0.1 * expected] * 2], rtol=1e-6)


@pytest.fixture(scope="module")
def varying():
    with pm.Model() as prior:
        psy.WishartProcess("W", input_dim=2, basis_degree=3)
    weights = pm.draw(prior["W"], random_seed=4)
    return psy.WishartProcess("W", input_dim=2, basis_degree=3, weights=weights)


@pytest.mark.parametrize(("criterion", "lapse_rate"), [(2 / 3, 0.0), (0.5, 0.05), (0.9, 0.02)])
def test_the_probability_at_the_contour_is_the_criterion(varying, criterion, lapse_rate):
    references = np.array([[0.0, 0.0], [0.5, -0.5], [-0.9, 0.9]])
    contours = psy.threshold_contours(
        None, varying, references, criterion=criterion, lapse_rate=lapse_rate, n_directions=12
    )
    found = np.isfinite(contours.radii)
    starts = np.broadcast_to(references[:, None], contours.points.shape)
    p = psy.oddity_probability(varying, starts[found], contours.points[found], lapse_rate=lapse_rate).eval()
    np.testing.assert_allclose(p, criterion, atol=1e-9)
    assert np.all(np.abs(contours.points[found]) <= 1)
    # No threshold was overlooked: up to the border of the domain P stays below the criterion.
    for r, n in np.argwhere(~found):
        end = references[r] + np.linspace(0, 3, 400)[:, None] * contours.directions[n]
        inside = end[np.all(np.abs(end) <= 1, axis=1)]
        p = psy.oddity_probability(varying, np.broadcast_to(references[r], inside.shape), inside, lapse_rate=lapse_rate)
        assert np.all(p.eval() < criterion)
    assert contours.n_missing == np.sum(~found)
    assert "without a threshold inside the domain" in repr(contours) or found.all()


def test_draws_give_a_contour_each(varying):
    weights = varying.weights.eval()
    scales = np.array([0.8, 1.0, 1.2])
    stack = weights * scales[:, None, None, None, None]
    with pm.Model():
        field = psy.WishartProcess("W", input_dim=2, basis_degree=3)
    tree = xr.DataTree.from_dict({"/posterior": xr.Dataset({"W": (("chain", "draw", *"abcd"), stack[None])})})
    references = np.zeros((2, 2))
    contours = psy.threshold_contours(tree, field, references)
    by_name = psy.threshold_contours({"W": stack}, field, references)
    alone = psy.threshold_contours(None, varying, references)
    assert contours.radii.shape == (3, 2, 16)
    np.testing.assert_array_equal(by_name.radii, contours.radii)
    np.testing.assert_allclose(contours.radii[1], alone.radii, rtol=1e-9)
    np.testing.assert_allclose(contours.quantile(0.5).radii, np.median(contours.radii, axis=0))
    with pytest.raises(ValueError, match="no variable on which this field's weights depend"):
        psy.threshold_contours({"V": stack}, field, references)
    with pytest.raises(ValueError, match="These contours have no draws"):
        alone.quantile(0.5)


def test_quantiles_count_a_missing_threshold_as_beyond_the_border():
    radii = np.array([[[0.1, 0.2]], [[0.3, np.nan]], [[0.2, np.nan]], [[0.4, 0.4]], [[0.5, 0.6]]])
    contours = psy.ThresholdContours(np.zeros((1, 2)), np.eye(2), radii, np.full((5, 1, 2, 2), np.nan), 2 / 3)
    np.testing.assert_allclose(contours.quantile(0.5).radii, [[0.3, 0.6]])
    np.testing.assert_allclose(contours.quantile(0.75).radii, [[0.4, np.nan]])


def test_a_fit_is_evaluated_at_its_estimate():
    rng = np.random.default_rng(0)
    x = rng.uniform(-0.5, 0.5, (50, 2))
    with pm.Model() as model:
        field = psy.WishartProcess("W", input_dim=2, basis_degree=1)
        psy.Oddity("y", field, x, np.clip(x + 0.2, -1, 1), observed=rng.integers(0, 2, 50))
    fit = psy.find_map(model)
    known = psy.WishartProcess("W", input_dim=2, basis_degree=1, weights=fit["W"])
    references = np.zeros((1, 2))
    np.testing.assert_allclose(
        psy.threshold_contours(fit, field, references).radii, psy.threshold_contours(None, known, references).radii
    )


def test_stimulus_units_come_back():
    domain = psy.Domain([0.0, 100.0], [4.0, 200.0])
    covariance = np.diag([0.02, 0.01])
    contours = psy.threshold_contours(None, constant_field(covariance), np.zeros((1, 2)))
    restored = contours.restore(domain)
    np.testing.assert_allclose(restored.points, domain.restore(contours.points))
    np.testing.assert_allclose(np.linalg.norm(restored.directions, axis=1), 1)
    again = fit_ellipses(restored.directions, restored.radii)
    np.testing.assert_allclose(restored.ellipses, again, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("d", [1, 2, 3, 4])
def test_directions_spread_evenly(d):
    directions = spread_directions(d, 64)
    np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1)
    np.testing.assert_allclose(directions.mean(axis=0), 0, atol=0.05)


def test_an_ellipse_needs_enough_points():
    directions = spread_directions(2, 6)
    radii = np.full((1, 6), np.nan)
    radii[0, :2] = 1.0
    assert np.isnan(fit_ellipses(directions, radii)).all()
    radii[0, :] = 2.0
    np.testing.assert_allclose(fit_ellipses(directions, radii)[0], 4 * np.eye(2), atol=1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"criterion": 0.3}, "criterion is 0.3. Pass a proportion correct between chance, 0.3333, and the best"),
        ({"criterion": 0.96, "lapse_rate": 0.05}, "best performance, 0.95"),
        ({"references": [[0.0, 1.2]]}, r"outside \[-1, 1\]"),
        ({"n_directions": 0}, "n_directions is 0"),
        ({"directions": [[0.0, 0.0]]}, "A direction has length 0"),
    ],
)
def test_bad_settings_are_named(change, message):
    settings = {"references": np.zeros((1, 2))} | change
    with pytest.raises(ValueError, match=message):
        psy.threshold_contours(None, constant_field(np.eye(2) / 50), **settings)


def test_a_field_for_each_trial_has_no_contour():
    field = psy.WishartProcess("W", input_dim=2, basis_degree=0, extra_dims=0, weights=np.zeros((3, 1, 1, 2, 2)))
    with pytest.raises(ValueError, match="Declare a WishartProcess with the weights of one observer"):
        psy.threshold_contours(None, field, np.zeros((1, 2)))
