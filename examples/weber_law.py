"""
Weber's law from a Wishart process
==================================

On one dimension a Wishart process is a smooth field of variances. Weber's law says that the standard deviation grows
in proportion to the stimulus; nothing in the prior knows that, and the fit should find it. How smooth a field the
data ask for is decided by trials that were held out.
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

# %%
# Intensities from 1 to 10 become [-1, 1] for the model; ``Trials`` remembers the way back.

domain = psy.Domain([1.0], [10.0])
weber_fraction = 0.12


class WeberObserver:
    """Anything with a `covariance` is a field: here a standard deviation proportional to intensity."""

    def covariance(self, x):
        intensity = (x + 1) / 2 * 9 + 1
        return (weber_fraction * intensity / 4.5)[..., None] ** 2


rng = np.random.default_rng(1)
intensity = rng.uniform(1.5, 8.5, (3000, 1))
step = rng.choice([-1, 1], intensity.shape) * rng.uniform(0.2, 4, intensity.shape) * weber_fraction * intensity
stimuli = domain.rescale(intensity), domain.rescale(np.clip(intensity + step, 1, 10))
trials = psy.simulate_trials(WeberObserver(), *stimuli, domain=domain, random_seed=2)
train, test = trials[:2000], trials[2000:]
print(train, test)


# %%
def fit_degree(degree):
    with pm.Model() as model:
        field = psy.WishartProcess("W", input_dim=1, basis_degree=degree, variance_scale=0.05)
        psy.Oddity("correct", field, train.reference, train.comparison, observed=train.response)
    fit = psy.find_map(model, progressbar=False)
    p = fit.evaluate(psy.tasks.oddity_probability(field, test.reference, test.comparison))
    return field, fit, np.mean(np.log(np.where(test.response == 1, p, 1 - p)))


results = {degree: fit_degree(degree) for degree in range(5)}
for degree, (_, fit, held_out) in results.items():
    print(f"degree {degree}: loss {fit.loss:.1f}, held-out log likelihood per trial {held_out:.4f}")
best = max(results, key=lambda degree: results[degree][2])
field, fit, _ = results[best]

# %%
x = np.linspace(1.5, 8.5, 50)
variance = domain.restore_covariance(fit.evaluate(field.covariance(domain.rescale(x[:, None]))))
deviation = np.sqrt(variance[:, 0, 0])
slope, intercept = np.polyfit(x, deviation, 1)
print(f"degree {best}: standard deviation {slope:.3f} x intensity {intercept:+.3f}; the truth is {weber_fraction} x")
error = np.max(np.abs(deviation / (weber_fraction * x) - 1))
print(f"largest error of the standard deviation: {error:.0%}")
# sphinx_gallery_start_ignore
assert best > 0
assert error < 0.25
# sphinx_gallery_end_ignore

contours = psy.threshold_contours(fit, field, domain.rescale(x[:, None])).restore(domain)
fig, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
axes[0].plot(x, weber_fraction * x, color="0.25", label="Weber's law")
axes[0].plot(x, deviation, color="C1", label=f"fit of degree {best}")
for side, style in enumerate(("--", ":")):
    name = "threshold, 2/3 correct, " + ("below", "above")[side]
    axes[0].plot(x, contours.radii[:, side], color="C1", ls=style, lw=1, label=name)
axes[0].set(xlabel="intensity", ylabel="standard deviation, threshold", title="A field of variances", ylim=(0, None))
axes[0].legend()
axes[1].plot(list(results), [held_out for *_, held_out in results.values()], "o-", color="C0")
axes[1].set(xlabel="degree of the polynomials", ylabel="held-out log likelihood per trial", title="How smooth a field")
axes[1].set_xticks(list(results))
# sphinx_gallery_start_ignore
fig.savefig(HERE / "pictures" / "weber_law.png")
# sphinx_gallery_end_ignore
