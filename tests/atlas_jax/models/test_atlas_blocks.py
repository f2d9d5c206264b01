"""The kinds of blocks of a model against what they are said to be, and two choices that the papers leave, seen from outside."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import compiled

from atlas_jax.models import atlas
from atlas_jax.models.atlas import EMBEDDING_SCALE, AtlasConfig, memories
from atlas_jax.nn.blocks import WindowAttention
from atlas_jax.nn.memory import MemoryLayer

LENGTH = 9
CONFIG = AtlasConfig(
    vocab_size=11, d_model=8, layers=1, heads=2, feed_forward=6, window=3, persistent=2, chunks=(4,), expansion=1
)


def parameters(config):
    """Fresh ones, each moved, so that scales of one show."""
    rng = np.random.default_rng(0)
    shapes = jax.jit(partial(atlas.init, config))(jax.random.key(0))
    return jax.tree.map(lambda x: x + 0.2 * rng.normal(size=x.shape).astype(np.float32), shapes)


def rms(x, scale):
    return x / jnp.sqrt(jnp.mean(x**2, axis=-1, keepdims=True) + 1e-6) * scale[None, None]


def definition(config, params, tokens):
    """The features: a block's memory and attention by themselves, put together as its kind says."""
    w = jax.tree.map(lambda x: x[0], params["blocks"])
    memory = MemoryLayer(config.heads, memories(config), config.expansion, rate=config.rate)
    attention = WindowAttention(config.heads, config.window, config.persistent, config.window / (2 * np.pi))

    def remember(x):
        return memory.apply({"params": w["memory"]}, x)[0]

    def attend(x):
        return attention.apply({"params": w["attention"]}, x, None)[0]

    x = params["embedding"][tokens] * EMBEDDING_SCALE
    said = remember(rms(x, w["mix_norm"]))
    if config.block == "gate":
        seen = rms(attend(rms(x, w["mix_norm"])), w["attention_norm"])
        said = rms(said, w["memory_norm"]) * seen
    elif config.block == "layer":
        said = attend(rms(said, w["memory_norm"]))
    x = x + said
    up, gate = jnp.split(rms(x, w["feed_forward_norm"]) @ w["FeedForward_0"]["up_gate"], 2, axis=-1)
    x = x + up * gate / (1 + jnp.exp(-gate)) @ w["FeedForward_0"]["down"]
    return rms(x, params["norm"])


@pytest.mark.parametrize("block", ["memory", "gate", "layer"])
def test_a_block_is_its_memory_and_its_attention_as_its_kind_says(block):
    config = replace(CONFIG, block=block)
    params, tokens = parameters(config), np.random.default_rng(1).integers(0, 11, (2, LENGTH)).astype(np.int32)
    both = compiled(lambda params: (atlas.features(config, params, tokens)[0], definition(config, params, tokens)))
    found, expected = both(params)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)


def test_a_memory_says_the_opposite_of_the_opposite():
    """Keys, values and queries are linear in the inputs (Titans puts a SiLU between): with even gates all of it is odd."""
    layer = MemoryLayer(2, memories(replace(CONFIG, network="linear")), 1)
    x = jnp.asarray(np.random.default_rng(2).normal(size=(2, LENGTH, 8)), jnp.float32)
    fresh = layer.init(jax.random.key(0), x[:1, :1])["params"]
    params = {**fresh, "gates": jnp.zeros_like(fresh["gates"]), "out": jnp.eye(8)}
    run = compiled(lambda x: layer.apply({"params": params}, x)[0] / jax.nn.silu(x @ params["output_gate"]))
    said, opposite = run(x), run(-x)
    np.testing.assert_allclose(said, -opposite, rtol=1e-4, atol=1e-4)


def test_a_global_memory_is_read_as_it_is_and_not_only_as_its_chunk_began():
    """TNT reads the weights at the chunk's start; here token t of any descent memory reads what is learnt up to t."""
    config = replace(CONFIG, network="linear", chunks=(), shard=8, global_chunk=8)
    tokens = np.random.default_rng(1).integers(0, 11, (2, 8)).astype(np.int32)
    tokens[1], tokens[1, 0] = tokens[0], (tokens[0, 0] + 1) % 11
    one, other = compiled(partial(atlas.apply, config))(parameters(config), tokens)[0]
    assert np.any(np.asarray(one != other)[4:], axis=-1).all()  # beyond the convolution's reach
