"""The three models of the benchmarks, in PyMC and as hand-written JAX of the same density."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pymc as pm

LOG_2PI = float(np.log(2 * np.pi))


class Case(NamedTuple):
    """A PyMC model, and its negative log posterior written by hand as a function of (params, data)."""

    build: Callable[[], pm.Model]
    by_hand: Callable[[dict[str, Any], dict[str, Any]], jax.Array]
    data: dict[str, np.ndarray]


def normal_logp(x, sd):
    return -0.5 * (x / sd) ** 2 - jnp.log(sd) - 0.5 * LOG_2PI


def eight_schools() -> Case:
    y = np.array([28.0, 8, -3, 7, -1, 1, 18, 12])
    se = np.array([15.0, 10, 16, 11, 9, 11, 10, 18])

    def build():
        with pm.Model() as model:
            mu = pm.Normal("mu", 0, 5)
            tau = pm.HalfCauchy("tau", 5)
            z = pm.Normal("z", 0, 1, shape=8)
            pm.Normal("y", mu + tau * z, se, observed=y)
        return model

    def by_hand(params, data):
        mu, z, tau = params["mu"], params["z"], jnp.exp(params["tau_log__"])
        prior = normal_logp(mu, 5.0) + normal_logp(z, 1.0).sum()
        prior += jnp.log(2 / (jnp.pi * 5)) - jnp.log1p((tau / 5) ** 2)
        return -(prior + normal_logp(data["y"] - mu - tau * z, data["se"]).sum())

    return Case(build, by_hand, {"y": y, "se": se})


def hierarchical(n_groups: int = 1000, n: int = 20_000) -> Case:
    rng = np.random.default_rng(1)
    group, x = rng.integers(n_groups, size=n), rng.normal(size=n)
    y = 0.3 + 0.8 * rng.normal(size=n_groups)[group] + 0.5 * x - 0.2 * x**2 + 0.4 * rng.normal(size=n)

    def build():
        with pm.Model() as model:
            mu = pm.Normal("mu", 0, 1)
            slope = pm.Normal("slope", 0, 1)
            bend = pm.Normal("bend", 0, 1)
            tau = pm.HalfNormal("tau", 1)
            sigma = pm.HalfNormal("sigma", 1)
            z = pm.Normal("z", shape=n_groups)
            pm.Normal("y", mu + tau * z[group] + slope * x + bend * x**2, sigma, observed=y)
        return model

    def by_hand(params, data):
        tau, sigma = jnp.exp(params["tau_log__"]), jnp.exp(params["sigma_log__"])
        prior = sum(normal_logp(params[name], 1.0) for name in ("mu", "slope", "bend"))
        prior += normal_logp(params["z"], 1.0).sum()
        prior += normal_logp(tau, 1.0) + normal_logp(sigma, 1.0) + 2 * jnp.log(2.0)
        mean = params["mu"] + tau * params["z"][data["group"]]
        mean += params["slope"] * data["x"] + params["bend"] * data["x"] ** 2
        return -(prior + normal_logp(data["y"] - mean, sigma).sum())

    return Case(build, by_hand, {"group": group, "x": x, "y": y})


def logistic(n: int = 100_000, n_features: int = 50, dtype: str = "float64") -> Case:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(n, n_features)).astype(dtype)
    y = (rng.random(n) < 1 / (1 + np.exp(-x @ rng.normal(size=n_features) / 4))).astype(int)

    def build():
        with pm.Model() as model:
            beta = pm.Normal("beta", 0, 2, shape=n_features)
            pm.Bernoulli("y", logit_p=pm.Data("x", x) @ beta, observed=y)
        return model

    def by_hand(params, data):
        eta = data["x"] @ params["beta"]
        log_likelihood = jnp.where(data["y"], -jax.nn.softplus(-eta), -jax.nn.softplus(eta))
        return -(normal_logp(params["beta"], 2.0).sum() + log_likelihood.sum())

    return Case(build, by_hand, {"x": x, "y": y})


CASES = {
    "eight schools": eight_schools,
    "hierarchical regression, 1,005 parameters, 20,000 rows": hierarchical,
    "logistic regression, 100,000 x 50": logistic,
}
