"""Unit lower triangular systems against float64 LU, their derivatives in both directions, and that no LAPACK call is left."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import compiled
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from atlas_jax.memory.unit_triangular import solve


def drawn(length, columns=3, seed=0, scale=1.0):
    """A system like those of a memory: products of unit keys, and columns to solve for."""
    rng = np.random.default_rng(seed)
    keys = rng.normal(size=(length, 8))
    keys /= np.linalg.norm(keys, axis=-1, keepdims=True)
    return scale * keys @ keys.T, rng.normal(size=(length, columns))


def by_lu(matrix, right):
    return np.linalg.solve(np.eye(len(matrix)) + np.tril(matrix, -1), right)


@settings(max_examples=12, deadline=None)
@given(length=st.sampled_from((1, 2, 3, 4, 7, 16, 33)), scale=st.floats(0.1, 2.0), seed=st.integers(0, 9))
def test_solves_in_float64(length, scale, seed):
    matrix, right = drawn(length, seed=seed, scale=scale)
    with jax.enable_x64(True):
        found = compiled(solve)(jnp.asarray(matrix), jnp.asarray(right))
    np.testing.assert_allclose(found, by_lu(matrix, right), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("length", [64, 128])
def test_float32_is_nearly_as_near_as_lapack(length):
    """Measured: .9 times its error at 64 tokens, 1.6 times at 128."""
    matrix, right = drawn(length)
    matrix32, right32 = jnp.asarray(matrix, jnp.float32), jnp.asarray(right, jnp.float32)
    exact = by_lu(np.asarray(matrix32, np.float64), np.asarray(right32, np.float64))
    by_lapack = jax.lax.linalg.triangular_solve(matrix32, right32, left_side=True, lower=True, unit_diagonal=True)
    ours = np.linalg.norm(compiled(solve)(matrix32, right32) - exact)
    assert ours <= 2 * np.linalg.norm(by_lapack - exact)


def test_what_is_not_below_the_diagonal_is_not_looked_at():
    matrix, right = drawn(13)
    other = np.tril(matrix, -1) + np.triu(np.full_like(matrix, 1e6))
    chex.assert_trees_all_equal(
        solve(jnp.asarray(matrix), jnp.asarray(right)), solve(jnp.asarray(other), jnp.asarray(right))
    )


def test_derivatives_in_both_directions():
    matrix, right = drawn(11)
    with jax.enable_x64(True):
        check_grads(jax.jit(solve), (jnp.asarray(matrix), jnp.asarray(right)), order=2, modes=("fwd", "rev"), eps=1e-5)


def test_no_part_of_a_step_is_left_to_lapack():
    matrix, right = (jnp.broadcast_to(jnp.asarray(x, jnp.float32), (4, *x.shape)) for x in drawn(16))
    step = jax.jit(jax.value_and_grad(lambda matrix, right: jax.vmap(solve)(matrix, right).sum(), argnums=(0, 1)))
    assert 'custom_call_target="lapack' not in step.lower(matrix, right).compile().as_text()
