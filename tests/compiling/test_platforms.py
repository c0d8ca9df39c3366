"""All that a fit and what follows it compile can be compiled for other devices, on a machine that has none."""

import re
from typing import Any

import jax
import numpy as np
import pymc as pm
import pytensor
import pytest

import pm_psyphy as psy

# What the makers of the devices have written of linear algebra: a decomposition for log determinants.
CUSTOM_CALLS = {"cusolver_getrf_ffi", "cu_lu_pivots_to_permutation", "LuDecomposition"}
N_TRIALS = 80


class Recorder:
    """Stands for `jax.jit`: keeps each function of the package that is compiled, and what it is compiled for."""

    def __init__(self):
        self.jit, self.programs = jax.jit, {}

    def __call__(self, function: Any = None, **settings: Any) -> Any:
        module = getattr(function, "__module__", "")
        if not module.startswith("pm_psyphy") or module.startswith("pm_psyphy.native"):
            return self.jit(**settings) if function is None else self.jit(function, **settings)
        return Recorded(self, self.jit(function, **settings))


class Recorded:
    """A jitted function that tells its recorder what it is called with."""

    def __init__(self, recorder: Recorder, function: Any):
        self.recorder, self.function = recorder, function

    def _note(self, arguments: tuple) -> None:
        leaves, structure = jax.tree.flatten(arguments)
        if not any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
            shapes = tuple((np.shape(leaf), getattr(leaf, "dtype", type(leaf))) for leaf in leaves)
            self.recorder.programs[id(self.function), structure, shapes] = self.function, arguments

    def __call__(self, *arguments: Any) -> Any:
        self._note(arguments)
        return self.function(*arguments)

    def lower(self, *arguments: Any) -> Any:
        self._note(arguments)
        return self.function.lower(*arguments)


def declare_field(n_dims: int) -> tuple[pm.Model, psy.WishartProcess]:
    rng = np.random.default_rng(n_dims)
    reference = rng.uniform(-0.5, 0.5, (N_TRIALS, n_dims))
    comparison = reference + rng.uniform(-0.4, 0.4, (N_TRIALS, n_dims))
    distance = np.linalg.norm(comparison - reference, axis=-1)
    correct = rng.random(N_TRIALS) < 1 - 2 / 3 * np.exp(-((distance / 0.3) ** 2))
    with pm.Model(coords={"trial": range(N_TRIALS)}) as model:
        reference, comparison = (
            pm.Data(name, points.astype(pytensor.config.floatX), dims=("trial", "axis"))
            for name, points in {"reference": reference, "comparison": comparison}.items()
        )
        field = psy.WishartProcess("W", input_dim=n_dims, basis_degree=1)
        p = psy.tasks.oddity_probability(field, reference, comparison)
        pm.Bernoulli("correct", p=p, observed=correct.astype(int), dims="trial")
    return model, field


def run_all(model: pm.Model, field: psy.WishartProcess) -> None:
    """Do with a model what users do, in few steps."""
    few = {"steps": 3, "progressbar": False}
    fit = psy.find_map(model, progressbar=False)
    psy.laplace(fit, draws=5, random_seed=1).standard_errors
    if field.input_dim == 2:
        # Its chains follow a likelihood of their own.
        psy.posterior(fit, draws=20, method="hmc", random_seed=1, progressbar=False)
    if field.input_dim > 1:
        # The rest differs by the likelihood only.
        return
    psy.find_map(model, optimizer="adam", rows=psy.Minibatches(10), **few)
    psy.find_map(model, starts=2, random_seed=1, **few)
    psy.find_maps(model, [{"correct": np.resize([1, 1, 0, 1, right], N_TRIALS)} for right in (0, 1)], **few)
    psy.threshold_contours(fit, field, np.zeros((1, field.input_dim)), n_directions=4)
    psy.bootstrap(fit, n_refits=2, method="parametric", random_seed=1, progressbar=False)
    psy.sample(fit, draws=5, tune=20, chains=2, random_seed=1, progressbar=False)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("floats", ["float64", "float32"])
@pytest.mark.parametrize("n_dims", [1, 2, 3])
def test_every_program_can_be_compiled_for_other_devices(n_dims: int, floats: str, monkeypatch: pytest.MonkeyPatch):
    recorder = Recorder()
    monkeypatch.setattr("jax.jit", recorder)
    # As on a machine with a GPU: each platform has its own road.
    monkeypatch.setattr("jax.extend.backend.backends", lambda: {"cpu": None, "cuda": None})
    with pytensor.config.change_flags(floatX=floats):
        run_all(*declare_field(n_dims))
    monkeypatch.undo()
    assert len(recorder.programs) > 3
    for function, arguments in recorder.programs.values():
        exported = jax.export.export(function, platforms=["cuda", "tpu"])(*arguments)
        assert set(re.findall(r"custom_call @([\w.]+)", exported.mlir_module())) <= CUSTOM_CALLS
