"""A fit keeps its own view of the model: what follows a fit is of the data of that fit."""

import copy
import multiprocessing
import os
import pickle
import subprocess
import sys

import numpy as np
import optax
import pymc as pm
import pytest
from compilations import count_compilations

import pm_psyphy as psy

QUIET = {"progressbar": False}


def regression(x):
    with pm.Model(coords={"obs": [f"r{i}" for i in range(len(x))]}) as model:
        data = pm.Data("x", x, dims="obs")
        a, b = pm.Normal("a", 0, 5), pm.Normal("b", 0, 5)
        mu = pm.Deterministic("mu", a + b * data, dims="obs")
        pm.Normal("y", mu, 1, observed=pm.Data("response", 1 + 2 * np.asarray(x), dims="obs"), dims="obs")
    return model, mu


def change(model):
    coords = {"obs": list("abc")}
    pm.set_data({"x": [10.0, 11, 12], "response": [0.0, 0, 0]}, model=model, coords=coords)


def test_what_follows_a_fit_is_of_its_data_after_set_data_with_other_lengths():
    model, _ = regression([0.0, 1, 2, 3])
    fit = psy.find_map(model, **QUIET)
    before = (
        psy.laplace(fit, draws=20, random_seed=1),
        psy.bootstrap(fit, n_refits=4, random_seed=1, **QUIET),
        fit.to_datatree(),
    )
    simulated = psy.bootstrap(fit, n_refits=4, method="parametric", random_seed=1, **QUIET)
    change(model)
    posterior, refits, tree = (
        psy.laplace(fit, draws=20, random_seed=1),
        psy.bootstrap(fit, n_refits=4, random_seed=1, **QUIET),
        fit.to_datatree(),
    )
    np.testing.assert_allclose(posterior["mu"], before[0]["mu"])
    np.testing.assert_allclose(refits["b"], before[1]["b"])
    np.testing.assert_allclose(
        psy.bootstrap(fit, n_refits=4, method="parametric", random_seed=1, **QUIET)["b"], simulated["b"]
    )
    for now, then in ((tree, before[2]), (posterior.to_datatree(), before[0].to_datatree())):
        assert list(now["posterior"]["obs"].values) == ["r0", "r1", "r2", "r3"]
        np.testing.assert_allclose(now["constant_data"]["x"], then["constant_data"]["x"])
        np.testing.assert_allclose(now["observed_data"]["y"], then["observed_data"]["y"])


def test_evaluate_says_whose_data_it_used_and_predicts_for_others():
    model, mu = regression([0.0, 1, 2, 3])
    fit = psy.find_map(model, **QUIET)
    a, b = float(fit["a"]), float(fit["b"])
    change(model)
    with pytest.warns(UserWarning, match="The model has other values of 'x' now"):
        np.testing.assert_allclose(fit.evaluate(mu), a + b * np.arange(4.0))
    with pytest.warns(UserWarning, match="The model has other values of 'x', 'response' now"):
        fit.evaluate(model["y"] - mu)
    assert fit.evaluate(2 * model["a"]) == 2 * a
    np.testing.assert_allclose(fit.evaluate(mu, data={"x": [10.0, 20.0]}), a + b * np.array([10.0, 20.0]))
    with pytest.raises(ValueError, match="'z' is no data of this model. It has response, x"):
        fit.evaluate(mu, data={"z": 1.0})


def test_lengths_that_do_not_fit_are_named_after_set_data():
    with pm.Model(coords={"obs": range(4)}) as model:
        x = pm.Data("x", [0.0, 1, 2, 3], dims="obs")
        pm.Normal("y", pm.Normal("b", 0, 5) * x, 1, observed=[1.0, 3, 5, 7], dims="obs")
    psy.find_map(model, **QUIET)
    pm.set_data({"x": [10.0, 11, 12]}, model=model, coords={"obs": range(3)})
    with pytest.raises(ValueError, match=r"The shapes of the data do not fit the model: x \(3,\), y \(4,\)"):
        psy.find_map(model, **QUIET)


def test_variables_added_after_a_fit_are_refused_by_what_follows():
    model, _ = regression([0.0, 1, 2, 3])
    fit = psy.find_map(model, **QUIET)
    with model:
        pm.HalfNormal("sigma")
    with pytest.raises(ValueError, match="Variables were added to the model after this fit"):
        psy.bootstrap(fit, n_refits=3, **QUIET)


def test_equal_transformations_are_compiled_once():
    model, _ = regression([0.0, 1, 2, 3])
    with pytest.warns(UserWarning, match="Not converged"):
        psy.find_map(model, optimizer=optax.sgd(1e-3, momentum=0.5), steps=5, **QUIET)
    with count_compilations() as compiled, pytest.warns(UserWarning, match="Not converged"):
        psy.find_map(model, optimizer=optax.sgd(1e-3, momentum=0.5), steps=5, **QUIET)
    assert not compiled
    with count_compilations() as compiled, pytest.warns(UserWarning, match="Not converged"):
        psy.find_map(model, optimizer=optax.sgd(2e-3, momentum=0.5), steps=5, **QUIET)
    assert compiled


def test_results_are_equal_to_themselves_and_say_what_to_use_in_place_of_a_pickle():
    model, _ = regression([0.0, 1, 2, 3])
    fit = psy.find_map(model, **QUIET)
    fits = psy.find_maps(model, {"response": np.zeros((2, 4))}, **QUIET)
    held = fit, psy.laplace(fit, draws=10), fit.objective, fits, psy.bootstrap(fit, n_refits=3, **QUIET)
    for result in held:
        assert result == copy.copy(result)
        assert result != 3
        assert hash(result) == hash(copy.copy(result))
        for way in (pickle.dumps, copy.deepcopy):
            with pytest.raises(TypeError, match=f"{type(result).__name__} holds a compiled program and cannot be"):
                way(result)


def test_observed_expressions_are_in_the_tree():
    with pm.Model() as model:
        target = pm.Data("target", np.arange(1.0, 9))
        pm.Normal("y", pm.Normal("mu"), 1, observed=target / target.max())
    tree = psy.find_map(model, **QUIET).to_datatree()
    np.testing.assert_allclose(tree["observed_data"]["y"], np.arange(1.0, 9) / 8)


def _fit_in_child(queue):
    with pm.Model() as model:
        pm.Normal("y", pm.Normal("b"), 1, observed=[1.0, 2.0])
    try:
        psy.find_map(model, **QUIET)
    except RuntimeError as error:
        queue.put(str(error))


@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
def test_a_forked_child_is_told_at_once():
    psy.find_map(regression([0.0, 1])[0], **QUIET)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_fit_in_child, args=(queue,))
    child.start()
    assert "was forked from one that has computed" in queue.get(timeout=60)
    child.join(60)
    assert not child.is_alive()


FLAGS = """
import sys, jax, pymc as pm, pm_psyphy as psy
with pm.Model(coords={"trial": range(3)}) as model:
    pm.Normal("y", pm.Normal("a"), 1, observed=[1.0, 2.0, 3.0], dims="trial")
with pm.Model() as prior:
    pm.Normal("a")
    pm.Potential("p", -prior["a"] ** 2)
if "default" in sys.argv:
    jax.config.update("jax_default_device", "cpu")
fit = psy.find_map(model, progressbar=False)
psy.laplace(fit, draws=5), psy.bootstrap(fit, n_refits=3, progressbar=False)
psy.laplace(psy.find_map(prior, device="cpu", progressbar=False), draws=5)
print(float(fit["a"]))
"""


@pytest.mark.parametrize("setting", ["JAX_DEBUG_NANS", "JAX_DISABLE_JIT", "default"])
def test_fits_run_under_jax_settings(setting, monkeypatch):
    monkeypatch.setenv(setting, "True")
    done = subprocess.run([sys.executable, "-c", FLAGS, setting], capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == "1.5", done.stderr[-2000:]


def test_a_platform_that_is_missing_is_named(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    done = subprocess.run([sys.executable, "-c", FLAGS], capture_output=True, text=True, timeout=300)
    assert "JAX finds none of the devices that it is told to use, 'cuda'" in done.stderr
