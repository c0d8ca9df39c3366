"""Measure a GPU beside the CPU of its machine, in one run, and write docs/gpu.md.

.venv/bin/python benchmarks/gpu.py [page]
"""

import os
import platform
import sys
import time
import warnings
from importlib.metadata import version
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pymc as pm
import pytensor
from models import logistic
from timing import time_in_turn

import pm_psyphy as psy

PAGE = Path(__file__).parents[1] / "docs" / "gpu.md"
QUIET = {"progressbar": False}
DEVICES = "cpu", "gpu"
# So many multiply-adds follow each other for every number, so that memory does not count.
LONG = 500
rows: list[tuple[str, str, str, str, str]] = []


def report(what: str, seconds: dict[str, float], share: str = "") -> None:
    row = what, *(f"{seconds[d]:.3g} s" for d in DEVICES), f"{seconds['cpu'] / seconds['gpu']:.1f} x", share
    rows.append(row)
    print(*row, sep=" | ", flush=True)


def measure_bandwidth() -> float:
    """Return how many bytes a second the GPU reads, of an array that is summed up."""
    with jax.default_device(jax.devices("gpu")[0]):
        numbers, add = jnp.ones(500_000_000, jnp.float32), jax.jit(jnp.sum)
        return numbers.nbytes / time_in_turn({"": lambda: add(numbers)}, 15)[""]


def measure_arithmetic() -> float:
    """Return how many float64 operations a second the GPU does, of multiply-adds that nothing else waits for."""
    with jax.default_device(jax.devices("gpu")[0]):
        numbers = jnp.linspace(0.1, 0.9, 50_000_000)

        @jax.jit
        def run(x):
            y = x
            for _ in range(LONG):
                y = y * x + 0.1
            return y

        return 2 * LONG * numbers.size / time_in_turn({"": lambda: run(numbers)}, 9)[""]


def fit_twice(model: pm.Model, **settings) -> tuple[dict[str, float], dict[str, psy.MAPResult]]:
    """Return the seconds of the second fit on each device, and the fits."""
    seconds, fits = {}, {}
    for device in DEVICES:
        psy.find_map(model, device=device, **QUIET, **settings)
        begun = time.perf_counter()
        fits[device] = psy.find_map(model, device=device, **QUIET, **settings)
        seconds[device] = time.perf_counter() - begun
    return seconds, fits


def declare_oddity(n_trials: int, basis_degree: int) -> pm.Model:
    rng = np.random.default_rng(0)
    truth = psy.WishartProcess("truth", input_dim=2, basis_degree=1, weights=0.1 * rng.normal(size=(2, 2, 2, 3)))
    reference = rng.uniform(-0.8, 0.8, (n_trials, 2))
    comparison = psy.place_comparisons(truth, reference, rng.uniform(0.5, 4, n_trials), random_seed=1)
    trials = psy.simulate_trials(truth, reference, comparison, random_seed=2)
    with pm.Model(coords={"trial": range(n_trials)}) as model:
        field = psy.WishartProcess("W", input_dim=2, basis_degree=basis_degree)
        psy.Oddity("y", field, trials.reference, trials.comparison, observed=trials.response, dims="trial")
    return model


def bench_field(operations: float) -> None:
    model = declare_oddity(1_000_000, basis_degree=4)
    seconds, fits, gradient = {}, {}, {}
    for device in DEVICES:
        fits[device] = psy.find_map(model, device=device, steps=20, **QUIET)
        gradient[device] = time_in_turn({"": lambda d=device: evaluate(fits[d])}, 3)[""]
        begun = time.perf_counter()
        fits[device] = psy.find_map(model, device=device, steps=20, **QUIET)
        seconds[device] = time.perf_counter() - begun
    np.testing.assert_allclose(fits["gpu"].loss, fits["cpu"].loss, rtol=1e-6)
    share = count_operations() / gradient["gpu"] / operations
    name = "exact oddity, 2 dimensions, 1,000,000 trials, 150 weights"
    report(f"{name}: value and gradient", gradient, f"{share:.0%} of its float64 arithmetic, as XLA counts operations")
    report(f"{name}: 20 steps of L-BFGS, called again", seconds)


def count_operations() -> float:
    """Return XLA's count for 1,000,000 trials, from so few that they are no loop, of which it would count one turn."""
    few = psy.find_map(declare_oddity(50_000, basis_degree=4), device="gpu", steps=1, **QUIET).objective
    compiled = few.program.jitted_value_and_grad.lower(few.start, few.data, None).compile()
    return 20 * compiled.cost_analysis()["flops"]


def evaluate(fit: psy.MAPResult) -> object:
    return fit.objective.value_and_grad(fit.objective.start)


def bench_bootstrap() -> None:
    model = declare_oddity(6_000, basis_degree=4)
    seconds = {}
    for device in DEVICES:
        fit = psy.find_map(model, device=device, **QUIET)
        for _ in range(2):
            begun = time.perf_counter()
            psy.bootstrap(fit, n_refits=120, random_seed=1, **QUIET)
            seconds[device] = time.perf_counter() - begun
    report("120 bootstrap refits of 6,000 oddity trials, 150 weights, called again", seconds)


def bench_logistic(bandwidth: float) -> None:
    with pytensor.config.change_flags(floatX="float32"):
        model = logistic(n=10_000_000, dtype="float32").build()
        seconds, fits = fit_twice(model)
        gradient = {d: time_in_turn({"": lambda d=d: evaluate(fits[d])}, 9)[""] for d in DEVICES}
    # Once for the log-odds and once for the gradient.
    needed = 2 * fits["gpu"].objective.data["x"].nbytes
    share = needed / gradient["gpu"] / bandwidth
    name = "logistic regression, 10,000,000 x 50, float32"
    report(f"{name}: value and gradient", gradient, f"{share:.0%} of its bandwidth, if it reads x twice")
    report(f"{name}: a fit, {fits['gpu'].n_steps} steps, called again", seconds)


def write(page: Path, bandwidth: float, operations: float) -> None:
    lines = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    name, cores = jax.devices("gpu")[0].device_kind, f"{os.cpu_count()} cores ({platform.machine()})"
    page.write_text(f"""# Benchmarks on a GPU

Written by `make bench-gpu`, all figures from one run: {name} beside {cores}, JAX {version("jax")}, \
PyMC {version("pymc")}, Python {platform.python_version()}.

| what | CPU | GPU | ratio | share of what the GPU can do |
| --- | --- | --- | --- | --- |
{lines}

What the GPU can do was measured in the same run: it reads {bandwidth / 1e12:.2f} TB a second (the sum of 2 GB), and \
does {operations / 1e12:.1f} x 10¹² float64 operations a second ({LONG:,} multiply-adds in a row).
""")


def main() -> None:
    warnings.simplefilter("ignore")
    if jax.default_backend() != "gpu":
        sys.exit('JAX sees no GPU here. Install it with pip install ".[cuda13]" (or cuda12) on a machine that has one.')
    jax.config.update("jax_enable_x64", True)
    bandwidth, operations = measure_bandwidth(), measure_arithmetic()
    print(f"{bandwidth / 1e12:.2f} TB/s, {operations / 1e12:.1f} TFLOPS", flush=True)
    bench_field(operations)
    bench_bootstrap()
    bench_logistic(bandwidth)
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else PAGE, bandwidth, operations)


if __name__ == "__main__":
    main()
