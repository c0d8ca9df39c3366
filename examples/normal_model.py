"""
Maximum likelihood of a normal model
====================================

With flat priors, the mode of the posterior is the maximum of the likelihood. For a normal distribution it is known
in closed form, so this example shows that a fit finds it, and by which path.
"""

import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pymc as pm

import pm_psyphy as psy

# sphinx_gallery_start_ignore
HERE = Path(__file__).parent
plt.style.use(HERE / "pictures.mplstyle")
# sphinx_gallery_end_ignore

# %%
# Two hundred draws, and a model with a flat prior on the mean and on the variance.

y = np.random.default_rng(1).normal(2.0, 1.5, size=200)

with pm.Model() as model:
    mu = pm.Flat("mu")
    variance = pm.HalfFlat("variance")
    pm.Normal("y", mu, np.sqrt(variance), observed=y)

# %%
# A callback sees the best parameters after every ``log_every`` steps. They are unconstrained: the variance is positive,
# so the fit works on its logarithm, ``variance_log__``.

path = []
fit = psy.find_map(
    model,
    initvals={"mu": 0.0, "variance": 12.0},
    callback=lambda progress: path.append(progress.params),
    progressbar=False,
)
print(fit)

# %%
# The closed forms: the mean, and the mean squared deviation (divided by n, not by n - 1).


def log_likelihood(mu, variance):
    return -0.5 * len(y) * (np.log(2 * np.pi * variance) + ((y - mu) ** 2).mean() / variance)


print(f"mean      closed form {y.mean():.10f}   fit {fit['mu']:.10f}")
print(f"variance  closed form {y.var():.10f}   fit {fit['variance']:.10f}")
# sphinx_gallery_start_ignore
assert fit.converged
assert np.isclose(fit["mu"], y.mean(), rtol=1e-6)
assert np.isclose(fit["variance"], y.var(), rtol=1e-6)
assert np.isclose(-fit.loss, log_likelihood(y.mean(), y.var()), rtol=1e-10)
# sphinx_gallery_end_ignore

# %%
# Standard errors come from the curvature at the estimate. Fisher's information of a normal distribution gives them in
# closed form: sqrt(variance / n) for the mean, and sqrt(2 / n) times the variance for the variance. Laplace's
# approximation is around the mode in the logarithm of the variance, with the Jacobian, which has n - 2 in place of n.

errors = psy.laplace(fit).standard_errors
fisher = {"mu": np.sqrt(y.var() / len(y)), "variance": y.var() * np.sqrt(2 / len(y))}
wider = len(y) / (len(y) - 2)
print()
for (name, expected), power in zip(fisher.items(), (0.5, 1.5), strict=True):
    print(f"standard error of the {name:<8}  Fisher {expected:.4f}   Laplace {errors[name]:.4f}")
    # sphinx_gallery_start_ignore
    assert np.isclose(errors[name], expected * wider**power, rtol=1e-6)
    # sphinx_gallery_end_ignore

# %%
# A slip that many make once: the square of the sum of the deviations in place of the sum of their squares. The
# deviations from the mean sum to zero, so nothing holds the variance up any more. The mean comes out right, and the
# variance shrinks until the search gives up, which it says.

with pm.Model() as slip:
    mu, variance = pm.Flat("mu"), pm.HalfFlat("variance")
    log_density = -0.5 * len(y) * pm.math.log(2 * np.pi * variance) - (y - mu).sum() ** 2 / (2 * variance)
    pm.Potential("log_likelihood", log_density)

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    wrong = psy.find_map(slip, initvals={"mu": 0.0, "variance": 12.0}, steps=200, progressbar=False)
print(f"\nsquare of the sum: mean {wrong['mu']:.4f}, variance {wrong['variance']:.1e}")
print(caught[0].message)
# sphinx_gallery_start_ignore
assert not wrong.converged
assert wrong["variance"] < 1e-3 * y.var()
# sphinx_gallery_end_ignore

# %%
# The picture shows how far the log likelihood lies below its maximum. The inner line, at 3, encloses the 95 %
# confidence region of both parameters.

mus, variances = np.linspace(-0.25, 3.4, 150), np.linspace(0.9, 12.6, 150)
drop = -fit.loss - np.vectorize(log_likelihood)(*np.meshgrid(mus, variances))
steps = np.array([[params["mu"], np.exp(params["variance_log__"])] for params in path])

figure, axes = plt.subplots(figsize=(6.4, 4.4))
axes.contourf(mus, variances, np.log10(drop + 1), levels=20, cmap="Blues_r")
lines = axes.contour(mus, variances, drop, levels=[3, 10, 30, 60, 100, 200, 400], colors="#1f3d63", linewidths=0.7)
axes.clabel(lines, fmt=lambda level: f"{level:g}", fontsize=8)
axes.plot(*steps.T, ".-", color="#d8762a", markersize=7, label="L-BFGS, best point after each step")
axes.plot(*steps[0], "o", color="#d8762a", markersize=8)
axes.plot(fit["mu"], fit["variance"], "*", color="#b3261e", markersize=15, markeredgecolor="white", label="estimate")
axes.set(xlabel="mean", ylabel="variance", title="Log likelihood below its maximum")
axes.legend(loc="upper right", frameon=True, facecolor="white", framealpha=0.9, edgecolor="none")
# sphinx_gallery_start_ignore
figure.savefig(HERE / "pictures/normal_model.png")
# sphinx_gallery_end_ignore
