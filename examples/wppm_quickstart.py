# %% [markdown]
# # A Wishart process in one minute
#
# An observer sees three stimuli, two of them equal, and says which is the odd one. How far apart must they be? The
# answer depends on the direction, and on where in the stimulus space one asks: it is a field of covariance matrices.
# A Wishart process is a prior over such fields, and the probability of a correct response has an exact form, so that
# fitting it takes a search like any other: no simulation, no noise in the gradient.

# %%
import time
from pathlib import Path

import matplotlib
import numpy as np
import pymc as pm

import pm_psyphy as psy

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).parent
plt.style.use(HERE / "pictures.mplstyle")
rng = np.random.default_rng(4)

# %% [markdown]
# The true observer: one draw from the prior. `WishartProcess` with `weights` is a known field, and
# `oddity_probability` gives the proportion correct at any stimuli, without a model around it.

# %%
with pm.Model() as prior:
    psy.WishartProcess("W", input_dim=2)
weights = pm.draw(prior["W"], random_seed=4)
truth = psy.WishartProcess("truth", input_dim=2, weights=weights)

grid = np.stack(np.meshgrid(*[np.linspace(-0.7, 0.7, 5)] * 2), axis=-1).reshape(-1, 2)
reference = np.repeat(grid, 240, axis=0)
root = np.linalg.cholesky(truth.covariance(reference).eval())
angle, distance = rng.uniform(0, 2 * np.pi, len(reference)), rng.uniform(0.5, 4, len(reference))
offset = np.einsum("nij,jn->ni", root, distance * np.stack([np.cos(angle), np.sin(angle)]))
comparison = np.clip(reference + offset, -1, 1)
p_correct = psy.oddity_probability(truth, reference, comparison).eval()
correct = (rng.random(len(reference)) < p_correct).astype(int)
print(f"{len(correct):,} trials at {len(grid)} references, {correct.mean():.0%} correct, by guessing 33 %")

# %% [markdown]
# The model is three lines of PyMC, and the fit one more. The search is L-BFGS on the exact posterior.

# %%
with pm.Model() as model:
    field = psy.WishartProcess("W", input_dim=2)
    psy.Oddity("correct", field, pm.Data("reference", reference), pm.Data("comparison", comparison), observed=correct)

begun = time.perf_counter()
fit = psy.find_map(model, progressbar=False)
cold = time.perf_counter() - begun
print(fit)
print(f"{cold:.1f} s, {cold - fit.run_seconds:.1f} s of them to compile; a second fit takes {fit.run_seconds:.1f} s")

# %% [markdown]
# W itself is determined only up to rotations of its last axis. What to compare is the field: `fit.evaluate` gives any
# tensor of the model at the estimate. The normalised Bures similarity is 1 for equal matrices.

# %%
estimate, expected = fit.evaluate(field.covariance(grid)), truth.covariance(grid).eval()
roots = np.sqrt(np.linalg.eigvals(estimate @ expected).real).sum(axis=1)
traces = np.trace(estimate, axis1=1, axis2=2) * np.trace(expected, axis1=1, axis2=2)
similarity = roots / np.sqrt(traces)
print(f"Bures similarity of estimate and truth: median {np.median(similarity):.4f}, least {similarity.min():.4f}")
assert fit.converged
assert similarity.min() > 0.9

# %%
circle = np.stack([np.cos(t := np.linspace(0, 2 * np.pi, 100)), np.sin(t)])
fig, axes = plt.subplots(1, 2, figsize=(10, 4.8), layout="constrained")
for covariances, style in ((expected, {"color": "0.25", "lw": 1.2}), (estimate, {"color": "C1", "lw": 1.6})):
    for i, (at, covariance) in enumerate(zip(grid, covariances, strict=True)):
        x, y = at[:, None] + np.linalg.cholesky(covariance) @ circle
        name = ("truth" if covariances is expected else "fit") if i == 0 else None
        axes[0].plot(x, y, label=name, **style)
axes[0].set(title="Covariance of the percept, one standard deviation", xlabel="stimulus dimension 1", aspect="equal")
axes[0].set(ylabel="stimulus dimension 2", xlim=(-1, 1), ylim=(-1, 1))
axes[0].legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2, frameon=False)

axes[1].plot(fit.history.step, fit.history.loss - fit.loss + 1e-9, color="C1")
axes[1].set(yscale="log", xlabel="step", ylabel="loss above the optimum", title="Way of the search")
fig.savefig(HERE / "pictures" / "wppm_quickstart.png")
