"""Plots: what they hold, not how they look; the examples' pictures are for that."""

import matplotlib as mpl
import numpy as np
import pymc as pm
import pytest

import pm_psyphy as psy

mpl.use("Agg")

import matplotlib.pyplot as plt

from pm_psyphy import plots
from pm_psyphy.reports.threshold_contours import ThresholdContours


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def outlines(ax):
    return [path.vertices for collection in ax.collections for path in collection.get_paths()]


def test_every_outline_lies_on_its_ellipse():
    centers = np.array([[0.0, 0.0], [1.0, 2.0]])
    covariances = np.array([[[0.04, 0.01], [0.01, 0.02]], [[0.01, 0.0], [0.0, 0.09]]])
    ax = plots.plot_ellipses(centers, covariances, scale=2.0, label="fit")
    assert plots.plot_ellipses(centers, covariances, filled=True, ax=ax) is ax
    for points, center, covariance in zip(outlines(ax)[:2], centers, covariances, strict=True):
        difference = points - center
        square = np.einsum("ni,ij,nj->n", difference, np.linalg.inv(covariance), difference)
        np.testing.assert_allclose(square, 4.0)
    assert ax.get_legend_handles_labels()[1] == ["fit"]


def test_missing_ellipses_are_left_out():
    covariances = np.stack([np.eye(2), np.full((2, 2), np.nan)])
    assert len(outlines(plots.plot_ellipses(np.zeros((2, 2)), covariances))) == 1


def test_ellipsoids_have_a_surface_each():
    ax = plots.plot_ellipsoids(np.zeros((2, 3)), np.stack([np.eye(3)] * 2), label="fit")
    assert len(ax.collections) == 2


def test_contours_of_draws_have_a_band():
    angle = np.linspace(0, 2 * np.pi, 8, endpoint=False)
    directions = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    radii = np.linspace(1, 2, 11)[:, None, None] * np.ones((11, 1, 8))
    contours = ThresholdContours(np.zeros((1, 2)), directions, radii, np.zeros((11, 1, 2, 2)), 2 / 3)
    band, median = outlines(plots.plot_contours(contours, interval=0.8))
    np.testing.assert_allclose(np.ptp(np.linalg.norm(band, axis=1)), 0.8)
    np.testing.assert_allclose(np.linalg.norm(median, axis=1), 1.5)
    with pytest.raises(ValueError, match="interval is 2. Pass a share"):
        plots.plot_contours(contours, interval=2)


def test_binned_data_are_the_proportions_of_their_levels():
    x = np.repeat([0.0, 1.0], [10, 30])
    response = np.r_[np.ones(4), np.zeros(6), np.ones(30)]
    ax = plots.plot_psychometric(x, response, curve=([0, 1], np.array([[0.3, 0.9], [0.5, 1.0]])))
    points = ax.collections[1].get_offsets()
    np.testing.assert_allclose(points, [[0, 0.4], [1, 1]])
    np.testing.assert_allclose(ax.lines[-1].get_ydata(), [0.4, 0.95])
    ax = plots.plot_psychometric(x, response, threshold=(np.linspace(0.2, 0.4, 101), 0.75), chance=0.5, interval=0.8)
    (bar,) = ax.containers[-1].lines[2]
    np.testing.assert_allclose(bar.get_segments()[0], [[0.22, 0.75], [0.38, 0.75]])
    assert ax.get_legend_handles_labels()[1] == ["chance", "threshold, 75% correct"]
    many = plots.plot_psychometric(np.arange(40.0), response, bins=4)
    assert len(many.collections[1].get_offsets()) == 4


def test_a_learning_curve_is_the_history():
    with pm.Model() as model:
        mu = pm.Normal("mu", 0, 10)
        pm.Normal("y", mu, 1, observed=[1.0, 2.0])
    fit = psy.find_map(model)
    ax = plots.plot_learning_curve({"L-BFGS": fit})
    np.testing.assert_allclose(ax.lines[0].get_ydata(), fit.history.loss)
    assert plots.plot_learning_curve(fit, above=fit.loss).get_yscale() == "log"


def test_trials_are_drawn_in_stimulus_units():
    trials = psy.Trials.from_arrays([[0, 0], [5, 10]], [[1, 1], [10, 20]], [1, 0], domain=([0, 0], [10, 20]))
    ax = plots.plot_trials(trials)
    np.testing.assert_allclose(ax.collections[1].get_offsets(), [[1, 1]])
    np.testing.assert_allclose(ax.collections[2].get_offsets(), [[10, 20]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plots.plot_ellipses(np.zeros((2, 3)), np.zeros((2, 3, 3))), "plot_ellipsoids draws three dimensions"),
        (lambda: plots.plot_ellipsoids(np.zeros((2, 2)), np.zeros((2, 2, 2))), "plot_ellipses draws two dimensions"),
        (lambda: plots.plot_psychometric([], []), "with at least one trial"),
        (lambda: plots.plot_trials(psy.Trials.from_arrays([[0.0]], [[0.5]], [1])), "plot_trials draws the plane"),
    ],
)
def test_wrong_shapes_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
