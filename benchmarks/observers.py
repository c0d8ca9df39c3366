"""Measure the Wishart process model beside psyphy, in one run of the peers' environment, and write docs/observers.md.

.venv-peers/bin/python benchmarks/observers.py
"""

import os
import platform
import resource
import subprocess
import sys
import time
import warnings
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pymc as pm
import pytensor
from psyphy.data.dataset import ResponseData
from psyphy.model import WPPM, Prior
from psyphy.model.likelihood import OddityTask, OddityTaskConfig
from psyphy.model.noise import GaussianNoise
from timing import time_in_turn

import pm_psyphy as psy
from pm_psyphy.common.row_function import RowFunction
from pm_psyphy.compiling.row_loops import run_rows
from pm_psyphy.native.kernels import SWITCH
from pm_psyphy.psychophysics import oddity_plane
from pm_psyphy.psychophysics.covariances import draw_examples
from pm_psyphy.psychophysics.oddity_line import line_op
from pm_psyphy.psychophysics.oddity_plane import plane_op
from pm_psyphy.psychophysics.oddity_space import space_op

DIAG_TERM, STEPS = 1e-4, 150
rows: list[tuple[str, str, str]] = []


def report(what: str, found: str, target: str = "") -> None:
    rows.append((what, found, target))
    print(what, "|", found, "|", target, flush=True)


def simulate(n: int, seed: int = 0, **settings) -> psy.Trials:
    with pm.Model() as prior:
        psy.WishartProcess("W", input_dim=2, **settings)
    truth = psy.WishartProcess("truth", input_dim=2, weights=pm.draw(prior["W"], random_seed=4), diag_term=DIAG_TERM)
    rng = np.random.default_rng(seed)
    reference = rng.uniform(-0.75, 0.75, (n, 2))
    comparison = psy.place_comparisons(truth, reference, rng.uniform(0.5, 4, n), random_seed=rng)
    return psy.simulate_trials(truth, reference, comparison, random_seed=rng)


def build(trials: psy.Trials, **settings) -> tuple[pm.Model, psy.WishartProcess]:
    with pm.Model(coords={"trial": range(len(trials.response))}) as model:
        field = psy.WishartProcess("W", input_dim=2, diag_term=DIAG_TERM, **settings)
        stimuli = pm.Data("reference", trials.reference), pm.Data("comparison", trials.comparison)
        psy.Oddity("correct", field, *stimuli, observed=pm.Data("response", trials.response), dims="trial")
    return model, field


def bench_psyphy() -> None:
    trials = simulate(2000)
    with pytensor.config.change_flags(floatX="float32"):
        model, _ = build(trials)
        ours = psy.compile_objective(model)
        start = {name: jnp.asarray(value) for name, value in ours.start.items()}
    data = ResponseData.from_arrays(np.stack([trials.reference, trials.comparison], axis=1), trials.response)
    data = data.to_trial_data()
    functions = {"ours": lambda: ours.value_and_grad(start)}
    weights = {"W": jnp.asarray(psy_weights(ours), jnp.float32)}
    for draws in (500, 2000):
        task = OddityTask(config=OddityTaskConfig(num_samples=draws, bandwidth=1e-2))
        theirs = WPPM(
            input_dim=2, prior=Prior(input_dim=2, basis_degree=4, extra_embedding_dims=1), likelihood=task,
            noise=GaussianNoise(), diag_term=DIAG_TERM,
        )  # fmt: skip
        gradient = jax.jit(jax.value_and_grad(lambda p, key, m=theirs: -m.log_posterior_from_data(p, data, key=key)))
        functions[f"psyphy, {draws} draws"] = lambda g=gradient: g(weights, jax.random.key(0))
    times = time_in_turn(functions, 3)
    for draws, target in ((500, 500), (2000, 400)):
        seconds = times[f"psyphy, {draws} draws"]
        ratio = seconds / times["ours"]
        report(
            f"value and gradient, 2,000 trials, float32: pm_psyphy {times['ours'] * 1e3:.2f} ms, "
            f"psyphy with {draws} draws {seconds * 1e3:.0f} ms",
            f"{ratio:.0f} x faster",
            f"≥ {target}" + ("" if ratio >= target else " (missed)"),
        )


def psy_weights(objective: psy.Objective) -> np.ndarray:
    return np.asarray(objective.constrain(objective.start)["W"])


def bench_by_hand() -> None:
    """Time the graph beside the same formulas written in jax.numpy and differentiated by JAX."""
    for n in (2_000, 20_000):
        trials = simulate(n)
        model, _ = build(trials)
        ours = psy.compile_objective(model)
        start = {name: jnp.asarray(value) for name, value in ours.start.items()}
        by_hand = jax.jit(jax.value_and_grad(write_by_hand(trials)))
        np.testing.assert_allclose(by_hand(start)[0], ours.value(start), rtol=1e-8)
        np.testing.assert_allclose(by_hand(start)[1]["W_z"], ours.value_and_grad(start)[1]["W_z"], rtol=1e-5, atol=1e-6)
        times = time_in_turn({"ours": partial(ours.value_and_grad, start), "by hand": partial(by_hand, start)}, 15)
        ratio = times["ours"] / times["by hand"]
        report(
            f"value and gradient, {n:,} trials, float64: pm_psyphy {times['ours'] * 1e3:.1f} ms, "
            f"the same formulas in jax.numpy {times['by hand'] * 1e3:.1f} ms",
            f"{ratio:.2f} x the time",
            "≤ 1.2" + ("" if ratio <= 1.2 else " (missed)"),
        )


def write_by_hand(trials: psy.Trials):
    degrees = np.add.outer(np.arange(5), np.arange(5))[..., None, None]
    sd = np.sqrt(4e-3 * 0.4**degrees)
    stimuli = trials.reference, trials.comparison
    bases = [np.polynomial.chebyshev.chebvander2d(*x.T, [4, 4]).reshape(-1, 5, 5) for x in stimuli]
    numpy = SimpleNamespace(**vars(jnp) | {"sqr": jnp.square, "switch": jnp.where})

    def loss(params):
        weights = params["W_z"] * sd
        roots = [jnp.einsum("nab,abij->nij", basis, weights) for basis in bases]
        a, b = (u @ jnp.swapaxes(u, 1, 2) + DIAG_TERM * jnp.eye(2) for u in roots)
        x = (trials.comparison - trials.reference).T
        entries = *x, *(s[:, i, j] for s in (a, b) for i, j in ((0, 0), (0, 1), (1, 1)))
        with mock.patch.object(oddity_plane, "pt", numpy):
            whitened, offset = oddity_plane._whiten_plane(*entries)
            by_w = oddity_plane._place_directions(8, "float64", *whitened)
            by_u = oddity_plane._place_angles(7, "float64", *whitened[-2:])
            log_q = oddity_plane._integrate_plane("float64", whitened[0], *by_w, *by_u)[0] + offset
        log_p = jnp.where(trials.response, jnp.log(-jnp.expm1(log_q)), log_q)
        return jnp.sum(params["W_z"] ** 2 / 2 + 0.5 * np.log(2 * np.pi)) - jnp.sum(log_p)

    return loss


def time_fits(trials: psy.Trials, **settings) -> tuple[psy.MAPResult, float, float]:
    """Return a fit, the seconds of the first one of a new model, and of the search when it is called again."""
    model, _ = build(trials, **settings)
    begun = time.perf_counter()
    psy.find_map(model, progressbar=False)
    cold = time.perf_counter() - begun
    fits = [psy.find_map(model, progressbar=False) for _ in range(3)]
    return fits[0], cold, float(np.median([fit.run_seconds for fit in fits]))


def bench_fits() -> None:
    trials = simulate(2000)
    fit, cold, warm = time_fits(trials)
    with mock.patch.dict(os.environ, {SWITCH: "0"}):
        before, cold_before, warm_before = time_fits(trials)
    ratio = warm_before / warm
    reached = f"loss {fit.loss:.2f}, {fit.n_steps} steps; by XLA {before.loss:.2f}, {before.n_steps}"
    report(
        f"whole fit, 2,000 trials: {reached}",
        f"cold {cold:.1f} s, warm {warm:.3f} s; by XLA {cold_before:.1f} s and {warm_before:.3f} s, {ratio:.1f} x",
        "≥ 2.5 x" + ("" if ratio >= 2.5 else " (missed)"),
    )
    theirs, seconds = fit_by_psyphy(trials, fit.objective)
    ratio = seconds / warm
    report(
        f"psyphy's MAPOptimizer, {STEPS} steps with 500 draws: {seconds:.0f} s without compilation, to an exact loss "
        f"that is {theirs - fit.loss:.1f} higher",
        f"{ratio:.0f} x the time of our warm fit, and not there yet",
        "≥ 300" + ("" if ratio >= 300 else " (not shown by so few steps)"),
    )


def bench_hong() -> None:
    hong = {"variance_scale": 3e-4}
    fit, _, warm = time_fits(simulate(6000, **hong), **hong)
    missed = "" if warm < 0.8 else " (missed)"
    report(f"6,000 trials at Hong et al.'s settings, {fit.n_steps} steps", f"{warm:.2f} s", f"< 0.8 s{missed}")
    seconds = []
    for _ in range(2):
        begun = time.perf_counter()
        psy.bootstrap(fit, n_refits=120, dim="trial", random_seed=1, progressbar=False)
        seconds.append(time.perf_counter() - begun)
    report(
        "120 bootstrap refits of these, first and again",
        f"{seconds[0]:.1f} s, {seconds[1]:.1f} s",
        "< 12 s" + ("" if seconds[0] < 12 else " (missed)"),
    )


def bench_space() -> None:
    rng = np.random.default_rng(0)
    truth = psy.WishartProcess("truth", input_dim=3, basis_degree=1, weights=0.1 * rng.normal(size=(2, 2, 2, 3, 4)))
    reference = rng.uniform(-0.75, 0.75, (20_000, 3))
    comparison = psy.place_comparisons(truth, reference, rng.uniform(0.5, 4, 20_000), random_seed=1)
    trials = psy.simulate_trials(truth, reference, comparison, random_seed=2)
    with pm.Model() as model:
        field = psy.WishartProcess("W", input_dim=3, basis_degree=2)
        psy.Oddity("correct", field, trials.reference, trials.comparison, observed=trials.response)
    begun = time.perf_counter()
    fit = psy.find_map(model, progressbar=False)
    seconds = time.perf_counter() - begun
    report(
        f"20,000 trials in 3 dimensions, compiled and fitted, {fit.n_steps} steps, {fit.status}",
        f"{seconds:.1f} s",
        "< 20 s" + ("" if seconds < 20 else " (missed)"),
    )


def bench_many_trials() -> None:
    # First of all: the peak of memory is that of the process so far.
    model, _ = build(simulate(100_000))
    begun = time.perf_counter()
    fit = psy.find_map(model, progressbar=False)
    seconds = time.perf_counter() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    report(
        f"100,000 trials, compiled and fitted, {fit.n_steps} steps",
        f"{seconds:.0f} s, peak of this process {peak:.2f} GB",
        "< 25 s" + ("" if seconds < 25 else " (missed)") + ", < 1 GB" + ("" if peak < 1 else " (missed)"),
    )


def fit_by_psyphy(trials: psy.Trials, objective: psy.Objective) -> tuple[float, float]:
    """Return the exact loss that psyphy's optimiser reaches from our start, and its seconds without compilation."""
    from psyphy.inference import MAPOptimizer

    task = OddityTask(config=OddityTaskConfig(num_samples=500, bandwidth=1e-2))
    model = WPPM(
        input_dim=2, prior=Prior(input_dim=2, basis_degree=4, extra_embedding_dims=1), likelihood=task,
        noise=GaussianNoise(), diag_term=DIAG_TERM,
    )  # fmt: skip
    data = ResponseData.from_arrays(np.stack([trials.reference, trials.comparison], axis=1), trials.response)
    weights = jnp.asarray(psy_weights(objective), jnp.float32)
    seconds = {}
    result = None
    for steps in (2, STEPS + 2):
        begun = time.perf_counter()
        optimizer = MAPOptimizer(steps=steps, learning_rate=5e-4)
        result = optimizer.fit(model, data, init_params={"W": weights}, seed=0)
        seconds[steps] = time.perf_counter() - begun
    scale = objective.start["W_z"] / psy_weights(objective)
    found = float(objective.value({"W_z": np.asarray(result.params["W"], float) * scale}))
    return found, seconds[STEPS + 2] - seconds[2]


def make_op(d: int) -> RowFunction:
    return {1: lambda: line_op(16, "float64"), 2: lambda: plane_op(8, 7, "float64"),
        3: lambda: space_op(3, 8, 14, "float64")}[d]()  # fmt: skip


def time_compilation(d: int) -> float:
    """Return the seconds in which a new process compiles the machine code and compares it with NumPy."""
    script = f"""
import time
from observers import draw_examples, make_op
op = make_op({d})
outputs, rows = [op.value, *op.derivatives], draw_examples({d}, "float64")
begun = time.perf_counter()
assert op.find_kernel(len(outputs)) is not None
print(time.perf_counter() - begun)
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


def bench_rows() -> None:
    """Time the likelihood alone, by XLA and by machine code, and compare their numbers."""
    for d, target in ((1, 0.4), (2, 0.6), (3, 3.0)):
        op, rows_of = make_op(d), draw_examples(d, "float64")
        outputs, many = [op.value, *op.derivatives], [np.resize(v, 20_000) for v in rows_of]
        kernel, compiled = op.find_kernel(len(outputs)), time_compilation(d)
        shared, placed = jax.jit(kernel.call_by_jax), list(map(jnp.asarray, many))
        with mock.patch.dict(os.environ, {SWITCH: "0"}):
            by_xla = jax.jit(run_rows(op, only_value=False))
            exact, found = by_xla(*rows_of), kernel(*rows_of)
            jax.block_until_ready(by_xla(*placed))
        times = time_in_turn(
            {"XLA": partial(by_xla, *placed), "one": partial(kernel, *many), "all": partial(shared, *placed)}, 15
        )
        xla, one, together = (seconds / 20_000 * 1e6 for seconds in times.values())
        gain = one / together
        report(
            f"the oddity likelihood alone, D = {d}, value and derivatives at 20,000 rows, a row",
            f"XLA {xla:.2f} us; machine code {one:.3f} us on one core, {together:.3f} us on all ({gain:.1f} x)",
            f"≤ {target} us{'' if one <= target else ' (missed)'}, ≥ 1.6 x{'' if gain >= 1.6 else ' (missed)'}",
        )
        of_value = float(np.max(np.abs(np.asarray(found[0]) / np.asarray(exact[0]) - 1)))
        slopes = zip(found[1:], exact[1:], strict=True)
        of_slopes = max(float(np.max(np.abs(f - e)) / np.max(np.abs(e))) for f, e in slopes)
        met = of_value < 1e-12 and of_slopes < 1e-10
        report(
            f"the same, D = {d}: compiled and compared with NumPy in {compiled:.2f} s; errors against XLA, d' to 15",
            f"{of_value:.0e} of the value, {of_slopes:.0e} of the largest derivative",
            f"≤ 0.5 s{'' if compiled <= 0.5 else ' (missed)'}; 1e-12, 1e-10{'' if met else ' (missed)'}",
        )


def bench_contours() -> None:
    with pm.Model() as prior:
        psy.WishartProcess("W", input_dim=2)
    field = psy.WishartProcess("truth", input_dim=2, weights=pm.draw(prior["W"], random_seed=4))
    grid = np.stack(np.meshgrid(*[np.linspace(-0.7, 0.7, 7)] * 2), axis=-1).reshape(-1, 2)
    seconds = time_in_turn({"": lambda: psy.threshold_contours(None, field, grid).radii}, 5)[""]
    contours = psy.threshold_contours(None, field, grid)
    found = np.isfinite(contours.radii)
    starts = np.broadcast_to(grid[:, None], contours.points.shape)[found]
    p = psy.tasks.oddity_probability(field, starts, contours.points[found]).eval(mode="FAST_COMPILE")
    report(
        f"threshold contours, 49 references x 16 directions, largest error of P {np.max(np.abs(p - 2 / 3)):.0e}",
        f"{seconds:.3f} s",
        "< 0.1 s" + ("" if seconds < 0.1 else " (missed)"),
    )


def write() -> None:
    lines = [
        "# Benchmarks of the observer models",
        "",
        "Written by `.venv-peers/bin/python benchmarks/observers.py`, all figures from one run: psyphy "
        f"{version('psyphy')}, JAX {jax.__version__}, PyMC {pm.__version__}, Python {platform.python_version()}, "
        f"{jax.devices()[0].platform.upper()}.",
        "",
        "| what | found | target |",
        "| --- | --- | --- |",
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
    ]
    (Path(__file__).parents[1] / "docs" / "observers.md").write_text("\n".join(lines))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    for bench in (
        bench_many_trials, bench_contours, bench_rows, bench_by_hand, bench_psyphy, bench_fits, bench_hong, bench_space
    ):  # fmt: skip
        bench()
    write()
