"""The command on one and on four devices: it goes on to the bit, in both stages, and from each to the other."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace

import chex
import jax
import numpy as np
import pytest

from atlas_jax.training import Checkpointer
from atlas_jax.training.__main__ import main
from atlas_jax.training.runs.progress import Display
from atlas_jax.training.runs.run import KEPT, reopen, resolve

pytestmark = pytest.mark.slow
TIMES = ("time", "tokens_per_second")
# The rule that compiles soonest; stage two begins after 6 of 12 steps and takes chunks 2 and 4 in turn.
RUN = ["--steps", "12", "--batch", "8", "--accumulation", "2", "--length", "32", "--rate", "1e-2", "--probe-every", "0"]
RUN += ["--stage-two-chunks", "2,4", "--stage-two-share", "0.5", "--save-every", "4", "--evaluate-every", "6"]
RUN += ["--evaluate-windows", "8", "--config", "d_model=16", "layers=1", "heads=1", "feed_forward=16", "rule=delta"]
RUN += ["network=linear", "rate=0.5", "--needles", "0.5", "--polarisation", "1"]
# Four devices add the gradients of a batch in another order: about 1e-7 of a gradient. Adam divides by its size, so where a
# gradient is nearly 0 the step of at most the rate, 1e-2, differs by more than that share of itself.
ORDER_OF_SUMS = 2e-4


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    jax.devices()  # the four of all tests, before the command asks for one
    path = tmp_path_factory.mktemp("data") / "text.txt"
    path.write_text("".join(f"row {i} says {i * i % 97}\n" for i in range(1000)))
    return path


def given(data, folder, devices):
    return [*RUN, "--data", str(data), "--out", str(folder), "--devices", str(devices)]


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory):
    """By number of devices the folder of a run from its first step to its last."""
    folder = tmp_path_factory.mktemp("undisturbed")
    for devices in (1, 4):
        assert main(given(data, folder / str(devices), devices)) == 0
    return {devices: folder / str(devices) for devices in (1, 4)}


def restored(folder, devices):
    """The newest state on so many devices."""
    shapes = resolve(replace(reopen(folder).settings, devices=devices), folder).shapes
    with Checkpointer(folder / "checkpoints", keep=KEPT) as checkpoints:
        state = checkpoints.restore(shapes)[0]
    assert {len(leaf.sharding.device_set) for leaf in jax.tree.leaves(state)} == {devices}
    return jax.device_get(state._replace(key=jax.random.key_data(state.key)))


def rows(path):
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in TIMES} for line in lines]


def run_until(monkeypatch, step, arguments):
    usual = Display.__call__

    def called(display, event):
        usual(display, event)
        if event.index == step:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Display, "__call__", called)
        assert main(arguments) == 143


@pytest.mark.parametrize("devices", [1, 4])
def test_stopped_in_either_stage_it_goes_on_to_the_bit(tmp_path, monkeypatch, data, undisturbed, devices):
    for step in (3, 9):
        run_until(monkeypatch, step, given(data, tmp_path, devices))
    program = [sys.executable, "-m", "atlas_jax.training", *given(data, tmp_path, devices)]
    found = subprocess.run(program, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert f" · {devices} device" in found.stderr
    chex.assert_trees_all_equal(restored(tmp_path, devices), restored(undisturbed[devices], devices))
    for name in ("metrics.jsonl", "held_out.jsonl"):
        assert rows(tmp_path / name) == rows(undisturbed[devices] / name)
    assert [row["chunk"] for row in rows(tmp_path / "metrics.jsonl")] == [16] * 6 + [2, 4] * 3


@pytest.mark.parametrize(("first", "second"), [(4, 1), (1, 4)])
def test_a_checkpoint_is_read_to_the_bit_and_trained_on_from_by_more_or_fewer_devices(
    tmp_path, monkeypatch, data, undisturbed, first, second
):
    run_until(monkeypatch, 8, given(data, tmp_path / "run", first))
    saved = restored(tmp_path / "run", first)
    chex.assert_trees_all_equal(restored(tmp_path / "run", second), saved)
    assert (int(saved.step), int(saved.position)) == (8, 8)

    assert main(given(data, tmp_path / "run", second)) == 0
    begun = [row for row in rows(tmp_path / "run" / "events.jsonl") if row["event"] in ("start", "resume")]
    assert [(row["step"], row["devices"]) for row in begun] == [(0, first), (8, second)]
    for other in undisturbed.values():
        expected = restored(other, second)
        chex.assert_trees_all_close(restored(tmp_path / "run", second).params, expected.params, atol=ORDER_OF_SUMS)
        losses = [[row["loss"] for row in rows(folder / "metrics.jsonl")] for folder in (tmp_path / "run", other)]
        np.testing.assert_allclose(*losses, rtol=1e-5)
    assert rows(tmp_path / "run" / "metrics.jsonl")[:8] == rows(undisturbed[first] / "metrics.jsonl")[:8]
