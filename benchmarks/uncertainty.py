"""Measure what comes after a fit, in one run of the peers' environment, and write docs/uncertainty.md.

.venv-peers/bin/python benchmarks/uncertainty.py
"""

import multiprocessing
import os
import platform
import time
import warnings
from importlib.metadata import version
from pathlib import Path

import arviz as az
import numpy as np
import pymc as pm

import pm_psyphy as psy

GRID = {"variance_scale": [1e-3, 2e-3, 4e-3, 8e-3, 16e-3], "decay_rate": [0.2, 0.3, 0.4, 0.5, 0.6]}
rows: list[tuple[str, str, str]] = []
samplers: list[str] = []


def report(what: str, found: str, target: str = "") -> None:
    rows.append((what, found, target))
    print(what, "|", found, "|", target, flush=True)


def build(trials: psy.Trials, **settings) -> tuple[pm.Model, psy.WishartProcess]:
    with pm.Model(coords={"trial": range(len(trials.response))}) as model:
        scales = {name: pm.Data(name, value) for name, value in {"variance_scale": 4e-3, "decay_rate": 0.4}.items()}
        field = psy.WishartProcess("W", input_dim=2, **scales, **settings)
        dims = "trial", "stimulus"
        stimuli = pm.Data("reference", trials.reference, dims=dims), pm.Data("comparison", trials.comparison, dims=dims)
        psy.Oddity("correct", field, *stimuli, observed=pm.Data("response", trials.response), dims="trial")
    return model, field


def simulate(n: int, seed: int = 0, **settings) -> tuple[psy.Trials, psy.WishartProcess]:
    """Draw an observer from the prior, and its responses."""
    with pm.Model() as prior:
        psy.WishartProcess("W", input_dim=2, **settings)
    truth = psy.WishartProcess("truth", input_dim=2, weights=pm.draw(prior["W"], random_seed=seed + 4), **settings)
    rng = np.random.default_rng(seed)
    reference = rng.uniform(-0.8, 0.8, (n, 2))
    comparison = psy.place_comparisons(truth, reference, rng.uniform(0.5, 4, n), random_seed=rng)
    return psy.simulate_trials(truth, reference, comparison, random_seed=rng), truth


def time_once(function) -> tuple[float, object]:
    begun = time.perf_counter()
    found = function()
    return time.perf_counter() - begun, found


def bench_observer() -> None:
    """Laplace, bootstrap and cross-validation of 150 weights and 6,000 trials."""
    model, _ = build(simulate(6000)[0])
    fit = psy.find_map(model, progressbar=False)
    cold, _ = time_once(lambda: psy.laplace(fit))
    warm = [time_once(lambda seed=seed: psy.laplace(fit, random_seed=seed))[0] for seed in range(5)]
    report("Laplace, 150 weights, 6,000 trials", f"cold {cold:.1f} s, warm {np.median(warm):.2f} s", "< 1 s warm")
    psy.bootstrap(fit, n_refits=2, progressbar=False)
    seconds, found = time_once(lambda: psy.bootstrap(fit, n_refits=120, random_seed=1, progressbar=False))
    rng = np.random.default_rng(1)
    objective, alone = fit.objective, []
    for _ in range(6):
        picked = rng.integers(6000, size=6000)
        data = {name: np.asarray(objective.data[name])[picked] for name in ("reference", "comparison", "response")}
        alone.append(time_once(lambda data=data: psy.find_map(objective.with_data(**data), progressbar=False))[0])
    report(
        f"120 bootstrap refits of 6,000 trials, {np.mean(found.n_steps):.0f} steps on average",
        f"{seconds:.0f} s",
        "< 60 s" + " (missed)" * (seconds > 60),
    )
    report(
        f"the same by 120 fits in a loop, {np.mean(alone):.2f} s each (6 were run)",
        f"{120 * np.mean(alone) / seconds:.1f} x the time",
        "≥ 3",
    )
    seconds, found = time_once(lambda: psy.cross_validate(model, grid=GRID, random_seed=0, progressbar=False))
    report(
        "5-fold cross-validation over a 5 x 5 grid, 6,000 trials, with compilation",
        f"{seconds:.0f} s",
        "< 180 s" + " (missed)" * (seconds > 180),
    )
    chosen = [
        ", ".join(f"{value:.3g}" for value in found.best.values()),
        ", ".join(f"{value:.3g}" for value in found.best_by_evidence.values()),
    ]
    report("variance scale and decay rate by held-out trials; by evidence; the truth is 0.004, 0.4", "; ".join(chosen))


def hierarchical() -> pm.Model:
    rng = np.random.default_rng(1)
    group, x = rng.integers(20, size=2000), rng.normal(size=2000)
    y = rng.normal(size=20)[group] + rng.normal(1, 0.3, 20)[group] * x + rng.normal(0, 0.5, 2000)
    with pm.Model() as model:
        means = pm.Normal("means", 0, 1, shape=2)
        scales = pm.HalfNormal("scales", 1, shape=2)
        offsets = pm.Normal("offsets", 0, 1, shape=(20, 2))
        effects = means + scales * offsets
        pm.Normal("y", effects[group, 0] + effects[group, 1] * x, pm.HalfNormal("sigma", 1), observed=y)
    return model


def regression() -> pm.Model:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(2000, 25)) @ (np.eye(25) + 0.5 * rng.normal(size=(25, 25)))
    p = 1 / (1 + np.exp(-x @ rng.normal(0, 0.2, 25)))
    with pm.Model() as model:
        pm.Bernoulli("y", logit_p=x @ pm.Normal("slopes", 0, 1, shape=25), observed=rng.random(2000) < p)
    return model


def observer() -> pm.Model:
    """Return a field of degree 1 and 1,200 trials, and covariances, which no rotation of its weights changes."""
    settings = {"basis_degree": 1, "extra_dims": 1}
    model, field = build(simulate(1200, **settings)[0], **settings)
    with model:
        pm.Deterministic("covariances", field.covariance(np.array([[0.0, 0.0], [0.5, 0.5], [-0.5, 0.5]])))
    return model


MODELS = {"logistic regression": regression, "hierarchical regression": hierarchical, "field of covariances": observer}
# The others walk along the rotations of a field's weights.
OWN = {"pm_psyphy.posterior", "pm_psyphy.sample"}
SAMPLERS = {
    "pm_psyphy.posterior": lambda model: psy.posterior(
        psy.find_map(model, progressbar=False), method="hmc", draws=4000, random_seed=0, progressbar=False
    ).to_datatree(),
    "pm_psyphy.sample": lambda model: psy.sample(
        psy.find_map(model, progressbar=False), random_seed=0, progressbar=False
    ),
    "pm.sample, blackjax": lambda model: pm.sample(
        model=model, nuts_sampler="blackjax", chains=4, random_seed=0, progressbar=False,
        nuts_sampler_kwargs={"chain_method": "vectorized"},
    ),
    "pm.sample, nutpie": lambda model: pm.sample(
        model=model, nuts_sampler="nutpie", chains=4, random_seed=0, progressbar=False
    ),
}  # fmt: skip


def measure_sampler(model_name: str, sampler: str, queue) -> None:
    """Run in a process of its own, since one sampler changes how many devices JAX shows the others."""
    warnings.simplefilter("ignore")
    model = MODELS[model_name]()
    cold, tree = time_once(lambda: SAMPLERS[sampler](model))
    warm = cold
    if sampler in OWN:
        # The others compile at each call.
        warm, tree = time_once(lambda: SAMPLERS[sampler](model))
    names = ["covariances"] if "covariances" in model.named_vars else [v.name for v in model.free_RVs]
    smallest = min(float(np.min(az.ess(tree["posterior"].dataset[[name]], method="bulk")[name])) for name in names)
    queue.put((cold, warm, smallest))


def bench_samplers() -> None:
    context = multiprocessing.get_context("spawn")
    for model_name in MODELS:
        found = {}
        for sampler in OWN if "field" in model_name else SAMPLERS:
            queue = context.Queue()
            process = context.Process(target=measure_sampler, args=(model_name, sampler, queue))
            process.start()
            try:
                found[sampler] = queue.get(timeout=400)
            except Exception:  # nothing came in time
                process.kill()
                samplers.append(f"| {model_name} | {sampler} | not done in 400 s | | |")
            process.join()
        cold, warm, ess = found.pop("pm_psyphy.posterior")
        ours = ess / cold, ess / warm
        samplers.append(f"| {model_name} | pm_psyphy.posterior | {ours[0]:,.0f} | {ours[1]:,.0f} | |")
        for sampler, (first, again, ess) in found.items():
            theirs = ess / first, ess / again
            ratios = " and ".join(f"{a / b:.1f} x" for a, b in zip(ours, theirs, strict=True))
            # Of a field 20 times as many as of `sample`, called again.
            missed = " (missed)" * (ours[1] < theirs[1] * (20 if "field" in model_name else 1))
            shown = f"{theirs[1]:,.0f}" if sampler in OWN else ""
            samplers.append(f"| {model_name} | {sampler} | {theirs[0]:,.0f} | {shown} | {ratios}{missed} |")
        print(*samplers[-len(SAMPLERS) :], sep="\n", flush=True)


def write() -> None:
    lines = [f"| {what} | {found} | {target} |" for what, found, target in rows]
    text = f"""# Benchmarks of uncertainty

Written by `.venv-peers/bin/python benchmarks/uncertainty.py`, all figures from one run: JAX {version("jax")}, PyMC \
{version("pymc")}, BlackJAX {version("blackjax")}, nutpie {version("nutpie")}, Python {platform.python_version()}, \
{os.cpu_count()} cores. How often intervals hold the truth: [calibration](calibration.md).

## Samplers

Effective draws a second, of the parameter that has the fewest, of 4,000 draws: short chains of `posterior`, four chains
of the others. A first call builds, fits and compiles; the other packages compile at each call. The target is at least
1 x for a call again, and 20 x of `sample` for the field.

| model | sampler | first call | called again | `posterior` to it, first call and again |
| --- | --- | --- | --- | --- |
{chr(10).join(samplers)}

## Intervals

| what | found | target |
| --- | --- | --- |
"""
    path = Path(__file__).parents[1] / "docs" / "uncertainty.md"
    path.write_text(text + "\n".join(lines) + "\n")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    bench_samplers()
    bench_observer()
    write()
