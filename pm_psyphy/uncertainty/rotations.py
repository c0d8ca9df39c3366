"""A mode in; the manifold of modes that rotations of a Wishart process's weights make of it comes out."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from pm_psyphy.compiling.flat_parameters import Layout
from pm_psyphy.compiling.model_graph import list_rotating


def find_orbit(
    model: Any,
    mode: dict[str, np.ndarray],
    n_flat: int,
    evaluate: Callable[[dict[str, np.ndarray]], float],
) -> tuple[tuple[str, ...], float]:
    """Return the variables whose rotations are what is flat around a mode, and the volume of all rotations of it.

    Weights W (..., E) and W Q give the same covariances for any orthogonal Q. Around the manifold of these W Q, of
    E (E - 1) / 2 dimensions if the weights have so many rows, the density is everywhere as around W.

    Parameters
    ----------
    model : pm.Model
        A free variable with ``tag.rotates`` is one whose last axis may be rotated.
    mode : dict of str to ndarray
    n_flat : int
        How many directions are flat there.
    evaluate : callable
        The loss at parameters.

    Returns
    -------
    names : tuple of str
        By value-variable name. Empty if something else is flat, too, or if rotations change the loss.
    log_volume : float
        0 without names.
    """
    names = list_rotating(model)
    log_volume, n_rotations, rotated = 0.0, 0, dict(mode)
    for name in names:
        weights = np.asarray(mode[name], float)
        n, n_rows = weights.shape[-1], weights.size // weights.shape[-1]
        turn, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((n, n)))
        rotated[name] = (-weights @ turn if n > 1 else -weights).astype(mode[name].dtype)
        free = max(n - n_rows, 0)
        n_moving = (n * (n - 1) - free * (free - 1)) // 2
        if n_moving:
            stretch = np.linalg.svd(np.asarray(_move(weights)).reshape(-1, weights.size), compute_uv=False)
            log_volume += np.log(stretch[:n_moving]).sum()
        log_volume += _log_volume_of_rotations(n) - _log_volume_of_rotations(free)
        n_rotations += n_moving
    loss, precision = evaluate(mode), np.sqrt(np.finfo(np.result_type(*mode.values())).eps)
    if n_rotations != n_flat or abs(evaluate(rotated) - loss) > precision * abs(loss):
        return (), 0.0
    return names, float(log_volume)


def log_orbit_density(params: Mapping[str, Any], names: Sequence[str], layout: Layout, flat: Any) -> Any:
    """Return the logarithm of how much of an orbit each point of a plane across it stands for, but for a constant.

    An integral over all weights is one over a plane that each orbit crosses, times this.

    Parameters
    ----------
    params : dict of str to array
    names : sequence of str
        The variables that rotate.
    layout : Layout
    flat : array, (P, k)
        What is flat at the mode; the plane is orthogonal to it.

    Returns
    -------
    jax.Array
        A scalar.
    """
    moves = []
    for name in names:
        own = _move(params[name])
        zeros = {n: jnp.zeros((len(own), *jnp.shape(value))) for n, value in params.items()}
        moves.append(layout.join(zeros | {name: own}))
    across = jnp.concatenate(moves) @ flat
    return 0.5 * jnp.linalg.slogdet(across.T @ across)[1]


def _move(weights: Any) -> Any:
    """Return where weights (..., E) go for each generator of a rotation, (E (E - 1) / 2, ..., E)."""
    n = np.shape(weights)[-1]
    rows, columns = np.triu_indices(n, 1)
    generators = np.zeros((len(rows), n, n))
    index = np.arange(len(rows))
    generators[index, rows, columns], generators[index, columns, rows] = 1, -1
    return jax.vmap(lambda g: jnp.asarray(weights) @ g)(generators) if n > 1 else jnp.zeros((0, *np.shape(weights)))


def _log_volume_of_rotations(n: int) -> float:
    """Return that of all orthogonal matrices (n, n): of spheres in 1 to n dimensions."""
    k = np.arange(1, n + 1)
    return float(np.sum(np.log(2) + k / 2 * np.log(np.pi) - special.gammaln(k / 2)))
