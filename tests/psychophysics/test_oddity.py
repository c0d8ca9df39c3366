"""The exact oddity likelihood against simulation, closed forms, much finer rules and finite differences."""

import jax
import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
import pytest
from pytensor.compile.mode import Mode
from scipy import integrate, special, stats

import pm_psyphy as psy
from pm_psyphy.common.row_function import NumPyGraph, RowFunction
from pm_psyphy.compiling.jax_linker import translate
from pm_psyphy.compiling.row_loops import ROWS_OF_BLOCK
from pm_psyphy.psychophysics.oddity import log_incorrect
from pm_psyphy.psychophysics.oddity_plane import plane_op
from pm_psyphy.psychophysics.oddity_space import space_op


def compile_log_incorrect(d, nodes=None, gradient=False):
    difference = pt.matrix("difference", shape=(None, d))
    s0, s1 = (pt.tensor3(name, shape=(None, d, d)) for name in ("s0", "s1"))
    value = log_incorrect(difference, s0, s1, nodes)
    outputs = [value, *pytensor.grad(value.sum(), [difference, s0, s1])] if gradient else value
    return pytensor.function([difference, s0, s1], outputs, mode="FAST_COMPILE")


def draw_covariances(rng, n, d, spread):
    """Return covariances of any shape, and ones that differ from them by factors of up to 1 + spread."""
    root = rng.normal(size=(n, d, d)) + 1.5 * np.eye(d)
    rotation = np.linalg.qr(rng.normal(size=(n, d, d)))[0]
    factors = np.exp(rng.uniform(-1, 1, (n, d)) * np.log1p(spread))
    between = np.einsum("nij,nj,nkj->nik", rotation, factors, rotation)
    return root @ root.transpose(0, 2, 1), root @ between @ root.transpose(0, 2, 1)


def draw_differences(rng, s0, distance):
    """Return differences at a Mahalanobis distance in the reference's covariance."""
    direction = rng.normal(size=s0.shape[:2])
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    return distance * np.einsum("nij,nj->ni", np.linalg.cholesky(s0), direction)


def simulate(rng, difference, s0, s1, n, chunk=50_000):
    """Play the task, and return the share of incorrect responses."""
    return np.mean([_simulate(rng, difference, s0, s1, chunk) for _ in range(n // chunk)])


def _simulate(rng, difference, s0, s1, n):
    root0, root1 = np.linalg.cholesky(s0), np.linalg.cholesky(s1)
    whitener = np.linalg.cholesky(np.linalg.inv((2 * s0 + s1) / 3))
    z = [rng.normal(size=(n, len(difference))) @ root0.T for _ in range(2)]
    z1 = difference + rng.normal(size=(n, len(difference))) @ root1.T

    def square(v):
        return np.sum((v @ whitener) ** 2, axis=1)

    return np.mean(np.minimum(square(z1 - z[0]), square(z1 - z[1])) < square(z[0] - z[1]))


@pytest.mark.parametrize("d", [1, 2, 3])
def test_simulation_agrees_within_its_error(d):
    rng = np.random.default_rng(3)
    distances, n = [0.0, 1.0, 2.0, 3.5, 5.0], 4_000_000
    s0, s1 = draw_covariances(rng, len(distances), d, 1.0)
    differences = np.concatenate([draw_differences(rng, s0[i : i + 1], x) for i, x in enumerate(distances)])
    exact = np.exp(compile_log_incorrect(d)(differences, s0, s1))
    found = np.array([simulate(rng, *case, n) for case in zip(differences, s0, s1, strict=True)])
    assert np.all(np.abs(found - exact) < 4 * np.sqrt(exact * (1 - exact) / n))


@pytest.mark.parametrize("d", [1, 2, 3, 4])
def test_equal_stimuli_are_found_by_chance(d):
    covariance = np.eye(d)[None] * 0.3
    log_q = compile_log_incorrect(d)(np.zeros((1, d)), covariance, covariance)
    # The rules' errors at equal stimuli.
    np.testing.assert_allclose(log_q, np.log(2 / 3), atol={1: 1e-14, 2: 1e-6}.get(d, 2e-5))


def by_noncentral_f(d, distance):
    """Return P(correct) for equal covariances: noncentral F given the angle between u and w."""
    nodes, weights = np.polynomial.legendre.leggauss(200)
    angle = (nodes + 1) * np.pi / 4
    c = np.sin(angle)
    density = np.cos(angle) ** (d - 2) * weights
    h = np.sqrt(1 + c**2 / 3) - c / np.sqrt(3)
    p = stats.ncf.sf(1 / h**2, d, d, 2 * distance**2 / 3)
    return np.sum(density * p) / np.sum(density)


@pytest.mark.parametrize("distance", [0.5, 1.0, 2.0, 4.0])
@pytest.mark.parametrize("d", [2, 3, 4])
def test_equal_covariances_give_the_noncentral_f_oracle(d, distance):
    s0, _ = draw_covariances(np.random.default_rng(4), 3, d, 0.0)
    difference = draw_differences(np.random.default_rng(5), s0, distance)
    for nodes, tolerance in ((None, 1e-5), ({2: (64, 48)}.get(d, (32, 48)), 1e-9)):
        p = -np.expm1(compile_log_incorrect(d, nodes)(difference, s0, s0))
        np.testing.assert_allclose(p, by_noncentral_f(d, distance), atol=tolerance)


@pytest.mark.parametrize("distance", [0.5, 3.0, 9.0, 20.0])
def test_polar_coordinates_and_the_inverse_laplace_transform_agree(distance):
    rng = np.random.default_rng(12)
    s0, s1 = draw_covariances(rng, 20, 2, 0.5)
    difference = draw_differences(rng, s0, distance)
    rows = [*difference.T, *(s[:, i, j] for s in (s0, s1) for i, j in ((0, 0), (0, 1), (1, 1)))]
    entries = [pt.vector() for _ in rows]
    polar, laplace = (
        pytensor.function(entries, op(*entries)[0], mode="FAST_COMPILE")(*rows)
        for op in (plane_op(64, 64, "float64"), space_op(2, 64, 96, "float64"))
    )
    np.testing.assert_allclose(laplace, polar, atol=1e-7)


@pytest.mark.parametrize("distance", [0.3, 1.0, 2.5, 5.0])
def test_one_dimension_is_the_triangle_test(distance):
    # ISO 4120's observer (Ennis, 1993): P = 2 int_0^inf [Phi(-x sqrt 3 + d sqrt(2/3)) + Phi(-x sqrt 3 - ..)] phi(x) dx.
    shift = distance * np.sqrt(2 / 3)
    expected, _ = integrate.quad(
        lambda x: (
            2 * stats.norm.pdf(x) * (stats.norm.cdf(-x * np.sqrt(3) + shift) + stats.norm.cdf(-x * np.sqrt(3) - shift))
        ),
        0,
        np.inf,
        epsabs=1e-12,
    )
    one = np.ones((1, 1, 1))
    p = -np.expm1(compile_log_incorrect(1)(np.array([[distance]]), one, one))
    np.testing.assert_allclose(p, expected, atol=1e-9)


@pytest.mark.parametrize(
    ("distance", "tolerance"), [(0.5, 1e-6), (2.0, 1e-5), (4.0, 1e-4), (6.0, 1e-3), (8.0, 1e-3), (12.0, 1e-2)]
)
@pytest.mark.parametrize("spread", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("d", [2, 3])
def test_the_default_rule_keeps_its_word(d, distance, tolerance, spread):
    rng = np.random.default_rng(6)
    s0, s1 = draw_covariances(rng, 300, d, spread)
    difference = draw_differences(rng, s0, distance)
    exact = compile_log_incorrect(d, {2: (64, 48), 3: (32, 48)}[d])(difference, s0, s1)
    found = compile_log_incorrect(d)(difference, s0, s1)
    tolerance = max(tolerance, 2e-5 if d == 3 else 0)
    assert np.quantile(np.abs(found - exact), 0.95) < tolerance
    log_p = [np.log1p(-np.exp(v)) for v in (found, exact)]
    assert np.quantile(np.abs(log_p[0] - log_p[1]), 0.95) < tolerance


@pytest.mark.parametrize("distance", [0.5, 2.0, 4.0])
def test_covariances_of_very_different_size_are_no_trap(distance):
    # Variances that differ up to a thousandfold: the rule may err a little, but not so much that a search hides in it.
    rng = np.random.default_rng(13)
    s0, s1 = draw_covariances(rng, 300, 2, 1000.0)
    difference = draw_differences(rng, s0, distance)
    exact = compile_log_incorrect(2, (96, 64))(difference, s0, s1)
    assert np.max(np.abs(compile_log_incorrect(2)(difference, s0, s1) - exact)) < 0.05


def test_a_value_alone_is_left_to_numpy_by_numba():
    difference, s0 = pt.matrix("difference", shape=(None, 2)), pt.tensor3("s0", shape=(None, 2, 2))
    function = pytensor.function([difference, s0], log_incorrect(difference, s0, s0), mode="NUMBA")
    ops = [type(node.op) for node in function.maker.fgraph.apply_nodes]
    assert NumPyGraph in ops
    assert RowFunction not in ops
    arguments = np.full((3, 2), 0.2), np.stack([np.eye(2)] * 3)
    np.testing.assert_allclose(function(*arguments), compile_log_incorrect(2)(*arguments, arguments[1]), rtol=1e-10)


@pytest.mark.parametrize("d", [1, 2, 3])
def test_gradients_are_those_of_finite_differences(d):
    rng = np.random.default_rng(7)
    s0, s1 = draw_covariances(rng, 12, d, 0.5)
    # Far stimuli, near ones, and one pair of equals.
    arguments = [
        np.concatenate([draw_differences(rng, s0[:11], 1.0) * np.arange(1, 12)[:, None] / 2, np.zeros((1, d))])
    ]
    arguments += [s0, s1]
    _, *grads = compile_log_incorrect(d, gradient=True)(*arguments)
    evaluate, step = compile_log_incorrect(d), 1e-5
    for which, grad in enumerate(grads):
        for index in np.ndindex(*grad.shape[1:]):
            moved = []
            for sign in (1, -1):
                changed = [a.copy() for a in arguments]
                changed[which][(slice(None), *index)] += sign * step
                moved.append(evaluate(*changed))
            # Covariances are read above the diagonal only.
            expected = (moved[0] - moved[1]) / (2 * step)
            np.testing.assert_allclose(grad[(slice(None), *index)], expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("d", [1, 2, 3])
def test_the_tail_has_a_right_value_and_gradient(d):
    s = np.eye(d)[None]
    difference = np.zeros((1, d))
    difference[0, 0] = 29.0
    value, grad, *_ = compile_log_incorrect(d, {1: (200,), 2: (96, 96), 3: (32, 48)}[d], gradient=True)(
        difference, s, s
    )
    assert value[0] < np.log(1e-30)
    default, default_grad, *_ = compile_log_incorrect(d, gradient=True)(difference, s, s)
    np.testing.assert_allclose(default, value, rtol=1e-3)
    np.testing.assert_allclose(default_grad, grad, rtol=1e-2, atol=1e-9)
    far = compile_log_incorrect(d, gradient=True)(difference * 20, s, s)
    assert all(np.isfinite(v).all() for v in far)


def test_rotations_and_swaps_change_nothing_in_space():
    rng = np.random.default_rng(8)
    s0, s1 = draw_covariances(rng, 5, 3, 0.5)
    difference = draw_differences(rng, s0, 2.0)
    evaluate = compile_log_incorrect(3)
    value = evaluate(difference, s0, s1)
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    for change in (turn, turn @ np.diag([3.0, 0.2, 1.0]), -np.eye(3), np.eye(3)[::-1]):
        moved = evaluate(difference @ change.T, change @ s0 @ change.T, change @ s1 @ change.T)
        np.testing.assert_allclose(moved, value, rtol=1e-9)


def test_rotations_and_swaps_change_nothing():
    rng = np.random.default_rng(8)
    s0, s1 = draw_covariances(rng, 5, 2, 0.5)
    difference = draw_differences(rng, s0, 2.0)
    evaluate = compile_log_incorrect(2, (32, 24))
    value = evaluate(difference, s0, s1)
    turn = np.array([[np.cos(1.0), -np.sin(1.0)], [np.sin(1.0), np.cos(1.0)]])
    stretch = turn @ np.diag([3.0, 0.2])
    for change in (turn, stretch, -np.eye(2), np.eye(2)[::-1]):
        moved = evaluate(difference @ change.T, change @ s0 @ change.T, change @ s1 @ change.T)
        np.testing.assert_allclose(moved, value, rtol=1e-9)


def test_jax_in_blocks_agrees_with_pytensor():
    rng = np.random.default_rng(9)
    n = 2 * ROWS_OF_BLOCK + 451  # three blocks, the last one filled up
    reference = rng.uniform(-0.8, 0.8, (n, 2))
    comparison = reference + rng.uniform(-0.1, 0.1, (n, 2))
    with pm.Model() as model:
        field = psy.WishartProcess("W", input_dim=2, basis_degree=2)
        psy.Oddity("correct", field, reference, comparison, observed=rng.integers(0, 2, n))
    objective = psy.compile_objective(model)
    assert objective.route == "pytensor"
    loss, grads = objective.value_and_grad(objective.start)
    expected = -model.compile_logp(jacobian=False, mode="FAST_COMPILE")(objective.start)
    np.testing.assert_allclose(loss, expected, rtol=1e-10)
    gradient = -model.compile_dlogp(jacobian=False, mode="FAST_COMPILE")(objective.start)
    np.testing.assert_allclose(grads["W_z"].ravel(), gradient, rtol=1e-8, atol=1e-9)


def simulate_trials(weights, n, seed=0, basis_degree=2):
    rng = np.random.default_rng(seed)
    field = psy.WishartProcess("truth", input_dim=2, basis_degree=basis_degree, weights=weights)
    reference = rng.uniform(-0.8, 0.8, (n, 2))
    direction = rng.normal(size=(n, 2))
    direction *= rng.uniform(0, 4, (n, 1)) / np.linalg.norm(direction, axis=1, keepdims=True)
    root = np.linalg.cholesky(field.covariance(reference).eval())
    comparison = np.clip(reference + np.einsum("nij,nj->ni", root, direction), -1, 1)
    p = psy.tasks.oddity_probability(field, reference, comparison).eval()
    return reference, comparison, (rng.random(n) < p).astype(int)


def prior_weights(seed=0, degree=2):
    with pm.Model() as model:
        psy.WishartProcess("W", input_dim=2, basis_degree=degree)
    return pm.draw(model["W"], random_seed=seed)


def bures_similarity(a, b):
    """Return trace(sqrt(sqrt(a) b sqrt(a))) / sqrt(trace a trace b), averaged."""
    values = np.linalg.eigvals(a @ b)
    return np.mean(
        np.sqrt(values.real.clip(0)).sum(-1) / np.sqrt(np.trace(a, axis1=1, axis2=2) * np.trace(b, axis1=1, axis2=2))
    )


def test_a_field_comes_back_better_from_more_trials():
    weights = prior_weights()
    grid = np.stack(np.meshgrid([-0.6, 0, 0.6], [-0.6, 0, 0.6]), -1).reshape(-1, 2)
    truth = psy.WishartProcess("truth", input_dim=2, basis_degree=2, weights=weights).covariance(grid).eval()
    errors = []
    for n in (500, 8000):
        reference, comparison, correct = simulate_trials(weights, n)
        with pm.Model() as model:
            field = psy.WishartProcess("W", input_dim=2, basis_degree=2)
            psy.Oddity("correct", field, reference, comparison, observed=correct)
        fit = psy.find_map(model)
        assert fit.converged
        errors.append(1 - bures_similarity(fit.evaluate(field.covariance(grid)), truth))
    assert errors[1] < 0.5 * errors[0]
    assert errors[1] < 0.01


@pytest.mark.usefixtures("users_mode")
def test_the_model_samples_and_predicts_in_pymc():
    reference, comparison, correct = simulate_trials(prior_weights(degree=0), 60, basis_degree=0)
    with pm.Model() as model:
        field = psy.WishartProcess("W", input_dim=2, basis_degree=0)
        psy.Oddity("correct", field, reference, comparison, observed=correct)
        prior = pm.sample_prior_predictive(5, random_seed=1)
        draws = pm.sample(
            5, tune=5, chains=1, random_seed=1, progressbar=False, compute_convergence_checks=False,
            nuts={"max_treedepth": 3},
            compile_kwargs={"mode": Mode(linker="py", optimizer="fast_compile")},
        )  # fmt: skip
        predicted = pm.sample_posterior_predictive(draws, random_seed=1, progressbar=False)
    assert model["correct"].name in prior["prior_predictive"]
    values = predicted["posterior_predictive"]["correct"].values
    assert values.shape == (1, 5, 60)
    assert set(np.unique(values)) <= {0, 1}


def test_lapses_bound_the_best_performance():
    field = psy.WishartProcess("W", input_dim=2, basis_degree=0, weights=np.eye(2, 3)[None, None] / 50)
    stimuli = np.zeros((2, 2)), np.array([[0.0, 0.0], [0.9, 0.0]])
    p = psy.tasks.oddity_probability(field, *stimuli, lapse_rate=0.1).eval()
    np.testing.assert_allclose(p, [1 / 3, 0.9], atol=1e-6)
    lapse = pt.scalar("lapse")
    symbolic = psy.tasks.oddity_probability(field, *stimuli, lapse_rate=lapse).eval({lapse: 0.1})
    np.testing.assert_allclose(symbolic, p, rtol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"observed": [0, 1, 2]}, ValueError, r"'y' holds the response 2 at index \(2,\). Responses are 0 or 1"),
        ({"lapse_rate": 0.7}, ValueError, r"lapse_rate is 0.7. Pass a number from 0 up to, not including, 0.6667"),
        ({"nodes": (8,)}, ValueError, r"nodes is \(8,\). Pass 2 positive whole numbers for 2 dimensions"),
        ({"comparison": np.full((3, 2), 1.2)}, ValueError, r"outside \[-1, 1\]"),
        ({"comparison": np.zeros((3, 3))}, ValueError, "the field has 2 dimensions"),
    ],
)
def test_bad_input_is_named(arguments, error, message):
    defaults = {"reference": np.zeros((3, 2)), "comparison": np.zeros((3, 2)), "observed": [0, 1, 1]}
    with pm.Model(), pytest.raises(error, match=message):
        psy.Oddity("y", psy.WishartProcess("W", input_dim=2), **defaults | arguments)


def test_float32_models_stay_float32():
    def evaluate(floatx):
        with pytensor.config.change_flags(floatX=floatx), pm.Model() as model:
            field = psy.WishartProcess("W", input_dim=2, basis_degree=1)
            x = np.array([[0.1, 0.2], [0.0, -0.4]])
            psy.Oddity("y", field, x, x + 0.1, observed=[1, 0])
            objective = psy.compile_objective(model)
            return objective.value_and_grad(objective.start)

    (loss, grads), (exact, exact_grads) = evaluate("float32"), evaluate("float64")
    assert loss.dtype == np.float32
    assert grads["W_z"].dtype == np.float32
    np.testing.assert_allclose(loss, exact, rtol=1e-5)
    np.testing.assert_allclose(grads["W_z"], exact_grads["W_z"], rtol=1e-3, atol=1e-4)


def test_the_radial_function_is_right_on_both_sides_of_its_seam():
    from pm_psyphy.psychophysics.oddity_plane import scaled_w

    y = np.concatenate([np.linspace(1e-12, 1, 200), np.linspace(1, 600, 200)])
    highest = np.full_like(y, 3.0)
    found = scaled_w(pt.as_tensor(y), pt.as_tensor(highest), "float64").eval()
    z = np.sqrt(y)
    expected = 0.5 * np.sqrt(np.pi) / z * np.exp(y - 3) * special.erf(z)
    np.testing.assert_allclose(found, expected, rtol=1e-10)


@pytest.mark.parametrize("d", [1, 2, 3])
def test_second_derivatives_in_jax_are_those_of_finite_differences(d):
    rng = np.random.default_rng(11)
    s0, s1 = draw_covariances(rng, 4, d, 0.5)
    difference = draw_differences(rng, s0, 2.0)
    x, a, b = pt.matrix("x", shape=(None, d)), *(pt.tensor3(name, shape=(None, d, d)) for name in "ab")
    in_jax = translate([x, a, b], [pytensor.grad(log_incorrect(x, a, b).sum(), x)])
    first = jax.jit(lambda v: in_jax(v, s0, s1)[0])
    step = np.zeros((4, d))
    step[:, 0] = 1.0
    expected = (first(difference + 1e-5 * step) - first(difference - 1e-5 * step)) / 2e-5
    _, pushed = jax.jit(lambda v: jax.jvp(first, (v,), (step,)))(difference)
    np.testing.assert_allclose(pushed, expected, rtol=1e-6, atol=1e-8)


def test_pytensor_says_that_it_cannot_differentiate_twice():
    x, one = pt.matrix("x", shape=(None, 1)), pt.ones((1, 1, 1))
    first = pytensor.grad(log_incorrect(x, one, one).sum(), x)
    with pytest.raises(NotImplementedError, match="Let JAX do it"):
        pytensor.grad(first.sum(), x)
