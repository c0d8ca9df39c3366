"""
Choosing hyperparameters
========================

How smooth is the field, and how large are its covariances? The prior of a Wishart process says so by a decay rate and
a variance scale. Declared as ``pm.Data``, they can be swept: ``psy.cross_validate`` fits the model at each setting of a
grid, to all trials and without each fold, by one compiled program. It tells how well held-out trials are predicted,
and the evidence of all of them, by Laplace's approximation, which needs no held-out trials.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pymc as pm

import pm_psyphy as psy

# sphinx_gallery_start_ignore
HERE = Path(__file__).parent
plt.style.use(HERE / "pictures.mplstyle")
# sphinx_gallery_end_ignore

# %%
truth = {"variance_scale": 2e-3, "decay_rate": 0.3}
settings = {"input_dim": 2, "basis_degree": 3, "extra_dims": 0}
with pm.Model() as prior:
    psy.WishartProcess("W", **settings, **truth)
observer = psy.WishartProcess("truth", **settings, weights=pm.draw(prior["W"], random_seed=1))
rng = np.random.default_rng(2)
reference = rng.uniform(-0.9, 0.9, (1500, 2))
comparison = psy.place_comparisons(observer, reference, rng.uniform(0.5, 4, len(reference)), random_seed=rng)
trials = psy.simulate_trials(observer, reference, comparison, random_seed=rng)

# %%
with pm.Model(coords={"trial": range(len(reference))}) as model:
    field = psy.WishartProcess(
        "W",
        **settings,
        variance_scale=pm.Data("variance_scale", 4e-3),
        decay_rate=pm.Data("decay_rate", 0.5),
    )
    psy.Oddity("correct", field, trials.reference, trials.comparison, observed=trials.response, dims="trial")

grid = {"variance_scale": [5e-4, 1e-3, 2e-3, 4e-3], "decay_rate": [0.1, 0.2, 0.3, 0.5]}
found = psy.cross_validate(model, folds=5, grid=grid, random_seed=3, progressbar=False)
print(found)
print("best for held-out trials:", found.best)
print("largest evidence:", found.best_by_evidence)

# %%
# The settings near the best differ by less than the standard error of their difference: any of them will do. What
# matters is to stay away from fields that are rough and have large weights. Where the best stands at the edge of the
# grid, as a smooth field may, extend the grid, unless the scores have become flat there.

with model:
    pm.set_data(found.best_by_evidence)
fit = psy.find_map(model, progressbar=False)
points = rng.uniform(-0.9, 0.9, (200, 2))
similarity = psy.covariances.bures_similarity(
    fit.evaluate(field.covariance(points)), observer.covariance(points).eval()
)
print(f"similarity to the true covariances: {similarity.mean():.3f}")
# sphinx_gallery_start_ignore
assert similarity.mean() > 0.95
# sphinx_gallery_end_ignore

# %%
fig, axes = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
for ax, scores, title in zip(
    axes, (found.total, found.log_evidence), ("Held-out log likelihood", "Log evidence"), strict=True
):
    below = scores.max() - scores
    ax.imshow(below, origin="lower", cmap="viridis_r", vmax=30)
    for i, j in np.ndindex(below.shape):
        ax.text(j, i, f"{below[i, j]:.0f}", ha="center", va="center", color="w" if below[i, j] > 18 else "k", size=9)
    row, column = (grid[name].index(value) for name, value in truth.items())
    ax.plot(column, row, "s", markersize=32, mfc="none", mec="C3", mew=2)
    ax.set(
        title=f"{title} below the best; box: the truth",
        xlabel="decay rate",
        ylabel="variance scale",
        xticks=range(4),
        yticks=range(4),
        xticklabels=grid["decay_rate"],
        yticklabels=[f"{value:g}" for value in grid["variance_scale"]],
    )
    ax.grid(visible=False)
# sphinx_gallery_start_ignore
fig.savefig(HERE / "pictures" / "choose_hyperparameters.png")
# sphinx_gallery_end_ignore
