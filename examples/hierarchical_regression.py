"""
A hierarchical regression with a thousand groups
================================================

First eight schools, a real data set of eight rows; then the response times of a thousand people in twenty thousand
trials, simulated so that the estimate can be held against the truth. The same call fits both.
"""

import time
from pathlib import Path

begun = time.perf_counter()

import matplotlib.pyplot as plt
import numpy as np
import pymc as pm

import pm_psyphy as psy

# sphinx_gallery_start_ignore
HERE = Path(__file__).parent
plt.style.use(HERE / "pictures.mplstyle")
# sphinx_gallery_end_ignore
print(f"Imported PyMC, JAX and pm_psyphy in {time.perf_counter() - begun:.1f} s.")

# %%
# Eight schools
# -------------
#
# The effects of coaching in eight schools, with their standard errors (Rubin, 1981). The schools' true effects are
# normal around mu with standard deviation tau. They are integrated out, and their means follow from mu and tau.

observed = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
error = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])

with pm.Model(coords={"school": list("ABCDEFGH")}) as schools:
    mu = pm.Normal("mu", 0, 10)
    tau = pm.Gamma("tau", 2, 0.1)
    pm.Deterministic("effect", mu + tau**2 / (tau**2 + error**2) * (observed - mu), dims="school")
    pm.Normal("y", mu, np.sqrt(tau**2 + error**2), observed=observed, dims="school")

print("\nEight schools (Rubin, 1981): compiling and fitting")
fit = psy.find_map(schools)
print(fit)
# sphinx_gallery_start_ignore
assert fit.converged
# sphinx_gallery_end_ignore

# %%
# A thousand people
# -----------------
#
# The logarithm of a response time rises with the difficulty of the trial and falls with practice, and people differ in
# how slow they are. Half of the people left after two to eight trials; the others did some thirty-five.

N_PEOPLE, N_TRIALS = 1_000, 20_000
TRUTH = {"intercept": -0.5, "difficulty_slope": 0.20, "practice_slope": -0.10, "slowness_sd": 0.40, "noise": 0.40}

rng = np.random.default_rng(2024)
leavers = np.repeat(np.arange(N_PEOPLE // 2), rng.integers(2, 9, size=N_PEOPLE // 2))
stayers = rng.integers(N_PEOPLE // 2, N_PEOPLE, size=N_TRIALS - len(leavers))
person = np.append(leavers, np.sort(stayers))
true_slowness = rng.normal(0, TRUTH["slowness_sd"], size=N_PEOPLE)


def simulate(rng):
    difficulty, practice = rng.normal(size=N_TRIALS), rng.uniform(-1, 1, N_TRIALS)
    mean = TRUTH["intercept"] + TRUTH["difficulty_slope"] * difficulty + TRUTH["practice_slope"] * practice
    log_time = mean + true_slowness[person] + TRUTH["noise"] * rng.normal(size=N_TRIALS)
    return {"difficulty": difficulty, "practice": practice, "log_time": log_time}


data = simulate(rng)

# %%
# Because the data are ``pm.Data``, they can be exchanged later. The mode of such a model is near the truth where many
# people have many trials. It knows nothing of how uncertain each person's slowness is, so that both standard deviations
# come out a little low. With few trials for everyone it would be of no use: see the example of the eight schools.

with pm.Model(coords={"person": range(N_PEOPLE), "trial": range(N_TRIALS)}) as model:
    difficulty = pm.Data("difficulty", data["difficulty"], dims="trial")
    practice = pm.Data("practice", data["practice"], dims="trial")
    log_time = pm.Data("log_time", data["log_time"], dims="trial")
    intercept = pm.Normal("intercept", 0, 1)
    difficulty_slope = pm.Normal("difficulty_slope", 0, 1)
    practice_slope = pm.Normal("practice_slope", 0, 1)
    slowness_sd = pm.HalfNormal("slowness_sd", 1)
    noise = pm.HalfNormal("noise", 1)
    slowness = pm.Normal("slowness", 0, slowness_sd, dims="person")
    mean = intercept + difficulty_slope * difficulty + practice_slope * practice + slowness[person]
    pm.Normal("y", mean, noise, observed=log_time, dims="trial")

print(f"\n{N_PEOPLE:,} people, {N_TRIALS:,} trials: compiling and fitting")
fit = psy.find_map(model)
print(fit)

print(f"\n{'':<18}{'truth':>8}{'estimate':>10}{'difference':>12}")
for name, truth in TRUTH.items():
    print(f"{name:<18}{truth:>8.3f}{fit[name]:>10.3f}{fit[name] - truth:>12.3f}")
# sphinx_gallery_start_ignore
assert fit.converged
assert all(abs(fit[name] - truth) < 0.06 for name, truth in TRUTH.items())
# sphinx_gallery_end_ignore

# %%
# New data, the same program
# --------------------------
#
# The same people come back another day and do as many trials. ``pm.set_data`` puts the new data into the model, and the
# next fit uses the program that is there.

pm.set_data(simulate(rng), model=model)
print("\nThe same people, a second day: fitting")
again = psy.find_map(model)
print(again)
# sphinx_gallery_start_ignore
assert again.converged
assert again.objective.program is fit.objective.program
# sphinx_gallery_end_ignore
print(f"\n{'':<18}{'first':>10}{'second':>10}")
print(f"{'compiled in':<18}{fit.compile_seconds:>8.3f} s{again.compile_seconds:>8.3f} s")
print(f"{'ran in':<18}{fit.run_seconds:>8.3f} s{again.run_seconds:>8.3f} s")

# %%
# What the hierarchy is for
# -------------------------
#
# Without a hierarchy, a person's slowness is the mean of what the regression leaves of their trials. With it, that of
# people with few trials is drawn towards everyone's mean, which on average is closer to the truth.

n_trials = np.bincount(person)
left = data["log_time"] - fit["intercept"]
left = left - fit["difficulty_slope"] * data["difficulty"] - fit["practice_slope"] * data["practice"]
own_mean = np.bincount(person, left) / n_trials
errors = {"own mean": own_mean - true_slowness, "hierarchy": fit["slowness"] - true_slowness}
rms = {name: np.sqrt(np.mean(e**2)) for name, e in errors.items()}
print("\nError of a person's slowness, root mean square")
print(f"  from their own trials {rms['own mean']:.3f}, from the hierarchy {rms['hierarchy']:.3f}")
# sphinx_gallery_start_ignore
assert rms["hierarchy"] < rms["own mean"]
# sphinx_gallery_end_ignore

_, axes = plt.subplots(1, 2, figsize=(10, 4.6))
few = n_trials <= 3
ends = np.array([-1.65, 1.65])
left_axes, right_axes = axes
left_axes.plot(ends, ends, color="#999999", linewidth=1, zorder=0)
left_axes.vlines(true_slowness[few], own_mean[few], fit["slowness"][few], color="#d8762a", linewidth=0.6, alpha=0.5)
left_axes.scatter(
    true_slowness[~few], fit["slowness"][~few], s=6, color="#b9c6d6", linewidth=0, label="hierarchy, more trials"
)
left_axes.scatter(
    true_slowness[few],
    own_mean[few],
    s=16,
    facecolor="white",
    edgecolor="#d8762a",
    label="own mean, two or three trials",
)
left_axes.scatter(
    true_slowness[few], fit["slowness"][few], s=16, color="#1f5fa8", linewidth=0, label="hierarchy, two or three trials"
)
left_axes.set(xlim=ends, ylim=ends, xlabel="true slowness of a person", ylabel="estimated slowness")
left_axes.set_title(f"{N_PEOPLE:,} people, {N_TRIALS:,} trials")
left_axes.legend(*(entries[::-1] for entries in left_axes.get_legend_handles_labels()), loc="upper left", fontsize=9)

groups = [n_trials == n for n in range(2, 9)] + [n_trials > 8]
for name, color in [("own mean", "#d8762a"), ("hierarchy", "#1f5fa8")]:
    spread = [np.sqrt(np.mean(errors[name][group] ** 2)) for group in groups]
    right_axes.plot(spread, marker="o", color=color, markersize=6, label=name)
right_axes.set(xticks=range(len(groups)), xticklabels=[*range(2, 9), "~35"], ylim=(0, None))
right_axes.set(xlabel="trials of a person", ylabel="error of the slowness, root mean square")
right_axes.set_title("The fewer the trials, the more the others help")
right_axes.legend(loc="upper right")
# sphinx_gallery_start_ignore
plt.savefig(HERE / "pictures/hierarchical_regression.png")
# sphinx_gallery_end_ignore
print(f"\nPicture: examples/pictures/hierarchical_regression.png. {time.perf_counter() - begun:.0f} s in all.")
