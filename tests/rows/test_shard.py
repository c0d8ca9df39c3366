"""Rows on eight devices of one host, in a process that has them: the same answer as on one device."""

import json
import os
import subprocess
import sys

import numpy as np
import pymc as pm
import pytest

import pm_psyphy as psy
from pm_psyphy.rows import memory_blocks as blocks
from pm_psyphy.rows import sharding as shard
from pm_psyphy.rows.memory_blocks import measure_memory

SCRIPT = """
import json
import numpy as np
import pymc as pm
import pm_psyphy as psy
from pm_psyphy.rows.sharding import shard_objective

rng = np.random.default_rng(0)


def compare(model):
    objective = psy.compile_objective(model)
    sharded = shard_objective(objective, "trial")
    ours, theirs = sharded.value_and_grad(objective.start), objective.value_and_grad(objective.start)
    return {
        "devices": len(sharded.data["x"].sharding.device_set),
        "rows of a device": sharded.data["x"].addressable_shards[0].data.shape[0],
        "loss": abs(float(ours[0] - theirs[0])) / abs(float(theirs[0])),
        "gradient": max(float(np.abs(ours[1][k] - theirs[1][k]).max()) for k in theirs[1]),
    }


found = {}
place, beside = rng.uniform(-0.7, 0.7, (2, 301, 2))
with pm.Model() as model:
    field = psy.WishartProcess("W", input_dim=2, basis_degree=1, extra_dims=0)
    stimuli = pm.Data("x", place, dims=("trial", "k")), pm.Data("comparison", beside, dims=("trial", "k"))
    psy.Oddity("correct", field, *stimuli, observed=rng.integers(0, 2, 301), dims="trial")
found["field"] = compare(model)
for n, settings in ((16, {"starts": 3, "random_seed": 1}), (301, {})):
    x = rng.normal(size=n)
    with pm.Model() as model:
        log_odds = psy.psychometric_log_odds(pm.Data("x", x, dims="trial"), pm.Normal("t"), slope=pm.Gamma("s", 3, 2))
        psy.Response("y", log_odds, observed=rng.random(n) < 1 / (1 + np.exp(-x)), dims="trial")
    alone = psy.find_map(model, progressbar=False)
    together = psy.find_map(model, shard="trial", progressbar=False, **settings)
    few = dict(rows=psy.Minibatches(20), optimizer="sgd", learning_rate=1e-4)
    few |= dict(steps=40, random_seed=1, progressbar=False)
    batches = [psy.find_map(model, **few, **own).history.loss for own in ({}, {"shard": "trial"})]
    found[n] = compare(model) | {
        "fit": abs(together.loss - alone.loss) / abs(alone.loss),
        "status": str(together.status),
        "batches": float(np.max(np.abs(batches[1] / batches[0] - 1))),
    }
print(json.dumps(found))
"""


def test_eight_devices_agree_with_one():
    environment = os.environ | {"XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=8"}
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for name, one in found.items():
        assert one["devices"] == 8
        assert one["rows of a device"] == (2 if name == "16" else 38)
        # Sums in another order.
        assert one["loss"] < 1e-12
        assert one["gradient"] < 1e-9
        if name != "field":
            assert one["status"] == "converged"
            assert one["fit"] < 1e-9
            assert one["batches"] < 1e-9


def test_one_device_is_a_special_case():
    with pm.Model(coords={"trial": range(5)}) as model:
        pm.Normal("y", pm.Normal("mu", 0, 3), 1, observed=np.arange(5.0), dims="trial")
    alone, sharded = psy.find_map(model), psy.find_map(model, shard="trial")
    np.testing.assert_allclose(sharded["mu"], alone["mu"], rtol=1e-9)


def test_rows_that_are_no_rows_are_an_error():
    with pm.Model(coords={"trial": range(5)}) as model:
        pm.Normal("y", pm.Normal("mu", 0, 3), 1, observed=np.arange(5.0), dims="trial")
    with pytest.raises(ValueError, match="No observed variable has the dim 'place'"):
        psy.find_map(model, shard="place")
    with pytest.raises(ValueError, match="Batches are taken along 'trial', and shard is 'place'"):
        psy.find_map(model, shard="place", rows=psy.Minibatches(2, dim="trial"))


def test_a_device_that_has_many_rows_takes_them_in_blocks(monkeypatch):
    monkeypatch.setattr(blocks, "BYTES_OF_CPU", 50_000)
    monkeypatch.setattr(blocks, "FEW_NUMBERS", 100)
    x = np.random.default_rng(0).normal(size=5000)
    with pm.Model(coords={"trial": range(5000)}) as model:
        mean = pm.math.tanh(pm.Normal("slope", 0, 3) * pm.Data("x", x, dims="trial"))
        pm.Normal("y", mean, 1, observed=np.tanh(2 * x), dims="trial")
    objective = psy.compile_objective(model)
    sharded = shard.shard_objective(objective, "trial")
    assert measure_memory(sharded) < 50_000 < measure_memory(objective)
    (loss, grads), (expected, expected_grads) = (each.value_and_grad({"slope": 1.0}) for each in (sharded, objective))
    np.testing.assert_allclose(loss, expected, rtol=1e-12)
    np.testing.assert_allclose(grads["slope"], expected_grads["slope"], rtol=1e-12)
