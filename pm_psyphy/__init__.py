"""Fit PyMC models by MAP, compiled by JAX, on the GPU or CPU at hand.

The rooms of this package; each imports only rooms below it:

- ``plots``: figures of fields, thresholds and psychometric functions.
- ``reports``: what is read off a fit: thresholds in every direction, goodness of fit.
- ``uncertainty``: how sure an estimate is: draws of the posterior by several methods, bootstrap, cross-validation.
- ``fitting``: the verbs: `find_map` for one model, `find_maps` for many data sets, `precompile`.
- ``results``: what a fit gives back: `MAPResult`, `MAPResults`, `Draws`, as mappings and DataTrees.
- ``optimizing``: optimisers and the compiled loop that searches for the minimum; how a search ended.
- ``rows``: where the rows of data lie: whole, in blocks, in minibatches, over devices and processes.
- ``compiling``: a `pm.Model` becomes an `Objective`: negative log posterior and gradient, compiled.
- ``psychophysics``: models of observers, as PyTensor expressions inside ``with pm.Model()``.
- ``common``: checked arrays, and functions of rows, which both of them need.
- ``native``: machine code for functions of rows, on the CPU.

The way of a fit is the body of `find_map`: compile the model, choose the starts, lay out the rows, search, describe.
"""

import importlib
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from pm_psyphy import covariances, tasks
from pm_psyphy.compiling.disk_cache import cache_compilation
from pm_psyphy.compiling.from_model import compile_objective
from pm_psyphy.compiling.objective import Objective
from pm_psyphy.fitting.find_map import find_map
from pm_psyphy.fitting.find_maps import find_maps
from pm_psyphy.fitting.precompile import precompile
from pm_psyphy.optimizing.lbfgs import lbfgs
from pm_psyphy.optimizing.map_kernel import map_kernel
from pm_psyphy.optimizing.status import Status
from pm_psyphy.psychophysics import (
    Domain,
    Oddity,
    Response,
    Trials,
    WishartProcess,
    just_noticeable_difference,
    place_comparisons,
    point_of_subjective_equality,
    psychometric,
    psychometric_inverse,
    psychometric_log_odds,
    simulate_trials,
    weber_fraction,
)
from pm_psyphy.reports.goodness_of_fit import compare_draws, goodness_of_fit
from pm_psyphy.reports.threshold_contours import threshold_contours
from pm_psyphy.results.draws import Draws
from pm_psyphy.results.load import load
from pm_psyphy.results.map_result import MAPResult
from pm_psyphy.results.map_results import MAPResults
from pm_psyphy.rows.minibatches import Minibatches
from pm_psyphy.rows.processes import join_processes
from pm_psyphy.uncertainty.bootstrap import bootstrap
from pm_psyphy.uncertainty.cross_validation import cross_validate
from pm_psyphy.uncertainty.laplace import laplace
from pm_psyphy.uncertainty.posterior import posterior
from pm_psyphy.uncertainty.sampling import sample

if TYPE_CHECKING:
    from pm_psyphy import plots

__version__ = version("pm_psyphy")

__all__ = [
    "Domain",
    "Draws",
    "MAPResult",
    "MAPResults",
    "Minibatches",
    "Objective",
    "Oddity",
    "Response",
    "Status",
    "Trials",
    "WishartProcess",
    "bootstrap",
    "cache_compilation",
    "compare_draws",
    "compile_objective",
    "covariances",
    "cross_validate",
    "find_map",
    "find_maps",
    "goodness_of_fit",
    "join_processes",
    "just_noticeable_difference",
    "laplace",
    "lbfgs",
    "load",
    "map_kernel",
    "place_comparisons",
    "plots",
    "point_of_subjective_equality",
    "posterior",
    "precompile",
    "psychometric",
    "psychometric_inverse",
    "psychometric_log_odds",
    "sample",
    "simulate_trials",
    "tasks",
    "threshold_contours",
    "weber_fraction",
]


def __getattr__(name: str) -> Any:
    # Matplotlib takes a while to import, and most programs draw nothing.
    if name == "plots":
        return importlib.import_module("pm_psyphy.plots")
    raise AttributeError(f"module 'pm_psyphy' has no attribute {name!r}")
