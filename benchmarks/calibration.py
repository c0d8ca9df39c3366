"""Count how often 90 % intervals hold the truth, over observers drawn from the prior; write docs/calibration.md.

.venv/bin/python benchmarks/calibration.py [ROW ...]

Without arguments all rows are run, which takes hours; with the beginnings of rows' names, these, and the others stay.
Stimuli are placed by another draw of the prior, not by the truth: what is shown must not tell of what is sought.
"""

import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pymc as pm
from rich.progress import track
from scipy import special
from uncertainty import build

import pm_psyphy as psy

PAGE = Path(__file__).parents[1] / "docs" / "calibration.md"
LEVEL = 0.9
POINTS = np.array([[0.0, 0.0], [0.5, 0.5], [-0.5, 0.5]])
# Horizontal and vertical thresholds; beyond the border they are all the same.
DIRECTIONS, BEYOND = np.eye(2), 2.0
# Observers of each row whose intervals are compared with a long reference, and its draws.
N_REFERENCES, DRAWS_OF_REFERENCE = 10, 8000


@dataclass(frozen=True)
class Observer:
    """A model with data, what is asked of its posterior, and the truth of that."""

    fit: psy.MAPResult
    ask: Callable[[psy.Draws], dict[str, np.ndarray]]
    truth: dict[str, np.ndarray]


def draw_fields(degree: int, n_trials: int, n: int) -> Iterator[Observer]:
    """Observers of a Wishart process in the plane, with oddity trials."""
    settings = {"basis_degree": degree, "extra_dims": 1}
    with pm.Model() as prior:
        psy.WishartProcess("W", input_dim=2, **settings)
    weights = pm.draw(prior["W"], draws=2 * n, random_seed=degree)
    objective = covariances = field = None
    upper = np.triu_indices(2)
    for seed in range(n):
        rng = np.random.default_rng(seed)
        truth, other = (psy.WishartProcess("w", input_dim=2, weights=weights[2 * seed + i], **settings) for i in (0, 1))
        reference = rng.uniform(-0.8, 0.8, (n_trials, 2))
        comparison = psy.place_comparisons(other, reference, rng.uniform(0.5, 4, n_trials), random_seed=rng)
        trials = psy.simulate_trials(truth, reference, comparison, random_seed=rng)
        if objective is None:
            model, field = build(trials, **settings)
            # One expression for all observers, so that it is compiled once.
            objective, covariances = psy.compile_objective(model), field.covariance(POINTS)
        data = {"reference": trials.reference, "comparison": trials.comparison, "response": trials.response}
        # A field of low degree has several modes, and starts near each other find one.
        fit = psy.find_map(objective.with_data(**data), starts=4, init="prior", random_seed=seed, progressbar=False)

        def measure(fit, field):
            radii = psy.threshold_contours(fit, field, POINTS, directions=DIRECTIONS, criterion=0.75).radii
            return np.log(np.nan_to_num(radii, nan=BEYOND))

        def ask(draws, field=field, asked=covariances, measure=measure):
            return {
                "thresholds": measure(draws, field).reshape(draws.n_draws, -1),
                "covariances": draws.evaluate(asked)[:, :, *upper].reshape(draws.n_draws, -1),
            }

        real = truth.covariance(POINTS).eval()[:, *upper].ravel()
        yield Observer(fit, ask, {"thresholds": measure(None, truth).ravel(), "covariances": real})


def draw_functions(task: str, n_trials: int, n: int) -> Iterator[Observer]:
    """Observers of psychometric functions with lapses, at six levels of the same number of trials."""
    guess = {"2AFC": 0.5, "yes/no": 0.0}[task]
    level = np.tile(np.linspace(-1, 1, 6), -(-n_trials // 6))[:n_trials]
    with pm.Model(coords={"trial": range(n_trials)}) as model:
        curve = {"threshold": pm.Normal("threshold", 0, 0.5), "width": pm.LogNormal("width", 0, 0.5)}
        rates = {"guess_rate": guess, "lapse_rate": pm.Beta("lapse", 1, 19)}
        log_odds = psy.psychometric_log_odds(level, **curve, **rates)
        data = pm.Data("response", np.zeros(n_trials, int), dims="trial")
        psy.Response("answer", log_odds, observed=data, dims="trial")
    objective, names = psy.compile_objective(model), ["threshold", "width", "lapse"]
    with model:
        prior = dict(zip(names, pm.draw([model[name] for name in names], draws=n, random_seed=7), strict=True))
    p = special.expit(psy.psychometric_log_odds(
        level, prior["threshold"][:, None], width=prior["width"][:, None], guess_rate=guess,
        lapse_rate=prior["lapse"][:, None],
    ).eval())  # fmt: skip
    answers = np.random.default_rng(8).random(p.shape) < p
    for i in range(n):
        fit = psy.find_map(objective.with_data(response=answers[i].astype(int)), progressbar=False)
        truth = {name: np.atleast_1d(prior[name][i]) for name in names}
        yield Observer(fit, lambda draws: {name: draws[name][:, None] for name in names}, truth)


def draw_groups(n: int) -> Iterator[Observer]:
    """Twelve observers of psychometric functions each, whose thresholds have a common mean and spread."""
    n_groups, n_trials = 12, 60
    level, group = np.tile(np.linspace(-1, 1, 6), 10 * n_groups), np.repeat(np.arange(n_groups), n_trials)
    with pm.Model(coords={"trial": range(len(level))}) as model:
        mean, spread = pm.Normal("mean", 0, 0.5), pm.HalfNormal("spread", 0.5)
        thresholds = pm.Deterministic("thresholds", mean + spread * pm.Normal("offset", 0, 1, shape=n_groups))
        width = pm.LogNormal("width", 0, 0.5)
        log_odds = psy.psychometric_log_odds(level, thresholds[group], width=width, lapse_rate=0.02)
        data = pm.Data("response", np.zeros(len(level), int), dims="trial")
        psy.Response("answer", log_odds, observed=data, dims="trial")
    objective, names = psy.compile_objective(model), ["mean", "spread", "thresholds", "width"]
    drawn = pm.draw([*(model[name] for name in names), pm.math.sigmoid(log_odds)], draws=n, random_seed=9)
    prior, p = dict(zip(names, drawn[:-1], strict=True)), drawn[-1]
    answers = np.random.default_rng(10).random(p.shape) < p
    for i in range(n):
        fit = psy.find_map(objective.with_data(response=answers[i].astype(int)), progressbar=False)
        truth = {name: np.atleast_1d(prior[name][i]) for name in names}
        yield Observer(fit, lambda draws: {name: draws[name].reshape(draws.n_draws, -1) for name in names}, truth)


ROWS: dict[str, Callable[[], Iterator[Observer]]] = {
    f"field of degree {degree}, {n_trials:,} trials": partial(draw_fields, degree, n_trials, n)
    for degree, n_trials, n in (
        (1, 1200, 400), (1, 300, 100), (1, 6000, 40), (2, 300, 100), (2, 1200, 60), (2, 6000, 20),
        (4, 300, 60), (4, 1200, 30), (4, 6000, 10),
    )
} | {
    f"{task}, {n_trials} trials": partial(draw_functions, task, n_trials, 400)
    for task in ("2AFC", "yes/no") for n_trials in (30, 60, 120, 400)
} | {"12 observers of 60 trials, hierarchical": partial(draw_groups, 100)}  # fmt: skip
METHODS = {
    "posterior": partial(psy.posterior, progressbar=False),
    "laplace": partial(psy.posterior, method="laplace", progressbar=False),
    "hmc": partial(psy.posterior, method="hmc", progressbar=False),
}


def find_intervals(draws: np.ndarray) -> np.ndarray:
    return np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)


def count(row: str) -> list[dict]:
    """Return, for each method and quantity, how often intervals hold the truth, and what they cost."""
    found: dict[tuple[str, str], dict[str, list]] = {}
    for seed, observer in enumerate(track(ROWS[row](), row, transient=True)):
        references = {}
        if seed < N_REFERENCES:
            settings = {"method": "hmc", "draws": DRAWS_OF_REFERENCE, "random_seed": 10_000 + seed}
            references = observer.ask(psy.posterior(observer.fit, **settings, progressbar=False))
        for name, method in METHODS.items():
            if name == "hmc" and row.startswith("field"):
                continue
            begun = time.perf_counter()
            try:
                draws = method(observer.fit, random_seed=seed)
            except ValueError as error:
                print(row, seed, name, error, flush=True)
                continue
            seconds = time.perf_counter() - begun
            for quantity, values in observer.ask(draws).items():
                low, high = find_intervals(values)
                real, held = observer.truth[quantity], found.setdefault((name, quantity), {})
                held.setdefault("share", []).append(float(np.mean((low <= real) & (real <= high))))
                held.setdefault("width", []).append(float(np.mean(high - low)))
                held.setdefault("seconds", []).append(seconds)
                held.setdefault("good", []).append(draws.is_good)
                if references:
                    inside = (low <= references[quantity]) & (references[quantity] <= high)
                    held.setdefault("mass", []).append(float(inside.mean()))
    return [{"row": row, "method": name, "quantity": quantity, **held} for (name, quantity), held in found.items()]


def describe(found: dict) -> str:
    share = np.array(found["share"])
    # Intervals of one observer depend on each other, observers do not.
    error = share.std(ddof=1) / np.sqrt(len(share))
    cells = [
        found["row"],
        found["quantity"],
        found["method"],
        f"{len(share)}",
        f"{share.mean():.1%} ± {error:.1%}{'' if abs(share.mean() - LEVEL) <= 2 * error else ' (missed)'}",
        f"{np.mean(found['mass']):.1%}",
        f"{np.median(found['width']):.3g}",
        f"{np.median(found['seconds']):.2g} s",
        f"{1 - np.mean(found['good']):.0%}",
    ]
    return f"| {' | '.join(cells)} |"


def write(rows: list[str]) -> None:
    text = f"""# Calibration

Written by `.venv/bin/python benchmarks/calibration.py`: observers drawn from the prior, and how many of the 90 %
intervals of their parameters hold the truth, with its standard error over observers; (missed) where that is more than
two standard errors from 90 %. The mass is the share of {DRAWS_OF_REFERENCE:,} draws by long chains that lie inside the
intervals, of {N_REFERENCES} observers: it says how far a method is from the exact posterior, whatever the truth. Width
and time are medians; the last column says how often a method warned that its draws are poor. Stimuli are placed
independently of the truth. Rows are run one by one, and other work may run beside some: times compare methods within a
row.

`posterior` is `psy.posterior(fit)`, which chooses importance sampling or Hamiltonian chains; it is the one to use.
`laplace` is faster, and its intervals are too narrow where few trials leave much open.

| observers | quantity | method | n | hold the truth | mass | width | time | warned |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
"""
    PAGE.write_text(text + "\n".join(rows) + "\n")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    asked = [row for row in ROWS if not sys.argv[1:] or any(row.startswith(name) for name in sys.argv[1:])]
    for row in asked:
        lines = [describe(found) for found in count(row)]
        print("\n".join(lines), flush=True)
        kept = [line for line in PAGE.read_text().splitlines() if line.startswith("| ") and " ± " in line]
        kept = [line for line in kept if not line.startswith(f"| {row} |")]
        every = [*kept, *lines]
        write([line for name in ROWS for line in every if line.startswith(f"| {name} |")])
