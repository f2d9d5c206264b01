"""Needles in a run: how often they are looked for, that looking changes nothing, and what a run without them says."""

from __future__ import annotations

import json
import os
import signal
from functools import partial

import jax
import numpy as np
import pytest

from atlas_jax.training.__main__ import main
from atlas_jax.training.needles.interval import measure_interval, read_interval
from atlas_jax.training.runs import probes
from atlas_jax.training.runs.execution import execute
from atlas_jax.training.runs.progress import Display
from atlas_jax.training.runs.run import resolve
from atlas_jax.training.runs.settings import Settings, SettingsError

SMALL = ("d_model=16", "layers=1", "heads=1", "feed_forward=16")
MODEL = {"model": "transformer", "preset": "micro-32", "config": SMALL, "length": 16, "rate": 1e-2, "batch": 4}
COMMAND = ["--model", "transformer", "--preset", "micro-32", "--length", "16", "--rate", "1e-2", "--batch", "4"]
COMMAND += ["--steps", "10", "--save-every", "5", "--evaluate-windows", "4", "--evaluate-every", "10"]
COMMAND += ["--config", *SMALL]
TIMES = ("time", "tokens_per_second")


@pytest.fixture(autouse=True)
def _devices():
    """JAX runs, with the devices of all tests, before a command could choose how many there are."""
    assert jax.device_count() == 4


def rows(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in TIMES} for line in lines]


def probed(folder):
    return [row["step"] for row in rows(folder) if "niah_map" in row]


def test_measured_once_looked_for_when_due_and_no_step_changed(tmp_path, capsys, monkeypatch):
    measured, usual = [], Display.__call__

    def measure(step, probe, *, repeats):
        decision = measure_interval(step, probe, repeats=repeats, candidates=(4,), most=0.999)
        measured.append(decision)
        return decision

    def press(display, event):
        usual(display, event)
        if event.index == 7:
            os.kill(os.getpid(), signal.SIGINT)

    run = [*COMMAND, "--devices", "2"]
    monkeypatch.setattr(probes, "measure_interval", measure)
    monkeypatch.setattr(Display, "__call__", press)
    assert main([*run, "--out", str(tmp_path / "measured")]) == 130
    assert "needles: every 4 steps: a probe takes" in capsys.readouterr().err
    assert probed(tmp_path / "measured") == [4]
    monkeypatch.setattr(Display, "__call__", usual)
    assert main([*run, "--out", str(tmp_path / "measured"), "--plot"]) == 0
    assert "needles.png" in capsys.readouterr().out
    assert (tmp_path / "measured" / "needles.png").read_bytes().startswith(b"\x89PNG")
    assert measured == [read_interval(tmp_path / "measured" / "probe_interval.json")]
    assert min(measured[0].step_seconds, measured[0].probe_seconds) > 0
    assert probed(tmp_path / "measured") == [4, 8, 10]

    assert main([*run, "--out", str(tmp_path / "asked"), "--probe-every", "4"]) == 0
    assert rows(tmp_path / "measured") == rows(tmp_path / "asked")
    assert not (tmp_path / "asked" / "probe_interval.json").exists()
    assert main([*run, "--out", str(tmp_path / "never"), "--probe-every", "0", "--plot"]) == 0
    assert "needles.png" not in capsys.readouterr().out
    without = [{name: row[name] for name in row if "niah" not in name} for row in rows(tmp_path / "asked")]
    assert rows(tmp_path / "never") == without
    assert len(measured) == 1


def test_a_file_that_holds_no_decision_is_named(tmp_path, capsys):
    (tmp_path / "probe_interval.json").write_text("{}")
    assert main([*COMMAND, "--devices", "1", "--out", str(tmp_path)]) == 2
    assert "probe_interval.json: expected a decision on a probe's interval" in capsys.readouterr().err


def test_where_no_needle_can_be_made_that_is_said_and_the_run_goes_on(tmp_path, capsys):
    (tmp_path / "few.txt").write_text("aaabbc" * 1000)
    given = ["--devices", "1", "--data", str(tmp_path / "few.txt"), "--out", str(tmp_path / "few")]
    assert main([*COMMAND, *given]) == 0
    said = capsys.readouterr().err
    assert "no needles are looked for: needles: there are 2 symbols, expected at least 8 for 4 needles" in said
    assert not probed(tmp_path / "few")
    assert not (tmp_path / "few" / "probe_interval.json").exists()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["--probe-every", "-1"], "error: --probe-every is -1, expected 0 or more"),
        (["--needles", "1.5"], "error: --needles is 1.5, expected 0 to 1"),
        (
            ["--needles", "0.5", "--length", "8"],
            "error: needles: a text has 9 tokens and needles can be made of 32 symbols, expected at least 20 and 4",
        ),
    ],
)
def test_what_cannot_be_is_one_line_and_leaves_nothing(tmp_path, capsys, given, expected):
    assert main([*COMMAND, "--devices", "1", "--out", str(tmp_path / "new"), *given]) == 2
    said = capsys.readouterr().err
    assert expected in said
    assert len(said.splitlines()) == 1
    assert not (tmp_path / "new").exists()


def test_lengths_follow_the_context_and_hold_a_needle():
    assert probes.task_of(256).lengths == (64, 128, 256, 512)
    assert probes.task_of(32).lengths == (15, 16, 32, 64)
    assert probes.task_of(1).lengths == (15,)


def test_texts_with_needles_are_trained_on_and_plain_ones_measured(tmp_path):
    """On one device and four; another share is another run."""
    common = {**MODEL, "length": 24, "steps": 3, "evaluate_windows": 4, "evaluate_every": 3, "seed": 2}
    runs = {n: resolve(Settings(**common, needles=0.5, devices=n), tmp_path / str(n)) for n in (1, 4)}
    plain = resolve(Settings(**common, devices=1), tmp_path / "plain")
    changed = []
    for position in (5, 0, 1, 9, 2):
        one, four, without = (run.batches.at(position)["tokens"] for run in (*runs.values(), plain))
        np.testing.assert_array_equal(one, four)
        changed += (one != without).any(axis=1).tolist()
    assert set(changed) == {False, True}
    execute(runs[1]), execute(plain)
    losses = [[row["loss"] for row in rows(run.folder)] for run in (runs[1], plain)]
    assert losses[0] != losses[1]
    held_out = [json.loads((run.folder / "held_out.jsonl").read_text().splitlines()[0]) for run in (runs[1], plain)]
    assert held_out[0]["loss"] == held_out[1]["loss"]
    with pytest.raises(SettingsError, match=r"--needles was 0.5 and is 0.0"):
        resolve(Settings(**common, devices=1), tmp_path / "1")


def test_the_last_map_of_a_file_is_drawn(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("atlas_jax.training.needles.heat_map.draw_needle_map", partial(_keep, drawn))
    maps = [np.full((4, 5), share).tolist() for share in (0.25, 0.5)]
    lines = [{"step": i, "niah_map": one, "niah_control_map": maps[0]} for i, one in enumerate(maps)] + [{"step": 3}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"niah_map": [')
    (tmp_path / "config.json").write_text(json.dumps({"config": {"context": 32}}))
    assert probes.draw_needles(tmp_path) == tmp_path / "needles.png"
    ((path, right, control), options), *rest = drawn
    assert (path, rest) == (tmp_path / "needles.png", [])
    assert (right.mean(), control.mean()) == (0.5, 0.25)
    assert options["lengths"] == (15, 16, 32, 64)
    assert options["trained"] == 32


def _keep(drawn, *given, **options):
    drawn.append((given, options))
