"""Checkpoints: every bit back, and every fault survived or named."""

from __future__ import annotations

import errno
import json
import logging
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import atlas_jax.training.checkpoint as checkpoint_module
from atlas_jax.training import Checkpointer, CheckpointError, adamw, init_state


def bits(tree):
    def one(leaf):
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return (str(leaf.dtype), leaf.shape, np.asarray(jax.random.key_data(leaf) if is_key else leaf).tobytes())

    return jax.tree.map(one, tree)


def some_state(seed=0):
    key = jax.random.key(seed)
    params = {"w": jax.random.normal(key, (3, 5)), "half": jnp.arange(4, dtype=jnp.bfloat16) / 3, "b": jnp.array(2.5)}
    return init_state(params, adamw(), key)


def test_every_dtype_returns_bit_exactly(tmp_path):
    odd = {
        "nan": jnp.array([jnp.nan, -0.0, jnp.inf, 1e-45], jnp.float32),
        "bfloat16": jnp.arange(7, dtype=jnp.bfloat16) / 3,
        "float16": jnp.arange(3, dtype=jnp.float16) / 3,
        "int8": jnp.arange(-3, 3, dtype=jnp.int8),
        "uint32": jnp.array([2**32 - 1], jnp.uint32),
        "bool": jnp.array([True, False]),
        "complex": jnp.array([1 + 2j, -3j], jnp.complex64),
        "empty": jnp.zeros((0, 3)),
        "threefry": jax.random.key(5),
        "rbg": jax.random.split(jax.random.key(6, impl="rbg"), 2),
        "train": some_state(),
    }
    with Checkpointer(tmp_path) as checkpoints:
        assert checkpoints.restore(odd) is None
        assert checkpoints.latest_step() is None
        checkpoints.save(12, odd, {"config": {"layers": [1, 2]}, "name": "é"})
    with Checkpointer(tmp_path) as checkpoints:
        for template in (odd, jax.eval_shape(lambda: odd)):
            state, extra, step = checkpoints.restore(template)
            assert bits(state) == bits(odd)
            assert (extra, step) == ({"config": {"layers": [1, 2]}, "name": "é"}, 12)
    assert jax.random.bits(state["rbg"][1]) == jax.random.bits(odd["rbg"][1])


def test_shardings_are_those_of_the_template_on_any_number_of_devices(tmp_path):
    def sharding(devices):
        mesh = jax.make_mesh((devices,), ("d",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices])
        return NamedSharding(mesh, PartitionSpec("d"))

    states = jax.vmap(lambda k: init_state({"w": jnp.ones((2, 3))}, adamw(), k))(jax.random.split(jax.random.key(0), 4))
    with Checkpointer(tmp_path) as checkpoints:
        checkpoints.save(1, jax.device_put(states, sharding(4)), {})
        restored, _, _ = checkpoints.restore(jax.device_put(states, sharding(2)))
    assert bits(restored) == bits(states)
    assert all(leaf.sharding == sharding(2) for leaf in jax.tree.leaves(restored))


def test_a_donated_template_still_serves(tmp_path):
    state = some_state()
    expected = bits(state)
    with Checkpointer(tmp_path) as checkpoints:
        checkpoints.save(1, state, {})
        jax.tree.map(lambda leaf: leaf.delete(), state)
        assert bits(checkpoints.restore(state)[0]) == expected


def test_the_newest_are_kept_and_a_rollback_removes_the_abandoned(tmp_path):
    with Checkpointer(tmp_path, keep=2) as checkpoints:
        for step in (5, 10, 15):
            checkpoints.save(step, some_state(step), {"step": step})
        assert sorted(path.name for path in tmp_path.iterdir()) == ["10", "15"]
        assert bits(checkpoints.restore(some_state(), step=10)[0]) == bits(some_state(10))
        checkpoints.save(10, some_state(99), {"step": "again"})
        assert checkpoints.latest_step() == 10
        state, extra, _ = checkpoints.restore(some_state())
    assert bits(state) == bits(some_state(99))
    assert extra == {"step": "again"}


def test_another_model_is_refused_by_name(tmp_path):
    with Checkpointer(tmp_path) as checkpoints:
        checkpoints.save(1, {"w": jnp.zeros((2, 3)), "old": jnp.zeros(1), "same": jnp.zeros(2)}, {})
        template = {"w": jnp.zeros((2, 4)), "new": jnp.zeros(1, jnp.int32), "same": jnp.zeros(2)}
        with pytest.raises(CheckpointError, match="3 leaves differ") as raised:
            checkpoints.restore(template)
    message = str(raised.value)
    assert "['w']: saved float32[2, 3], expected float32[2, 4]" in message
    assert "['new']: saved absent, expected int32[1]" in message
    assert "['old']: saved float32[1], expected absent" in message
    assert "same" not in message


def files_of(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_any_damaged_file_means_the_checkpoint_before_it(tmp_path, caplog):
    with Checkpointer(tmp_path / "whole") as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, some_state(step), {"step": step})
    for damaged in files_of(tmp_path / "whole" / "2"):
        name, size = damaged.relative_to(tmp_path / "whole"), damaged.stat().st_size
        for number, damage in enumerate(("cut", "flip")):
            folder = tmp_path / f"{damaged.name}{number}"
            shutil.copytree(tmp_path / "whole", folder)
            content = bytearray(damaged.read_bytes())
            content[size // 2] ^= 0x08
            (folder / name).write_bytes(content if damage == "flip" else content[: size // 2])
            caplog.clear()
            with Checkpointer(folder) as checkpoints, caplog.at_level(logging.WARNING):
                state, extra, step = checkpoints.restore(some_state())
                with pytest.raises(CheckpointError, match=str(folder / "2")):
                    checkpoints.restore(some_state(), step=2)
            assert (step, extra, bits(state)) == (1, {"step": 1}, bits(some_state(1))), (name, damage)
            assert "going back to the checkpoint before it" in caplog.text
            shutil.rmtree(folder)


def test_nothing_readable_is_an_error_and_not_a_fresh_start(tmp_path):
    with Checkpointer(tmp_path) as checkpoints:
        checkpoints.save(3, some_state(), {})
        (tmp_path / "3" / "sums.json").write_text("{}{")
        with pytest.raises(CheckpointError, match=r"none of the checkpoints \[3\] can be read"):
            checkpoints.restore(some_state())
        with pytest.raises(CheckpointError, match=r"cannot read .*/7"):
            checkpoints.restore(some_state(), step=7)


def test_a_process_stopped_before_the_acknowledgement_leaves_the_one_before(tmp_path, monkeypatch):
    def stop(folder):
        raise KeyboardInterrupt

    (tmp_path / "2023").mkdir()  # somebody else's
    with Checkpointer(tmp_path, keep=1) as checkpoints:
        checkpoints.save(1, some_state(1), {})
        monkeypatch.setattr(checkpoint_module, "_write_sums", stop)
        with pytest.raises(KeyboardInterrupt):
            checkpoints.save(2, some_state(2), {})
    monkeypatch.undo()
    (tmp_path / "9.orbax-checkpoint-tmp").mkdir()
    there = sorted(path.name for path in tmp_path.iterdir())
    with Checkpointer(tmp_path, keep=1) as checkpoints:
        assert checkpoints.restore(some_state())[2] == 1
        assert sorted(path.name for path in tmp_path.iterdir()) == there, "a reader took another's save away"
        checkpoints.save(2, some_state(2), {})
        assert checkpoints.latest_step() == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "2023"]


def test_a_removal_that_was_stopped_is_finished_and_its_name_is_free(tmp_path, monkeypatch):
    def stop(folder):
        raise KeyboardInterrupt

    def stop_within(folder):
        (folder / "_CHECKPOINT_METADATA").unlink()  # by which it is known that a checkpoint was never acknowledged
        raise KeyboardInterrupt

    with Checkpointer(tmp_path) as checkpoints, monkeypatch.context() as patch:
        checkpoints.save(1, some_state(1), {})
        patch.setattr(checkpoint_module, "_write_sums", stop)
        with pytest.raises(KeyboardInterrupt):
            checkpoints.save(2, some_state(2), {})
        patch.setattr(shutil, "rmtree", stop_within)
        with pytest.raises(KeyboardInterrupt):
            checkpoints.save(2, some_state(2), {})
    with Checkpointer(tmp_path) as checkpoints:
        checkpoints.save(2, some_state(2), {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_named_and_the_earlier_checkpoint_stays(tmp_path, monkeypatch, number):
    def full(folder):
        raise OSError(number, os.strerror(number))

    with Checkpointer(tmp_path) as checkpoints:
        checkpoints.save(1, some_state(1), {})
        monkeypatch.setattr(checkpoint_module, "_write_sums", full)
        with pytest.raises(CheckpointError, match=f"cannot save {tmp_path}/2: no space left on the disk"):
            checkpoints.save(2, some_state(2), {})
        monkeypatch.undo()
        assert [path.name for path in tmp_path.iterdir()] == ["1"]
        assert checkpoints.restore(some_state())[2] == 1


def test_a_full_disk_leaves_the_checkpoint_of_the_same_step(tmp_path, monkeypatch):
    def full(folder):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with Checkpointer(tmp_path) as checkpoints:
        checkpoints.save(1, some_state(1), {"which": "first"})
        monkeypatch.setattr(checkpoint_module, "_write_sums", full)
        with pytest.raises(CheckpointError, match=f"cannot save {tmp_path}/1: no space left on the disk"):
            checkpoints.save(1, some_state(2), {"which": "second"})
        monkeypatch.undo()
        state, extra, _ = checkpoints.restore(some_state())
    assert [path.name for path in tmp_path.iterdir()] == ["1"]
    assert extra == {"which": "first"}
    assert bits(state) == bits(some_state(1))


@pytest.mark.parametrize("removed", [0, 1, 2])
def test_a_process_stopped_while_it_replaces_a_checkpoint(tmp_path, monkeypatch, removed):
    """Whole and read: the old one, or the new one once the old is out of the way; the next save tidies up."""
    rename, left = Path.rename, [removed]

    def stop_at(self, target):
        whole = (self / "sums.json").exists()  # Orbax renames too
        if whole and not left[0]:
            raise KeyboardInterrupt
        left[0] -= whole
        return rename(self, target)

    with Checkpointer(tmp_path) as checkpoints:
        checkpoints.save(1, some_state(1), {"which": "first"})
        checkpoints.save(2, some_state(2), {"which": "abandoned"})
        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", stop_at)
            with pytest.raises(KeyboardInterrupt):
                checkpoints.save(1, some_state(3), {"which": "second"})
    with Checkpointer(tmp_path) as checkpoints:
        state, extra, _ = checkpoints.restore(some_state())
        number, which = [(2, "abandoned"), (1, "first"), (3, "second")][removed]
        assert (bits(state), extra) == (bits(some_state(number)), {"which": which})
        checkpoints.save(3, some_state(4), {})
        assert checkpoints.latest_step() == 3
    assert {path.name for path in tmp_path.iterdir()} <= {"1", "2", "3"}


@pytest.mark.parametrize("sums", ["[]", "{}", '{"../1/sums.json": [1, 2]}', "7", "null", '["state"]'])
def test_sums_of_something_else(tmp_path, sums):
    with Checkpointer(tmp_path) as checkpoints:
        checkpoints.save(3, some_state(), {})
        (tmp_path / "3" / "sums.json").write_text(sums)
        with pytest.raises(CheckpointError, match=r"cannot read .*sums.json is damaged"):
            checkpoints.restore(some_state(), step=3)


def test_a_really_full_disk(tmp_path):
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        state = {"w": jax.random.normal(jax.random.key(0), (150_000,))}
        with Checkpointer(tmp_path) as checkpoints:
            checkpoints.save(1, state, {})
            with pytest.raises(CheckpointError, match=f"cannot save {tmp_path}/2: no space left on the disk"):
                checkpoints.save(2, state, {})
            assert [path.name for path in tmp_path.iterdir()] == ["1"]
            assert bits(checkpoints.restore(state)[0]) == bits(state)
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


SAVER = """
import sys, jax.numpy as jnp
from atlas_jax.training import Checkpointer
with Checkpointer(sys.argv[1]) as checkpoints:
    step = checkpoints.latest_step() or 0
    while True:
        step += 1
        checkpoints.save(step, {"w": jnp.full(200_000, step)}, {"step": step})
        print(step, flush=True)
"""


@pytest.mark.parametrize("seed", [0, 1])
def test_killed_while_saving(tmp_path, seed):
    child = subprocess.Popen([sys.executable, "-c", SAVER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    acknowledged = 0
    while acknowledged < 4:
        acknowledged = int(child.stdout.readline())
    time.sleep(random.Random(seed).uniform(0, 0.03))
    child.kill()
    rest = child.communicate()[0].split()
    acknowledged = int(rest[-1]) if rest else acknowledged
    with Checkpointer(tmp_path) as checkpoints:
        state, extra, step = checkpoints.restore({"w": jnp.zeros(200_000, jnp.int32)})
        checkpoints.save(step + 1, state, {})
    assert step in (acknowledged, acknowledged + 1)
    assert extra == {"step": step}
    assert bool((state["w"] == step).all())
    assert not list(Path(tmp_path).glob("*tmp"))
    assert json.loads((tmp_path / str(step) / "sums.json").read_text())
