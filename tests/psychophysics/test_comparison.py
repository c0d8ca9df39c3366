"""Distances of covariances against SciPy's matrix functions and closed forms."""

import numpy as np
import pytest
from scipy import linalg

from pm_psyphy.covariances import affine_invariant_distance, bures_similarity, bures_wasserstein_distance


def draw_pairs(d, n=6):
    rng = np.random.default_rng(d)
    roots = rng.normal(size=(2, n, d, d))
    return roots @ roots.transpose(0, 1, 3, 2) + 0.1 * np.eye(d)


@pytest.mark.parametrize("d", [1, 2, 4])
def test_distances_are_those_of_matrix_functions(d):
    for a, b in zip(*draw_pairs(d), strict=True):
        root = linalg.sqrtm(a).real
        fidelity = np.trace(linalg.sqrtm(root @ b @ root)).real
        inverse = np.linalg.inv(root)
        expected = (
            np.sqrt(np.trace(a) + np.trace(b) - 2 * fidelity),
            fidelity / np.sqrt(np.trace(a) * np.trace(b)),
            np.linalg.norm(linalg.logm(inverse @ b @ inverse)),
        )
        found = (
            bures_wasserstein_distance(a, b),
            bures_similarity(a, b),
            affine_invariant_distance(a, b),
        )
        np.testing.assert_allclose(found, expected, rtol=1e-8)


def test_stacks_of_fields_and_their_symmetry():
    a, b = draw_pairs(3)
    change = np.random.default_rng(1).normal(size=(3, 3))
    for distance in (
        bures_wasserstein_distance,
        affine_invariant_distance,
        bures_similarity,
    ):
        assert distance(a, b).shape == (6,)
        np.testing.assert_allclose(distance(a, b), distance(b, a), rtol=1e-9)
    np.testing.assert_allclose(bures_wasserstein_distance(a, a), 0, atol=1e-6)
    np.testing.assert_allclose(bures_similarity(a, 3 * a), 1, rtol=1e-9)
    moved = [change @ c @ change.T for c in (a, b)]
    np.testing.assert_allclose(affine_invariant_distance(*moved), affine_invariant_distance(a, b), rtol=1e-7)


@pytest.mark.parametrize(
    ("a", "message"),
    [
        (np.zeros((2, 2)), "is singular or not finite"),
        (np.full((2, 2), np.nan), "is singular or not finite"),
        (np.ones(3), r"Covariances have shape \(3,\). Pass \(..., D, D\)"),
    ],
)
def test_what_is_no_covariance_is_named(a, message):
    with pytest.raises(ValueError, match=message):
        bures_similarity(a, np.eye(2))
