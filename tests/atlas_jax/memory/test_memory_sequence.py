"""The dual form against the memory token by token, and any split of a sequence against the whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax.memory.dual import Gates, Tokens
from atlas_jax.memory.networks import NETWORKS
from atlas_jax.memory.reference import reference
from atlas_jax.memory.sequence import MemoryConfig, init_state, run, step

WIDTH, HIDDEN, LENGTH = 4, 6, 24


def world(network, *, batch=1, heads=1, length=LENGTH, seed=0):
    """First weights and tokens, float64."""
    keys = jax.random.split(jax.random.key(seed), 9)
    shape = (batch, heads, length)

    def unit(key):
        x = jax.random.normal(key, (*shape, WIDTH))
        return x / jnp.linalg.norm(x, axis=-1, keepdims=True)

    gates = Gates(
        jnp.log1p(-0.1 * jax.random.uniform(keys[0], shape)),
        jnp.log(0.9 * jax.random.uniform(keys[1], shape) + 0.05),
        0.05 * jax.random.uniform(keys[2], shape),
        jax.random.uniform(keys[3], shape),
    )
    tokens = Tokens(unit(keys[4]), unit(keys[5]), jax.random.normal(keys[6], (*shape, WIDTH)), gates)
    initial = jax.vmap(lambda key: NETWORKS[network].init(key, WIDTH, WIDTH, HIDDEN))(jax.random.split(keys[7], heads))
    return initial, tokens


def one(tree):
    return jax.tree.map(lambda x: x[0, 0], tree)


@pytest.mark.parametrize(
    ("network", "chunk", "window", "shard", "loss"),
    [
        ("linear", 1, 1, None, "l2"),
        ("linear", 8, 3, None, "dot"),
        ("mlp", 8, 1, None, "ascent"),
        ("mlp", 6, 9, None, "l2"),
        ("gated mlp", 4, 3, 12, "l2"),
    ],
)
def test_the_dual_form_is_the_memory_token_by_token(network, chunk, window, shard, loss):
    with jax.enable_x64(True):
        config = MemoryConfig(NETWORKS[network], chunk, window, shard, loss)
        initial, tokens = world(network)

        def fast(initial, tokens):
            outputs, state = run(config, initial, tokens)
            return outputs[0, 0], *one((state.fast.weights, state.fast.momentum))

        def slow(initial, tokens):
            first = jax.tree.map(lambda x: x[0], initial)
            return reference(config.network, first, one(tokens), chunk=chunk, window=window, shard=shard, loss=loss)

        results = (jax.tree.leaves(jax.jit(memory)(initial, tokens)) for memory in (fast, slow))
        for got, expected in zip(*results, strict=True):
            np.testing.assert_allclose(got, expected, atol=1e-10)

        def total(memory):
            return lambda *args: sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(memory(*args)))

        ours, theirs = (jax.jit(jax.grad(total(memory), argnums=(0, 1)))(initial, tokens) for memory in (fast, slow))
        for got, expected in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
            np.testing.assert_allclose(got, expected, atol=1e-9)


@pytest.mark.parametrize(
    ("chunk", "window", "shard", "sizes"),
    [(4, 3, None, (6, 6, 6, 6)), (8, 3, None, (3, 11, 3, 7)), (4, 6, 8, (6, 11, 7))],
)
def test_any_split_gives_what_the_whole_gives(chunk, window, shard, sizes):
    with jax.enable_x64(True):
        config = MemoryConfig(NETWORKS["mlp"], chunk, window, shard)
        initial, tokens = world("mlp", batch=2, heads=2)
        whole, end = run(config, initial, tokens)
        state, outputs, place = None, [], 0
        for size in sizes:
            part = jax.tree.map(lambda x, a=place, b=place + size: x[:, :, a:b], tokens)
            out, state = run(config, initial, part, state)
            outputs.append(out)
            place += size
        np.testing.assert_allclose(jnp.concatenate(outputs, axis=2), whole, atol=1e-11)
        # What a new chunk replaces at its first token need not agree before it.
        kept = [s.fast._replace(base=s.fast.weights) for s in (state, end)]
        for got, expected in zip(*(jax.tree.leaves(fast) for fast in kept), strict=True):
            np.testing.assert_allclose(got, expected, atol=1e-11)


def test_token_by_token_is_the_whole():
    with jax.enable_x64(True):
        config = MemoryConfig(NETWORKS["gated mlp"], 8, 3, 16)
        initial, tokens = world("gated mlp", batch=2, heads=1)
        whole, _ = run(config, initial, tokens)
        state = init_state(config, initial, 2, width=WIDTH, value_width=WIDTH)
        one_token = jax.jit(lambda tokens, state: step(config, initial, tokens, state))
        for t in range(LENGTH):
            out, state = one_token(jax.tree.map(lambda x, t=t: x[:, :, t : t + 1], tokens), state)
            np.testing.assert_allclose(out[:, :, 0], whole[:, :, t], atol=1e-11)


def test_the_future_changes_nothing():
    with jax.enable_x64(True):
        config = MemoryConfig(NETWORKS["mlp"], 8, 4)
        initial, tokens = world("mlp")
        before, _ = run(config, initial, tokens)
        for place in (0, 7, 8, LENGTH - 1):
            changed = jax.tree.map(lambda x, p=place: x.at[:, :, p].multiply(0.5), tokens)
            after, _ = run(config, initial, changed)
            np.testing.assert_array_equal(after[:, :, :place], before[:, :, :place])
            assert (after[:, :, place] != before[:, :, place]).any()


def test_nothing_but_the_first_weights_crosses_a_shard():
    with jax.enable_x64(True):
        config = MemoryConfig(NETWORKS["mlp"], 4, 3, 12)
        initial, tokens = world("mlp")
        _, state = run(config, initial, jax.tree.map(lambda x: x[:, :, :12], tokens))

        def later(state, initial):
            return jnp.sum(run(config, initial, jax.tree.map(lambda x: x[:, :, 12:], tokens), state)[0] ** 2)

        by_state, by_initial = jax.grad(later, argnums=(0, 1), allow_int=True)(state, initial)
        for leaf in jax.tree.leaves(by_state.fast):
            np.testing.assert_array_equal(leaf, jnp.zeros_like(leaf))
        assert all(float(jnp.abs(leaf).max()) > 1e-3 for leaf in jax.tree.leaves(by_initial))

        def shard(initial, number):
            cut = jax.tree.map(lambda x: x[:, :, 12 * number : 12 * (number + 1)], tokens)
            return jnp.sum(run(config, initial, cut)[0] ** 2)

        whole = jax.grad(lambda initial: jnp.sum(run(config, initial, tokens)[0] ** 2))(initial)
        parts = [jax.grad(shard)(initial, number) for number in (0, 1)]
        for got, *expected in zip(*(jax.tree.leaves(tree) for tree in (whole, *parts)), strict=True):
            np.testing.assert_allclose(got, sum(expected), atol=1e-11)


@pytest.mark.parametrize(("field", "value"), [("chunk", 0), ("window", 0), ("shard", 0), ("shard", 12)])
def test_lengths_that_do_not_fit(field, value):
    with pytest.raises(ValueError, match=f"MemoryConfig.{field} is {value}, expected"):
        MemoryConfig(NETWORKS["mlp"], **{"chunk": 8, field: value})


def test_no_tokens():
    initial, tokens = world("mlp", length=0)
    with pytest.raises(ValueError, match="0 tokens"):
        run(MemoryConfig(NETWORKS["mlp"]), initial, tokens)
