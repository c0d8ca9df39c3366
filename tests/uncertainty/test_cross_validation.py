"""Cross-validation against a plain loop over fits, and its choice of hyperparameters against the truth."""

import numpy as np
import pymc as pm
import pytest
from compilations import count_compilations
from scipy import stats

import pm_psyphy as psy

N = 60
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, 8))
SLOPES = RNG.normal(0, 0.5, 8)
Y = X @ SLOPES + RNG.normal(size=N)
SCALES = [0.05, 0.5, 5.0]


def ridge(rows=slice(None), scale=0.5):
    with pm.Model(coords={"trial": range(len(Y[rows]))}) as model:
        slopes = pm.Normal("slopes", 0, pm.Data("scale", scale), shape=8)
        pm.Normal("y", X[rows] @ slopes, pm.HalfNormal("sigma", 2), observed=Y[rows], dims="trial")
    return model


@pytest.fixture(scope="module")
def found():
    return psy.cross_validate(ridge(), folds=5, grid={"scale": SCALES}, random_seed=1, progressbar=False)


def test_it_is_the_loop_over_folds_and_settings(found):
    assert found.log_likelihood.shape == (3, N)
    assert found.converged.all()
    assert set(np.bincount(found.folds)) == {N // 5}
    for i, scale in enumerate(SCALES):
        for fold in (0, 4):
            held_out = found.folds == fold
            fit = psy.find_map(ridge(~held_out, scale), progressbar=False)
            expected = stats.norm.logpdf(Y[held_out], X[held_out] @ fit["slopes"], fit["sigma"])
            # Refits end within a thousandth of a standard error in each of nine directions.
            np.testing.assert_allclose(found.log_likelihood[i, held_out], expected, atol=0.01)
            np.testing.assert_allclose(found.by_fold[i, fold], expected.sum(), atol=0.02)


def test_both_choices_find_the_scale_of_the_slopes(found):
    assert found.best == {"scale": 0.5}
    assert found.best_by_evidence == {"scale": 0.5}
    lost, error = found.compare()
    assert lost[1] == error[1] == 0
    pairs = found.log_likelihood[1] - found.log_likelihood[0]
    np.testing.assert_allclose([lost[0], error[0]], [pairs.sum(), np.sqrt(N) * pairs.std(ddof=1)])


def test_the_evidence_is_that_of_laplace(found):
    for i, scale in enumerate(SCALES):
        posterior = psy.laplace(psy.find_map(ridge(scale=scale), progressbar=False))
        np.testing.assert_allclose(found.log_evidence[i], posterior.log_evidence, atol=1e-4)


def test_folds_may_be_given_and_need_not_be_equal():
    sessions = np.repeat(["a", "b", "c"], [10, 20, 30])
    found = psy.cross_validate(psy.find_map(ridge(), progressbar=False), folds=sessions, progressbar=False)
    assert found.grid == {}
    assert found.by_fold.shape == (3,)
    fit = psy.find_map(ridge(sessions != "a"), progressbar=False)
    expected = stats.norm.logpdf(Y[:10], X[:10] @ fit["slopes"], fit["sigma"]).sum()
    np.testing.assert_allclose(found.by_fold[0], expected, atol=0.02)


def test_all_settings_share_what_is_compiled(found):
    model = ridge()
    psy.cross_validate(model, grid={"scale": [0.1]}, progressbar=False)
    with count_compilations() as compiled:
        psy.cross_validate(model, grid={"scale": [0.2, 0.3]}, progressbar=False)
    assert not compiled


def test_potentials_with_the_dim_are_held_out_too():
    with pm.Model(coords={"trial": range(N)}) as model:
        slopes = pm.Normal("slopes", 0, 0.5, shape=8)
        sigma = pm.HalfNormal("sigma", 2)
        pm.Potential("y", pm.logp(pm.Normal.dist(X @ slopes, sigma), Y), dims="trial")
    by_potential = psy.cross_validate(model, random_seed=1, progressbar=False)
    observed = psy.cross_validate(ridge(), random_seed=1, progressbar=False)
    np.testing.assert_allclose(by_potential.log_likelihood, observed.log_likelihood, atol=0.01)


def test_the_result_says_what_it_found(found):
    text = repr(found)
    assert text.startswith("CrossValidation: 5 folds of 60 rows, 3 settings")
    assert text.splitlines()[2].split()[0] == "0.5"
    tree = found.to_datatree()["cross_validation"]
    assert tree["log_likelihood"].dims == ("scale", "trial")
    assert tree["log_likelihood"].sel(scale=5.0).sum() == found.total[2]
    assert tree["converged"].dims == ("scale", "fold")


def test_a_setting_that_cannot_be_fitted_is_named_and_the_others_are_kept():
    with pytest.warns(UserWarning, match=r"No fit at scale = 0\.0"):
        found = psy.cross_validate(ridge(), grid={"scale": [0.0, 0.5]}, progressbar=False)
    assert np.isnan(found.total[0])
    assert found.best == {"scale": 0.5}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"folds": 1}, "folds is 1, but there are 60 rows. Pass a whole number from 2 to 60"),
        ({"folds": 61}, "folds is 61, but there are 60 rows. Pass a whole number from 2 to 60"),
        ({"folds": [0, 1]}, r"folds has shape \(2,\). Pass a number, or a label for each of the 60 rows"),
        ({"folds": ["a"] * N}, "All rows are in the fold 'a'"),
        ({"dim": "row"}, "No observed variable has the dim 'row'; theirs are trial"),
        (
            {"grid": {"decay": [1.0]}},
            "The grid has 'decay', which is not pm.Data in the model \\(data: scale\\). Declare",
        ),
        ({"grid": {"scale": []}}, r"The grid has \[\] for 'scale'. Pass a sequence of values"),
        ({"grid": {"scale": 1.0}}, "The grid has 1.0 for 'scale'. Pass a sequence of values"),
    ],
)
def test_bad_input_is_said(settings, message):
    with pytest.raises(ValueError, match=message):
        psy.cross_validate(ridge(), progressbar=False, **settings)
