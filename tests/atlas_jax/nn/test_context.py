"""Memory as context against its definition token by token, in any split, at any precision; and what it must not see."""

from __future__ import annotations

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import compiled

from atlas_jax.memory.dual import Descent
from atlas_jax.memory.features import expand
from atlas_jax.memory.networks import LINEAR, MLP
from atlas_jax.memory.one_step import OneStep
from atlas_jax.memory.sequence import MemoryConfig
from atlas_jax.models.atlas import AtlasConfig
from atlas_jax.nn.context import MemoryAsContext, init_context_state

HEADS, D, SEGMENT, LENGTH, RATE, BASE = 2, 8, 4, 11, 0.05, 3.0
WIDTH, BATCH, PLACES = D // HEADS, LENGTH, np.arange(LENGTH)


def layer_of(network=MLP, *, window=1, degree=None, persistent=3, chunk=SEGMENT, group=1):
    memories = (MemoryConfig(Descent(network, window), chunk, group=group),)
    return MemoryAsContext(HEADS, memories, persistent, BASE, 0.7, 2, degree, RATE)


@cache
def parameters(layer):
    """Random ones, so that each of them shows; float64."""
    rng = np.random.default_rng(1)

    def drawn(leaf):
        if len(leaf.shape) == 1:
            return 1 + 0.3 * rng.normal(size=leaf.shape)
        return rng.normal(size=leaf.shape) * leaf.shape[-2] ** -0.5

    shapes = jax.eval_shape(layer.init, jax.random.key(0), jnp.zeros((1, 1, D)))["params"]
    return jax.tree.map(drawn, shapes)


@cache
def inputs():
    return np.random.default_rng(2).normal(size=(BATCH, LENGTH, D))


def zeros():
    return init_context_state(OMEGA.memories, BATCH, HEADS, D, OMEGA.expansion, OMEGA.degree)


def wide(tree):
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree)


@cache
def applied(layer):
    return compiled(lambda params, x, state=None: layer.apply({"params": params}, x, state))


def rms(x, scale):
    scale = scale.reshape((1,) * (x.ndim - 1) + (-1,))
    return x / jnp.sqrt(jnp.mean(x**2, axis=-1, keepdims=True) + 1e-6) * scale


def unit(x):
    return x / jnp.sqrt(jnp.sum(x**2, axis=-1, keepdims=True) + 1e-12)


def by_head(x):
    return x.reshape(HEADS, WIDTH)


def turned(x, position):
    """One token's keys, [h, k]."""
    angle = position * BASE ** (-2 * np.arange(WIDTH // 2) / WIDTH)[None]
    first, second = x[:, : WIDTH // 2], x[:, WIDTH // 2 :]
    c, s = jnp.cos(angle), jnp.sin(angle)
    return jnp.concatenate([first * c - second * s, second * c + first * s], axis=-1)


def definition(layer, params, x, hide):
    """One sequence [t, d], token by token; not to hide is the paper's reading, in which h of the whole segment is seen."""
    (config,), beginning = layer.memories, params["memory"]
    rule, segment = config.rule, config.chunk
    padded = jnp.pad(x, ((0, segment), (0, 0)))

    def say(weights, query):
        """M(q) of every head."""

        def one(weights, scales, query):
            def linear(name, x):
                return (expand(x, scales) if name in rule.network.first else x) @ weights[name]

            return rule.network.forward(linear, query[None])[0]

        return jax.vmap(one, in_axes=(0, None if beginning.scales is None else 0, 0))(weights, beginning.scales, query)

    def key_value(u):
        _, key, value = jnp.split(u @ params["query_key_value"], 3)
        return rms(by_head(key), params["key_norm"]), by_head(value)

    def context(base, u):
        """Key and value of h."""
        h = say(base, unit(by_head(u @ params["recall"])))
        return key_value(rms(h.reshape(-1), params["recall_norm"]))

    def attention(base, t):
        """Token t over P, h and S."""
        start = t // segment * segment
        tokens = jax.lax.dynamic_slice_in_dim(padded, start, segment)
        query = rms(by_head(padded[t] @ params["query_key_value"][:, :D]), params["query_norm"])
        place = start + jnp.arange(segment)
        there = place <= t
        parts = [(*jax.vmap(key_value)(tokens), there), (*jax.vmap(partial(context, base))(tokens), there | ~hide)]
        distance = (place - t).astype(jnp.float64)
        parts = [(jax.vmap(turned)(keys, distance), values, seen) for keys, values, seen in parts]
        if layer.persistent:
            keys = rms(params["persistent_keys"], params["key_norm"])
            parts.append((keys, params["persistent_values"], jnp.ones(layer.persistent, bool)))
        keys, values, seen = (jnp.concatenate(part) for part in zip(*parts, strict=True))
        scores = jnp.einsum("hk,shk->sh", query, keys) / np.sqrt(WIDTH)
        weights = jax.nn.softmax(jnp.where(seen[:, None], scores, -jnp.inf), axis=0)
        return jnp.einsum("sh,shk->hk", weights, values).reshape(-1)

    def one(carry, t):
        base, weights, momentum, window = carry
        base = jax.tree.map(lambda now, before: jnp.where(t % segment == 0, now, before), weights, base)
        y = rms(attention(base, t) @ params["attention_out"], params["attention_norm"])
        query, key, value = (by_head(part) for part in jnp.split(y @ params["learnt"], 3))
        raw = (y @ params["gates"] + params["gate_bias"]).reshape(4, HEADS)
        alpha, eta, theta, gamma = jax.nn.sigmoid(raw) * jnp.array([1.0, 1.0, RATE, 1.0])[:, None]
        window = [*window[1:], (unit(key), value, gamma if rule.window > 1 else jnp.ones(HEADS))]

        def clipped(k, v, g):
            """The gradients of a token, of every head at most as long as a value of unit variance."""

            def loss(weights):
                return jnp.sum((say(weights, k) - v) ** 2)

            def one(gradient):
                norm = jnp.sqrt(jnp.sum(gradient**2, axis=(1, 2)) + 1e-30)
                return (g * jnp.minimum(1.0, WIDTH**0.5 / norm))[:, None, None] * gradient

            return jax.tree.map(one, jax.grad(loss)(base))

        gradient = jax.tree.map(lambda *parts: sum(parts), *[clipped(*token) for token in window])

        def each(factor, tree):
            return jax.tree.map(lambda leaf: factor[:, None, None] * leaf, tree)

        momentum = jax.tree.map(jnp.subtract, each(eta, momentum), each(theta, gradient))
        weights = jax.tree.map(jnp.add, each(1 - alpha, weights), momentum)
        said = say(weights, unit(query)).reshape(-1) @ params["memory_out"]
        return (base, weights, momentum, window), y * rms(said, params["memory_norm"])

    first = beginning.weights
    nothing = [(jnp.zeros((HEADS, WIDTH)), jnp.zeros((HEADS, WIDTH)), jnp.zeros(HEADS))] * rule.window
    return jax.lax.scan(one, (first, first, jax.tree.map(jnp.zeros_like, first), nothing), jnp.arange(len(x)))[1]


OMEGA = layer_of(MLP, window=2)
FEATURES = layer_of(LINEAR, degree=2, persistent=0, chunk=2, group=2)


@cache
def of_definition(layer):
    return compiled(lambda params, x, hide: definition(layer, params, x, hide))


@pytest.mark.parametrize("layer", [OMEGA, FEATURES], ids=["omega", "features"])
def test_the_layer_is_its_definition_token_by_token(layer):
    with jax.enable_x64(True):
        params, x = wide((parameters(layer), inputs()))
        outputs = applied(layer)(params, x)[0][0]
        np.testing.assert_allclose(outputs, of_definition(layer)(params, x[0], True), rtol=0, atol=1e-10)


def test_gradients_are_those_of_the_definition():
    whole = 2 * SEGMENT  # no more: each piece of a segment is code to compile
    weight = np.random.default_rng(3).normal(size=(whole, D))

    def gradient(run):
        return compiled(jax.grad(lambda params, x: jnp.sum(weight * run(params, x)), argnums=(0, 1)))

    with jax.enable_x64(True):
        params, x = wide((parameters(OMEGA), inputs()[0, :whole]))
        ours = gradient(lambda params, x: OMEGA.apply({"params": params}, x[None])[0][0])(params, x)
        expected = gradient(lambda params, x: definition(OMEGA, params, x, jnp.array(True)))(params, x)
    for leaf in jax.tree.leaves(expected):
        assert np.abs(leaf).max() > 1e-4
    jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, rtol=0, atol=1e-8), ours, expected)


def test_the_future_changes_nothing_and_the_past_does():
    before = np.broadcast_to(inputs()[0], (LENGTH, LENGTH, D))
    after = np.where(PLACES[:, None, None] == PLACES[None, :, None], -before, before)
    with jax.enable_x64(True):
        params = wide(parameters(OMEGA))
        outputs, others = (np.asarray(applied(OMEGA)(params, jnp.asarray(part))[0]) for part in (before, after))
    moved = np.any(outputs != others, axis=-1)  # [place changed, place seen]
    np.testing.assert_array_equal(moved, PLACES[:, None] <= PLACES[None, :])


def test_read_as_printed_the_layer_sees_its_own_future():
    """With all of h visible a token moves what stands before it in its segment; with h_j hidden from those before j not."""
    x, last = inputs()[0], SEGMENT - 1
    changed = np.where(PLACES[:, None] == last, -x, x)
    with jax.enable_x64(True):
        params = wide(parameters(OMEGA))
        for hide, low, high in ((True, 0.0, 1e-15), (False, 1e-3, np.inf)):
            one, other = (of_definition(OMEGA)(params, jnp.asarray(part), hide) for part in (x, changed))
            assert low <= np.abs(one - other)[:last].max() <= high


def test_earlier_segments_reach_the_present_through_the_memory_alone():
    with jax.enable_x64(True):
        params, x = wide((parameters(OMEGA), inputs()))
        run, rest, start = applied(OMEGA), x[:, SEGMENT : SEGMENT + 5], wide(zeros())
        state = start
        for t in range(SEGMENT):
            _, state = run(params, x[:, t : t + 1], state)
        stale = state._replace(
            recalled=jax.tree.map(lambda slots: slots + 100.0, state.recalled),
            segment=jax.tree.map(lambda slots: slots - 100.0, state.segment),
        )
        anew = state._replace(memory=state.memory._replace(age=jnp.zeros_like(state.memory.age)))
        expected = run(params, rest, state)[0]
        np.testing.assert_array_equal(run(params, rest, stale)[0], expected)
        np.testing.assert_array_equal(run(params, rest, anew)[0], run(params, rest, start)[0])
        assert np.abs(run(params, rest, start)[0] - expected).max() > 1e-3


def test_any_split_gives_what_the_whole_gives():
    with jax.enable_x64(True):
        params, x = wide((parameters(OMEGA), inputs()))
        whole, last = applied(OMEGA)(params, x)
        for sizes in ((5, 5, 1), (1, 5, 5), (1, 1, 1, 5, 1, 1, 1), (1,) * LENGTH):
            state, outputs, done = wide(zeros()), [], 0
            for size in sizes:
                said, state = applied(OMEGA)(params, x[:, done : done + size], state)
                outputs.append(said)
                done += size
            np.testing.assert_allclose(np.concatenate(outputs, axis=1), whole, rtol=0, atol=1e-12)
            jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, rtol=0, atol=1e-12), state, last)


def test_narrow_inputs_keep_a_wide_state():
    start = zeros()
    assert {leaf.dtype for leaf in jax.tree.leaves(start)} == {jnp.dtype("float32"), jnp.dtype("int32")}
    params = jax.tree.map(jnp.float32, parameters(OMEGA))
    for before in (None, start):
        for length in (1, LENGTH):
            x = jax.ShapeDtypeStruct((BATCH, length, D), jnp.bfloat16)
            outputs, state = jax.eval_shape(applied(OMEGA), params, x, before)
            assert (outputs.shape, outputs.dtype) == (x.shape, x.dtype)
            jax.tree.map(lambda a, e: np.testing.assert_equal((a.shape, a.dtype), (e.shape, e.dtype)), state, start)


ONE = MemoryConfig(Descent(MLP), 4)


@pytest.mark.parametrize(
    ("memories", "message"),
    [
        ((ONE, ONE), "2 memories, expected exactly one"),
        ((), "0 memories, expected exactly one"),
        ((MemoryConfig(OneStep.lact(MLP), 4),), "rule is OneStep, expected Descent"),
        ((MemoryConfig(Descent(MLP), 4, shard=8),), "shard is 8, expected None"),
        ((MemoryConfig(Descent(MLP), 4, projection="per_key"),), "projection is 'per_key', expected None"),
    ],
)
def test_memories_that_are_no_context_are_named(memories, message):
    layer = MemoryAsContext(HEADS, memories, 2, BASE)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(layer.init, jax.random.key(0), jnp.zeros((1, 1, D)))
    with pytest.raises(ValueError, match=message):
        init_context_state(memories, 1, HEADS, D, 2, None)


def test_a_model_of_such_memories_is_refused_before_it_is_built():
    for change, message in (
        ({"chunks": (4, 8)}, "2 memories"),
        ({"shard": 32}, "shard is 32"),
        ({"rule": "muon"}, "rule is OneStep"),
        ({"projection": "norm_sum"}, "projection is 'norm_sum'"),
    ):
        with pytest.raises(ValueError, match=f"memory as context: .*{message}"):
            AtlasConfig(block="context", **change)
