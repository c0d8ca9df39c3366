"""What it costs to import the package, told without a clock."""

import subprocess
import sys

SCRIPT = """
import sys
import pymc, jax, optax
before = set(sys.modules)
import pm_psyphy
print(*sorted(set(sys.modules) - before))
"""


def test_what_is_slow_to_import_waits_until_it_is_used():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    brought = set(done.stdout.split())
    assert "pm_psyphy.fitting.find_map" in brought
    # Half a second to three seconds each.
    slow = {"scipy.stats", "scipy.optimize", "matplotlib.pyplot", "arviz_plots", "arviz_stats", "blackjax", "pandas"}
    assert not slow & brought
