"""
Several observers, pooled
=========================

Observers share a field, and each departs from it a little. ``weights`` takes any tensor, so the hierarchy is plain
PyMC: a common W and deviations by observer. With few trials each, an observer's field leans on the others'.

How large the deviations are, tau, a MAP estimate cannot say: with tau free it lets tau grow and the standardised
deviations shrink. Trials that were held out can; tau is data, so that another value compiles nothing.
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
N_OBSERVERS, N_TRIALS, SHAPE = 6, 400, (2, 2, 2, 3)
degrees = np.indices(SHAPE[:2]).sum(axis=0)[..., None, None]
spread = np.sqrt(4e-3 * 0.4**degrees)

rng = np.random.default_rng(7)
common = rng.normal(size=SHAPE) * spread
true_weights = common + 0.35 * rng.normal(size=(N_OBSERVERS, *SHAPE)) * spread
truths = [psy.WishartProcess("truth", input_dim=2, basis_degree=1, weights=w) for w in true_weights]
tables = []
for truth in truths:
    reference = rng.uniform(-0.8, 0.8, (N_TRIALS, 2))
    comparison = psy.place_comparisons(truth, reference, rng.uniform(0.5, 4, N_TRIALS), random_seed=rng)
    tables.append(psy.simulate_trials(truth, reference, comparison, random_seed=rng))
observer = np.repeat(np.arange(N_OBSERVERS), N_TRIALS)
reference, comparison, response = (
    np.concatenate([getattr(t, name) for t in tables]) for name in ("reference", "comparison", "response")
)

is_train = rng.random(len(response)) < 0.8
train = observer[is_train], reference[is_train], comparison[is_train]
test = observer[~is_train], reference[~is_train], comparison[~is_train]

# %%
# ``weights=W[observer]`` gives each trial its observer's field. The observers were made with a tau of 0.35; with a tau
# of 1 they differ from what they share by as much as that is itself, which is hardly any pooling.

# Near circles, and off the saddle at W = 0.
start = 0.3 * rng.normal(size=SHAPE) + np.eye(2, 3) * (degrees == 0)
with pm.Model() as model:
    tau = pm.Data("tau", 1.0)
    z = pm.Normal("z", 0, 1, shape=SHAPE, initval=start)
    deviation = pm.Normal("deviation", 0, 1, shape=(N_OBSERVERS, *SHAPE), initval=np.zeros((N_OBSERVERS, *SHAPE)))
    W = pm.Deterministic("W", (z + tau * deviation) * spread)
    field = psy.WishartProcess("W", input_dim=2, basis_degree=1, weights=W[train[0]])
    psy.Oddity("correct", field, *train[1:], observed=response[is_train])


def fit_with(value, before=None):
    with model:
        pm.set_data({"tau": value})
    fit = psy.find_map(model, initvals=before and before.unconstrained, progressbar=False)
    held_out = psy.WishartProcess("W", input_dim=2, basis_degree=1, weights=fit["W"][test[0]])
    p = psy.tasks.oddity_probability(held_out, *test[1:]).eval()
    score = np.mean(np.log(np.where(response[~is_train] == 1, p, 1 - p)))
    print(f"tau {value}: {fit.n_steps} steps in {fit.run_seconds:.1f} s, held-out log likelihood {score:.4f}")
    # sphinx_gallery_start_ignore
    assert fit.converged
    # sphinx_gallery_end_ignore
    return fit, score


# Each fit begins where that of the next smaller tau ended: few trials alone have many modes.
scores = {0.05: fit_with(0.05)}
for value in (0.1, 0.2, 0.35, 0.6, 1.0):
    scores[value] = fit_with(value, scores[max(scores)][0])
best = max(scores, key=lambda value: scores[value][1])
fits = {f"pooled, tau {best}": scores[best][0], "hardly pooled, tau 1": scores[1.0][0]}

# %%
grid = np.stack(np.meshgrid(*[np.linspace(-0.6, 0.6, 4)] * 2), axis=-1).reshape(-1, 2)
expected = np.stack([truth.covariance(grid).eval() for truth in truths])


def evaluate(fit):
    fields = [psy.WishartProcess("W", input_dim=2, basis_degree=1, weights=w) for w in fit["W"]]
    return np.stack([field.covariance(grid).eval() for field in fields])


estimates = {name: evaluate(fit) for name, fit in fits.items()}
errors = {name: psy.covariances.affine_invariant_distance(e, expected).mean(axis=1) for name, e in estimates.items()}
for name, error in errors.items():
    print(f"{name}: mean distance to the truth {error.mean():.3f}")
pooled, alone = fits
# sphinx_gallery_start_ignore
assert errors[pooled].mean() < errors[alone].mean()
# sphinx_gallery_end_ignore

fig, axes = plt.subplots(2, 3, figsize=(9, 6.6), layout="constrained", sharex=True, sharey=True)
for i, ax in enumerate(axes.flat):
    plots.plot_ellipses(grid, expected[i], color="0.75", filled=True, label="truth", ax=ax)
    for name, color in ((alone, "C0"), (pooled, "C1")):
        plots.plot_ellipses(grid, estimates[name][i], color=color, linewidths=1, label=name, ax=ax)
    ax.set(title=f"observer {i + 1}", xlim=(-0.9, 0.9), ylim=(-0.9, 0.9))
axes[1, 1].set(xlabel="stimulus dimension 1")
fig.supylabel("stimulus dimension 2", fontsize="medium")
fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
# sphinx_gallery_start_ignore
fig.savefig(HERE / "pictures" / "hierarchical_wppm.png")
# sphinx_gallery_end_ignore
