"""Estimates and data in; matplotlib Axes come out. Nothing here fits, and all draw into `ax` if given one."""

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection

from pm_psyphy.common.settings import check_interval
from pm_psyphy.psychophysics.trials import Trials
from pm_psyphy.reports.goodness_of_fit import group_levels
from pm_psyphy.reports.threshold_contours import ThresholdContours
from pm_psyphy.results.map_result import MAPResult

N_OUTLINE, MOST_LINES = 96, 500


def plot_ellipses(
    centers: Any,
    covariances: Any,
    *,
    scale: float = 1.0,
    filled: bool = False,
    label: str | None = None,
    ax: Axes | None = None,
    **style: Any,
) -> Axes:
    """Draw a field of covariances over a plane, each as the ellipse x' M^-1 x = scale^2 around its centre.

    Call it again with the same `ax` to lay truth, prior and fit over one another.

    Parameters
    ----------
    centers : array, (R, 2)
    covariances : array, (R, 2, 2) or (S, R, 2, 2)
        With draws S, all are drawn, as thin transparent lines.
    scale : float
        In standard deviations.
    filled : bool
        Fill the ellipses instead of drawing their outlines.
    label : str, optional
        For the legend.
    ax : Axes, optional
        Default: a new figure.
    **style
        To matplotlib's collections: ``color``, ``linewidths``, ``alpha``.

    Returns
    -------
    Axes
    """
    centers, covariances = np.asarray(centers, float), np.asarray(covariances, float)
    if centers.ndim != 2 or centers.shape[1] != 2 or covariances.shape[-3:] != (len(centers), 2, 2):
        raise ValueError(
            f"Centres have shape {centers.shape}, covariances {covariances.shape}. Pass (R, 2) and (R, 2, 2); "
            "plot_ellipsoids draws three dimensions."
        )
    ax = _find_axes(ax)
    known = np.isfinite(covariances).all(axis=(-2, -1))
    angle = np.linspace(0, 2 * np.pi, N_OUTLINE)
    circle = np.stack([np.cos(angle), np.sin(angle)])
    roots = np.linalg.cholesky(covariances[known])
    middles = np.broadcast_to(centers, (*covariances.shape[:-2], 2))[known]
    outlines = middles[:, None] + scale * np.swapaxes(roots @ circle, -1, -2)
    color = style.pop("color", None) or _take_color(ax)
    if filled:
        artist = PolyCollection(list(outlines), facecolors=color, **{"alpha": 0.35, "edgecolors": "none"} | style)
    else:
        defaults = {"linewidths": 1.5} if covariances.ndim == 3 else {"linewidths": 0.4, "alpha": 0.3}
        artist = LineCollection(list(outlines), colors=color, **defaults | style)
    artist.set_label(label)
    ax.add_collection(artist)
    ax.autoscale_view()
    ax.set(aspect="equal")
    return ax


def plot_ellipsoids(
    centers: Any, covariances: Any, *, scale: float = 1.0, label: str | None = None, ax: Any = None, **style: Any
) -> Any:
    """Draw a field of covariances in space, each as the ellipsoid x' M^-1 x = scale^2 around its centre.

    Parameters
    ----------
    centers : array, (R, 3)
    covariances : array, (R, 3, 3)
    scale : float
        In standard deviations.
    label : str, optional
        For the legend.
    ax : Axes3D, optional
        Default: a new figure.
    **style
        To `Axes3D.plot_surface` or, with ``linewidth``, `plot_wireframe`: ``color``, ``alpha``.

    Returns
    -------
    Axes3D
    """
    centers, covariances = np.asarray(centers, float), np.asarray(covariances, float)
    if centers.ndim != 2 or centers.shape[1] != 3 or covariances.shape != (len(centers), 3, 3):
        raise ValueError(
            f"Centres have shape {centers.shape}, covariances {covariances.shape}. Pass (R, 3) and (R, 3, 3); "
            "plot_ellipses draws two dimensions."
        )
    ax = plt.figure(layout="constrained").add_subplot(projection="3d") if ax is None else ax
    longitude, latitude = np.meshgrid(np.linspace(0, 2 * np.pi, 25), np.linspace(-np.pi / 2, np.pi / 2, 13))
    sphere = np.stack(
        [np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude), np.sin(latitude)]
    ).reshape(3, -1)
    draw = ax.plot_wireframe if "linewidth" in style else ax.plot_surface
    defaults = {"color": "C0"} if "linewidth" in style else {"color": "C0", "alpha": 0.6, "linewidth": 0}
    for i in np.flatnonzero(np.isfinite(covariances).all(axis=(-2, -1))):
        points = centers[i][:, None] + scale * np.linalg.cholesky(covariances[i]) @ sphere
        draw(*points.reshape(3, *longitude.shape), **defaults | style)
    if label is not None:
        ax.plot([], [], [], color=(defaults | style)["color"], label=label)
    ax.set(aspect="equal")
    return ax


def plot_contours(
    contours: ThresholdContours,
    *,
    interval: float = 0.95,
    references: bool = True,
    label: str | None = None,
    ax: Axes | None = None,
    **style: Any,
) -> Axes:
    """Draw threshold contours in the plane: of draws their median, with a band of their quantiles.

    Parameters
    ----------
    contours : ThresholdContours
        Contours in two dimensions. A contour is open where a direction has no threshold.
    interval : float
        Which share of the draws the band holds, direction by direction.
    references : bool
        Mark the references.
    label : str, optional
        For the legend.
    ax : Axes, optional
        Default: a new figure.
    **style
        To `LineCollection`: ``color``, ``linewidths``.

    Returns
    -------
    Axes
    """
    if contours.directions.shape[1] != 2:
        raise ValueError(f"The contours have {contours.directions.shape[1]} dimensions. plot_contours draws the plane.")
    check_interval(interval)
    ax = _find_axes(ax)
    color = style.pop("color", None) or _take_color(ax)
    if contours.radii.ndim == 3:
        outer, inner = (_close(contours.quantile(q).points) for q in (0.5 + interval / 2, 0.5 - interval / 2))
        rings = [np.concatenate([o, i[::-1]]) for o, i in zip(outer, inner, strict=True) if np.isfinite([o, i]).all()]
        ax.add_collection(PolyCollection(rings, facecolors=color, edgecolors="none", alpha=0.3))
        contours = contours.quantile(0.5)
    lines = LineCollection(list(_close(contours.points)), colors=color, **{"linewidths": 1.5} | style)
    lines.set_label(label)
    ax.add_collection(lines)
    if references:
        ax.plot(*contours.references.T, "+", color="0.4", markersize=4, zorder=1)
    ax.autoscale_view()
    ax.set(aspect="equal")
    return ax


def plot_psychometric(
    x: Any,
    response: Any,
    *,
    curve: tuple[Any, Any] | None = None,
    threshold: tuple[Any, float] | None = None,
    chance: float | None = None,
    interval: float = 0.95,
    bins: int = 10,
    label: str | None = None,
    ax: Axes | None = None,
    **style: Any,
) -> Axes:
    """Draw binary responses, averaged by level, and a psychometric function with its threshold and their intervals.

    Parameters
    ----------
    x : array, (N,)
        Stimulus level of each trial.
    response : array of 0 and 1, (N,)
    curve : pair of arrays, (G,), optional
        Levels, and the function there; or draws of it, (S, G), shown by their median and a band.
    threshold : pair, optional
        A level, or draws of it, (S,), shown by their median and a bar; and the proportion that belongs to it.
    chance : float, optional
        Where a line marks what guessing gives, as 0.5 of two alternatives.
    interval : float
        Which share of the draws band and bar hold.
    bins : int
        More levels than this are averaged in so many groups of about equal size.
    label : str, optional
        For the legend.
    ax : Axes, optional
        Default: a new figure.
    **style
        To both the points and the line: ``color``.

    Returns
    -------
    Axes
        Points have an area in proportion to their trials, and bars of one standard error (Wilson, 1927).
    """
    x, response = np.asarray(x, float), np.asarray(response, float)
    if x.shape != response.shape or x.ndim != 1 or not len(x):
        raise ValueError(f"x has shape {x.shape}, response {response.shape}. Pass (N,) each, with at least one trial.")
    check_interval(interval)
    ax, tails = _find_axes(ax), [0.5 - interval / 2, 0.5, 0.5 + interval / 2]
    color = style.pop("color", None) or _take_color(ax)
    if chance is not None:
        ax.axhline(chance, color="0.6", lw=1, ls="--", zorder=0, label="chance")
    group, level = group_levels(x, bins)
    n = np.bincount(group)
    p = np.bincount(group, response) / n
    middle, half = (p + 0.5 / n) / (1 + 1 / n), np.sqrt(p * (1 - p) / n + 0.25 / n**2) / (1 + 1 / n)
    ax.errorbar(
        level,
        p,
        yerr=np.clip([p - middle + half, middle + half - p], 0, None),
        fmt="none",
        color=color,
        alpha=0.6,
        lw=1,
    )
    ax.scatter(level, p, s=8 + 60 * n / n.max(), color=color, zorder=3, label=label if curve is None else None)
    if curve is not None:
        grid, values = np.asarray(curve[0], float), np.asarray(curve[1], float)
        if values.ndim == 2:
            low, values, high = np.quantile(values, tails, axis=0)
            ax.fill_between(grid, low, high, color=color, alpha=0.2, lw=0)
        ax.plot(grid, values, **{"color": color, "label": label} | style)
    if threshold is not None:
        levels, proportion = np.atleast_1d(np.asarray(threshold[0], float)), threshold[1]
        low, middle, high = np.quantile(levels, tails)
        ax.plot([middle, middle], [0, proportion], color=color, lw=1, ls=":")
        ax.errorbar(
            middle,
            proportion,
            xerr=[[middle - low], [high - middle]],
            fmt="D",
            ms=5,
            capsize=3,
            color=color,
            mec="white",
            zorder=4,
            label=f"threshold, {proportion:.0%} correct",
        )
    ax.set(ylim=(-0.03, 1.03), xlabel="stimulus level", ylabel="proportion of responses 1")
    return ax


def plot_learning_curve(
    fits: MAPResult | Mapping[str, MAPResult], *, above: float | None = None, ax: Axes | None = None, **style: Any
) -> Axes:
    """Draw the loss along one search or several.

    Parameters
    ----------
    fits : MAPResult, or dict of str to MAPResult
        By their labels.
    above : float, optional
        Given, the loss above it on a logarithmic axis, as for the loss of the optimum.
    ax : Axes, optional
        Default: a new figure.
    **style
        To `Axes.plot`.

    Returns
    -------
    Axes
    """
    ax = _find_axes(ax)
    for label, fit in {fits.optimizer: fits}.items() if isinstance(fits, MAPResult) else fits.items():
        loss = fit.history.loss - (above or 0.0)
        ax.plot(fit.history.step, np.where(loss > 0, loss, np.nan) if above is not None else loss, label=label, **style)
    ax.set(xlabel="step", ylabel="negative log posterior" if above is None else "loss above the optimum")
    if above is not None:
        ax.set_yscale("log")
    return ax


def plot_trials(trials: Trials, *, restore: bool = True, ax: Axes | None = None) -> Axes:
    """Draw trials of two dimensions: comparisons by response, few of them joined with their references.

    Parameters
    ----------
    trials : Trials
    restore : bool
        In stimulus units; False for those of the model.
    ax : Axes, optional
        Default: a new figure.

    Returns
    -------
    Axes
    """
    if trials.reference.shape[1] != 2:
        raise ValueError(f"The trials have {trials.reference.shape[1]} dimensions. plot_trials draws the plane.")
    ax = _find_axes(ax)
    reference, comparison = (trials.domain.restore(x) if restore else x for x in (trials.reference, trials.comparison))
    if len(trials) <= MOST_LINES:
        pairs = list(np.stack([reference, comparison], axis=1))
        ax.add_collection(LineCollection(pairs, colors="0.8", linewidths=0.5, zorder=0))
    size = float(np.clip(10_000 / len(trials), 3, 25))
    for code, name, color in ((1, "correct", "C0"), (0, "incorrect", "C1")):
        chosen = trials.response == code
        ax.scatter(*comparison[chosen].T, s=size, color=color, alpha=0.7, lw=0, label=f"{name} ({chosen.sum():,})")
    ax.plot(*np.unique(reference, axis=0).T, "+", color="0.2", markersize=6, label="reference")
    ax.set(aspect="equal", xlabel="stimulus dimension 1", ylabel="stimulus dimension 2")
    return ax


def _find_axes(ax: Axes | None) -> Axes:
    return plt.subplots(layout="constrained")[1] if ax is None else ax


def _take_color(ax: Axes) -> Any:
    """Return the next color of the cycle."""
    (line,) = ax.plot([], [])
    line.remove()
    return line.get_color()


def _close(points: np.ndarray) -> np.ndarray:
    """Return contours (R, n, 2) with their first point once more at the end."""
    return np.concatenate([points, points[:, :1]], axis=1)
