"""
A linear Gaussian state-space model
===================================

A damped oscillation that is kicked by noise and seen through noise. A Kalman filter gives the likelihood; Dynamax
writes it in JAX and maximises it by optax. Here the filter is a PyTensor scan inside a PyMC model, so ``find_map`` fits
it, Laplace's approximation and NUTS start from there, and twenty series at once are the same model with one more axis.
"""

import time
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
import pymc as pm
import pytensor
import pytensor.tensor as pt
from dynamax.linear_gaussian_ssm import LinearGaussianSSM

import pm_psyphy as psy

# sphinx_gallery_start_ignore
HERE = Path(__file__).parent
plt.style.use(HERE / "pictures.mplstyle")
# sphinx_gallery_end_ignore
N_STEPS, N_SERIES = 300, 20
TRUTH = {"damping": 0.97, "frequency": 0.35, "kick": 0.3, "noise": 0.5}

# %%
# The state turns by ``frequency`` radians a step and shrinks by ``damping``; each of its two parts gets a kick. The
# first part is what is seen, with noise.


def rotate(damping, frequency, module):
    c, s = damping * module.cos(frequency), damping * module.sin(frequency)
    return module.stack([module.stack([c, -s], axis=-1), module.stack([s, c], axis=-1)], axis=-2)


def simulate(rng):
    state, seen = rng.normal(size=2), []
    for _ in range(N_STEPS):
        seen.append(state[0] + TRUTH["noise"] * rng.normal())
        state = rotate(TRUTH["damping"], TRUTH["frequency"], np) @ state + TRUTH["kick"] * rng.normal(size=2)
    return seen


series = np.array([simulate(np.random.default_rng(seed)) for seed in range(N_SERIES)]).T


def filter_log_likelihood(y, damping, frequency, kick, noise):
    """Return the log likelihood of series y (T, S) by a Kalman filter; parameters are (S,)."""
    n = y.type.shape[1]
    turn = rotate(damping, frequency, pt)
    own = kick[:, None, None] ** 2 * np.eye(2)

    def advance(y, mean, covariance, turn, own, noise):
        variance = covariance[:, 0, 0] + noise**2
        gain, surprise = covariance[:, 0] / variance[:, None], y - mean[:, 0]
        term = -0.5 * (pt.log(2 * np.pi * variance) + surprise**2 / variance)
        mean = mean + gain * surprise[:, None]
        covariance = covariance - gain[:, :, None] * gain[:, None, :] * variance[:, None, None]
        mean = (turn @ mean[:, :, None])[:, :, 0]
        return mean, turn @ covariance @ turn.mT + own, term

    first = pt.zeros((n, 2)), pt.zeros((n, 2, 2)) + np.eye(2)
    _, _, terms = pytensor.scan(
        advance, sequences=[y], outputs_info=[*first, None], non_sequences=[turn, own, noise], return_updates=False
    )
    return terms.sum(axis=0)


def declare(y):
    with pm.Model(coords={"series": range(y.shape[1])}) as model:
        y = pm.Data("y", y, shape=y.shape)
        damping = pm.Uniform("damping", 0, 1, dims="series")
        frequency = pm.Uniform("frequency", 0, np.pi, dims="series")
        kick, noise = (pm.HalfFlat(name, dims="series") for name in ("kick", "noise"))
        log_likelihood = filter_log_likelihood(y, damping, frequency, kick, noise)
        pm.Potential("log_likelihood", log_likelihood, dims="series")
    return model


# %%
# Maximum likelihood of the first series. The priors are flat, so they are no part of it but for a constant.

model = declare(series[:, :1])
start = {"damping": 0.8, "frequency": 0.5, "kick": 0.5, "noise": 0.5}
fit = psy.find_map(model, initvals=start, progressbar=False)
print(fit)

# %%
# Beside Dynamax
# --------------
#
# The same likelihood, and the same maximum by Adam on it. Dynamax takes matrices, so that the parameters of the
# oscillation are put into them here. Its filter is for matrices of any size, and factorises one at each step; the one
# above is written for this model, and divides by a number. That, more than who runs the loop, makes the difference.

ssm = LinearGaussianSSM(2, 1, has_dynamics_bias=False, has_emissions_bias=False)


def dynamax_loss(raw, y):
    damping, frequency = jax.nn.sigmoid(raw["damping"]), np.pi * jax.nn.sigmoid(raw["frequency"])
    params, _ = ssm.initialize(
        initial_mean=jnp.zeros(2),
        initial_covariance=jnp.eye(2),
        dynamics_weights=rotate(damping, frequency, jnp),
        dynamics_covariance=jnp.exp(2 * raw["kick"]) * jnp.eye(2),
        emission_weights=jnp.array([[1.0, 0.0]]),
        emission_covariance=jnp.exp(2 * raw["noise"]) * jnp.eye(1),
    )
    return -ssm.marginal_log_prob(params, y)


def to_raw(values):
    damping, turn = float(values["damping"]), float(values["frequency"]) / np.pi
    logit = {"damping": np.log(damping / (1 - damping)), "frequency": np.log(turn / (1 - turn))}
    return jax.tree.map(jnp.asarray, logit | {n: np.log(float(values[n])) for n in ("kick", "noise")})


y = jnp.asarray(series[:, :1])
objective = psy.compile_objective(model, initvals=start)
constant = np.log(np.pi)  # of the flat prior of the frequency
differences = []
for scale in (1.0, 0.9, 0.7):
    values = {name: scale * number for name, number in TRUTH.items()}
    params = psy.compile_objective(model, initvals=values).start
    ours = float(objective.value(params)) - constant
    theirs = float(dynamax_loss(to_raw(values), y))
    differences.append(abs(ours / theirs - 1))
print(f"\nlog likelihoods differ by {max(differences):.1e} of their size at most")
# sphinx_gallery_start_ignore
assert max(differences) < 1e-6
# sphinx_gallery_end_ignore

adam = optax.adam(0.03)


@jax.jit
def train(raw, y):
    def step(carry, _):
        raw, state = carry
        loss, grads = jax.value_and_grad(dynamax_loss)(raw, y)
        updates, state = adam.update(grads, state)
        return (optax.apply_updates(raw, updates), state), loss

    (raw, _), losses = jax.lax.scan(step, (raw, adam.init(raw)), length=600)
    return raw, losses


def time_twice(function):
    """Return the time of a second call, and its result."""
    function()
    begun = time.perf_counter()
    found = jax.block_until_ready(function())
    return time.perf_counter() - begun, found


seconds = {}
seconds["Dynamax, Adam"], (raw, losses) = time_twice(lambda: train(to_raw(start), y))
settings = {"initvals": start, "progressbar": False}
warnings.filterwarnings("ignore", message="Not converged")  # it is to take as many steps as the other loop
seconds["find_map, Adam"], by_adam = time_twice(
    lambda: psy.find_map(model, optimizer="adam", learning_rate=0.03, steps=600, tolerance=0.0, **settings)
)
seconds["find_map, L-BFGS"], fit = time_twice(lambda: psy.find_map(model, **settings))
results = {"Dynamax, Adam": float(losses[-1])}
results |= {"find_map, Adam": by_adam.loss - constant, "find_map, L-BFGS": fit.loss - constant}
n_steps = {"Dynamax, Adam": len(losses), "find_map, Adam": by_adam.n_steps, "find_map, L-BFGS": fit.n_steps}
print(f"\n{'':<18}{'loss':>12}{'time':>11}{'steps':>7}{'a step':>11}")
for name, loss in results.items():
    taken = seconds[name] * 1e3
    print(f"{name:<18}{loss:>12.6f}{taken:>8.0f} ms{n_steps[name]:>7}{taken / n_steps[name]:>8.2f} ms")
# sphinx_gallery_start_ignore
assert max(results.values()) - min(results.values()) < 1e-3
# sphinx_gallery_end_ignore

# %%
# Twenty series at once
# ---------------------
#
# The same function of the model, with twenty columns: each series has its own parameters, and one fit finds all.

many = declare(series)
together = psy.find_map(many, initvals=start, progressbar=False)
posterior = psy.laplace(together, random_seed=1)
for name, truth in TRUTH.items():
    print(f"{name:<10} truth {truth:.2f}, mean of the estimates {together[name].mean():.3f}")
# sphinx_gallery_start_ignore
assert np.allclose(together["frequency"][0], fit["frequency"][0], rtol=1e-3)
# sphinx_gallery_end_ignore

# %%
# NUTS from the estimate
# ----------------------

tree = psy.sample(fit, draws=1000, tune=500, chains=2, random_seed=2, progressbar=False)
drawn = tree["posterior"].dataset.isel(series=0)
low, high = drawn["frequency"].quantile([0.05, 0.95]).to_numpy()
print(f"\nfrequency, 90 % interval by NUTS: {low:.3f} to {high:.3f}")

# %%
_, axes = plt.subplots(1, 3, figsize=(12, 3.8), gridspec_kw={"width_ratios": [1.5, 1, 1]})
axes[0].plot(series[:, 0], ".", color="0.6", ms=4)
axes[0].set(xlabel="step", ylabel="seen", title="The first series")
error = 1.645 * posterior.standard_errors["frequency"]
axes[1].errorbar(range(N_SERIES), together["frequency"], error, fmt="o", ms=4, color="C0", lw=1)
axes[1].axhline(TRUTH["frequency"], color="0.3", lw=1)
axes[1].set(xlabel="series", ylabel="frequency (rad / step)", title="90 % intervals, Laplace")
axes[2].plot(drawn["kick"].to_numpy().ravel(), drawn["noise"].to_numpy().ravel(), ".", ms=2, alpha=0.4)
axes[2].plot(TRUTH["kick"], TRUTH["noise"], "*", color="C1", ms=14, label="truth")
axes[2].set(xlabel="kick", ylabel="noise", title="First series, NUTS")
axes[2].legend()
# sphinx_gallery_start_ignore
plt.savefig(HERE / "pictures/state_space.png")
# sphinx_gallery_end_ignore
