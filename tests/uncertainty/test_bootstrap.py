"""The bootstrap against analytic standard errors and against fits one by one."""

import numpy as np
import pymc as pm
import pytest
from compilations import count_compilations

import pm_psyphy as psy
from pm_psyphy.compiling.row_weights import WEIGHTS
from pm_psyphy.optimizing.minimise_many import minimise_each

N = 300
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, 2))
Y = X @ [1.0, -2.0] + 0.5 * RNG.normal(size=N)
# A refit ends within a hundredth of a standard error, which is 0.5 / sqrt(300) for a slope.
PRECISION = 1e-2 * 0.03


def regression(**observed):
    with pm.Model(coords={"trial": range(N), "predictor": ["a", "b"]}) as model:
        x = pm.Data("x", X, dims=("trial", "predictor"))
        slopes = pm.Normal("slopes", 0, 100, dims="predictor")
        pm.Normal("y", x @ slopes, pm.HalfNormal("sigma", 10), **({"observed": Y, "dims": "trial"} | observed))
    return model


@pytest.fixture(scope="module")
def fit():
    return psy.find_map(regression())


@pytest.mark.parametrize("method", ["resample", "parametric"])
def test_standard_errors_are_the_analytic_ones(fit, method):
    n = 600
    found = psy.bootstrap(fit, n_refits=n, method=method, random_seed=1, progressbar=False)
    assert found["slopes"].shape == (n, 2)
    assert set(found.status) == {psy.Status.CONVERGED}
    inverse = np.linalg.inv(X.T @ X)
    residual = Y - X @ fit["slopes"]
    # Resampled rows have the sandwich's covariance, simulated responses the model's.
    sandwich = inverse @ (X.T * residual**2) @ X @ inverse
    expected = np.sqrt(np.diag(sandwich if method == "resample" else inverse * fit["sigma"] ** 2))
    # The standard error of a standard deviation is 1 / sqrt(2 n) of it; the sandwich itself errs by 1 / N.
    np.testing.assert_allclose(found.standard_errors["slopes"], expected, rtol=4 / np.sqrt(2 * n) + 1 / N)
    assert np.all(np.abs(found["slopes"].mean(axis=0) - fit["slopes"]) < 4 * expected / np.sqrt(n) + expected / N)


def test_each_estimate_is_the_fit_of_its_data(fit):
    found = psy.bootstrap(fit, n_refits=5, random_seed=2, progressbar=False)
    counts = np.random.default_rng(2).multinomial(N, np.full(N, 1 / N), size=5)
    for i in (0, 4):
        rows = np.repeat(np.arange(N), counts[i])
        with pm.Model() as model:
            pm.Normal("y", X[rows] @ pm.Normal("slopes", 0, 100, shape=2), pm.HalfNormal("sigma", 10), observed=Y[rows])
        alone = psy.find_map(model)
        np.testing.assert_allclose(found["slopes"][i], alone["slopes"], atol=PRECISION)
        np.testing.assert_allclose(found.loss[i], alone.loss, rtol=1e-6)


def test_fits_with_loops_of_their_own_agree_with_those_that_share_one(fit, monkeypatch):
    together = psy.bootstrap(fit, n_refits=7, random_seed=3, progressbar=False)
    monkeypatch.setattr("pm_psyphy.optimizing.minimise_many.NUMBERS_OF_LANE", 10)
    alone = psy.bootstrap(fit, n_refits=7, random_seed=3, progressbar=False)
    np.testing.assert_allclose(alone["slopes"], together["slopes"], atol=PRECISION)


def test_strata_keep_their_sizes(fit):
    constant = np.repeat([0, 1], [N - 1, 1])
    with pm.Model(coords={"trial": range(N)}) as model:
        effects = pm.Normal("effects", 0, 10, shape=2)
        group = pm.Data("group", constant, dims="trial")
        pm.Normal("y", effects[group], 1, observed=Y, dims="trial")
    found = psy.bootstrap(psy.find_map(model), n_refits=20, strata=constant, random_seed=4, progressbar=False)
    # The group of one is drawn each time, and is always the same.
    np.testing.assert_allclose(found["effects"][:, 1], found["effects"][0, 1], atol=1e-3)
    assert found["effects"][:, 0].std() > 0.01
    with pytest.raises(ValueError, match=r"strata has shape \(3,\). Pass a label for each of the 300 rows"):
        psy.bootstrap(fit, strata=[1, 2, 3])


def test_a_second_bootstrap_of_new_data_compiles_nothing(fit):
    psy.bootstrap(fit, n_refits=7, random_seed=3, progressbar=False)
    other = psy.find_map(fit.objective.with_data(y=Y + 1))
    with count_compilations() as compiled:
        psy.bootstrap(other, n_refits=7, random_seed=5, progressbar=False)
    assert not compiled


def test_the_result_is_a_datatree_with_a_bootstrap_dim(fit):
    found = psy.bootstrap(fit, n_refits=7, random_seed=3, progressbar=False)
    tree = found.to_datatree()
    assert tree["posterior"]["slopes"].dims == ("bootstrap", "predictor")
    assert tree["fit"]["status"].to_numpy().tolist() == ["converged"] * 7
    np.testing.assert_allclose(tree["posterior"]["slopes"], found["slopes"])
    assert repr(found).splitlines()[-1] == "  7 of 7 fits to resampled data converged"
    np.testing.assert_allclose(found.evaluate(fit.objective.model["slopes"].sum()), found["slopes"].sum(axis=1))


def test_bad_input_is_said(fit):
    with pytest.raises(ValueError, match="n_refits is 0. Pass a whole number of at least 1"):
        psy.bootstrap(fit, n_refits=0)
    with pytest.raises(ValueError, match="method is 'jackknife'. Pass 'resample' or 'parametric'"):
        psy.bootstrap(fit, method="jackknife")
    with pytest.raises(ValueError, match=r"No observed variable has the dim 'row'; theirs are trial. Declare"):
        psy.bootstrap(fit, dim="row")
    with pytest.raises(ValueError, match=r"slopes has the dim 'predictor': there is a parameter for each"):
        psy.bootstrap(fit, dim="predictor")
    with pm.Model(coords={"trial": range(N), "axis": range(2)}) as vectors:
        mean = pm.Normal("mean", shape=2)
        pm.MvNormal("y", mean, np.eye(2), observed=np.stack([Y, Y], axis=1), dims=("trial", "axis"))
    with pytest.raises(ValueError, match=r"'y' has one log likelihood for all of 'axis', not one for each row"):
        psy.bootstrap(vectors, dim="axis")
    with pytest.warns(UserWarning, match="Not converged"):
        rough = psy.find_map(regression(), optimizer="sgd", learning_rate=1e-9, steps=2)
    with pytest.raises(ValueError, match="has not converged"):
        psy.bootstrap(rough)
    # Of other data than the model holds, it is those of the fit that are simulated.
    other = psy.find_map(fit.objective.with_data(y=Y + 1))
    assert len(psy.bootstrap(other, n_refits=3, method="parametric", random_seed=1, progressbar=False).loss) == 3


def test_samples_that_a_predictor_separates_are_not_called_converged(monkeypatch):
    x = np.array([-3, -2, -1, -0.5, 0.2, 0.5, 1, 2, 3, -0.2, 0.1, -0.1])
    y = np.array([0, 0, 0, 1, 1, 0, 1, 1, 1, 0, 0, 0])
    with pm.Model(coords={"trial": range(12)}) as model:
        slope, intercept = pm.Flat("slope"), pm.Flat("intercept")
        pm.Bernoulli("y", logit_p=intercept + slope * x, observed=y, dims="trial")
    samples = []

    def keep(objective, optimizer, starts, take, settings, **others):
        samples.append(take(np.arange(100))[WEIGHTS])
        return minimise_each(objective, optimizer, starts, take, settings, **others)

    monkeypatch.setattr("pm_psyphy.uncertainty.refit_from_mode.minimise_each", keep)
    with pytest.warns(UserWarning, match=r"of 100 fits did not converge \(.* unbounded\)"):
        found = psy.bootstrap(psy.find_map(model), n_refits=100, random_seed=1, progressbar=False)
    separated = []
    for counts in samples[0]:
        low, high = x[(y == 0) & (counts > 0)], x[(y == 1) & (counts > 0)]
        separated.append(low.max(initial=-9) < high.min(initial=9) or high.max(initial=-9) < low.min(initial=9))
    assert 5 < sum(separated) < 50
    assert [status is psy.Status.UNBOUNDED for status in found.status] == separated
