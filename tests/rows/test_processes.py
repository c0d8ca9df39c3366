"""Several processes on this machine fit one model together, over loopback; one of them may die."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pymc as pm
import pytest

import pm_psyphy as psy

WORKER = """
import json, os, sys, time
import pm_psyphy as psy

settings = json.loads(sys.argv[1])
psy.join_processes(settings["address"], settings["n"], settings["i"], timeout=settings.get("timeout", 60))

import numpy as np
import pymc as pm

x, y = np.load(settings["data"]).T
cuts = np.linspace(0, len(y), settings["n"] + 1).astype(int) + np.array([0, *[7] * (settings["n"] - 1), 0])
own = slice(cuts[settings["i"]], cuts[settings["i"] + 1])
with pm.Model() as model:
    slope, sigma = pm.Normal("slope", settings.get("start", [0, 0])[settings["i"] % 2], 3), pm.HalfNormal("sigma", 2)
    pm.Normal("y", slope * pm.Data("x", x[own], dims="trial"), sigma, observed=y[own], dims="trial")

def watch(progress):
    print("step", progress.step, flush=True)
    if progress.step >= settings.get("dies_at", 1e9) and settings["i"] == 1:
        os.kill(os.getpid(), 9)

fit = psy.find_map(
    model, shard="trial", checkpoint=settings.get("checkpoint"), progressbar=False,
    callback=watch if "dies_at" in settings or "watched" in settings else None, **settings["fit"],
    rows=psy.Minibatches(settings["batch"]) if "batch" in settings else None,
)
found = {"slope": float(fit["slope"]), "sigma": float(fit["sigma"]), "loss": fit.loss, "steps": fit.n_steps}
print(json.dumps(found | {"losses": list(fit.history.loss)}))
"""

RNG = np.random.default_rng(0)
X = RNG.normal(size=203)
Y = 2 * X + RNG.normal(size=203)


def find_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "rows.npy"
    np.save(path, np.stack([X, Y], axis=1))
    return path


@pytest.fixture(scope="module")
def alone():
    return fit_alone()


def fit_alone(**settings):
    with pm.Model() as model:
        slope, sigma = pm.Normal("slope", 0, 3), pm.HalfNormal("sigma", 2)
        pm.Normal("y", slope * X, sigma, observed=Y)
    return psy.find_map(model, progressbar=False, **settings)


def start(n, data, **settings):
    settings = {"address": f"127.0.0.1:{find_port()}", "n": n, "data": str(data), "fit": {}} | settings
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    return [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, json.dumps(settings | {"i": i})],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        )
        for i in range(n)
    ]  # fmt: skip


def finish(processes, timeout=240):
    try:
        return [(*process.communicate(timeout=timeout), process.returncode) for process in processes]
    finally:
        for process in processes:
            process.kill()


@pytest.mark.slow
@pytest.mark.parametrize("n", [2, 4])
def test_processes_agree_with_one(n, data, alone):
    # Without a seed: the starts are those of the first process.
    for out, errors, code in finish(start(n, data, fit={"starts": 3})):
        assert code == 0, errors
        found = json.loads(out.splitlines()[-1])
        np.testing.assert_allclose(found["loss"], alone.loss, rtol=1e-9)
        np.testing.assert_allclose(found["slope"], float(alone["slope"]), rtol=1e-7)
        np.testing.assert_allclose(found["sigma"], float(alone["sigma"]), rtol=1e-7)


@pytest.mark.slow
def test_a_process_that_dies_is_told_and_a_restart_goes_on(data, tmp_path):
    path = tmp_path / "state.npz"
    rate = {"optimizer": "sgd", "learning_rate": 1e-4, "steps": 2000, "tolerance": 1e-12, "log_every": 100}
    begun = time.perf_counter()
    ends = finish(start(2, data, checkpoint=str(path), fit=rate, dies_at=700, timeout=10))
    assert time.perf_counter() - begun < 120
    assert ends[1][2] == -9
    _, errors, code = ends[0]
    assert code != 0
    assert "A process of this fit is gone" in errors or "heartbeat" in errors, errors
    assert Path(path).exists()
    ends = finish(start(2, data, checkpoint=str(path), fit=rate, watched=True))
    whole = fit_alone(**rate)
    for out, errors, code in ends:
        assert code == 0, errors
        steps = [int(line.split()[1]) for line in out.splitlines() if line.startswith("step")]
        # The file is about a second old, and not from the start.
        assert min(steps) >= 100
        found = json.loads(out.splitlines()[-1])
        assert found["steps"] == whole.n_steps
        np.testing.assert_allclose(found["slope"], float(whole["slope"]), rtol=1e-9)


@pytest.mark.slow
def test_batches_of_two_processes_are_one_batch(data):
    settings = {"optimizer": "adam", "learning_rate": 0.05, "steps": 50}
    # Each process has all its rows in each batch, so that both together have all rows.
    ends = finish(start(2, data, fit=settings, batch=300))
    with pytest.warns(UserWarning, match="Not converged after 50 steps"):
        whole = fit_alone(**settings)
    for out, errors, code in ends:
        assert code == 0, errors
        np.testing.assert_allclose(json.loads(out.splitlines()[-1])["losses"], whole.history.loss, rtol=1e-9)


@pytest.mark.slow
def test_processes_with_different_numbers_of_batches_are_told(data):
    for _, errors, code in finish(start(2, data, fit={"steps": 5}, batch=196)):
        assert code != 0
        assert "The rows of one process are 1 batches, those of another 2" in errors


@pytest.mark.slow
def test_processes_that_differ_are_told(data):
    for _, errors, code in finish(start(2, data, start=[0.0, 1.0])):
        assert code != 0
        assert "Process 1 has another" in errors
