"""
Your own optimiser
==================

``compile_objective`` gives the loss and its gradient as JAX functions, and ``map_kernel`` gives one step of a fit. Both
are for people who write their own loop. Here stochastic gradient descent with momentum runs three times: in a loop
from scratch, in a loop around the kernel, and in ``find_map``. The answer is the same.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
import pymc as pm

import pm_psyphy as psy

# sphinx_gallery_start_ignore
HERE = Path(__file__).parent
plt.style.use(HERE / "pictures.mplstyle")
# sphinx_gallery_end_ignore
STEPS, LEARNING_RATE, MOMENTUM = 400, 2e-4, 0.9

# %%
# The model is a robust regression of 500 points, with Student's t for the noise.

rng = np.random.default_rng(3)
x_data = rng.normal(size=(500, 3))
y_data = 1.0 + x_data @ [0.8, -0.5, 0.3] + 0.5 * rng.standard_t(4, size=500)

with pm.Model(coords={"feature": ["a", "b", "c"]}) as model:
    x = pm.Data("x", x_data)
    intercept = pm.Normal("intercept", 0, 5)
    slope = pm.Normal("slope", 0, 5, dims="feature")
    sigma = pm.HalfNormal("sigma", 5)
    pm.StudentT("y", nu=4, mu=intercept + x @ slope, sigma=sigma, observed=y_data)

objective = psy.compile_objective(model)
print(objective)

# %%
# From scratch
# ------------
#
# An objective is a JAX pytree, so it can be an argument of a jitted function. Its leaves are the start and the data:
# with other data of the same shape, the function runs again without being compiled again.

transformation = optax.sgd(LEARNING_RATE, MOMENTUM)
n_traces = 0


@jax.jit
def minimise(objective, params):
    global n_traces
    n_traces += 1  # Python comes by here only when JAX traces, that is, before it compiles.

    def step(carry, _):
        params, state = carry
        loss, grads = objective.value_and_grad(params)
        updates, state = transformation.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), loss

    (params, _), losses = jax.lax.scan(step, (params, transformation.init(params)), length=STEPS)
    return params, losses


params, losses = minimise(objective, objective.start)
estimate = objective.constrain(params)

shuffled = objective.with_data(x=x_data[::-1], y=y_data[::-1])
shuffled_params, _ = minimise(shuffled, shuffled.start)
print(f"\nTwo data sets, {n_traces} compilation")
# sphinx_gallery_start_ignore
assert n_traces == 1
assert np.allclose(shuffled_params["slope"], params["slope"])
# sphinx_gallery_end_ignore

# %%
# With the kernel
# ---------------
#
# ``map_kernel`` writes the step. Its state is a named tuple of parameters, optimiser state, data and random key, and it
# leaves the loop to you.

init, step = psy.map_kernel(objective, optax.sgd(LEARNING_RATE, MOMENTUM))


@jax.jit
def run(state):
    def log_step(state, _):
        state = step(state)
        return state, state.loss

    return jax.lax.scan(log_step, state, length=STEPS)


state, kernel_losses = run(init())

# %%
# With find_map
# -------------
#
# The same by name. ``find_map`` stops as soon as the gradient is below its tolerance; the loops above take all their
# steps. L-BFGS, the default, is the reference.

fit = psy.find_map(
    model, optimizer="sgd", learning_rate=LEARNING_RATE, momentum=MOMENTUM, steps=STEPS, progressbar=False
)
reference = psy.find_map(model, progressbar=False)
print()
print(fit)
print(reference)

# %%
# One that you invent
# -------------------
#
# An optax transformation is two functions, so a new one is soon written: momentum that is dropped whenever it points
# uphill, after O'Donoghue and Candes (2015). It bears a momentum with which plain descent would swing about for long.


def restarted_momentum(learning_rate, momentum):
    def init(params):
        return optax.tree.zeros_like(params)

    def update(grads, velocity, params=None):
        kept = jnp.where(optax.tree.vdot(grads, velocity) > 0, 0.0, momentum)
        velocity = jax.tree.map(lambda v, g: kept * v - learning_rate * g, velocity, grads)
        return velocity, velocity

    return optax.GradientTransformation(init, update)


heavy = {
    "momentum 0.99": optax.sgd(LEARNING_RATE, 0.99),
    "momentum 0.99, restarted": restarted_momentum(LEARNING_RATE, 0.99),
}
heavy = {
    name: psy.find_map(model, optimizer=optimizer, steps=20 * STEPS, progressbar=False)
    for name, optimizer in heavy.items()
}
print()
for name, heavy_fit in heavy.items():
    print(f"{name:<25}{heavy_fit.n_steps:>6} steps, {heavy_fit.status}")
# sphinx_gallery_start_ignore
assert heavy["momentum 0.99, restarted"].n_steps < heavy["momentum 0.99"].n_steps / 2
assert np.allclose(heavy["momentum 0.99, restarted"]["slope"], reference["slope"], rtol=1e-4)
# sphinx_gallery_end_ignore

# %%
# The comparison
# --------------

kernel_estimate = objective.constrain(state.params)
print(f"\n{'':<12}{'from scratch':>14}{'kernel':>14}{'find_map':>14}{'L-BFGS':>14}")
for name in ["intercept", "sigma"]:
    row = [estimate[name], kernel_estimate[name], fit[name], reference[name]]
    print(f"{name:<12}" + "".join(f"{float(value):>14.8f}" for value in row))

# sphinx_gallery_start_ignore
assert np.allclose(losses, kernel_losses, rtol=1e-12)
assert np.allclose(fit.history.loss, losses[: fit.n_steps + 1], rtol=1e-12)
for name in fit:
    assert np.allclose(estimate[name], kernel_estimate[name], rtol=1e-10)
    assert np.allclose(estimate[name], fit[name], rtol=1e-5)
    assert np.allclose(estimate[name], reference[name], rtol=1e-5)
# sphinx_gallery_end_ignore

# %%
_, axes = plt.subplots(figsize=(6.8, 4.2))
floor = reference.loss - 1e-9
axes.plot(np.asarray(losses) - floor, color="#a9c4e4", linewidth=7, label="SGD, loop from scratch")
axes.plot(np.asarray(kernel_losses) - floor, color="#1f5fa8", linewidth=1.6, label="SGD, map_kernel")
steps, above = fit.history.step[::12], fit.history.loss[::12] - floor
axes.plot(steps, above, "o", color="#d8762a", markersize=4.5, label="SGD, find_map")
axes.plot(reference.history.step, reference.history.loss - floor, color="#4c9a6a", label="L-BFGS, find_map")
for color, (name, heavy_fit) in zip(("0.75", "0.35"), heavy.items(), strict=True):
    history = heavy_fit.history
    axes.plot(history.step[:STEPS], history.loss[:STEPS] - floor, color=color, lw=1.2, label=f"SGD, {name}")
axes.set(yscale="log", xlabel="step", ylabel="loss above its minimum")
axes.set_title("One optimiser run in three ways, a new one, and L-BFGS")
axes.legend()
# sphinx_gallery_start_ignore
plt.savefig(HERE / "pictures/your_own_optimizer.png")
# sphinx_gallery_end_ignore
