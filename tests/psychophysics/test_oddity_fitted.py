"""The polynomial that samplers follow: how near it is to the exact likelihood, and that its derivatives are its own."""

import numpy as np
import pytest

from pm_psyphy.common.row_function import run_by_numpy
from pm_psyphy.psychophysics.covariances import draw_examples
from pm_psyphy.psychophysics.oddity_fitted import fitted_plane_op
from pm_psyphy.psychophysics.oddity_plane import plane_op

FINE = plane_op(24, 20, "float64")
FITTED = fitted_plane_op("float64")


def run(op, rows, n_outputs=1):
    storage = [[None] for _ in range(n_outputs)]
    run_by_numpy(op, rows, storage)
    return [cell[0] for cell in storage]


def draw_trials(degree, n, seed):
    """Draw a field from the prior, and trials placed by another one; return what the ops take, and d'."""
    rng = np.random.default_rng([degree, seed])
    sd = np.sqrt(4e-3 * 0.4 ** np.indices((degree + 1, degree + 1)).sum(axis=0)).ravel()
    truth, other = rng.standard_normal((2, len(sd), 6)) * sd[:, None]

    def find_covariances(weights, points):
        first, second = (np.polynomial.chebyshev.chebvander(x, degree) for x in points.T)
        u = (np.einsum("ni,nj->nij", first, second).reshape(n, -1) @ weights).reshape(n, 2, 3)
        return u @ u.transpose(0, 2, 1) + 1e-6 * np.eye(2)

    reference = rng.uniform(-0.8, 0.8, (n, 2))
    step = rng.standard_normal((n, 2))
    step *= (rng.uniform(0.5, 4, n) / np.linalg.norm(step, axis=1))[:, None]
    root = np.linalg.cholesky(find_covariances(other, reference))
    comparison = np.clip(reference + np.einsum("nij,nj->ni", root, step), -1, 1)
    a, b, x = find_covariances(truth, reference), find_covariances(truth, comparison), comparison - reference
    distance = np.sqrt(np.einsum("ni,nij,nj->n", x, np.linalg.inv((2 * a + b) / 3), x))
    entries = [s[:, i, j] for s in (a, b) for i, j in ((0, 0), (0, 1), (1, 1))]
    return [np.ascontiguousarray(column) for column in (*x.T, *entries)], distance


@pytest.mark.parametrize("degree", [1, 2, 4])
def test_a_trials_log_likelihood_errs_by_less_than_a_ten_thousandth(degree):
    squares = []
    for seed in range(60):
        rows, distance = draw_trials(degree, 150, seed)
        near = distance < 8
        exact, fitted = run(FINE, rows)[0][near], run(FITTED, rows)[0][near]
        q = np.exp(exact)
        # Of an incorrect response it errs as log q does, of a correct one as log(1 - q).
        errors = (fitted - exact) ** 2, (np.log(-np.expm1(fitted)) - np.log(-np.expm1(exact))) ** 2
        squares.append(q * errors[0] + (1 - q) * errors[1])
    assert np.sqrt(np.mean(np.concatenate(squares))) < 1e-4


def test_its_derivatives_are_those_of_its_value():
    rows, distance = draw_trials(2, 50, 1)
    rows = [row[distance < 8] for row in rows]
    _, *derivatives = run(FITTED, rows, 9)
    for i, derivative in enumerate(derivatives):
        step = 1e-6 * np.abs(rows[2] if i < 5 else rows[5])
        up, down = ([r + (k == i) * sign * step for k, r in enumerate(rows)] for sign in (1, -1))
        numeric = (run(FITTED, up)[0] - run(FITTED, down)[0]) / (2 * step)
        np.testing.assert_allclose(derivative, numeric, rtol=1e-4, atol=1e-4 * np.abs(numeric).max())


def test_equal_stimuli_and_far_ones_have_finite_values():
    rows = draw_examples(2, "float64")
    value, *derivatives = run(FITTED, rows, 9)
    assert rows[0][0] == rows[1][0] == 0
    assert np.isfinite([value, *derivatives]).all()
    far = [row * (10 if i < 2 else 1) for i, row in enumerate(rows)]
    assert np.isfinite(run(FITTED, far, 9)).all()
    # Of equal covariances at the same place, one answer in three is correct.
    same = [np.array([v]) for v in (0.0, 0.0, 1.0, 0.2, 2.0, 1.0, 0.2, 2.0)]
    np.testing.assert_allclose(run(FITTED, same)[0], np.log(2 / 3), atol=1e-4)
