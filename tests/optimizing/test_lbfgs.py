"""L-BFGS on functions with known minima, beside SciPy."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytensor.link.jax.dispatch  # noqa: F401  (sets x64)
import pytest
from scipy.optimize import minimize

from pm_psyphy.optimizing.lbfgs import lbfgs


def rosenbrock(x):
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def quadratic(x):
    return 0.5 * jnp.sum(jnp.logspace(-2, 2, x.size) * (x - 1) ** 2)


def quartic(x):
    return jnp.sum((x - 2) ** 4)


def barrier(x):
    return jnp.sum(x - jnp.log(x))


def steep_wall(x):
    return jnp.sum(jnp.where(x < 3, (x - 2) ** 2, jnp.nan))


def overflowing(x):
    return jnp.sum(jnp.cosh(20 * (x - 3)))


FUNCTIONS = {
    rosenbrock: (np.full(10, -1.2), 1.0),
    quadratic: (np.full(30, 5.0), 1.0),
    quartic: (np.full(5, 10.0), 2.0),
    barrier: (np.array([1e-3, 0.5, 40.0]), 1.0),
    steep_wall: (np.array([-5.0, 2.9]), 2.0),
    overflowing: (np.array([-20.0, 5.0]), 3.0),
}


def run(function, x0, steps, memory_size=20, tolerance=1e-9):
    transformation = lbfgs(memory_size)

    @jax.jit
    def search(x):
        def body(carry, _):
            x, state, done = carry
            value, grad = jax.value_and_grad(function)(x)
            done |= jnp.max(jnp.abs(grad)) < tolerance
            updates, new_state = transformation.update(grad, state, x, value=value)
            kept = jax.tree.map(lambda a, b: jnp.where(done, a, b), (x, state), (x + updates, new_state))
            return (*kept, done), ~done

        (x, state, _), active = jax.lax.scan(body, (x, transformation.init(x), False), length=steps)
        return x, state, active.sum()

    return search(jnp.asarray(x0))


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
def test_the_minimum_is_found(function):
    start, expected = FUNCTIONS[function]
    x, _, _ = run(function, start, 3000)
    # A quartic is flat to the cube root of the tolerance.
    np.testing.assert_allclose(x, expected, atol=1e-3 if function is quartic else 1e-6)


@pytest.mark.parametrize("function", [rosenbrock, quadratic])
def test_it_needs_no_more_evaluations_than_scipy_by_a_quarter(function):
    start, _ = FUNCTIONS[function]
    _, _, n = run(function, start, 2000, memory_size=10, tolerance=1e-6)
    value_and_grad = jax.jit(jax.value_and_grad(function))
    result = minimize(
        lambda x: [np.asarray(a) for a in value_and_grad(x)],
        start,
        jac=True,
        method="L-BFGS-B",
        options={"maxcor": 10, "ftol": 0, "gtol": 1e-6, "maxfun": 5000, "maxiter": 5000},
    )
    assert int(n) <= 1.25 * result.nfev


def test_the_direction_is_the_two_loop_recursions():
    rng = np.random.default_rng(0)
    transformation = lbfgs(4)
    x = jnp.asarray(rng.normal(size=8))
    state = transformation.init(x)
    accepted = [(np.asarray(x), np.asarray(jax.grad(rosenbrock)(x)))]
    for _ in range(40):
        value, grad = jax.value_and_grad(rosenbrock)(x)
        updates, state = transformation.update(grad, state, x, value=value)
        if not np.array_equal(state.point, accepted[-1][0]):
            accepted.append((np.asarray(state.point), np.asarray(state.grad)))
        x = x + updates
    pairs = [(b[0] - a[0], b[1] - a[1]) for a, b in pairwise(accepted)][-4:]
    # Nocedal and Wright (2006), algorithm 7.4.
    q, alphas = accepted[-1][1].copy(), []
    for s, y in reversed(pairs):
        alphas.append(s @ q / (s @ y))
        q -= alphas[-1] * y
    q *= pairs[-1][0] @ pairs[-1][1] / (pairs[-1][1] @ pairs[-1][1])
    for (s, y), alpha in zip(pairs, reversed(alphas), strict=True):
        q += s * (alpha - y @ q / (s @ y))
    assert int(state.line.n_pairs) > 4
    np.testing.assert_allclose(state.direction, -q, rtol=1e-7)


def test_a_kink_ends_as_stalled():
    x, state, _ = run(lambda x: jnp.sum(jnp.abs(x - 1 / 3)), np.array([2.3]), 300)
    assert bool(state.line.stalled)
    np.testing.assert_allclose(x, 1 / 3, atol=1e-6)


def test_float32_stays_float32():
    x, state, _ = run(rosenbrock, np.full(4, -1.2, "float32"), 200, tolerance=1e-3)
    assert {leaf.dtype for leaf in jax.tree.leaves(state)} == {np.dtype("float32")}
    np.testing.assert_allclose(x, 1.0, atol=1e-2)
