"""
A whole field
=============

A 5 x 5 grid of references with 400 trials each. Ten times as many, 100,000 trials, are the size for which simulation
needs a GPU and patience; the exact likelihood takes them on a laptop's processor, in blocks that stay in its cache, in
two to four minutes on two cores: ``python examples/wppm_field.py 4000``.
"""

import sys
import time
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
with pm.Model() as prior:
    psy.WishartProcess("W", input_dim=2)
truth = psy.WishartProcess("truth", input_dim=2, weights=pm.draw(prior["W"], random_seed=4))

grid = np.stack(np.meshgrid(*[np.linspace(-0.7, 0.7, 5)] * 2), axis=-1).reshape(-1, 2)
per_reference = int(sys.argv[1]) if sys.argv[1:] and sys.argv[1].isdigit() else 400
reference = np.repeat(grid, per_reference, axis=0)
distance = np.random.default_rng(1).uniform(0.5, 4, len(reference))
comparison = psy.place_comparisons(truth, reference, distance, random_seed=2)
trials = psy.simulate_trials(truth, reference, comparison, random_seed=3)
print(trials)

# %%
# Lengths of ``pm.Data`` may change, and a fit of other data compiles nothing: the first 100 trials of each reference
# come first, then all of them, from where the first fit ended.

few = trials[np.arange(len(trials)) % per_reference < 100]
with pm.Model() as model:
    field = psy.WishartProcess("W", input_dim=2)
    observed = pm.Data("response", few.response)
    stimuli = pm.Data("reference", few.reference), pm.Data("comparison", few.comparison)
    psy.Oddity("correct", field, *stimuli, observed=observed)

fits = {"2,500 trials": psy.find_map(model, progressbar=False)}
with model:
    pm.set_data({"reference": trials.reference, "comparison": trials.comparison, "response": trials.response})
begun = time.perf_counter()
name = f"{len(trials):,} trials"
fits[name] = psy.find_map(model, initvals=fits["2,500 trials"].unconstrained, progressbar=False)
print(fits[name])
print(f"{name} in {time.perf_counter() - begun:.0f} s")

# %%
everywhere = np.stack(np.meshgrid(*[np.linspace(-0.75, 0.75, 7)] * 2), axis=-1).reshape(-1, 2)
expected = truth.covariance(everywhere).eval()
fig, axes = plt.subplots(1, 2, figsize=(10, 5.8), layout="constrained")
for ax, (name, fit) in zip(axes, fits.items(), strict=True):
    # sphinx_gallery_start_ignore
    assert fit.converged
    # sphinx_gallery_end_ignore
    estimate = fit.evaluate(field.covariance(everywhere))
    similarity = psy.covariances.bures_similarity(estimate, expected)
    print(f"{name}: {fit.n_steps} steps, similarity to the truth {similarity.min():.4f} to {similarity.max():.4f}")
    plots.plot_ellipses(everywhere, expected, color="0.75", filled=True, scale=0.5, label="truth", ax=ax)
    plots.plot_ellipses(everywhere, estimate, color="C1", scale=0.5, label="fit", ax=ax)
    ax.set(title=f"{name}: half a standard deviation", xlabel="stimulus dimension 1", ylabel="stimulus dimension 2")
# sphinx_gallery_start_ignore
assert np.median(similarity) > 0.99
# sphinx_gallery_end_ignore
axes[0].legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2)
# sphinx_gallery_start_ignore
fig.savefig(HERE / "pictures" / "wppm_field.png")
# sphinx_gallery_end_ignore
