"""bfloat16 inputs: matmuls take them, sums, states and transforms are float32; compared with float32 on the same numbers."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spectral.convolution import Modes, causal_convolution, filter_convolution
from spectral.convolution.causal import ALGORITHMS
from spectral.convolution.filters import ALGORITHMS as FILTER_ALGORITHMS
from spectral.layers import coefficients, octave_modes

LENGTH, CHUNK = 100, 16
BOUND = (
    0.01  # of the largest value; bfloat16 rounds to 0.004, and measured are 0.006 for outputs and 0.004 for gradients
)


def drawn(shape, seed):
    """The same numbers in both precisions."""
    coarse = jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.bfloat16)
    return coarse, coarse.astype(jnp.float32)


def modes():
    log_rate, frequency = octave_modes(2, 4, 64.0)
    return Modes(*(jnp.asarray(part, jnp.float32) for part in (log_rate, frequency, *coefficients(log_rate))))


def passes(function, x, *parameters):
    """Outputs and gradients of their sum of squares."""

    def loss(x, *parameters):
        y = function(x, *parameters)
        return sum(jnp.sum(jnp.square(part.astype(jnp.float32))) for part in jax.tree.leaves(y)), y

    (_, y), gradient = jax.jit(jax.value_and_grad(loss, tuple(range(1 + len(parameters))), has_aux=True))(
        x, *parameters
    )
    return y, gradient


def assert_near(coarse, fine):
    for ours, expected in zip(jax.tree.leaves(coarse), jax.tree.leaves(fine), strict=True):
        exact = np.asarray(expected)
        np.testing.assert_allclose(np.asarray(ours, np.float32), exact, rtol=0, atol=BOUND * np.abs(exact).max())


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_bfloat16_is_near_float32(algorithm):
    run = partial(causal_convolution, chunk=CHUNK, algorithm=algorithm)
    coarse, fine = drawn((2, LENGTH, 2, 3), 0)
    state = jnp.ones((2, 2, 8, 3))
    (y, last), gradient = passes(run, coarse, modes(), state)
    assert y.dtype == gradient[0].dtype == jnp.bfloat16
    assert {part.dtype for part in (last, *gradient[1], gradient[2])} == {jnp.dtype("float32")}
    expected = passes(partial(causal_convolution, chunk=CHUNK, algorithm="toeplitz"), fine, modes(), state)
    assert_near(((y, last), gradient), expected)


@pytest.mark.parametrize("algorithm", FILTER_ALGORITHMS)
def test_bfloat16_filters_are_near_float32(algorithm):
    coarse, fine = drawn((2, LENGTH, 2, 3), 0)
    _, taps = drawn((2, LENGTH), 1)
    y, gradient = passes(partial(filter_convolution, algorithm=algorithm), coarse, taps)
    assert y.dtype == gradient[0].dtype == jnp.bfloat16
    assert gradient[1].dtype == jnp.float32
    assert_near((y, gradient), passes(partial(filter_convolution, algorithm="toeplitz"), fine, taps))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_long_sum_of_small_numbers_is_not_swallowed(algorithm):
    """1 + 2**-9 is 1 in bfloat16, so that a state or sum in it would stop growing at 256 times its step."""
    constant = Modes(*(jnp.asarray([[part]], jnp.float32) for part in (-20.0, 0.0, 1.0, 0.0)))  # remembers everything
    x = jnp.full((1, 1_200, 1, 1), 2.0**-4, jnp.bfloat16)
    y, state = jax.jit(partial(causal_convolution, chunk=400, algorithm=algorithm))(x, constant)
    assert float(state[0, 0, 0, 0]) == pytest.approx(1_200 * 2.0**-4, rel=1e-4)
    assert float(y[0, -1, 0, 0]) == pytest.approx(1_200 * 2.0**-4, rel=2.0**-7)
