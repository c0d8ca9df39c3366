"""What PyTensor's own modes compile to evaluate an oddity probability or to draw responses, told without a clock."""

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from pytensor.compile.mode import get_mode
from pytensor.graph.fg import FunctionGraph
from pytensor.scan.op import Scan

import pm_psyphy as psy
from pm_psyphy.common.row_function import NumPyGraph, RowFunction, RowValue
from pm_psyphy.psychophysics.oddity import log_incorrect
from pm_psyphy.psychophysics.oddity_line import line_op
from pm_psyphy.psychophysics.oddity_plane import plane_op
from pm_psyphy.psychophysics.oddity_space import space_op

# Numba compiles three things for a function that calls NumPy, seven for the first constant, over a hundred for a field.
FEW = 10

SCRIPT = """
import sys
import jax
import numba.core.event
import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
import pm_psyphy as psy
from pm_psyphy.compiling.jax_linker import translate


def count_compilations(run):
    with numba.core.event.install_recorder("numba:compile") as recorder:
        result = run()
    return result, sum(event.is_start for _, event in recorder.buffer)


counts, found = {}, {}
rng = np.random.default_rng(0)
for d in (1, 2, 3):
    reference = rng.uniform(-0.7, 0.7, (6, d))
    comparison = reference + rng.uniform(-0.3, 0.3, (6, d))
    with pm.Model() as model:
        field = psy.WishartProcess("W", input_dim=d, basis_degree=1)
        p = pm.Deterministic("p", psy.tasks.oddity_probability(field, reference, comparison))
        psy.Oddity("correct", field, reference, comparison, observed=np.ones(6, int))
        prior, counts[f"prior_{d}"] = count_compilations(lambda: pm.sample_prior_predictive(3, random_seed=1))
        draws = prior["prior"].to_dataset()
        posterior, counts[f"posterior_{d}"] = count_compilations(
            lambda: pm.sample_posterior_predictive(
                draws, var_names=["p", "correct"], random_seed=1, progressbar=False
            )
        )
        _, counts[f"draw_{d}"] = count_compilations(lambda: pm.draw(p, random_seed=1))
    weights, z = draws["W"].values[0], draws["W_z"].values[0]

    def find_probability(w):
        known = psy.WishartProcess("W", input_dim=d, basis_degree=1, weights=w)
        return psy.tasks.oddity_probability(known, reference, comparison)

    at_constants, counts[f"eval_{d}"] = count_compilations(find_probability(weights[0]).eval)
    w = pt.tensor("w", shape=weights[0].shape)
    given, counts[f"eval_given_{d}"] = count_compilations(lambda: find_probability(w).eval({w: weights[0]}))
    by_jax = jax.jit(translate([w], [find_probability(w)]))
    found[f"jax_{d}"] = [by_jax(value)[0] for value in weights]
    found[f"prior_{d}"] = draws["p"].values[0]
    found[f"posterior_{d}"] = posterior["posterior_predictive"]["p"].values[0]
    found[f"eval_{d}"] = [at_constants]
    found[f"eval_given_{d}"] = [given]
    found[f"responses_{d}"] = posterior["posterior_predictive"]["correct"].values

np.savez(sys.argv[1], **found)
print(*(f"{name}={count}" for name, count in counts.items()))
"""

# Instead of g++. It notes what it is asked to do, and fails.
COMPILER = """#!/bin/sh
echo "$@" >> "{calls}"
exit 1
"""


@pytest.mark.slow
def test_values_and_predictive_draws_compile_next_to_nothing_and_are_those_of_jax(tmp_path: Path):
    compiler, calls, values = tmp_path / "g++", tmp_path / "calls", tmp_path / "values.npz"
    compiler.write_text(COMPILER.format(calls=calls))
    compiler.chmod(0o755)
    flags = f"base_compiledir={tmp_path / 'compiled'},cxx={compiler}"
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(values)],
        env=os.environ | {"PYTENSOR_FLAGS": flags},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not calls.exists(), calls.read_text()
    counts = dict(pair.split("=") for pair in done.stdout.splitlines()[-1].split())
    assert len(counts) == 15
    assert all(int(count) <= FEW for count in counts.values()), counts
    found = np.load(values)
    for d in (1, 2, 3):
        expected = found[f"jax_{d}"]
        for road in ("prior", "posterior", "eval", "eval_given"):
            # Rounding, of sums over about a hundred nodes.
            np.testing.assert_allclose(found[f"{road}_{d}"], expected[: len(found[f"{road}_{d}"])], rtol=1e-9)
        assert found[f"responses_{d}"].shape == (1, 3, 6)
        assert set(np.unique(found[f"responses_{d}"])) <= {0, 1}


def make_probability() -> tuple[list[Any], Any]:
    """Return the inputs and log P(incorrect) in the plane, for equal covariances."""
    difference, s0 = pt.matrix("difference", shape=(None, 2)), pt.tensor3("s0", shape=(None, 2, 2))
    return [difference, s0], log_incorrect(difference, s0, s0)


def rewrite_for_numba(inputs: list[Any], outputs: list[Any]) -> list[Any]:
    """Return the ops that numba would be given."""
    fgraph = FunctionGraph(inputs, outputs, clone=True)
    get_mode("NUMBA").optimizer.rewrite(fgraph)
    return [node.op for node in fgraph.apply_nodes]


def has(ops: list[Any], kind: type) -> bool:
    return any(isinstance(op, kind) for op in ops)


@pytest.mark.parametrize("mode", ["NUMBA", "FAST_COMPILE"])
def test_a_value_alone_is_left_to_numpy_without_its_derivatives(mode: str):
    inputs, log_q = make_probability()
    function = pytensor.function(inputs, log_q, mode=mode)
    ops = [node.op for node in function.maker.fgraph.apply_nodes]
    if mode == "NUMBA":
        (op,) = ops
        assert isinstance(op, NumPyGraph)
        ops = [node.op for node in op.function.maker.fgraph.apply_nodes]
    assert has(ops, RowValue)
    assert not has(ops, RowFunction)
    # A difference of 0.8 with standard deviations of 2 is as likely to be missed as one of 0.4 with 1.
    x, covariance = np.full((3, 2), 0.4), np.stack([np.eye(2)] * 3)
    np.testing.assert_allclose(function(x, covariance), function(2 * x, 4 * covariance), rtol=1e-10)


def test_numba_keeps_gradients():
    inputs, log_q = make_probability()
    ops = rewrite_for_numba(inputs, pytensor.grad(log_q.sum(), inputs))
    assert has(ops, RowFunction)
    assert not has(ops, RowValue)
    assert not has(ops, NumPyGraph)


def test_numba_keeps_loops():
    inputs, log_q = make_probability()
    sums = pytensor.scan(lambda value, total: total + value, [log_q], pt.zeros((), log_q.dtype), return_updates=False)
    ops = rewrite_for_numba(inputs, [sums[-1]])
    assert has(ops, Scan)
    assert has(ops, RowValue)
    assert not has(ops, NumPyGraph)


@pytest.mark.usefixtures("users_mode")
def test_sums_of_more_terms_than_numpy_takes_are_split():
    weights, stimuli = pt.tensor("weights", shape=(1, 1, 40)), (np.zeros((3, 1)), np.full((3, 1), 0.3))
    many, one = (
        psy.WishartProcess("W", input_dim=1, basis_degree=0, extra_dims=e - 1, weights=w)
        for e, w in ((40, weights), (1, np.full((1, 1, 1), 0.2)))
    )
    # Forty columns of equal weights and one have the same variance.
    found = psy.tasks.oddity_probability(many, *stimuli).eval({weights: np.full((1, 1, 40), 0.2 / np.sqrt(40))})
    np.testing.assert_allclose(found, psy.tasks.oddity_probability(one, *stimuli).eval(), rtol=1e-9)


@pytest.mark.parametrize("op", [line_op(16, "float64"), plane_op(8, 7, "float64"), space_op(3, 8, 14, "float64")])
def test_a_row_function_is_pickled_as_how_to_make_it(op: RowFunction):
    data = pickle.dumps(op)
    assert len(data) < 1000
    assert pickle.loads(data) is op


def test_only_the_value_of_a_row_function_is_built_for_a_value():
    op = space_op(3, 4, 4, "float64")
    # No difference, and both covariances the identity.
    ones = {3, 6, 8, 9, 12, 14}
    value = op(*(pt.ones(2) if i in ones else pt.zeros(2) for i in range(15)))[0]
    np.testing.assert_allclose(np.exp(value.eval(mode="FAST_COMPILE")), 2 / 3, atol=0.01)
    assert not {"fgraph", "derivatives"} & set(vars(op))
    pytensor.grad(value.sum(), value.owner.inputs[0])
    assert not {"fgraph", "derivatives"} & set(vars(op))
