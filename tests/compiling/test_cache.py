"""What one process has compiled, another does not compile again."""

import json
import subprocess
import sys

import numpy as np
import pymc as pm
import pytest
from compilations import count_compilations

import pm_psyphy as psy

SCRIPT = """
import json, resource, sys
import jax
import pm_psyphy as psy

psy.cache_compilation(sys.argv[1])
import numpy as np
import pymc as pm

events = []
jax.monitoring.register_event_listener(lambda event, **_: events.append(event))
rows, length, ahead, largest = (int(number) for number in sys.argv[2:])
if largest:
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
with pm.Model() as model:
    y = pm.Data("y", np.arange(1.0 * rows))
    pm.Normal("seen", pm.Normal("mu", 0, 3), pm.HalfNormal("sigma", 2), observed=y)
fit = {"mu": 0}
if ahead:
    psy.precompile(model, {"y": (length,)})
else:
    fit = psy.find_map(model, progressbar=False)
asked = [e.rpartition("/")[2] for e in events if e.startswith("/jax/compilation_cache/")]
print(json.dumps({"mu": float(fit["mu"]), "hits": asked.count("cache_hits"), "misses": asked.count("cache_misses")}))
"""


def run(folder, rows=30, length=0, ahead=0, largest=0):
    command = [sys.executable, "-c", SCRIPT, *map(str, (folder, rows, length, ahead, largest))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


def test_a_second_process_compiles_nothing(tmp_path):
    (first, _), (second, _) = run(tmp_path / "cache"), run(tmp_path / "cache")
    assert first["misses"] > 0
    assert second["misses"] == 0
    assert second["hits"] >= first["misses"]
    assert second["mu"] == first["mu"]


def test_a_process_compiles_for_data_that_another_will_have(tmp_path):
    ahead, _ = run(tmp_path / "cache", rows=5, length=30, ahead=1)
    assert ahead["misses"] > 0
    found, _ = run(tmp_path / "cache")
    assert found["misses"] == 0


def test_a_full_disk_costs_the_cache_and_not_the_fit(tmp_path):
    whole, _ = run(tmp_path / "whole")
    largest = max(path.stat().st_size for path in (tmp_path / "whole").iterdir())
    # The disk ends in the middle of the largest file.
    full, errors = run(tmp_path / "full", largest=largest // 2)
    assert full["mu"] == whole["mu"]
    assert "File too large" in errors


def test_a_fit_compiles_nothing_that_was_compiled_for_it():
    with pm.Model() as model:
        y = pm.Data("y", np.arange(7.0))
        pm.Normal("seen", pm.Normal("mu", 0, 3), pm.HalfNormal("sigma", 2), observed=y)
    objective = psy.compile_objective(model)
    settings = {"starts": 2, "optimizer": "adam", "learning_rate": 0.1}
    psy.precompile(objective, {"y": (40,)}, **settings)
    with count_compilations() as compilations:
        assert psy.find_map(objective.with_data(y=np.arange(40.0)), tolerance=1e-3, **settings).converged
    assert not compilations
    with pytest.raises(ValueError, match="'z' is no data of this model"):
        psy.precompile(objective, {"z": (40,)})
