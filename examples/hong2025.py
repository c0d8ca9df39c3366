"""
Fitting the trials of Hong et al. (2025)
========================================

Eight people, 6,000 adaptive trials each to fit and 6,000 more to test, on a plane of colours. The trials are in the
Open Science Framework's node `k27js <https://osf.io/k27js>`_: put its ``trial_data_pooled_by_type_sub{N}.csv`` into a
folder and run ::

    python examples/hong2025.py FOLDER

Without a folder, as on this page, a simulated observer answers fewer trials, written in the same layout.
"""

import sys
import tempfile
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
SETTINGS = {"input_dim": 2, "basis_degree": 4, "extra_dims": 1, "variance_scale": 3e-4, "decay_rate": 0.4}


# %%
def write_stand_in(folder):
    with pm.Model() as prior:
        psy.WishartProcess("W", **SETTINGS)
    truth = psy.WishartProcess("truth", input_dim=2, weights=pm.draw(prior["W"], random_seed=1))
    rng = np.random.default_rng(2)
    reference = rng.uniform(-0.75, 0.75, (3000, 2))
    reference[2000:] = rng.choice(np.linspace(-0.7, 0.7, 5), (1000, 2))
    comparison = psy.place_comparisons(truth, reference, rng.uniform(0.5, 4, len(reference)), random_seed=rng)
    trials = psy.simulate_trials(truth, reference, comparison, random_seed=rng)
    rows = zip(trials.reference, trials.comparison, trials.response, strict=True)
    lines = [
        f'{"AEPsych_" if i < 2000 else "MOCS_"}simulated,"{a[0]:.6f},{a[1]:.6f}","{b[0]:.6f},{b[1]:.6f}",{y}'
        for i, (a, b, y) in enumerate(rows)
    ]
    (folder / "trial_data_pooled_by_type_sub0.csv").write_text("\n".join(["TrialType,xref,x1,y", *lines]))


given = [Path(name) for name in sys.argv[1:] if Path(name).is_dir()]
folder = given[0] if given else Path(tempfile.mkdtemp())
if not given:
    print("No folder was given; the trials are simulated. The published ones are in the OSF's node k27js.")
    write_stand_in(folder)
files = sorted(folder.glob("trial_data_pooled_by_type_sub*.csv"))
if not files:
    sys.exit(f"{folder} holds no trial_data_pooled_by_type_sub*.csv. Get them from the OSF's node k27js.")

# %%
# One model serves all: another observer's trials are other data, and compile nothing.

model, fits = None, {}
for file in files:
    trials = psy.Trials.read_csv(file, reference="xref", comparison="x1", response="y", columns=["TrialType"])
    kind = trials.columns["TrialType"]
    train, test = trials[np.char.startswith(kind, "AEPsych_")], trials[np.char.startswith(kind, "MOCS_")]
    data = {"reference": train.reference, "comparison": train.comparison, "response": train.response}
    if model is None:
        with pm.Model() as model:
            field = psy.WishartProcess("W", diag_term=0, **SETTINGS)
            stimuli = pm.Data("reference", train.reference), pm.Data("comparison", train.comparison)
            psy.Oddity("correct", field, *stimuli, observed=pm.Data("response", train.response))
    with model:
        pm.set_data(data)
    fit = psy.find_map(model, progressbar=False)
    p = fit.evaluate(psy.tasks.oddity_probability(field, test.reference, test.comparison))
    held_out = np.mean(np.log(np.where(test.response == 1, p, 1 - p)))
    name = file.stem.rpartition("_")[2]
    print(f"{name}: {len(train):,} trials, {fit.n_steps} steps in {fit.run_seconds:.1f} s, held out {held_out:.4f}")
    # sphinx_gallery_start_ignore
    assert fit.converged
    # sphinx_gallery_end_ignore
    fits[name] = fit

# %%
grid = np.stack(np.meshgrid(*[np.linspace(-0.7, 0.7, 5)] * 2), axis=-1).reshape(-1, 2)
fig, axes = plt.subplots(1, len(fits), figsize=(4.5 * len(fits), 4.5), layout="constrained", squeeze=False)
for ax, (name, fit) in zip(axes[0], fits.items(), strict=True):
    contours = psy.threshold_contours(fit, field, grid, n_directions=64)
    print(f"{name}: {contours}")
    plots.plot_contours(contours, ax=ax)
    kind = "2/3 correct" if given else "a simulated observer"
    ax.set(title=f"{name}: thresholds, {kind}", xlabel="dimension 1", ylabel="dimension 2")
    ax.set(xlim=(-1, 1), ylim=(-1, 1), xticks=(-1, 0, 1), yticks=(-1, 0, 1))
# sphinx_gallery_start_ignore
fig.savefig(HERE / "pictures" / "hong2025.png")
# sphinx_gallery_end_ignore
