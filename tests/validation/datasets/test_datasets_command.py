"""`python -m validation.datasets`: what people see, and exit code 2 with one line where they cannot."""

import gzip
import os
import subprocess
import sys

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.validation.datasets.table_files import TABLE, WRITERS, write
from validation.datasets.__main__ import main


@pytest.mark.parametrize("suffix", WRITERS)
def test_every_format_is_described(tmp_path, capsys, suffix):
    write(TABLE, tmp_path / f"data.{suffix}")
    assert main([str(tmp_path / f"data.{suffix}"), "--rows", "2"]) == 0
    out = capsys.readouterr().out
    lines = dict(line.split(None, 1) for line in out.splitlines() if len(line.split()) > 1)
    assert lines["rows"] == "250" or (suffix == "arrows" and "estimated" in lines["rows"])
    assert lines["kind"] == "tabular"
    assert lines["size"] == "double"
    assert lines["1"].split() == ["1", "0.125", "True", "näme,", "0"]
    assert lines["2"].split() == ["2", "0.375", "False", "n1"]


def test_estimates_compression_and_schema_are_said(tmp_path, capsys):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"instruction": "Add", "output": "3"}\n' * 30_000))
    assert main([str(path), "--rows", "0"]) == 0
    out = capsys.readouterr().out
    assert "format  jsonl, gzip\n" in out
    assert "(estimated from the first rows)" in out
    assert "schema  instruction (instruction, output)\n" in out
    assert "kind    text\n" in out


def test_values_that_python_cannot_hold_are_still_shown(tmp_path, capsys):
    path = tmp_path / "a.parquet"
    pq.write_table(
        pa.table({"t": pa.array([1, 2**62], pa.timestamp("us")), "n": pa.array([1, 7], pa.timestamp("ns"))}), path
    )
    assert main([str(path)]) == 0
    assert "1970-01-01 00:00:00.000000007" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["none.csv"], r"error: none.csv: no such file or folder"),
        (["bad.csv"], r"error: bad.csv: no rows; expected at least one"),
        (["bad.csv", "--rows", "-1"], "error: --rows is -1, expected 0 or more"),
        (["late.jsonl"], "error: late.jsonl: row 2: not JSON"),
        (["late.jsonl", "--sheet", "a"], "error: late.jsonl: no sheet 'a'; jsonl files have no sheets"),
    ],
)
def test_errors_are_one_line_and_exit_code_2(tmp_path, monkeypatch, capsys, arguments, reason):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.csv").write_text("x,y\n", encoding="utf-8")
    (tmp_path / "late.jsonl").write_text('{"x": 1}\n{"x" 1}\n', encoding="utf-8")
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(reason)
    assert captured.err.count("\n") == 1


def test_a_typo_in_an_option(tmp_path):
    found = subprocess.run(
        [sys.executable, "-W", "error", "-m", "validation.datasets", "a.csv", "--rosw", "3"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "100"},
    )
    assert found.returncode == 2
    assert "--rows" in found.stderr


def test_values_are_shown_as_they_are(tmp_path, capsys):
    (tmp_path / "a.csv").write_text("x,y\n:warning:,[red]a[/red]\n", encoding="utf-8")
    assert main([str(tmp_path / "a.csv")]) == 0
    assert ":warning:  [red]a[/red]" in capsys.readouterr().out


def test_the_schema_of_another_sheet_is_not_shown(tmp_path, capsys):
    book = openpyxl.Workbook()
    book.active.append(["prompt", "response"])
    book.active.append(["a", "b"])
    book.create_sheet("numbers").append(["x", "y"])
    book["numbers"].append([1, 2])
    book.save(tmp_path / "a.xlsx")
    assert main([str(tmp_path / "a.xlsx")]) == 0
    assert "instruction" in capsys.readouterr().out
    assert main([str(tmp_path / "a.xlsx"), "--sheet", "numbers"]) == 0
    assert "instruction" not in capsys.readouterr().out
