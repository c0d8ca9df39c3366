"""Threshold contours against closed forms, the probability they invert, and posterior draws."""

import copy
import pickle

import numpy as np
import pymc as pm
import pytensor.tensor as pt
import pytest
import xarray as xr
from scipy import optimize, special, stats

import pm_psyphy as psy
from pm_psyphy.reports import task_function
from pm_psyphy.reports.first_crossings import find_first_crossings
from pm_psyphy.reports.threshold_contours import ThresholdContours, fit_ellipses, spread_directions


def constant_field(covariance, basis_degree=0):
    covariance = np.atleast_2d(covariance)
    d = len(covariance)
    weights = np.zeros((*[basis_degree + 1] * d, d, d))
    weights[(0,) * d] = np.linalg.cholesky(covariance)
    return psy.WishartProcess("W", input_dim=d, basis_degree=basis_degree, extra_dims=0, diag_term=0, weights=weights)


def two_alternatives(field, reference, comparison):
    return psy.tasks.mafc_log_odds(psy.tasks.discriminability(field, reference, comparison))


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
    p = psy.tasks.oddity_probability(varying, starts[found], contours.points[found], lapse_rate=lapse_rate).eval()
    np.testing.assert_allclose(p, criterion, atol=1e-9)
    assert np.all(np.abs(contours.points[found]) <= 1)
    # No threshold was overlooked: up to the border of the domain P stays below the criterion.
    for r, n in np.argwhere(~found):
        end = references[r] + np.linspace(0, 3, 400)[:, None] * contours.directions[n]
        inside = end[np.all(np.abs(end) <= 1, axis=1)]
        p = psy.tasks.oddity_probability(
            varying, np.broadcast_to(references[r], inside.shape), inside, lapse_rate=lapse_rate
        )
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
    with pytest.raises(ValueError, match=r"Draws of 'W' have shape \(4, 4, 2, 3\). Pass \(S, 4, 4, 2, 3\)"):
        psy.threshold_contours({"W": weights}, field, references)
    with pytest.raises(ValueError, match="'W' has 1 masked values"):
        psy.threshold_contours({"W": np.ma.masked_array(stack, mask=stack == stack.max())}, field, references)
    with pytest.raises(ValueError, match="The tree has the groups prior, and no posterior"):
        psy.threshold_contours(xr.DataTree.from_dict({"/prior": tree["posterior"].dataset}), field, references)
    with pytest.raises(ValueError, match="variables of a model whose values are not known: W_z. Pass a fit or draws"):
        psy.threshold_contours(None, field, references)
    with pytest.raises(ValueError, match="These contours have no draws"):
        alone.quantile(0.5)


def test_quantiles_count_a_missing_threshold_as_beyond_the_border():
    radii = np.array([[[0.1, 0.2]], [[0.3, np.nan]], [[0.2, np.nan]], [[0.4, 0.4]], [[0.5, 0.6]]])
    contours = ThresholdContours(np.zeros((1, 2)), np.eye(2), radii, np.full((5, 1, 2, 2), np.nan), 2 / 3)
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
    expected = psy.threshold_contours(None, known, references).radii
    np.testing.assert_allclose(psy.threshold_contours(fit, field, references, tested=None).radii, expected)


def test_stimulus_units_come_back():
    domain = psy.Domain([0.0, 100.0], [4.0, 200.0])
    covariance = np.diag([0.02, 0.01])
    contours = psy.threshold_contours(None, constant_field(covariance), np.zeros((1, 2)))
    restored = contours.restore(domain)
    np.testing.assert_allclose(restored.points, domain.restore(contours.points))
    np.testing.assert_allclose(np.linalg.norm(restored.directions, axis=1), 1)
    again = fit_ellipses(restored.directions, restored.radii)
    np.testing.assert_allclose(restored.ellipses, again, rtol=1e-8, atol=1e-9)


@pytest.fixture(scope="module")
def with_slope():
    """A model with a variable, a deterministic and data that a task may use, its fit, and draws."""
    rng = np.random.default_rng(0)
    x, way = rng.uniform(-0.5, 0.5, (60, 2)), rng.normal(size=(60, 2))
    comparison = x + way / np.linalg.norm(way, axis=1, keepdims=True) * rng.uniform(0.05, 0.5, (60, 1))
    with pm.Model() as model:
        field = psy.WishartProcess("W", input_dim=2, basis_degree=0, extra_dims=0)
        slope = pm.LogNormal("slope", 0, 0.3)
        pm.Deterministic("twice", 2 * slope)
        pm.Data("gain", 0.9)
        log_odds = two_alternatives(field, x, comparison) * slope
        psy.Response("y", log_odds, observed=rng.integers(0, 2, 60), chance=0.5)
    fit = psy.find_map(model, progressbar=False)
    draws = {"W": fit["W"] * np.array([0.9, 1.0, 1.1])[:, None, None, None, None], "slope": np.array([0.5, 0.8, 1.2])}
    return model, field, fit, draws


TASK = {"criterion": 0.75, "chance": 0.5, "n_directions": 3, "tested": None}


@pytest.mark.parametrize(
    ("steepness", "value"),
    [
        (lambda model: model["slope"], lambda slope: slope),
        (lambda model: model["twice"], lambda slope: 2 * slope),
        (lambda model: model["gain"], lambda slope: 0.9),
        (lambda model: pt.exp(model["slope"]) * model["gain"], lambda slope: 0.9 * np.exp(slope)),
    ],
    ids=["variable", "deterministic", "data", "expression"],
)
def test_a_task_may_use_variables_of_the_model(with_slope, steepness, value):
    model, field, fit, draws = with_slope

    def task(f, r, c):
        return two_alternatives(f, r, c) * steepness(model)

    def expected(weights, slope):
        # P = sigmoid(value times the log-odds of Phi(d' / sqrt 2)) is 0.75 at this d'.
        d_prime = np.sqrt(2) * special.ndtri(special.expit(special.logit(0.75) / value(slope)))
        covariance = weights[0, 0] @ weights[0, 0].T + 1e-6 * np.eye(2)
        directions = spread_directions(2, 3)
        return d_prime / np.sqrt(np.einsum("nd,de,ne->n", directions, np.linalg.inv(covariance), directions))

    references = np.zeros((1, 2))
    found = psy.threshold_contours(fit, field, references, task=task, **TASK)
    inside = np.isfinite(found.radii[0])
    assert inside.any()
    np.testing.assert_allclose(found.radii[0][inside], expected(fit["W"], fit["slope"])[inside], rtol=1e-8)
    of_draws = psy.threshold_contours(draws, field, references, task=task, **TASK)
    for i in range(3):
        inside = np.isfinite(of_draws.radii[i, 0])
        np.testing.assert_allclose(
            of_draws.radii[i, 0][inside], expected(draws["W"][i], draws["slope"][i])[inside], rtol=1e-8
        )


def test_a_task_whose_variables_are_not_known_names_them(with_slope):
    model, field, fit, draws = with_slope
    known = psy.WishartProcess("W", input_dim=2, basis_degree=0, extra_dims=0, weights=fit["W"])
    with pm.Model():
        other = pm.Normal("other")

    def times(variable):
        return lambda f, r, c: two_alternatives(f, r, c) * variable

    x = np.zeros((1, 2))
    with pytest.raises(ValueError, match="whose values are not known: slope. Pass a fit or draws"):
        psy.threshold_contours(None, known, x, task=times(model["slope"]), **TASK)
    with pytest.raises(ValueError, match="The draws hold W, and not slope. Pass draws of these, too"):
        psy.threshold_contours({"W": draws["W"]}, field, x, task=times(model["slope"]), **TASK)
    with pytest.raises(ValueError, match="Numbers of draws differ: W 3, slope 2"):
        psy.threshold_contours(draws | {"slope": draws["slope"][:2]}, field, x, task=times(model["slope"]), **TASK)
    with pytest.raises(ValueError, match="uses other, not of the model that was fitted"):
        psy.threshold_contours(fit, field, x, task=times(other), **TASK)
    with pytest.raises(ValueError, match="The task draws random numbers at each evaluation"):
        psy.threshold_contours(
            fit, field, x, task=lambda *a: psy.tasks.simulated_oddity_log_odds(*a, fresh=True, draws=5), **TASK
        )


def test_a_task_that_refers_to_something_else_now_is_another_task():
    settings = {"references": np.zeros((1, 2)), **TASK}
    field, steepness = constant_field(np.eye(2) / 50), 1.0

    def task(f, r, c):
        return two_alternatives(f, r, c) * steepness

    first = psy.threshold_contours(None, field, task=task, **settings).radii
    steepness = 2.0
    second = psy.threshold_contours(None, field, task=task, **settings).radii
    np.testing.assert_allclose(first, np.sqrt(2 / 50) * special.ndtri(0.75), rtol=1e-9)
    d_prime = np.sqrt(2) * special.ndtri(special.expit(special.logit(0.75) / 2))
    np.testing.assert_allclose(second, d_prime / np.sqrt(50), rtol=1e-9)
    # The same task, written anew, is compiled once.
    n_compiled = len(task_function._compiled)
    again = psy.threshold_contours(None, field, task=lambda *a: two_alternatives(*a) * 2.0, **settings).radii
    np.testing.assert_array_equal(again, second)
    assert len(task_function._compiled) == n_compiled


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (
            lambda f, r, c: pt.log((c - r).sum(axis=-1) - 0.1),
            r"The task returns NaN for the reference \[0. 0.\] and the",
        ),
        (lambda f, r, c: c - r, "The task returns 2 axes"),
        (lambda f, r, c: pt.ones(3), "The task does not depend on its stimuli"),
    ],
)
def test_a_task_without_log_odds_is_an_error(task, message):
    with pytest.raises(ValueError, match=message):
        psy.threshold_contours(None, constant_field(np.eye(2) / 50), np.zeros((1, 2)), task=task)


def find_crossing(f, resolution=128, guess=0.5):
    """Return the first crossing of one function on [0, 1], and at how many points it was evaluated."""
    seen = []

    def evaluate(rays, r):
        seen.extend(r)
        return f(r)

    one = np.ones(1)
    settings = {"resolution": resolution, "precision": np.finfo(float).eps}
    return find_first_crossings(evaluate, f(np.zeros(1)), guess * one, one, **settings)[0], len(seen)


@pytest.mark.parametrize("width", [0.1, 0.03, 0.01, 0.003, 0.0015])
@pytest.mark.parametrize(
    "base", [lambda r: -3 + 0 * r, lambda r: -3 + 3.5 * r, lambda r: -4 + 6 * special.expit((r - 0.95) * 60)]
)
def test_the_first_crossing_of_a_narrow_bump_is_found(base, width):
    rng = np.random.default_rng(0)
    for place in rng.uniform(0.1, 0.9, 20):

        def f(r, place=place):
            return base(r) + 8 * np.exp(-(((r - place) / width) ** 2))

        fine = np.linspace(0, 1, 200_001)
        first = np.argmax(f(fine) > 0)
        expected = optimize.brentq(f, fine[first - 1], fine[first], xtol=1e-14)
        found, n = find_crossing(f)
        np.testing.assert_allclose(found, expected, rtol=1e-9)
        assert n < 400


def test_a_bump_that_nearly_touches_the_criterion_is_told_from_one_that_does():
    for height in (-1e-6, 1e-6):
        found, _ = find_crossing(lambda r, h=height: h - 40 * (r - 0.4123) ** 2 + 0 * r)
        if height < 0:
            assert np.isnan(found)
        else:
            np.testing.assert_allclose(found, 0.4123 - np.sqrt(height / 40), rtol=1e-9)


@pytest.mark.parametrize(
    ("f", "expected"),
    [
        (lambda r: r - 0.3, 0.3),
        (lambda r: 1e3 * np.tanh(1e4 * (r - 0.3)), 0.3),
        (lambda r: np.where(r < 0.3, -np.inf, np.inf), 0.3),
        (lambda r: 1 - r, 0.0),
        (lambda r: r - 2, np.nan),
        (lambda r: r - 1e-6, 1e-6),
        (lambda r: np.abs(r - 0.4) - 0.1 - 0.4 * (r < 0.45), 0.5),
        (lambda r: np.sin(40 * r) - 0.99, np.arcsin(0.99) / 40),
    ],
    ids=["line", "steep", "step", "above from the start", "below", "near", "kink", "waves"],
)
@pytest.mark.parametrize("guess", [1e-4, 0.3, 20.0])
def test_functions_of_any_form_have_their_first_crossing(f, expected, guess):
    found, n = find_crossing(f, guess=guess)
    np.testing.assert_allclose(found, expected, rtol=1e-8)
    assert n < 500


def test_a_narrow_rise_of_a_task_is_its_threshold():
    field = constant_field(np.eye(2) / 100)

    def task(f, r, c):
        d = pt.sqrt(((c - r) ** 2).sum(axis=-1))
        return -3 + 8 * pt.exp(-(((d - 0.45) / 0.01) ** 2)) + 6 * pt.sigmoid((d - 0.8) * 60)

    def exceed(d):
        return -3 + 8 * np.exp(-(((d - 0.45) / 0.01) ** 2)) + 6 * special.expit((d - 0.8) * 60) - special.logit(0.75)

    expected = optimize.brentq(exceed, 0.42, 0.45, xtol=1e-14)
    contours = psy.threshold_contours(None, field, np.zeros((1, 2)), n_directions=2, task=task, criterion=0.75)
    np.testing.assert_allclose(contours.radii, [[expected] * 2], rtol=1e-9)
    np.testing.assert_allclose(expected, 0.442, atol=5e-4)


def test_few_points_are_needed_of_an_ordinary_field(varying, monkeypatch):
    counts = []
    run = task_function.TaskFunction.__call__

    def count(self, draw, reference, comparison):
        counts.append(len(draw))
        return run(self, draw, reference, comparison)

    monkeypatch.setattr(task_function.TaskFunction, "__call__", count)
    grid = np.stack(np.meshgrid(*[np.linspace(-0.6, 0.6, 4)] * 2), axis=-1).reshape(-1, 2)
    contours = psy.threshold_contours(None, varying, grid)
    # A scan of 17 distances and a root by bisection to the same precision would be 17 + 40.
    assert sum(counts) < 35 * contours.radii.size


def observe(response, *, task="oddity", seed=0, n=200):
    """Fit an observer who was tested at distances from 0.2 to 0.5."""
    rng = np.random.default_rng(seed)
    x, way = rng.uniform(-0.4, 0.4, (n, 2)), rng.normal(size=(n, 2))
    comparison = x + way / np.linalg.norm(way, axis=1, keepdims=True) * rng.uniform(0.2, 0.5, (n, 1))
    with pm.Model() as model:
        field = psy.WishartProcess("W", input_dim=2, basis_degree=1)
        if task == "oddity":
            psy.Oddity("y", field, pm.Data("x", x), comparison, observed=response(rng, n))
        else:
            psy.Response("y", two_alternatives(field, x, comparison), observed=response(rng, n), chance=0.5)
    fit = psy.find_map(model, progressbar=False)
    return field, fit, psy.Trials.from_arrays(x, comparison, response(rng, n))


@pytest.mark.filterwarnings("ignore::UserWarning:pm_psyphy")
@pytest.mark.parametrize("task", ["oddity", "two alternatives"])
def test_an_observer_who_is_always_right_gets_upper_bounds(task):
    field, fit, trials = observe(lambda rng, n: np.ones(n, int), task=task)
    references, settings = np.zeros((2, 2)), {"n_directions": 6}
    if task != "oddity":
        settings |= {"task": two_alternatives, "chance": 0.5, "criterion": 0.75}
    bounds = psy.threshold_contours(fit, field, references, **settings)
    assert np.all(bounds.status == "below")
    distance = np.linalg.norm(trials.comparison - trials.reference, axis=1)
    assert np.all((bounds.radii >= distance.min()) & (bounds.radii < 0.3))
    assert repr(bounds).splitlines()[0].endswith("2 references x 6 directions, 12 upper bounds")
    # The same trials, given.
    given = psy.threshold_contours(fit, field, references, tested=trials, **settings)
    np.testing.assert_array_equal(given.radii, bounds.radii)
    without = psy.threshold_contours(fit, field, references, tested=None, **settings)
    assert without.status is None
    assert np.all(without.radii < 0.1)
    # Distances alone: what the prior says is far below them.
    alone = psy.threshold_contours(fit, field, references, tested=(trials.reference, trials.comparison), **settings)
    np.testing.assert_array_equal(alone.radii, without.radii)
    assert repr(alone).splitlines()[0].endswith("12 extrapolated")
    draws = psy.threshold_contours({"W": np.stack([fit["W"]] * 3)}, field, references, tested=trials, **settings)
    np.testing.assert_allclose(draws.radii, np.stack([without.radii] * 3))
    assert repr(draws).splitlines()[0].endswith("12 upper bounds")
    np.testing.assert_array_equal(draws.quantile(0.95).radii, bounds.radii)
    assert np.all(draws.quantile(0.95).status == "below")
    restored = bounds.restore(psy.Domain([0, 0], [4, 8]))
    np.testing.assert_array_equal(restored.status, bounds.status)
    np.testing.assert_allclose(restored.tested.smallest / restored.radii, bounds.tested.smallest / bounds.radii)


@pytest.mark.filterwarnings("ignore::UserWarning:pm_psyphy")
def test_an_observer_who_guesses_gets_lower_bounds():
    field, fit, trials = observe(lambda rng, n: np.zeros(n, int))
    contours = psy.threshold_contours(fit, field, np.zeros((1, 2)), n_directions=6)
    assert np.all(contours.status == "above")
    inside = np.isfinite(contours.radii)
    distance = np.linalg.norm(trials.comparison - trials.reference, axis=1)
    assert np.all(contours.radii[inside] <= distance.max())
    assert "lower bounds" in repr(contours)


def test_an_ordinary_observer_gets_thresholds():
    truth = constant_field(np.eye(2) * 0.15**2)
    rng = np.random.default_rng(0)
    x = rng.uniform(-0.4, 0.4, (600, 2))
    comparison = psy.place_comparisons(truth, x, rng.uniform(0.5, 4, 600), random_seed=1)
    trials = psy.simulate_trials(truth, x, comparison, random_seed=2)
    with pm.Model() as model:
        field = psy.WishartProcess("W", input_dim=2, basis_degree=1)
        psy.Oddity("y", field, trials.reference, trials.comparison, observed=trials.response)
    fit = psy.find_map(model, progressbar=False)
    contours = psy.threshold_contours(fit, field, np.zeros((1, 2)))
    assert np.all(contours.status == "measured")
    np.testing.assert_array_equal(
        contours.radii, psy.threshold_contours(fit, field, np.zeros((1, 2)), tested=None).radii
    )
    expected = psy.threshold_contours(None, truth, np.zeros((1, 2))).radii
    np.testing.assert_allclose(contours.radii, expected, rtol=0.3)
    with pytest.raises(ValueError, match="What was tested has 1 dimensions, the field 2"):
        psy.threshold_contours(fit, field, np.zeros((1, 2)), tested=(np.zeros(5), np.ones(5) / 2))
    with pytest.raises(ValueError, match="tested is 'trials'. Pass trials"):
        psy.threshold_contours(fit, field, np.zeros((1, 2)), tested="trials")
    with pytest.raises(ValueError, match="tested is neither a table of trials nor arrays"):
        psy.threshold_contours(fit, field, np.zeros((1, 2)), tested=np.zeros((5, 2)))


def test_contours_can_be_copied_pickled_and_compared():
    contours = psy.threshold_contours(None, constant_field(np.eye(2) / 50), np.zeros((1, 2)), n_directions=4)
    for again in (copy.copy(contours), copy.deepcopy(contours), pickle.loads(pickle.dumps(contours))):
        np.testing.assert_array_equal(again.radii, contours.radii)
        assert repr(again) == repr(contours)
        assert contours == contours
        assert len({contours, again}) == 2


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
        ({"directions": [[0.0, np.nan]]}, "A direction has length 0, or is not finite"),
        ({"directions": [[0.0, 1.0, 0.0]]}, "Directions have 3 dimensions, the field has 2"),
        ({"references": np.ma.masked_array([[0.0, 0.1]], mask=[[0, 1]])}, "'references' has 1 masked values"),
        ({"resolution": 0}, "resolution is 0. Pass a whole number"),
        ({"chance": -0.1}, "chance is -0.1. Pass a probability"),
        ({"lapse_rate": 0.9}, "lapse_rate is 0.9. Pass a number from 0 up to"),
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
    field = psy.WishartProcess(
        "W", input_dim=2, basis_degree=0, extra_dims=0, weights=np.zeros((1, 1, 2, 2)), diag_term=np.ones(3)
    )
    with pytest.raises(ValueError, match="diag_term of 'W' has one number for each point"):
        psy.threshold_contours(None, field, np.zeros((1, 2)))
