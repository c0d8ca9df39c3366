"""Minibatches of rows: each row once an epoch, the same order for the same seed, from any source, from any step on."""

from itertools import islice, pairwise

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pymc as pm
import pytest
import xarray as xr
import zarr

import pm_psyphy as psy
from pm_psyphy.compiling.row_weights import WEIGHTS
from pm_psyphy.rows import row_source as stream
from pm_psyphy.rows.minibatches import make_batches
from pm_psyphy.rows.row_source import Blocks, Rows
from pm_psyphy.rows.weighted_objective import divide

N, B = 103, 10
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, 2))
Y = X @ [1.0, -1.0] + RNG.normal(size=N)


def build(x=X, y=Y):
    with pm.Model(coords={"trial": range(len(y))}) as model:
        beta = pm.Normal("beta", 0, 2, shape=2)
        mean = pm.Data("x", x, dims=("trial", "k")) @ beta
        pm.Normal("y", mean, pm.HalfNormal("sigma", 2), observed=pm.Data("obs", y, dims="trial"), dims="trial")
    return model


@pytest.fixture(scope="module")
def model():
    return build()


def as_they_are(rows: dict[str, np.ndarray], first: int) -> dict[str, np.ndarray]:
    return {name: np.asarray(array) for name, array in rows.items()}


def make_rows(n=N):
    return Rows({"row": np.arange(n)}, {"row": 0}, as_they_are)


def list_batches(chunks, n_steps):
    batches: list[np.ndarray] = []
    for chunk in chunks:
        batches += [a[:k] for a, k in zip(chunk.arrays["row"][: chunk.n_steps], chunk.n_real, strict=False)]
        if len(batches) >= n_steps:
            return batches[:n_steps]
    return batches


@pytest.mark.parametrize("window", [16_000_000, 400, 1])
def test_every_row_is_in_one_batch_of_an_epoch(window, monkeypatch):
    monkeypatch.setattr(stream, "NUMBERS_OF_WINDOW", window)
    monkeypatch.setattr(stream, "NUMBERS_OF_CHUNK", 30)
    batches = list_batches(make_rows().draw(B, 1, 0), 22)
    for epoch in (batches[:11], batches[11:]):
        assert [len(rows) for rows in epoch] == [B] * 10 + [3]
        np.testing.assert_array_equal(np.sort(np.concatenate(epoch)), np.arange(N))
    assert any((a != b).any() for a, b in zip(batches[:10], batches[11:21], strict=True))
    # Shuffled within a window at least, and otherwise for another seed.
    assert (np.diff(batches[0]) != 1).any()
    assert any((a != b).any() for a, b in zip(batches[:10], list_batches(make_rows().draw(B, 2, 0), 10), strict=True))


@pytest.mark.parametrize("window", [16_000_000, 40])
@pytest.mark.parametrize("first", [1, 10, 11, 17])
def test_batches_from_a_step_on_are_those_of_the_whole_run(first, window, monkeypatch):
    monkeypatch.setattr(stream, "NUMBERS_OF_WINDOW", window)
    whole = list_batches(make_rows().draw(B, 1, 0), 30)
    later = list_batches(make_rows().draw(B, 1, first), 30 - first)
    for ours, theirs in zip(later, whole[first:], strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_rows_of_a_window_are_read_in_long_runs(monkeypatch):
    monkeypatch.setattr(stream, "NUMBERS_OF_WINDOW", 640)
    runs = []

    class Disk(np.ndarray):
        def __getitem__(self, key):
            runs.append(key[0].stop - key[0].start)
            return np.asarray(self)[key]

    rows = Rows({"row": np.arange(6400).view(Disk)}, {"row": 0}, as_they_are)
    batches = list_batches(rows.draw(B, 1, 0), 640)
    np.testing.assert_array_equal(np.sort(np.concatenate(batches)), np.arange(6400))
    assert set(runs) == {1, B}
    # A window has blocks from all over.
    assert np.ptp(np.concatenate(batches[:64])) > 5000


def test_losses_of_the_batches_of_an_epoch_add_up_to_that_of_all_rows(model):
    objective = psy.compile_objective(model)
    batches = make_batches(objective, psy.Minibatches(B, dim="trial"))
    total = 0.0
    for arrays, n_steps in islice(batches.draw(3, 0), 1):
        for k in range(n_steps):
            data = batches.objective.data | {name: a[k] for name, a in arrays.items()}
            loss = batches.objective.program.value(objective.start, data, None)
            total += float(loss) * np.count_nonzero(arrays[WEIGHTS][k]) / N
        assert n_steps == 11
    np.testing.assert_allclose(total, objective.value(objective.start), rtol=1e-12)


def test_the_fit_is_the_loop_written_by_hand(model):
    transformation = optax.adam(0.05)
    fit = psy.find_map(
        model, rows=psy.Minibatches(B), steps=40, optimizer=transformation, random_seed=5, progressbar=False
    )
    _, seed = map(int, np.random.default_rng(5).integers(2**31, size=2))
    order = list_batches(make_rows().draw(B, seed, 0), 41)

    def loss(params, x, y):
        sigma = jnp.exp(params["sigma_log__"])
        log_p = jax.scipy.stats.norm.logpdf
        prior = log_p(params["beta"], 0, 2).sum() + np.log(2) + log_p(sigma, 0, 2)
        return -prior - N / len(y) * log_p(y, x @ params["beta"], sigma).sum()

    params = jax.tree.map(jnp.asarray, model.initial_point())
    state, losses = transformation.init(params), []
    for rows in order:
        value, grads = jax.value_and_grad(loss)(params, X[rows], Y[rows])
        losses.append(float(value))
        last = params
        updates, state = transformation.update(grads, state)
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(fit.history.loss, losses, rtol=1e-10)
    np.testing.assert_allclose(fit["beta"], last["beta"], rtol=1e-9)
    assert "All 40 steps were taken" in fit.message


def test_all_sources_give_the_same_fit(model, tmp_path):
    def fit(model=model, **given):
        return psy.find_map(model, rows=psy.Minibatches(B, **given), steps=60, random_seed=1, progressbar=False)

    ours = fit()
    for name, array in {"x": X, "obs": Y}.items():
        np.save(tmp_path / f"{name}.npy", array)
    mapped = {name: np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in ("x", "obs")}
    labelled = xr.Dataset({"x": (("trial", "k"), X), "obs": ("trial", Y)})
    chunked = {name: zarr.array(array, chunks=(20, 2)[: array.ndim]) for name, array in {"x": X, "obs": Y}.items()}
    example = build(X[:20], Y[:20])
    for data in (mapped, labelled, labelled.chunk(trial=25), chunked):
        theirs = fit(example, data=data)
        np.testing.assert_array_equal(theirs["beta"], ours["beta"])


def test_a_fit_goes_on_in_the_middle_of_an_epoch(model, tmp_path):
    settings = {"rows": psy.Minibatches(B), "random_seed": 2, "progressbar": False, "learning_rate": 0.05}
    whole = psy.find_map(model, steps=57, **settings)
    path = tmp_path / "state.npz"
    psy.find_map(model, steps=26, checkpoint=path, **settings)
    resumed = psy.find_map(model, steps=57, checkpoint=path, **settings)
    np.testing.assert_array_equal(resumed["beta"], whole["beta"])
    np.testing.assert_array_equal(resumed.history.loss, whole.history.loss)
    with pytest.raises(ValueError, match="its rows differ"):
        psy.find_map(model, steps=57, checkpoint=path, **settings | {"rows": psy.Minibatches(20)})


def test_a_callback_sees_the_steps_that_are_logged(model):
    seen = []
    rows = psy.Minibatches(B)
    psy.find_map(model, rows=rows, steps=50, log_every=7, callback=lambda p: seen.append(p.step), progressbar=False)
    assert seen == [0, 7, 14, 21, 28, 35, 42, 49, 50]


def test_blocks_come_as_they_are(model):
    cuts = [0, 7, 31, 64, N]
    blocks = [{"x": X[a:b], "obs": Y[a:b]} for a, b in pairwise(cuts)]
    found = Blocks(lambda: blocks, blocks[0], N, {"obs": 0}, as_they_are)
    seen: list[np.ndarray] = []
    for chunk in found.draw(B, 0, 0):
        seen += [a[:k] for a, k in zip(chunk.arrays["obs"][: chunk.n_steps], chunk.n_real, strict=False)]
        if len(seen) >= 22:
            break
    np.testing.assert_array_equal(np.concatenate(seen[:11]), Y)
    np.testing.assert_array_equal(np.concatenate(seen[11:22]), Y)
    later = next(found.draw(B, 0, 12))
    np.testing.assert_array_equal(later.arrays["obs"][0], Y[B : 2 * B])

    example = build(X[:20], Y[:20])
    once, again = (
        psy.find_map(example, rows=psy.Minibatches(B, data=data, total_size=N), steps=80, progressbar=False)
        for data in (blocks, lambda: iter(blocks))
    )
    np.testing.assert_array_equal(once["beta"], again["beta"])


def test_an_iterator_that_ends_ends_the_fit(model):
    blocks = iter([{"x": X, "obs": Y}])
    fit = psy.find_map(build(X[:20], Y[:20]), rows=psy.Minibatches(B, data=blocks, total_size=N), progressbar=False)
    assert fit.n_steps == 10


def test_an_error_of_the_reader_is_raised(model):
    def read():
        yield {"x": X[:50], "obs": Y[:50]}
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        psy.find_map(model, rows=psy.Minibatches(B, data=read, total_size=N), progressbar=False)


def test_a_truncated_file_is_named_and_the_fit_goes_on_once_it_is_whole(model, tmp_path, monkeypatch):
    # Windows of two blocks, so that the file is read during the fit, too.
    monkeypatch.setattr(stream, "NUMBERS_OF_WINDOW", 60)
    monkeypatch.setattr(stream, "BLOCKS_OF_WINDOW", 2)
    monkeypatch.setattr(stream, "NUMBERS_OF_CHUNK", 30)
    stored = {n: zarr.array(a, chunks=(5, 2)[: a.ndim], store=str(tmp_path / n)) for n, a in {"x": X, "obs": Y}.items()}
    settings = {"rows": psy.Minibatches(B, data=stored), "steps": 40, "random_seed": 3, "progressbar": False}
    whole = psy.find_map(model, **settings)
    (part,) = (path for path in (tmp_path / "obs").rglob("*") if path.is_file() and path.name == "10")
    held = part.read_bytes()
    part.write_bytes(held[: len(held) // 2])
    with pytest.raises(OSError, match="of 'obs' cannot be read .* with checkpoint="):
        psy.find_map(model, checkpoint=tmp_path / "state.npz", **settings)
    part.write_bytes(held)
    resumed = psy.find_map(model, checkpoint=tmp_path / "state.npz", **settings)
    np.testing.assert_array_equal(resumed.history.loss, whole.history.loss)


def test_division_finds_what_has_rows():
    with pm.Model(coords={"trial": range(200)}) as model:
        x = pm.Data("x", RNG.normal(size=(200, 3)))
        table = RNG.normal(size=200)
        pm.Normal("y", x @ pm.Normal("b", shape=3) + table, 1, observed=RNG.normal(size=200), dims="trial")
    _, axes = divide(psy.compile_objective(model), "trial")
    assert axes == {WEIGHTS: 0, "x": 0, "constant_0": 0, "y": 0}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 0}, "The size of minibatches is 0. Pass a whole number"),
        ({"size": 5, "dim": "place"}, "No observed variable has the dim 'place'"),
        ({"size": 5, "data": {"x": X}}, "The data lack obs"),
        ({"size": 5, "data": {"x": X, "obs": Y, "z": Y}}, "beside those with rows, z"),
        ({"size": 5, "data": {"x": X, "obs": Y[:4]}}, "The rows are"),
        ({"size": 5, "data": {"x": X[:, :1], "obs": Y}}, "'x' was given with shape"),
        ({"size": 5, "data": iter([])}, "total_size is None"),
        ({"size": 5, "data": [{"x": X}], "total_size": N}, "A block of rows holds x. It lacks obs"),
    ],
)
def test_bad_settings_say_what_is_wrong(model, settings, message):
    with pytest.raises(ValueError, match=message):
        psy.find_map(model, rows=psy.Minibatches(**settings), progressbar=False)


def test_rows_that_depend_on_each_other_are_refused():
    with pm.Model() as model:
        x = pm.Data("x", X[:, 0], dims="trial")
        pm.Normal("y", pm.Normal("b") * (x - x.mean()), 1, observed=Y, dims="trial")
    with pytest.raises(ValueError, match="Rows of 'trial' depend on each other"):
        psy.find_map(model, rows=psy.Minibatches(B), progressbar=False)


def test_a_model_without_a_dim_is_told_to_name_one():
    with pm.Model() as model:
        pm.Normal("y", pm.Normal("mu"), 1, observed=Y)
    with pytest.raises(ValueError, match="have no dims. Say by dim"):
        psy.find_map(model, rows=psy.Minibatches(B), progressbar=False)


def test_rows_that_are_no_minibatches_are_an_error(model):
    with pytest.raises(TypeError, match=r"rows is 50. Pass psy.Minibatches\(size\), or None"):
        psy.find_map(model, rows=50)
