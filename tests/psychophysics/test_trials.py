"""Trial tables: every way in, every way out, and what is wrong with a row."""

import copy
import gzip
import io
import pickle

import numpy as np
import pandas as pd
import pytest
import xarray as xr

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
        ({"response": [1, 0]}, "The lengths differ: reference 3, comparison 3, response 2"),
        ({"response": [], "reference": np.zeros((0, 2)), "comparison": np.zeros((0, 2))}, "The table has no trials"),
        ({"comparison": [[0, 0], [0, np.nan], [0, 0]]}, "The comparison in row 1 is not a finite number"),
        ({"comparison": [[0, 0], [0, 0], [0, 3]]}, "The comparison in row 2 is 3 in dimension 2, outside -1 to 1"),
        ({"comparison": [[0], [0], [0]]}, "References have 2 dimensions, but comparisons have 1"),
        ({"comparison": ["0,0", "0;0", "0,0"]}, "The comparison in row 1 is '0;0'. Pass numbers, or strings such as"),
        ({"comparison": ["0,0", "0", "0,0"]}, "The comparison in row 1 has 1 dimensions, but the first one has 2"),
        ({"domain": ([1, 0], [1, 1])}, "Pass a lower and a higher end"),
        ({"domain": ([0], [1])}, "The domain has 1 dimensions, but the stimuli have 2"),
        ({"domain": "all"}, "domain is 'all'. Pass"),
        ({"domain": 3.0}, "domain is 3.0. Pass"),
        ({"domain": ([-1, -np.inf], [1, 1])}, "Pass finite ends"),
        ({"domain": ([-1, np.nan], [1, 1])}, "Pass a lower and a higher end"),
        ({"response": np.ma.masked_array([1, 0, 1], mask=[0, 1, 0])}, "'response' has 1 masked values, .* row 1"),
        (
            {"reference": np.ma.masked_array(np.zeros((3, 2)), mask=[[0, 0], [0, 0], [0, 1]])},
            r"'reference' has .*\(2, 1",
        ),
        ({"response": [1, np.ma.masked, 0]}, "'response' has 1 masked values, the first at row 1"),
        ({"comparison": [np.ma.masked_array([0, 1], mask=[0, 1])] * 3}, r"'comparison' has 3 masked values.* \(0, 1\)"),
        ({"response": pd.array([1, None, 0], dtype="Int64")}, "The response in row 1 is nan"),
        ({"response": pd.array([True, False, None], dtype="boolean")}, "The response in row 2 is nan"),
        ({"response": np.array([1, 0.999, 0])}, "The response in row 1 is 0.999"),
        ({"response": ["correct", None, "incorrect"]}, "The response in row 1 is None"),
        ({"reference": pd.array([0.1, 0.2, None], dtype="Float64")}, "The reference in row 2 is not a finite number"),
        ({"comparison": [[0, 0], [0, np.inf], [0, 0]]}, "The comparison in row 1 is not a finite number"),
        ({"comparison": [[0, 0], [0], [0, 0]]}, "'comparison' has rows of different lengths"),
        ({"comparison": np.zeros((3, 2), complex)}, "'comparison' is of type complex128"),
        ({"columns": {"observer": ["a", "b"]}}, r"The lengths differ: .*observer 2"),
        ({"columns": {"observer": "abc"}}, r"columns\['observer'\] has shape \(\)"),
        (
            {"columns": {"time": np.ma.masked_array([1, 2, 3], mask=[1, 0, 0])}},
            r"columns\['time'\].* has 1 masked values",
        ),
    ],
)
def test_what_is_wrong_is_said_with_its_row(change, message):
    arrays = {"reference": np.zeros((3, 2)), "comparison": np.zeros((3, 2)), "response": [0, 1, 1]}
    with pytest.raises(ValueError, match=message):
        Trials.from_arrays(**arrays | change)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "uint16", "uint32", "uint64", "bool", "float32"])
def test_responses_of_any_type_of_number_are_taken(dtype):
    trials = Trials.from_arrays([0.1, 0.2], [0.2, 0.3], np.array([1, 0], dtype))
    np.testing.assert_array_equal(trials.response, [1, 0])
    assert trials.response.dtype == int


@pytest.mark.parametrize(
    ("response", "wrap"),
    [
        (pd.Series([1, 0], dtype="Int64"), pd.Series),
        (pd.Series([1, 0], dtype="UInt8"), lambda x: pd.Series(x, dtype="Float64")),
        (pd.Series([True, False], dtype="boolean"), lambda x: pd.DataFrame({"x": x})),
        (pd.Series(["correct", "Incorrect "], dtype="string"), lambda x: xr.DataArray(x, dims="trial")),
        (pd.Categorical(["correct", "incorrect"]), np.ma.masked_array),
        (np.array([b"correct", b"incorrect"]), tuple),
        (xr.DataArray([1, 0]), lambda x: xr.DataArray(np.array(x)[:, None], dims=("trial", "axis"))),
    ],
)
def test_tables_of_pandas_and_xarray_are_taken(response, wrap):
    trials = Trials.from_arrays(wrap([0.1, 0.2]), wrap([0.3, -0.4]), response)
    np.testing.assert_allclose(np.hstack([trials.reference, trials.comparison]), [[0.1, 0.3], [0.2, -0.4]])
    np.testing.assert_array_equal(trials.response, [1, 0])


def test_a_table_does_not_follow_the_arrays_it_was_made_from():
    given = {"reference": np.zeros((2, 1)), "comparison": np.full((2, 1), 0.5), "response": np.array([1, 0])}
    time = np.array([1.0, 2.0])
    low, high = np.array([-1.0]), np.array([1.0])
    tables = [
        Trials.from_arrays(**given, columns={"time": time}),
        Trials(*given.values(), psy.Domain(low, high), {"time": time}),
    ]
    for array in (*given.values(), time, low, high):
        array[:] = 7
    for trials in tables:
        np.testing.assert_array_equal(trials.to_frame().to_numpy(), [[0, 0.5, 1, 1], [0, 0.5, 0, 2]])
        np.testing.assert_array_equal([trials.domain.low, trials.domain.high], [[-1], [1]])
        with pytest.raises(TypeError):
            trials.columns["time"] = time


@pytest.mark.parametrize("copy_it", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copy_of_a_table_is_as_frozen_as_the_table(copy_it):
    trials = Trials.from_frame(FRAME, **NAMES, columns=["TrialType"], domain=([-1, -1], [2, 1]))
    again = copy_it(trials)
    pd.testing.assert_frame_equal(again.to_frame(), trials.to_frame())
    assert again.domain == trials.domain
    assert hash(again.domain) == hash(trials.domain)
    assert trials == trials
    assert trials != again
    assert len({trials, again}) == 2
    for array in (again.reference, again.response, again.domain.low, again.columns["TrialType"]):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = array[0]


def test_a_table_is_checked_however_it_is_made():
    domain = psy.Domain([-1.0], [1.0])
    points = np.zeros((2, 1))
    with pytest.raises(ValueError, match="The response in row 0 is 5"):
        Trials(points, points, np.array([5, 7]), domain)
    with pytest.raises(ValueError, match="The domain has 1 dimensions, but the stimuli have 2"):
        Trials(np.zeros((2, 2)), np.zeros((2, 2)), np.array([0, 1]), domain)
    with pytest.raises(TypeError, match="domain is a tuple. Pass a Domain"):
        Trials(points, points, np.array([0, 1]), ([-1], [1]))


SAVED = {
    "reference": np.zeros((2, 1)),
    "comparison": np.zeros((2, 1)),
    "response": [0, 1],
    "low": [-1.0],
    "high": [1.0],
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reference": np.full((2, 1), np.nan)}, "The reference in row 0 is not a finite number"),
        ({"response": [5, 7]}, "The response in row 0 is 5"),
        ({"response": [0, 1, 1]}, "The lengths differ: reference 2, comparison 2, response 3"),
        ({"comparison": [[0.0], [1.5]]}, "The comparison in row 1 is 1.5 in dimension 1, outside -1 to 1"),
        ({"low": [2.0]}, "Pass a lower and a higher end"),
        ({"low": [-1.0, -1.0], "high": [1.0, 1.0]}, "The domain has 2 dimensions, but the stimuli have 1"),
        ({"column_time": [1.0, 2.0, 3.0]}, "The lengths differ: .*time 3"),
        ({"comparison": np.array([["a"], ["b"]])}, "The comparison in row 0 is 'a'"),
    ],
)
def test_a_file_of_a_table_is_checked_as_arrays_are(tmp_path, change, message):
    np.savez(tmp_path / "trials.npz", **SAVED | change)
    with pytest.raises(ValueError, match=rf"trials.npz holds no table of trials. .*{message}"):
        Trials.load(tmp_path / "trials.npz")


def test_a_file_that_is_no_archive_is_said_to_be_none(tmp_path):
    path = tmp_path / "trials.npz"
    Trials.from_arrays([[0.0]] * 50, [[0.5]] * 50, [1] * 50).save(path)
    whole = path.read_bytes()
    np.save(tmp_path / "array.npy", np.zeros(3))
    objects = io.BytesIO()
    np.savez(objects, **SAVED | {"response": np.array([0, None], object)})
    damaged = whole.replace(b"\x00\x00\xe0\x3f", b"\x00\x01\xe0\x3f", 1)
    contents = [b"", b"ref,cmp\n", whole[: len(whole) // 2], (tmp_path / "array.npy").read_bytes(), objects.getvalue()]
    for content in [*contents, damaged]:
        path.write_bytes(content)
        with pytest.raises(
            ValueError, match=r"trials.npz is no NumPy archive, or is damaged .*Pass a file that Trials.sav"
        ):
            Trials.load(path)
    with pytest.raises(FileNotFoundError):
        Trials.load(tmp_path / "none.npz")


def test_columns_keep_what_they_hold(tmp_path):
    columns = {
        "response": ["a", "b"],
        "age": pd.array([30, None], dtype="Int64"),
        "note": pd.Series(["x", None]),
        "day": np.array(["2024-01-01", "2024-01-02"], "datetime64[D]"),
        7: [1, 2],
    }
    trials = Trials.from_arrays([0.1, 0.2], [0.3, 0.4], [1, 0], columns=columns)
    trials.save(tmp_path / "trials.npz")
    again = Trials.load(tmp_path / "trials.npz")
    assert list(again.columns) == ["response", "age", "note", "day", "7"]
    for name, values in trials.columns.items():
        np.testing.assert_array_equal(again.columns[name], values)
    assert list(again.columns["note"]) == ["x", ""]
    np.testing.assert_array_equal(again.columns["age"], [30, np.nan])
    # The responses are not overwritten by a column of their name.
    np.testing.assert_array_equal(again.to_frame()["response"], [1, 0])
    assert list(again.to_frame()["column_response"]) == ["a", "b"]


def test_a_row_of_a_frame_is_named_by_its_label_too():
    frame = FRAME.assign(y=[1, 0, 7]).iloc[1:]
    with pytest.raises(ValueError, match=r"The response in row 1 \(index 2\) is 7"):
        Trials.from_frame(frame, **NAMES)
    twice = pd.DataFrame([[0.1, 0.2, 0.3, 1]], columns=["a", "a", "b", "y"])
    with pytest.raises(ValueError, match="There are 2 columns called 'a'"):
        Trials.from_frame(twice, reference="a", comparison="b", response="y")


def test_a_selection_by_a_masked_array_is_an_error():
    trials = Trials.from_arrays([0.1, 0.2], [0.3, 0.4], [1, 0])
    with pytest.raises(ValueError, match="'rows' has 1 masked values"):
        trials[np.ma.masked_array([True, True], mask=[0, 1])]
    with pytest.raises(ValueError, match="The selection has no trials"):
        trials[[]]
    assert len(trials[pd.Series([True, False])]) == 1
    np.testing.assert_array_equal(trials[-1].response, [0])


def test_points_and_a_domain_have_the_same_dimensions():
    domain = psy.Domain([0, 0], [2, 4])
    for convert in (domain.rescale, domain.restore):
        with pytest.raises(ValueError, match=r"Points have shape \(3, 1\), the domain has 2 dimensions"):
            convert(np.zeros((3, 1)))
        with pytest.raises(ValueError, match="'points' has 1 masked values"):
            convert(np.ma.masked_array([0.0, 1.0], mask=[0, 1]))
    with pytest.raises(ValueError, match=r"Covariances have shape \(2,\), the domain has 2 dimensions"):
        domain.restore_covariance([1.0, 2.0])
    assert {domain: 1}[psy.Domain([0.0, 0.0], [2.0, 4.0])] == 1


COLUMNS = {"reference": "ref", "comparison": "cmp", "response": "corr"}


@pytest.mark.parametrize(
    ("text", "options", "line"),
    [
        ("ref,cmp,corr\n1,2,1\n\n1,3,0\n1,4,9\n", {}, 5),
        ("by me\nv 2\nref,cmp,corr\n1,2,1\n1,3,9\n", {"skiprows": 2}, 5),
        ("ref,cmp,corr\n1,2,1\n#pause\n1,3,0\n1,3,9\n", {"comment": "#"}, 5),
        ('note,ref,cmp,corr\n"a\nb",1,2,1\n"a\nb",1,3,9\n', {}, 4),
        ('note,ref,cmp,corr\r\n\r\n"a\r\nb",1,2,1\r\nx,1,3,9\r\n', {}, 5),
        ("note,ref,cmp,corr\rx,1,2,1\rx,1,3,9\r", {"index_col": 0}, 3),
        ("1,2,1\n1,3,9\n", {"names": ["ref", "cmp", "corr"]}, 2),
        ("ref,cmp,corr\n1,2,1\n1,3,0\n1,3,9\n", {"skiprows": [1, 2]}, 4),
        (
            "ref;cmp;corr\n1,5;2;1\n\n1,5;3;9\nend;;\n",
            {"sep": ";", "decimal": ",", "skipfooter": 1, "engine": "python"},
            4,
        ),
        ("ref,cmp,corr\n1,2,1\n1,3,9\n", {"nrows": 2}, 3),
        ("x,x,x\nref,cmp,corr\n\n1,2,1\n1,3,9\n", {"header": 1}, 5),
        ("ref,cmp,corr\n1,2,1\nbad,1,2,3,4\n1,3,9\n", {"on_bad_lines": "skip"}, 4),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_an_error_names_the_line_of_the_file(tmp_path, text, options, line, encoding):
    path = tmp_path / "trials.csv"
    path.write_bytes(text.encode(encoding))
    options = options if encoding != "utf-16" else options | {"encoding": encoding}
    with pytest.raises(ValueError, match=rf"The response in line {line} of .*trials.csv is 9"):
        Trials.read_csv(path, **COLUMNS, domain=([0], [10]), **options)


def test_what_is_no_plain_file_is_named_by_its_rows(tmp_path):
    text = "ref,cmp,corr\n0.1,0.2,1\n\n0.1,0.3,9\n"
    with pytest.raises(ValueError, match="The response in row 1 of the table is 9"):
        Trials.read_csv(io.StringIO(text), **COLUMNS)
    (tmp_path / "trials.csv.gz").write_bytes(gzip.compress(text.encode()))
    with pytest.raises(ValueError, match="The response in line 4 of .*gz is 9"):
        Trials.read_csv(tmp_path / "trials.csv.gz", **COLUMNS)
    pd.read_csv(io.StringIO(text)).to_csv(tmp_path / "trials.zip", index=False)
    with pytest.raises(ValueError, match="The response in row 1 of the table is 9"):
        Trials.read_csv(tmp_path / "trials.zip", **COLUMNS)


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("ref,cmp,corr\n", {}, "The table has no trials"),
        ("", {}, "trials.csv is empty. Pass a file with a header"),
        ("ref;cmp;corr\n1;2;1\n", {}, r"There is no column 'ref'. .* Pass sep=';'"),
        (
            "ref;cmp;corr\n0,5;2,5;1\n",
            {},
            "more fields than its header has names.* Pass sep=';'; if .* decimal=',', too",
        ),
        ("ref\tcmp\tcorr\n1\t2\t1\n", {}, r"Pass sep='\\t'"),
        ("sep=;\nref;cmp;corr\n1;2;1\n", {}, "a note for Excel: pass sep=';', skiprows=1"),
        (
            "ref;cmp;corr\n0,5;2,5;1\n",
            {"sep": ";"},
            r"'ref' in line 2 of .* holds '0,5', which may be the number 0.5 or the point \(0, 5\).*decimal=','",
        ),
        (
            "ref;cmp;corr\n1;2,5;1\n1;2;1\n",
            {"sep": ";"},
            "1 dimensions, but the first one has 2. If its numbers have a decimal",
        ),
        ('ref,cmp,corr\n"0,05","0,1",1\n', {}, "holds '0,05', which may be the number 0.05"),
        ("ref,cmp,corr\ndeg,deg,0/1\n1,2,1\n", {}, r"in line 2 of .* is 'deg'.*skip them: skiprows=\[1\]"),
        (" ref ,cmp,corr\n1,2,1\n", {}, "There is no column 'ref'.* Did you mean ' ref '"),
        ("Ref,cmp,corr\n1,2,1\n", {}, "Did you mean 'Ref'"),
        ("by,me,now\nref,cmp,corr\n1,2,1\n", {}, "Row 0 of it holds this name: leave the lines above out"),
        ("by me\nref,cmp,corr\n1,2,1\n", {}, "If lines of text stand above the header, pass skiprows"),
        ("by me\nand you\nref,cmp,corr\n1,2,1\n", {}, "cannot be read as a table: .* pass skiprows"),
        ("1,2,1\n1,3,0\n", {}, "These are numbers: if the file has no header, pass names"),
        (
            "ref,cmp,corr\n1,2,1,\n1,3,0,\n",
            {},
            "more fields than its header has names.* Pass index_col=0 .* index_col=False",
        ),
        ("ref,cmp,corr\n1,2,1,0\n1,3,0,1\n", {}, "more fields than its header has names"),
        ("ref,cmp,corr\n1,2,1\n1,,0\n", {}, "The comparison in line 3 of .* is not a finite number"),
        ("ref,cmp,corr\n1,2,1\n1,3\n", {}, "The response in line 3 of .* is nan"),
        ("ref,cmp,corr\n1,2,1\n", {"chunksize": 1}, "A table of trials is read as a whole. Drop chunksize"),
        ("\ufeffref,cmp,corr\n1,2,1\n", {"encoding": "latin-1"}, "byte-order mark: pass encoding='utf-8-sig'"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_with_what_to_do(tmp_path, text, options, message):
    path = tmp_path / "trials.csv"
    path.write_bytes(text.encode())
    with pytest.raises(ValueError, match=message):
        Trials.read_csv(path, **COLUMNS, domain=([0], [10]), **options)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("ref,cmp,corr\n1,2,1\n".encode("utf-16"), "Pass encoding='utf-16'"),
        ("réf,cmp,corr\n1,2,1\n".encode("cp1252"), "for instance encoding='cp1252'"),
        (b"PK\x03\x04\x14\x00\x06\x00\xff\xfe", r"a workbook: save it as CSV, or pass pandas.read_excel\(path\)"),
    ],
)
def test_a_file_of_another_encoding_or_kind_is_said_to_be_one(tmp_path, content, message):
    (tmp_path / "trials.csv").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        Trials.read_csv(tmp_path / "trials.csv", **COLUMNS)


def test_what_was_advised_works(tmp_path):
    path = tmp_path / "trials.csv"
    for text, options in [
        ("sep=;\nref;cmp;corr\n0,5;2,5;1\n", {"sep": ";", "decimal": ",", "skiprows": 1}),
        ("ref,cmp,corr\ndeg,deg,0/1\n0.5,2.5,1\n", {"skiprows": [1]}),
        ("ref,cmp,corr\n0.5,2.5,1,\n", {"index_col": False}),
        ("0.5,2.5,1\n", {"names": ["ref", "cmp", "corr"]}),
        ("\ufeffref,cmp,corr\n0.5,2.5,1\n", {}),
    ]:
        path.write_text(text, encoding="utf-8")
        trials = Trials.read_csv(path, **COLUMNS, domain=([0], [10]), **options)
        np.testing.assert_allclose(trials.to_frame().to_numpy(), [[0.5, 2.5, 1]])
    path.write_text("0.5,2.5,1\n", encoding="utf-8")
    by_number = {"reference": 0, "comparison": 1, "response": 2}
    assert len(Trials.read_csv(path, **by_number, domain=([0], [10]), header=None)) == 1


def test_a_file_is_named_by_its_lines_and_columns(tmp_path):
    FRAME.assign(y=[1, 0, "maybe"]).to_csv(tmp_path / "trials.csv", index=False)
    with pytest.raises(ValueError, match=r"The response in line 4 of .*trials.csv is maybe"):
        Trials.read_csv(tmp_path / "trials.csv", **NAMES)
    with pytest.raises(ValueError, match="There is no column 'x2'. The table has TrialType, xref, x1, y"):
        Trials.read_csv(tmp_path / "trials.csv", **NAMES | {"comparison": "x2"})


def test_an_empty_selection_is_an_error():
    with pytest.raises(ValueError, match="The selection has no trials"):
        Trials.from_arrays([[0.0]], [[0.5]], [1])[np.array([False])]


def two_alternatives(field, reference, comparison):
    return psy.tasks.mafc_log_odds(psy.tasks.discriminability(field, reference, comparison))


@pytest.mark.parametrize(("task", "chance"), [(psy.tasks.oddity_log_odds, 1 / 3), (two_alternatives, 1 / 2)])
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


def test_a_simulation_needs_probabilities_and_distances():
    field = psy.WishartProcess("W", input_dim=2, basis_degree=0, extra_dims=0, weights=[[np.eye(2) / 10]])
    x = np.zeros((3, 2))
    with pytest.raises(ValueError, match="The task returns NaN for the trial in row 1"):
        psy.simulate_trials(field, x, x + 0.1, task=lambda f, r, c: np.array([0.0, np.nan, 0.0]))
    with pytest.raises(ValueError, match=r"The task returns shape \(3, 2\) for 3 trials"):
        psy.simulate_trials(field, x, x + 0.1, task=lambda f, r, c: c)
    with pytest.raises(ValueError, match="'reference' has 1 masked values"):
        psy.simulate_trials(field, np.ma.masked_array(x, mask=[[0, 0], [1, 0], [0, 0]]), x)
    with pytest.raises(ValueError, match="1 values that are not finite. Pass a number, or one for each of the 3"):
        psy.place_comparisons(field, x, [1.0, np.nan, 2.0])


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
