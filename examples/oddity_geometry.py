"""
When the odd one is found
=========================

Three percepts, two of them of the reference. The observer names the one that is farthest from the other two, so the
answer is right unless the two references lie farther apart. In one dimension that region is a double wedge, and its
probability is what ``oddity_probability`` computes in closed form but for one angle; a simulation agrees with it.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import pm_psyphy as psy

# sphinx_gallery_start_ignore
HERE = Path(__file__).parent
plt.style.use(HERE / "pictures.mplstyle")
# sphinx_gallery_end_ignore

# %%
# With the standard deviation 1 everywhere, u is the difference of the references' percepts, with variance 2, and w that
# of the comparison's to their mean, with variance 3/2 around the distance of the stimuli.

N_DRAWS = 200_000
rng = np.random.default_rng(0)
first, second, other = rng.normal(size=(3, N_DRAWS))


def simulate(distance):
    """Return whether the comparison is farther from both references than they are from each other."""
    comparison = other + distance
    nearest = np.minimum(np.abs(comparison - first), np.abs(comparison - second))
    return nearest > np.abs(first - second)


# %%
# The exact probability, and how often the simulated answers are right, with three standard errors.

SD = 0.1
field = psy.WishartProcess("field", input_dim=1, basis_degree=0, extra_dims=0, weights=[[[SD]]], diag_term=0.0)
distances = np.linspace(0, 6, 25)
exact = psy.tasks.oddity_probability(field, np.zeros((25, 1)), SD * distances[:, None]).eval()
shares = np.array([simulate(distance).mean() for distance in distances])
errors = np.sqrt(exact * (1 - exact) / N_DRAWS)
print(f"largest difference: {np.max(np.abs(shares - exact) / errors):.1f} standard errors of {N_DRAWS:,} draws")
# sphinx_gallery_start_ignore
assert np.all(np.abs(shares - exact) < 4.5 * errors)
# sphinx_gallery_end_ignore

# %%
# Left, the plane of u and w: the answer is wrong in the wedge \|w\| < 3/2 \|u\|, and the percepts are where the rings
# are. As the stimuli move apart, the rings move up and out of the wedge.

u, w = np.meshgrid(np.linspace(-5, 5, 600), np.linspace(-4, 7, 600))
fig, axes = plt.subplots(1, 2, figsize=(10, 4.2))
axes[0].contourf(u, w, np.abs(w) < 1.5 * np.abs(u), levels=[0.5, 1.5], colors=["#f3d9c4"])
for distance, color in ((0, "C0"), (3, "C2")):
    density = np.exp(-(u**2) / 4 - (w - distance) ** 2 / 3)
    rings = axes[0].contour(u, w, density, levels=np.exp([-4.5, -2, -0.5]), colors=color, linewidths=1.2)
    axes[0].text(0, distance, f"{distance} sd", color=color, ha="center", va="center", fontweight="bold")
axes[0].text(-3.3, -1.2, "wrong", color="#a85a1f", ha="center", fontweight="bold")
axes[0].text(-3.3, 6.2, "right", color="0.3", ha="center", fontweight="bold")
axes[0].set(xlabel="u: between the references", ylabel="w: from their mean to the comparison", title="The rule")
axes[1].plot(distances, exact, label="exact")
axes[1].errorbar(distances, shares, 3 * errors, fmt=".", color="C1", label=f"simulated, {N_DRAWS:,} draws")
axes[1].axhline(1 / 3, color="0.7", lw=1, ls="--", label="chance")
axes[1].set(xlabel="distance of the stimuli (sd)", ylabel="probability of a right answer", title="What it gives")
axes[1].legend(loc="upper left")
# sphinx_gallery_start_ignore
plt.savefig(HERE / "pictures/oddity_geometry.png")
# sphinx_gallery_end_ignore
