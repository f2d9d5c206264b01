"""The parts of a Temporal Eigenstate layer: eigenvalues, the two paths through the hierarchy, gradients."""

from __future__ import annotations

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree

from spectral.eigenstate_layers import (
    HierarchicalTEN,
    LayerState,
    decimated,
    eigenvalue,
    fixed_terms,
    full_rate,
    head_scales,
    selective_terms,
    spread_modes,
)
from spectral.scans import Split

SCALES = (1, 2, 4, 8)
HEADS, MODES, WIDTH, BATCH = 4, 2, 3, 2


@given(
    st.floats(allow_nan=False, allow_infinity=False, width=32),
    st.floats(-1e3, 1e3, width=32),
)
def test_every_mode_decays(log_rate, frequency):
    """Whatever the parameters are, and in float32, with a gradient that is a number."""

    frequencies = jnp.asarray([np.float32(frequency)])
    rates = jnp.asarray([np.float32(log_rate)])
    found, gradient = jax.jvp(lambda rates: eigenvalue(rates, frequencies), (rates,), (jnp.ones((1,)),))
    (real, imaginary), power = jax.tree.map(np.asarray, found)
    assert np.hypot(real, imaginary) < 1
    assert 0 < power <= 1
    assert all(np.isfinite(part) for part in jax.tree.leaves(gradient))


def test_an_eigenvalue_is_its_formula_and_its_power_that_of_its_input():
    with jax.enable_x64(True):
        log_rate, frequency = jnp.log(jnp.asarray([0.5, 0.01])), jnp.asarray([1.0, -0.2])
        (real, imaginary), power = eigenvalue(log_rate, frequency)
    expected = np.exp(-np.array([0.5, 0.01]) + 1j * np.array([1.0, -0.2]))
    np.testing.assert_allclose(np.asarray(real) + 1j * np.asarray(imaginary), expected, rtol=1e-14)
    # Of a white input of unit power, |c|**2 sums to power**2 / (1 - |lambda|**2).
    np.testing.assert_allclose(np.asarray(power) ** 2 / (1 - np.abs(expected) ** 2), 1, rtol=1e-12)


@pytest.mark.parametrize(("heads", "scales"), [(4, (1, 2, 4, 8)), (8, (1, 2)), (4, (1,)), (2, (4, 16))])
def test_memories_start_from_a_block_and_spread_to_the_context(heads, scales):
    log_rate, frequency = spread_modes(heads, 4, scales, 128.0)
    memory = np.exp(-log_rate) * head_scales(heads, scales)[:, None]  # in tokens
    assert memory.min() == pytest.approx(scales[0])
    assert np.all(np.diff(memory.ravel()) >= -1e-9)
    assert 30 < memory.max() < 128
    assert np.all((frequency >= 0) & (frequency < 2 * np.pi))
    np.testing.assert_allclose(frequency[0, 1], np.pi / 2 / np.sqrt(np.exp(-log_rate[0, 1])))


def drawn(kind, length, seed=0, dtype=np.float64):
    """Terms, coupling, drive [b, t, h, p] and a start for the modes."""
    rng = np.random.default_rng(seed)
    log_rate, frequency, real, imaginary = rng.normal(size=(4, HEADS, MODES)).astype(dtype)
    parts = 2 * WIDTH + (MODES if kind == "selective" else 0)
    drive, start = rng.normal(size=(BATCH, length, HEADS, parts)), rng.normal(size=(BATCH, 2, HEADS, MODES, WIDTH))
    formula = selective_terms if kind == "selective" else fixed_terms

    def terms(heads, means):
        return formula(jnp.asarray(log_rate[heads] - 1), jnp.asarray(frequency[heads]), means)

    def coupling(heads, modes):
        r, i = (jnp.asarray(part[None, None, heads, :, None]) for part in (real, imaginary))
        read = Split(r * modes.real - i * modes.imaginary, r * modes.imaginary + i * modes.real)
        return Split(*(jnp.sum(part, axis=3) for part in read))

    return terms, coupling, drive.astype(dtype), start.astype(dtype)


def at_a_block_s_start(drive, start):
    return LayerState(start, jnp.zeros(drive.shape[:1] + drive.shape[2:], drive.dtype), jnp.zeros(BATCH, drive.dtype))


each_kind = pytest.mark.parametrize("kind", ["fixed", "selective"])


@each_kind
@pytest.mark.parametrize("length", [1, 3, 7, 8, 9, 21, 32])
def test_the_decimated_path_equals_the_full_rate(kind, length):
    terms, coupling, drive, start = drawn(kind, length)
    with jax.enable_x64(True):
        drive, start = jnp.asarray(drive), jnp.asarray(start)
        fast = jax.jit(lambda x, c: decimated(terms, coupling, x, SCALES, c))(drive, start)
        slow = jax.jit(lambda x, c: full_rate(terms, coupling, x, SCALES, at_a_block_s_start(x, c)))(drive, start)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=0, atol=1e-13), fast, slow)


@each_kind
def test_a_value_is_held_until_the_next_block_is_complete(kind):
    """Bitwise, in both paths: nothing of an unfinished block is seen, and nothing is seen late."""
    terms, coupling, drive, start = drawn(kind, 24, dtype=np.float32)
    fast, _ = jax.jit(lambda x, c: decimated(terms, coupling, x, SCALES, c))(drive, start)
    slow, _ = jax.jit(lambda x, state: full_rate(terms, coupling, x, SCALES, state))(
        drive, at_a_block_s_start(drive, start)
    )
    for read in (*fast, *slow):
        moves = np.any(np.diff(np.asarray(read), axis=1) != 0, axis=(0, 3))
        expected = [[(t + 1) % scale == 0 for scale in SCALES] for t in range(1, 24)]
        np.testing.assert_array_equal(moves, expected)


PARTS = (1, 5, 8)  # lengths of a split's pieces: few, as each compiles a program


@cache
def whole_and_run(kind):
    """The full-rate path, jitted once, and what it says of 24 tokens."""
    terms, coupling, drive, start = drawn(kind, 24)
    run = jax.jit(lambda x, state: full_rate(terms, coupling, x, SCALES, state))
    with jax.enable_x64(True):
        state = at_a_block_s_start(drive, jnp.asarray(start))
        return run, drive, state, run(jnp.asarray(drive), state)[0]


@each_kind
@given(parts=st.lists(st.sampled_from(PARTS), min_size=1, max_size=8))
def test_the_full_rate_path_over_any_split_is_the_whole(kind, parts):
    run, drive, state, whole = whole_and_run(kind)
    done = 0
    for part in parts:
        if done + part > drive.shape[1]:
            break
        with jax.enable_x64(True):
            read, state = run(jnp.asarray(drive[:, done : done + part]), state)
        for found, expected in zip(read, whole, strict=True):
            np.testing.assert_allclose(found, expected[:, done : done + part], rtol=0, atol=1e-13)
        done += part
    np.testing.assert_array_equal(state.phase, done % 8)


@pytest.mark.parametrize(("selective", "started"), [(False, False), (True, False), (False, True), (True, True)])
def test_gradients_of_a_mixer_equal_finite_differences(selective, started):
    """Of every parameter, of the input, and of what a state remembers (its phase is a count)."""
    mixer = HierarchicalTEN(2, 2, (1, 2), 8.0, selective)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 5, 4))
    params = jax.tree.map(np.asarray, mixer.init(jax.random.key(0), jnp.zeros((1, 1, 4)), None))
    params = jax.tree.map(lambda p: p + 0.1 * rng.normal(size=p.shape), params)
    shapes = ((2, 2, 2, 2, 1), (2, 2, 4 if selective else 2))
    remembered = tuple(rng.normal(size=shape) for shape in shapes) if started else ()
    weights = rng.normal(size=x.shape)
    with jax.enable_x64(True):
        # Both rows stand in the middle of a block of scale 2; the head of scale 1 has no unfinished block, its sum is 0.
        if started:
            remembered[1][:, 0] = 0
        flat, restore = ravel_pytree(jax.tree.map(jnp.asarray, (params, x, remembered)))

        def loss(flat):
            params, x, remembered = restore(flat)
            state = LayerState(*remembered, jnp.ones((2,))) if remembered else None
            y, after = mixer.apply(params, x, state)
            return jnp.sum(jnp.asarray(weights) * y) + jnp.sum(jnp.sin(after.modes)) + jnp.sum(jnp.sin(after.partial))

        h = 1e-5
        both = jax.jit(jax.vmap(lambda nudge: (loss(flat + nudge) - loss(flat - nudge)) / (2 * h)))
        differences, gradient = both(h * jnp.eye(len(flat))), jax.jit(jax.grad(loss))(flat)
    np.testing.assert_allclose(gradient, differences, rtol=1e-5, atol=1e-7)
    assert np.count_nonzero(gradient) == len(flat)
