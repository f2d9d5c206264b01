"""Every algorithm of the causal convolution against its float64 definition, its gradients, and the decay of its kernels."""

from __future__ import annotations

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree

from spectral import convolution, reference
from spectral.convolution import Modes, causal_convolution
from spectral.convolution.causal import ALGORITHMS
from spectral.layers import coefficients, octave_modes

each_algorithm = pytest.mark.parametrize("algorithm", ALGORITHMS)


def drawn_modes(heads, modes, seed=0):
    rng = np.random.default_rng(seed)
    parts = rng.normal(size=(4, heads, modes))
    return Modes(parts[0] - 1.5, np.pi * parts[1], parts[2], parts[3])


def drawn_input(length, heads, seed=1):
    return np.random.default_rng(seed).normal(size=(2, length, heads, 3))


def drawn_state(seed=2):
    return np.random.default_rng(seed).normal(size=(2, 2, 6, 3))


def on_device(tree):
    return jax.tree.map(jnp.asarray, tree)


@cache
def compiled(algorithm, chunk):
    return jax.jit(partial(causal_convolution, algorithm=algorithm, chunk=chunk))


def assert_close(actual, expected, bound):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=bound * np.abs(expected).max())


@each_algorithm
@pytest.mark.parametrize(("length", "chunk"), [(1, 8), (6, 1), (29, 8)])
def test_convolution_equals_its_definition(algorithm, length, chunk):
    modes, x = drawn_modes(2, 3), drawn_input(length, 2)
    expected, after = reference.causal_convolution(x, modes), reference.last_state(x, modes)
    with jax.enable_x64(True):
        y, state = compiled(algorithm, chunk)(*on_device((x, modes)))
        assert y.dtype == state.dtype == np.float64
        assert_close(y, expected, 1e-12)
        assert_close(state, after, 1e-12)


@each_algorithm
def test_convolution_equals_its_definition_in_float32(algorithm):
    modes, x = drawn_modes(2, 3), drawn_input(29, 2)
    y, state = compiled(algorithm, 8)(*jax.tree.map(lambda part: jnp.asarray(part, jnp.float32), (x, modes)))
    assert y.dtype == state.dtype == np.float32
    assert_close(y, reference.causal_convolution(x, modes), 1e-5)  # measured 3e-7
    assert_close(state, reference.last_state(x, modes), 1e-5)


@pytest.mark.parametrize(("length", "chunk"), [(8, None), (8, 8), (150, None), (29, 8)])
def test_the_default_choice_equals_the_definition(length, chunk):
    modes, x = drawn_modes(2, 3), drawn_input(length, 2)
    with jax.enable_x64(True):
        y, state = compiled(None, chunk)(*on_device((x, modes)))
        assert_close(y, reference.causal_convolution(x, modes), 1e-12)
        assert_close(state, reference.last_state(x, modes), 1e-12)


@given(
    parts=st.lists(
        # Few lengths, as each compiles a program; 13 is three chunks and a remainder.
        st.tuples(st.sampled_from((1, 4, 13)), st.sampled_from(ALGORITHMS)),
        min_size=1,
        max_size=6,
    )
)
def test_a_state_carries_the_whole_past_between_any_algorithms(parts):
    length = sum(part for part, _ in parts)
    modes, x = drawn_modes(2, 3), drawn_input(length, 2)
    start, done = drawn_state(), 0
    with jax.enable_x64(True):
        state, outputs = jnp.asarray(start), []
        for part, algorithm in parts:
            y, state = compiled(algorithm, 4)(*on_device((x[:, done : done + part], modes)), state)
            outputs.append(np.asarray(y))
            done += part
        assert_close(np.concatenate(outputs, axis=1), reference.causal_convolution(x, modes, start), 1e-12)
        assert_close(state, reference.last_state(x, modes, start), 1e-12)


def test_kernel_equals_its_definition():
    modes = drawn_modes(3, 4)
    with jax.enable_x64(True):
        taps = convolution.kernel(on_device(modes), 40)
    np.testing.assert_allclose(taps, reference.kernel(modes, 40), rtol=0, atol=1e-12)


WEIGHTS = np.random.default_rng(3).normal(size=(2, 19, 2, 3))


def gradient_inputs(started):
    """19 tokens: four chunks of 4 and a remainder."""
    return drawn_input(19, 2), drawn_modes(2, 3), drawn_state() if started else None


@cache
def gradient(algorithm, started):
    """With respect to every entry of the inputs, the mode parameters and the state, of a loss on outputs and last state."""

    def loss(flat):
        y, last = causal_convolution(*restore(flat), chunk=4, algorithm=algorithm)
        return jnp.sum(jnp.asarray(WEIGHTS) * y) + jnp.sum(jnp.sin(last))

    with jax.enable_x64(True):
        flat, restore = ravel_pytree(on_device(gradient_inputs(started)))
        return np.asarray(jax.jit(jax.grad(loss))(flat))


@cache
def finite_differences(started):
    """The same of the float64 definition."""
    with jax.enable_x64(True):
        flat, restore = ravel_pytree(on_device(gradient_inputs(started)))
        flat = np.asarray(flat)

        def loss(flat):
            x, modes, state = jax.tree.map(np.asarray, restore(jnp.asarray(flat)))
            y, last = reference.causal_convolution(x, modes, state), reference.last_state(x, modes, state)
            return np.sum(WEIGHTS * y) + np.sum(np.sin(last))

        nudges = 1e-5 * np.eye(len(flat))
        return np.array([(loss(flat + nudge) - loss(flat - nudge)) / 2e-5 for nudge in nudges])


@pytest.mark.parametrize(
    ("algorithm", "started"), [*((name, True) for name in ALGORITHMS), ("toeplitz", False), ("chunked", False)]
)
def test_gradients_equal_finite_differences_and_one_another(algorithm, started):
    ours = gradient(algorithm, started)
    np.testing.assert_allclose(ours, finite_differences(started), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(ours, gradient("toeplitz", started), rtol=1e-11, atol=1e-11 * np.abs(ours).max())
    assert np.count_nonzero(ours) == ours.size


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
