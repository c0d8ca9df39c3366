"""Values on their way in: the same numbers arrive, or an error names what is wrong, wherever data come in."""

import numpy as np
import pandas as pd
import pymc as pm
import pytest
import xarray as xr

import pm_psyphy as psy
from pm_psyphy.common.arrays import convert_array, read_array

RNG = np.random.default_rng(1)
QUIET = {"progressbar": False}


def fit(model: pm.Model, **settings) -> psy.MAPResult:
    return psy.find_map(model, **QUIET, **settings)


@pytest.mark.parametrize(
    ("values", "dtype", "message"),
    [
        ([0.5, 1.0], int, "'x' holds 0.5 at row 0, and the model has int64. Pass whole numbers"),
        ([1.0, np.nan], int, "'x' holds nan at row 1, and the model has int64. Drop these rows"),
        ([1.0, np.inf], np.int8, "'x' holds inf at row 1, and the model has int8. Pass numbers in its range"),
        ([1, 300], np.int8, "'x' holds 300 at row 1, and the model has int8"),
        ([-1], np.uint8, "'x' holds -1 at row 0, and the model has uint8"),
        ([2.0**63], np.int64, "'x' holds 9.2.*e.18 at row 0"),
        ([1.0, 1e300], np.float32, "'x' holds 1e.300 at row 1, and the model has float32"),
        ([0, 2], bool, "'x' holds 2 at row 1, and the model has booleans"),
        ([1 + 1j], float, "'x' is of type complex128"),
        (["a"], float, "'x' is of type <U1"),
    ],
)
def test_numbers_that_a_type_cannot_hold_are_refused(values, dtype, message):
    with pytest.raises(ValueError, match=message):
        convert_array("x", np.asarray(values), dtype)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "uint16", "uint32", "uint64", "float32", "bool"])
def test_numbers_that_a_type_holds_arrive(dtype):
    np.testing.assert_array_equal(convert_array("x", np.array([1, 0], dtype), "int32"), [1, 0])


def test_nullable_objects_and_missing_ones_become_nan():
    np.testing.assert_array_equal(read_array("x", pd.Series([1, None], dtype="Int64")), [1, np.nan])
    assert read_array("x", pd.Series([1, 2], dtype="UInt8")).dtype == np.uint8
    np.testing.assert_array_equal(read_array("x", [1, None, 2.5]), [1, np.nan, 2.5])
    with pytest.raises(ValueError, match="'x' holds 'a' at row 1. Pass numbers"):
        read_array("x", np.array([1, "a"], object))


def test_masked_values_are_refused_everywhere():
    masked = np.ma.masked_array([1.0, 2.0, 3.0], mask=[False, True, False])
    with pm.Model() as model:
        data = pm.Data("obs", [1.0, 2.0, 3.0])
        pm.Normal("y", pm.Normal("b"), 1, observed=data)
    with pytest.raises(ValueError, match="'obs' has 1 masked values, the first at row 1"):
        psy.compile_objective(model).with_data(obs=masked)
    with pytest.raises(ValueError, match="masked values, the first at row 1"):
        psy.find_maps(model, {"ann": {"obs": masked}}, **QUIET)


def integers():
    with pm.Model() as model:
        x = pm.Data("x", np.arange(10), dims="t")
        b = pm.Normal("b", 0, 10)
        pm.Normal("y", b * x, 0.1, observed=pm.Data("o", np.arange(10.0), dims="t"), dims="t")
    return model


def test_fractions_for_integers_are_refused_in_batches_too():
    x = RNG.uniform(0, 1, 200)
    for data, settings in (({"x": x, "o": 3 * x}, {}), ([{"x": x, "o": 3 * x}], {"total_size": 200})):
        with pytest.raises(ValueError, match="'x' holds 0.* at row 0, and the model has int"):
            fit(integers(), rows=psy.Minibatches(50, data=data, **settings), steps=10)


def test_an_index_out_of_range_is_refused_in_batches_too():
    with pm.Model() as model:
        group = pm.Data("g", np.arange(5), dims="t")
        effect = pm.Normal("a", 0, 10, shape=5)
        pm.Normal("y", effect[group], 1, observed=pm.Data("o", np.arange(5.0), dims="t"), dims="t")
    rows = np.arange(40) % 7
    with pytest.raises(ValueError, match="'g' holds or gives the index 5 at row 5, into an axis of length 5"):
        fit(model, rows=psy.Minibatches(10, data={"g": rows, "o": 1.0 * rows}), steps=20, random_seed=1)


@pytest.mark.parametrize("shift", [0, 1])
def test_an_index_that_is_computed_or_constant_is_checked(shift):
    with pm.Model() as model:
        index = pm.Data("i", np.array([1, 2, 3, 9])) - 1 if shift else np.array([0, 1, 2, 7])
        pm.Normal("y", pm.Normal("a", 0, 1, shape=5)[index], 1, observed=np.arange(4.0))
    with pytest.raises(ValueError, match=f"the index {8 if shift else 7} at row 3, into an axis of length 5"):
        fit(model)


def test_xarray_objects_are_read_by_their_dims():
    x, beta = np.random.default_rng(1).normal(size=(4, 4, 3)), np.array([1.0, 2, 3, 4])
    with pm.Model(coords={"trial": range(4), "pred": range(4)}) as model:
        data = pm.Data("x", x[..., 0], dims=("trial", "pred"))
        observed = pm.Data("o", x[..., 0] @ beta, dims="trial")
        pm.Normal("y", data @ pm.Normal("b", 0, 10, shape=4), 0.1, observed=observed, dims="trial")
    outcomes = np.einsum("tps,p->ts", x, beta)
    sets = xr.Dataset({"x": (("pred", "trial", "s"), np.swapaxes(x, 0, 1)), "o": (("trial", "s"), outcomes)})
    # The mode of a linear model with an error of 0.1 and a prior of 10.
    modes = [np.linalg.solve(a.T @ a + (0.1 / 10) ** 2 * np.eye(4), a.T @ a @ beta) for a in np.moveaxis(x, -1, 0)]
    np.testing.assert_allclose(psy.find_maps(model, sets, dim="s", **QUIET)["b"], modes, rtol=1e-4)
    first = xr.DataArray(x[..., 0].T, dims=("pred", "trial"))
    np.testing.assert_allclose(psy.compile_objective(model).with_data(x=first).data["x"], x[..., 0])
    with pytest.raises(ValueError, match="'x' has the dims pred, place, the model has trial, pred"):
        psy.compile_objective(model).with_data(x=first.rename(trial="place"))


def test_no_rows_are_refused():
    with pytest.raises(ValueError, match="'o' was given without any row"):
        psy.compile_objective(integers()).with_data(o=np.zeros(0), x=np.zeros(0, int))


@pytest.mark.parametrize(("n", "bad"), [(60, np.nan), (100, np.nan), (100, np.inf)])
def test_what_is_not_finite_in_an_array_used_directly_is_named(n, bad):
    x = np.linspace(-1, 1, n)
    y = 2 * x
    x[7] = bad
    with pm.Model() as model:
        pm.Normal("y", pm.Normal("b", 0, 5) * x, 1, observed=y)
    with pytest.raises(ValueError, match=rf"an array \({n},\) that 'y' needs.*at row 7"):
        fit(model)


def test_integers_keep_their_digits():
    n = np.arange(10, 60)
    with pm.Model() as model:
        p = pm.Beta("p", 1, 1)
        pm.Binomial("y", n=pm.Data("n", n), p=p, observed=n // 3)
        pm.NegativeBinomial("z", mu=p * 9, alpha=3, observed=n // 4)
    objective = psy.compile_objective(model)
    own = model.compile_logp(jacobian=False)(model.initial_point())
    # Rounding of some hundred terms in float64.
    assert float(objective.value(objective.start)) == pytest.approx(-float(own), rel=1e-13)


def test_data_changed_in_place_are_seen_by_the_next_fit():
    x = RNG.normal(size=2000)
    with pm.Model() as model:
        observed = pm.Data("o", 2 * x)
        pm.Normal("y", pm.Normal("b", 0, 10) * x, 1, observed=observed)
    assert fit(model)["b"] == pytest.approx(2, abs=1e-3)
    observed.get_value(borrow=True)[:] = -3 * x
    assert fit(model)["b"] == pytest.approx(-3, abs=1e-3)


def test_a_small_array_changed_in_place_is_seen_too():
    x = np.array([1.0, 2.0])
    with pm.Model() as model:
        pm.Normal("y", pm.Normal("b", 0, 10) * x, 1, observed=[2.0, 4.0])
    first = fit(model)["b"]
    x *= 2
    assert fit(model)["b"] == pytest.approx(first / 2, rel=0.02)


def test_an_objective_keeps_the_data_it_was_given():
    x = RNG.normal(size=64)
    with pm.Model() as model:
        pm.Normal("y", pm.Normal("b", 0, 10) * x, 1, observed=pm.Data("o", x))
    objective, kept = psy.compile_objective(model), []
    for _ in range(20):
        # Where an array lies in memory decides whether JAX would take it over.
        buffer = x.copy()
        changed = objective.with_data(o=buffer)
        buffer[:] = -9 * x
        kept.append((buffer, np.allclose(changed.data["o"], x)))
    assert all(whole for _, whole in kept)


def test_names_of_the_user_meet_none_of_ours():
    with pm.Model(coords={"trial": range(6)}) as model:
        mode = pm.Data("mode", RNG.normal(size=6), dims="trial")
        weights = pm.Data("row weights", np.ones(6), dims="trial")
        constant = pm.Data("constant", np.ones(6), dims="trial")
        mu = pm.Normal("mu") * mode * weights * constant
        pm.Normal("y", mu, 1, observed=np.linspace(-1, 1, 6), dims="trial")
    found = fit(model)
    assert psy.bootstrap(found, n_refits=5, random_seed=1, **QUIET)["mu"].shape == (5,)
    assert psy.laplace(found)["mu"].shape == (1000,)
    np.testing.assert_allclose(psy.compile_objective(model).with_data(constant=np.full(6, 2.0)).data["constant"], 2)
