"""The command line: what it writes, and what it says of wrong input."""

import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from validation.profile import load
from validation.profile.__main__ import main


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name in ("a", "b", "shifted"):
        table = pa.table(
            {
                "v": rng.normal(size=2_000) + (name == "shifted"),
                "c": pa.array(rng.choice(["x", "<b>y</b>"], 2_000)),
                "s": pa.array([f"Row {i} of this file has some words to read." for i in range(2_000)]),
            }
        )
        pq.write_table(table, tmp_path / f"{name}.parquet")
    return tmp_path


@pytest.mark.slow
def test_a_profile_is_written_merged_and_compared(data, capsys):
    assert main(["a.parquet", "--out", "pa"]) == 0
    assert "2,000 rows of 3 columns" in capsys.readouterr().out
    assert sorted(path.name for path in (data / "pa").iterdir()) == [
        "arrays.npz", "profile.html", "profile.json", "sample.arrow",
    ]  # fmt: skip
    assert main(["b.parquet", "--merge", "pa", "--out", "both", "--against", "pa", "--fail-on-drift"]) == 0
    assert load(data / "both").rows == 4_000
    assert main(["--merge", "pa", "both", "--out", "three"]) == 0
    assert load(data / "three").files == ("a.parquet", "b.parquet", "a.parquet")
    assert main(["shifted.parquet", "--out", "ps", "--against", "a.parquet", "--fail-on-drift"]) == 3
    written = json.loads((data / "ps" / "profile.json").read_text())
    assert written["schema_version"] == 1
    assert [one["status"] for one in written["comparison"]["columns"]] == ["changed", "same", "same"]
    assert main(["a.parquet"]) == 0
    assert (data / "profiles" / "a" / "profile.json").is_file()


def test_columns_that_may_differ_are_left_out_of_the_comparison(data):
    """Of the tests and of the classifier."""
    given = ["shifted.parquet", "--out", "ps", "--against", "a.parquet", "--fail-on-drift"]
    assert main(given) == 3
    assert main([*given, "--ignore", "v"]) == 0
    compared = json.loads((data / "ps" / "profile.json").read_text())["comparison"]
    assert [one["status"] for one in compared["columns"]] == ["ignored", "same", "same"]
    assert "v" in compared["overall"]["left_out"]
    page = (data / "ps" / "profile.html").read_text()
    assert '<span class="pill plain">ignored</span>' in page


def test_the_page_is_self_contained_and_escapes_the_data(data):
    assert main(["a.parquet", "--out", "pa", "--against", "b.parquet"]) == 0
    page = (data / "pa" / "profile.html").read_text()
    assert "<b>y</b>" not in page
    assert "&lt;b&gt;y&lt;/b&gt;" in page
    assert "default-src 'none'" in page
    assert not re.findall(r"(?:src|href)=\"(?!#)[^\"]", page)
    assert page.count("<svg") >= 4
    assert len(set(re.findall(r' id="([^"]+)"', page))) == len(re.findall(r' id="([^"]+)"', page))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nothing.parquet", "--out", "p"], "nothing.parquet"),
        ([], "no DATA and no --merge"),
        (["a.parquet", "--workers", "0"], "--workers is 0, expected at least 1"),
        (["a.parquet", "--seed", "-1"], "--seed is -1"),
        (["a.parquet", "--fail-on-drift"], "--fail-on-drift needs --against"),
        (["a.parquet", "--ignore", "v"], "--ignore needs --against"),
        (
            ["a.parquet", "--against", "b.parquet", "--ignore", "v", "w"],
            "--ignore w: there is no such column, only c, s, v",
        ),
        (["a.parquet", "--out", "a.parquet"], "a.parquet: a file; expected a folder"),
        (["a.parquet", "--out", "."], "not empty, and no profile"),
        (["--merge", "nowhere", "--out", "p"], "nowhere: no profile"),
        (["a.parquet", "--out", "p", "--against", "empty.csv"], "empty.csv"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(data, capsys, arguments, says):
    (data / "empty.csv").write_text("")
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert not (data / "p").exists()


@pytest.mark.parametrize("name", ["file", "row"])
def test_columns_of_any_name_and_content_are_profiled_and_compared(data, capsys, name):
    rng = np.random.default_rng(0)
    table = pa.table(
        {
            name: pa.array([f"name {i}" for i in range(2_000)]),
            "a.b": pa.array([[1] * (i % 3) for i in range(2_000)]),
            "a": pa.array([{"b": [2] * (i % 2)} for i in range(2_000)]),
            "nothing": pa.nulls(2_000),
            "near": pa.array(2**63 - 1 - np.arange(2_000)),
            "ends": rng.choice([-1.7e308, 1.7e308, np.inf, np.nan], 2_000),
        }
    )
    pq.write_table(table, data / "odd.parquet")
    assert main(["odd.parquet", "--out", "odd"]) == 0
    said = capsys.readouterr().out
    assert "a.b[] (2)" in said
    assert "nulls 100 %" in said
    assert "not measured" not in said.split("nothing")[1].split("ends")[0]
    assert main(["odd.parquet", "--out", "again", "--against", "odd", "--fail-on-drift"]) == 0


def test_one_changed_text_among_columns_that_are_the_same_is_found(data):
    """A counted p-value of 499 permutations could not outlast the correction."""
    rows = range(2_000)
    words = [["one two three four", "red green blue grey"], ["five six seven odd", "pink gold teal lime"]]
    for name, texts in zip("pq", words, strict=True):
        columns = {f"c{place}": [i % 7 for i in rows] for place in range(5)}
        table = pa.table(columns | {"s": [f"{texts[i % 2]} {i:05}" for i in rows]})
        pq.write_table(table, data / f"{name}.parquet")
    assert main(["p.parquet", "--out", "p", "--against", "q.parquet"]) == 0
    written = json.loads((data / "p" / "profile.json").read_text())["comparison"]["columns"]
    assert [one["status"] for one in written] == ["same"] * 5 + ["changed"]


@pytest.mark.parametrize("own", [("profile.json", '{"mine": 1}'), ("notes.txt", "mine")])
def test_a_folder_with_files_of_someone_else_is_left_alone(data, capsys, own):
    assert main(["a.parquet", "--out", "pa"]) == 0
    (data / "pa" / own[0]).write_text(own[1])
    before = sorted(path.name for path in (data / "pa").iterdir())
    assert main(["b.parquet", "--out", "pa"]) == 2
    assert "not empty, and no profile" in capsys.readouterr().err
    assert sorted(path.name for path in (data / "pa").iterdir()) == before
    assert (data / "pa" / own[0]).read_text() == own[1]


def test_a_typo_is_told(data):
    with pytest.raises(SystemExit) as stopped:
        main(["a.parquet", "--seeed", "1"])
    assert stopped.value.code == 2
