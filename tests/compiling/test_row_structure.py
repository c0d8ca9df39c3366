"""What may be divided follows from the graph: every answer is compared with models that have only some of the rows."""

import warnings
from collections.abc import Callable

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
import pytest
from random_models import DIM, build

import pm_psyphy as psy
from pm_psyphy.common.row_function import UNCHANGED
from pm_psyphy.compiling.model_graph import lift, read_data
from pm_psyphy.compiling.row_weights import REST, WEIGHTS, RowsDepend, write_weighted_log_density
from pm_psyphy.rows.memory_blocks import divide_program
from pm_psyphy.rows.weighted_objective import divide

N_MODELS = 240


def compile_density(model: pm.Model, point: dict) -> Callable[[slice, int], np.ndarray]:
    """Return the weighted log density of some rows at a point, and its gradient, as a function of the rows."""
    density = write_weighted_log_density(model, DIM, jacobian=False)
    gradient = pytensor.grad(density.log_density, model.value_vars, disconnected_inputs="ignore")
    graph = lift(model, [density.log_density, *gradient], rows=density.rows, unfrozen=density.numbers)
    held = read_data(graph.sources)
    axes = {name: density.rows[v] for name, v in graph.sources.items() if v in density.rows} | {WEIGHTS: 0}
    function = pytensor.function(graph.inputs, graph.outputs, mode=UNCHANGED, on_unused_input="ignore")

    def evaluate(rows: slice, n_parts: int) -> np.ndarray:
        data = held | {name: held[name][(slice(None),) * axis + (rows,)] for name, axis in axes.items()}
        data |= {REST: np.asarray(1 / n_parts)}
        if DIM in data:
            data[DIM] = np.asarray(len(data[WEIGHTS]), data[DIM].dtype)
        found = function(*(point[p.name] for p in graph.parameters), *(data[name] for name in graph.data))
        return np.concatenate([np.ravel(part) for part in found])

    return evaluate


def find_rows_alone(seed: int, rows: slice, point: dict) -> np.ndarray:
    """Return the log likelihood of each row, by PyMC, of the model that has these rows only."""
    model, *_ = build(seed, rows)
    (term,) = model.logp(vars=model.observed_RVs, sum=False)
    return model.compile_fn(term, inputs=model.value_vars, mode=UNCHANGED, on_unused_input="ignore")(point)


def is_divided(model: pm.Model) -> bool:
    try:
        write_weighted_log_density(model, DIM, jacobian=False)
    except RowsDepend:
        return False
    return True


@pytest.mark.parametrize("part", range(8))
def test_random_models_are_divided_where_their_rows_are_independent_and_refused_where_not(part: int):
    for seed in range(part, N_MODELS, 8):
        model, mixed, constant = build(seed)
        rng = np.random.default_rng(seed)
        point = {v.name: 0.5 * rng.normal(size=np.shape(s)) for v, s in zip(
            model.value_vars, model.initial_point().values(), strict=True
        )}  # fmt: skip
        n = len(model.coords[DIM])
        halves = slice(None, n // 2), slice(n // 2, None)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            whole = find_rows_alone(seed, slice(None), point)
            apart = np.concatenate([find_rows_alone(seed, half, point) for half in halves])
        independent = np.allclose(whole, apart, rtol=1e-9, atol=1e-9)
        assert independent == (not mixed), f"{seed}: {mixed!r} is sorted wrongly among the random models"
        if mixed and not (constant and is_divided(model)):
            with pytest.raises(RowsDepend, match="depend on each other"):
                write_weighted_log_density(model, DIM, jacobian=False)
        else:
            # What PyMC computes of constants alone, before it is fitted, is a covariate as if NumPy had computed it.
            # Rounding of some hundred terms.
            evaluate = compile_density(model, point)
            total, parts = evaluate(slice(None), 1), sum(evaluate(half, 2) for half in halves)
            np.testing.assert_allclose(parts, total, rtol=1e-10, atol=1e-10, err_msg=str(seed))
            prior = model.compile_fn(
                [sum(t.sum() for t in model.logp(vars=model.free_RVs, sum=False, jacobian=False))],
                inputs=model.value_vars,
                mode=UNCHANGED,
            )(point)[0]
            np.testing.assert_allclose(total[0], prior + whole.sum(), rtol=1e-9, err_msg=str(seed))


@pytest.mark.parametrize("seed", range(0, 60, 6))
def test_a_fit_in_blocks_or_shards_is_the_whole_fit(seed: int):
    with warnings.catch_warnings():
        # Few rows leave some of the models without an optimum inside, which is said.
        warnings.simplefilter("ignore", UserWarning)
        objective = psy.compile_objective(build(seed)[0])
        divided, axes = divide(objective, DIM)
        from dataclasses import replace

        blocked = replace(divided, program=divide_program(divided.program, DIM, axes, 4))
        whole, parts = (psy.find_map(o, progressbar=False) for o in (objective, blocked))
    # Both end within 1e-8 nats of the same optimum.
    assert parts.loss == pytest.approx(whole.loss, abs=1e-6)


def refuse(declare, match: str):
    with pm.Model(coords={DIM: range(8)}) as model:
        declare(np.random.default_rng(0).normal(size=8))
    with pytest.raises(RowsDepend, match=match):
        write_weighted_log_density(model, DIM, jacobian=False)


def test_potential_of_all_rows_is_named():
    def declare(x):
        data, b = pm.Data("x", x, dims=DIM), pm.Normal("b")
        pm.Normal("y", b * data, 1, observed=x, dims=DIM)
        pm.Potential("all", -((b * data).sum() ** 2))

    refuse(declare, "'all' needs several of 'x' at once, by Sum")


def test_dependence_names_its_op_and_its_variable():
    def declare(x):
        pm.Normal("y", pt.cumsum(pm.Normal("b") * pm.Data("x", x)), 1, observed=x, dims=DIM)

    refuse(declare, "'y' needs several of 'x' at once, by CumOp along axis 0")


def test_series_and_processes_have_one_log_likelihood():
    def declare_series(x):
        pm.AR("y", pm.Normal("rho", shape=1), sigma=1, init_dist=pm.Normal.dist(), observed=x, dims=DIM)

    def declare_process(x):
        process = pm.gp.Marginal(cov_func=pm.gp.cov.ExpQuad(1, pm.HalfNormal("length")))
        process.marginal_likelihood("y", x[:, None], y=x, sigma=1, dims=DIM)

    refuse(declare_series, "one log likelihood for all of 'trial'")
    refuse(declare_process, "one log likelihood for all of 'trial'")


def test_parameter_for_each_row_is_named():
    refuse(lambda x: pm.Normal("y", pm.Normal("b", shape=8), 1, observed=x, dims=DIM), "'b' has a parameter for each")


def test_observers_are_divided():
    rng = np.random.default_rng(0)
    for n_dims in (1, 2, 3):
        with pm.Model(coords={DIM: range(8)}) as model:
            field = psy.WishartProcess("W", input_dim=n_dims, basis_degree=1)
            points = pm.Data("reference", rng.uniform(-0.5, 0.5, (8, n_dims)))
            psy.Oddity("y", field, points, points + 0.1, observed=rng.integers(0, 2, 8), dims=DIM)
        found = write_weighted_log_density(model, DIM, jacobian=False)
        assert {v.name: axis for v, axis in found.rows.items() if v.name} == {"reference": 0, "y": 0}
