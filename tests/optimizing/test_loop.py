"""What can be said of the loop without a clock."""

import os
import signal
import subprocess
import sys
import threading

import jax
import models
import numpy as np
import pymc as pm
import pytest
from compilations import count_compilations

import pm_psyphy as psy
from pm_psyphy.optimizing import compiled_loop as loop_module
from pm_psyphy.optimizing.compiled_loop import UNSTARTED, Settings, get_loop, run_chunks
from pm_psyphy.optimizing.optimizers import make_transformation


def make_search(model, optimizer="adam", n=1):
    objective = psy.compile_objective(model)
    transformation = make_transformation(optimizer, stochastic=objective.stochastic)
    starts = {name: np.repeat(value[None], n, axis=0) for name, value in objective.start.items()}
    loop, search, _ = get_loop(objective.program, transformation, starts, objective.data)
    return objective, loop, search


def test_a_fit_compiles_its_loop_once_and_a_second_fit_nothing():
    model = models.logistic()
    psy.compile_objective(model).constrain(psy.compile_objective(model).start)
    with count_compilations() as first:
        psy.find_map(model)
    assert len(first) == 1
    with model:
        pm.set_data({"labels": 1 - model["labels"].get_value()})
    with count_compilations() as second:
        fit = psy.find_map(model)
        psy.find_map(model, initvals={"beta": np.ones(5)}, steps=77, tolerance=1e-6, log_every=3)
        psy.find_map(psy.compile_objective(model).with_data(labels=np.zeros(1000, int)), steps=20_000)
    assert second == []
    assert fit.converged


def test_a_cold_fit_compiles_two_programs():
    with count_compilations() as compiled:
        psy.find_map(models.eight_schools())
    # The loop and the constrained variables.
    assert len(compiled) == 2


def test_a_warm_fit_is_one_call_to_the_device_however_many_its_steps():
    objective, loop, search = make_search(models.logistic())
    loop.seconds_per_step[:] = [1e-6]
    chunks = list(run_chunks(loop, search, objective.data, 0, Settings(steps=2000, tolerance=-1.0, log_every=1)))
    assert len(chunks) == 1
    state, steps, rows = chunks[0]
    assert int(state.step) == 2001
    assert rows.shape == (2001, 2)
    np.testing.assert_array_equal(steps, np.arange(2001))


def test_the_compiled_loop_calls_nothing_on_the_host():
    _, loop, _ = make_search(models.logistic(), "lbfgs")
    text = loop.advance.as_text()
    assert "callback" not in text
    assert "infeed" not in text
    assert "outfeed" not in text


def test_the_compiled_loop_holds_no_data():
    def size(n):
        _, loop, _ = make_search(models.hierarchical(n=n), "lbfgs")
        return len(loop.advance.as_text())

    assert abs(size(20_000) - size(200)) < 50_000


def test_the_lbfgs_program_holds_the_model_once():
    def count_exponentials(optimizer):
        _, loop, _ = make_search(models.logistic(), optimizer)
        return loop.advance.as_text().count(" dot(")

    objective = psy.compile_objective(models.logistic())
    once = objective.program.jitted_value_and_grad.lower(objective.start, objective.data, None).compile()
    # The products x @ beta and residuals @ x of the model, against those and the fixed number that L-BFGS itself needs.
    own = loop_dots(1)
    assert loop_dots(5) == own
    assert count_exponentials("adam") == once.as_text().count(" dot(")


def loop_dots(n_features):
    _, loop, _ = make_search(models.logistic(n_features=n_features + 2), "lbfgs")
    return loop.advance.as_text().count(" dot(")


@pytest.mark.parametrize("log_every", [1, 3, 10])
def test_chunks_change_neither_the_path_nor_the_history(log_every):
    objective, loop, search = make_search(models.logistic())
    settings = {"steps": 100, "tolerance": 0.0, "log_every": log_every}

    def run(chunk_steps):
        chunks = list(run_chunks(loop, search, objective.data, 0, Settings(**settings, chunk_steps=chunk_steps)))
        steps = np.concatenate([c[1] for c in chunks])
        return len(chunks), steps, np.concatenate([c[2] for c in chunks]), chunks[-1][0]

    (_, steps, rows, whole), (n_chunks, steps_7, rows_7, parts) = run(1000), run(7)
    assert n_chunks == 16
    np.testing.assert_array_equal(steps, np.arange(0, 101, log_every))
    np.testing.assert_array_equal(steps_7, steps)
    np.testing.assert_array_equal(rows_7, rows)
    np.testing.assert_array_equal(parts.params, whole.params)


def test_a_history_longer_than_one_chunk_is_whole(monkeypatch):
    monkeypatch.setattr(loop_module, "HISTORY_ROWS", 64)
    objective, loop, search = make_search(models.normal())
    loop.seconds_per_step[:] = [1e-9]
    chunks = list(run_chunks(loop, search, objective.data, 0, Settings(steps=500, tolerance=0.0, log_every=1)))
    steps = np.concatenate([c[1] for c in chunks])
    losses = np.concatenate([c[2] for c in chunks])[:, 0]
    np.testing.assert_array_equal(steps, np.arange(501))
    assert np.isfinite(losses).all()


def test_the_history_is_the_loss_of_a_hand_written_loop():
    objective = psy.compile_objective(models.logistic())
    rate = 1e-3
    params, losses = dict(objective.start), []
    for _ in range(21):
        loss, grads = objective.value_and_grad(params)
        losses.append(float(loss))
        params = {name: value - rate * grads[name] for name, value in params.items()}
    with pytest.warns(UserWarning, match="Not converged after 20 steps"):
        fit = psy.find_map(objective, optimizer="sgd", learning_rate=rate, steps=20)
    np.testing.assert_allclose(fit.history.loss, losses, rtol=1e-12)
    np.testing.assert_array_equal(fit.history.step, np.arange(21))
    assert fit.n_steps == 20


def test_unstarted_searches_begin_at_their_parameters():
    _, _, search = make_search(models.logistic(), n=3)
    assert np.all(search.step == UNSTARTED)
    assert search.code.shape == (3,)


@pytest.mark.filterwarnings("ignore:Interrupted")
def test_ctrl_c_returns_the_best_so_far():
    model = models.hierarchical()
    with pytest.warns(UserWarning, match="Not converged"):
        psy.find_map(model, optimizer="adam", steps=1)
    # A shell that starts the tests in the background has them ignore the signal.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    try:
        fit = psy.find_map(model, optimizer="adam", steps=2_000_000_000, tolerance=0.0, log_every=1_000_000)
    finally:
        timer.join()
        signal.signal(signal.SIGINT, before)
    assert fit.status is psy.Status.INTERRUPTED
    assert "Interrupted at step" in fit.message
    assert fit.n_steps > 1
    assert np.isfinite(fit["slope"])


def test_importing_changes_no_global_state():
    script = """
import logging, os, warnings
before = dict(os.environ), list(logging.root.handlers), logging.root.level, list(warnings.filters)
import jax, optax, pymc, scipy.optimize, scipy.special  # SciPy adds filters of its own
loggers = logging.Logger.manager.loggerDict
handlers = {name: (list(getattr(l, "handlers", [])), getattr(l, "level", 0)) for name, l in loggers.items()}
filters, x64 = list(warnings.filters), jax.config.jax_enable_x64
import pm_psyphy
assert dict(os.environ) == before[0], "environment"
assert logging.root.handlers == before[1] and logging.root.level == before[2], "root logger"
assert warnings.filters == filters, "warnings"
for name, state in handlers.items():
    logger = logging.Logger.manager.loggerDict[name]
    assert (list(getattr(logger, "handlers", [])), getattr(logger, "level", 0)) == state, name
assert jax.config.jax_enable_x64 == x64, "x64"
assert not jax._src.xla_bridge._backends, "a device was started"
assert len(jax.devices("cpu")) == 1, "device count"
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_one_key_a_step_and_none_reused():
    objective = psy.compile_objective(models.minibatch())
    with jax.disable_jit(False):
        losses = psy.find_map(objective, steps=30, learning_rate=1e-12, random_seed=0).history.loss
    # The parameters stand still, so that equal losses would mean equal batches.
    assert len(np.unique(losses)) == 31
