"""Models of observers, as PyTensor expressions: they run in any PyMC model, and import nothing of the fitting side."""

from pm_psyphy.psychophysics.comparison import (
    affine_invariant_distance,
    bures_similarity,
    bures_wasserstein_distance,
)
from pm_psyphy.psychophysics.domain import Domain
from pm_psyphy.psychophysics.oddity import Oddity, oddity_log_odds, oddity_probability
from pm_psyphy.psychophysics.oddity_simulated import simulated_oddity_log_odds
from pm_psyphy.psychophysics.psychometric import (
    just_noticeable_difference,
    point_of_subjective_equality,
    psychometric,
    psychometric_inverse,
    psychometric_log_odds,
    weber_fraction,
)
from pm_psyphy.psychophysics.simulation import place_comparisons, simulate_trials
from pm_psyphy.psychophysics.tasks import (
    Response,
    discriminability,
    mafc_log_odds,
    match_to_sample_log_odds,
    same_different_log_odds,
    tanh_log_odds,
    yes_no_log_odds,
)
from pm_psyphy.psychophysics.trials import Trials
from pm_psyphy.psychophysics.wishart import WishartProcess

__all__ = [
    "Domain",
    "Oddity",
    "Response",
    "Trials",
    "WishartProcess",
    "affine_invariant_distance",
    "bures_similarity",
    "bures_wasserstein_distance",
    "discriminability",
    "just_noticeable_difference",
    "mafc_log_odds",
    "match_to_sample_log_odds",
    "oddity_log_odds",
    "oddity_probability",
    "place_comparisons",
    "point_of_subjective_equality",
    "psychometric",
    "psychometric_inverse",
    "psychometric_log_odds",
    "same_different_log_odds",
    "simulate_trials",
    "simulated_oddity_log_odds",
    "tanh_log_odds",
    "weber_fraction",
    "yes_no_log_odds",
]
