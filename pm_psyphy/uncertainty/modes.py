"""A fit from several starts in; the Gaussians around the modes that it has found, and how likely each is, come out."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from pm_psyphy.compiling.flat_parameters import find_layout
from pm_psyphy.optimizing.status import Status
from pm_psyphy.results.map_result import MAPResult
from pm_psyphy.uncertainty.laplace import Gaussian, approximate
from pm_psyphy.uncertainty.whitened_density import span

# In nats: a mode whose loss is higher by so much holds next to nothing of the posterior.
NEGLIGIBLE = 15.0
# In standard deviations: ends of searches that are nearer to each other are of one mode.
APART = 1.0
MOST_MODES = 8


def find_modes(fit: Any, near: Gaussian) -> tuple[list[Gaussian], np.ndarray]:
    """Return the Gaussians around the distinct ends of a fit's starts, and the share of the posterior that each has.

    Parameters
    ----------
    fit : MAPResult
        Anything else has one mode.
    near : Gaussian
        Around the best.

    Returns
    -------
    modes : list of Gaussian
        The best first; weights that rotate are rotated like its own.
    shares : ndarray
        Their sum is 1; by Laplace's approximation of the evidence.
    """
    modes, starts = [near], fit.starts if isinstance(fit, MAPResult) else None
    # Along flat directions that are no rotations, the ends of searches lie apart without being modes.
    if starts is not None and (near.rotating or not near.n_flat):
        for i in np.argsort(starts.loss):
            is_end = starts.status[i] in (Status.CONVERGED, Status.STALLED)
            if not is_end or not starts.loss[i] <= starts.loss.min() + NEGLIGIBLE or len(modes) == MOST_MODES:
                continue
            end = rotate_alike({name: stack[i] for name, stack in starts.unconstrained.items()}, near)
            if min(np.linalg.norm(locate([end], mode)) for mode in modes) > APART:
                try:
                    found = approximate(near.objective, end)
                except ValueError:
                    # A saddle, or no mode of the density with the Jacobian.
                    continue
                modes.append(found)
    evidence = np.array([mode.log_evidence for mode in modes])
    shares = np.exp(evidence - evidence.max())
    return modes, shares / shares.sum()


def locate(points: Sequence[dict[str, np.ndarray]], near: Gaussian) -> np.ndarray:
    """Return the coordinates of points in those of a Gaussian, (n, Q), the nearest there are."""
    layout, across = find_layout(near.mode), np.asarray(span(near)[0])
    vectors = np.stack([np.asarray(layout.join(point)) for point in points])
    return np.linalg.lstsq(across, (vectors - layout.join(near.mode)).T, rcond=None)[0].T


def rotate_alike(point: dict[str, np.ndarray], near: Gaussian) -> dict[str, np.ndarray]:
    """Return a point whose weights that may be rotated are rotated to be as near to a Gaussian's mode as can be."""
    turned = dict(point)
    for name in near.left_out:
        weights, like = (np.reshape(p[name], (-1, np.shape(p[name])[-1])) for p in (point, near.mode))
        left, _, right = np.linalg.svd(weights.T @ like)
        turned[name] = (weights @ (left @ right)).reshape(np.shape(point[name])).astype(point[name].dtype)
    return turned
