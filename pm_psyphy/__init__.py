"""Fit PyMC models by MAP, compiled by JAX, on the device at hand.

The way of a fit: `compile_objective` turns a `pm.Model` into an `Objective`, the negative log posterior and its
gradient as one compiled function of parameters and data (graph, linker, program, objective, assembly). `find_map`
chooses starts (start), searches with an optax transformation inside one compiled loop (optimizers, lbfgs, loop,
optimize), and describes the best point as a `MAPResult` (result, datatree). `map_kernel` is one step of that loop, for
a loop of your own. `find_maps` fits many data sets in one program (datasets, pool, many, results).

After the fit, `laplace` turns the estimate into draws of a Gaussian (hessian, orbits, laplace, draws), `bootstrap` into
estimates of resampled data (weights, refit, bootstrap), `sample` into draws by NUTS (sampling). `cross_validate`
chooses hyperparameters, `goodness_of_fit` compares responses with what the model expects.

Models of observers (`psychophysics`) are PyTensor expressions inside ``with pm.Model()``: a `WishartProcess` gives the
covariance of percepts over the stimulus space, a task such as `Oddity` the probability of each response. `Trials` is a
checked table of data for them, and `threshold_contours` reads thresholds off a fitted field.
"""

from importlib.metadata import version

from pm_psyphy.assembly import compile_objective
from pm_psyphy.bootstrap import Bootstrap, bootstrap
from pm_psyphy.cache import cache_compilation
from pm_psyphy.cross_validation import CrossValidation, cross_validate
from pm_psyphy.draws import Draws
from pm_psyphy.fit import find_map
from pm_psyphy.goodness import Difference, GoodnessOfFit, compare_draws, goodness_of_fit
from pm_psyphy.kernel import MAPState, map_kernel
from pm_psyphy.laplace import LaplacePosterior, laplace
from pm_psyphy.lbfgs import lbfgs
from pm_psyphy.many import find_maps
from pm_psyphy.objective import Objective
from pm_psyphy.optimize import Progress
from pm_psyphy.processes import join_processes
from pm_psyphy.psychophysics import (
    Domain,
    Oddity,
    Response,
    Trials,
    WishartProcess,
    affine_invariant_distance,
    bures_similarity,
    bures_wasserstein_distance,
    discriminability,
    just_noticeable_difference,
    mafc_log_odds,
    match_to_sample_log_odds,
    oddity_log_odds,
    oddity_probability,
    place_comparisons,
    point_of_subjective_equality,
    psychometric,
    psychometric_inverse,
    psychometric_log_odds,
    same_different_log_odds,
    simulate_trials,
    simulated_oddity_log_odds,
    tanh_log_odds,
    weber_fraction,
    yes_no_log_odds,
)
from pm_psyphy.result import MAPResult, load_map
from pm_psyphy.results import MAPResults
from pm_psyphy.sampling import sample
from pm_psyphy.status import Status
from pm_psyphy.thresholds import ThresholdContours, threshold_contours

__version__ = version("pm_psyphy")

__all__ = [
    "Bootstrap",
    "CrossValidation",
    "Difference",
    "Domain",
    "Draws",
    "GoodnessOfFit",
    "LaplacePosterior",
    "MAPResult",
    "MAPResults",
    "MAPState",
    "Objective",
    "Oddity",
    "Progress",
    "Response",
    "Status",
    "ThresholdContours",
    "Trials",
    "WishartProcess",
    "affine_invariant_distance",
    "bootstrap",
    "bures_similarity",
    "bures_wasserstein_distance",
    "cache_compilation",
    "compare_draws",
    "compile_objective",
    "cross_validate",
    "discriminability",
    "find_map",
    "find_maps",
    "goodness_of_fit",
    "join_processes",
    "just_noticeable_difference",
    "laplace",
    "lbfgs",
    "load_map",
    "mafc_log_odds",
    "map_kernel",
    "match_to_sample_log_odds",
    "oddity_log_odds",
    "oddity_probability",
    "place_comparisons",
    "point_of_subjective_equality",
    "psychometric",
    "psychometric_inverse",
    "psychometric_log_odds",
    "same_different_log_odds",
    "sample",
    "simulate_trials",
    "simulated_oddity_log_odds",
    "tanh_log_odds",
    "threshold_contours",
    "weber_fraction",
    "yes_no_log_odds",
]
