"""Trains a tiny model through two corrupt batches, saying when it saves; `test_recovery_killed` kills and restarts it.

Arguments: its folder; after how many saves it waits before each, lest it ends before it is killed.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from atlas_jax.distributed.mesh import compilation_cache
from atlas_jax.training import Checkpointer, Telemetry, adamw, cosine, init_state, make_step
from atlas_jax.training.recovery.faults import CorruptBatches
from atlas_jax.training.recovery.recovery import Recovery, train_with_recovery
from atlas_jax.training.recovery.rollback import write_rollbacks
from atlas_jax.training.recovery.trigger import Trigger

STEPS, SAVE_EVERY = 420, 3


class Source:
    """Noisy measurements of a linear map, drawn anew for each position."""

    def at(self, position):
        generator = np.random.default_rng(position)
        x = generator.normal(size=(256, 8)).astype(np.float32)
        return {"x": x, "y": x.sum(axis=1, keepdims=True) / 8 + generator.normal(size=(256, 1)).astype(np.float32)}


def loss(params, batch, key):
    dropped = jax.random.bernoulli(key, 0.9, batch["x"].shape) * batch["x"]
    return jnp.mean((dropped @ params["w"] - batch["y"]) ** 2), {}


def say(what, step):
    sys.stdout.write(f"{what} {step}\n")
    sys.stdout.flush()


def main(folder: Path, at_ease_after: int | None) -> None:
    state = init_state({"w": jnp.zeros((8, 1))}, adamw(weight_decay=0.1), jax.random.key(1))
    batches = CorruptBatches(Source(), [100, 220], lambda batch: {**batch, "y": 1e4 * batch["y"]})
    recovery = Recovery(Trigger(horizon=4, calibration=10), save_every=SAVE_EVERY, check_every=2, healthy_after=8)
    seen = saves = 0

    def see(event):
        nonlocal seen
        seen = event.index

    def extra():
        nonlocal saves
        saves += 1
        if at_ease_after is not None and saves > at_ease_after:
            time.sleep(0.5)
        say("saving", seen)
        return {}

    def restored(step, found):
        say("restored", step)
        write_rollbacks(folder / "rollbacks.jsonl", found)

    with (
        Checkpointer(folder / "checkpoints", keep=5) as checkpoints,
        Telemetry(folder / "metrics.jsonl", 7) as telemetry,
    ):
        for event in train_with_recovery(
            make_step(loss, adamw(weight_decay=0.1)),
            state,
            batches,
            cosine(0.05, warmup=5, steps=STEPS),
            steps=STEPS,
            checkpoints=checkpoints,
            recovery=recovery,
            hooks=[telemetry, see],
            logs=[telemetry],
            extra=extra,
            restored=restored,
        ):
            if event.index % SAVE_EVERY == 0:
                say("saved", event.index)
            state = event.state
    (folder / "params.bin").write_bytes(b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state.params)))


if __name__ == "__main__":
    compilation_cache()
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else None)
