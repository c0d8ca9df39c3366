"""An Objective in; its loss, gradient and Hessian as functions of one vector come out."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from pm_psyphy.objective import Objective
from pm_psyphy.vector import Layout

# So many directions are differentiated at once.
DIRECTIONS = 16


@dataclass(frozen=True, eq=False)
class Curvature:
    """The loss of an objective around points of its unconstrained space, vectors (P,)."""

    objective: Objective
    layout: Layout
    slope: Callable[..., tuple[jax.Array, jax.Array]]
    differentiate: Callable[..., jax.Array]
    method: str
    """``"exact"``, or ``"central differences"`` where the second derivative is not to be had."""

    def find_slope(self, vector: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the loss and its gradient, (P,)."""
        loss, gradient = self.slope(vector, self.objective.data)
        return float(loss), np.asarray(gradient, float)

    def find_hessian(self, vector: np.ndarray) -> np.ndarray:
        """Return the Hessian, (P, P)."""
        hessian = np.asarray(self.differentiate(vector, self.objective.data), float)
        return (hessian + hessian.T) / 2


def measure_curvature(objective: Objective, layout: Layout, vector: np.ndarray) -> Curvature:
    """Compile the derivatives of an objective, once for its program.

    Parameters
    ----------
    objective : Objective
    layout : Layout
    vector : ndarray, (P,)
        Where second derivatives are tried.

    Returns
    -------
    Curvature
    """
    key = "curvature", layout
    if key not in objective.program.compiled:
        objective.program.compiled[key] = _compile_curvature(objective, layout, vector)
    slope, differentiate, method = objective.program.compiled[key]
    return Curvature(objective, layout, slope, differentiate, method)


def _compile_curvature(objective: Objective, layout: Layout, vector: np.ndarray):
    program = objective.program

    def slope(vector, data):
        loss, grads = program.value_and_grad(layout.split(vector), data, None)
        return loss, layout.join(grads)

    def gradient(vector, data):
        return slope(vector, data)[1]

    @jax.jit
    def differentiate(vector, data):
        _, along = jax.linearize(lambda v: gradient(v, data), vector)
        return jax.lax.map(along, jnp.eye(vector.size, dtype=vector.dtype), batch_size=DIRECTIONS)

    @jax.jit
    def take_differences(vector, data):
        steps = np.finfo(vector.dtype).eps ** (1 / 3) * jnp.maximum(1, jnp.abs(vector))

        def difference(i):
            step = jnp.zeros_like(vector).at[i].set(steps[i])
            return (gradient(vector + step, data) - gradient(vector - step, data)) / (2 * steps[i])

        return jax.lax.map(difference, jnp.arange(vector.size))

    try:
        usable = bool(np.isfinite(differentiate(vector, objective.data)).all())
    except Exception:  # what JAX raises for ops without a second derivative is not of one type
        usable = False
    chosen = (differentiate, "exact") if usable else (take_differences, "central differences")
    return jax.jit(slope), *chosen
