"""Attention to persistent tokens beside the window against its float64 definition: outputs, streams, gradients, errors."""

from __future__ import annotations

import inspect
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree

from atlas_jax.nn.attention import Window, init_window, sliding_window_attention

BATCH, HEADS, KEY, VALUE, TOKENS = 2, 3, 4, 5, 7
LENGTH, WINDOW, CHUNK = 23, 6, 4


def drawn(length=LENGTH, seed=0, batch=BATCH):
    rng = np.random.default_rng(seed)
    return tuple(rng.normal(size=(batch, length, HEADS, width)) for width in (KEY, KEY, VALUE))


def drawn_persistent(tokens=TOKENS):
    rng = np.random.default_rng(17)
    return tuple(rng.normal(size=(tokens, HEADS, width)) for width in (KEY, VALUE))


def definition(query, key, value, persistent, window):
    """Query by query in float64: window tokens score by their distance, persistent ones as they are, in one softmax."""
    frequencies = 10_000.0 ** (-2 * np.arange(KEY // 2) / KEY)

    def score(q, k, distance):
        z = (q[: KEY // 2] + 1j * q[KEY // 2 :]) * np.conj(k[: KEY // 2] + 1j * k[KEY // 2 :])
        return np.sum((z * np.exp(1j * distance * frequencies)).real) / np.sqrt(KEY)

    mixed = np.zeros(value.shape)
    for b, t, h in np.ndindex(mixed.shape[:3]):
        q = query[b, t, h]
        seen = range(max(0, t - window + 1), t + 1)
        pairs = [(score(q, key[b, s, h], t - s), value[b, s, h]) for s in seen]
        pairs += [(score(q, k[h], 0), v[h]) for k, v in zip(*persistent, strict=True)]
        weights = np.exp([s for s, _ in pairs])
        mixed[b, t, h] = sum(w * v for w, (_, v) in zip(weights, pairs, strict=True)) / weights.sum()
    return mixed


@cache
def reference(length=LENGTH, window=WINDOW, tokens=TOKENS):
    return definition(*drawn(length), drawn_persistent(tokens), window)


def on_device(tree, dtype=None):
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), tree)


@cache
def compiled(window=WINDOW, chunk=CHUNK):
    return jax.jit(partial(sliding_window_attention, window=window, chunk=chunk))


CASES = [(1, 4, 8, 7), (8, 8, 8, 1), (23, 5, 8, 7), (24, 100, 8, 2), (7, 3, 1, 7), (9, 1, 4, 7), (5, 4, 8, 0)]


@pytest.mark.parametrize(("length", "window", "chunk", "tokens"), CASES)
def test_attention_equals_its_definition(length, window, chunk, tokens):
    expected = reference(length, window, tokens)
    arrays, persistent = drawn(length), drawn_persistent(tokens)
    with jax.enable_x64(True):
        mixed, _ = compiled(window, chunk)(*on_device(arrays), persistent=on_device(persistent))
        np.testing.assert_allclose(mixed, expected, rtol=0, atol=1e-12)
    mixed, _ = compiled(window, chunk)(*on_device(arrays, jnp.float32), persistent=on_device(persistent, jnp.float32))
    assert mixed.dtype == jnp.float32
    np.testing.assert_allclose(mixed, expected, rtol=0, atol=5e-6)


@given(parts=st.lists(st.sampled_from((1, 3, 4, 11)), min_size=1, max_size=23), started=st.booleans())
def test_any_split_equals_the_definition_and_carries_the_window_alone(parts, started):
    arrays, expected, done = drawn(), reference(), 0
    with jax.enable_x64(True):
        empty = jax.tree.map(lambda x: x.astype(jnp.float64), init_window(BATCH, WINDOW, HEADS, KEY, VALUE))
        persistent, state = on_device(drawn_persistent()), empty if started else None
        without = state
        for part in parts:
            if done + part > LENGTH:
                break
            now = on_device(tuple(x[:, done : done + part] for x in arrays))
            mixed, state = compiled()(*now, state, persistent=persistent)
            _, without = compiled()(*now, without)
            np.testing.assert_allclose(mixed, expected[:, done : done + part], rtol=0, atol=1e-12)
            done += part
        jax.tree.map(np.testing.assert_array_equal, state, without)


def test_steps_equal_the_whole_and_compile_once():
    arrays, persistent, traces = on_device(drawn(), jnp.float32), on_device(drawn_persistent(), jnp.float32), []

    @jax.jit
    def step(query, key, value, state):
        traces.append(1)
        return sliding_window_attention(query, key, value, state, window=WINDOW, persistent=persistent)

    state, steps = init_window(BATCH, WINDOW, HEADS, KEY, VALUE), []
    for t in range(LENGTH):
        mixed, state = step(*(x[:, t : t + 1] for x in arrays), state)
        steps.append(mixed)
    np.testing.assert_allclose(np.concatenate(steps, axis=1), reference(), rtol=0, atol=5e-6)
    assert len(traces) == 1


@pytest.mark.parametrize(("window", "chunk"), [(LENGTH, LENGTH), (WINDOW, CHUNK)])
def test_the_future_changes_nothing_bitwise_and_every_query_sees_every_persistent_token(window, chunk):
    arrays, others = (on_device(drawn(seed=seed, batch=LENGTH), jnp.float32) for seed in (0, 1))
    future = (np.arange(LENGTH) >= np.arange(LENGTH)[:, None])[:, :, None, None]  # row b is changed from token b on
    keys, values = on_device(drawn_persistent(), jnp.float32)
    run = compiled(window, chunk)
    before, _ = run(*arrays, persistent=(keys, values))
    changed = [jnp.where(future, other, x) for x, other in zip(arrays, others, strict=True)]
    after, _ = run(*changed, persistent=(keys, values))
    for row in range(LENGTH):
        np.testing.assert_array_equal(before[row, :row], after[row, :row])
        assert np.all(np.any(before[row, row:] != after[row, row:], axis=(-1, -2)))
    for token in range(TOKENS):
        moved, _ = run(*arrays, persistent=(keys, values.at[token].add(10.0)))
        assert np.all(np.any(before != moved, axis=-1))


def test_what_persistent_tokens_say_does_not_depend_on_the_position():
    """The same token over and over: from the first full window on, each output is the same."""
    one = [np.broadcast_to(x, (BATCH, LENGTH, *x.shape[2:])) for x in drawn(1)]
    with jax.enable_x64(True):
        mixed, _ = compiled()(*on_device(one), persistent=on_device(drawn_persistent()))
    settled = np.asarray(mixed)[:, WINDOW - 1 :]
    np.testing.assert_allclose(settled, np.broadcast_to(settled[:, :1], settled.shape), rtol=0, atol=1e-13)


@pytest.mark.parametrize(("length", "chunk", "started"), [(5, 8, False), (5, 2, False), (5, 2, True)])
def test_gradients_equal_finite_differences(length, chunk, started):
    """Of every entry of the persistent keys and values and of query, key and value; in one block and through a scan."""
    weights = np.random.default_rng(3).normal(size=(BATCH, length, HEADS, VALUE))
    past = drawn(2, seed=2)[1:]
    with jax.enable_x64(True):
        flat, restore = ravel_pytree(on_device((drawn_persistent(2), drawn(length))))

        def loss(flat):
            persistent, arrays = restore(flat)
            state = Window(*on_device(past), jnp.ones((BATCH, 2))) if started else None
            mixed, _ = sliding_window_attention(*arrays, state, window=3, chunk=chunk, persistent=persistent)
            return jnp.sum(jnp.asarray(weights) * mixed)

        h = 1e-5
        both = jax.jit(jax.vmap(lambda nudge: (loss(flat + nudge) - loss(flat - nudge)) / (2 * h)))
        differences, gradient = both(h * jnp.eye(len(flat))), jax.jit(jax.grad(loss))(flat)
    np.testing.assert_allclose(gradient, differences, rtol=1e-6, atol=1e-8)
    assert np.all(np.abs(gradient[: 2 * HEADS * (KEY + VALUE)]) > 1e-9)


def test_bfloat16_keeps_the_softmax_in_float32():
    arrays, persistent = on_device((drawn(40), drawn_persistent(32)), jnp.bfloat16)
    exact = definition(*jax.tree.map(lambda x: np.asarray(x, np.float64), (*arrays, persistent)), 24)
    mixed, _ = compiled(24, 16)(*arrays, persistent=persistent)
    assert mixed.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(mixed, np.float64), exact, rtol=0, atol=0.03)
    # 300 equal weights: bfloat16 cannot even count them (256 + 1 = 256).
    zeros, ones = jnp.zeros((1, 1, 1, 2), jnp.bfloat16), jnp.ones((1, 1, 1, 2), jnp.bfloat16)
    many = (jnp.zeros((299, 1, 2), jnp.bfloat16), jnp.ones((299, 1, 2), jnp.bfloat16))
    mixed, _ = compiled(2, 1)(zeros, zeros, ones, persistent=many)
    np.testing.assert_allclose(np.asarray(mixed, np.float64), 1.0, rtol=0, atol=0.005)


def test_memory_grows_with_length_not_with_its_square():
    def temporary_bytes(length):
        def loss(query, key, value, persistent):
            mixed, _ = sliding_window_attention(query, key, value, window=64, chunk=64, persistent=persistent)
            return jnp.sum(mixed**2)

        shapes = [jax.ShapeDtypeStruct((1, length, 2, 8), jnp.float32)] * 3
        tokens = (jax.ShapeDtypeStruct((16, 2, 8), jnp.float32),) * 2
        program = jax.jit(jax.grad(loss, argnums=(0, 1, 2, 3))).lower(*shapes, tokens).compile()
        return program.memory_analysis().temp_size_in_bytes

    assert temporary_bytes(8192) < 10 * temporary_bytes(1024)


@pytest.mark.parametrize(
    ("persistent", "message"),
    [
        (((7, 3, 6), (7, 3, 5)), r"persistent key is float32 \(7, 3, 6\), expected float32 \(7, 3, 4\)"),
        (((7, 2, 4), (7, 3, 5)), r"persistent key is float32 \(7, 2, 4\), expected float32 \(7, 3, 4\)"),
        (((2, 7, 3, 4), (7, 3, 5)), r"persistent key is float32 \(2, 7, 3, 4\), expected float32 \(2, 3, 4\)"),
        (((7, 3, 4), (6, 3, 5)), r"persistent value is float32 \(6, 3, 5\), expected float32 \(7, 3, 5\)"),
        (((7, 3, 4), (7, 3, 4)), r"persistent value is float32 \(7, 3, 4\), expected float32 \(7, 3, 5\)"),
    ],
)
def test_wrong_shapes_are_refused_by_name(persistent, message):
    tokens = tuple(jnp.zeros(shape) for shape in persistent)
    with pytest.raises(ValueError, match=f"sliding_window_attention: {message}"):
        inspect.unwrap(sliding_window_attention)(*on_device(drawn(5), jnp.float32), window=6, persistent=tokens)


def test_another_dtype_is_refused_by_name():
    tokens = on_device(drawn_persistent(), jnp.bfloat16)
    with pytest.raises(ValueError, match=r"persistent key is bfloat16 \(7, 3, 4\), expected float32"):
        sliding_window_attention(*on_device(drawn(5), jnp.float32), window=6, persistent=tokens)
