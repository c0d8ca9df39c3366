"""Published data against SciPy's own maximum likelihood; skipped where the files are not at hand."""

from pathlib import Path

import numpy as np
import pandas as pd
import pymc as pm
import pytest
from scipy import optimize, special

import pm_psyphy as psy

DATA = Path(__file__).parents[2] / "shared" / "data"


def read(name):
    path = DATA / name
    if not path.exists():
        pytest.skip(f"{path} is not there")
    return pd.read_csv(path)


@pytest.mark.parametrize("interval", [800, 1600])
def test_asynchrony_of_each_observer(interval):
    frame = read("quickpsy_qpdat.csv")
    frame = frame[frame.interval == interval]
    names, observer = np.unique(frame.participant, return_inverse=True)
    # Responses are one half twice a period; they rise over the first half of it.
    chosen = frame.phase.to_numpy() <= 180
    x, y, observer = frame.phase.to_numpy()[chosen] / 90 - 1, frame.resp.to_numpy()[chosen], observer[chosen]
    with pm.Model(coords={"observer": names}) as model:
        threshold = pm.Flat("threshold", dims="observer")
        slope = pm.Flat("slope", dims="observer", initval=np.ones(len(names)))
        log_odds = psy.psychometric_log_odds(x, threshold[observer], slope=slope[observer])
        pm.Bernoulli("response", logit_p=log_odds, observed=y)
    fit = psy.find_map(model)
    for i in range(len(names)):
        own = observer == i
        # Logistic regression in its own parameters: log-odds a + b x.
        expected = optimize.minimize(
            lambda p, own=own: np.sum(np.logaddexp(0, p[0] + p[1] * x[own]) - y[own] * (p[0] + p[1] * x[own])),
            np.zeros(2), tol=1e-12,
        )  # fmt: skip
        a, b = expected.x
        np.testing.assert_allclose(fit["threshold"][i], -a / b, rtol=1e-4, atol=1e-5)


def test_magnitude_comparison_of_64_observers():
    frame = read("garcia2022_magnitude.csv")
    names, observer = np.unique(frame.subject, return_inverse=True)
    x, y = np.log(frame.n2.to_numpy() / frame.n1.to_numpy()), frame.choice.to_numpy().astype(int)
    with pm.Model(coords={"observer": names}) as model:
        mu = pm.Normal("mu", 0, 1)
        bias = pm.Normal("bias", mu, 0.2, dims="observer")
        log_jnd = pm.Normal("log_jnd", -1, 0.5, dims="observer")
        jnd = pm.Deterministic("jnd", pm.math.exp(log_jnd), dims="observer")
        log_odds = psy.tasks.yes_no_log_odds(x / jnd[observer], (bias / jnd)[observer])
        psy.Response("choice", log_odds, observed=y)
    fit = psy.find_map(model)
    assert fit.converged

    def loss(p):
        common, own, logs = p[0], p[1:65], p[65:]
        z = (x - own[observer]) / np.exp(logs)[observer]
        likelihood = np.sum(special.log_ndtr(np.where(y == 1, z, -z)))
        prior = -0.5 * (common**2 + np.sum(((own - common) / 0.2) ** 2) + np.sum(((logs + 1) / 0.5) ** 2))
        return -(likelihood + prior)

    p = np.concatenate([[fit["mu"]], fit["bias"], fit["log_jnd"]])
    # SciPy's own likelihood is at its minimum there.
    gradient = optimize.approx_fprime(p, loss, 1e-6)
    assert np.max(np.abs(gradient)) < 0.05
    assert np.all((fit["jnd"] > 0.05) & (fit["jnd"] < 2))


def test_contrast_sensitivity_in_six_dimensions():
    frame = read("contrast_sensitivity_6d.csv")
    y = frame.response.to_numpy()
    columns = ["pedestal", "temporal_frequency", "spatial_frequency", "size", "eccentricity"]
    design = frame[columns].to_numpy()
    design = np.column_stack([np.ones(len(y)), (design - design.mean(0)) / design.std(0)])
    contrast = frame.contrast.to_numpy()
    with pm.Model() as model:
        beta = pm.Normal("beta", 0, 2, shape=design.shape[1])
        log_slope = pm.Normal("log_slope", 0, 1)
        log_odds = psy.psychometric_log_odds(
            contrast, design @ beta, slope=pm.math.exp(log_slope), guess_rate=0.5, lapse_rate=0.02
        )
        pm.Bernoulli("correct", logit_p=log_odds, observed=y)
    fit = psy.find_map(model)
    assert fit.converged

    def loss(p):
        # The same function, written from its definition: the threshold is at half of F, the slope F's there.
        f = special.expit(4 * np.exp(p[-1]) * (contrast - design @ p[:-1]))
        correct = 0.5 + (0.5 - 0.02) * f
        likelihood = np.sum(np.log(np.where(y == 1, correct, 1 - correct)))
        return -(likelihood - 0.5 * np.sum((p[:-1] / 2) ** 2) - 0.5 * p[-1] ** 2)

    expected = optimize.minimize(loss, np.zeros(7), method="BFGS", options={"gtol": 1e-6})
    np.testing.assert_allclose(np.append(fit["beta"], fit["log_slope"]), expected.x, atol=1e-3)
