"""What the training command does with gates and decisions on chunks, in real, tiny runs."""

from __future__ import annotations

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax.training.__main__ import main
from atlas_jax.training.memories import chunk_sets
from atlas_jax.training.memories.chunk_sets import ChunkSetError, decide, read_decision, write_decision
from atlas_jax.training.memories.gate_watch import RunWatch
from atlas_jax.training.runs.execution import execute
from atlas_jax.training.runs.programs import fresh_state, token_losses
from atlas_jax.training.runs.run import reopen, resolve
from atlas_jax.training.runs.settings import Settings, SettingsError

CONFIG = ("d_model=8", "layers=1", "heads=1", "feed_forward=8", "rule=delta", "network=linear", "rate=0.5")
FIGURES = {"gate_forget_mean", "gate_rate_std", "gate_polarised", "gate_variance", "gate_std"}


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("".join(f"{n} and {n * n} are numbers.\n" for n in range(400)))
    return path


def settings(text, **changed):
    common = {"data": (text,), "config": CONFIG, "length": 16, "batch": 4, "rate": 0.03, "devices": 1, "warmup": 0.0}
    return Settings(**{**common, "steps": 30, "evaluate_windows": 4, **changed})


def command(text, out, *given):
    """The same run by the command."""
    common = f"--data {text} --length 16 --batch 4 --rate 0.03 --devices 1 --warmup 0 --steps 30 --evaluate-windows 4"
    small = ["--config", *CONFIG, "--out", str(out), "--probe-every", "0"]
    return main([*common.split(), *small, *given])


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_gates_are_told_of_every_step_and_polarised_where_it_is_asked_for(text, tmp_path):
    for name, weight in (("without", 0.0), ("with", 3.0)):
        execute(resolve(settings(text, polarisation=weight), tmp_path / name))
    without, polarised = (lines(tmp_path / name / "metrics.jsonl") for name in ("without", "with"))
    assert all(row.keys() >= FIGURES for row in without + polarised)
    assert not any("polarisation" in row or "total_loss" in row for row in without)
    assert polarised[-1]["gate_polarised"] > 0.8 > without[-1]["gate_polarised"]
    for row in polarised:
        expected = row["loss"] + row["polarisation_weight"] * row["polarisation"]
        assert row["total_loss"] == pytest.approx(expected, rel=1e-5)
    weights = [row["polarisation_weight"] for row in polarised]
    np.testing.assert_allclose(weights[:4], 3.0, rtol=1e-6)
    np.testing.assert_allclose(
        weights[-1], 3 * 0.01 ** (26 / 27), rtol=1e-4
    )  # of the step before the end of the schedule
    assert (np.diff(weights[4:]) < 0).all()
    assert polarised[0]["loss"] == pytest.approx(without[0]["loss"], rel=1e-5), "the loss has the term in it"


@pytest.mark.parametrize(
    "changed",
    [
        {
            "model": "transformer",
            "preset": "micro-32",
            "config": ("d_model=16", "layers=1", "heads=1", "feed_forward=16"),
        },
        {"model": "atlas"},
    ],
    ids=["transformer", "atlas"],
)
def test_the_weights_of_needles_are_those_of_the_loss(text, tmp_path, changed):
    """Of the first step, whose parameters are known: by hand, of targets that count as much as their batch says."""
    run = resolve(settings(text, needles=0.5, length=32, steps=1, accumulation=2, **changed), tmp_path)
    batch = run.batches.at(0)
    losses = token_losses(
        run.model,
        run.config,
        fresh_state(run.model, run.config, run.optimizer, 0, run.mesh).params,
        jnp.asarray(batch["tokens"]),
    )
    execute(run)
    told = lines(tmp_path / "metrics.jsonl")[0]["loss"]
    losses, weights = np.asarray(losses, np.float64), np.asarray(batch["weights"], np.float64)
    assert told == pytest.approx(np.mean(losses * weights), rel=1e-5)
    assert told != pytest.approx(losses.mean(), rel=1e-4), "all count the same"


@pytest.mark.parametrize("given", [pytest.param(["--recovery", "none"], marks=pytest.mark.slow, id="saves"), []])
def test_dead_gates_end_a_run_with_one_and_nothing_is_lost(text, tmp_path, capsys, monkeypatch, given):
    look = RunWatch.row

    def dying(watch, row):  # as a log would tell it
        if "gate_std" in row:
            row |= {"gate_std": 0.001} if row["step"] >= 12 else {}
        look(watch, row)

    monkeypatch.setattr(RunWatch, "row", dying)
    assert command(text, tmp_path / "dead", "--watch-gates", "--evaluate-every", "14", *given) == 1
    said = capsys.readouterr().err
    assert (
        "error: step 12: gates vary by 0.0010 (standard deviation), expected at least 0.01; the gates have coll" in said
    )
    rows = lines(tmp_path / "dead" / "metrics.jsonl")
    last = rows[-1]["step"]
    assert [row["step"] for row in rows] == list(range(1, last + 1))
    assert 14 <= last < 30
    assert (tmp_path / "dead" / "checkpoints" / str(last)).is_dir(), "what was learnt is lost"
    noted = [(row["event"], row.get("fatal")) for row in lines(tmp_path / "dead" / "events.jsonl")]
    assert noted[-2:] == [("gates", True), ("interrupted", None)]
    monkeypatch.setattr(RunWatch, "row", look)
    goes_on = [*given, "--watch-gates", "--evaluate-every", "14"]
    assert command(text, tmp_path / "dead", *goes_on) == 0, "gates that live, as the log says, have ended a run"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["--polarisation", "-1"], "--polarisation is -1.0, expected 0 or more"),
        (
            ["--model", "transformer", "--polarisation", "1"],
            "--polarisation: --model transformer has no memories with gates",
        ),
        (["--model", "transformer", "--watch-gates"], "--watch-gates: --model transformer has no memories with gates"),
        (["--watch-gates", "--steps", "9"], "--watch-gates: GateLimits.within: 9 steps, expected at least 10"),
        (["--chunks", "4", "--chunks-from", "a"], "--chunks and --chunks-from are both given, expected one of them"),
        (["--chunks-from", "absent.json"], "absent.json: expected a decision on chunks"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(text, tmp_path, capsys, given, expected):
    preset = ["--preset", "micro-32"] if "transformer" in given else []
    assert main(["--data", str(text), "--out", str(tmp_path / "new"), *given, *preset]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert expected in line
    assert not (tmp_path / "new").exists()


@pytest.fixture
def decision(text, tmp_path):
    """Made for the model of `settings`: chunks of 2 are locked."""
    config = resolve(settings(text), tmp_path / "model").config
    found = decide(config, lambda config: 10.0 if config.chunks == (2,) else 1.0, sets={"A": (2,)})
    write_decision(found, tmp_path / "chunks.json")
    return found


def test_a_run_takes_the_chunks_that_were_decided_on_and_goes_on_without_the_file(text, tmp_path, decision):
    asked = settings(text, chunks_from=tmp_path / "chunks.json", steps=1)
    run = resolve(asked, tmp_path / "run")
    assert (run.config.chunks, run.settings.chunks, run.settings.chunks_from) == ((2,), (2,), None)
    assert resolve(asked, tmp_path / "run").config == run.config, "the same command goes on"
    (tmp_path / "chunks.json").unlink()
    assert reopen(tmp_path / "run").config == run.config
    assert resolve(settings(text, chunks=(2,), steps=1), tmp_path / "run").config == run.config
    write_decision(replace(decision, chunks=(4,)), tmp_path / "chunks.json")
    with pytest.raises(SettingsError, match=r"holds another run \(--chunks was \[2\] and is \[4\]\)"):
        resolve(asked, tmp_path / "run")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"chunks": None, "verdict": "stop: no set fits"},
            "the decision on chunks is to stop: no set fits; expected one",
        ),
        ({"machine": {"device": "Abacus"}}, r"of another machine: 'Abacus' there, '.*' here; measure again"),
        ({"model": {"d_model": 64}}, r"of another model: .*d_model 64 there, 8 here.*; measure again"),
    ],
)
def test_a_decision_of_something_else_is_refused(text, tmp_path, decision, changed, message):
    write_decision(replace(decision, **changed), tmp_path / "chunks.json")
    with pytest.raises(ChunkSetError, match=message):
        resolve(settings(text, chunks_from=tmp_path / "chunks.json"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_chunk_sets_command_writes_what_it_prints(text, tmp_path, capsys, monkeypatch):
    speeds = {(8,): 1.0, **dict.fromkeys(chunk_sets.SETS.values(), 2.0), (8, 32, 64): 7.0}
    seen = []
    monkeypatch.setattr(
        chunk_sets.TrainingSpeed, "__call__", lambda self, c: seen.append((self, c)) or speeds[c.chunks]
    )
    given = ["--preset", "micro-tnt", "--config", "shard=128", "global_chunk=128", "--length", "256", "--batch", "3"]
    path = tmp_path / "made" / "chunk_sets.json"
    assert chunk_sets.main([*given, "--dtype", "bfloat16", "--out", str(path)]) == 0
    assert "locked: set C [8, 32, 64] trains 7.00 times" in capsys.readouterr().out
    assert {(speed.batch, speed.length) for speed, _ in seen} == {(3, 256)}
    found = read_decision(path)
    assert (found.chunks, found.measured["batch"], found.machine["device"]) == (
        (8, 32, 64),
        3,
        jax.devices()[0].device_kind,
    )
    common = {"preset": "micro-tnt", "config": ("shard=128", "global_chunk=128"), "length": 256, "dtype": "bfloat16"}
    run = resolve(Settings(data=(text,), chunks_from=path, **common), tmp_path / "run")
    assert run.config.chunks == (8, 32, 64), "what the command measures is the model that is trained on bytes"
    speeds[8, 32, 64] = 3.0
    assert chunk_sets.main([*given, "--out", str(path)]) == 1
    assert "stop: the fastest, set C" in capsys.readouterr().out
    assert read_decision(path).chunks is None
    assert chunk_sets.main(["--config", "shard=7"]) == 2
    assert "error: AtlasConfig.global_chunk is 16, expected a divisor of shard = 7" in capsys.readouterr().err
