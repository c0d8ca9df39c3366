"""
A field in three dimensions
===========================

Colours differ in three dimensions, and so do the ellipsoids of what looks alike. The oddity likelihood is an inverse
Laplace transform in two variables whatever the dimension of the stimuli, so nothing changes but ``input_dim``.
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
with pm.Model() as prior:
    psy.WishartProcess("W", input_dim=3, basis_degree=2, decay_rate=0.3)
truth = psy.WishartProcess("truth", input_dim=3, basis_degree=2, weights=pm.draw(prior["W"], random_seed=3))

rng = np.random.default_rng(1)
reference = rng.uniform(-0.8, 0.8, (1500, 3))
comparison = psy.place_comparisons(truth, reference, rng.uniform(0.5, 4, len(reference)), random_seed=2)
trials = psy.simulate_trials(truth, reference, comparison, random_seed=3)
print(trials)

with pm.Model() as model:
    field = psy.WishartProcess("W", input_dim=3, basis_degree=2, decay_rate=0.3)
    psy.Oddity("correct", field, trials.reference, trials.comparison, observed=trials.response)
fit = psy.find_map(model, progressbar=False)
print(fit)

# %%
grid = np.stack(np.meshgrid(*[[-0.6, 0.6]] * 3), axis=-1).reshape(-1, 3)
estimate, expected = fit.evaluate(field.covariance(grid)), truth.covariance(grid).eval()
similarity = psy.covariances.bures_similarity(estimate, expected)
print(f"Bures similarity of estimate and truth: {similarity.min():.3f} to {similarity.max():.3f}")
# sphinx_gallery_start_ignore
assert fit.converged
assert similarity.min() > 0.9
# sphinx_gallery_end_ignore
contours = psy.threshold_contours(fit, field, np.zeros((1, 3)), n_directions=60)
print(f"{contours}: radii {np.nanmin(contours.radii):.2f} to {np.nanmax(contours.radii):.2f}")

fig = plt.figure(figsize=(10, 5), layout="constrained")
for i, (name, covariances) in enumerate({"truth": expected, "fit": estimate}.items()):
    ax = fig.add_subplot(1, 2, i + 1, projection="3d")
    plots.plot_ellipsoids(grid, covariances, color=("0.5", "C1")[i], ax=ax)
    ax.set(title=f"{name}: one standard deviation", xlim=(-1, 1), ylim=(-1, 1), zlim=(-1, 1))
    ax.set(xticks=[-1, 0, 1], yticks=[-1, 0, 1], zticks=[-1, 0, 1])
    ax.set(xlabel="dimension 1", ylabel="dimension 2", zlabel="dimension 3")
# sphinx_gallery_start_ignore
fig.savefig(HERE / "pictures" / "color_field_3d.png")
# sphinx_gallery_end_ignore
