"""A shortened report tells the truth, in lines, JSON and page; a second call goes on; wrong input is one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from gates_report_program import SHORT

from atlas_jax.training.gates_report.__main__ import main

# Most of a short report is compiling.
QUICK = "--xla_backend_optimization_level=0"
ARGUMENTS = [
    *("--steps", "12", "--preset", "micro", "--length", "32", "--batch", "2", "--config", "shard=16", "network=linear"),
    *("d_model=4", "heads=1", "layers=1", "feed_forward=4"),
]


class Page(HTMLParser):
    """What a page shows and what it asks for."""

    def __init__(self):
        super().__init__()
        self.tags, self.asked, self.text = [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.asked += [value for name, value in attributes if name in ("src", "href") and not value.startswith("#")]

    def handle_data(self, data):
        self.text.append(data)


def report(folder, *more):
    program = Path(__file__).with_name("gates_report_program.py")
    flags = {"XLA_FLAGS": QUICK, "JAX_PLATFORMS": "cpu"}
    return subprocess.run(
        [sys.executable, str(program), *ARGUMENTS, "--out", str(folder), *more],
        env=os.environ | flags,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_shortened_report_is_true_and_goes_on(tmp_path, capsys):
    done = report(tmp_path)
    assert done.returncode == 1, done.stderr
    lines = done.stdout.splitlines()
    content = json.loads((tmp_path / "gates.json").read_text())
    assert [gate["line"] for gate in content["gates"]] == lines[:-1]
    assert [gate["id"] for gate in content["gates"]] == [f"G2-{i}" for i in range(1, 8)]
    assert lines[-1] == f"phase 2: {content['summary']}"
    assert not content["passed"]
    passed = {gate["id"]: gate["passed"] for gate in content["gates"]}
    # Twelve steps: trained without a fault, and nothing learnt; the model has no projection and no global memory.
    assert [name for name, is_passed in passed.items() if is_passed] == ["G2-4"]
    assert content["gates"][3]["measured"]["steps"] == 12
    assert content["gates"][4]["measured"]["accuracy"] < 0.8
    assert content["gates"][0]["measured"]["rows"][0]["tokens_per_second"] > 0
    assert "choose --preset micro-tnt" in lines[2]
    assert "[2/5] training micro" in done.stderr

    page = Page()
    text = (tmp_path / "gates.html").read_text()
    page.feed(text)
    assert page.tags.count("svg") == 2
    assert page.asked == []
    assert "script" not in page.tags
    assert content["summary"] in "".join(page.text)

    run = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert main([*ARGUMENTS, "--out", str(tmp_path)], SHORT) == 1
    assert capsys.readouterr().out == done.stdout
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == run
    assert main([*ARGUMENTS, "--out", str(tmp_path), "--steps", "13"], SHORT) == 2
    assert "--steps was 12 and is 13" in capsys.readouterr().err


@pytest.mark.slow
def test_the_report_of_phase_four_is_true(tmp_path):
    more = ["--phase", "4", "--length", "64", "--config", "shard=32", *ARGUMENTS[ARGUMENTS.index("network=linear") :]]
    done = report(tmp_path, *more)
    assert done.returncode == 1, done.stderr
    lines = done.stdout.splitlines()
    assert [line[:11] for line in lines[:-1]] == ["G4-1 passed", "G4-2 FAILED", "G4-3 FAILED", "G4-4 passed"]
    assert "the shard is no multiple of 64" in lines[1]
    assert "48 tokens, shard 32" in lines[3]
    gates = {gate["id"]: gate for gate in json.loads((tmp_path / "gates.json").read_text())["gates"]}
    perplexities = gates["G4-2"]["measured"]
    assert perplexities.pop("64") is None
    assert all(found > 1 for found in perplexities.values())
    assert len(set(perplexities.values())) > 1, "chunks that change nothing were not set"
    assert (tmp_path / "gates.html").read_text().count("<svg") == 3
    stages = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert {row["stage"] for row in stages} == {1, 2}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["--preset", "huge"], "error: --preset is 'huge', expected one of micro"),
        (["--steps", "0"], "error: --steps is 0, expected 1 or more"),
        (["--config", "wings=2"], "error: AtlasConfig has no wings"),
        (["--phase", "4", "--data", "absent.txt"], "error: absent.txt: no such file or folder"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(tmp_path, capsys, given, expected):
    assert main([*given, "--out", str(tmp_path / "report")]) == 2
    said = capsys.readouterr().err
    assert expected in said
    assert not (tmp_path / "report").exists()
