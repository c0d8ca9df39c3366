"""
Minibatches
===========

With ``pm.Minibatch``, a step sees a few rows instead of all of them. The loss is then random, so ``find_map`` takes
Adam unless told otherwise, and a learning rate that decays lets it settle. A logistic regression of 100,000 rows is
small enough to fit with all rows too, which shows how close the minibatches come.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import optax
import pymc as pm

import pm_psyphy as psy

# sphinx_gallery_start_ignore
HERE = Path(__file__).parent
plt.style.use(HERE / "pictures.mplstyle")
# sphinx_gallery_end_ignore
N_ROWS, N_FEATURES, BATCH, STEPS = 100_000, 20, 1_000, 5_000

# %%
rng = np.random.default_rng(5)
x_data = rng.normal(size=(N_ROWS, N_FEATURES))
true_beta = rng.normal(0, 0.5, size=N_FEATURES)
y_data = rng.binomial(1, 1 / (1 + np.exp(-x_data @ true_beta)))
y_data = y_data.astype("int32")  # PyMC keeps integers so, and takes no minibatch that it would have to cast.


def logistic_regression(x, y, **total_size):
    with pm.Model() as model:
        beta = pm.Normal("beta", 0, 1, shape=N_FEATURES)
        pm.Bernoulli("y", logit_p=x @ beta, observed=y, **total_size)
    return model


# %%
# All rows, and L-BFGS. This model's objective also measures the minibatch fit on its way.

full_model = logistic_regression(x_data, y_data)
full = psy.find_map(full_model, progressbar=False)
print(full)

# %%
# Minibatches. ``total_size`` scales the likelihood of a batch to all rows, so that the prior keeps its weight.

x_batch, y_batch = pm.Minibatch(x_data, y_data, batch_size=BATCH)
batch_model = logistic_regression(x_batch, y_batch, total_size=N_ROWS)

full_losses = []


def measure(progress):
    full_losses.append((progress.step, float(full.objective.value(progress.params))))


small = psy.find_map(
    batch_model,
    optimizer="adam",
    learning_rate=optax.cosine_decay_schedule(0.01, STEPS),
    steps=STEPS,
    log_every=25,
    callback=measure,
    random_seed=1,
    progressbar=False,
)
print(small)

# %%
# How close is close? The standard error of each coefficient is the scale that matters.

p = 1 / (1 + np.exp(-x_data @ full["beta"]))
precision = (x_data * (p * (1 - p))[:, None]).T @ x_data + np.eye(N_FEATURES)
standard_error = np.sqrt(np.diag(np.linalg.inv(precision)))
apart = (small["beta"] - full["beta"]) / standard_error
seen = BATCH * STEPS / N_ROWS
print(f"\nMinibatches saw each row {seen:.0f} times on average, in {STEPS:,} steps of {BATCH:,} rows.")
print(f"Their coefficients differ from the full fit by {np.sqrt(np.mean(apart**2)):.2f} standard errors (RMS),")
excess = full_losses[-1][1] - full.loss
print(f"{np.abs(apart).max():.2f} at most. The loss of all rows is {excess:.2f} above its minimum.")
# sphinx_gallery_start_ignore
assert full.converged
assert np.abs(apart).max() < 1
# sphinx_gallery_end_ignore

# %%
_, axes = plt.subplots(1, 2, figsize=(9.6, 4))
passes = BATCH / N_ROWS
axes[0].plot(small.history.step * passes, small.history.loss, color="#d8762a", linewidth=0.7, label="of a minibatch")
axes[0].axhline(full.loss, color="#1f5fa8", label="minimum for all rows")
axes[0].set(xlabel="passes through the data", ylabel="loss", title="What the optimiser sees")
axes[0].legend()
steps, losses = np.array(full_losses).T
axes[1].plot(steps * passes, losses - full.loss, color="#d8762a", label="Adam on minibatches")
reached = full.history.loss > full.loss
way_down = full.history.loss[reached] - full.loss
axes[1].plot(full.history.step[reached], way_down, ".-", color="#1f5fa8", label="L-BFGS on all rows")
axes[1].set(yscale="log", ylim=(1e-3, None), title="Loss of all rows")
axes[1].set(xlabel="passes through the data", ylabel="above the minimum")
axes[1].legend()
# sphinx_gallery_start_ignore
plt.savefig(HERE / "pictures/minibatch.png")
# sphinx_gallery_end_ignore
