"""The command line on input that cannot be judged: one line, exit code 2, nothing written. Nothing here trains."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_world import TINY, markov_rows

from validation import runner
from validation.cascade import BAD_INPUT, INTERRUPTED, Options, main
from validation.profiles import PROFILES

ROOT = Path(__file__).parents[2]


@pytest.fixture
def place(tmp_path, monkeypatch, cache):
    """A working folder with a good dataset, and a run that would fail the test if it trained."""

    def no_training(*args, **kwargs):
        raise AssertionError("this input must be refused before anything trains")

    monkeypatch.setattr(runner, "train_tier", no_training)
    monkeypatch.setitem(PROFILES, "quick", TINY)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.txt").write_text("\n".join(markov_rows(700, 40)) + "\n")
    return tmp_path


@pytest.fixture
def refused(place, capfd):
    """Runs the command line, expects it to refuse, and returns its one line without the prefix."""

    def run(*arguments, out="out"):
        assert main([*arguments, "--profile", "quick", "--out", str(out)]) == BAD_INPUT
        stdout, stderr = capfd.readouterr()
        assert stdout == ""
        lines = stderr.splitlines()
        assert [line.startswith("error: ") for line in lines].count(True) == 1, stderr
        assert lines[-1].startswith("error: ")
        # Above it stand the names of the stages it got through, no traceback and no second half of a message.
        stages = [line for line in lines[:-1] if not line.startswith("pre-screen")]
        assert set(stages) <= {"reading", "statistics, duplicates and tokens"}
        assert not Path(out).exists()
        return lines[-1].removeprefix("error: ")

    return run


def test_a_missing_file_with_a_suggestion(refused):
    assert refused("god.txt") == "god.txt: no such file or folder; did you mean 'good.txt'?"


def test_an_empty_file(refused, place):
    (place / "empty.jsonl").write_text("")
    assert refused("empty.jsonl") == "empty.jsonl: empty file (0 bytes); expected at least one row"


def test_a_folder_without_data(refused, place):
    (place / "folder").mkdir()
    (place / "folder" / "README.txt").write_text("about")
    assert refused("folder").startswith("folder: no data files; known suffixes: .txt")


def test_no_text_column(refused, place):
    (place / "table.csv").write_text("height,weight\n1,2\n3,4\n")
    line = refused("table.csv")
    assert line.startswith("table.csv: cannot tell which column is the text; columns: height, weight")
    assert "--text-column" in line
    assert "columns: height, weight; did you mean 'weight'?" in refused("table.csv", "--text-column", "wieght")


def test_a_wrong_encoding(refused, place):
    (place / "latin.txt").write_bytes(b"plain line\n" * 50 + "caf\u00e9\n".encode("latin-1"))
    assert refused("latin.txt").startswith("latin.txt: byte 553 (0xe9) is not UTF-8")


def broken(place):
    rows = [f'{{"text": "{row}"}}' for row in markov_rows(900, 41)]
    rows[499] = '{"text": "never closed'
    (place / "broken.jsonl").write_text("\n".join(rows) + "\n")


def test_a_broken_line_in_the_middle(refused, place):
    broken(place)
    assert refused("broken.jsonl").startswith("broken.jsonl: row 500: ")


def test_a_broken_line_is_skipped_where_that_is_asked_for(place, monkeypatch, capfd):
    broken(place)
    found = []

    class Reached(KeyboardInterrupt):
        pass

    def reached(request, problem):
        found.append((request.data.skipped, problem.data.corpus))
        raise Reached

    monkeypatch.setattr(runner, "_state", reached)
    assert main(["broken.jsonl", "--profile", "quick", "--skip-bad-rows", "--out", "out"]) == INTERRUPTED
    [(skipped, corpus)] = found
    assert [(file, row) for file, row, _ in skipped] == [("broken.jsonl", 500)]
    assert corpus.rows_read == 899
    assert 500 not in corpus.row
    assert corpus.row[-1] == 900
    assert corpus.skipped == skipped
    command = capfd.readouterr().err.splitlines()[-1]
    assert command.endswith("validation.cascade broken.jsonl --profile quick --skip-bad-rows --out out --resume")


def test_a_truncated_parquet_file(refused, place):
    pq.write_table(pa.table({"text": markov_rows(900, 42)}), place / "whole.parquet")
    content = (place / "whole.parquet").read_bytes()
    (place / "cut.parquet").write_bytes(content[: len(content) // 2])
    assert refused("cut.parquet").startswith("cut.parquet: ")


def test_too_few_rows(refused, place):
    (place / "few.txt").write_text("\n".join(markov_rows(50, 43)))
    line = refused("few.txt")
    assert "the data has too little text for profile 'quick'" in line
    assert "rows of this length)" in line
    assert "the reference has too little text" in refused("good.txt", "--reference", "few.txt")


def test_rows_without_any_text(refused, place):
    (place / "blank.csv").write_text("text,n\n" + ",1\n" * 100)
    assert "holds no text: all 100 rows are empty" in refused("blank.csv", "--text-column", "text")


def test_a_file_in_the_way_of_the_report(place, capfd):
    (place / "taken").write_text("mine")
    for out in ("taken", "taken/below"):
        assert main(["good.txt", "--profile", "quick", "--out", out]) == BAD_INPUT
        assert capfd.readouterr().err == f"error: --out {out}: {place / 'taken'} is not a folder\n"
    assert (place / "taken").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_in(place, capfd):
    (place / "locked").mkdir(mode=0o500)
    assert main(["good.txt", "--profile", "quick", "--out", "locked/out"]) == BAD_INPUT
    assert "no permission to write" in capfd.readouterr().err


def test_a_reference_of_another_kind(refused, place):
    (place / "numbers.csv").write_text("height,weight\n" + "1,2\n" * 500)
    line = refused("good.txt", "--reference", "numbers.csv")
    assert line.startswith("reference: numbers.csv: cannot tell which column is the text")
    assert refused("good.txt", "--reference", "absent.txt").startswith("reference: absent.txt: no such file")


def test_a_tokenizer_that_is_none(refused, place):
    (place / "tokenizer.json").write_text('{"version": "1.0"}')
    assert refused("good.txt", "--tokenizer", "tokenizer.json").startswith("tokenizer tokenizer.json: not a tokenizer")
    assert refused("good.txt", "--tokenizer", "absent.json").startswith("tokenizer absent.json: cannot be read")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["good.txt", "--fail-above", "200"], "--fail-above is 200, expected 0 to 100"),
        (["good.txt", "--fail-above", "nan"], "--fail-above is nan, expected 0 to 100"),
        (["good.txt", "--seed", "-1"], "--seed is -1, expected 0 or more"),
        (["--reference", "good.txt"], "--reference, --tokenizer and --text-column need DATA"),
    ],
)
def test_options_out_of_range(refused, arguments, expected):
    assert refused(*arguments) == expected


def test_a_state_of_another_run_is_not_resumed(place, monkeypatch, capfd):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as interrupted:
        interrupted.setattr(runner, "train_tier", stop)
        assert main(["good.txt", "--profile", "quick", "--out", "run"]) == INTERRUPTED
    kept = sorted(Path("run").rglob("*"))
    assert kept
    assert main(["good.txt", "--profile", "quick", "--out", "run", "--seed", "5", "--resume"]) == BAD_INPUT
    assert "error: cannot resume from run/state: seed differ from the interrupted run" in capfd.readouterr().err
    assert sorted(Path("run").rglob("*")) == kept


def test_an_unknown_option_is_answered_with_the_known_one():
    done = subprocess.run(
        [sys.executable, "-m", "validation.cascade", "good.txt", "--referense", "x.txt"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == BAD_INPUT
    assert "--referense" in done.stderr
    assert "--reference" in done.stderr.replace("--referense", "")
    assert "Traceback" not in done.stderr


def test_the_report_goes_where_the_name_of_the_data_says():
    assert Options(data="some/where/my.data.jsonl").folder() == Path("reports/my.data")
    assert Options(data="shards/*.jsonl").folder() == Path("reports/data")
    assert Options().folder() == Path("reports/demonstration")
    assert Options(data="x.txt", out=Path("there")).folder() == Path("there")
