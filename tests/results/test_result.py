"""What a fit looks like, and what it turns into."""

import pickle

import arviz_plots
import jax.numpy as jnp
import matplotlib as mpl
import models
import numpy as np
import pymc as pm
import pytest
import xarray as xr

import pm_psyphy as psy
from pm_psyphy.common.tables import Table

mpl.use("Agg")


@pytest.fixture(scope="module")
def fit():
    return psy.find_map(models.eight_schools(), initvals={"tau": 3.0})


def test_a_fit_is_a_mapping_from_the_users_names_to_numpy_arrays(fit):
    assert list(fit) == ["mu", "tau", "z", "theta"]
    assert len(fit) == 4
    assert all(type(value) is np.ndarray for value in fit.values())
    np.testing.assert_allclose(fit["theta"], fit["mu"] + fit["tau"] * fit["z"], rtol=1e-12)
    np.testing.assert_allclose(np.exp(fit.unconstrained["tau_log__"]), fit["tau"], rtol=1e-12)
    assert "theta" in dict(fit)


def test_a_fit_is_frozen(fit):
    with pytest.raises(AttributeError):
        fit.loss = 0.0
    with pytest.raises(ValueError, match="read-only"):
        fit["theta"][0] = 1.0


def test_pickling_points_to_save(fit):
    with pytest.raises(TypeError, match="cannot be pickled. Save it by `.save"):
        pickle.dumps(fit)


def test_an_unknown_name_lists_the_known_ones(fit):
    with pytest.raises(KeyError, match="'sigma' is not in this fit, which has mu, tau, z, theta"):
        fit["sigma"]


def test_the_loss_is_pymcs_own_log_probability(fit):
    model = models.eight_schools()
    logp = model.compile_logp(jacobian=False, mode="FAST_COMPILE")
    np.testing.assert_allclose(fit.loss, -logp(fit.unconstrained), rtol=1e-12)


def test_the_repr_says_how_it_went_and_what_was_found(fit):
    text = repr(fit)
    assert text.startswith("MAPResult: Converged after ")
    assert "  mu     4.6" in text
    assert "(8)" in text
    assert "L-BFGS on cpu" in text
    assert max(len(line) for line in text.splitlines()) < 110


def test_var_names_choose_what_the_result_holds():
    chosen = psy.find_map(models.eight_schools(), var_names=["theta", "mu"])
    assert list(chosen) == ["theta", "mu"]


def test_any_tensor_of_the_model_can_be_evaluated(fit):
    model = fit.objective.model
    np.testing.assert_allclose(fit.evaluate(model["theta"] ** 2), fit["theta"] ** 2, rtol=1e-12)
    mu, spread = fit.evaluate([model["mu"], model["y"] - model["theta"]])
    assert mu == fit["mu"]
    np.testing.assert_allclose(spread, np.array([28.0, 8, -3, 7, -1, 1, 18, 12]) - fit["theta"], rtol=1e-12)
    with pytest.raises(ValueError, match="draws random numbers"):
        fit.evaluate(pm.draw and pm.Normal.dist(model["mu"], 1))


def test_evaluate_sees_the_data_of_the_objective():
    model = models.logistic()
    doubled = 2 * model["x"].get_value()
    fit = psy.find_map(psy.compile_objective(model).with_data(x=doubled))
    np.testing.assert_array_equal(fit.evaluate(model["x"]), doubled)
    np.testing.assert_array_equal(fit.to_datatree()["constant_data"]["x"], doubled)


def test_the_tree_has_the_groups_dims_and_coords(fit):
    tree = fit.to_datatree()
    assert set(tree.children) == {"posterior", "unconstrained_posterior", "observed_data", "fit", "history"}
    theta = tree["posterior"]["theta"]
    assert theta.dims == ("chain", "draw", "school")
    assert list(theta.school.values) == list("ABCDEFGH")
    np.testing.assert_array_equal(theta[0, 0], fit["theta"])
    assert tree["observed_data"]["y"].dims == ("school",)
    assert tree["fit"].attrs["status"] == "converged"
    assert list(tree["fit"]["rows"].values[:3]) == ["mu", "tau_log__", "z[0]"]
    np.testing.assert_array_equal(tree["history"]["loss"], fit.history.loss)


def test_several_starts_are_a_group_of_the_tree():
    tree = psy.find_map(models.logistic(), starts=3, random_seed=0).to_datatree()
    assert tree["starts"]["loss"].shape == (3,)
    assert tree["constant_data"]["x"].dims == ("trial", "feature")
    assert list(tree["starts"]["status"].values) == ["converged"] * 3


def test_arviz_plots_the_tree(fit):
    plot = arviz_plots.plot_forest(fit.to_datatree(), var_names=["theta"])
    assert plot.viz


@pytest.mark.usefixtures("users_mode")
def test_posterior_predictive_draws_follow_the_estimate(fit):
    with fit.objective.model:
        draws = pm.sample_posterior_predictive(fit.to_datatree(), progressbar=False, random_seed=1)
    y = draws["posterior_predictive"]["y"].values.ravel()
    error = np.array([15.0, 10, 16, 11, 9, 11, 10, 18])
    assert np.all(np.abs(y - fit["theta"]) < 5 * error)


def test_a_saved_tree_comes_back(fit, tmp_path):
    fit.save(tmp_path / "fit.nc")
    tree = psy.load(tmp_path / "fit.nc")
    expected = fit.to_datatree()
    for group in expected.children:
        for name, values in expected[group].data_vars.items():
            np.testing.assert_array_equal(tree[group][name].values, values.values)
    assert tree["fit"].attrs["message"] == fit.message


def test_a_saved_fit_goes_on_with_its_model(tmp_path):
    model = models.logistic(n=60)
    fit = psy.find_map(model, starts=2, random_seed=1, progressbar=False)
    fit.save(tmp_path / "fit.nc")
    with model:
        # The file has the data of the fit, whatever the model holds.
        pm.set_data({"labels": 1 - model["labels"].get_value()})
    again = psy.load(tmp_path / "fit.nc", model)
    assert repr(again) == repr(fit)
    assert dict(again.starts.unconstrained).keys() == dict(fit.starts.unconstrained).keys()
    for name, value in fit.items():
        np.testing.assert_array_equal(again[name], value)
    expression = sum(variable.sum() for variable in model.free_RVs)
    assert again.evaluate(expression) == fit.evaluate(expression)
    before, after = (psy.laplace(f, draws=20, random_seed=2) for f in (fit, again))
    assert after.log_evidence == pytest.approx(before.log_evidence, rel=1e-9)
    before.save(tmp_path / "draws.nc")
    draws = psy.load(tmp_path / "draws.nc", model)
    np.testing.assert_allclose(draws.evaluate(expression), before.evaluate(expression), rtol=1e-12)


def test_a_file_of_another_model_is_refused(tmp_path):
    def build(scale, name="mu"):
        with pm.Model() as model:
            pm.Normal("y", pm.Normal(name, 0, scale), 1, observed=[1.0, 2.0])
        return model

    path = tmp_path / "fit.nc"
    psy.find_map(build(1.0)).save(path)
    assert psy.load(path, build(1.0)).converged
    with pytest.raises(ValueError, match=r"has a fit with the loss .*; of this model, at the same estimate, it is"):
        psy.load(path, build(2.0))
    with pytest.raises(ValueError, match="has the parameters mu, the model has nu"):
        psy.load(path, build(1.0, "nu"))
    psy.load(path).to_netcdf(tmp_path / "copy.nc")
    xr.DataTree.from_dict({"posterior": psy.load(path)["posterior"].to_dataset()}).to_netcdf(tmp_path / "part.nc")
    with pytest.raises(ValueError, match="has the groups posterior, and no unconstrained_posterior"):
        psy.load(tmp_path / "part.nc", build(1.0))


def test_a_fit_by_minibatches_goes_on(tmp_path):
    fit = psy.find_map(models.minibatch(), steps=10)
    fit.save(tmp_path / "fit.nc")
    again = psy.load(tmp_path / "fit.nc", fit.objective.model)
    assert again.stochastic
    assert again.loss == fit.loss


def test_new_data_of_another_length_drop_the_coords_they_outgrew():
    model = models.logistic(n=60)
    with model:
        model.add_coord("trial_label", values=range(60))
    objective = psy.compile_objective(model)
    other = models.logistic(n=40, seed=5)
    fit = psy.find_map(objective.with_data(x=other["x"].get_value(), labels=other["labels"].get_value()))
    assert fit.to_datatree()["constant_data"]["x"].shape == (40, 5)


def test_jax_arrays_reach_the_user_only_from_the_objective(fit):
    assert isinstance(fit.objective.value(fit.unconstrained), jnp.ndarray)
    assert not any(isinstance(v, jnp.ndarray) for v in [*fit.values(), *fit.unconstrained.values(), *fit.history])
    assert type(fit.loss) is float
    assert type(fit.gradient_norm) is float
    assert type(fit.n_steps) is int


def test_minibatch_data_are_no_observed_data():
    tree = psy.find_map(models.minibatch(), steps=10).to_datatree()
    assert "observed_data" not in tree.children


def test_a_notebook_shows_a_table_with_names_and_values(fit):
    shown = fit._repr_html_()
    assert shown.count("<tr>") == len(fit)
    for name in fit:
        assert f"<td>{name}</td>" in shown
    # What an HTML page would take for a tag stays text.
    assert "&lt;b&gt;" in Table("<b>", [["<b>", "1"]], foot="<b>").as_html()
    assert "<b>" not in Table("<b>", [["<b>", "1"]], foot="<b>").as_html()
