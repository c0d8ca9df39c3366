"""
Threshold contours by the bootstrap
===================================

How much would thresholds change if the experiment were done again? ``psy.bootstrap(fit)`` draws trials with
replacement and fits each of these data sets from the original estimate, all in one compiled program.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pymc as pm

import pm_psyphy as psy
from pm_psyphy import plots

# sphinx_gallery_start_ignore
HERE = Path(__file__).parent
plt.style.use(HERE / "pictures.mplstyle")
# sphinx_gallery_end_ignore

# %%
# Two observers, with 1,500 trials each around five references. Covariances of the second are twice as large as those of
# the first.

settings = {"input_dim": 2, "basis_degree": 2, "variance_scale": 6e-4}
with pm.Model() as prior:
    psy.WishartProcess("W", **settings)
weights = pm.draw(prior["W"], random_seed=4)
places = np.array([[0, 0], [-0.5, -0.5], [0.5, -0.5], [-0.5, 0.5], [0.5, 0.5]])
reference = np.repeat(places, 300, axis=0)


def simulate(weights, seed):
    observer = psy.WishartProcess("truth", input_dim=2, basis_degree=2, weights=weights)
    rng = np.random.default_rng(seed)
    comparison = psy.place_comparisons(observer, reference, rng.uniform(0.5, 4, len(reference)), random_seed=rng)
    return observer, psy.simulate_trials(observer, reference, comparison, random_seed=rng)


first, trials = simulate(weights, 1)
second, other_trials = simulate(np.sqrt(2) * weights, 2)

with pm.Model(coords={"trial": range(len(reference))}) as model:
    field = psy.WishartProcess("W", **settings)
    stimuli = pm.Data("reference", trials.reference), pm.Data("comparison", trials.comparison)
    psy.Oddity("correct", field, *stimuli, observed=pm.Data("response", trials.response), dims="trial")

fit = psy.find_map(model, progressbar=False)
print(fit)
print(psy.goodness_of_fit(fit, by=np.linalg.norm(trials.comparison - trials.reference, axis=1), bins=6, random_seed=1))

# %%
# Trials are drawn within each reference, so that each keeps its number of them. The band holds 95 % of the estimates.
# It is narrower than that of Laplace's approximation: the estimates of all data sets are drawn towards the same prior,
# and their scatter does not tell how far that may be from the truth.

strata = np.repeat(np.arange(len(places)), 300)
boot = psy.bootstrap(fit, n_refits=60, strata=strata, random_seed=3, progressbar=False)
print(boot)
posterior = psy.laplace(fit, draws=200, random_seed=4)
n_directions = 24
contours = psy.threshold_contours(boot, field, places, n_directions=n_directions)
by_laplace = psy.threshold_contours(posterior, field, places, n_directions=n_directions)
widths = [c.quantile(0.975).radii - c.quantile(0.025).radii for c in (contours, by_laplace)]
print(f"bands of the bootstrap are {np.median(widths[0] / widths[1]):.2f} times as wide as those of Laplace")

# %%
# Are two thresholds different? Of one observer: horizontally and vertically, at the centre. And of two: the second
# observer's data go through the same compiled program, and draws of the two are compared direction by direction.

across, upwards = [by_laplace.radii[:, 0, i] for i in (0, n_directions // 4)]
print("horizontal - vertical:", psy.compare_draws(across, upwards))
data = {"reference": other_trials.reference, "comparison": other_trials.comparison, "response": other_trials.response}
other = psy.laplace(psy.find_map(fit.objective.with_data(**data), progressbar=False), draws=200, random_seed=5)
theirs = psy.threshold_contours(other, field, places[:1], n_directions=8)
ours = psy.threshold_contours(posterior, field, places[:1], n_directions=8)
difference = psy.compare_draws(theirs.radii[:, 0], ours.radii[:, 0])
print("second - first observer:", difference)
# sphinx_gallery_start_ignore
assert difference.p_value < 0.01
# sphinx_gallery_end_ignore

# %%
fig, axes = plt.subplots(1, 2, figsize=(10, 4.8), layout="constrained")
true_contours = psy.threshold_contours(None, first, places, n_directions=n_directions)
for ax, found, title in zip(axes, (contours, by_laplace), ("60 bootstrap refits", "Laplace"), strict=True):
    plots.plot_contours(found, color="C1", label="median and 95 % band", ax=ax)
    plots.plot_contours(true_contours, color="0.25", linewidths=1, label="truth", ax=ax)
    ax.set(title=title, xlim=(-1, 1), ylim=(-1, 1), xticks=(-1, 0, 1), yticks=(-1, 0, 1))
    ax.set(xlabel="stimulus dimension 1", ylabel="stimulus dimension 2")
fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
# sphinx_gallery_start_ignore
fig.savefig(HERE / "pictures" / "bootstrap_contours.png")
# sphinx_gallery_end_ignore
