"""Fit the polynomial of `oddity_fitted` to the exact likelihood; write its coefficients and docs/oddity_fitted.md.

.venv/bin/python benchmarks/fit_oddity.py [--keep]

With ``--keep`` the coefficients stay as they are, and only the page is written.
"""

import sys
import time
from pathlib import Path

import numpy as np
from calibration import draw_fields

import pm_psyphy as psy
from pm_psyphy.common.row_function import RowFunction, run_by_numpy
from pm_psyphy.compiling.nearby_rows import approximate_rows
from pm_psyphy.psychophysics.oddity_fitted import (
    COEFFICIENTS,
    find_invariants,
    find_variables,
    fitted_plane_op,
    list_degrees,
)
from pm_psyphy.psychophysics.oddity_plane import plane_op
from pm_psyphy.results.draws import over_draws

DEGREES, DECAYS = (1, 2, 4), (0.2, 0.4, 0.7)
# Fields of each degree and decay rate, and trials of each.
N_FIELDS, N_TRIALS = 90, 100
# Points that cover all covariances, and what each counts for beside a trial.
N_COVER, COVER_COUNTS = 30_000, 0.02
FINE = plane_op(24, 20, "float64")
# Of fields that are fitted, by whose posterior the difference of both losses is judged.
LONG, DRAWS = 6000, 200
PAGE = Path(__file__).parents[1] / "docs" / "oddity_fitted.md"


def run(op: RowFunction, rows: list[np.ndarray], n_outputs: int = 1) -> list[np.ndarray]:
    storage = [[None] for _ in range(n_outputs)]
    run_by_numpy(op, rows, storage)
    return [cell[0] for cell in storage]


def to_rows(difference: np.ndarray, a: np.ndarray, b: np.ndarray) -> list[np.ndarray]:
    """Return what the ops take, from differences (N, 2) and covariances (N, 2, 2)."""
    entries = [s[:, i, j] for s in (a, b) for i, j in ((0, 0), (0, 1), (1, 1))]
    return [np.ascontiguousarray(column) for column in (*difference.T, *entries)]


def draw_trials(rng, degree: int, n: int, decay: float = 0.4, *, own: bool = False, farthest: float = 5) -> list:
    """Draw a field from the prior, and trials placed by it or by another one."""
    sd = np.sqrt(4e-3 * decay ** np.indices((degree + 1, degree + 1)).sum(axis=0)).ravel()
    truth, other = rng.standard_normal((2, len(sd), 6)) * sd[:, None]

    def find_covariances(weights, points):
        first, second = (np.polynomial.chebyshev.chebvander(x, degree) for x in points.T)
        u = (np.einsum("ni,nj->nij", first, second).reshape(n, -1) @ weights).reshape(n, 2, 3)
        return u @ u.transpose(0, 2, 1) + 1e-6 * np.eye(2)

    reference = rng.uniform(-0.8, 0.8, (n, 2))
    step = rng.standard_normal((n, 2))
    step *= (rng.uniform(0.5, farthest, n) / np.linalg.norm(step, axis=1))[:, None]
    root = np.linalg.cholesky(find_covariances(truth if own else other, reference))
    comparison = np.clip(reference + np.einsum("nij,nj->ni", root, step), -1, 1)
    return to_rows(comparison - reference, find_covariances(truth, reference), find_covariances(truth, comparison))


def draw_cover(rng, n: int) -> list[np.ndarray]:
    """Draw covariances and distances that cover what there can be; half of them are near to each other."""
    eigenvalues = rng.uniform(0.001, 1.499, (2, n))
    near = rng.random(n) < 0.5
    steps = np.stack([0.15 * rng.normal(size=n), -0.3 * np.abs(rng.normal(size=n))])
    eigenvalues = np.where(near, np.clip(1 + steps, 0.005, 1.49), eigenvalues)
    mean, half = eigenvalues.mean(axis=0), np.abs(eigenvalues[0] - eigenvalues[1]) / 2
    turn = rng.uniform(0, np.pi, n)
    h = np.empty((n, 2, 2))
    h[:, 0, 0], h[:, 1, 1] = mean + half * np.cos(turn), mean - half * np.cos(turn)
    h[:, 0, 1] = h[:, 1, 0] = half * np.sin(turn)
    far = np.exp(rng.uniform(np.log(0.05), np.log(40), n))
    distance = np.where(rng.random(n) < 0.7, rng.uniform(0, 8.5, n), far)
    return to_rows(np.stack([distance, 0 * distance], axis=1), h, 3 * np.eye(2) - 2 * h)


def measure(rows: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the exact log P(incorrect), d', and by how much an error of it, squared, counts in log likelihoods."""
    log_q = run(FINE, rows)[0]
    v, sigma, delta, _ = find_invariants(*rows, sqrt=np.sqrt)
    distance = np.sqrt(6 * v * (1 + sigma + delta))
    q = np.exp(np.minimum(log_q, -1e-12))
    return log_q, distance, np.where(np.isfinite(log_q) & (distance > 1e-3) & (distance < 60), q + q**2 / (1 - q), 0)


def fit() -> np.ndarray:
    """Return the coefficients with the least squared error of log likelihoods."""
    rng, degrees = np.random.default_rng(7), np.array(list_degrees())
    parts = [(draw_cover(rng, N_COVER), COVER_COUNTS)]
    for degree in DEGREES:
        for decay in DECAYS:
            trials = [draw_trials(rng, degree, N_TRIALS, decay, own=i % 3 == 0) for i in range(N_FIELDS)]
            parts.append(([np.concatenate(columns) for columns in zip(*trials, strict=True)], 1.0))
    gram, right = np.zeros((len(degrees),) * 2), np.zeros(len(degrees))
    for rows, counts in parts:
        log_q, _, weight = measure(rows)
        v, *others = find_invariants(*rows, sqrt=np.sqrt)
        variables = find_variables(v, *others, log=np.log, minimum=np.minimum)
        tables = [np.polynomial.chebyshev.chebvander(x, n) for x, n in zip(variables, degrees.max(axis=0), strict=True)]
        columns = np.prod([table[:, degree] for table, degree in zip(tables, degrees.T, strict=True)], axis=0)
        root = np.sqrt(np.maximum(weight, 1e-6 * (weight > 0)) * counts)
        columns, target = np.nan_to_num(columns * root[:, None]), np.nan_to_num((log_q + v) * root)
        gram += columns.T @ columns
        right += columns.T @ target
    scale = 1 / np.sqrt(np.diag(gram))
    values, vectors = np.linalg.eigh(scale[:, None] * gram * scale)
    kept = values > 1e-13 * values[-1]
    return scale * (vectors[:, kept] @ ((vectors[:, kept].T @ (scale * right)) / values[kept]))


def vary(degree: int) -> float:
    """Return the standard deviation, over draws from near a posterior, of the polynomial's loss minus the exact one."""
    (observer,) = draw_fields(degree, LONG, 1)
    drawn = psy.laplace(observer.fit, draws=DRAWS, random_seed=0)
    program, data = observer.fit.objective.program, observer.fit.objective.data
    losses = [
        np.asarray(over_draws(lambda params, data, p=p: p.value(params, data, None))(drawn.unconstrained, data))
        for p in (approximate_rows(program), program)
    ]
    return float(np.std(losses[0] - losses[1]))


def write() -> None:
    """Compare with the exact likelihood on fields that were not fitted, and time both."""
    rng, lines = np.random.default_rng(100), []
    exact, fitted = plane_op(8, 7, "float64"), fitted_plane_op("float64")
    for degree in DEGREES:
        drawn = [draw_trials(rng, degree, 150, farthest=4) for _ in range(60)]
        rows = [np.concatenate(columns) for columns in zip(*drawn, strict=True)]
        log_q, distance, weight = measure(rows)
        near = (distance < 8) & (weight > 0)
        errors = [np.sqrt(np.mean((weight * (run(op, rows)[0] - log_q) ** 2)[near])) for op in (fitted, exact)]
        lines.append(f"| {degree} | {errors[0]:.1e} | {errors[1]:.1e} | {vary(degree):.3f} |")
    seconds = []
    for op in (fitted, exact):
        rows = [np.tile(column, 3) for column in draw_trials(rng, 1, 10_000)]
        times = []
        for _ in range(8):
            begun = time.perf_counter()
            run(op, rows, 9)
            times.append(time.perf_counter() - begun)
        seconds.append(min(times) / len(rows[0]) * 1e6)
    table = "\n".join(lines)
    PAGE.write_text(f"""| degree of the field | error of the polynomial | of the default rule | varies by |
| --- | --- | --- | --- |
{table}

The last column is the standard deviation, over {DRAWS} draws from near the posterior of a field of {LONG:,} trials, of
the polynomial's loss minus the exact one.

A row with its derivatives takes {seconds[0]:.3f} µs on one core, {seconds[1] / seconds[0]:.0f} times less than the
default rule's {seconds[1]:.2f} µs in the same run.
""")
    print(PAGE.read_text())


if __name__ == "__main__":
    if "--keep" not in sys.argv[1:]:
        np.save(COEFFICIENTS, fit())
        fitted_plane_op.cache_clear()
    write()
