"""Many data sets in one program: each fit is the one that find_map makes of it alone."""

import numpy as np
import pymc as pm
import pytest
import xarray as xr
from compilations import count_compilations

import pm_psyphy as psy
from pm_psyphy.optimizing import minimise_many as pool
from pm_psyphy.optimizing.status import Status

N_SETS, N_TRIALS = 12, 40
RNG = np.random.default_rng(0)
X = RNG.uniform(-2, 2, (N_SETS, N_TRIALS))
SLOPES = np.exp(RNG.normal(0, 0.3, N_SETS))
SEEN = (RNG.random((N_SETS, N_TRIALS)) < 1 / (1 + np.exp(-SLOPES[:, None] * X))).astype(int)
LENGTHS = RNG.integers(15, N_TRIALS, N_SETS)


def build(n=N_TRIALS):
    with pm.Model(coords={"trial": range(n)}) as model:
        x = pm.Data("x", X[0, :n], dims="trial")
        threshold, slope = pm.Normal("threshold", 0, 1), pm.LogNormal("slope", 0, 0.5)
        p = pm.Deterministic("p", pm.math.sigmoid(slope * (x - threshold)), dims="trial")
        pm.Bernoulli("y", p=p, observed=pm.Data("seen", SEEN[0, :n], dims="trial"), dims="trial")
    return model


def cut():
    return {f"S{i}": {"x": X[i, :n], "seen": SEEN[i, :n]} for i, n in enumerate(LENGTHS)}


@pytest.fixture(scope="module")
def model():
    return build()


@pytest.fixture(scope="module")
def ragged(model):
    return psy.find_maps(model, cut(), dim="observer", progressbar=False)


def find_alone(model, data):
    return psy.find_map(psy.compile_objective(model).with_data(**data), progressbar=False)


@pytest.mark.parametrize("form", ["stacks", "list", "labels", "dataset"])
def test_all_forms_of_data_give_the_fits_of_find_map(model, form):
    names = [f"S{i}" for i in range(N_SETS)]
    singles = [{"x": X[i], "seen": SEEN[i]} for i in range(N_SETS)]
    dataset = xr.Dataset(
        {"x": (("trial", "observer"), X.T), "seen": (("observer", "trial"), SEEN)}, coords={"observer": names}
    )
    data = {
        "stacks": {"x": X, "seen": SEEN},
        "list": singles,
        "labels": dict(zip(names, singles, strict=True)),
        "dataset": dataset,
    }[form]
    fits = psy.find_maps(model, data, dim="observer", progressbar=False)
    assert fits.labels == tuple(range(N_SETS) if form in ("stacks", "list") else names)
    assert fits.converged.all()
    for i in (0, 7):
        alone = find_alone(model, singles[i])
        assert fits.n_steps[i] == alone.n_steps
        np.testing.assert_allclose(fits.loss[i], alone.loss, rtol=1e-12)
        for name in alone:
            np.testing.assert_allclose(fits[name][i], alone[name], rtol=1e-6)


def test_padded_fits_are_the_unpadded_ones(model, ragged):
    for i, (label, data) in enumerate(cut().items()):
        alone = find_alone(model, data)
        # The padded rows add exact zeros, so that only the order of the sums differs.
        np.testing.assert_allclose(ragged.loss[i], alone.loss, rtol=1e-12)
        np.testing.assert_allclose(ragged["threshold"][i], alone["threshold"], rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(ragged["p"][i, : LENGTHS[i]], alone["p"], rtol=1e-8)
        assert np.isnan(ragged["p"][i, LENGTHS[i] :]).all()
        assert ragged.labels[i] == label


def test_a_field_is_fitted_to_trials_of_any_number():
    rng = np.random.default_rng(1)
    sets = {}
    for name, n in {"ann": 150, "bob": 230}.items():
        reference = rng.uniform(-0.7, 0.7, (n, 2))
        comparison = np.clip(reference + rng.normal(0, 0.2, (n, 2)), -1, 1)
        sets[name] = {"reference": reference, "comparison": comparison, "response": rng.integers(0, 2, n)}
    with pm.Model(coords={"trial": range(150)}) as model:
        field = psy.WishartProcess("W", input_dim=2, basis_degree=1, extra_dims=0)
        stimuli = [pm.Data(name, sets["ann"][name]) for name in ("reference", "comparison")]
        psy.Oddity("correct", field, *stimuli, observed=pm.Data("response", sets["ann"]["response"]), dims="trial")
    fits = psy.find_maps(model, sets, progressbar=False)
    for i, (name, data) in enumerate(sets.items()):
        alone = find_alone(model, data)
        np.testing.assert_allclose(fits.loss[i], alone.loss, rtol=1e-9)
        places = [[0.0, 0.0], [0.5, 0.5]]
        np.testing.assert_allclose(
            fits.evaluate(field.covariance(places))[i], alone.evaluate(field.covariance(places)), rtol=1e-4
        )
        np.testing.assert_allclose(fits.select(name).loss, alone.loss, rtol=1e-9)


def test_rows_that_depend_on_each_other_are_not_padded():
    with pm.Model() as model:
        x = pm.Data("x", X[0], dims="trial")
        slope = pm.Normal("slope")
        pm.Bernoulli("y", logit_p=slope * (x - x.mean()), observed=pm.Data("seen", SEEN[0]), dims="trial")
    with pytest.raises(ValueError, match="'y' needs several of 'x' at once, by Sum"):
        psy.find_maps(model, cut(), progressbar=False)


def test_one_nan_fails_one_fit_by_name(model):
    x = np.tile(X, (9, 1))[:100].copy()
    seen = np.tile(SEEN, (9, 1))[:100]
    x[37, 3] = np.nan
    data = {f"S{i}": {"x": x[i], "seen": seen[i]} for i in range(100)}
    with pytest.warns(UserWarning, match=r"1 of 100 fits did not converge: 'S37'. .*NaN: 'x' \(1 NaN, first at index"):
        fits = psy.find_maps(model, data, progressbar=False)
    assert fits.converged.sum() == 99
    assert fits.status[37] is Status.DIVERGED
    assert np.isnan(fits["threshold"][37])
    np.testing.assert_allclose(fits["threshold"][36], fits["threshold"][0], rtol=1e-9)
    with pytest.raises(ValueError, match="'S37' has no estimate. The data hold NaN"):
        fits.select("S37")
    assert "99 of 100 data sets converged, not 'S37'" in repr(fits)


def test_no_finite_loss_at_all_is_an_error(model):
    with pytest.raises(ValueError, match="The data hold NaN: 'x'"):
        psy.find_maps(model, {"x": np.full_like(X, np.nan), "seen": SEEN}, progressbar=False)


def test_other_data_compile_nothing(model):
    psy.find_maps(model, {"x": X, "seen": SEEN}, progressbar=False)["p"]
    with count_compilations() as seconds:
        psy.find_maps(model, {"x": X[::-1].copy(), "seen": SEEN[::-1].copy()}, progressbar=False)["p"]
    assert not seconds


def test_fits_that_end_make_room_for_those_that_wait(model, monkeypatch):
    """A fit that takes long holds one lane; the others go through the rest."""
    x, seen = np.tile(X, (10, 1)), np.tile(SEEN, (10, 1))
    # Nearly separable answers with a distant threshold take more steps.
    x[0], seen[0] = np.linspace(5, 6, N_TRIALS), np.arange(N_TRIALS) > 30
    monkeypatch.setattr(pool, "LANES_OF_CPU", 8)
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    taken = []
    run = pool.get_loop

    def count(*arguments):
        loop, search, seconds = run(*arguments)

        def advance(before, *rest):
            after, history = loop.advance(before, *rest)
            taken.append(int(np.max(np.asarray(after.step) - np.maximum(np.asarray(before.step), 0))))
            return after, history

        return loop.__class__(advance, loop.unstarted, loop.layout, []), search, seconds

    monkeypatch.setattr(pool, "get_loop", count)
    fits = psy.find_maps(model, {"x": x, "seen": seen}, progressbar=False)
    assert fits.converged.all()
    evaluations = fits.n_steps + 1
    batches = evaluations.reshape(-1, 8).max(axis=1).sum()
    # Lanes are looked at every few steps, and the last ones run empty.
    assert sum(taken) <= (evaluations.sum() / 8) + evaluations.max() + pool.STEPS_OF_CHUNK * len(x) / 8
    assert sum(taken) < batches + pool.STEPS_OF_CHUNK * len(x) / 8


def test_each_data_set_keeps_its_best_start():
    with pm.Model() as model:
        mu = pm.Uniform("mu", -4, 4)
        y = pm.Data("y", np.zeros(3))
        pm.Potential("wells", -((mu**2 - 4) ** 2).sum() + 0.5 * (mu * y).sum())
    data = {"y": np.array([[1.0, 1, 1], [-1, -1, -1]])}
    fits = psy.find_maps(model, data, starts=8, init="prior", random_seed=1, progressbar=False)
    np.testing.assert_array_equal(np.sign(fits["mu"]), [1, -1])


def test_a_fit_of_one_data_set_goes_on_to_its_posterior(model, ragged):
    alone = find_alone(model, cut()["S3"])
    fit = ragged.select("S3")
    assert fit["p"].shape == (LENGTHS[3],)
    ours, theirs = (psy.laplace(f, random_seed=0).standard_errors["threshold"] for f in (fit, alone))
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    with pytest.raises(KeyError, match="There is no data set 'ann'"):
        ragged.select("ann")


def test_expressions_are_of_each_data_set(model, ragged):
    at = ragged.evaluate(model["p"][:3] * 2)
    np.testing.assert_allclose(at[5], 2 * ragged["p"][5, :3], rtol=1e-10)


def test_the_tree_names_data_sets(ragged):
    tree = ragged.to_datatree()
    assert tree["posterior"]["threshold"].dims == ("observer",)
    assert tree["posterior"]["p"].dims == ("observer", "trial")
    np.testing.assert_allclose(tree["posterior"]["threshold"].sel(observer="S4"), ragged["threshold"][4])
    seen = tree["observed_data"]["y"].sel(observer="S4").to_numpy()
    np.testing.assert_array_equal(seen[: LENGTHS[4]], SEEN[4, : LENGTHS[4]])
    assert np.isnan(seen[LENGTHS[4] :]).all()
    assert set(tree["fit"].data_vars) == {"loss", "gradient_norm", "n_steps", "status"}
    np.testing.assert_array_equal(tree["fit"]["status"], ["converged"] * N_SETS)


def test_ctrl_c_returns_what_has_ended(model, monkeypatch):
    monkeypatch.setattr(pool, "LANES_OF_CPU", 2)
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    waited = []

    def interrupt(loops, **kwargs):
        while sum(np.isfinite(each) for each in seen) < 2:
            pass
        waited.append(1)
        raise KeyboardInterrupt

    seen = []
    run = pool._run_lanes

    def watch(*arguments):
        *rest, note = arguments

        def note_too(loop, search, lanes, numbers):
            note(loop, search, lanes, numbers)
            seen.extend(np.atleast_1d(search.best_loss)[lanes])
            while not waited and len(seen) >= 2:
                pass

        run(*rest, note_too)

    monkeypatch.setattr(pool, "_run_lanes", watch)
    monkeypatch.setattr(pool, "wait", interrupt)
    with pytest.warns(UserWarning, match="fits did not converge"):
        fits = psy.find_maps(model, {"x": X, "seen": SEEN}, progressbar=False)
    assert 2 <= fits.converged.sum() < N_SETS
    assert {fits.status[i] for i in np.flatnonzero(~fits.converged)} == {Status.INTERRUPTED}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"x": X[0]}, "'x' was given with shape"),
        ({"x": X, "seen": SEEN[:3]}, "Each needs a leading axis for data sets, of the same length"),
        ({}, "The stacks are nothing"),
        ([], "There are no data sets"),
        ([{"x": X[0]}, {"seen": SEEN[0]}], "Data set 1 holds seen; the first one holds x"),
        ([{"x": X[0], "seen": SEEN[0]}, {"x": X[0, :5], "seen": SEEN[0, :6]}], "rows"),
        ([{"x": X[0], "seen": SEEN[0]}, {"x": X[0, :0], "seen": SEEN[0, :0]}], "Data set 1 has no rows"),
        ([{"x": X[0]}, {"x": X}], "may differ along one axis"),
        ({"nothing": X}, "'nothing' is no data of this model"),
        (xr.Dataset({"x": ("trial", X[0])}), "No variable of the Dataset has the dim 'dataset'"),
    ],
)
def test_bad_data_say_what_is_wrong(model, data, message):
    with pytest.raises(ValueError, match=message):
        psy.find_maps(model, data, progressbar=False)


def test_data_of_another_type_are_an_error(model):
    with pytest.raises(TypeError, match="data is a int"):
        psy.find_maps(model, 3)


def test_an_index_out_of_range_names_its_data_set():
    with pm.Model() as model:
        group = pm.Data("group", np.array([0, 1, 2]))
        pm.Normal("y", pm.Normal("mu", 0, 1, shape=3)[group], 1, observed=pm.Data("obs", np.zeros(3)))
    with pytest.raises(ValueError, match="Data set 1: 'group' holds or gives the index 3 at row 2"):
        psy.find_maps(model, {"group": [[0, 1, 2], [0, 1, 3]], "obs": np.zeros((2, 3))}, progressbar=False)


def test_lengths_without_a_dim_are_an_error():
    with pm.Model() as model:
        pm.Normal("y", pm.Normal("mu"), 1, observed=pm.Data("obs", np.zeros(3)))
    with pytest.raises(ValueError, match="have 2 to 3 rows, and the model names no dim for them"):
        psy.find_maps(model, [{"obs": np.zeros(3)}, {"obs": np.zeros(2)}], progressbar=False)


def test_minibatches_are_refused():
    batch = pm.Minibatch(np.zeros(10), batch_size=2)
    with pm.Model() as model:
        pm.Normal("y", pm.Normal("mu"), 1, observed=batch, total_size=10)
    with pytest.raises(ValueError, match="The model uses pm.Minibatch"):
        psy.find_maps(model, {"y": np.zeros((2, 10))})
