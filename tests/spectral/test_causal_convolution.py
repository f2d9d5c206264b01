"""The chunked convolution against its float64 definition, its gradients, and the decay of its kernels."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree

from spectral import convolution, reference
from spectral.convolution import Modes, causal_convolution
from spectral.layers import coefficients, octave_modes


def drawn_modes(heads, modes, seed=0):
    rng = np.random.default_rng(seed)
    parts = rng.normal(size=(4, heads, modes))
    return Modes(parts[0] - 1.5, np.pi * parts[1], parts[2], parts[3])


def drawn_input(length, heads, seed=1):
    return np.random.default_rng(seed).normal(size=(2, length, heads, 3))


def on_device(tree):
    return jax.tree.map(jnp.asarray, tree)


@pytest.mark.parametrize(
    ("length", "chunk"), [(1, 8), (5, 8), (8, 8), (9, 8), (16, 8), (29, 8), (6, 1), (24, 24), (30, 128)]
)
def test_convolution_equals_its_definition(length, chunk):
    modes, x = drawn_modes(2, 3), drawn_input(length, 2)
    expected = reference.causal_convolution(x, modes)
    with jax.enable_x64(True):
        y, _ = causal_convolution(jnp.asarray(x), on_device(modes), chunk=chunk)
        np.testing.assert_allclose(y, expected, rtol=0, atol=1e-12 * np.abs(expected).max())
    single = jax.tree.map(lambda part: jnp.asarray(part, jnp.float32), (x, modes))
    y, _ = causal_convolution(*single, chunk=chunk)
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-5 * np.abs(expected).max())  # measured 3e-7


@pytest.mark.parametrize(("first", "second"), [(3, 13), (8, 8), (13, 3), (1, 1)])
def test_a_state_carries_the_whole_past(first, second):
    modes, x = drawn_modes(2, 3), drawn_input(first + second, 2)
    expected = reference.causal_convolution(x, modes)[:, first:]
    with jax.enable_x64(True):
        inputs = jnp.asarray(x)
        _, state = causal_convolution(inputs[:, :first], on_device(modes), chunk=8)
        y, _ = causal_convolution(inputs[:, first:], on_device(modes), state, chunk=8)
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-12 * np.abs(expected).max())


def test_kernel_equals_its_definition():
    modes = drawn_modes(3, 4)
    with jax.enable_x64(True):
        taps = convolution.kernel(on_device(modes), 40)
    np.testing.assert_allclose(taps, reference.kernel(modes, 40), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("length", "chunk", "started"), [(6, 8, False), (11, 4, False), (11, 4, True)])
def test_gradients_equal_finite_differences(length, chunk, started):
    """Of every entry of every mode parameter, of the inputs, and of the state where there is one."""
    modes, x = drawn_modes(2, 3), drawn_input(length, 2)
    state = np.random.default_rng(2).normal(size=(2, 2, 6, 3)) if started else None
    weights = np.random.default_rng(3).normal(size=x.shape)
    with jax.enable_x64(True):
        flat, restore = ravel_pytree(on_device((x, modes, state)))

        def loss(flat):
            x, modes, state = restore(flat)
            y, last = causal_convolution(x, modes, state, chunk=chunk)
            return jnp.sum(jnp.asarray(weights) * y) + jnp.sum(jnp.sin(last))

        h = 1e-5
        nudges = h * jnp.eye(len(flat))
        both = jax.jit(jax.vmap(lambda nudge: (loss(flat + nudge) - loss(flat - nudge)) / (2 * h)))
        differences, gradient = both(nudges), jax.jit(jax.grad(loss))(flat)
    np.testing.assert_allclose(gradient, differences, rtol=1e-6, atol=1e-7)
    assert np.count_nonzero(gradient) == len(flat)


@given(
    # Below -16 a float32 decay rounds to 1, a memory without end; above 80 the rate itself overflows.
    st.floats(-16, 80, width=32),
    st.floats(-1e3, 1e3, width=32),
)
def test_every_mode_decays(log_rate, frequency):
    one = np.ones((1, 1), np.float32)
    modes = Modes(*(jnp.asarray(one * part) for part in (np.float32(log_rate), np.float32(frequency), 1, 0)))
    real, imaginary = convolution.powers(modes, jnp.arange(65, dtype=jnp.float32))
    size = np.hypot(real, imaginary)[0, 0]
    assert size[0] == pytest.approx(1, abs=1e-6)
    assert np.all(np.abs(size[1:]) < 1)
    assert np.all(np.diff(size) <= 2e-7)
    assert np.all(np.isfinite(convolution.kernel(modes, 65)))


@pytest.mark.parametrize(("heads", "modes", "longest"), [(4, 4, 128.0), (8, 4, 128.0), (8, 16, 131072.0), (1, 1, 9.0)])
def test_heads_start_as_octave_like_bands(heads, modes, longest):
    log_rate, frequency = octave_modes(heads, modes, longest)
    memory = np.exp(-log_rate)
    assert memory.shape == frequency.shape == (heads, modes)
    assert np.all(np.diff(memory.ravel()) > 0)  # head after head, no gap and no overlap
    assert memory[0, 0] == pytest.approx(1)
    assert memory.max() < longest
    np.testing.assert_allclose(memory[:, 0], longest ** (np.arange(heads) / heads))
    assert np.all(frequency[:, ::2] == 0)
    assert np.all(frequency[:, 1::2] > 0)
    assert np.all(frequency < np.pi)


def test_modes_start_with_equal_output_power():
    log_rate, _ = octave_modes(4, 6, 128.0)
    real, imaginary = coefficients(log_rate)
    decay = np.exp(-np.exp(log_rate))
    energy = (real**2 + imaginary**2) / (1 - decay**2)  # of |c lambda**t| summed over all t
    np.testing.assert_allclose(energy, 1 / 6)
    np.testing.assert_allclose(np.arctan2(imaginary, real)[0], np.pi * np.arange(6) / 6, atol=1e-12)


def test_toeplitz_gradient_is_no_scatter():
    """A scatter is slow on every backend; the tiling exists to avoid it."""
    program = jax.make_jaxpr(jax.grad(lambda taps: jnp.sum(jnp.sin(convolution.toeplitz(taps)))))(jnp.ones((2, 5)))
    assert "scatter" not in str(program)
    expected = [[1.0, 2.0, 3.0], [0.0, 1.0, 2.0], [0.0, 0.0, 1.0]]
    np.testing.assert_array_equal(convolution.toeplitz(jnp.asarray([[1.0, 2.0, 3.0]]))[0], expected)
