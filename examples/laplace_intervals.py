"""
Intervals by Laplace's approximation
====================================

A point estimate is half an answer. ``psy.laplace(fit)`` goes from the MAP estimate to the mode of the density in PyMC's
unconstrained space, takes the exact Hessian there, and draws from the Gaussian it defines: intervals of every
variable and of any expression, standard errors, and the evidence of the data.
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
# First a psychometric function of 400 trials.

rng = np.random.default_rng(3)
truth = {"threshold": 0.3, "slope": 2.0, "guess_rate": 0.5, "lapse_rate": 0.03}
level = rng.choice(np.linspace(-1, 1.5, 8), 400)
response = (rng.random(level.size) < psy.psychometric(level, **truth).eval()).astype(int)

with pm.Model() as model:
    parameters = {
        "threshold": pm.Normal("threshold", 0, 1),
        "slope": pm.LogNormal("slope", 0, 1),
        "guess_rate": 0.5,
        "lapse_rate": pm.Beta("lapse_rate", 2, 40),
    }
    pm.Bernoulli("correct", logit_p=psy.psychometric_log_odds(level, **parameters), observed=response)

fit = psy.find_map(model, progressbar=False)
posterior = psy.laplace(fit, random_seed=1)
print(posterior)
print(posterior.message)
low, high = np.quantile(posterior["threshold"], [0.025, 0.975])
print(f"threshold: 95 % interval {low:.3f} to {high:.3f}")
# sphinx_gallery_start_ignore
assert low < truth["threshold"] < high
# sphinx_gallery_end_ignore

# %%
# The message is honest: the slope and the lapse rate of so few trials are not distributed as a Gaussian, on whatever
# scale. The interval of the threshold hardly suffers: the example with NUTS holds one against the other.

grid = np.linspace(-1.2, 1.7, 200)
curves = posterior.evaluate(psy.psychometric(grid, **parameters))

# %%
# Then a Wishart process. Its weights are determined only up to rotations of their last axis: three directions along
# which nothing changes. They are found, counted and left out, and thresholds have intervals all the same. Neighbouring
# thresholds err together, so that the share of them that an interval covers varies much from one observer to another.

settings = {"input_dim": 2, "basis_degree": 2, "variance_scale": 6e-4}
with pm.Model() as prior:
    psy.WishartProcess("W", **settings)
observer = psy.WishartProcess("truth", input_dim=2, basis_degree=2, weights=pm.draw(prior["W"], random_seed=4))
places = np.stack(np.meshgrid(*[np.linspace(-0.6, 0.6, 3)] * 2), axis=-1).reshape(-1, 2)
reference = np.repeat(places, 250, axis=0)
comparison = psy.place_comparisons(observer, reference, rng.uniform(0.5, 4, len(reference)), random_seed=rng)
trials = psy.simulate_trials(observer, reference, comparison, random_seed=rng)

with pm.Model() as wppm:
    field = psy.WishartProcess("W", **settings)
    psy.Oddity("correct", field, trials.reference, trials.comparison, observed=trials.response)

wppm_fit = psy.find_map(wppm, progressbar=False)
wppm_posterior = psy.laplace(wppm_fit, draws=200, random_seed=2)
print(wppm_posterior)
print(wppm_posterior.message)
# sphinx_gallery_start_ignore
assert wppm_posterior.n_flat == 3
# sphinx_gallery_end_ignore
contours = psy.threshold_contours(wppm_posterior, field, places, n_directions=32)
true_contours = psy.threshold_contours(None, observer, places, n_directions=32)
covered = np.mean(
    (contours.quantile(0.025).radii < true_contours.radii) & (true_contours.radii < contours.quantile(0.975).radii)
)
print(f"{covered:.0%} of the true thresholds lie in their 95 % intervals")

# %%
fig, axes = plt.subplots(1, 2, figsize=(10, 4.6), layout="constrained")
plots.plot_psychometric(level, response, curve=(grid, curves), label="median and 95 % band", color="C1", ax=axes[0])
axes[0].plot(grid, psy.psychometric(grid, **truth).eval(), color="0.25", lw=1, label="truth")
axes[0].set(xlabel="stimulus level", ylabel="proportion correct", title="400 trials", ylim=(0.35, 1.02))
axes[0].legend(loc="upper left")
plots.plot_contours(contours, color="C1", label="median and 95 % band", ax=axes[1])
plots.plot_contours(true_contours, color="0.25", linewidths=1, label="truth", ax=axes[1])
axes[1].set(
    title=f"Thresholds, {trials.response.size:,} trials",
    xlim=(-1, 1),
    ylim=(-1, 1),
    xticks=(-1, 0, 1),
    yticks=(-1, 0, 1),
    xlabel="stimulus dimension 1",
    ylabel="stimulus dimension 2",
)
axes[1].legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2)
# sphinx_gallery_start_ignore
fig.savefig(HERE / "pictures" / "laplace_intervals.png")
# sphinx_gallery_end_ignore
