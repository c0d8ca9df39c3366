"""Measure the package beside its peers, in one run, and write docs/benchmarks.md."""

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pymc as pm
from models import CASES
from rich.console import Console
from rich.progress import track
from timing import time_in_turn

import pm_psyphy as psy
from pm_psyphy.optimizing.compiled_loop import Settings, get_loop, run_chunks
from pm_psyphy.optimizing.optimizers import make_transformation

ROOT = Path(__file__).parents[1]
PEERS = ROOT / ".venv-peers" / "bin" / "python"

type Row = tuple[str, str, str]


def show(seconds: float) -> str:
    for unit, scale in (("s", 1), ("ms", 1e3), ("us", 1e6)):
        if seconds * scale >= 1 or unit == "us":
            return f"{seconds * scale:.3g} {unit}"
    raise AssertionError


def compare(theirs: float, ours: float) -> str:
    return f"{theirs / ours:.1f} x faster" if theirs >= ours else f"{ours / theirs:.1f} x slower"


def judge(ratio: float, target: float, *, at_least: bool) -> str:
    met = ratio >= target if at_least else ratio <= target
    return f"{'≥' if at_least else '≤'} {target:g}{'' if met else ' (missed)'}"


def bench_warm_fits() -> list[Row]:
    targets = dict(zip(CASES, (100, 15, 50), strict=True))
    rows = []
    for name, build in CASES.items():
        model = build().build()
        ours = psy.find_map(model, progressbar=False)
        times = time_in_turn({"ours": lambda model=model: psy.find_map(model, progressbar=False).loss}, 9)
        repeats, theirs, point = (3, [], {}) if "logistic" not in name else (1, [], {})
        pm.find_MAP(model=model, progressbar=False)
        for _ in range(repeats):
            begun = time.perf_counter()
            point = pm.find_MAP(model=model, progressbar=False)
            theirs.append(time.perf_counter() - begun)
        logp = model.compile_logp(jacobian=False, mode="FAST_COMPILE")
        loss = -float(logp({v.name: point[v.name] for v in model.value_vars}))
        seconds = float(np.median(theirs))
        ratio = seconds / times["ours"]
        verdict = judge(ratio, targets[name], at_least=True)
        rows.append((
            f"{name}: pm_psyphy {show(times['ours'])}, pm.find_MAP {show(seconds)}; loss {ours.loss:.8g}, {loss:.8g}",
            compare(seconds, times["ours"]), verdict,
        ))  # fmt: skip
    return rows


def bench_cold_fits() -> list[Row]:
    rows = []
    for name in CASES:
        for cache in ("empty", "full"):
            methods = ("pm_psyphy", "pm.find_MAP", "pymc_extras")
            seconds = {method: _run_cold(name, method, cache) for method in methods}
            ours = seconds["pm_psyphy"]
            against_pymc, against_extras = seconds["pm.find_MAP"] / ours, seconds["pymc_extras"] / ours
            verdict = f"{judge(against_pymc, 3, at_least=True)}; {judge(against_extras, 1, at_least=True)}"
            listed = ", ".join(f"{method} {show(s)}" for method, s in seconds.items())
            rows.append((
                f"{name}, PyTensor's disk cache {cache}: {listed}",
                "; ".join(compare(seconds[method], ours) for method in methods[1:]), verdict,
            ))  # fmt: skip
    return rows


def _run_cold(case: str, method: str, cache: str, repeats: int = 3) -> float:
    """Return the median seconds of one fit in a new process, with an empty or a filled cache of PyTensor's."""
    seconds = []
    with tempfile.TemporaryDirectory() as shared:
        for i in range(repeats + (cache == "full")):
            with tempfile.TemporaryDirectory() as fresh:
                folder = shared if cache == "full" else fresh
                environment = os.environ | {"PYTENSOR_FLAGS": f"base_compiledir={folder}", "NUMBA_CACHE_DIR": folder}
                command = [str(PEERS), "cold.py", case, method]
                done = subprocess.run(
                    command, cwd=ROOT / "benchmarks", env=environment, capture_output=True, text=True, check=True
                )
            if i >= (cache == "full"):
                seconds.append(json.loads(done.stdout.splitlines()[-1])["seconds"])
    return float(np.median(seconds))


def bench_gradients() -> list[Row]:
    rows = []
    for name, build in CASES.items():
        case = build()
        objective = psy.compile_objective(case.build())
        data = {key: jnp.asarray(value) for key, value in case.data.items()}
        by_hand = jax.jit(jax.value_and_grad(case.by_hand))
        start = {key: jnp.asarray(value) for key, value in objective.start.items()}
        # PyTensor takes the logarithm of an integer sigma in float32.
        np.testing.assert_allclose(by_hand(start, data)[0], objective.value(start), rtol=1e-8)
        compiled = objective.program.jitted_value_and_grad
        times = time_in_turn(
            {
                "ours": lambda f=compiled, s=start, o=objective: f(s, o.data, None),
                "by hand": lambda f=by_hand, s=start, d=data: f(s, d),
            },
            51 if "logistic" in name else 301,
        )
        ratio = times["ours"] / times["by hand"]
        rows.append((
            f"{name}: pm_psyphy {show(times['ours'])}, by hand {show(times['by hand'])}",
            f"{ratio:.2f} x the time", judge(ratio, 1.1, at_least=False),
        ))  # fmt: skip
    return rows


def bench_steps() -> list[Row]:
    rows = []
    counts = dict(zip(CASES, (50_000, 400, 60), strict=True))
    for name, build in CASES.items():
        objective = psy.compile_objective(build().build())
        for optimizer, (by_hand, rate) in {"SGD": (optax.sgd, 1e-6), "Adam": (optax.adam, 1e-4)}.items():
            ours = make_transformation(optimizer, stochastic=False, learning_rate=rate)
            times = _time_steps(objective, ours, by_hand(rate), counts[name])
            ratio = times["ours"] / times["scan"]
            rows.append((
                f"{name}, {optimizer}: pm_psyphy {show(times['ours'])}, lax.scan {show(times['scan'])} a step",
                f"{ratio:.2f} x the time", judge(ratio, 1.05, at_least=False),
            ))  # fmt: skip
    return rows


def _time_steps(objective: psy.Objective, ours, by_hand, steps: int) -> dict[str, float]:
    @jax.jit
    def scan(params, objective):
        def body(carry, _):
            params, state = carry
            loss, grads = objective.program.value_and_grad(params, objective.data, None)
            updates, state = by_hand.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), loss

        return jax.lax.scan(body, (params, by_hand.init(params)), length=steps)

    starts = {name: value[None] for name, value in objective.start.items()}
    loop, search, _ = get_loop(objective.program, ours, starts, objective.data)
    # The loop evaluates the loss once more than it steps.
    settings = Settings(steps=steps - 1, tolerance=-1.0, log_every=1)

    def search_ours():
        return [state.best_loss for state, _, _ in run_chunks(loop, search, objective.data, 0, settings)]

    times = time_in_turn({"ours": search_ours, "scan": lambda: scan(objective.start, objective)}, 15)
    return {name: seconds / steps for name, seconds in times.items()}


def bench_starts() -> list[Row]:
    model = CASES["eight schools"]().build()
    times = time_in_turn(
        {
            "one": lambda: psy.find_map(model, progressbar=False, random_seed=1).loss,
            "many": lambda: psy.find_map(model, starts=32, progressbar=False, random_seed=1).loss,
        },
        15,
    )
    objective = psy.compile_objective(model)
    transformation = make_transformation("lbfgs", stochastic=False)
    rng = np.random.default_rng(0)
    loops = {}
    for n in (1, 32):
        starts = {k: v[None] + (n > 1) * rng.uniform(-1, 1, (n, *np.shape(v))) for k, v in objective.start.items()}
        loops[n] = get_loop(objective.program, transformation, starts, objective.data)[:2]

    def search(n):
        settings = Settings(steps=10_000, tolerance=1.5e-8, log_every=1)
        return [s.best_loss for s, _, _ in run_chunks(*loops[n], objective.data, 0, settings)]

    loop_times = time_in_turn({"one": lambda: search(1), "many": lambda: search(32)}, 31)
    rows = []
    for label, t in {"find_map": times, "the compiled search alone": loop_times}.items():
        ratio = t["many"] / t["one"]
        rows.append((
            f"eight schools, {label}: 1 start {show(t['one'])}, 32 starts {show(t['many'])}",
            f"{ratio:.1f} x the time", judge(ratio, 12, at_least=False),
        ))  # fmt: skip
    return rows


def bench_import() -> list[Row]:
    script = "import time, pymc, jax, optax; t = time.perf_counter(); import pm_psyphy; print(time.perf_counter() - t)"
    command = [sys.executable, "-c", script]
    seconds = [float(subprocess.run(command, capture_output=True, text=True, check=True).stdout) for _ in range(5)]
    median = float(np.median(seconds))
    return [("import pm_psyphy, after pymc, jax and optax", f"{median:.2f} s", judge(median, 0.5, at_least=False))]


SECTIONS: dict[str, tuple[str, Callable[[], list[Row]]]] = {
    "A whole fit, warm": ("The second fit of the same model, L-BFGS on both sides.", bench_warm_fits),
    "A whole fit, cold": (
        "From the model to its answer in a new process, imports excluded; against `pm.find_MAP` and "
        "`pymc_extras.find_MAP` with its JAX gradient. PyTensor keeps compiled code on disk, JAX does not here.",
        bench_cold_fits,
    ),
    "Value and gradient": ("One call, against the same density written by hand in JAX.", bench_gradients),
    "One step": ("Of the loop, against `lax.scan` over the same objective and optax transformation.", bench_steps),
    "Several starts": ("All at once, against one.", bench_starts),
    "Import": ("What it adds.", bench_import),
}


def main() -> None:
    warnings.simplefilter("ignore")
    lines = [
        "# Benchmarks", "",
        "How long a fit takes beside PyMC's own, and how much the package adds to JAX written by hand. `make bench` "
        "measured all of this in one run and wrote this page. Each ratio is of medians taken in turn.", "",
        f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, "
        + ", ".join(f"{name} {version(name)}" for name in ("pymc", "pytensor", "jax", "optax", "numpy"))
        + f"; device {jax.devices()[0].device_kind}.", "",
    ]  # fmt: skip
    for title, (what, measure) in track(SECTIONS.items(), description="measuring"):
        rows = measure()
        if rows:
            lines += [f"## {title}", "", what, "", "| what | found | target |", "| --- | --- | --- |"]
            lines += [f"| {' | '.join(row)} |" for row in rows]
            lines.append("")
    page = "\n".join(lines)
    (ROOT / "docs" / "benchmarks.md").write_text(page)
    Console().print(page, markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
