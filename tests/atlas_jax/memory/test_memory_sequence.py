"""The dual form against the memory token by token, and any split of a sequence against the whole."""

from functools import partial

import jax
import jax.numpy as jnp
import memory_world
import numpy as np
import pytest
from memory_world import LENGTH, WIDTH, one, random_beginning, random_tokens

from atlas_jax.memory.dual import Descent
from atlas_jax.memory.networks import MLP, NETWORKS
from atlas_jax.memory.reference import Trace, reference
from atlas_jax.memory.sequence import MemoryConfig, init_state, run


def part(tokens, begin, end):
    return jax.tree.map(lambda x: x[:, :, begin:end], tokens)


def jitted(config):
    return jax.jit(partial(run, config))


def total(memory):
    return lambda *args: sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(memory(*args)))


def outputs_of(config):
    """A number that all outputs move."""
    return lambda beginning, tokens: jnp.sum(jnp.sin(run(config, beginning, tokens)[0]))


def compare(config, network, *, degree=None, persistent=0, length=LENGTH):
    """Outputs, weights and momentum, and the gradients of all of them, against the oracle."""
    with jax.enable_x64(True):
        beginning, tokens = (
            random_beginning(network, degree=degree, persistent=persistent),
            random_tokens(length=length),
        )

        def fast(beginning, tokens):
            outputs, state = run(config, beginning, tokens)
            return Trace(outputs[0, 0], *one((state.heads.weights, state.heads.momentum)))

        def slow(beginning, tokens):
            return reference(config, config.rule, jax.tree.map(lambda x: x[0], beginning), one(tokens))

        ours, theirs = (jax.tree.leaves(jax.jit(memory)(beginning, tokens)) for memory in (fast, slow))
        for got, expected in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(got, expected, atol=1e-10)
        gradients = (jax.jit(jax.grad(total(memory), argnums=(0, 1)))(beginning, tokens) for memory in (fast, slow))
        for got, expected in zip(*map(jax.tree.leaves, gradients), strict=True):
            np.testing.assert_allclose(got, expected, atol=1e-9)


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
    compare(MemoryConfig(Descent(NETWORKS[network], window, loss), chunk, shard), network)


@pytest.mark.parametrize(
    ("network", "degree", "window", "shard"), [("linear", 2, 3, None), ("mlp", 2, 1, 12), ("gated mlp", 3, 2, None)]
)
def test_polynomial_features_in_the_dual_form(network, degree, window, shard):
    compare(MemoryConfig(Descent(NETWORKS[network], window), 6, shard), network, degree=degree)


@pytest.mark.parametrize(
    ("projection", "span", "shard"), [("norm_sum", "shard", 12), ("per_key", "shard", 12), ("per_key", "chunk", None)]
)
def test_projected_queries_begin_anew_with_numerator_and_denominator(projection, span, shard):
    config = MemoryConfig(Descent(MLP), 4, shard, projection, span)
    compare(config, "mlp", persistent=3, length=18)


def test_weights_beyond_the_limit_are_cut_where_a_chunk_begins():
    config = MemoryConfig(Descent(MLP, limit=0.5), 6)
    compare(config, "mlp")
    with jax.enable_x64(True):
        beginning, tokens = random_beginning("mlp"), random_tokens()
        (cut, state), (free, _) = (
            jitted(MemoryConfig(Descent(MLP, limit=limit), 6))(beginning, tokens) for limit in (0.5, None)
        )
        assert float(jnp.abs(cut - free).max()) > 1e-2
        zeros = jax.tree.map(jnp.zeros_like, state)  # a state that has seen nothing begins with the same weights
        np.testing.assert_allclose(jitted(config)(beginning, tokens, zeros)[0], cut, atol=1e-12)


@pytest.mark.parametrize(
    ("chunk", "window", "shard", "sizes"),
    [(4, 3, None, (6, 6, 6, 6)), (8, 3, None, (3, 11, 3, 7)), (4, 6, 8, (6, 11, 7)), (4, 2, 20, (9, 15))],
)
def test_any_split_gives_what_the_whole_gives(chunk, window, shard, sizes):
    with jax.enable_x64(True):
        config = MemoryConfig(Descent(MLP, window), chunk, shard, "norm_sum")
        beginning = random_beginning("mlp", heads=2, degree=2, persistent=3)
        tokens = random_tokens(batch=2, heads=2)
        memory = jax.jit(partial(run, config, beginning))
        whole, end = memory(tokens)
        state, outputs, place = None, [], 0
        for size in sizes:
            out, state = memory(part(tokens, place, place + size), state)
            outputs.append(out)
            place += size
        np.testing.assert_allclose(jnp.concatenate(outputs, axis=2), whole, atol=1e-11)
        for got, expected in zip(*map(jax.tree.leaves, (state, end)), strict=True):
            np.testing.assert_allclose(got, expected, atol=1e-11)


def test_token_by_token_is_the_whole():
    with jax.enable_x64(True):
        config = MemoryConfig(Descent(NETWORKS["gated mlp"], 3), 8, 16)
        beginning, tokens = random_beginning("gated mlp"), random_tokens(batch=2)
        whole, _ = run(config, beginning, tokens)
        state = init_state(config, beginning, 2, width=WIDTH, value_width=WIDTH)
        one_token = jax.jit(lambda tokens, state: run(config, beginning, tokens, state))
        for t in range(LENGTH):
            out, state = one_token(part(tokens, t, t + 1), state)
            np.testing.assert_allclose(out[:, :, 0], whole[:, :, t], atol=1e-11)


def test_groups_of_chunks_change_nothing_but_what_is_kept():
    with jax.enable_x64(True):
        beginning, tokens = random_beginning("mlp"), random_tokens()
        results = [
            jax.jit(jax.value_and_grad(outputs_of(MemoryConfig(Descent(MLP, 3), 4, group=group))))
            for group in (1, 4, 9)
        ]
        expected, *others = (jax.tree.leaves(f(beginning, tokens)) for f in results)
        for other in others:
            for got, wanted in zip(other, expected, strict=True):
                np.testing.assert_allclose(got, wanted, atol=1e-12)


def test_the_future_changes_nothing():
    with jax.enable_x64(True):
        config = MemoryConfig(Descent(MLP, 4), 8, None, "per_key")
        beginning, tokens = random_beginning("mlp", persistent=2), random_tokens()
        memory = jax.jit(partial(run, config, beginning))
        before, _ = memory(tokens)
        for place in (0, 7, 8, LENGTH - 1):
            changed = jax.tree.map(lambda x, p=place: x.at[:, :, p].multiply(0.5), tokens)
            after, _ = memory(changed)
            np.testing.assert_array_equal(after[:, :, :place], before[:, :, :place])
            assert (after[:, :, place] != before[:, :, place]).any()


def test_nothing_but_the_first_weights_crosses_a_shard():
    with jax.enable_x64(True):
        config = MemoryConfig(Descent(MLP, 3), 4, 12, "norm_sum")
        beginning, tokens = random_beginning("mlp", persistent=3), random_tokens()
        _, state = jitted(config)(beginning, part(tokens, 0, 12))

        def later(state, beginning):
            return jnp.sum(run(config, beginning, part(tokens, 12, 24), state)[0] ** 2)

        by_state, by_beginning = jax.jit(jax.grad(later, argnums=(0, 1), allow_int=True))(state, beginning)
        for leaf in jax.tree.leaves((by_state.heads, by_state.projection)):
            np.testing.assert_array_equal(leaf, np.zeros(leaf.shape))
        assert all(float(jnp.abs(leaf).max()) > 1e-3 for leaf in jax.tree.leaves(by_beginning))

        def shard(beginning, number):
            return jnp.sum(run(config, beginning, part(tokens, 12 * number, 12 * (number + 1)))[0] ** 2)

        whole = jax.jit(jax.grad(lambda beginning: jnp.sum(run(config, beginning, tokens)[0] ** 2)))(beginning)
        parts = [jax.jit(jax.grad(shard), static_argnums=1)(beginning, number) for number in (0, 1)]
        for got, *expected in zip(*map(jax.tree.leaves, (whole, *parts)), strict=True):
            np.testing.assert_allclose(got, sum(expected), atol=1e-11)


def test_a_memory_without_shards_passes_its_past_on():
    with jax.enable_x64(True):
        config = MemoryConfig(Descent(MLP, 3), 4)
        beginning, tokens = random_beginning("mlp"), random_tokens()
        _, state = jitted(config)(beginning, part(tokens, 0, 12))

        def later(heads):
            return jnp.sum(run(config, beginning, part(tokens, 12, 24), state._replace(heads=heads))[0] ** 2)

        gradient = jax.jit(jax.grad(later))(state.heads)
        for tree in (gradient.weights, gradient.momentum, gradient.past):
            assert all(float(jnp.abs(leaf).max()) > 1e-6 for leaf in jax.tree.leaves(tree))


def test_the_projection_knows_its_persistent_keys_at_the_start_and_after_every_reset():
    with jax.enable_x64(True):
        config = MemoryConfig(Descent(MLP), 4, 8, "norm_sum")
        beginning, tokens = random_beginning("mlp", persistent=3), random_tokens()
        persistent = jnp.sum(beginning.persistent**2, axis=(1, 2))
        start = init_state(config, beginning, 1, width=WIDTH, value_width=WIDTH)
        np.testing.assert_allclose(start.projection.norm_sum[0], persistent, rtol=1e-12)
        _, state = jitted(config)(beginning, part(tokens, 0, 17))  # two shards and a token
        np.testing.assert_allclose(state.projection.norm_sum[0], persistent + 1, rtol=1e-12)


def test_ten_thousand_hostile_tokens_stay_finite():
    """Rates far beyond what is stable, no forgetting, one key over and over: the limit alone holds the memory."""
    tokens = memory_world.random_tokens(length=10_000)
    gates = tokens.gates._replace(
        rate=jnp.full_like(tokens.gates.rate, 2.0), log_keep=jnp.zeros_like(tokens.gates.rate)
    )
    hostile = tokens._replace(gates=gates, key=jnp.broadcast_to(tokens.key[:, :, :1], tokens.key.shape))
    held, free = (
        jax.jit(partial(run, MemoryConfig(Descent(MLP, limit=limit), 16)))(random_beginning("mlp"), hostile)[0]
        for limit in (10.0, None)
    )
    assert np.abs(held).max() < 1e12
    assert not np.abs(free).max() < 1e20


@pytest.mark.parametrize(
    ("field", "value"),
    [("chunk", 0), ("shard", 0), ("shard", 12), ("group", 0), ("projection", "'sum'")],
)
def test_what_does_not_fit_is_named(field, value):
    with pytest.raises(ValueError, match=f"MemoryConfig.{field} is {value}, expected"):
        MemoryConfig(Descent(MLP), **{"chunk": 8, field: value.strip("'") if isinstance(value, str) else value})


def test_a_window_of_nothing():
    with pytest.raises(ValueError, match=r"Descent.window is 0, expected at least 1"):
        Descent(MLP, 0)


def test_no_tokens_and_no_persistent_keys():
    with pytest.raises(ValueError, match="0 tokens"):
        run(MemoryConfig(Descent(MLP)), random_beginning("mlp"), random_tokens(length=0))
    with pytest.raises(ValueError, match=r"beginning.persistent is None"):
        run(MemoryConfig(Descent(MLP), projection="per_key"), random_beginning("mlp"), random_tokens())
