"""Models of observers, as PyTensor expressions: they run in any PyMC model, and import nothing of the fitting side."""

from pm_psyphy.psychophysics.domain import Domain
from pm_psyphy.psychophysics.oddity import Oddity
from pm_psyphy.psychophysics.psychometric import (
    just_noticeable_difference,
    point_of_subjective_equality,
    psychometric,
    psychometric_inverse,
    psychometric_log_odds,
    weber_fraction,
)
from pm_psyphy.psychophysics.simulation import place_comparisons, simulate_trials
from pm_psyphy.psychophysics.tasks import Response
from pm_psyphy.psychophysics.trials import Trials
from pm_psyphy.psychophysics.wishart import WishartProcess

__all__ = [
    "Domain",
    "Oddity",
    "Response",
    "Trials",
    "WishartProcess",
    "just_noticeable_difference",
    "place_comparisons",
    "point_of_subjective_equality",
    "psychometric",
    "psychometric_inverse",
    "psychometric_log_odds",
    "simulate_trials",
    "weber_fraction",
]
