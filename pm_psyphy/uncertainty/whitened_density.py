"""A Gaussian near a posterior in; the log density in its coordinates, across the rotations of weights, comes out."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from pm_psyphy.compiling.flat_parameters import Layout
from pm_psyphy.compiling.model_graph import OWN
from pm_psyphy.compiling.program import Program
from pm_psyphy.uncertainty.hessian_spectrum import LowRankFactor
from pm_psyphy.uncertainty.laplace import Gaussian
from pm_psyphy.uncertainty.refit_from_mode import FACTOR, MODE, WHITENED
from pm_psyphy.uncertainty.rotations import log_orbit_density

# Among the data of a whitened program: the directions that the coordinates leave out.
FLAT = f"{OWN}flat directions"


def span(near: Gaussian) -> tuple[Any, np.ndarray]:
    """Return the factor of the coordinates, (P, Q), and the flat directions that they leave out, (P, k).

    Raises
    ------
    ValueError
        If a flat direction is not a rotation, and there are too many parameters to walk along it.
    """
    if near.rotating or not near.n_flat:
        return near.factor, near.flat
    if isinstance(near.factor, LowRankFactor):
        raise ValueError(
            f"The posterior is flat along {near.n_flat} direction{'s' * (near.n_flat != 1)} of {len(near.flat):,} "
            "parameters at the mode. Give the parameters involved proper priors."
        )
    # What is flat for another reason has bounds somewhere, and is walked along.
    return np.concatenate([near.factor, near.flat], axis=1), near.flat[:, :0]


def write_log_density(program: Program, layout: Layout, rotating: tuple[str, ...]) -> Callable[[Any], Callable]:
    """Return the function that takes data and returns the log density as a function of the position, (Q,).

    Parameters
    ----------
    program : Program
        A whitened program.
    layout : Layout
    rotating : tuple of str
        Value variables whose rotations are left out; each position counts for as much as the rotations of it do.
    """

    @jax.custom_vjp
    def loss(position, data):
        return program.value({WHITENED: position.astype(data[MODE].dtype)}, data, None).astype(position.dtype)

    def run_forward(position, data):
        found, grads = program.value_and_grad({WHITENED: position.astype(data[MODE].dtype)}, data, None)
        return found.astype(position.dtype), grads[WHITENED].astype(position.dtype)

    # The gradient is the program's own, which may be PyTensor's.
    loss.defvjp(run_forward, lambda gradient, cotangent: (cotangent * gradient, None))

    def make_log_density(data):
        def log_density(position):
            density = -loss(position, data)
            if not rotating:
                return density
            params = layout.split(data[MODE] + data[FACTOR] @ position)
            return density + log_orbit_density(params, rotating, layout, data[FLAT])

        return log_density

    return make_log_density
