"""Sliding-window rotary attention against its float64 definition: outputs, streams, causality, gradients, memory, errors."""

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

from atlas_jax.nn.attention import (
    Window,
    attend,
    init_window,
    rotary_table,
    rotate,
    sliding_window_attention,
)
from atlas_jax.nn.norms import rms_norm, sum_dtype

BATCH, HEADS, KEY, VALUE = 2, 3, 4, 5


def drawn(length, seed=0, batch=BATCH):
    rng = np.random.default_rng(seed)
    return tuple(rng.normal(size=(batch, length, HEADS, width)) for width in (KEY, KEY, VALUE))


def definition(query, key, value, window, base=10_000.0):
    """Every pair of tokens on its own, in float64: turn both by their absolute positions, softmax over what is seen."""

    def turned(x, position):
        half = len(x) // 2
        angle = position * base ** (-2 * np.arange(half) / len(x))
        z = (x[:half] + 1j * x[half:]) * np.exp(1j * angle)
        return np.concatenate([z.real, z.imag])

    batch, length, heads, width = query.shape
    mixed = np.zeros(value.shape)
    for b in range(batch):
        for h in range(heads):
            for t in range(length):
                seen = range(max(0, t - window + 1), t + 1)
                scores = [turned(query[b, t, h], t) @ turned(key[b, s, h], s) / np.sqrt(width) for s in seen]
                weights = np.exp(scores - np.max(scores))
                mixed[b, t, h] = (weights / weights.sum()) @ value[b, seen.start : seen.stop, h]
    return mixed


@cache
def reference(length, window):
    return definition(*drawn(length), window)


def on_device(arrays, dtype=None):
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), arrays)


CASES = [(1, 4, 8), (8, 8, 8), (29, 5, 8), (29, 12, 8), (24, 100, 8), (7, 3, 1), (9, 1, 4)]


@pytest.mark.parametrize(("length", "window", "chunk"), CASES)
def test_attention_equals_its_definition(length, window, chunk):
    expected = reference(length, window)
    with jax.enable_x64(True):
        mixed, _ = sliding_window_attention(*on_device(drawn(length)), window=window, chunk=chunk)
        np.testing.assert_allclose(mixed, expected, rtol=0, atol=1e-12)
    mixed, _ = sliding_window_attention(*on_device(drawn(length), jnp.float32), window=window, chunk=chunk)
    assert mixed.dtype == jnp.float32
    np.testing.assert_allclose(mixed, expected, rtol=0, atol=5e-6)  # measured 6e-7


def test_the_base_sets_the_wavelengths():
    arrays = drawn(12)
    with jax.enable_x64(True):
        mixed, _ = sliding_window_attention(*on_device(arrays), window=12, chunk=12, base=20.0)
    np.testing.assert_allclose(mixed, definition(*arrays, 12, base=20.0), rtol=0, atol=1e-12)
    assert np.abs(np.asarray(mixed) - reference(12, 12)).max() > 1e-3


LENGTH, WINDOW, CHUNK = 29, 6, 4


@cache
def compiled(window=WINDOW, chunk=CHUNK):
    return jax.jit(partial(sliding_window_attention, window=window, chunk=chunk))


@given(parts=st.lists(st.sampled_from((1, 3, 4, 11)), min_size=1, max_size=29), started=st.booleans())
def test_any_split_equals_the_definition_and_the_state_holds_the_last_tokens(parts, started):
    """Also far beyond the window, where the oldest tokens have left the state."""
    query, key, value = drawn(LENGTH)
    expected, done = reference(LENGTH, WINDOW), 0
    with jax.enable_x64(True):
        empty = jax.tree.map(lambda x: x.astype(jnp.float64), init_window(BATCH, WINDOW, HEADS, KEY, VALUE))
        state = empty if started else None
        for part in parts:
            if done + part > LENGTH:
                break
            now = slice(done, done + part)
            mixed, state = compiled()(*on_device((query[:, now], key[:, now], value[:, now])), state)
            np.testing.assert_allclose(mixed, expected[:, now], rtol=0, atol=1e-12)
            done += part
    if state is None:
        return
    past, kept = WINDOW - 1, min(done, WINDOW - 1)
    np.testing.assert_array_equal(state.keys[:, past - kept :], key[:, done - kept : done])
    np.testing.assert_array_equal(state.values[:, past - kept :], value[:, done - kept : done])
    np.testing.assert_array_equal(state.present, np.broadcast_to(np.arange(past) >= past - kept, (BATCH, past)))
    assert not np.any(state.keys[:, : past - kept])


def test_steps_equal_the_whole_and_compile_once():
    arrays, traces = on_device(drawn(LENGTH), jnp.float32), []

    @jax.jit
    def step(query, key, value, state):
        traces.append(1)
        return sliding_window_attention(query, key, value, state, window=WINDOW)

    state, steps = init_window(BATCH, WINDOW, HEADS, KEY, VALUE), []
    for t in range(LENGTH):
        mixed, state = step(*(x[:, t : t + 1] for x in arrays), state)
        steps.append(mixed)
    np.testing.assert_allclose(np.concatenate(steps, axis=1), reference(LENGTH, WINDOW), rtol=0, atol=5e-6)
    assert len(traces) == 1


@pytest.mark.parametrize(("window", "chunk"), [(100, 100), (6, 4), (6, 100)])
def test_the_future_changes_nothing_bitwise(window, chunk):
    query, key, value = on_device(drawn(LENGTH, batch=LENGTH), jnp.float32)
    future = (np.arange(LENGTH) >= np.arange(LENGTH)[:, None])[:, :, None, None]  # row b is changed from token b on
    others = on_device(drawn(LENGTH, seed=1, batch=LENGTH), jnp.float32)
    run = compiled(window, chunk)
    before, _ = run(query, key, value)
    after, _ = run(*(jnp.where(future, other, x) for x, other in zip((query, key, value), others, strict=True)))
    for row in range(LENGTH):
        np.testing.assert_array_equal(before[row, :row], after[row, :row])
        assert np.all(np.any(before[row, row:] != after[row, row:], axis=(-1, -2)))


def test_a_token_is_seen_for_as_long_as_the_window():
    query, key, value = on_device(drawn(LENGTH), jnp.float32)
    before, _ = compiled()(query, key, value)
    after, _ = compiled()(query, key.at[:, 3].add(1.0), value.at[:, 3].add(1.0))
    moved = np.any(np.asarray(before) != np.asarray(after), axis=(0, 2, 3))
    np.testing.assert_array_equal(moved, (np.arange(LENGTH) >= 3) & (np.arange(LENGTH) < 3 + WINDOW))


def test_rotary_scores_depend_on_distance_alone():
    with jax.enable_x64(True):
        query, key = on_device(np.random.default_rng(0).normal(size=(2, 1, 1, 1, KEY)))
        table = rotary_table(40, KEY)
        here, there = (rotate(jnp.broadcast_to(x, (1, 40, 1, KEY)), *table)[0, :, 0] for x in (query, key))
        scores = np.asarray(here @ there.T)
        for distance in range(-39, 40):
            diagonal = np.diagonal(scores, distance)
            np.testing.assert_allclose(diagonal, diagonal[0], rtol=0, atol=1e-13)
    assert np.ptp([scores[0, s] for s in range(40)]) > 0.1
    np.testing.assert_allclose(np.linalg.norm(here, axis=1), np.linalg.norm(query), rtol=1e-13)


def test_rotation_is_that_of_the_paper():
    cosine, sine = rotary_table(3, 4, base=100.0)
    np.testing.assert_allclose(cosine, np.cos(np.outer(range(3), [1.0, 0.1])))
    np.testing.assert_allclose(sine, np.sin(np.outer(range(3), [1.0, 0.1])))
    turned = rotate(jnp.asarray([[[[1.0, 0.0, 0.0, 2.0]]] * 3]).reshape(1, 3, 1, 4), cosine, sine)[0, :, 0]
    expected = np.stack([cosine[:, 0], -2 * sine[:, 1], sine[:, 0], 2 * cosine[:, 1]], axis=1)
    np.testing.assert_allclose(turned, expected, rtol=1e-6)


def test_a_shift_of_the_whole_stream_changes_nothing():
    """Tokens before the window are forgotten, their number included: float32 does not lose positions in long streams."""
    arrays = on_device(drawn(LENGTH), jnp.float32)
    run = compiled(WINDOW, LENGTH)
    _, state = run(*arrays)
    later = on_device(drawn(LENGTH, seed=3), jnp.float32)
    for _ in range(20):
        _, state = run(*later, state)
    _, short = run(*later)
    np.testing.assert_array_equal(run(*arrays, state)[0], run(*arrays, short)[0])


@pytest.mark.parametrize(
    ("length", "window", "chunk", "started"), [(5, 4, 8, False), (5, 4, 2, False), (5, 3, 2, True)]
)
def test_gradients_equal_finite_differences(length, window, chunk, started):
    """Of every entry of query, key and value, and of the carried keys and values where there are some."""
    state = None
    if started:
        _, key, value = drawn(window - 1, seed=2)
        state = (key, value)
    weights = np.random.default_rng(3).normal(size=(BATCH, length, HEADS, VALUE))
    with jax.enable_x64(True):
        flat, restore = ravel_pytree(on_device((drawn(length), state)))

        def loss(flat):
            (query, key, value), carried = restore(flat)
            state = None if carried is None else Window(*carried, jnp.ones((BATCH, window - 1)))
            mixed, last = sliding_window_attention(query, key, value, state, window=window, chunk=chunk)
            return jnp.sum(jnp.asarray(weights) * mixed) + jnp.sum(jnp.sin(last.keys)) + jnp.sum(jnp.sin(last.values))

        h = 1e-5
        both = jax.jit(jax.vmap(lambda nudge: (loss(flat + nudge) - loss(flat - nudge)) / (2 * h)))
        differences, gradient = both(h * jnp.eye(len(flat))), jax.jit(jax.grad(loss))(flat)
    np.testing.assert_allclose(gradient, differences, rtol=1e-6, atol=1e-8)


def test_gradients_are_finite_where_scores_are_huge():
    query, key, value = on_device(drawn(9), jnp.float32)

    def loss(query, key, value):
        mixed, _ = sliding_window_attention(1e4 * query, 1e4 * key, value, window=4, chunk=4)
        return jnp.sum(mixed**2)

    for gradient in jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(query, key, value):
        assert np.all(np.isfinite(gradient))


def test_bfloat16_keeps_the_softmax_in_float32():
    arrays = on_device(drawn(200), jnp.bfloat16)
    exact = definition(*(np.asarray(x, np.float64) for x in arrays), 128)
    mixed, state = compiled(128, 64)(*arrays)
    assert {leaf.dtype for leaf in (mixed, *state)} == {jnp.dtype(jnp.bfloat16)}
    np.testing.assert_allclose(np.asarray(mixed, np.float64), exact, rtol=0, atol=0.03)  # measured 0.012
    # 300 equal weights: bfloat16 cannot even count them (256 + 1 = 256).
    zeros, ones = jnp.zeros((1, 300, 1, 2), jnp.bfloat16), jnp.ones((1, 300, 1, 2), jnp.bfloat16)
    mixed, _ = sliding_window_attention(zeros, zeros, ones, window=300, chunk=300)
    np.testing.assert_allclose(np.asarray(mixed, np.float64), 1.0, rtol=0, atol=0.005)


def test_attend_gives_what_is_not_visible_no_weight():
    query, key, value = on_device(drawn(4), jnp.float32)
    visible = np.tril(np.ones((1, 4, 4), bool))
    mixed = attend(query, key, value, visible)
    np.testing.assert_array_equal(mixed[:, 0], value[:, 0])
    np.testing.assert_array_equal(mixed[:, :3], attend(query, key, value.at[:, 3].set(1e30), visible)[:, :3])


def test_memory_grows_with_length_not_with_its_square():
    def temporary_bytes(length):
        def loss(query, key, value):
            mixed, _ = sliding_window_attention(query, key, value, window=64, chunk=64)
            return jnp.sum(mixed**2)

        shapes = [jax.ShapeDtypeStruct((1, length, 2, 8), jnp.float32)] * 3
        program = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(*shapes).compile()
        return program.memory_analysis().temp_size_in_bytes

    short, long = temporary_bytes(1024), temporary_bytes(8192)
    assert long < 10 * short
    assert long < 8192 * 8192  # one byte for each pair would already be more


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window": 0}, "window is 0, expected at least 1"),
        (
            {"query": np.zeros((5, 3, 4))},
            r"query is float32 \(5, 3, 4\), expected floats \[batch, time, heads, width\]",
        ),
        ({"value": np.zeros((2, 5, 5))}, r"value is float32 \(2, 5, 5\), expected float32 \(2, 5, 3, 5\) as query"),
        ({"chunk": 0}, "chunk is 0, expected at least 1"),
        ({"query": np.zeros((2, 0, 3, 4))}, "query length is 0, expected at least 1"),
        ({"key": np.zeros((2, 5, 3, 6))}, r"key is float32 \(2, 5, 3, 6\), expected float32 \(2, 5, 3, 4\) as query"),
        ({"value": np.zeros((2, 4, 3, 5))}, r"value is float32 \(2, 4, 3, 5\), expected float32 \(2, 5, 3, 5\) as que"),
        ({"query": np.zeros((2, 5, 3, 3)), "key": np.zeros((2, 5, 3, 3))}, "width is 3, expected an even number"),
        ({"state": init_window(3, 6, 3, 4, 5)}, r"state.keys is float32 \(3, 5, 3, 4\), expected float32 \(2, 5, 3, 4"),
        ({"state": init_window(2, 7, 3, 4, 5)}, r"state.keys is float32 \(2, 6, 3, 4\), expected float32 \(2, 5, 3, 4"),
        ({"state": init_window(2, 6, 3, 4)}, r"state.values is float32 \(2, 5, 3, 4\), expected float32 \(2, 5, 3, 5"),
        (
            {"state": jax.tree.map(lambda x: x.astype(jnp.bfloat16), init_window(2, 6, 3, 4, 5))},
            r"state.keys is bfloat16 \(2, 5, 3, 4\), expected float32",
        ),
    ],
)
def test_wrong_input_is_refused_by_name(changes, message):
    query, key, value = drawn(5)
    arguments = {"query": query, "key": key, "value": value} | changes
    arrays = on_device([arguments[name] for name in ("query", "key", "value")], jnp.float32)
    with pytest.raises(ValueError, match=message):
        inspect.unwrap(sliding_window_attention)(  # the tests' own shape checks would speak first
            *arrays, changes.get("state"), window=changes.get("window", 6), chunk=changes.get("chunk", 8)
        )


def test_windows_and_tables_of_nothing():
    with pytest.raises(ValueError, match="init_window: window is 0, expected at least 1"):
        init_window(BATCH, 0, HEADS, KEY)
    with pytest.raises(ValueError, match=r"rotary_table: base is -1.0, expected more than 0"):
        rotary_table(3, KEY, -1.0)
    assert init_window(BATCH, 3, HEADS, KEY, 0).values.shape == (BATCH, 2, HEADS, 0)


def test_no_sequences_in_blocks_give_none():
    mixed, state = compiled()(*on_device(drawn(LENGTH, batch=0), jnp.float32))
    assert mixed.shape == (0, LENGTH, HEADS, VALUE)
    assert state.keys.shape == (0, WINDOW - 1, HEADS, KEY)


def test_a_scale_of_one_number_is_not_one_a_channel():
    for shape in ((1,), (3, 7)):
        with pytest.raises(ValueError, match=r"rms_norm: scale is float32\[.*\], expected \[7\], one a channel"):
            inspect.unwrap(rms_norm)(jnp.ones((3, 7)), jnp.ones(shape))


def test_rms_norm_is_its_formula_and_keeps_the_dtype():
    x = np.random.default_rng(0).normal(size=(3, 7)) * 100
    scale = np.linspace(0.5, 2, 7)
    expected = x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True)) * scale
    with jax.enable_x64(True):
        np.testing.assert_allclose(rms_norm(*on_device((x, scale))), expected, rtol=1e-9)
    narrow = rms_norm(jnp.asarray(x, jnp.bfloat16), jnp.asarray(scale, jnp.float32))
    assert narrow.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(narrow, np.float64), expected, rtol=0.02)
    np.testing.assert_array_equal(rms_norm(jnp.zeros((2, 3)), jnp.ones((3,))), 0)
    assert sum_dtype(jnp.dtype(jnp.bfloat16)) == jnp.float32
    assert sum_dtype(jnp.dtype(jnp.float64)) == jnp.float64
