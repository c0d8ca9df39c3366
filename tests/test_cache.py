"""What one process has compiled, another does not compile again."""

import json
import subprocess
import sys

SCRIPT = """
import json, sys
import jax
import pm_psyphy as psy

psy.cache_compilation(sys.argv[1])
import numpy as np
import pymc as pm

events = []
jax.monitoring.register_event_listener(lambda event, **_: events.append(event))
with pm.Model() as model:
    pm.Normal("y", pm.Normal("mu", 0, 3), pm.HalfNormal("sigma", 2), observed=np.arange(30.0))
fit = psy.find_map(model, progressbar=False)
asked = [e.rpartition("/")[2] for e in events if e.startswith("/jax/compilation_cache/")]
print(json.dumps({"mu": float(fit["mu"]), "hits": asked.count("cache_hits"), "misses": asked.count("cache_misses")}))
"""


def run(folder):
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(folder)], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def test_a_second_process_compiles_nothing(tmp_path):
    first, second = run(tmp_path / "cache"), run(tmp_path / "cache")
    assert first["misses"] > 0
    assert second["misses"] == 0
    assert second["hits"] >= first["misses"]
    assert second["mu"] == first["mu"]
