"""Faults to rehearse with: they strike where they are told to, and nowhere else."""

from __future__ import annotations

import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax.training import Checkpointer, CheckpointError, adamw, init_state, make_step, wsd
from atlas_jax.training.recovery.faults import (
    CorruptBatches,
    FullDisk,
    nan_gradient,
    nonsense,
    truncate_checkpoint,
    wrong_rate,
)


def loss(params, batch, key):
    return jnp.mean((params["w"] - batch) ** 2), {}


def start():
    return init_state({"w": jnp.zeros(3)}, adamw(), jax.random.key(0))


def test_a_nan_gradient_leaves_what_a_real_one_does_and_only_there():
    def really(params, batch, key):
        value, _ = loss(params, batch, key)
        return value + 0 * jnp.sqrt(jnp.sum((params["w"] - jax.lax.stop_gradient(params["w"])) ** 2)), {}

    faulty = jax.jit(nan_gradient(make_step(loss, adamw()), position=1))
    state, metrics = faulty(start(), jnp.ones(3), 0.1)
    expected, _ = jax.jit(make_step(loss, adamw()))(start(), jnp.ones(3), 0.1)
    assert np.asarray(state.params["w"]).tobytes() == np.asarray(expected.params["w"]).tobytes()
    assert np.isfinite(metrics["grad_norm"])

    found, metrics = faulty(state, jnp.ones(3), 0.1)
    wanted, named = jax.jit(make_step(really, adamw()))(expected, jnp.ones(3), 0.1)
    for one, two in zip(
        jax.tree.leaves((found.params, found.opt_state, metrics)),
        jax.tree.leaves((wanted.params, wanted.opt_state, named)),
        strict=True,
    ):
        np.testing.assert_array_equal(one, two)
    assert np.isnan(metrics["grad_norm"])
    assert np.isfinite(metrics["loss"])
    assert (int(found.step), int(found.position)) == (2, 2)


class Counting:
    def at(self, position):
        return {"tokens": np.arange(12).reshape(3, 4) + position, "weight": np.ones(2, np.float32)}


def test_corrupt_batches_are_those_asked_for_and_the_same_every_time():
    source, sound = CorruptBatches(Counting(), [2, 5]), Counting()
    for position in (0, 1, 3, 4):
        for name, array in sound.at(position).items():
            np.testing.assert_array_equal(source.at(position)[name], array)
    for position in (2, 5):
        batch, again = source.at(position), source.at(position)
        assert np.isnan(batch["weight"]).all()
        np.testing.assert_array_equal(batch["tokens"], again["tokens"])
        assert (batch["tokens"] != sound.at(position)["tokens"]).any()
        assert batch["tokens"].min() >= position
        assert batch["tokens"].max() < position + 12
        assert batch["tokens"].dtype == np.int64
    doubled = CorruptBatches(Counting(), [2], lambda batch: 2 * batch["tokens"])
    np.testing.assert_array_equal(doubled.at(2), 2 * sound.at(2)["tokens"])
    assert nonsense(np.float32(1)).dtype == np.float32


def test_a_wrong_rate_begins_at_its_step_traced_or_not():
    schedule = wsd(0.1, warmup=0, stable=10, decay=0)
    wrong = wrong_rate(schedule, 30.0, 4)
    assert [round(float(wrong(step)), 5) for step in (3, 4, 9)] == [0.1, 3.0, 3.0]
    assert float(jax.jit(wrong)(jnp.int32(4))) == pytest.approx(3.0)
    assert float(wrong_rate(lambda count: 0.1, 2.0, 1)(1)) == pytest.approx(0.2)


def test_a_full_disk_fails_at_its_steps_and_keeps_what_was_there(tmp_path):
    state = {"w": jnp.arange(3)}
    with FullDisk(tmp_path, keep=3, full_at=[2]) as checkpoints:
        checkpoints.save(1, state, {})
        with pytest.raises(CheckpointError, match=f"cannot save {tmp_path}/2: no space left on the disk"):
            checkpoints.save(2, state, {})
        assert [path.name for path in tmp_path.iterdir()] == ["1"]
        checkpoints.save(3, state, {})
        assert checkpoints.steps() == [1, 3]


def test_a_truncated_checkpoint_cannot_be_read_and_the_one_before_can(tmp_path):
    state = {"w": jnp.arange(3000)}
    with Checkpointer(tmp_path) as checkpoints:
        checkpoints.save(1, state, {})
        checkpoints.save(2, state, {})
        truncate_checkpoint(tmp_path, 2)
        with pytest.raises(CheckpointError, match=f"cannot read {tmp_path}/2"):
            checkpoints.restore(state, step=2)
        assert checkpoints.restore(state)[2] == 1


def test_killed_at_its_step():
    program = """
from atlas_jax.training.recovery.faults import kill_at
from atlas_jax.training import Event
for step in (1, 2, 3, 4):
    print(step, flush=True)
    kill_at(3)(Event(step, None, None))
"""
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert child.returncode == -signal.SIGKILL, child.stderr
    assert child.stdout.split() == ["1", "2", "3"]
