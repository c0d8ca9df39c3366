"""
A Wishart process in one minute
===============================

An observer sees three stimuli, two of them equal, and says which is the odd one. How far apart must they be? The
answer depends on the direction, and on where in the stimulus space one asks: it is a field of covariance matrices.
A Wishart process is a prior over such fields, and the probability of a correct response has an exact form, so that
fitting it takes a search like any other: no simulation, no noise in the gradient.
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
# The true observer is one draw from the prior: ``WishartProcess`` with ``weights`` is a known field. It answers 2,000
# trials around one reference.

with pm.Model() as prior:
    psy.WishartProcess("W", input_dim=2)
truth = psy.WishartProcess("truth", input_dim=2, weights=pm.draw(prior["W"], random_seed=4))

reference = np.zeros((2000, 2))
distance = np.random.default_rng(1).uniform(0.5, 4, len(reference))
comparison = psy.place_comparisons(truth, reference, distance, random_seed=2)
trials = psy.simulate_trials(truth, reference, comparison, random_seed=3)
print(trials)

# %%
# The model is two lines of PyMC, and the fit one more. The search is L-BFGS on the exact posterior.

with pm.Model() as model:
    field = psy.WishartProcess("W", input_dim=2)
    psy.Oddity(
        "correct",
        field,
        pm.Data("reference", trials.reference),
        pm.Data("comparison", trials.comparison),
        observed=trials.response,
    )

fit = psy.find_map(model, progressbar=False)
print(fit)

# %%
# W itself is determined only up to rotations of its last axis. What to compare is the field: ``fit.evaluate`` gives any
# tensor of the model at the estimate. ``threshold_contours`` finds the comparisons that are told apart in two thirds of
# the trials.

at = reference[:1]
estimate, expected = fit.evaluate(field.covariance(at)), truth.covariance(at).eval()
similarity = float(psy.covariances.bures_similarity(estimate, expected)[0])
size = float(np.sqrt(np.linalg.det(estimate) / np.linalg.det(expected))[0])
print(f"Bures similarity of estimate and truth {similarity:.4f}, area {size:.2f} of the true one")
# sphinx_gallery_start_ignore
assert fit.converged
assert similarity > 0.97
# sphinx_gallery_end_ignore

contours = {
    "truth": psy.threshold_contours(None, truth, at, n_directions=48),
    "fit": psy.threshold_contours(fit, field, at, n_directions=48),
}
for name, contour in contours.items():
    print(f"{name}: threshold {np.nanmin(contour.radii):.3f} to {np.nanmax(contour.radii):.3f}")

# %%
fig, axes = plt.subplots(1, 2, figsize=(10, 4.8), layout="constrained")
plots.plot_trials(trials, ax=axes[0])
axes[0].set(title="Trials around one reference")

prior_draws = pm.draw(psy.WishartProcess("any", input_dim=2, weights=prior["W"]).covariance(at), 30, random_seed=5)
plots.plot_ellipses(at, prior_draws, color="0.6", linewidths=0.6, label="prior", ax=axes[1])
plots.plot_ellipses(at, expected, color="0.2", label="truth", ax=axes[1])
plots.plot_ellipses(at, estimate, color="C1", label="fit", ax=axes[1])
for (name, contour), color in zip(contours.items(), ("0.2", "C1"), strict=True):
    plots.plot_contours(contour, color=color, linewidths=1, linestyles=":", label=f"threshold, {name}", ax=axes[1])
axes[1].set(title="One standard deviation, and 2/3 correct", xlabel="stimulus dimension 1")
handles, labels = (a + b for a, b in zip(*(ax.get_legend_handles_labels() for ax in axes), strict=True))
fig.legend(handles, labels, loc="outside lower center", ncols=8, markerscale=2, columnspacing=1, handlelength=1.2)
# sphinx_gallery_start_ignore
fig.savefig(HERE / "pictures" / "wppm_quickstart.png")
# sphinx_gallery_end_ignore
