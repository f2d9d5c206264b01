"""The short causal convolution against its float64 definition: outputs, streams, causality, gradients, dtypes, errors."""

from __future__ import annotations

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree

from atlas_jax.nn.convolution import init_past, short_convolution

BATCH, LENGTH, CHANNELS, WIDTH = 2, 13, 3, 4


def drawn(length=LENGTH, width=WIDTH, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(BATCH, length, CHANNELS)), rng.normal(size=(width, CHANNELS))


def definition(x, kernel, past=None):
    """Every product on its own, in float64."""
    y = np.zeros(x.shape)
    for b in range(x.shape[0]):
        for t in range(x.shape[1]):
            for j in range(len(kernel)):
                if t - j >= 0:
                    y[b, t] += kernel[j] * x[b, t - j]
                elif past is not None:
                    y[b, t] += kernel[j] * past[b, len(kernel) - 1 + t - j]
    return y


def on_device(tree, dtype=None):
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), tree)


def double(tree):
    return on_device(tree, jnp.float64)


@pytest.mark.parametrize(("length", "width"), [(13, 4), (1, 4), (3, 4), (4, 4), (7, 1), (5, 2), (2, 9)])
@pytest.mark.parametrize("started", [False, True])
def test_convolution_equals_its_definition(length, width, started):
    x, kernel = drawn(length, width)
    past = np.random.default_rng(1).normal(size=(BATCH, width - 1, CHANNELS)) if started else None
    with jax.enable_x64(True):
        y, last = short_convolution(*double((x, kernel, past)))
        np.testing.assert_allclose(y, definition(x, kernel, past), rtol=0, atol=1e-14)
    before = np.zeros((BATCH, width - 1, CHANNELS)) if past is None else past
    np.testing.assert_array_equal(last, np.concatenate([before, x], axis=1)[:, length:])


@given(parts=st.lists(st.sampled_from((1, 2, 3, 5)), min_size=1, max_size=13), started=st.booleans())
def test_any_split_equals_the_definition(parts, started):
    x, kernel = drawn()
    expected, done = definition(x, kernel), 0
    with jax.enable_x64(True):
        past = double(init_past(BATCH, WIDTH, CHANNELS)) if started else None
        for part in parts:
            now = slice(done, min(done + part, LENGTH))
            if now.start == now.stop:
                break
            y, past = jax.jit(short_convolution)(*double((x[:, now], kernel)), past)
            np.testing.assert_allclose(y, expected[:, now], rtol=0, atol=1e-14)
            done = now.stop


def test_steps_compile_once():
    x, kernel = on_device(drawn(), jnp.float32)
    traces = []

    @jax.jit
    def step(token, past):
        traces.append(1)
        return short_convolution(token, kernel, past)

    past, steps = init_past(BATCH, WIDTH, CHANNELS), []
    for t in range(LENGTH):
        y, past = step(x[:, t : t + 1], past)
        steps.append(y)
    np.testing.assert_allclose(np.concatenate(steps, axis=1), definition(*drawn()), rtol=0, atol=2e-6)
    assert len(traces) == 1


def test_a_token_reaches_itself_and_the_next_three():
    x, kernel = on_device(drawn(), jnp.float32)
    before, _ = jax.jit(short_convolution)(x, kernel)
    after, _ = jax.jit(short_convolution)(x.at[:, 5].add(1.0), kernel)
    moved = np.any(np.asarray(before) != np.asarray(after), axis=(0, 2))
    np.testing.assert_array_equal(moved, (np.arange(LENGTH) >= 5) & (np.arange(LENGTH) < 5 + WIDTH))


def test_gradients_equal_finite_differences():
    """Of every input, factor and carried input; the sum is linear in each, so that differences are exact to rounding."""
    x, kernel = drawn(5)
    rng = np.random.default_rng(2)
    past, weights = rng.normal(size=(BATCH, WIDTH - 1, CHANNELS)), rng.normal(size=x.shape)
    with jax.enable_x64(True):
        flat, restore = ravel_pytree(double((x, kernel, past)))

        def loss(flat):
            y, last = short_convolution(*restore(flat))
            return jnp.sum(jnp.asarray(weights) * y) + jnp.sum(last)

        differences = jax.jit(jax.vmap(lambda nudge: (loss(flat + nudge) - loss(flat - nudge)) / 2))(jnp.eye(len(flat)))
        np.testing.assert_allclose(jax.jit(jax.grad(loss))(flat), differences, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kernel_dtype", [jnp.bfloat16, jnp.float32])
def test_bfloat16_is_added_up_in_float32(kernel_dtype):
    """256 + 0.5 + 0.5 + 1 is 258; bfloat16 would drop each small term."""
    x = jnp.asarray([[[1.0], [0.5], [0.5], [256.0]]], jnp.bfloat16)
    convolve = jax.jit(short_convolution)
    y, last = convolve(x, jnp.ones((4, 1), kernel_dtype))
    assert (y.dtype, last.dtype) == (jnp.bfloat16, jnp.bfloat16)
    assert float(y[0, -1, 0]) == 258.0

    def loss(x):  # the gradient of the first token is a sum over the same four numbers
        y, _ = convolve(x, jnp.ones((4, 1), kernel_dtype))
        return jnp.sum(y[0, :, 0] * jnp.asarray([256.0, 0.5, 0.5, 1.0], jnp.bfloat16))

    assert float(jax.jit(jax.grad(loss))(x)[0, 0, 0]) == 258.0
    narrow, wide = on_device(drawn(), jnp.bfloat16), on_device(drawn(), kernel_dtype)
    y, _ = convolve(narrow[0], wide[1])
    expected = definition(np.asarray(narrow[0], np.float64), np.asarray(wide[1], np.float64))
    np.testing.assert_allclose(np.asarray(y, np.float64), expected, rtol=2**-8, atol=1e-6)  # one rounding of the result


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kernel": np.zeros(3)}, r"kernel is \(3,\), expected \[width, channels\] with a width of at least 1"),
        ({"x": np.zeros((5, 3))}, r"x is float32 \(5, 3\), expected \[batch, time, channels\]"),
        ({"kernel": np.zeros((0, 3))}, r"kernel is \(0, 3\), expected \[width, channels\] with a width of at least 1"),
        ({"kernel": np.zeros((4, 5))}, r"kernel is \(4, 5\), expected .* the 3 channels of x"),
        ({"past": np.zeros((2, 4, 3))}, r"past is float32 \(2, 4, 3\), expected float32 \(2, 3, 3\)"),
        ({"past": np.zeros((1, 3, 3))}, r"past is float32 \(1, 3, 3\), expected float32 \(2, 3, 3\)"),
        (
            {"x": np.zeros((2, 5, 3)), "dtype": jnp.bfloat16},
            r"past is float32 \(2, 3, 3\), expected bfloat16 \(2, 3, 3",
        ),
    ],
)
def test_wrong_input_is_refused_by_name(changes, message):
    x, kernel = drawn()
    arguments = {"x": x, "kernel": kernel, "past": np.zeros((2, 3, 3)), "dtype": jnp.float32} | changes
    with pytest.raises(ValueError, match=f"short_convolution: {message}"):
        inspect.unwrap(short_convolution)(  # the tests' own shape checks would speak first
            jnp.asarray(arguments["x"], arguments["dtype"]),
            *on_device((arguments["kernel"], arguments["past"]), jnp.float32),
        )


def test_the_derivative_keeps_the_inputs_once():
    """And not a copy for each factor."""
    x, kernel = on_device(drawn(), jnp.float32)
    _, backward = jax.vjp(lambda x, kernel: short_convolution(x, kernel)[0], x, kernel)
    kept = sum(leaf.size for leaf in jax.tree.leaves(backward))
    assert kept < 2 * x.size
