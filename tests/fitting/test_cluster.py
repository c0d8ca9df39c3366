"""Data sets over the workers of a Dask cluster, one of which is killed."""

import os
import signal

import numpy as np
import pymc as pm
import pytest

import pm_psyphy as psy

distributed = pytest.importorskip("distributed")

RNG = np.random.default_rng(0)
LENGTHS = RNG.integers(10, 40, 24)
SETS = {f"S{i}": {"y": RNG.normal(i, 1, n)} for i, n in enumerate(LENGTHS)}


def build():
    with pm.Model(coords={"trial": range(len(SETS["S0"]["y"]))}) as model:
        pm.Normal("y", pm.Normal("mu", 0, 30), pm.HalfNormal("sigma", 2), observed=SETS["S0"]["y"], dims="trial")
    return model


@pytest.fixture(scope="module")
def cluster():
    settings = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "dashboard_address": ":0"}
    with distributed.LocalCluster(**settings) as cluster, distributed.Client(cluster) as client:
        yield client


@pytest.mark.slow
def test_workers_find_what_one_process_finds(cluster):
    model = build()
    ours = psy.find_maps(model, SETS, progressbar=False)
    theirs = psy.find_maps(model, SETS, client=cluster, progressbar=False)
    np.testing.assert_allclose(theirs["mu"], ours["mu"], rtol=1e-9)
    np.testing.assert_array_equal(theirs.n_steps, ours.n_steps)
    assert theirs.labels == ours.labels


@pytest.mark.slow
def test_what_a_lost_worker_had_to_do_is_done_by_another(cluster, tmp_path, monkeypatch):
    import pm_psyphy.fitting.find_maps as many

    mark, fit_part = tmp_path / "killed", many._search_part

    def fit_or_die(*arguments):
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return fit_part(*arguments)

    monkeypatch.setattr(many, "_search_part", fit_or_die)
    fits = psy.find_maps(build(), SETS, client=cluster, progressbar=False)
    assert mark.exists()
    assert fits.converged.all()
    np.testing.assert_allclose(fits["mu"], [data["y"].mean() for data in SETS.values()], atol=0.1)
