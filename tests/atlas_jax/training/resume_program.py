"""Trains a tiny model with dropout to the end, from wherever its folder stands; `test_resume` kills and restarts it."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from atlas_jax.data import Batches, ByteTokenizer, pack
from atlas_jax.distributed.mesh import compilation_cache
from atlas_jax.training import Checkpointer, Telemetry, adamw, cosine, every, init_state, make_step, train

STEPS, SAVE_EVERY = 60, 9


def loss(params, batch, key):
    hidden = jnp.tanh(params["embed"][batch["tokens"][:, :-1]])
    hidden = hidden * jax.random.bernoulli(key, 0.9, hidden.shape)
    scores = jax.nn.log_softmax(hidden @ params["out"])
    chosen = jnp.take_along_axis(scores, batch["tokens"][:, 1:, None], axis=-1)[..., 0]
    real = batch["rows"][:, 1:] >= 0
    return -jnp.sum(jnp.where(real, chosen, 0.0)) / jnp.sum(real), {}


def main(folder: Path, pause: float) -> None:
    tokenizer = ByteTokenizer()
    documents = tokenizer.encode_batch([f"row {i} says {i * i % 97}" for i in range(200)])
    packed = pack(documents, length=16, eos=tokenizer.eos, row_ids=range(200))
    one, two = jax.random.split(jax.random.key(0))
    params = {"embed": jax.random.normal(one, (257, 8)), "out": jax.random.normal(two, (8, 257)) / 4}
    optimizer = adamw(weight_decay=0.1)
    state = init_state(params, optimizer, jax.random.key(1))
    with Checkpointer(folder / "checkpoints") as checkpoints, Telemetry(folder / "metrics.jsonl", 7) as telemetry:
        restored = checkpoints.restore(state)
        state = restored[0] if restored else state
        telemetry.resume_from(int(state.step))

        def save(event):
            telemetry.flush()
            checkpoints.save(event.index, event.state, {})

        hooks = [telemetry, every(SAVE_EVERY, save, last=STEPS)]
        schedule = cosine(0.05, warmup=5, steps=STEPS)
        batches = Batches(packed, 8, seed=3)
        for event in train(make_step(loss, optimizer), state, batches, schedule, steps=STEPS, hooks=hooks):
            state = event.state
            sys.stdout.write(f"{event.index}\n")
            sys.stdout.flush()
            time.sleep(pause)
    (folder / "params.bin").write_bytes(b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state.params)))


if __name__ == "__main__":
    compilation_cache()
    main(Path(sys.argv[1]), float(sys.argv[2]))
