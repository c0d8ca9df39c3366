"""Measure many fits, many rows, several devices and new processes, in one run, and write docs/scale.md.

.venv/bin/python benchmarks/scale.py
"""

import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from importlib.metadata import version
from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pymc as pm
from timing import time_in_turn

import pm_psyphy as psy
from pm_psyphy.rows.memory_blocks import measure_memory, spare_memory

HERE = Path(__file__).parent
MAGNITUDES = HERE.parents[1] / "shared" / "data" / "garcia2022_magnitude.csv"
QUIET = {"progressbar": False}
rows: list[tuple[str, str, str]] = []


def report(what: str, found: str, target: str = "") -> None:
    rows.append((what, found, target))
    print(what, "|", found, "|", target, flush=True)


def judge(ratio: float, target: float) -> str:
    return f"≥ {target:,.0f} x" + " (missed)" * (ratio < target)


def ask(part: str, *arguments: object, **environment: str) -> dict[str, float]:
    """Run a part of this file in a process of its own, and return what it prints."""
    command = [sys.executable, __file__, part, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | environment)
    return json.loads(done.stdout.splitlines()[-1])


# Many fits


def psychometric(x: np.ndarray, y: np.ndarray, lapses: str = "known") -> pm.Model:
    with pm.Model(coords={"trial": range(len(y))}) as model:
        rates = {"guess_rate": 0.5, "lapse_rate": 0.02 if lapses == "known" else pm.Beta("lapse_rate", 2, 20)}
        threshold, slope = pm.Normal("threshold", 0, 1), pm.Gamma("slope", 2, 1)
        log_odds = psy.psychometric_log_odds(pm.Data("x", x, dims="trial"), threshold, slope=slope, **rates)
        psy.Response("correct", log_odds, observed=pm.Data("y", y, dims="trial"), dims="trial")
    return model


def bench_observers() -> None:
    rng = np.random.default_rng(0)
    x = rng.uniform(-2, 2, (1000, 200))
    threshold, slope = rng.normal(0, 0.5, (1000, 1)), rng.gamma(4, 0.5, (1000, 1))
    p = 0.5 + 0.48 / (1 + np.exp(-slope * (x - threshold)))
    y = (rng.random(x.shape) < p).astype(int)
    model = psychometric(x[0], y[0])

    def loop(fit, n: int) -> None:
        for i in range(n):
            with model:
                pm.set_data({"x": x[i], "y": y[i]})
            fit(model)

    times = time_in_turn(
        {
            "all": lambda: psy.find_maps(model, {"x": x, "y": y}, **QUIET),
            "find_map": lambda: loop(lambda model: psy.find_map(model, **QUIET), 100),
            "pm.find_MAP": lambda: loop(lambda model: pm.find_MAP(model=model, **QUIET), 5),
        },
        3,
    )
    report("1,000 observers of 200 trials: `find_maps`, called again", f"{times['all']:.3f} s")
    for name, n, target in (("find_map", 100, 30), ("pm.find_MAP", 5, 1000)):
        seconds = times[name] * 1000 / n
        ratio = seconds / times["all"]
        report(
            f"the same by a loop over `{name}` and `pm.set_data` ({n} were run)",
            f"{seconds:,.1f} s, {ratio:,.0f} x the time",
            judge(ratio, target),
        )


def bench_magnitudes() -> None:
    if not MAGNITUDES.exists():
        print(f"{MAGNITUDES} is not there", flush=True)
        return
    frame = pd.read_csv(MAGNITUDES)
    names, observer = np.unique(frame.subject, return_inverse=True)
    x, y = np.log(frame.n2.to_numpy() / frame.n1.to_numpy()), frame.choice.to_numpy().astype(int)

    def build(pooled: bool) -> pm.Model:
        own = observer if pooled else np.zeros(np.count_nonzero(observer == 0), int)
        chosen = slice(None) if pooled else observer == 0
        with pm.Model(coords={"observer": range(own.max() + 1), "trial": range(len(own))}) as model:
            mu = pm.Normal("mu", 0, 1) if pooled else 0
            bias = pm.Normal("bias", mu, 0.2, dims="observer")
            jnd = pm.math.exp(pm.Normal("log_jnd", -1, 0.5, dims="observer"))
            values = pm.Data("x", x[chosen], dims="trial"), pm.Data("y", y[chosen], dims="trial")
            psy.Response("choice", psy.tasks.yes_no_log_odds(values[0] / jnd[own], (bias / jnd)[own]),
                observed=values[1], dims="trial")  # fmt: skip
        return model

    pooled, alone = build(True), build(False)
    sets = {int(name): {"x": x[observer == i], "y": y[observer == i]} for i, name in enumerate(names)}
    objective = psy.compile_objective(alone)
    times = time_in_turn(
        {
            "all": lambda: psy.find_maps(alone, sets, **QUIET),
            "loop": lambda: [psy.find_map(objective.with_data(**own), **QUIET) for own in sets.values()],
            "pooled": lambda: psy.find_map(pooled, **QUIET),
            "pm.find_MAP": lambda: pm.find_MAP(model=pooled, **QUIET),
        },
        3,
    )
    report(
        "64 observers of 216 trials (Barretto-Garcia and others, 2022), each alone: `find_maps`; a loop",
        f"{times['all'] * 1e3:.1f} ms; {times['loop'] * 1e3:.0f} ms, {times['loop'] / times['all']:.1f} x the time",
        judge(times["loop"] / times["all"], 15),
    )
    report(
        "the same as one model with a common mean: `find_map`, called again; `pm.find_MAP`",
        f"{times['pooled'] * 1e3:.1f} ms; {times['pm.find_MAP']:.1f} s, "
        f"{times['pm.find_MAP'] / times['pooled']:,.0f} x the time",
    )


# Many rows


def oddity(n: int, n_dimensions: int = 2) -> pm.Model:
    rng = np.random.default_rng(0)
    reference = rng.uniform(-0.8, 0.8, (n, n_dimensions))
    comparison = np.clip(reference + rng.normal(0, 0.15, (n, n_dimensions)), -1, 1)
    with pm.Model(coords={"trial": range(n)}) as model:
        field = psy.WishartProcess("W", input_dim=n_dimensions, basis_degree=6 - n_dimensions)
        stimuli = pm.Data("reference", reference), pm.Data("comparison", comparison)
        psy.Oddity("correct", field, *stimuli, observed=pm.Data("response", rng.integers(0, 2, n)), dims="trial")
    return model


def measure_gradient(n: int, n_dimensions: int, blocks: bool) -> dict[str, float]:
    many = oddity(n, n_dimensions)
    arrays = {name: many[name].get_value() for name in ("reference", "comparison", "response")}
    # Few of them first, for the objective tries its gradient once.
    objective = psy.compile_objective(oddity(100, n_dimensions)).with_data(**arrays)
    objective = spare_memory(objective) if blocks else objective
    seconds = time_in_turn({"": lambda: objective.value_and_grad(objective.start)}, 3)[""]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    return {"seconds": seconds, "planned": measure_memory(objective) / 2**20, "peak": peak}


def bench_blocks() -> None:
    for n, n_dimensions in ((1_000_000, 2), (100_000, 3)):
        for blocks in (False, True):
            found = ask("gradient", n, n_dimensions, int(blocks))
            report(
                f"gradient of the exact oddity likelihood, {n_dimensions} dimensions, {n:,} trials, "
                f"{'in blocks' if blocks else 'as a whole'}",
                f"{found['seconds']:.2f} s; {found['planned']:,.0f} MiB beside the data, as XLA plans; the process had "
                f"at most {found['peak']:,.0f} MiB",
                "≤ 256 MiB" + " (missed)" * (found["planned"] > 256) if blocks else "",
            )


def measure_stream(n: int) -> dict[str, float]:
    """Fit rows on a disk, and watch the memory that is no copy of it."""
    peak, done = [0.0], threading.Event()

    def read_memory() -> float:
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return float(status["RssAnon"].split()[0]) / 2**10

    def watch() -> None:
        while not done.wait(0.05):
            peak[0] = max(peak[0], read_memory())

    with tempfile.TemporaryDirectory() as folder:
        paths = {name: Path(folder) / f"{name}.npy" for name in ("x", "y")}
        arrays = {p: np.lib.format.open_memmap(path, "w+", "float32", (n,)) for p, path in paths.items()}
        rng = np.random.default_rng(0)
        for begin in range(0, n, 10**6):
            own = slice(begin, min(begin + 10**6, n))
            arrays["x"][own] = rng.normal(size=own.stop - begin)
            arrays["y"][own] = 1 + 2 * arrays["x"][own] + 0.5 * rng.normal(size=own.stop - begin)
        size = sum(path.stat().st_size for path in paths.values()) / 2**20
        del arrays
        data = {name: np.load(path, mmap_mode="r") for name, path in paths.items()}
        with pm.Model() as model:
            x = pm.Data("x", np.zeros(100), dims="trial")
            line = pm.Normal("level", 0, 3) + pm.Normal("slope", 0, 3) * x
            sigma = pm.HalfNormal("sigma", 2)
            pm.Normal("seen", line, sigma, observed=pm.Data("y", np.zeros(100), dims="trial"), dims="trial")
        settings = {"learning_rate": 0.05, "log_every": 100, "random_seed": 0, **QUIET}
        few = {name: array[:300_000] for name, array in data.items()}
        psy.find_map(model, rows=psy.Minibatches(100_000, data=few), steps=2, **settings)
        before = read_memory()
        threading.Thread(target=watch, daemon=True).start()
        begun = time.perf_counter()
        fit = psy.find_map(model, rows=psy.Minibatches(100_000, data=data), steps=n // 100_000, **settings)
        seconds = time.perf_counter() - begun
        done.set()
    found = {"seconds": seconds, "file": size, "grown": peak[0] - before}
    return found | {name: float(fit[name]) for name in ("slope", "sigma")}


def bench_stream() -> None:
    found = {n: ask("stream", n) for n in (10_000_000, 100_000_000)}
    for n, one in found.items():
        report(
            f"one epoch over {n:,} rows in mapped files of {one['file']:,.0f} MiB, batches of 100,000, Adam",
            f"{one['seconds']:.1f} s, {n / one['seconds'] / 1e6:.1f} million rows a second; the process grew by "
            f"{one['grown']:,.0f} MiB; slope {one['slope']:.3f} (made with 2), sigma {one['sigma']:.3f} (0.5)",
        )


# Several devices, new processes


def measure_devices(n_trials: int) -> dict[str, float]:
    from pm_psyphy.rows.sharding import shard_objective

    objective = shard_objective(psy.compile_objective(oddity(n_trials)), "trial")
    return {"seconds": time_in_turn({"": lambda: objective.value_and_grad(objective.start)}, 5)[""]}


def bench_devices() -> None:
    seconds = {
        n: ask("devices", 40_000, XLA_FLAGS=f"--xla_force_host_platform_device_count={n}")["seconds"]
        for n in (1, 2, 4, 8)
    }
    report(
        f"gradient of 40,000 oddity trials on 1, 2, 4 and 8 host devices, which share {os.cpu_count()} cores",
        ", ".join(f"{each:.3f} s" for each in seconds.values())
        + "; "
        + ", ".join(f"{seconds[1] / each:.2f} x" for each in seconds.values()),
    )


def measure_growth() -> dict[str, float]:
    """Fit data that grow by 50 rows at a time."""
    n_compiled = [0]

    def count(event: str, *_, **__) -> None:
        n_compiled[0] += event == "/jax/core/compile/backend_compile_duration"

    jax.monitoring.register_event_duration_secs_listener(count)
    rng = np.random.default_rng(0)
    x = rng.uniform(-2, 2, 6_000)
    y = (rng.random(len(x)) < 0.5 + 0.48 / (1 + np.exp(-3 * x))).astype(int)
    model = psychometric(x[:50], y[:50])
    begun = time.perf_counter()
    for n in range(50, 6_001, 50):
        with model:
            pm.set_data({"x": x[:n], "y": y[:n]}, coords={"trial": range(n)})
        psy.find_map(model, **QUIET)
    return {"seconds": time.perf_counter() - begun, "programs": n_compiled[0]}


def bench_growth() -> None:
    found = ask("growth")
    report(
        "a psychometric function fitted to 50, 100, ... 6,000 trials in turn, 120 lengths",
        f"{found['seconds']:.1f} s in all; {found['programs']:.0f} programs compiled, with those that show the results",
    )


def measure_start(kind: str, folder: str) -> dict[str, float]:
    """Time the first fit of a process, and what follows it."""
    if folder != "none":
        psy.cache_compilation(folder)
    rng = np.random.default_rng(0)
    x = rng.uniform(-2, 2, 2_000)
    model = oddity(2_000) if kind == "field" else psychometric(x, (rng.random(2_000) < 0.75).astype(int), "lapses")
    seconds, begun = {}, time.perf_counter()

    def note(name: str) -> None:
        nonlocal begun
        seconds[name] = time.perf_counter() - begun
        begun = time.perf_counter()

    fit = psy.find_map(model, **QUIET)
    note("fit")
    posterior = psy.laplace(fit, random_seed=1)
    note("laplace")
    found = posterior.pareto_k
    note("k-hat")
    assert np.isfinite(found)
    return seconds


def bench_starts() -> None:
    for kind, what, most in (("psychometric", "a psychometric function with lapses", 1.5), ("field", "a field", 3)):
        with tempfile.TemporaryDirectory() as folder:
            ask("start", kind, folder)
            found = [(ask("start", kind, "none"), ask("start", kind, folder)) for _ in range(3)]
        targets = {"fit": most, "laplace": 1, "k-hat": 0.5}
        median = {
            name: [float(np.median([both[i][name] for both in found])) for i in (0, 1)] for name in targets
        }  # fmt: skip
        for name, (without, with_cache) in median.items():
            label = {"fit": "first fit", "laplace": "then `laplace`", "k-hat": "then k-hat"}[name]
            report(
                f"{what}, 2,000 trials, in a new process after the imports: {label}",
                f"{without:.2f} s; with the cache of another process {with_cache:.2f} s",
                f"≤ {targets[name]} s" + " (missed)" * (without > targets[name]),
            )


def write() -> None:
    lines = "\n".join(f"| {what} | {found} | {target} |" for what, found, target in rows)
    text = f"""# Benchmarks of scale

Written by `.venv/bin/python benchmarks/scale.py`, all figures from one run: JAX {version("jax")}, PyMC \
{version("pymc")}, Python {platform.python_version()}, {os.cpu_count()} cores. [How to](how_to.md) says how.

| what | found | target |
| --- | --- | --- |
{lines}
"""
    (HERE.parent / "docs" / "scale.md").write_text(text)


PARTS = {
    "gradient": lambda n, n_dimensions, blocks: measure_gradient(int(n), int(n_dimensions), blocks == "1"),
    "stream": lambda n: measure_stream(int(n)),
    "devices": lambda n: measure_devices(int(n)),
    "growth": measure_growth,
    "start": measure_start,
}

if __name__ == "__main__":
    warnings.simplefilter("ignore")
    if len(sys.argv) > 1:
        print(json.dumps(PARTS[sys.argv[1]](*sys.argv[2:])))
    else:
        bench_observers()
        bench_magnitudes()
        bench_blocks()
        bench_stream()
        bench_devices()
        bench_growth()
        bench_starts()
        write()
