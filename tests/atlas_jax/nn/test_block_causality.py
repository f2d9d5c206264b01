"""Every kind of block, at every layer: a changed token moves nothing before it, and what comes after."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import jax
import numpy as np
import pytest
from compiling import compiled

from atlas_jax.models import atlas
from atlas_jax.models.atlas import AtlasConfig
from atlas_jax.nn.blocks import Block, WindowAttention
from atlas_jax.nn.context import MemoryAsContext
from atlas_jax.nn.memory import MemoryLayer

LENGTH, D, HEADS = 13, 8, 2
SMALL = AtlasConfig(
    vocab_size=5, d_model=D, layers=2, heads=HEADS, feed_forward=8, window=3, chunks=(4,), expansion=1, degree=2
)
CONFIGS = {
    "memory": replace(SMALL, chunks=(2, 4), shard=8, global_chunk=8, projection="per_key"),
    "gate": replace(SMALL, block="gate", rule="delta", network="linear", features="exponential"),
    "layer": replace(SMALL, block="layer", rule="muon"),
    "context": replace(SMALL, block="context", omega_window=2),
}


def block_of(config):
    """The block as a model has it."""
    known, sizes = atlas.memories(config), (config.expansion, config.degree, config.rate, config.features)
    if config.block == "context":
        memory = MemoryAsContext(HEADS, known, config.persistent, 1.0, 1.0, *sizes)
    else:
        memory = MemoryLayer(HEADS, known, *sizes)
    return Block(config.block, memory, WindowAttention(HEADS, config.window, config.persistent, 1.0), 8, 1.0)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_changed_token_moves_only_itself_and_what_comes_after(config):
    params = jax.jit(partial(atlas.init, config))(jax.random.key(0))["blocks"]
    block, place = block_of(config), np.arange(LENGTH)
    run = compiled(lambda params, x: block.apply({"params": params}, x)[0])
    x = np.random.default_rng(0).normal(size=(LENGTH, D)).astype(np.float32)
    changed = np.where(place[:, None, None] == place[None, :, None], -x, x)  # [place changed, place seen, d]
    same = np.broadcast_to(x, changed.shape)
    for layer in range(config.layers):
        weights = jax.tree.map(lambda leaf, n=layer: leaf[n], params)
        after, before = (jax.device_get(run(weights, part)) for part in (changed, same))
        moved = np.any(after != before, axis=-1)
        assert not moved[place[None, :] < place[:, None]].any()
        assert moved[place[None, :] == place[:, None]].all()
        assert moved[0, 1:].any()
