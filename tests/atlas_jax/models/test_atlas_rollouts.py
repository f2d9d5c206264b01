"""Long rollouts of every small preset as it is: pieces of the context with the state carried, then token by token."""

from __future__ import annotations

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import compiled

from atlas_jax.memory.dual import Descent
from atlas_jax.memory.networks import LIMIT
from atlas_jax.models import atlas
from atlas_jax.models.atlas import PRESETS, memories

SMALL = [name for name in PRESETS if name.startswith("micro")]
STEPS = 16


def hostile(config, length):
    """One token over and over, two in turn, and random ones."""
    drawn = np.random.default_rng(0).integers(0, config.vocab_size, length)
    return np.stack([np.full(length, 7), np.where(np.arange(length) % 2, 3, 500), drawn]).astype(np.int32)


@cache
def rollout(config):
    """(parameters, tokens) to the largest logit, whether all were finite, and the last state."""

    def read(carry, logits, state):
        largest, finite, _ = carry
        return (jnp.maximum(largest, jnp.abs(logits).max()), finite & jnp.isfinite(logits).all(), state), None

    def piece(params, carry, tokens):
        return read(carry, *atlas.apply(config, params, tokens, carry[2]))

    def step(params, carry, token):
        return read(carry, *atlas.step(config, params, token, carry[2]))

    def run(params, tokens):
        whole = (tokens.shape[1] - STEPS) // config.context * config.context
        pieces = jnp.moveaxis(tokens[:, :whole].reshape(len(tokens), -1, config.context), 1, 0)
        carry = (jnp.zeros(()), jnp.array(True), atlas.init_state(config, len(tokens)))
        carry, _ = jax.lax.scan(partial(piece, params), carry, pieces)
        return jax.lax.scan(partial(step, params), carry, tokens[:, whole:].T)[0]

    return compiled(run)


def bases(config, state):
    """Every memory's weights where its open chunk began."""
    layer = state.blocks.memory
    states = [layer.memory] if config.block == "context" else layer.memories
    rules = [memory.rule for memory in memories(config)]
    return [s.heads.base if isinstance(r, Descent) else s.heads.weights for s, r in zip(states, rules, strict=True)]


def check(preset, length):
    config = PRESETS[preset]
    fresh = jax.jit(partial(atlas.init, config))(jax.random.key(0))
    for params in (fresh, jax.tree.map(lambda x: 5 * x, fresh)):
        largest, finite, state = jax.device_get(rollout(config)(params, hostile(config, length)))
        assert finite
        for path, leaf in jax.tree_util.tree_leaves_with_path(state):
            assert np.isfinite(leaf).all(), jax.tree_util.keystr(path)
        for matrix in jax.tree.leaves(bases(config, state)):
            size = np.sqrt(np.square(matrix.astype(np.float64)).sum((-2, -1)) / matrix.shape[-1])
            assert 0 < size.max() <= LIMIT * (1 + 1e-5)
        # What the head reads has been normalised, and the head is the embedding.
        rows, norm = np.linalg.norm(params["embedding"], axis=-1), np.abs(params["norm"]).max()
        assert 0 < largest <= rows.max() * norm * config.d_model**0.5 * (1 + 1e-5)


@pytest.mark.parametrize("preset", SMALL)
def test_400_hostile_tokens_stay_finite_and_the_memory_within_its_limit(preset):
    check(preset, 3 * PRESETS[preset].context + STEPS)


@pytest.mark.slow
@pytest.mark.parametrize("preset", SMALL)
def test_10000_hostile_tokens_stay_finite_and_the_memory_within_its_limit(preset):
    check(preset, 10_000)
