"""
A neural network for handwritten digits
=======================================

The classifier of the flax tutorials, one hidden layer of ten units and Adam on minibatches, as a PyMC model. The same
network is trained by flax and optax beside it, on the same batches, and reaches the same weights. Then comes what a
training loop alone does not give: Laplace's approximation of the last layer, and how far to trust a probability.
"""

import time
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
import pymc as pm
import pytensor.tensor as pt
from flax.training.train_state import TrainState
from sklearn.calibration import calibration_curve
from sklearn.datasets import load_digits
from sklearn.metrics import log_loss

import pm_psyphy as psy

# sphinx_gallery_start_ignore
HERE = Path(__file__).parent
plt.style.use(HERE / "pictures.mplstyle")
# sphinx_gallery_end_ignore
N_HIDDEN, N_CLASSES, BATCH, EPOCHS, LEARNING_RATE = 10, 10, 50, 60, 1e-3

# %%
# 1,797 images of 8 x 8 pixels, of which 597 are kept for the test.

images, labels = load_digits(return_X_y=True)
order = np.random.default_rng(0).permutation(len(labels))
images, labels = images[order] / 16, labels[order].astype("int32")
x_train, x_test, y_train, y_test = images[:1200], images[1200:], labels[:1200], labels[1200:]
n_train = len(y_train)

# %%
# The network as a PyMC model
# ---------------------------
#
# A normal prior on the weights is what is elsewhere called weight decay. All weights at zero are a saddle, so the
# search starts from random ones.


def declare(x, y, model=None, **total_size):
    with model or pm.Model() as model:
        hidden = pm.Normal("hidden", 0, 1, shape=(64, N_HIDDEN))
        hidden_bias = pm.Normal("hidden_bias", 0, 1, shape=N_HIDDEN)
        output = pm.Normal("output", 0, 1, shape=(N_HIDDEN, N_CLASSES))
        output_bias = pm.Normal("output_bias", 0, 1, shape=N_CLASSES)
        activity = pt.maximum(x @ hidden + hidden_bias, 0)
        pm.Categorical("digit", logit_p=activity @ output + output_bias, observed=y, **total_size)
    return model


rng = np.random.default_rng(1)
start = {
    "hidden": rng.normal(0, np.sqrt(2 / 64), (64, N_HIDDEN)),
    "hidden_bias": np.zeros(N_HIDDEN),
    "output": rng.normal(0, np.sqrt(2 / N_HIDDEN), (N_HIDDEN, N_CLASSES)),
    "output_bias": np.zeros(N_CLASSES),
}


def classify(weights, x):
    """Return the log-odds of the digits, (N, 10)."""
    activity = np.maximum(x @ weights["hidden"] + weights["hidden_bias"], 0)
    return activity @ weights["output"] + weights["output_bias"]


def find_accuracy(weights):
    return float(np.mean(classify(weights, x_test).argmax(axis=1) == y_test))


# %%
# With ``pm.Minibatch`` in the model, ``find_map`` is the whole training.

steps = EPOCHS * n_train // BATCH
batch_model = declare(*pm.Minibatch(x_train, y_train, batch_size=BATCH), total_size=n_train)
settings = {"optimizer": "adam", "learning_rate": LEARNING_RATE, "steps": steps, "initvals": start}
fit = psy.find_map(batch_model, random_seed=1, log_every=EPOCHS, progressbar=False, **settings)
print(fit)

# %%
# The same in flax
# ----------------
#
# ``TrainState`` holds the parameters and the optimiser; the loop shuffles the rows for each epoch.


class Network(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(N_HIDDEN, param_dtype=jnp.float64, name="hidden")(x))
        return nn.Dense(N_CLASSES, param_dtype=jnp.float64, name="output")(x)


@jax.jit
def train_step(state, x, y):
    def find_loss(params):
        log_odds = state.apply_fn({"params": params}, x)
        errors = optax.softmax_cross_entropy_with_integer_labels(log_odds, y).mean()
        return n_train * errors + sum(jnp.sum(w**2) for w in jax.tree.leaves(params)) / 2

    return state.apply_gradients(grads=jax.grad(find_loss)(state.params))


def shuffle():
    """Return the rows of all batches of all epochs, (EPOCHS * batches, BATCH)."""
    rng = np.random.default_rng(2)
    return np.concatenate([rng.permutation(n_train).reshape(-1, BATCH) for _ in range(EPOCHS)])


def train_by_flax():
    params = {
        layer: {"kernel": jnp.asarray(start[layer]), "bias": jnp.asarray(start[f"{layer}_bias"])}
        for layer in ("hidden", "output")
    }
    state = TrainState.create(apply_fn=Network().apply, params=params, tx=optax.adam(LEARNING_RATE))
    for rows in shuffle():
        state = train_step(state, x_train[rows], y_train[rows])
    layers = jax.tree.map(np.asarray, state.params)
    return {
        name: layers[layer][kind] for layer in layers for name, kind in ((layer, "kernel"), (f"{layer}_bias", "bias"))
    }


# %%
# The same by the kernel
# ----------------------
#
# ``map_kernel`` gives the step, and its state has a field for whatever a training needs beside it: here the moving
# average of the weights. The batches are data, and the whole training is one compiled scan.

with pm.Model() as shell:
    x_batch, y_batch = pm.Data("x", x_train[:BATCH]), pm.Data("y", y_train[:BATCH])
kernel_model = declare(x_batch, y_batch, model=shell, total_size=n_train)
init, step = psy.map_kernel(psy.compile_objective(kernel_model, initvals=start), optax.adam(LEARNING_RATE))


@jax.jit
def run(state, x, y, batches):
    def train_batch(state, rows):
        state = step(state._replace(data=state.data | {"x": x[rows], "y": y[rows]}))
        return state._replace(extra=optax.incremental_update(state.params, state.extra, 0.01)), state.loss

    return jax.lax.scan(train_batch, state, batches)


def train_by_kernel():
    state, _ = run(init(extra=init().params), x_train, y_train, shuffle())
    return [{name: np.asarray(w) for name, w in weights.items()} for weights in (state.params, state.extra)]


# %%
# Each of the three once to compile, and once for the time. They take the same steps; flax's loop goes through Python
# for each batch, as its users write it, and the others stay inside one compiled loop.

trainings = {
    "find_map, pm.Minibatch": lambda: psy.find_map(batch_model, random_seed=1, progressbar=False, **settings),
    "map_kernel": lambda: train_by_kernel()[0],
    "flax and optax": train_by_flax,
}
seconds, weights = {}, {}
for name, train in trainings.items():
    train()
    begun = time.perf_counter()
    weights[name] = train()
    seconds[name] = time.perf_counter() - begun
weights["moving average"] = train_by_kernel()[1]

print(f"\n{'':<24}{'test accuracy':>14}{'time':>9}{'of flax':>9}")
for name, found in weights.items():
    timing = f"{seconds[name]:>8.2f}s{seconds[name] / seconds['flax and optax']:>9.2f}" if name in seconds else ""
    print(f"{name:<24}{find_accuracy(found):>14.1%}{timing}")
# sphinx_gallery_start_ignore
for name in start:
    assert np.allclose(weights["map_kernel"][name], weights["flax and optax"][name], atol=1e-6)
assert min(find_accuracy(found) for found in weights.values()) > 0.85
# sphinx_gallery_end_ignore

# %%
# The last layer, with its uncertainty
# ------------------------------------
#
# With the hidden layer as it is, the rest is a regression of the digits on ten numbers, whose posterior is nearly
# normal. Probabilities are averaged over its draws, and so are less sure of themselves where the images are unlike
# those of the training. The test images get noise, to make them so.


def find_activity(x):
    return np.maximum(x @ fit["hidden"] + fit["hidden_bias"], 0)


with pm.Model() as last_layer:
    output = pm.Normal("output", 0, 1, shape=(N_HIDDEN, N_CLASSES))
    output_bias = pm.Normal("output_bias", 0, 1, shape=N_CLASSES)
    pm.Categorical("digit", logit_p=find_activity(x_train) @ output + output_bias, observed=y_train)

best = psy.find_map(last_layer, progressbar=False)
posterior = psy.laplace(best, draws=500, random_seed=3)
print()
print(posterior)

noisy = x_test + np.random.default_rng(4).normal(0, 0.35, x_test.shape)
predicted = {}
for label, x in (("test images", x_test), ("with noise", noisy)):
    log_odds = pt.as_tensor(find_activity(x)) @ output + output_bias
    p = pt.special.softmax(log_odds, axis=-1)
    predicted[label] = {"estimate": best.evaluate(p), "Laplace": posterior.evaluate(p).mean(axis=0)}
    for name, probabilities in predicted[label].items():
        accuracy = np.mean(probabilities.argmax(axis=1) == y_test)
        loss = log_loss(y_test, probabilities, labels=range(N_CLASSES))
        print(f"{label:<12} {name:<9} accuracy {accuracy:.1%}, log loss {loss:.3f}")
losses = {n: log_loss(y_test, p, labels=range(N_CLASSES)) for n, p in predicted["with noise"].items()}
# sphinx_gallery_start_ignore
assert losses["Laplace"] < losses["estimate"]
# sphinx_gallery_end_ignore

# %%
_, axes = plt.subplots(1, 2, figsize=(10, 4.2), gridspec_kw={"width_ratios": [1.15, 1]})
axes[0].plot(fit.history.step * BATCH / n_train, fit.history.loss / n_train)
axes[0].set(xlabel="passes through the data", ylabel="loss for each image", title="Training by find_map", yscale="log")
axes[1].plot([0, 1], [0, 1], color="0.7", lw=1)
for color, (name, p) in zip(("C1", "C0"), predicted["with noise"].items(), strict=True):
    right = p.argmax(axis=1) == y_test
    share, claimed = calibration_curve(right, p.max(axis=1), n_bins=6, strategy="quantile")
    axes[1].plot(claimed, share, "o-", color=color, label=name)
axes[1].set(xlabel="probability of the digit chosen", ylabel="share that is right", title="Images with noise")
axes[1].legend()
# sphinx_gallery_start_ignore
plt.savefig(HERE / "pictures/digits_classifier.png")
# sphinx_gallery_end_ignore
