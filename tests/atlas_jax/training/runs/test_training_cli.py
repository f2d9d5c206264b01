"""The command: one line says what is wrong, the same command goes on, and a drawing of what happened."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections import namedtuple

import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax.training import __main__ as command
from atlas_jax.training.__main__ import main
from atlas_jax.training.checkpoint import Checkpointer
from atlas_jax.training.runs import sample, tensorboard
from atlas_jax.training.runs.probes import Probing
from atlas_jax.training.runs.progress import Display, duration
from atlas_jax.training.runs.run_plot import draw, smooth
from atlas_jax.training.telemetry import LogError

SMALL = [
    "--model",
    "transformer",
    "--preset",
    "micro-32",
    "--config",
    "d_model=16",
    "layers=1",
    "heads=1",
    "feed_forward=16",
]
TRAIN = [*SMALL, "--length", "16", "--steps", "12", "--rate", "1e-2", "--devices", "1", "--evaluate-windows", "12"]


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_trained_drawn_interrupted_and_taken_up_again(tmp_path, capsys, monkeypatch):
    arguments = [*TRAIN, "--evaluate-every", "6", "--save-every", "5", "--out", str(tmp_path), "--plot"]
    usual = Display.__call__

    def press(display, event):
        usual(display, event)
        if event.index == 7:
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(Display, "__call__", press)
    assert main(arguments) == 130
    said = capsys.readouterr().err
    assert "Interrupted. Go on with: python -m atlas_jax.training --model transformer" in said
    assert lines(tmp_path / "metrics.jsonl")[-1]["step"] == 7
    assert signal.getsignal(signal.SIGINT) == before
    monkeypatch.setattr(Display, "__call__", usual)
    assert main(arguments) == 0
    captured = capsys.readouterr()
    assert "step 12: held-out loss" in captured.out
    assert "bits per byte" in captured.out
    assert [row["step"] for row in lines(tmp_path / "metrics.jsonl")] == list(range(1, 13))
    assert (tmp_path / "run.png").read_bytes().startswith(b"\x89PNG")
    assert main(arguments) == 0
    assert len(lines(tmp_path / "metrics.jsonl")) == 12


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["--preset", "huge"], "error: --preset is 'huge', expected one of micro-32"),
        (["--data", "absent.txt"], "error: absent.txt: no such file or folder"),
        (["--data", "EMPTY"], "empty.txt: is empty, expected text"),
        (["--data", "SHORT"], "short.txt: 5 tokens are to train on, expected at least 17"),
        (["--batch", "7", "--accumulation", "2"], "error: --batch is 7, expected a multiple of --accumulation 2"),
        (["--stage-two-chunks", "2,4"], "error: stage two: TransformerConfig has no local memories"),
        (["--tensorboard"], "error: --tensorboard needs the package tensorboardX, which is not installed"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(tmp_path, capsys, monkeypatch, given, expected):
    monkeypatch.setattr(tensorboard, "find_spec", lambda name: None)
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "short.txt").write_text("short")
    given = [str(tmp_path / f"{word.lower()}.txt") if word in ("EMPTY", "SHORT") else word for word in given]
    assert main([*TRAIN, "--out", str(tmp_path / "new"), *given]) == 2
    said = capsys.readouterr().err
    assert expected in said
    assert len(said.splitlines()) == 1
    assert not (tmp_path / "new").exists()


def test_a_full_disk_and_a_folder_of_another_run_are_told(tmp_path, capsys, monkeypatch):
    (tmp_path / "config.json").write_text(json.dumps({"settings": {"steps": 3}, "data": ""}))
    assert main([*TRAIN, "--out", str(tmp_path)]) == 2
    assert "--steps was 3 and is 12" in capsys.readouterr().err
    monkeypatch.setattr(shutil, "disk_usage", lambda path: namedtuple("Usage", "free")(1))
    assert main([*TRAIN, "--out", str(tmp_path / "new")]) == 2
    assert "GB are free on its disk, expected" in capsys.readouterr().err


@pytest.mark.parametrize("given", [["--stpes", "3"], ["--chunks", "2;4"], ["--optimizer", "sgd"], ["--steps", "many"]])
def test_a_word_that_is_no_setting_ends_with_two(given):
    with pytest.raises(SystemExit) as stopped:
        main(given)
    assert stopped.value.code == 2


def test_rows_go_to_tensorboard_as_scalars(tmp_path, monkeypatch):
    written = []

    class Writer:
        def __init__(self, folder, purge_step):
            written.append((folder, purge_step))

        def add_scalar(self, name, value, step):
            written.append((name, value, step))

        def close(self):
            written.append("closed")

    monkeypatch.setattr(tensorboard, "find_spec", lambda name: name)
    monkeypatch.setitem(sys.modules, "tensorboardX", namedtuple("Module", "SummaryWriter")(Writer))
    with tensorboard.Board(tmp_path) as board:
        board({"step": 4, "time": 1.0, "loss": 2.5, "mfu": None, "table": [[1.0]]})
        board({"step": 5, "held_out_loss": 2.0})
    assert written == [(str(tmp_path), 4), ("loss", 2.5, 4), ("held_out_loss", 2.0, 5), "closed"]


def test_a_drawing_needs_a_step_and_bears_one_that_is_not_finite(tmp_path):
    with pytest.raises(LogError, match=r"metrics\.jsonl: no line of metrics"):
        draw(tmp_path)
    np.testing.assert_allclose(smooth(np.array([np.nan, 1.0, np.nan, 3.0, 5.0]), reach=1), [np.nan, 1, 2, 4, 5])
    rows = [{"step": 1, "loss": None, "grad_norm": None, "learning_rate": 0.1, "stage": 1, "nonfinite": True}]
    rows += [{"step": 2, "loss": 3.0, "grad_norm": 1.0, "learning_rate": 0.1, "stage": 2}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 3, "lo')
    assert draw(tmp_path).read_bytes().startswith(b"\x89PNG")


def test_durations_are_read_at_a_glance():
    assert [duration(s) for s in (41.6, 185.0, 7801.0)] == ["42 s", "3 min 5 s", "2 h 10 min"]


def test_what_a_finished_run_lacks_is_one_line(tmp_path, capsys):
    arguments = [*TRAIN, "--out", str(tmp_path), "--steps", "1", "--probe-every", "0"]
    assert main(arguments) == 0
    capsys.readouterr()
    (tmp_path / "metrics.jsonl").unlink()
    assert main([*arguments, "--plot"]) == 2
    said = capsys.readouterr().err
    assert f"error: {tmp_path / 'metrics.jsonl'}: no line of metrics, expected those of a run" in said
    assert "Traceback" not in said
    with Checkpointer(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(2, {"w": jnp.zeros(3)}, {})
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert "error: " in said
    assert "checkpoint of another model or optimizer" in said
    assert sample.main([str(tmp_path)]) == 2


@pytest.mark.parametrize(("needles", "warned"), [("0", False), ("0.5", True)])
def test_needles_are_missed_only_by_who_learns_to_find_them(tmp_path, caplog, monkeypatch, needles, warned):
    none = Probing(1, lambda params: {"niah_accuracy": jnp.zeros((), jnp.float32)})
    monkeypatch.setattr(command, "probing_of", lambda run, every, say: none)
    given = [*TRAIN, "--out", str(tmp_path), "--steps", "1"]
    assert main([*given, "--length", "32", "--needles", needles]) == 0
    assert [row["niah_accuracy"] < 0.8 for row in lines(tmp_path / "metrics.jsonl")] == [True]
    assert any("needles are not found, expected niah_accuracy >= 0.8" in said for said in caplog.messages) == warned


def test_the_help_breaks_lines_at_the_ends_of_sentences(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    said = capsys.readouterr().out
    ends = [line.strip("│ ") for line in said.splitlines()]
    for last in ("again at half the rate.", "from step 100 to 500", "0: never."):
        assert any(end.endswith(last) for end in ends), last
    assert "None: never go back, and stop only at numbers that are not finite." in " ".join(ends)
    assert "2 bad input or a full disk, 130 interrupted" in " ".join(ends)
