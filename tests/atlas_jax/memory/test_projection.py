"""The Q-K projection against a loop over its definition: any split, causality, resets and what gradients pass them."""

from __future__ import annotations

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas_jax.memory.projection import (
    NORMALISATIONS,
    PERSISTENT_KEYS,
    ProjectionState,
    init_persistent_keys,
    persistent_state,
    project_chunk,
    reset,
)

BATCH, HEADS, LENGTH, WIDTH, PERSISTENT = 2, 3, 9, 5, 4
each_normalisation = pytest.mark.parametrize("normalisation", NORMALISATIONS)


def drawn(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def inputs(dtype=np.float64):
    """Queries, keys and persistent keys, none of length 1; one key is zero."""
    k = drawn(BATCH, HEADS, LENGTH, WIDTH, seed=1)
    k[1, 2, 3] = 0
    return tuple(
        x.astype(dtype) for x in (drawn(BATCH, HEADS, LENGTH, WIDTH), k, drawn(HEADS, PERSISTENT, WIDTH, seed=2))
    )


def naive(q, k, persistent, normalisation, boundaries=()):
    """One sequence and head by the definition, from all the keys of the shard again at every token, [t, k]."""
    outputs, begin = [], 0
    for t in range(len(q)):
        begin = t if t in boundaries else begin
        keys = [*persistent, *k[begin : t + 1]]
        if normalisation == "per_key":
            matrix, denominator = sum(np.outer(x, x) / (x @ x) for x in keys if np.any(x)), 1.0
        else:
            matrix, denominator = sum(np.outer(x, x) for x in keys), sum(x @ x for x in keys)
        outputs.append(matrix @ q[t] / denominator)
    return np.array(outputs)


def naive_batch(q, k, persistent, normalisation, boundaries=()):
    rows = [
        [naive(q[b, h], k[b, h], persistent[h], normalisation, boundaries) for h in range(HEADS)] for b in range(BATCH)
    ]
    return np.array(rows)


@cache
def compiled(function, normalisation):
    return jax.jit(partial(function, normalisation=normalisation))


compiled_reset = jax.jit(reset)


@partial(jax.jit, static_argnums=1)
def start_of(persistent, normalisation):
    return persistent_state(persistent, BATCH, normalisation)


def in_chunks(q, k, state, normalisation, cuts):
    """Arrays of NumPy, so that no cut compiles slices."""
    parts = []
    for begin, end in zip([0, *cuts], [*cuts, q.shape[2]], strict=True):
        y, state = compiled(project_chunk, normalisation)(state, q[:, :, begin:end], k[:, :, begin:end])
        parts.append(y)
    return np.concatenate(parts, axis=2), state


def in_steps(q, k, state, normalisation):
    parts = []
    for t in range(q.shape[2]):
        y, state = compiled(project_chunk, normalisation)(state, q[:, :, t : t + 1], k[:, :, t : t + 1])
        parts.append(y)
    return np.concatenate(parts, axis=2), state


def assert_states_close(actual, expected, bound):
    for ours, theirs in zip(actual, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=bound)


@each_normalisation
def test_chunk_and_steps_equal_the_definition(normalisation):
    q, k, persistent = inputs()
    expected = naive_batch(q, k, persistent, normalisation)
    with jax.enable_x64(True):
        state = start_of(persistent, normalisation)
        for y, after in (in_chunks(q, k, state, normalisation, []), in_steps(q, k, state, normalisation)):
            assert y.dtype == after.m.dtype == after.norm_sum.dtype == np.float64
            np.testing.assert_allclose(y, expected, rtol=0, atol=1e-10)
            np.testing.assert_allclose(after.norm_sum, np.trace(after.m, axis1=2, axis2=3), rtol=0, atol=1e-10)


@given(
    cuts=st.lists(st.integers(1, LENGTH - 1), unique=True, max_size=3).map(sorted),
    normalisation=st.sampled_from(NORMALISATIONS),
)
def test_any_split_is_the_whole(cuts, normalisation):
    with jax.enable_x64(True):
        q, k, persistent = inputs()
        state = start_of(persistent, normalisation)
        whole, after = in_chunks(q, k, state, normalisation, [])
        y, state = in_chunks(q, k, state, normalisation, cuts)
        np.testing.assert_allclose(y, whole, rtol=0, atol=1e-10)
        assert_states_close(state, after, 1e-10)


@each_normalisation
@pytest.mark.parametrize("cut", [1, 5, 8])
def test_a_later_token_changes_nothing_before_it(normalisation, cut):
    q, k, persistent = inputs(np.float32)
    state = start_of(persistent, normalisation)
    future = np.where(np.arange(LENGTH) < cut, 1, -1e6).astype(np.float32)[:, None]
    other = [x * future + (future - 1) for x in (q, k)]
    before, after = in_chunks(q, k, state, normalisation, [])[0], in_chunks(*other, state, normalisation, [])[0]
    np.testing.assert_array_equal(before[:, :, :cut], after[:, :, :cut])
    assert not np.any(np.all(before[:, :, cut:] == after[:, :, cut:], axis=-1))


@each_normalisation
def test_the_state_starts_with_the_persistent_keys_in_numerator_and_denominator(normalisation):
    keys = drawn(HEADS, PERSISTENT, WIDTH)
    counted = keys / np.linalg.norm(keys, axis=-1, keepdims=True) if normalisation == "per_key" else keys
    with jax.enable_x64(True):
        state = jax.tree.map(np.asarray, start_of(keys, normalisation))
    for sequence in range(BATCH):
        np.testing.assert_allclose(state.m[sequence], np.einsum("hpk,hpl->hkl", counted, counted), rtol=1e-12)
        np.testing.assert_allclose(state.norm_sum[sequence], np.sum(counted**2, axis=(1, 2)), rtol=1e-12)
    assert np.all(state.norm_sum > 0)


def test_persistent_keys_start_with_length_about_one():
    keys = init_persistent_keys(jax.random.key(0), HEADS, 64)
    assert keys.shape == (HEADS, PERSISTENT_KEYS, 64) == (3, 64, 64)
    np.testing.assert_allclose(jnp.sum(jnp.square(keys), -1).mean(), 1, atol=0.05)
    np.testing.assert_allclose(persistent_state(keys, 1).norm_sum, 64, atol=4)
    assert not np.array_equal(keys[0], keys[1])


@each_normalisation
def test_a_reset_restores_numerator_and_denominator(normalisation):
    q, k, persistent = inputs(np.float32)
    start = start_of(persistent, normalisation)
    _, used = in_chunks(q, k, start, normalisation, [])
    for part, fresh in zip(used, start, strict=True):
        assert not np.any(part == fresh)
    for ours, fresh, old in zip(compiled_reset(used, start, np.array([True, False])), start, used, strict=True):
        np.testing.assert_array_equal(ours[0], fresh[0])
        np.testing.assert_array_equal(ours[1], old[1])
    for boundary, expected in ((True, start), (False, used)):
        jax.tree.map(np.testing.assert_array_equal, compiled_reset(used, start, np.array(boundary)), expected)
    assert np.all(compiled_reset(used, start, np.array(True)).norm_sum > 0)


def in_shards(q, k, starts, normalisation, shard):
    """Outputs of shards in a row, each begun by a reset to its own start, and the state before the last reset."""
    parts, state = [], starts[0]
    for place, begin in enumerate(range(0, q.shape[2], shard)):
        state = reset(state, starts[place], jnp.array(begin % shard == 0))
        y, state = project_chunk(state, q[:, :, begin : begin + shard], k[:, :, begin : begin + shard], normalisation)
        parts.append(y)
    return jnp.concatenate(parts, axis=2)


@each_normalisation
def test_shards_equal_the_definition_that_forgets_at_each_boundary(normalisation):
    q, k, persistent = inputs()
    expected = naive_batch(q, k, persistent, normalisation, boundaries=(0, 3, 6))
    with jax.enable_x64(True):
        starts = [start_of(persistent, normalisation)] * 3
        y = jax.jit(in_shards, static_argnums=(3, 4))(q, k, starts, normalisation, 3)
        np.testing.assert_allclose(y, expected, rtol=0, atol=1e-10)


@each_normalisation
def test_no_gradient_of_the_carried_state_passes_a_reset(normalisation):
    q, k, persistent = map(jnp.asarray, inputs(np.float32))
    start = start_of(persistent, normalisation)

    @jax.jit
    @partial(jax.grad, argnums=(0, 1))
    def gradient(state, early, boundary):
        _, state = project_chunk(state, q[:, :, :4], early, normalisation)
        y, after = project_chunk(reset(state, start, boundary), q[:, :, 4:], k[:, :, 4:], normalisation)
        return jnp.sum(jnp.sin(y)) + jnp.sum(jnp.sin(after.m)) + jnp.sum(jnp.sin(after.norm_sum))

    early = np.asarray(k)[:, :, :4]
    for part in jax.tree.leaves(gradient(start, early, np.array(True))):
        np.testing.assert_array_equal(part, 0)
    for part in jax.tree.leaves(gradient(start, early, np.array(False))):
        assert np.any(part != 0)


@each_normalisation
def test_gradient_of_the_persistent_keys_is_the_sum_over_shards(normalisation):
    with jax.enable_x64(True):
        q, k, persistent = map(jnp.asarray, inputs())

        def loss(keys_of_shards):
            starts = [persistent_state(keys, BATCH, normalisation) for keys in keys_of_shards]
            return jnp.sum(jnp.sin(in_shards(q, k, starts, normalisation, 3)))

        shared = jax.jit(jax.grad(lambda keys: loss([keys] * 3)))(persistent)
        apart = jax.jit(jax.grad(loss))([persistent] * 3)
        assert all(np.any(np.abs(part) > 1e-3) for part in apart)
        np.testing.assert_allclose(shared, sum(apart), rtol=1e-10, atol=1e-12)


@each_normalisation
def test_gradients_equal_finite_differences(normalisation):
    arguments, step = [x.copy() for x in inputs()], 1e-6
    arguments[1][1, 2, 3] = 1.0  # per_key has no derivative at a zero key

    def loss(q, k, persistent):
        state = persistent_state(persistent, BATCH, normalisation)
        y, state = project_chunk(state, q[:, :, :5], k[:, :, :5], normalisation)
        z, state = project_chunk(state, q[:, :, 5:], k[:, :, 5:], normalisation)
        return jnp.sum(jnp.sin(y)) + jnp.sum(jnp.cos(z)) + jnp.sum(jnp.sin(state.norm_sum))

    with jax.enable_x64(True):
        run = jax.jit(loss)
        gradients = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(*arguments)
        for place in range(3):
            direction = drawn(*arguments[place].shape, seed=7)
            up, down = (
                run(*(x + sign * step * direction if i == place else x for i, x in enumerate(arguments)))
                for sign in (1, -1)
            )
            np.testing.assert_allclose(np.sum(gradients[place] * direction), (up - down) / (2 * step), rtol=1e-6)


@each_normalisation
def test_zero_keys_have_finite_gradients(normalisation):
    q, k, persistent = map(jnp.asarray, inputs(np.float32))

    def loss(k):
        y, state = project_chunk(persistent_state(persistent, BATCH, normalisation), q, k, normalisation)
        return jnp.sum(y) + jnp.sum(state.m)

    assert np.all(np.isfinite(jax.jit(jax.grad(loss))(jnp.zeros_like(k))))


@each_normalisation
def test_bfloat16_inputs_are_summed_in_float32(normalisation):
    q, k, persistent = inputs()
    expected = naive_batch(q, k, persistent, normalisation)
    state = start_of(persistent.astype(np.float32), normalisation)
    q, k = q.astype(jnp.bfloat16), k.astype(jnp.bfloat16)
    for y, after in (in_chunks(q, k, state, normalisation, [5]), in_steps(q, k, state, normalisation)):
        assert y.dtype == jnp.bfloat16
        assert after.m.dtype == after.norm_sum.dtype == np.float32
        np.testing.assert_allclose(y.astype(np.float32), expected, rtol=0, atol=0.02 * np.abs(expected).max())


def test_a_full_shard_shrinks_the_query_with_the_global_denominator_only():
    q = k = drawn(1, 1, 64, 16).astype(np.float32) / 4
    persistent = 1e-3 * init_persistent_keys(jax.random.key(0), 1, 16)
    sizes = {}
    for normalisation in NORMALISATIONS:
        state = jax.tree.map(lambda part: part[:1], start_of(persistent, normalisation))
        y, _ = compiled(project_chunk, normalisation)(state, q, k)
        sizes[normalisation] = np.linalg.norm(y[0, 0, -1]) / np.linalg.norm(q[0, 0, -1])
    assert sizes["norm_sum"] < 0.2
    assert sizes["per_key"] > 4


def test_wrong_arguments_are_refused_by_name():
    q = jnp.zeros((BATCH, HEADS, 4, WIDTH))
    keys = jnp.ones((HEADS, PERSISTENT, WIDTH))
    state = persistent_state(keys, BATCH)
    with pytest.raises(ValueError, match="normalisation is 'keys', expected one of norm_sum, per_key"):
        persistent_state(keys, BATCH, "keys")
    with pytest.raises(ValueError, match="normalisation is 'keys', expected one of norm_sum, per_key"):
        project_chunk(state, q, q, "keys")
    with pytest.raises(ValueError, match="keys holds 0 persistent keys, expected at least 1"):
        persistent_state(keys[:, :0], BATCH)
    with pytest.raises(ValueError, match=r"state\.m has shape \(2, 3, 5, 5\), expected \(1, 3, 5, 5\)"):
        project_chunk(state, q[:1], q[:1])
    with pytest.raises(ValueError, match=r"state\.m has shape \(2, 3, 5, 5\), expected \(2, 3, 4, 4\)"):
        project_chunk(state, q[..., :4], q[..., :4])
    with pytest.raises(ValueError, match=r"state\.norm_sum has shape \(3,\), expected \(2, 3\)"):
        project_chunk(ProjectionState(state.m, state.norm_sum[0]), q, q)
