"""
From the MAP estimate to NUTS
=============================

Where a posterior is not near a Gaussian, Laplace's approximation says so by its k-hat, and the next step is to draw.
``psy.sample(fit)`` hands the compiled density to BlackJAX's NUTS, in coordinates of the Laplace approximation.
"""

from pathlib import Path

import arviz as az
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
# A psychometric function of 60 trials, with a lapse rate: a posterior with a long tail.

rng = np.random.default_rng(5)
truth = {"threshold": 0.3, "slope": 2.0, "guess_rate": 0.5, "lapse_rate": 0.03}
level = rng.choice(np.linspace(-1, 1.5, 8), 60)
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
posterior = psy.laplace(fit, draws=4000, random_seed=1)
print(posterior.message)
tree = psy.sample(fit, target_accept=0.95, random_seed=2, progressbar=False)
print(az.summary(tree, var_names=["threshold", "slope", "lapse_rate"]))
print("threshold by Laplace:", posterior["threshold"].mean().round(3), "±", posterior["threshold"].std().round(3))

# %%
# A Wishart process of 24 weights. Its weights are determined only up to rotations, along which NUTS would walk without
# end: the chains stay on a plane across them, where each point counts for as much as its rotations do. So they agree
# about the weights, too.

settings = {"input_dim": 2, "basis_degree": 1, "variance_scale": 2e-3}
with pm.Model() as prior:
    psy.WishartProcess("W", **settings)
observer = psy.WishartProcess("truth", input_dim=2, basis_degree=1, weights=pm.draw(prior["W"], random_seed=4))
reference = rng.uniform(-0.8, 0.8, (150, 2))
comparison = psy.place_comparisons(observer, reference, rng.uniform(0.5, 4, len(reference)), random_seed=rng)
trials = psy.simulate_trials(observer, reference, comparison, random_seed=rng)
centre = np.zeros((1, 2))
with pm.Model() as wppm:
    field = psy.WishartProcess("W", **settings)
    pm.Deterministic("variances", field.covariance(centre)[0].diagonal())
    psy.Oddity("correct", field, trials.reference, trials.comparison, observed=trials.response)

wppm_fit = psy.find_map(wppm, progressbar=False)
wppm_posterior = psy.laplace(wppm_fit, draws=1000, random_seed=3)
print(wppm_posterior.message)
wppm_tree = psy.sample(wppm_fit, draws=250, tune=250, chains=2, target_accept=0.95, random_seed=4, progressbar=False)
print(az.summary(wppm_tree, var_names=["variances"]))
# sphinx_gallery_start_ignore
assert float(az.rhat(wppm_tree["posterior"].dataset[["W_z"]])["W_z"].max()) < 1.1
# sphinx_gallery_end_ignore
print(f"largest r-hat of the weights: {float(az.rhat(wppm_tree['posterior'].dataset[['W_z']])['W_z'].max()):.2f}")

# %%
# Of 60 trials of a psychometric function Laplace's band is nearly that of NUTS. Of 150 oddity trials it is too narrow,
# and its k-hat said so: with so few trials of a field, sample.

draws = psy.Draws.from_datatree(wppm_fit.objective, wppm_tree)
ahead = np.linspace(0.02, 0.6, 40)
comparisons = np.stack([ahead, np.zeros(40)], axis=1)
p = psy.tasks.oddity_probability(field, np.zeros((40, 2)), comparisons)
true_p = psy.tasks.oddity_probability(observer, np.zeros((40, 2)), comparisons).eval()

fig, axes = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
grid = np.linspace(-1.2, 1.7, 200)
curve = psy.psychometric(grid, **parameters)
sampled = psy.Draws.from_datatree(fit.objective, tree).evaluate(curve)
plots.plot_psychometric(level, response, curve=(grid, sampled), label="NUTS, 95 %", color="C1", ax=axes[0])
low, high = np.quantile(posterior.evaluate(curve), [0.025, 0.975], axis=0)
for edge, label in ((low, "Laplace, 95 %"), (high, None)):
    axes[0].plot(grid, edge, color="C0", lw=1, ls="--", label=label)
axes[0].plot(grid, psy.psychometric(grid, **truth).eval(), color="0.25", lw=1, label="truth")
axes[0].set(xlabel="stimulus level", ylabel="proportion correct", title="60 trials", ylim=(0.2, 1.02))
axes[0].legend(loc="upper left")
for values, color, label in (
    (draws.evaluate(p), "C1", "NUTS, 95 %"),
    (wppm_posterior.evaluate(p), "C0", "Laplace, 95 %"),
):
    low, middle, high = np.quantile(values, [0.025, 0.5, 0.975], axis=0)
    axes[1].plot(ahead, middle, color=color)
    axes[1].fill_between(ahead, low, high, color=color, alpha=0.25, lw=0, label=label)
axes[1].plot(ahead, true_p, color="0.25", lw=1, label="truth")
axes[1].set(xlabel="distance from the centre", ylabel="proportion correct")
axes[1].set(title="A Wishart process, 150 oddity trials", ylim=(0.2, 1.02))
axes[1].legend(loc="lower right")
# sphinx_gallery_start_ignore
fig.savefig(HERE / "pictures" / "from_map_to_nuts.png")
# sphinx_gallery_end_ignore
