"""Models with known optima, or awkward on purpose; each function builds one anew."""

import numpy as np
import pymc as pm
import pytensor.tensor as pt


def normal(x=None, *, flat=False):
    x = np.random.default_rng(1).normal(3.0, 2.0, size=500) if x is None else x
    with pm.Model() as model:
        mu = pm.Flat("mu") if flat else pm.Normal("mu", 0, 1e6)
        sigma = pm.HalfFlat("sigma") if flat else pm.Uniform("sigma", 0, 1e6)
        pm.Deterministic("variance", sigma**2)
        pm.Normal("x", mu, sigma, observed=x)
    return model


def eight_schools():
    effect = np.array([28.0, 8, -3, 7, -1, 1, 18, 12])
    error = np.array([15.0, 10, 16, 11, 9, 11, 10, 18])
    with pm.Model(coords={"school": list("ABCDEFGH")}) as model:
        mu = pm.Normal("mu", 0, 5)
        tau = pm.HalfCauchy("tau", 5)
        z = pm.Normal("z", 0, 1, dims="school")
        theta = pm.Deterministic("theta", mu + tau * z, dims="school")
        pm.Normal("y", theta, error, observed=effect, dims="school")
    return model


def hierarchical(n_groups=40, n=2000):
    rng = np.random.default_rng(2)
    group = rng.integers(n_groups, size=n)
    x = rng.normal(size=n)
    y = rng.normal(size=n_groups)[group] + 0.5 * x + 0.3 * rng.normal(size=n)
    with pm.Model() as model:
        mu = pm.Normal("mu", 0, 1)
        tau = pm.HalfNormal("tau", 1)
        slope = pm.Normal("slope", 0, 1)
        sigma = pm.HalfNormal("sigma", 1)
        z = pm.Normal("z", shape=n_groups)
        pm.Normal("y", mu + tau * z[group] + slope * x, sigma, observed=y)
    return model


def logistic(n=1000, n_features=5, seed=3):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, n_features))
    y = rng.random(n) < 1 / (1 + np.exp(-x @ rng.normal(size=n_features)))
    with pm.Model(coords={"feature": range(n_features)}) as model:
        features = pm.Data("x", x, dims=("trial", "feature"))
        labels = pm.Data("labels", y.astype(int), dims="trial")
        beta = pm.Normal("beta", 0, 2, dims="feature")
        pm.Bernoulli("y", logit_p=features @ beta, observed=labels, dims="trial")
    return model


def dirichlet():
    with pm.Model() as model:
        p = pm.Dirichlet("p", np.ones(4))
        pm.Multinomial("counts", 100, p, observed=[10, 20, 30, 40])
    return model


def lkj():
    data = np.random.default_rng(4).multivariate_normal([0, 1], [[1, 0.6], [0.6, 2]], size=200)
    with pm.Model() as model:
        mu = pm.Normal("mu", 0, 5, shape=2)
        chol, _, _ = pm.LKJCholeskyCov("chol", n=2, eta=2, sd_dist=pm.Exponential.dist(1.0))
        pm.MvNormal("y", mu, chol=chol, observed=data)
    return model


def ordered():
    data = np.random.default_rng(5).integers(0, 4, size=300)
    with pm.Model() as model:
        cuts = pm.Normal("cuts", 0, 3, shape=3, transform=pm.distributions.transforms.ordered, initval=[-1.0, 0, 1])
        eta = pm.Normal("eta", 0, 1)
        pm.OrderedLogistic("y", eta=eta * np.linspace(-1, 1, 300), cutpoints=cuts, observed=data)
    return model


def potential_only():
    with pm.Model() as model:
        x = pm.Normal("x", 0, 1, shape=3)
        pm.Potential("pull", -5 * pt.sum((x - np.arange(3)) ** 2))
    return model


def minibatch(n=200, batch_size=20):
    rows = np.arange(n, dtype=float)
    with pm.Model() as model:
        batch = pm.Minibatch(rows, batch_size=batch_size)
        mu = pm.Normal("mu", 0, 1e3)
        pm.Normal("y", mu, 50.0, observed=batch, total_size=n)
    return model
