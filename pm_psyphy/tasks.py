"""Log-odds of a correct response in the tasks of psychophysics, for `Response`, `threshold_contours` and your models.

A new task is a function of a field, a reference and a comparison that returns log-odds.
"""

from pm_psyphy.psychophysics.oddity import oddity_log_odds, oddity_probability
from pm_psyphy.psychophysics.oddity_simulated import simulated_oddity_log_odds
from pm_psyphy.psychophysics.tasks import (
    discriminability,
    mafc_log_odds,
    match_to_sample_log_odds,
    same_different_log_odds,
    tanh_log_odds,
    yes_no_log_odds,
)

__all__ = [
    "discriminability",
    "mafc_log_odds",
    "match_to_sample_log_odds",
    "oddity_log_odds",
    "oddity_probability",
    "same_different_log_odds",
    "simulated_oddity_log_odds",
    "tanh_log_odds",
    "yes_no_log_odds",
]
