"""
A psychometric function
=======================

Proportion correct against stimulus level, with a threshold that says at which proportion it is meant, a slope, and
lapses. It is a PyMC model like any other: priors for what is unknown, the log-odds of a correct answer that follow from
it, and the responses.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pymc as pm

import pm_psyphy as psy
from pm_psyphy import plots

# sphinx_gallery_start_ignore
HERE = Path(__file__).parent
plt.style.use(HERE / "pictures.mplstyle")
# sphinx_gallery_end_ignore

# %%
rng = np.random.default_rng(3)
truth = {"threshold": 0.3, "slope": 2.0, "guess_rate": 0.5, "lapse_rate": 0.03}
level = rng.choice(np.linspace(-1, 1.5, 8), 800)
response = (rng.random(level.size) < psy.psychometric(level, **truth).eval()).astype(int)
print(f"{response.size} trials, {response.mean():.0%} correct")

# %%
# The priors are those of levels between about -1 and 1. Divide levels of your own by their spread first, or give the
# threshold and the slope, which is per unit of the level, priors of your scale.

with pm.Model() as model:
    threshold = pm.Normal("threshold", 0, 1)
    slope = pm.LogNormal("slope", 0, 1)
    lapse_rate = pm.Beta("lapse_rate", 1, 20)
    log_odds = psy.psychometric_log_odds(level, threshold=threshold, slope=slope, guess_rate=0.5, lapse_rate=lapse_rate)
    psy.Response("correct", log_odds, observed=response)

fit = psy.find_map(model, progressbar=False)
print(fit)
# sphinx_gallery_start_ignore
assert abs(fit["threshold"] - truth["threshold"]) < 0.2
# sphinx_gallery_end_ignore

# %%
# How sure is it? ``posterior`` draws from the posterior. What is computed from the parameters, such as the level at
# which 80 % are correct or the function on a grid, is computed for every draw.

posterior = psy.posterior(fit, random_seed=1, progressbar=False)
print(posterior.message)
grid = np.linspace(-1.2, 1.7, 200)
parameters = {"threshold": threshold, "slope": slope, "guess_rate": 0.5, "lapse_rate": lapse_rate}
curves = posterior.evaluate(psy.psychometric(grid, **parameters))
at_80 = posterior.evaluate(psy.psychometric_inverse(0.8, **parameters))
low, high = np.quantile(at_80, [0.025, 0.975])
print(f"80 % correct at {np.median(at_80):.3f}, with probability 95 % between {low:.3f} and {high:.3f}")

fig, ax = plt.subplots(figsize=(6, 4), layout="constrained")
ax.plot(grid, psy.psychometric(grid, **truth).eval(), color="0.25", lw=1, label="truth")
plots.plot_psychometric(
    level, response, curve=(grid, curves), threshold=(at_80, 0.8), chance=0.5, label="fit", color="C1", ax=ax
)
ax.set(ylabel="proportion correct", title="Two-alternative detection", ylim=(0.35, 1.02))
ax.legend(loc="lower right")
# sphinx_gallery_start_ignore
fig.savefig(HERE / "pictures" / "psychometric_function.png")
# sphinx_gallery_end_ignore
