"""What crosses the boundary of a shard, for every rule: of a local memory nothing, of one without shards everything."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import compiled
from memory_world import RULES, WIDTH, part, random_beginning, random_tokens

from atlas_jax.memory.networks import MLP
from atlas_jax.memory.one_step import OneStep
from atlas_jax.memory.projection import NORMALISATIONS
from atlas_jax.memory.sequence import MemoryConfig, init_state, run

CHUNK, SHARD = 4, 8
each_rule = pytest.mark.parametrize("rule", RULES.values(), ids=RULES)


def world(config, shards=2):
    persistent = 0 if config.projection is None else 3
    return random_beginning(config.rule.network.name, persistent=persistent), random_tokens(length=shards * SHARD)


def total(config, beginning, tokens, state=None):
    """A number that all outputs move."""
    return jnp.sum(jnp.sin(run(config, beginning, tokens, state)[0]))


def felt(gradient):
    """Largest gradients of all arrays, by name; what counts tokens has none, and the past of a window of 1 is empty."""
    leaves = jax.tree_util.tree_leaves_with_path(gradient)
    return {
        jax.tree_util.keystr(path): float(jnp.abs(leaf).max())
        for path, leaf in leaves
        if leaf.dtype != jax.dtypes.float0 and leaf.size
    }


def after_one_shard(config, beginning, tokens):
    return compiled(partial(run, config))(beginning, part(tokens, 0, SHARD))[1]


@each_rule
def test_nothing_but_what_every_shard_begins_with_crosses_its_boundary(rule):
    with jax.enable_x64(True):
        config = MemoryConfig(rule, CHUNK, SHARD, "norm_sum")
        beginning, tokens = world(config)
        state = after_one_shard(config, beginning, tokens)
        gradient = compiled(jax.grad(partial(total, config), argnums=(0, 2), allow_int=True))
        by_beginning, by_state = gradient(beginning, part(tokens, SHARD, 2 * SHARD), state)
        assert set(felt((by_state.heads, by_state.projection)).values()) == {0.0}
        assert min(felt(by_beginning).values()) > 1e-4


@each_rule
def test_the_gradient_of_what_shards_begin_with_is_the_sum_over_them(rule):
    with jax.enable_x64(True):
        config = MemoryConfig(rule, CHUNK, SHARD, "norm_sum")
        beginning, tokens = world(config)
        gradient = compiled(jax.grad(partial(total, config)))
        parts = [gradient(beginning, part(tokens, begin, begin + SHARD)) for begin in (0, SHARD)]
        for got, *expected in zip(*map(jax.tree.leaves, (gradient(beginning, tokens), *parts)), strict=True):
            np.testing.assert_allclose(got, sum(expected), rtol=0, atol=1e-11)
            assert min(felt(expected).values()) > 1e-4


@each_rule
def test_a_memory_without_shards_passes_all_of_its_past_on(rule):
    with jax.enable_x64(True):
        config = MemoryConfig(rule, CHUNK)
        beginning, tokens = world(config)
        state = after_one_shard(config, beginning, tokens)

        def later(heads):
            return total(config, beginning, part(tokens, SHARD, 2 * SHARD), state._replace(heads=heads))

        gradient = compiled(jax.grad(later, allow_int=True))(state.heads)
        assert (
            min(size for name, size in felt(gradient).items() if ".base" not in name) > 1e-7
        )  # that is the last chunk's


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
@pytest.mark.parametrize("span", ["shard", "chunk"])
def test_the_projection_knows_its_persistent_keys_at_the_start_and_after_every_reset(normalisation, span):
    """After every token, in numerator (of which this is the trace) and denominator: theirs, and one of each unit key since."""
    with jax.enable_x64(True):
        config = MemoryConfig(OneStep(MLP), CHUNK, SHARD, normalisation, span)
        beginning, tokens = world(config, shards=3)
        start = init_state(config, beginning, 1, width=WIDTH, value_width=WIDTH)

        def one(state, token):
            _, state = run(config, beginning, jax.tree.map(lambda x: x[:, :, None], token), state)
            return state, state.projection

        def learn(tokens):
            by_time = jax.tree.map(lambda x: jnp.moveaxis(x, 2, 0), tokens)
            return jax.lax.scan(one, start, by_time)[1]

        persistent = 3 if normalisation == "per_key" else float(jnp.sum(beginning.persistent**2))
        np.testing.assert_allclose(start.projection.norm_sum, persistent, rtol=1e-12)
        length = SHARD if span == "shard" else CHUNK
        expected = persistent + np.arange(3 * SHARD) % length + 1
        sums = compiled(learn)(tokens)
        np.testing.assert_allclose(sums.norm_sum[:, 0, 0], expected, rtol=1e-12)
        np.testing.assert_allclose(np.trace(sums.m[:, 0, 0], axis1=1, axis2=2), expected, rtol=1e-12)
