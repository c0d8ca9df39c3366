"""Count how often intervals by Laplace hold the truth, over observers drawn from the prior; write docs/calibration.md.

.venv/bin/python benchmarks/calibration.py
"""

import warnings
from pathlib import Path

import numpy as np
from rich.progress import track
from uncertainty import build, simulate

import pm_psyphy as psy

OBSERVERS, TRIALS, STARTS, DRAWS = 200, 6000, 4, 400
SETTINGS = {"basis_degree": 1, "extra_dims": 1}
POINTS = np.array([[0.0, 0.0], [0.5, 0.5], [-0.5, 0.5]])
# Horizontal and vertical thresholds at the centre; beyond the border they are all the same.
THRESHOLDS = {"references": POINTS[:1], "directions": np.eye(2), "criterion": 0.75}
BEYOND = 2.0


def find_intervals(draws: np.ndarray) -> np.ndarray:
    return np.quantile(draws, [0.05, 0.95], axis=0)


def count() -> dict[str, np.ndarray]:
    """Return the share of each observer's 90 % intervals that hold the truth."""
    model, field = build(simulate(TRIALS, **SETTINGS)[0], **SETTINGS)
    objective = psy.compile_objective(model)
    upper = np.triu_indices(2)
    # One expression for all observers, so that it is compiled once.
    covariances = field.covariance(POINTS)
    inside: dict[str, list[float]] = {"covariances at three points": [], "thresholds in two directions": []}
    for seed in track(range(OBSERVERS), "observers", transient=True):
        trials, truth = simulate(TRIALS, seed, **SETTINGS)
        data = {"reference": trials.reference, "comparison": trials.comparison, "response": trials.response}
        # A field of low degree has several modes, and starts near each other find one.
        fit = psy.find_map(
            objective.with_data(**data), starts=STARTS, init="prior", random_seed=seed, progressbar=False
        )
        posterior = psy.laplace(fit, draws=DRAWS, random_seed=seed)
        pairs = (
            (posterior.evaluate(covariances)[:, :, *upper], truth.covariance(POINTS).eval()[:, *upper]),
            [
                np.nan_to_num(psy.threshold_contours(f, w, **THRESHOLDS).radii, nan=BEYOND)
                for f, w in ((posterior, field), (None, truth))
            ],
        )
        for shares, (draws, real) in zip(inside.values(), pairs, strict=True):
            low, high = find_intervals(draws)
            shares.append(float(np.mean((low <= real) & (real <= high))))
    return {name: np.array(shares) for name, shares in inside.items()}


def write(inside: dict[str, np.ndarray]) -> None:
    rows = []
    for name, shares in inside.items():
        # Intervals of one observer depend on each other, observers do not.
        error = shares.std(ddof=1) / np.sqrt(len(shares))
        missed = "" if abs(shares.mean() - 0.9) <= 2 * error else " (missed)"
        rows.append(f"| {name} | {shares.mean():.1%} ± {error:.1%} | 90 % within two standard errors{missed} |")
        print(rows[-1], flush=True)
    text = f"""# Calibration

Written by `.venv/bin/python benchmarks/calibration.py`: {OBSERVERS} observers drawn from the prior of a Wishart process
of two dimensions and degree 1, {TRIALS:,} oddity trials each, fitted from {STARTS} draws of the prior. How many of the
90 % intervals of Laplace's approximation hold the truth. Where that is too few, the intervals are too narrow to report:
sample the posterior, `psy.sample(fit)`.

| intervals of | hold it | should |
| --- | --- | --- |
"""
    (Path(__file__).parents[1] / "docs" / "calibration.md").write_text(text + "\n".join(rows) + "\n")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    write(count())
