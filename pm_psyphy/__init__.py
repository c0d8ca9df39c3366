"""Fit PyMC models by MAP, compiled by JAX, on the device at hand.

The way of a fit: `compile_objective` turns a `pm.Model` into an `Objective`, the negative log posterior and its
gradient as one compiled function of parameters and data (graph, linker, program, objective). `find_map` chooses starts
(start), searches with an optax transformation inside one compiled loop (optimizers, lbfgs, loop, optimize), and
describes the best point as a `MAPResult` (result, datatree). `map_kernel` is one step of that loop, for a loop of your
own.
"""

from importlib.metadata import version

from pm_psyphy.fit import find_map
from pm_psyphy.kernel import MAPState, map_kernel
from pm_psyphy.lbfgs import lbfgs
from pm_psyphy.objective import Objective, compile_objective
from pm_psyphy.optimize import Progress
from pm_psyphy.result import MAPResult, load_map
from pm_psyphy.status import Status

__version__ = version("pm_psyphy")

__all__ = [
    "MAPResult",
    "MAPState",
    "Objective",
    "Progress",
    "Status",
    "compile_objective",
    "find_map",
    "lbfgs",
    "load_map",
    "map_kernel",
]
