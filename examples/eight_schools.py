"""
Eight schools, and what a mode cannot tell
==========================================

The effects of coaching in eight schools and their standard errors (Rubin, 1981) are the smallest hierarchical data
set that anyone fits. The joint mode of its scale and effects is a poor summary: the fit finds it, and this example
shows how to notice, and what to do instead.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pymc as pm

import pm_psyphy as psy

# sphinx_gallery_start_ignore
HERE = Path(__file__).parent
plt.style.use(HERE / "pictures.mplstyle")
# sphinx_gallery_end_ignore

SCHOOLS = list("ABCDEFGH")
observed = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
error = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])

# %%
# The usual model: the effects have mean mu and standard deviation tau, and are written with standard normal ``z``, so
# that the search has an easy landscape. Thirty-two starts run side by side in one compiled loop.

with pm.Model(coords={"school": SCHOOLS}) as joint:
    mu = pm.Normal("mu", 0, 10)
    tau = pm.HalfCauchy("tau", 5)
    z = pm.Normal("z", 0, 1, dims="school")
    effect = pm.Deterministic("effect", mu + tau * z, dims="school")
    pm.Normal("y", effect, error, observed=observed, dims="school")

fit = psy.find_map(joint, starts=32, random_seed=1, progressbar=False)
print(fit)

# %%
# ``fit.starts`` tells how every start ended. All have the same loss, so there is one mode. But they stopped at
# different tau, all of them tiny: the mode is at tau = 0, minus infinity on the logarithmic scale of the search, and
# each start walked towards it until the gradient was below the tolerance.

taus = np.exp(fit.starts.unconstrained["tau_log__"])
print(f"\n{len(taus)} starts: {sum(status == psy.Status.CONVERGED for status in fit.starts.status)} converged")
print(f"  loss from {fit.starts.loss.min():.6f} to {fit.starts.loss.max():.6f}")
print(f"  tau  from {taus.min():.1e} to {taus.max():.1e}")
# sphinx_gallery_start_ignore
assert np.ptp(fit.starts.loss) < 1e-6
assert taus.max() < 1e-2
# sphinx_gallery_end_ignore

# %%
# A profile confirms it. With tau as data, each of its values is one fit of the same compiled program.

with pm.Model(coords={"school": SCHOOLS}) as given_tau:
    scale = pm.Data("tau", 1.0)
    mu = pm.Normal("mu", 0, 10)
    z = pm.Normal("z", 0, 1, dims="school")
    effect = pm.Deterministic("effect", mu + scale * z, dims="school")
    pm.Normal("y", effect, error, observed=observed, dims="school")

grid = np.geomspace(0.1, 60, 50)
profile = []
for value in grid:
    pm.set_data({"tau": value}, model=given_tau)
    profile.append(psy.find_map(given_tau, progressbar=False))
log_half_cauchy = np.log(2 / (5 * np.pi)) - np.log1p((grid / 5) ** 2)
joint_loss = np.array([fit.loss for fit in profile]) - log_half_cauchy
# sphinx_gallery_start_ignore
assert np.all(np.diff(joint_loss) > 0)
assert np.isclose(joint_loss[0], fit.loss, atol=1e-3)
# sphinx_gallery_end_ignore

# %%
# Two changes give a useful estimate. The effects are integrated out, which for normal effects is a line of algebra:
# their mean given mu and tau is a deterministic. And the prior of tau is zero at tau = 0: a Gamma(2, 0.1), as Chung et
# al. (2013, Psychometrika 78, 685-709) suggest.

with pm.Model(coords={"school": SCHOOLS}) as integrated:
    mu = pm.Normal("mu", 0, 10)
    tau = pm.Gamma("tau", 2, 0.1)
    pm.Deterministic("effect", mu + tau**2 / (tau**2 + error**2) * (observed - mu), dims="school")
    pm.Normal("y", mu, np.sqrt(tau**2 + error**2), observed=observed, dims="school")

better = psy.find_map(integrated, starts=32, random_seed=1, progressbar=False)
print("\nEffects integrated out:")
print(better)
# sphinx_gallery_start_ignore
assert better.converged
assert np.ptp(better.starts.unconstrained["tau_log__"]) < 1e-3
# sphinx_gallery_end_ignore

# %%
# The fit is an ArviZ DataTree if asked, so whatever works on posteriors works on it: here predictions, from PyMC, of
# what other schools with these standard errors would show. The tree holds a single draw, the estimate; it is repeated
# to get many predictions.

tree = better.to_datatree()
posterior = tree.posterior.dataset.isel(draw=np.zeros(1000, int)).assign_coords(draw=np.arange(1000))
predicted = pm.sample_posterior_predictive(
    posterior, model=integrated, var_names=["y"], random_seed=1, progressbar=False
).posterior_predictive["y"]
low, high = np.quantile(predicted, [0.05, 0.95], axis=(0, 1))
print("\nschool  observed  estimate  90 % of predicted data")
for i, school in enumerate(SCHOOLS):
    print(f"{school:>6}  {observed[i]:8.0f}  {better['effect'][i]:8.1f}  {low[i]:8.1f} to {high[i]:5.1f}")
print(f"\nInside their interval: {np.sum((low < observed) & (observed < high))} of {len(SCHOOLS)} schools")

# %%
# Left: the joint loss falls all the way to tau = 0, and the integrated one has a minimum. Right: the effects as tau
# pulls them together; at the joint mode all schools are the same.

_, axes = plt.subplots(1, 2, figsize=(9.6, 4))
objective = better.objective
integrated_loss = []
for value in grid:
    weight = 1 / (value**2 + error**2)
    best_mu = (weight @ observed) / (weight.sum() + 1 / 10**2)
    integrated_loss.append(float(objective.value({"mu": best_mu, "tau_log__": np.log(value)})))
axes[0].plot(grid, joint_loss - joint_loss.min(), label="joint mode, HalfCauchy(5) prior")
axes[0].plot(grid, integrated_loss - np.min(integrated_loss), label="effects integrated out, Gamma(2, 0.1) prior")
axes[0].axvline(better["tau"], color="#d8762a", linewidth=0.8, linestyle=":")
axes[0].set(
    xscale="log", ylim=(-0.1, 6), xlabel="tau", ylabel="loss above its minimum", title="Profile of the loss over tau"
)
axes[0].legend(loc="upper left", fontsize=9)
effects = np.array([fit["effect"] for fit in profile])
for i, school in enumerate(SCHOOLS):
    axes[1].plot(grid, effects[:, i], color="#1f5fa8", linewidth=1.2)
    axes[1].text(66, effects[-1, i] + {"B": 0.5, "D": -0.5}.get(school, 0), school, color="#1f5fa8", va="center")
    axes[1].plot(better["tau"], better["effect"][i], "o", color="#d8762a", markersize=5)
axes[1].axvline(better["tau"], color="#d8762a", linewidth=0.8, linestyle=":")
axes[1].set(xscale="log", xlabel="tau", ylabel="effect", title="Effects of the schools, given tau")
# sphinx_gallery_start_ignore
plt.savefig(HERE / "pictures/eight_schools.png")
# sphinx_gallery_end_ignore
