"""Checkpoints: what survives a crash, and what is refused."""

import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import models
import numpy as np
import optax
import pymc as pm
import pytest

import pm_psyphy as psy

TESTS = Path(__file__).parents[1]


def never_converging(steps):
    return {"optimizer": "adam", "steps": steps, "tolerance": 0.0, "random_seed": 5}


@pytest.mark.filterwarnings("ignore:Not converged")
@pytest.mark.parametrize("optimizer", ["adam", "lbfgs", optax.sgd(1e-4, momentum=0.9)], ids=["adam", "lbfgs", "optax"])
@pytest.mark.parametrize("starts", [1, 3])
def test_a_fit_in_two_parts_ends_where_the_whole_does(tmp_path, optimizer, starts):
    settings = {"optimizer": optimizer, "tolerance": 1e-13, "starts": starts, "random_seed": 5}
    whole = psy.find_map(models.logistic(), steps=60, **settings)
    path = tmp_path / "fit.ckpt"
    psy.find_map(models.logistic(), steps=12, checkpoint=path, **settings)
    resumed = psy.find_map(models.logistic(), steps=60, checkpoint=path, **settings)
    np.testing.assert_array_equal(resumed["beta"], whole["beta"])
    np.testing.assert_array_equal(resumed.history.step, whole.history.step)
    np.testing.assert_array_equal(resumed.history.loss, whole.history.loss)
    assert resumed.status == whole.status


def test_a_stochastic_fit_resumes_with_its_own_seed(tmp_path):
    whole = psy.find_map(models.minibatch(), steps=60, random_seed=5)
    path = tmp_path / "fit.ckpt"
    psy.find_map(models.minibatch(), steps=20, random_seed=5, checkpoint=path)
    resumed = psy.find_map(models.minibatch(), steps=60, checkpoint=path)
    assert resumed["mu"] == whole["mu"]
    with pytest.raises(ValueError, match=r"its random_seed differs \(5, here 77\)"):
        psy.find_map(models.minibatch(), steps=90, random_seed=77, checkpoint=path)


def test_a_finished_fit_is_returned_from_its_checkpoint(tmp_path):
    path = tmp_path / "fit.ckpt"
    first = psy.find_map(models.logistic(), checkpoint=path)
    written = path.stat().st_mtime_ns
    again = psy.find_map(models.logistic(), checkpoint=path)
    assert again.converged
    np.testing.assert_array_equal(again["beta"], first["beta"])
    assert path.stat().st_mtime_ns == written


SCRIPT = """
import sys
import models
import pm_psyphy as psy
psy.find_map(models.hierarchical(), optimizer="adam", steps=10**9, tolerance=0.0, random_seed=5, checkpoint=sys.argv[1],
             log_every=1000)
"""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Not converged")
def test_a_killed_process_loses_at_most_one_chunk(tmp_path):
    path = tmp_path / "fit.ckpt"
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(path)], cwd=TESTS)
    written = set()
    deadline = time.monotonic() + 120
    while len(written) < 6 and time.monotonic() < deadline:
        if path.exists():
            written.add(path.stat().st_mtime_ns)
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(written) >= 6
    with np.load(path) as file:
        reached = max(int(file[n]) for n in file.files if n.startswith("leaf_") and _is_step(file, n))
    assert reached > 1
    settings = {"optimizer": "adam", "tolerance": 0.0, "random_seed": 5, "log_every": 1000}
    resumed = psy.find_map(models.hierarchical(), steps=reached + 500, checkpoint=path, **settings)
    assert resumed.n_steps == reached + 500
    whole = psy.find_map(models.hierarchical(), steps=reached + 500, **settings)
    np.testing.assert_array_equal(resumed["slope"], whole["slope"])


def _is_step(file, name):
    """The step is the largest of the integer scalars above the codes of a search that runs."""
    array = file[name]
    return array.shape == () and array.dtype == np.int32 and array > 3


@pytest.mark.filterwarnings("ignore:Not converged")
def test_a_truncated_file_is_refused(tmp_path):
    path = tmp_path / "fit.ckpt"
    psy.find_map(models.logistic(), checkpoint=path, **never_converging(20))
    whole = path.read_bytes()
    for size in (0, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match="is no checkpoint, or a truncated one. Delete it"):
            psy.find_map(models.logistic(), checkpoint=path, **never_converging(30))


@pytest.mark.filterwarnings("ignore:Not converged")
@pytest.mark.parametrize(
    ("build", "settings", "what"),
    [
        (models.normal, {}, "parameters"),
        (models.logistic, {"optimizer": "sgd"}, "optimizer"),
        (models.logistic, {"starts": 2}, "state"),
        (lambda: models.logistic(seed=8), {}, "data"),
    ],
    ids=["model", "optimizer", "starts", "data"],
)
def test_a_foreign_checkpoint_is_refused(tmp_path, build, settings, what):
    path = tmp_path / "fit.ckpt"
    psy.find_map(models.logistic(), checkpoint=path, **never_converging(20))
    with pytest.raises(ValueError, match=f"is the checkpoint of another fit: its {what} differ"):
        psy.find_map(build(), checkpoint=path, **never_converging(30) | settings)


def test_an_unwritable_path_is_an_error_before_the_fit(tmp_path):
    with pytest.raises(OSError, match="cannot be written.*Give another path"):
        psy.find_map(models.normal(), checkpoint=tmp_path / "missing" / "fit.ckpt")
    with pytest.raises(OSError, match=r"[Dd]irectory"):
        psy.find_map(models.normal(), checkpoint=tmp_path)


@pytest.mark.filterwarnings("ignore:Not converged")
def test_a_disk_that_fills_up_loses_neither_the_fit_nor_the_last_checkpoint(tmp_path):
    path, model = tmp_path / "fit.ckpt", models.logistic()
    psy.find_map(model, checkpoint=path, **never_converging(20))
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # A limit on the size of files stands in for a full disk: the kernel refuses the write in the same way.
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.warns(UserWarning, match="cannot be written: File too large. The fit goes on"):
            fit = psy.find_map(model, checkpoint=path, **never_converging(200))
        with pytest.raises(OSError, match="cannot be written: File too large. Give another path"):
            psy.find_map(model, checkpoint=tmp_path / "new.ckpt", **never_converging(30))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert fit.n_steps == 200
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["fit.ckpt"]


def mean(mu=0.0, sigma=10.0, *, floor=0.0):
    with pm.Model(coords={"trial": range(50)}) as model:
        a = pm.Normal("a", mu, sigma)
        data = pm.Data("obs", 3 + np.cos(np.arange(50.0)), dims="trial")
        pm.Normal("y", a + floor, 1, observed=data, dims="trial")
    return model


@pytest.mark.parametrize(
    "other", [mean(-5, 0.01), mean(0, 10.5), mean(floor=0.5)], ids=["prior", "its width", "a constant"]
)
def test_the_checkpoint_of_another_model_of_the_same_shapes_is_refused(tmp_path, other):
    path = tmp_path / "fit.ckpt"
    psy.find_map(mean(), checkpoint=path)
    assert psy.find_map(mean(), checkpoint=path).converged
    with pytest.raises(ValueError, match="its model differs"):
        psy.find_map(other, checkpoint=path)


@pytest.mark.filterwarnings("ignore:Not converged")
def test_settings_of_an_optimizer_are_told_apart(tmp_path):
    path = tmp_path / "fit.ckpt"

    def run(rate: float) -> None:
        psy.find_map(mean(), optimizer=optax.sgd(rate, momentum=0.9), steps=10, checkpoint=path)

    run(1e-3)
    run(1e-3)
    with pytest.raises(ValueError, match="its optimizer differs"):
        run(2e-3)


def test_rows_given_as_data_are_told_apart(tmp_path):
    path, rows = tmp_path / "fit.ckpt", np.random.default_rng(1).normal(size=2000)

    def run(rows: np.ndarray) -> psy.MAPResult:
        return psy.find_map(
            mean(), rows=psy.Minibatches(100, data={"obs": rows}), steps=40, checkpoint=path, random_seed=1
        )

    run(rows)
    run(rows.copy())
    changed = rows.copy()
    changed[-1] += 1e-9
    with pytest.raises(ValueError, match="its rows differ"):
        run(changed)


@pytest.mark.filterwarnings("ignore:Not converged")
def test_a_changed_leaf_or_format_is_refused(tmp_path):
    path = tmp_path / "fit.ckpt"
    psy.find_map(models.logistic(), checkpoint=path, **never_converging(20))
    with np.load(path) as file:
        held = dict(file)
    shape = held["leaf_0"].shape
    for changed, match in (
        (held | {"format": np.int64(99)}, "written by another version"),
        (held | {"leaf_0": np.zeros((*shape, 2))}, "is no checkpoint"),
        (held | {"leaf_0": np.zeros(shape, int)}, "is no checkpoint"),
        ({k: v for k, v in held.items() if k != "leaf_0"}, "is no checkpoint"),
    ):
        with path.open("wb") as file:
            np.savez(file, **changed)
        with pytest.raises(ValueError, match=match):
            psy.find_map(models.logistic(), checkpoint=path, **never_converging(30))


def test_a_start_that_fails_leaves_no_file(tmp_path):
    with pm.Model() as model:
        pm.Exponential("waiting", pm.Normal("rate"), observed=[1.0, 2.0])
    with pytest.raises(ValueError, match="log p of 'waiting'"):
        psy.find_map(model, initvals={"rate": -1.0}, checkpoint=tmp_path / "fit.ckpt")
    assert not list(tmp_path.iterdir())


def test_an_empty_path_is_an_error():
    with pytest.raises(ValueError, match="checkpoint is an empty path"):
        psy.find_map(mean(), checkpoint="")


def test_an_interruption_while_writing_leaves_no_scratch_file(tmp_path, monkeypatch):
    path = tmp_path / "fit.ckpt"
    psy.find_map(mean(), checkpoint=path)
    path.unlink()

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("pm_psyphy.optimizing.checkpoint.os.fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        psy.find_map(mean(), checkpoint=path)
    assert not list(tmp_path.iterdir())
