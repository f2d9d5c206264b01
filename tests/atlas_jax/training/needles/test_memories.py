"""Needles in memories: what holds them, what cannot, and that nothing but the update answers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import compiled

from atlas_jax.memory.delta import GatedDelta
from atlas_jax.memory.dual import Descent
from atlas_jax.memory.networks import LINEAR
from atlas_jax.memory.one_step import OneStep
from atlas_jax.memory.sequence import Beginning, MemoryConfig
from atlas_jax.memory.tokens import Gates
from atlas_jax.models import atlas
from atlas_jax.training.needles import memories as probe
from atlas_jax.training.needles.memories import Pairs

WIDTH, COUNT = 128, 101  # more directions than pairs
TINY = atlas.AtlasConfig(vocab_size=32, d_model=16, layers=1, heads=1, feed_forward=16, context=32)


def gates(count, *, rate=1.0, keep=1.0, momentum=0.0):
    values = (np.log(keep), np.log(momentum) if momentum else -30.0, rate, 1.0)
    return Gates(*(jnp.full((1, 1, count), value) for value in values))


def first_weights(width, scale=1.0):
    values = np.random.default_rng(1).normal(size=(1, width, width)) * scale * width**-0.5
    return Beginning({"value": jnp.asarray(values, jnp.float32)})


def pairs(count=COUNT, width=WIDTH, *, orthogonal=True):
    draw = np.random.default_rng(0)
    keys = (
        draw.normal(size=(width, width))[:count]
        if not orthogonal
        else np.linalg.qr(draw.normal(size=(width, width)))[0]
    )
    keys = keys / np.linalg.norm(keys, axis=-1, keepdims=True)
    values = draw.normal(size=(count, width))
    return Pairs(*(jnp.asarray(x[None, None, :count], jnp.float32) for x in (keys, values)))


@dataclass(frozen=True)
class Deaf(GatedDelta):
    """The delta rule without its update."""

    def advance(self, state, tokens, count, scales=None):
        _, outputs = super().advance(state, tokens, count, scales)
        return state, outputs


def test_a_memory_with_room_keeps_a_needle_and_without_its_update_it_does_not():
    given = (first_weights(WIDTH), gates(COUNT), pairs())
    kept = compiled(partial(probe.recall, MemoryConfig(GatedDelta(), 16)))(*given)
    assert abs(kept.before[0, 0]) < 0.3
    np.testing.assert_allclose([kept.written[0, 0], kept.kept[0, 0]], 1, atol=1e-4)
    deaf = compiled(partial(probe.recall, MemoryConfig(Deaf(), 16)))(*given)
    np.testing.assert_array_equal([deaf.written, deaf.kept], [deaf.before, deaf.before])
    assert deaf.kept[0, 0] < probe.SUCCESS


def test_shut_gates_write_nothing_and_room_for_few_keys_holds_no_hundred():
    run = compiled(partial(probe.recall, MemoryConfig(GatedDelta(), 64)))
    shut = run(first_weights(16), gates(COUNT, rate=0.0), Pairs(*(x[..., :16] for x in pairs())))
    np.testing.assert_allclose([shut.written, shut.kept], [shut.before, shut.before], atol=1e-6)
    small = Pairs(*(x[:, :, :, :16] / jnp.linalg.norm(x[:, :, :, :16], axis=-1, keepdims=True) for x in pairs()))
    full = run(first_weights(16), gates(COUNT), small)
    assert full.written[0, 0] > 0.99
    assert full.kept[0, 0] < probe.SUCCESS


def test_a_read_sees_the_weights_that_one_step_of_descent_leaves():
    """By hand: W - 2 rate k (k W - v). Old momentum, and the read itself, move nothing."""
    first, pair = first_weights(8, 0.3), pairs(1, 8)
    pair = pair._replace(values=0.3 * pair.values)  # gradients too short to be cut
    found = compiled(partial(probe.recall, MemoryConfig(Descent(LINEAR), 4)))(
        first, gates(1, rate=0.2, momentum=0.9), pair
    )
    key, value, weights = (
        np.asarray(x, np.float64) for x in (pair.keys[0, 0, 0], pair.values[0, 0, 0], first.weights["value"][0])
    )

    def cosine(said):
        return said @ value / np.linalg.norm(said) / np.linalg.norm(value)

    after = weights - 0.4 * np.outer(key, key @ weights - value)
    np.testing.assert_allclose(found.before[0, 0], cosine(key @ weights), rtol=1e-5)
    np.testing.assert_allclose([found.written[0, 0], found.kept[0, 0]], cosine(key @ after), rtol=1e-5)


def test_rules_that_move_at_a_chunks_end_have_moved_when_they_are_read():
    rule = OneStep(LINEAR)
    found = compiled(partial(probe.recall, MemoryConfig(rule, 64)))(
        first_weights(WIDTH, 0.1), gates(41, rate=0.4, momentum=1.0), pairs(41)
    )
    assert found.before[0, 0] < 0.3
    assert min(found.written[0, 0], found.kept[0, 0]) > 0.9


def test_memories_that_begin_anew_too_soon_are_left_out_or_refused():
    config = replace(TINY, rule="delta", network="linear", chunks=(8,), shard=64, global_chunk=32)
    params = jax.eval_shape(partial(atlas.init, config), jax.random.key(0))
    tokens = np.zeros((3, 20), np.int32)

    def probed(distractors):
        found = partial(probe.memory_needles, config, distractors=distractors)
        return jax.eval_shape(found, params, tokens, jax.random.key(0)).kept.shape

    assert probed(63) == (1, 1, 3, 1)  # the global memory alone
    assert probed(62) == (2, 1, 3, 1)
    assert [probe.can_hold(replace(config, global_chunk=None), count) for count in (62, 63)] == [True, False]
    with pytest.raises(ValueError, match=r"AtlasConfig.shard is 64, expected at least 102"):
        probe.memory_needles(replace(config, global_chunk=None), params, tokens, jax.random.key(0))
    with pytest.raises(ValueError, match=r"MemoryConfig.shard is 64, expected at least 102 to hold 101 pairs"):
        probe.recall(MemoryConfig(GatedDelta(), 8, 64), first_weights(WIDTH), gates(COUNT), pairs())


def test_gates_are_those_that_the_model_has_on_the_text():
    """With gates that do not look at their input they are the biases'; the delta rule has neither momentum nor windows."""
    config = replace(TINY, rule="delta", network="linear", rate=0.5)
    params = compiled(partial(atlas.init, config))(jax.random.key(0))
    layers = params["blocks"]["memory"]
    blind = {**layers, "gates": jnp.zeros_like(layers["gates"])}
    params = {**params, "blocks": {**params["blocks"], "memory": blind}}
    (found,) = compiled(partial(probe.gates_on, config))(params, np.arange(6, dtype=np.int32)[None])
    assert found.rate.shape == (1, 1, 1, 6)
    np.testing.assert_allclose(found.rate, 0.25, rtol=1e-5)
    np.testing.assert_allclose(found.log_keep, -np.log1p(np.exp(-4.0)), rtol=1e-4)
    np.testing.assert_array_equal([found.log_momentum[0, 0, 0], found.strength[0, 0, 0]], [[0] * 6, [1] * 6])
