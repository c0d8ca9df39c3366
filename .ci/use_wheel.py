"""Use the installed package as someone would who has only its wheel; whatever is wrong ends in an error."""

import importlib
import pkgutil
import sys
from pathlib import Path

import numpy as np
import pymc as pm

import pm_psyphy as psy

TEST_ONLY = {"arviz_plots", "blackjax", "dask", "distributed", "pytest", "zarr"}

folder = Path(psy.__file__).parent
assert folder.is_relative_to(sys.prefix), f"{folder} is not in the environment {sys.prefix}."
assert (folder / "py.typed").is_file(), "The wheel lacks py.typed."
missing = [name for name in psy.__all__ if not hasattr(psy, name)]
assert not missing, f"pm_psyphy.__all__ has names that are not there: {missing}."
for module in pkgutil.walk_packages(psy.__path__, "pm_psyphy."):
    importlib.import_module(module.name)

y = np.array([4.0, 6.0, 5.0, 7.0])
with pm.Model() as model:
    mu = pm.Normal("mu", 0, 10)
    sigma = pm.HalfNormal("sigma", 10)
    pm.Normal("y", mu, sigma, observed=y)
fit = psy.find_map(model)
assert fit.converged, fit.message
assert abs(fit["mu"] - y.mean()) < 0.05, f"mu is {fit['mu']}, far from the mean of the data, {y.mean()}."

# What the package imports only when it is used.
fit.save("fit.nc")
assert psy.load("fit.nc", model)["sigma"] == fit["sigma"]
assert np.isfinite(psy.laplace(fit, random_seed=1).pareto_k)
assert len(psy.Trials.from_arrays([[0.0]], [[0.5]], [1]).to_frame()) == 1

brought = TEST_ONLY & sys.modules.keys()
assert not brought, f"Packages that only the tests need were imported: {brought}."
