"""`python -m validation.duplicates`: rows in a file, clear errors, nothing left behind."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from validation.duplicates import main, read_bytes


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "data.csv"
    rows = [f"{n},{name}" for n, name in zip([1, 2, 3, 1, 5, 1], ["a", "b", "c", "A ", "e", "x"], strict=True)]
    path.write_text("n,name\n" + "\n".join(rows) + "\n")
    return path


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_copies_of_whole_rows(table, tmp_path, capsys):
    assert main([str(table), "--out", str(tmp_path / "out.jsonl")]) == 0
    assert [(row["row"], row["kind"], row["of_row"]) for row in lines(tmp_path / "out.jsonl")] == [
        (1, "first", None),
        (4, "exact", 1),
    ]
    assert "6 rows, 0 without content: 1 exact copies in 1 groups (16.67% of rows could go)" in capsys.readouterr().out
    assert sorted(file.name for file in tmp_path.iterdir()) == ["data.csv", "out.jsonl"]


def test_chosen_columns_parquet_and_a_bar(table, tmp_path):
    out = tmp_path / "new" / "out.parquet"
    assert main([str(table), "--columns", "n", "--out", str(out), "--fail-above", "30"]) == 3
    assert pq.read_table(out).column("row").to_pylist() == [1, 4, 6]


def test_near_duplicates_of_several_files(tmp_path):
    words = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen"
    for name, text in (("a", f"first line\n{words} end\n"), ("b", f"other line\nand {words} end\n")):
        (tmp_path / f"{name}.txt").write_text(text)
    out = tmp_path / "out.jsonl"
    assert main([str(tmp_path / "*.txt"), "--near", "--out", str(out), "--work", str(tmp_path / "work")]) == 0
    found = [(row["file"], row["row"], row["kind"], row["of_file"], row["of_row"]) for row in lines(out)]
    assert found == [("a.txt", 2, "first", None, None), ("b.txt", 2, "near", "a.txt", 2)]
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--columns", "nam"], "--columns nam: {data} has no such column, only n, name"),
        (["--memory", "much"], "--memory is 'much', expected a size such as 500MB or 2GiB"),
        (["--memory", "1MB"], "memory_bytes: 1000000; expected at least"),
        (["--threshold", "2"], "threshold: 2.0; expected 0 < threshold <= 1"),
        (["--fail-above", "200"], "--fail-above is 200, expected 0 to 100"),
        (["--out", "rows.csv"], "--out rows.csv: expected a name that ends in .jsonl or .parquet"),
        (["--work", "{folder}"], "{folder}: holds other files; expected an empty folder"),
    ],
)
def test_wrong_options_are_named(table, tmp_path, capsys, arguments, message):
    places = {"data": table, "folder": tmp_path}
    given = [argument.format(**places) for argument in arguments]
    assert main([str(table), "--out", str(tmp_path / "out.jsonl"), *given]) == 2
    assert message.format(**places) in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["data.csv"]


@pytest.mark.parametrize("near", [[], ["--near"], ["--near", "--columns", "text"]])
@pytest.mark.parametrize("name", ["data.jsonl", "linked.jsonl"])
def test_the_data_are_not_written_over(tmp_path, capsys, name, near):
    data = tmp_path / "data.jsonl"
    data.write_text('{"text": "a b"}\n{"text": "c d"}\n')
    (tmp_path / "linked.jsonl").symlink_to(data)
    assert main([str(data), "--out", str(tmp_path / name), *near]) == 2
    assert f"{name}: is a file of the data, which would be lost" in capsys.readouterr().err
    assert data.read_text().count("text") == 2
    assert sorted(file.name for file in tmp_path.iterdir()) == ["data.jsonl", "linked.jsonl"]


def test_near_asks_for_columns_where_no_text_is_found(tmp_path, capsys):
    path = tmp_path / "data.csv"
    path.write_text("goal,target\na,b\n")
    assert main([str(path), "--near", "--out", str(tmp_path / "o.jsonl")]) == 2
    assert "columns: goal, target; name one with --columns" in capsys.readouterr().err
    assert main([str(path), "--near", "--columns", "goal", "target", "--out", str(tmp_path / "o.jsonl")]) == 0


def test_missing_and_broken_data(tmp_path, capsys):
    assert main([str(tmp_path / "none.csv"), "--out", str(tmp_path / "o.jsonl")]) == 2
    (tmp_path / "broken.jsonl").write_text('{"text": "fine"}\n{"text": \n')
    assert main([str(tmp_path / "broken.jsonl"), "--near", "--out", str(tmp_path / "o.jsonl")]) == 2
    errors = capsys.readouterr().err
    assert "none.csv" in errors
    assert "broken.jsonl: row 2" in errors
    assert [file.name for file in tmp_path.iterdir()] == ["broken.jsonl"]


@pytest.mark.parametrize(("text", "number"), [("500MB", 500_000_000), ("2GiB", 2 << 30), ("7", 7), ("1.5 k", 1500)])
def test_sizes(text, number):
    assert read_bytes(text) == number


def interrupted(data, out, *arguments):
    command = [sys.executable, "-m", "validation.duplicates", str(data), "--near", "--out", str(out), *arguments]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list(out.parent.glob("**/text.bin")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    return process.returncode, errors


@pytest.mark.slow
def test_ctrl_c_leaves_nothing_or_a_folder_to_go_on_from(tmp_path):
    rng = np.random.default_rng(0)
    data = tmp_path / "data.txt"
    words = rng.integers(0, 50_000, (150_000, 8))
    data.write_text("".join(" ".join(map(str, row)) + "\n" for row in words.tolist()))
    code, errors = interrupted(data, tmp_path / "out.jsonl")
    assert code == 130, errors
    assert "Interrupted" in errors
    assert [file.name for file in tmp_path.iterdir()] == ["data.txt"]
    work = tmp_path / "work"
    code, errors = interrupted(data, tmp_path / "out.jsonl", "--work", str(work))
    assert code == 130, errors
    assert f"--work {work}" in errors
    assert main([str(data), "--near", "--out", str(tmp_path / "out.jsonl"), "--work", str(work)]) == 0
    assert (tmp_path / "out.jsonl").exists()


def test_the_command_does_not_wait_for_jax():
    command = [sys.executable, "-c", "import validation.duplicates, sys; sys.exit('jax' in sys.modules)"]
    assert subprocess.run(command, check=False).returncode == 0


@pytest.mark.slow
def test_a_publishers_own_removals_on_disk_too(tmp_path):
    folder = os.environ.get("ATLAS_DEV_DATA")
    if folder is None:
        pytest.skip("ATLAS_DEV_DATA is not set: the folder of development data sets")
    data = Path(folder) / "bad_gpteacher_toolformer_dups"
    out = tmp_path / "out.jsonl"
    assert main([str(data / "toolformer-dedupe-only-dataset.json"), "--near", "--out", str(out)]) == 0
    removed = np.loadtxt(data / "kept_at.csv", delimiter=",", skiprows=1, dtype=int)[:, 2] == 0
    named = np.array([row["row"] for row in lines(out) if row["kind"] != "first"]) - 1
    assert len(named) > 500
    assert removed[named].mean() > 0.95
