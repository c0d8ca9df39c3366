"""Every model of the sweep: its loss and gradient against PyTensor's own, and the published table of the agreements."""

import json
import os
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from itertools import groupby
from pathlib import Path

import numpy as np
import pymc as pm
import pytensor
import pytest
from packaging.version import Version
from pytensor.compile.mode import get_mode
from sweep import CASES

import pm_psyphy as psy

TOLERANCE = 1e-8
"""Above what rounding does to gradients of a few hundred operations (1e-12), below any wrong formula."""

STEPS = 10
"""Of each fit. Many of these models have one observation and no finite optimum, so that none is searched to its end."""

LEAST_SHARE = 0.97
TABLE = Path(__file__).parents[2] / "docs" / "coverage.md"

# PyTensor's Python and NumPy implementations, with its rewrites for numerical stability: nothing of JAX.
REFERENCE_MODE = get_mode("FAST_COMPILE").including("stabilize", "specialize")

# Models that are refused: what the NotImplementedError must name.
UNSUPPORTED = {
    "Transforms and structure: Root of an equation (pt.optimize.root)": "RootOp",
    "Special functions and linear algebra: kv, order free": "kve",
    "Special functions and linear algebra: fft": "RFFTOp",
}

# Models of which an older package cannot tell: what it lacks.
NEEDED = {
    # LKJ densities of a free eta.
    "Multivariate: MvNormal free and not centred, LKJCholeskyCov": ("pymc", Version("6.4")),
    # Its own derivative by the shape, the reference, errs by 5e-7 before.
    "Special functions and linear algebra: gammaincc": ("pytensor", Version("3.3.7")),
}
TOO_OLD = {key for key, (package, least) in NEEDED.items() if Version(version(package)) < least}


@dataclass(frozen=True)
class Outcome:
    """What came out of one case: a route and a relative deviation, or an error."""

    route: str
    deviation: float
    error: str

    @property
    def agrees(self) -> bool:
        return not self.error and self.deviation <= TOLERANCE


def compare(key: str) -> Outcome:
    """Fit a model, and compare loss and gradients with the reference at the start, near it, and where the fit is."""
    # PyTensor otherwise keeps a stack for each of its variables, a tenth of the time.
    with warnings.catch_warnings(), pytensor.config.change_flags(traceback__limit=0):
        # PyMC warns of imputation, PyTensor of rewrites that do not apply: neither changes a number.
        warnings.simplefilter("ignore")
        try:
            model = CASES[key].build()
            fit = psy.find_map(model, steps=STEPS, progressbar=False)
            reference, objective = compile_reference(model), fit.objective
            points = [objective.start, jitter(objective.start), fit.unconstrained]
            deviations = [deviate(flatten(objective, point), reference(point)) for point in points]
            deviation = max(*deviations, deviate([np.asarray(fit.loss)], reference(fit.unconstrained)[:1]))
        except Exception as error:
            return Outcome("", np.inf, f"{type(error).__name__}: {error}")
    return Outcome(objective.route, float(deviation), "")


def compile_reference(model: pm.Model) -> Callable:
    loss = -model.logp(jacobian=False)
    grads = pytensor.grad(loss, model.value_vars, disconnected_inputs="ignore")
    return model.compile_fn([loss, *grads], inputs=model.value_vars, mode=REFERENCE_MODE)


def jitter(start: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(20)
    return {name: value + rng.normal(0, 0.3, np.shape(value)) for name, value in start.items()}


def flatten(objective: psy.Objective, point: dict[str, np.ndarray]) -> list[np.ndarray]:
    loss, grads = objective.value_and_grad(point)
    return [np.asarray(loss), *(np.asarray(grads[v.name]) for v in objective.model.value_vars)]


def deviate(ours: list[np.ndarray], reference: list[np.ndarray]) -> float:
    """Return the largest |a - b| / max(1, |b|); values that are both NaN, or the same infinity, agree."""
    a, b = (np.concatenate([np.ravel(part) for part in parts]) for parts in (ours, reference))
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore"):
        relative = np.where(same, 0, np.abs(a - b) / np.maximum(1, np.abs(b)))
    return float(np.max(np.nan_to_num(relative, nan=np.inf)))


@pytest.fixture(scope="module")
def find_outcome(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Outcome]:
    """Compare each case once, whichever process of the tests comes to it first."""
    folder = tmp_path_factory.getbasetemp()
    # Each process of pytest-xdist has a folder of its own inside that of the run.
    folder = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "sweep"
    folder.mkdir(exist_ok=True)

    @cache
    def find(key: str) -> Outcome:
        path = folder / f"{list(CASES).index(key)}.json"
        if path.exists():
            return Outcome(**json.loads(path.read_text()))
        outcome = compare(key)
        whole = path.with_suffix(f".{os.getpid()}")
        whole.write_text(json.dumps(asdict(outcome)))
        whole.replace(path)
        return outcome

    return find


@pytest.fixture
def outcomes(find_outcome: Callable[[str], Outcome]) -> dict[str, Outcome]:
    return {key: find_outcome(key) for key in CASES}


@pytest.mark.parametrize("key", CASES)
def test_loss_and_gradient_agree_with_pytensor(key: str, find_outcome: Callable[[str], Outcome]):
    if key in TOO_OLD:
        pytest.skip(f"{' '.join(map(str, NEEDED[key]))} is needed")
    outcome = find_outcome(key)
    if key in UNSUPPORTED:
        assert outcome.error.startswith("NotImplementedError")
        assert UNSUPPORTED[key] in outcome.error
    else:
        assert outcome.agrees, outcome.error or f"relative deviation {outcome.deviation:.1e} by route {outcome.route!r}"


def test_nearly_all_models_agree(outcomes: dict[str, Outcome]):
    agreeing = sum(outcome.agrees for outcome in outcomes.values())
    assert agreeing >= LEAST_SHARE * len(outcomes), f"{agreeing} of {len(outcomes)} agree"


@pytest.mark.skipif(bool(TOO_OLD), reason="the page is of newer packages")
def test_published_table_is_what_the_sweep_finds(outcomes: dict[str, Outcome], request: pytest.FixtureRequest):
    rendered = render(outcomes)
    if request.config.getoption("--write-tables"):
        TABLE.write_text(rendered, encoding="utf-8")
    advice = f"{TABLE.name} is out of date. Run .venv/bin/python -m pytest tests/compiling/test_sweep.py --write-tables"
    assert TABLE.read_text(encoding="utf-8") == rendered, advice


ROUTES = {
    "pytensor": "PyTensor's gradient, compiled by JAX",
    "jax": "JAX's own gradient, where PyTensor's needs an op that JAX lacks",
    "callback": "PyTensor's gradient, with the ops that JAX lacks run on the host",
}


def render(outcomes: dict[str, Outcome]) -> str:
    """Write the page: what was compared, and one table for each group."""
    agreeing = sum(outcome.agrees for outcome in outcomes.values())
    counts = Counter(outcome.route.removesuffix("-frozen") for outcome in outcomes.values() if outcome.agrees)
    frozen = sum(outcome.agrees and outcome.route.endswith("-frozen") for outcome in outcomes.values())
    others = ", ".join(CASES[key].name for key, outcome in outcomes.items() if not outcome.agrees)
    routes = "\n".join(f"- `{route}`: {meaning} ({counts[route]} models)." for route, meaning in ROUTES.items())
    lines = [
        "# Coverage",
        "",
        f"{agreeing} of {len(outcomes)} small models agree with PyTensor; not so {others}. `find_map` took {STEPS} "
        "steps on each. At the model's initial point, at a random point near it, and where `find_map` ended, the loss "
        "and all its gradients were compared, element by element, with PyTensor's functions run by NumPy, without "
        f"JAX; so was the loss that `find_map` returned. They agree where |a - b| ≤ {TOLERANCE:.0e} max(1, |b|). "
        "`tests/sweep.py` holds the models, and `tests/compiling/test_sweep.py` writes this page.",
        "",
        "The route says where the gradient comes from:",
        "",
        routes,
        f"- With `-frozen`: data that decide shapes are part of the compiled program ({frozen} of these models).",
    ]
    for group, keys in groupby(sorted(CASES, key=order_of_groups), key=lambda key: CASES[key].group):
        rows = "\n".join(render_row(CASES[key].name, outcomes[key]) for key in keys)
        lines += ["", f"## {group}", "", "| model | route | agrees at 1e-8 |", "| --- | --- | --- |", rows]
    return "\n".join(lines) + "\n"


def order_of_groups(key: str) -> int:
    return list(dict.fromkeys(case.group for case in CASES.values())).index(CASES[key].group)


def render_row(name: str, outcome: Outcome) -> str:
    if outcome.error:
        verdict = outcome.error.splitlines()[0].split(", and the host")[0]
    else:
        verdict = "yes" if outcome.agrees else "no"
    return f"| {name} | {outcome.route or 'none'} | {verdict.replace('|', '\\|')} |"
