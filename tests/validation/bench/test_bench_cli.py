"""The command line: what it prints, what it refuses, and how it ends."""

import json
import subprocess
import sys

import bench_world
import pytest
from bench_world import keep_only

from validation.bench.__main__ import main
from validation.bench.cases import Recipe
from validation.bench.corpora import CORPORA
from validation.bench.corruptions import CORRUPTIONS
from validation.bench.table import COUNTED, DEFAULT, Table

TEXT = "tiny text"
CASES = len(CORRUPTIONS["resample"].seeds)


@pytest.fixture
def world(monkeypatch, small, cache):
    """One corpus, and nothing but resamples, and label models that cost nothing."""
    monkeypatch.setitem(CORPORA, TEXT, bench_world.corpus("text"))
    keep_only(monkeypatch, "resample")
    return bench_world.train_at_once(monkeypatch)


def table_of(folder):
    """A table of four cases, one of each state."""
    table = Table(folder)
    for number, verdict in enumerate(["clean", "collapsing", "grey", None]):
        name = f"c/resample/1/{number}"
        table.cases.add({"id": name, "hash": "h"})
        if verdict:
            table.labels.add({"id": name, "hash": "h", "verdict": verdict})
    return folder


def test_status_prints_exactly_one_object(tmp_path, capsys):
    assert main(["status", "--table", str(table_of(tmp_path)), "--json"]) == 0
    printed = capsys.readouterr()
    assert printed.out.count("\n") == 1
    assert json.loads(printed.out) == {"clean": 1, "collapsing": 1, "grey": 1, "pending": 1}
    assert printed.err == ""


def test_status_in_words(tmp_path, capsys):
    assert main(["status", "--table", str(table_of(tmp_path))]) == 0
    assert capsys.readouterr().out == "1 clean, 1 collapsing, 1 grey, 1 pending\n"


def test_the_module_runs_by_itself():
    """With the table that ships, in a process of its own."""
    command = [sys.executable, "-m", "validation.bench", "status", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    counts = json.loads(done.stdout)
    assert tuple(counts) == COUNTED
    assert counts == Table(DEFAULT).status()


def test_building_and_labelling_from_the_command_line(tmp_path, capsys, world):
    table = ["--table", str(tmp_path / "table")]
    assert main(["build", *table, "--corpora", TEXT]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"building {TEXT}: {CASES} cases",
        f"built {TEXT}: {CASES} cases, {CASES} of them new",
        f"0 clean, 0 collapsing, 0 grey, {CASES} pending",
    ]
    assert main(["label", *table, "--corpora", TEXT, "--limit", "1"]) == 0
    assert main(["status", *table, "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["pending"] == CASES - 1
    assert main(["label", *table, "--at-once", "2"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert [line for line in printed if line.startswith(f"{CASES - 1}/{CASES - 1}")]
    assert printed[-1].endswith("0 pending")


def test_an_interruption_says_how_to_go_on(tmp_path, capsys, world, monkeypatch):
    table = ["--table", str(tmp_path / "table")]
    main(["build", *table, "--corpora", TEXT])

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as stopped:
        stopped.setattr("validation.bench.labelling.train_cases", interrupted)
        assert main(["label", *table]) == 130
    assert "same command" in capsys.readouterr().err
    assert main(["label", *table]) == 0
    assert Table(tmp_path / "table").status()["pending"] == 0


@pytest.mark.parametrize("command", ["build", "label"])
def test_an_unknown_corpus_is_refused_with_those_there_are(tmp_path, capsys, command):
    assert main([command, "--table", str(tmp_path / "table"), "--corpora", "wikitext2"]) == 2
    error = capsys.readouterr().err
    assert "'wikitext2'" in error
    assert "wikitext-2" in error
    assert not (tmp_path / "table").exists()


@pytest.mark.parametrize("command", ["build", "label"])
def test_a_folder_that_cannot_be_written_is_refused(tmp_path, capsys, world, command):
    (tmp_path / "file").write_text("no folder")
    if command == "label":  # a table that can be read and not be added to
        main(["build", "--table", str(tmp_path / "table"), "--corpora", TEXT])
        (tmp_path / "table" / "labels.jsonl").mkdir()
    folder = tmp_path / ("file" if command == "build" else "table")
    assert main([command, "--table", str(folder), "--corpora", TEXT]) == 2
    assert str(folder) in capsys.readouterr().err


def test_a_broken_table_is_refused(tmp_path, capsys):
    table_of(tmp_path)
    with (tmp_path / "labels.jsonl").open("a") as file:
        file.write("nonsense\n")
    assert main(["status", "--table", str(tmp_path), "--json"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "labels.jsonl, line 4" in printed.err


@pytest.mark.parametrize("wrong", [["--at-once", "-1"], ["--limit", "-1"]])
def test_numbers_out_of_range_are_refused(tmp_path, capsys, world, wrong):
    table = ["--table", str(tmp_path / "table")]
    main(["build", *table, "--corpora", TEXT])
    assert main(["label", *table, *wrong]) == 2
    assert "-1" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", [["lable"], ["status", "--jsn"], ["label", "--limit", "many"], []])
def test_a_command_that_is_none_is_refused(capsys, wrong):
    with pytest.raises(SystemExit) as ended:
        main(wrong)
    assert ended.value.code == 2
    assert capsys.readouterr().err


def test_the_table_that_ships_is_one():
    if not list(DEFAULT.glob("*.jsonl")):
        pytest.skip(f"nothing in {DEFAULT.name} yet: python -m validation.bench build, then label")
    table = Table(DEFAULT)
    for name, case in table.cases.items():
        assert Recipe(*(case[field] for field in Recipe._fields)).id == name
        assert case["corpus"] in CORPORA
        assert case["kind"] == CORPORA[case["corpus"]].kind
        assert 0 <= case["bad"] <= case["rows"]
        label = table.label(name)
        if label is not None:
            assert label["verdict"] in COUNTED[:3]
            assert (label["verdict"] == "collapsing") == bool(label["fired"])
    assert sum(table.status().values()) == len(table.cases.names())
