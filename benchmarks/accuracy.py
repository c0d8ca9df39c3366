"""Write docs/oddity_accuracy.md, the errors of the oddity likelihood's rules against their cost."""

import time
from pathlib import Path

import jax
import numpy as np
import pytensor

from pm_psyphy.compiling.jax_linker import translate
from pm_psyphy.psychophysics.oddity import log_incorrect
from pm_psyphy.psychophysics.tensor import pt

CHOICES = {
    1: [(8,), (16,), (32,)],
    2: [(6, 5), (8, 6), (8, 7), (12, 8), (16, 12), (24, 16)],
    3: [(6, 10), (8, 14), (12, 20), (16, 28)],
}
FINE = {1: (200,), 2: (96, 64), 3: (48, 72)}
DEFAULTS = {(16,), (8, 7), (8, 14)}
DISTANCES = (2.0, 4.0, 8.0, 12.0)
N = 300

jax.config.update("jax_enable_x64", True)


def compile_rule(d, nodes):
    x, s0, s1 = pt.matrix(shape=(None, d)), *(pt.tensor3(shape=(None, d, d)) for _ in range(2))
    value = log_incorrect(x, s0, s1, nodes)
    grads = pytensor.grad(value.sum(), [x, s0, s1])
    values, both = (jax.jit(translate([x, s0, s1], outputs)) for outputs in ([value], [value, *grads]))
    return lambda *a: np.asarray(values(*a)[0]), both


def draw(rng, d, distance, n):
    """Return covariances that differ by up to a half, and differences at a Mahalanobis distance in the reference's."""
    root = rng.normal(size=(n, d, d)) + 1.5 * np.eye(d)
    rotation = np.linalg.qr(rng.normal(size=(n, d, d)))[0]
    factors = np.exp(rng.uniform(-1, 1, (n, d)) * np.log(1.5))
    s0 = root @ root.transpose(0, 2, 1)
    s1 = root @ np.einsum("nij,nj,nkj->nik", rotation, factors, rotation) @ root.transpose(0, 2, 1)
    direction = rng.normal(size=(n, d))
    direction *= distance / np.linalg.norm(direction, axis=1, keepdims=True)
    return np.einsum("nij,nj->ni", np.linalg.cholesky(s0), direction), s0, s1


lines = [
    "| D | nodes | " + " | ".join(f"error at d' = {d:g}" for d in DISTANCES) + " | cost, of the default's |",
    "| --- | --- |" + " --- |" * (len(DISTANCES) + 1),
]
for d, choices in CHOICES.items():
    rng = np.random.default_rng(6)
    cases = [draw(rng, d, distance, N) for distance in DISTANCES]
    fine = compile_rule(d, FINE[d])[0]
    exact = [fine(*case) for case in cases]
    many, seconds, errors = draw(rng, d, 2.0, 20_000), {}, {}
    for nodes in choices:
        values, both = compile_rule(d, nodes)
        errors[nodes] = [np.quantile(np.abs(values(*c) - e), 0.95) for c, e in zip(cases, exact, strict=True)]
        times = []
        for _ in range(6):
            begun = time.perf_counter()
            jax.block_until_ready(both(*many))
            times.append(time.perf_counter() - begun)
        seconds[nodes] = min(times[1:])
    default = next(nodes for nodes in choices if nodes in DEFAULTS)
    for nodes in choices:
        name = " x ".join(map(str, nodes)) + (", the default" if nodes == default else "")
        found = " | ".join(f"{error:.0e}" for error in errors[nodes])
        lines.append(f"| {d} | {name} | {found} | {seconds[nodes] / seconds[default]:.2f} |")
        print(lines[-1], flush=True)
(Path(__file__).parents[1] / "docs" / "oddity_accuracy.md").write_text("\n".join(lines) + "\n")
