"""An Objective in; its loss, gradient and Hessian as functions of one vector come out."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from pm_psyphy.compiling.flat_parameters import Layout
from pm_psyphy.compiling.jax_linker import translate
from pm_psyphy.compiling.model_graph import lift
from pm_psyphy.compiling.objective import Objective
from pm_psyphy.compiling.program import call_by_name

# So many directions are differentiated at once.
DIRECTIONS = 16
# So many at most are given to the device in one call.
MOST_DIRECTIONS = 512


@dataclass(frozen=True, eq=False)
class Curvature:
    """The loss of an objective around points of its unconstrained space, vectors (P,)."""

    objective: Objective
    layout: Layout
    multiply: Callable[..., jax.Array]
    method: str
    """``"exact"``, or ``"central differences"`` where the second derivative is not to be had."""

    def find_slope(self, vector: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the loss and its gradient, (P,)."""
        params = self.layout.split(vector)
        loss, grads = self.objective.program.jitted_value_and_grad(params, self.objective.data, None)
        return float(loss), np.asarray(self.layout.join(grads), float)

    def find_hessian(self, vector: np.ndarray) -> np.ndarray:
        """Return the Hessian, (P, P)."""
        hessian = self.multiply_hessian(vector, np.eye(vector.size))
        return (hessian + hessian.T) / 2

    def multiply_hessian(self, vector: np.ndarray, directions: np.ndarray) -> np.ndarray:
        """Return the product of the Hessian with each of k directions, (k, P), k at most P."""
        products = []
        for begin in range(0, len(directions), MOST_DIRECTIONS):
            part = directions[begin : begin + MOST_DIRECTIONS]
            padded = np.zeros((_count_padded(vector.size), vector.size), vector.dtype)
            padded[: len(part)] = part
            products.append(
                np.asarray(self.multiply(vector, padded, len(part), self.objective.data), float)[: len(part)]
            )
        return np.concatenate(products)

    def multiply_prior(self, vector: np.ndarray, directions: np.ndarray) -> np.ndarray:
        """Return the product of the Hessian of the prior with each of k directions, (k, P)."""
        program, model = self.objective.program, self.objective.model

        def compile_prior():
            graph = lift(model, [model.logp(vars=model.free_RVs)], freeze=program.freeze, values=program.frozen)
            evaluate = call_by_name(translate(graph.inputs, graph.outputs, on_host=set()), graph, lambda out: -out[0])

            def loss(vector, data):
                return evaluate(self.layout.split(vector), data, None)

            return graph, jax.jit(
                lambda v, d, data: jax.lax.map(jax.linearize(lambda x: jax.grad(loss)(x, data), v)[1], d)
            )

        graph, multiply = program.remember(("prior", self.layout), compile_prior)
        return np.asarray(multiply(vector, directions.astype(vector.dtype), self.objective.values_of(graph)), float)


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
    found = objective.program.remember(("curvature", layout), lambda: _compile_curvature(objective, layout, vector))
    return Curvature(objective, layout, *found)


def _compile_curvature(objective: Objective, layout: Layout, vector: np.ndarray):
    program = objective.program

    def gradient(vector, data):
        return layout.join(program.value_and_grad(layout.split(vector), data, None)[1])

    def multiply_exactly(vector, data):
        _, along = jax.linearize(lambda v: gradient(v, data), vector)
        return along

    def take_differences(vector, data):
        precision = np.finfo(vector.dtype).eps ** (1 / 3)

        def along(direction):
            length = jnp.maximum(jnp.linalg.norm(direction), jnp.finfo(vector.dtype).tiny)
            step = precision * jnp.maximum(1, jnp.abs(vector @ direction) / length) / length
            ahead, behind = gradient(vector + step * direction, data), gradient(vector - step * direction, data)
            return (ahead - behind) / (2 * step)

        return along

    def compile_product(find_along):
        @jax.jit
        def multiply(vector, directions, n, data):
            along = jax.vmap(find_along(vector, data))

            def add(i, products):
                rows = jax.lax.dynamic_slice_in_dim(directions, i * DIRECTIONS, DIRECTIONS)
                return jax.lax.dynamic_update_slice_in_dim(products, along(rows), i * DIRECTIONS, 0)

            # The number of directions is no part of the program.
            return jax.lax.fori_loop(0, -(-n // DIRECTIONS), add, jnp.zeros_like(directions))

        return multiply

    exact = compile_product(multiply_exactly)
    everywhere = np.ones((_count_padded(vector.size), vector.size), vector.dtype)
    try:
        usable = bool(np.isfinite(exact(vector, everywhere, 1, objective.data)).all())
    except Exception:  # what JAX raises for ops without a second derivative is not of one type
        usable = False
    return (exact, "exact") if usable else (compile_product(take_differences), "central differences")


def _count_padded(n_parameters: int) -> int:
    """Return how many directions are given in one call: one number for a model, so that it is compiled once."""
    return min(-(-n_parameters // DIRECTIONS) * DIRECTIONS, MOST_DIRECTIONS)
