"""How alike two covariance matrices are, or two fields of them."""

from pm_psyphy.psychophysics.comparison import (
    affine_invariant_distance,
    bures_similarity,
    bures_wasserstein_distance,
)

__all__ = ["affine_invariant_distance", "bures_similarity", "bures_wasserstein_distance"]
