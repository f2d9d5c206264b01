"""Metric lines: grouped transfers, values that JSON lacks, and resuming."""

from __future__ import annotations

import json

import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax.training import Event, Telemetry
from atlas_jax.training.telemetry import LogError


def lines(path):
    return [{k: v for k, v in json.loads(line).items() if k != "time"} for line in path.read_text().splitlines()]


def record(telemetry, steps):
    for step in steps:
        telemetry(Event(step, None, {"loss": jnp.float32(1 / step)}))


class Watched:
    """A scalar that counts how often it is read."""

    reads = 0

    def __array__(self, dtype=None, copy=None):
        Watched.reads += 1
        return np.array(1.0)


def test_nothing_is_read_before_the_group_is_full(tmp_path):
    Watched.reads = 0
    telemetry = Telemetry(tmp_path / "run" / "metrics.jsonl", flush_every=5)
    for step in range(1, 5):
        telemetry(Event(step, None, {"loss": Watched()}))
    assert Watched.reads == 0
    telemetry(Event(5, None, {"loss": Watched()}))
    assert Watched.reads == 5
    assert len(lines(tmp_path / "run" / "metrics.jsonl")) == 5


def test_exit_writes_the_rest_and_values_survive(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with Telemetry(path) as telemetry:
        telemetry(Event(1, None, {"loss": jnp.float32(0.1), "tokens": jnp.int32(7), "each": jnp.array([1.0, 2.0])}))
        telemetry(Event(2, None, {"loss": jnp.float32(jnp.nan), "each": jnp.array([jnp.inf, 2.0])}))
    assert lines(path) == [
        {"step": 1, "loss": float(np.float32(0.1)), "tokens": 7, "each": [1.0, 2.0]},
        {"step": 2, "loss": None, "each": [None, 2.0], "nonfinite": True},
    ]


def test_a_resumed_file_equals_the_uninterrupted_one(tmp_path):
    with Telemetry(tmp_path / "whole.jsonl") as telemetry:
        record(telemetry, range(1, 31))
    with Telemetry(tmp_path / "resumed.jsonl", flush_every=7) as telemetry:
        record(telemetry, range(1, 24))
    with (tmp_path / "resumed.jsonl").open("a") as file:
        file.write('{"step": 24, "lo')  # killed while writing
    with Telemetry(tmp_path / "resumed.jsonl") as telemetry:
        telemetry.resume_from(20)
        record(telemetry, range(21, 31))
    assert lines(tmp_path / "resumed.jsonl") == lines(tmp_path / "whole.jsonl")
    assert [path.name for path in tmp_path.glob("*.tmp")] == []


def test_resuming_without_a_file_starts_one_and_a_foreign_file_is_refused(tmp_path):
    with Telemetry(tmp_path / "new.jsonl") as telemetry:
        telemetry.resume_from(3)
        record(telemetry, [4])
    assert [line["step"] for line in lines(tmp_path / "new.jsonl")] == [4]
    foreign = tmp_path / "notes.txt"
    foreign.write_text("my notes\n")
    with pytest.raises(LogError, match=r"notes\.txt, line 1: expected a JSON object with a step, found 'my notes"):
        Telemetry(foreign).resume_from(1)
    assert foreign.read_text() == "my notes\n"


def test_what_cannot_be_written_is_told_once_and_is_not_kept(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.symlink_to("/dev/full")
    with Telemetry(path) as telemetry:
        record(telemetry, [1])
        with pytest.raises(OSError, match=f"No space left on device: '{path}'"):
            telemetry.flush()
        path.unlink()
    assert not path.exists(), "written at the end although the first attempt had failed"
