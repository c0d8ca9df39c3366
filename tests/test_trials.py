"""Trial tables: every way in, every way out, and what is wrong with a row."""

import numpy as np
import pandas as pd
import pytest

import pm_psyphy as psy
from pm_psyphy import Trials

FRAME = pd.DataFrame(
    {
        "TrialType": ["AEPsych_1", "MOCS_1", "AEPsych_2"],
        "xref": ["0.1,-0.2", "0.5, 0.5", "(-1,1)"],
        "x1": ["0.2,-0.2", "0.5,0.4", "-0.9,1"],
        "y": [1, 0, 1],
    }
)
NAMES = {"reference": "xref", "comparison": "x1", "response": "y"}


def test_a_published_layout_is_read(tmp_path):
    FRAME.to_csv(tmp_path / "trials.csv", index=False)
    trials = Trials.read_csv(tmp_path / "trials.csv", **NAMES, columns=["TrialType"])
    np.testing.assert_array_equal(trials.reference, [[0.1, -0.2], [0.5, 0.5], [-1, 1]])
    np.testing.assert_array_equal(trials.comparison, [[0.2, -0.2], [0.5, 0.4], [-0.9, 1]])
    np.testing.assert_array_equal(trials.response, [1, 0, 1])
    fitted = trials[np.char.startswith(trials.columns["TrialType"], "AEPsych_")]
    assert len(fitted) == 2
    assert list(fitted.columns["TrialType"]) == ["AEPsych_1", "AEPsych_2"]


def test_columns_of_a_frame_become_points():
    frame = pd.DataFrame({"a": [1.0, 2.0], "b": [10.0, 30.0], "c": [1.5, 2.5], "d": [20.0, 40.0], "ok": [True, False]})
    trials = Trials.from_frame(
        frame, reference=["a", "b"], comparison=["c", "d"], response="ok", domain=([1, 10], [3, 50])
    )
    np.testing.assert_allclose(trials.reference, [[-1, -1], [0, 0]])
    np.testing.assert_allclose(trials.domain.restore(trials.comparison), [[1.5, 20], [2.5, 40]])
    np.testing.assert_allclose(trials.to_frame()[["reference_1", "comparison_2", "response"]], [[1, 20, 1], [2, 40, 0]])


def test_the_domain_of_the_data_holds_all_stimuli():
    trials = Trials.from_arrays([5.0, 9.0], [7.0, 3.0], ["correct", "incorrect"], domain="data")
    assert trials.domain == psy.Domain([3.0], [9.0])
    np.testing.assert_allclose(np.ravel([trials.reference, trials.comparison]), [-1 / 3, 1, 1 / 3, -1])


def test_a_saved_table_comes_back(tmp_path):
    trials = Trials.from_frame(FRAME, **NAMES, columns=["TrialType"], domain=([-1, -1], [2, 1]))
    trials.save(tmp_path / "trials.npz")
    again = Trials.load(tmp_path / "trials.npz")
    for name in ("reference", "comparison", "response"):
        np.testing.assert_array_equal(getattr(again, name), getattr(trials, name))
    assert again.domain == trials.domain
    assert list(again.columns["TrialType"]) == list(FRAME["TrialType"])
    np.savez(tmp_path / "other.npz", a=1)
    with pytest.raises(ValueError, match="lacks comparison, high, low, reference, response"):
        Trials.load(tmp_path / "other.npz")


def test_a_table_cannot_be_changed():
    trials = Trials.from_arrays([[0.0]], [[0.5]], [1])
    with pytest.raises(ValueError, match="read-only"):
        trials.response[0] = 0
    with pytest.raises(AttributeError):
        trials.response = np.array([0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"response": [1, 2, 0]}, "The response in row 1 is 2. Responses are 0 or 1, or correct or incorrect"),
        ({"response": ["correct", "yes", "incorrect"]}, "The response in row 1 is yes"),
        ({"response": [1.0, 0.0, np.nan]}, "The response in row 2 is nan"),
        ({"response": [1, 0]}, "Lengths differ: reference 3, comparison 3, response 2"),
        ({"response": [], "reference": np.zeros((0, 2)), "comparison": np.zeros((0, 2))}, "The table holds no trial"),
        ({"comparison": [[0, 0], [0, np.nan], [0, 0]]}, "The comparison in row 1 is not a finite number"),
        ({"comparison": [[0, 0], [0, 0], [0, 3]]}, "The comparison in row 2 is 3 in dimension 2, outside -1 to 1"),
        ({"comparison": [[0], [0], [0]]}, "References have 2 dimensions, comparisons 1"),
        ({"comparison": ["0,0", "0;0", "0,0"]}, "The comparison in row 1 is '0;0'. Pass numbers, or strings such as"),
        ({"comparison": ["0,0", "0", "0,0"]}, "The comparison in row 1 has 1 dimensions, the first one 2"),
        ({"domain": ([1, 0], [1, 1])}, "Pass a lower and a higher end"),
        ({"domain": ([0], [1])}, "The domain has 1 dimensions, the stimuli 2"),
        ({"domain": "all"}, "domain is 'all'. Pass"),
    ],
)
def test_what_is_wrong_is_said_with_its_row(change, message):
    arrays = {"reference": np.zeros((3, 2)), "comparison": np.zeros((3, 2)), "response": [0, 1, 1]}
    with pytest.raises(ValueError, match=message):
        Trials.from_arrays(**arrays | change)


def test_a_file_is_named_by_its_lines_and_columns(tmp_path):
    FRAME.assign(y=[1, 0, "maybe"]).to_csv(tmp_path / "trials.csv", index=False)
    with pytest.raises(ValueError, match=r"The response in line 4 of .*trials.csv is maybe"):
        Trials.read_csv(tmp_path / "trials.csv", **NAMES)
    with pytest.raises(ValueError, match="There is no column 'x2'. The table has TrialType, xref, x1, y"):
        Trials.read_csv(tmp_path / "trials.csv", **NAMES | {"comparison": "x2"})


def test_an_empty_selection_is_an_error():
    with pytest.raises(ValueError, match="The selection holds no trial"):
        Trials.from_arrays([[0.0]], [[0.5]], [1])[np.array([False])]


def two_alternatives(field, reference, comparison):
    return psy.mafc_log_odds(psy.discriminability(field, reference, comparison))


@pytest.mark.parametrize(("task", "chance"), [(psy.oddity_log_odds, 1 / 3), (two_alternatives, 1 / 2)])
def test_simulated_responses_have_the_probability_of_their_task(task, chance):
    field = psy.WishartProcess("W", input_dim=2, basis_degree=0, extra_dims=0, weights=[[np.eye(2) / 10]])
    n, lapse_rate = 4000, 0.1
    reference = np.zeros((n, 2))
    comparison = psy.place_comparisons(field, reference, 2.0, random_seed=1)
    covariance = field.covariance(reference[0]).eval()
    distance = np.sqrt(np.einsum("ni,ij,nj->n", comparison, np.linalg.inv(covariance), comparison))
    np.testing.assert_allclose(distance, 2.0)
    trials = psy.simulate_trials(
        field, reference, comparison, task=task, chance=chance, lapse_rate=lapse_rate, random_seed=2
    )
    # All trials have the same probability, for the covariance is the same everywhere and all distances are 2.
    clean = 1 / (1 + np.exp(-np.asarray(task(field, reference[:1], comparison[:1]).eval())[0]))
    p = chance + (1 - chance - lapse_rate) * (clean - chance) / (1 - chance)
    assert abs(trials.response.mean() - p) < 4 * np.sqrt(p * (1 - p) / n)


@pytest.mark.parametrize("weights", [np.zeros((2, 2)), np.ones((2, 2))])
@pytest.mark.parametrize(
    "use",
    [
        lambda field, x: psy.simulate_trials(field, x, x + 0.1),
        lambda field, x: psy.place_comparisons(field, x, 1.0),
        lambda field, x: psy.threshold_contours(None, field, x),
    ],
)
def test_a_singular_covariance_is_an_error(use, weights):
    settings = {"basis_degree": 0, "extra_dims": 0, "diag_term": 0}
    field = psy.WishartProcess("W", input_dim=2, weights=weights[None, None], **settings)
    with pytest.raises(ValueError, match=r"covariance at index \(0,\) is singular.* diag_term > 0"):
        use(field, np.zeros((3, 2)))
