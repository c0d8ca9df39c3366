"""
The constant-covariance model, by gradient descent with momentum
================================================================

Where psyphy began: one covariance for the whole stimulus space, P(correct) a closed form of the Mahalanobis distance,
and SGD with momentum. Here the model is a Wishart process of degree 0, the optimiser a name, and the same loop is
written out beside it.
"""

from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np
import optax
import pymc as pm

import pm_psyphy as psy
from pm_psyphy import plots

# sphinx_gallery_start_ignore
HERE = Path(__file__).parent
plt.style.use(HERE / "pictures.mplstyle")
# sphinx_gallery_end_ignore

# %%
truth = psy.WishartProcess("truth", input_dim=2, basis_degree=0, extra_dims=0, weights=[[[[0.09, 0], [0.04, 0.14]]]])
slope = 0.5


def respond(field, reference, comparison):
    return psy.tasks.tanh_log_odds(psy.tasks.discriminability(field, reference, comparison), slope, at_zero=2 / 3)


reference = np.zeros((1200, 2))
distance = np.random.default_rng(1).uniform(0, 3, len(reference))
comparison = psy.place_comparisons(truth, reference, distance, random_seed=2)
trials = psy.simulate_trials(truth, reference, comparison, task=respond, random_seed=3)
print(trials)

with pm.Model() as model:
    field = psy.WishartProcess("W", input_dim=2, basis_degree=0, extra_dims=0, variance_scale=0.02)
    log_odds = respond(field, trials.reference, trials.comparison)
    psy.Response("correct", log_odds, observed=trials.response, chance=1 / 3)

# %%
# By ``find_map``, with psyphy's optimiser and with the default.

LEARNING_RATE, MOMENTUM, STEPS = 1e-4, 0.9, 1000
fits = {
    "L-BFGS": psy.find_map(model, progressbar=False),
    "SGD with momentum": psy.find_map(
        model, optimizer="sgd", learning_rate=LEARNING_RATE, momentum=MOMENTUM, steps=STEPS, tolerance=1e-6,
        progressbar=False,
    ),
}  # fmt: skip
for name, fit in fits.items():
    print(f"{name}: loss {fit.loss:.4f} after {fit.n_steps} steps, {fit.run_seconds * 1e3:.0f} ms")

# %%
# The same loop from scratch: an ``Objective`` is a function of parameters, and the rest is optax.

objective = psy.compile_objective(model)
optimizer = optax.sgd(LEARNING_RATE, MOMENTUM)


@jax.jit
def step(params, state):
    loss, grads = objective.value_and_grad(params)
    updates, state = optimizer.update(grads, state)
    return optax.apply_updates(params, updates), state, loss


params = objective.start
state, losses = optimizer.init(params), []
for _ in range(fits["SGD with momentum"].n_steps):
    params, state, loss = step(params, state)
    losses.append(float(loss))
print(f"from scratch: loss {losses[-1]:.4f} after {len(losses)} steps")
# sphinx_gallery_start_ignore
assert abs(min(losses) - fits["SGD with momentum"].loss) < 1e-3
assert abs(fits["L-BFGS"].loss - fits["SGD with momentum"].loss) < 0.05
# sphinx_gallery_end_ignore

# %%
# Thresholds: 5/6 correct is where tanh(slope d) is a half.

fit, at = fits["L-BFGS"], np.zeros((1, 2))
settings = {"criterion": 5 / 6, "task": respond, "n_directions": 48}
contours = {
    "truth": psy.threshold_contours(None, truth, at, **settings),
    "fit": psy.threshold_contours(fit, field, at, **settings),
}
error = np.nanmax(np.abs(contours["fit"].radii / contours["truth"].radii - 1))
print(f"largest error of a threshold: {error:.0%}")
# sphinx_gallery_start_ignore
assert error < 0.15
# sphinx_gallery_end_ignore

fig, axes = plt.subplots(1, 2, figsize=(10, 4.6), layout="constrained")
plots.plot_trials(trials, ax=axes[0])
for (name, contour), color in zip(contours.items(), ("0.2", "C3"), strict=True):
    plots.plot_contours(contour, color=color, linewidths=2, label=f"threshold, {name}", ax=axes[0])
axes[0].set(title="Trials, and thresholds at 5/6 correct")
plots.plot_learning_curve(fits, above=fits["L-BFGS"].loss, ax=axes[1])
axes[1].plot(np.array(losses) - fits["L-BFGS"].loss, "k:", lw=1.5, label="from scratch", zorder=3)
axes[1].set(title="Learning curves")
axes[1].legend()
fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, markerscale=2)
# sphinx_gallery_start_ignore
fig.savefig(HERE / "pictures" / "offline_fit_mvp_with_map_optimizer.png")
# sphinx_gallery_end_ignore
