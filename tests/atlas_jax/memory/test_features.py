"""Polynomial features against the kernel that they factorise: count, gradients, and the exponential that they begin as."""

from __future__ import annotations

from itertools import permutations
from math import comb

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas_jax.memory.features import (
    feature_count,
    init_scales,
    monomials,
    multinomials,
    polynomial_features,
    polynomial_kernel,
)

features_of = jax.jit(polynomial_features)
each_degree = pytest.mark.parametrize("degree", [1, 2, 3])


def drawn(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def scales_of(degree):
    """All different, one of them negative."""
    return np.array([0.7, -1.3, 0.9, 0.4])[: degree + 1]


def naive_feature(x, row, scale):
    """The monomial of the variables in `row` by its definition; its weight counts the orders that make it."""
    orders = len(set(permutations(row)))
    return scale * np.sqrt(orders) * np.prod([x[variable] for variable in row])


def test_width_64_and_degree_2_make_2145_features():
    assert feature_count(64, 2) == 2145
    assert feature_count(768, 2) == 296_065
    assert feature_count(64, 1) == 65
    assert feature_count(64, 3) == 47_905


@each_degree
@pytest.mark.parametrize("width", [1, 2, 3, 4, 6, 7, 9, 64])
def test_every_monomial_occurs_once(width, degree):
    rows = np.sort(monomials(width, degree), axis=1)
    assert len({tuple(row) for row in rows}) == len(rows) == comb(width + degree - 1, degree)
    assert multinomials(width, degree).sum() == width**degree  # as for x = (1, .., 1)


@each_degree
@pytest.mark.parametrize("width", [1, 2, 3, 5, 6])
def test_features_are_the_weighted_monomials(width, degree):
    x, scales = drawn(width), scales_of(degree)
    rows = [()] + [tuple(row) for i in range(1, degree + 1) for row in monomials(width, i).tolist()]
    with jax.enable_x64(True):
        features = features_of(jnp.asarray(x), jnp.asarray(scales))
        expected = [naive_feature(x, row, scales[len(row)]) for row in rows]
        np.testing.assert_allclose(features, expected, rtol=1e-13)


@given(width=st.sampled_from([1, 2, 5, 6, 12]), degree=st.integers(1, 3), seed=st.integers(0, 1000))
def test_inner_product_of_features_is_the_kernel_of_the_score(width, degree, seed):
    q, k, scales = drawn(width, seed=seed), drawn(width, seed=seed + 1), scales_of(degree)
    with jax.enable_x64(True):
        left, right = (features_of(jnp.asarray(x), jnp.asarray(scales)) for x in (q, k))
        assert left.shape == (feature_count(width, degree),)
        expected = sum(scale**2 * (q @ k) ** i for i, scale in enumerate(scales))
        size = sum(scale**2 * (np.linalg.norm(q) * np.linalg.norm(k)) ** i for i, scale in enumerate(scales))
        np.testing.assert_allclose(left @ right, expected, rtol=0, atol=1e-14 * size)
        np.testing.assert_allclose(
            polynomial_kernel(jnp.asarray(q @ k), jnp.asarray(scales)), expected, rtol=0, atol=1e-14 * size
        )


@each_degree
def test_scores_of_a_chunk_take_the_kernel_in_place_of_the_features(degree):
    q, k = drawn(2, 3, 5, 64) / 8, drawn(2, 3, 7, 64, seed=1) / 8
    with jax.enable_x64(True):
        q, k, scales = jnp.asarray(q), jnp.asarray(k), init_scales(degree, jnp.float64)
        features = jnp.einsum("...tf,...sf->...ts", features_of(q, scales), features_of(k, scales))
        scores = jnp.einsum("...tk,...sk->...ts", q, k)
        np.testing.assert_allclose(polynomial_kernel(scores, scales), features, rtol=0, atol=1e-13)


@each_degree
@pytest.mark.parametrize(("dtype", "bound"), [(jnp.float32, 3e-6), (jnp.bfloat16, 0.03)])
def test_low_precision_stays_in_its_dtype_and_near(degree, dtype, bound):
    q, k = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (drawn(9, 16), drawn(9, 16, seed=1)))
    scales = init_scales(degree)
    left, right = (features_of(jnp.asarray(x, dtype), scales) for x in (q, k))
    assert left.dtype == dtype
    expected = sum(np.sum(q * k, -1) ** i / (1, 1, 2, 6)[i] for i in range(degree + 1))
    actual = np.sum(np.asarray(left, np.float64) * np.asarray(right, np.float64), -1)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=bound)
    kernel = polynomial_kernel(jnp.asarray(np.sum(q * k, -1), dtype), scales)
    assert kernel.dtype == dtype
    np.testing.assert_allclose(kernel.astype(np.float32), expected, rtol=0, atol=bound)


@each_degree
def test_scales_start_at_the_coefficients_of_the_exponential(degree):
    scales = init_scales(degree)
    assert scales.dtype == np.float32
    np.testing.assert_allclose(np.square(scales), [1, 1, 1 / 2, 1 / 6][: degree + 1], rtol=1e-6)


@each_degree
def test_coefficients_cannot_become_negative_and_the_sign_of_a_scale_means_nothing(degree):
    scores, scales = jnp.linspace(-1.0, 1.0, 9), jnp.asarray(scales_of(degree), jnp.float32)
    np.testing.assert_array_equal(polynomial_kernel(scores, -scales), polynomial_kernel(scores, scales))
    np.testing.assert_allclose(polynomial_kernel(jnp.zeros(1), scales), [0.7**2], rtol=1e-6)


def kernel_by_features(arguments):
    q, k, scales = arguments
    return jnp.sum(jnp.sin(polynomial_features(q, scales)) * polynomial_features(k, scales))


def test_gradients_equal_finite_differences():
    arguments, step = [drawn(2, 6), drawn(2, 6, seed=1), scales_of(3)], 1e-6
    with jax.enable_x64(True):
        loss = jax.jit(kernel_by_features)
        gradients = jax.jit(jax.grad(loss))([jnp.asarray(x) for x in arguments])
        for place, argument in enumerate(arguments):
            for i in range(argument.size):
                moved = step * (np.arange(argument.size) == i).reshape(argument.shape)
                up, down = (
                    loss([jnp.asarray(x + sign * moved if j == place else x) for j, x in enumerate(arguments)])
                    for sign in (1, -1)
                )
                np.testing.assert_allclose(gradients[place].ravel()[i], (up - down) / (2 * step), rtol=1e-6, atol=1e-7)


@each_degree
def test_gradients_of_features_and_of_the_kernel_agree(degree):
    q, k = drawn(4, 7), drawn(4, 7, seed=1)
    with jax.enable_x64(True):
        arguments = tuple(jnp.asarray(x) for x in (q, k, scales_of(degree)))
        by_features = jax.grad(
            lambda x: jnp.sum(jnp.sin(jnp.sum(polynomial_features(x[0], x[2]) * polynomial_features(x[1], x[2]), -1)))
        )
        by_kernel = jax.grad(lambda x: jnp.sum(jnp.sin(polynomial_kernel(jnp.sum(x[0] * x[1], -1), x[2]))))
        for ours, theirs in zip(jax.jit(by_features)(arguments), jax.jit(by_kernel)(arguments), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-11, atol=1e-11)


@each_degree
def test_gradients_are_finite_at_zero_vectors(degree):
    zeros = jnp.zeros((2, 5))
    arguments = (zeros, jnp.ones_like(zeros), init_scales(degree))
    for gradient in jax.tree.leaves(jax.jit(jax.grad(kernel_by_features))(arguments)):
        assert np.all(np.isfinite(gradient))
    at_zero = jax.jit(jax.jacobian(polynomial_features))(zeros[0], init_scales(degree))
    np.testing.assert_array_equal(at_zero[1:6], np.eye(5))  # of degree 1; all others are flat
    np.testing.assert_array_equal(np.delete(at_zero, np.s_[1:6], axis=0), 0)


@each_degree
def test_one_set_of_scales_a_head_by_vmap(degree):
    x = jnp.asarray(drawn(2, 3, 4), jnp.float32)
    scales = jnp.asarray(drawn(3, degree + 1, seed=1), jnp.float32)
    features = jax.jit(jax.vmap(polynomial_features, in_axes=(1, 0), out_axes=1))(x, scales)
    for head in range(3):
        np.testing.assert_allclose(features[:, head], features_of(x[:, head], scales[head]), rtol=1e-6)


@pytest.mark.parametrize(("degree", "bound"), [(1, 0.719), (2, 0.219), (3, 0.0516)])
def test_first_scales_are_the_exponential_up_to_the_documented_error(degree, bound):
    q, k = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (drawn(200, 4), drawn(200, 4, seed=1)))
    k[0] = q[0]  # where the error is largest
    with jax.enable_x64(True):
        scales = init_scales(degree, jnp.float64)
        left, right = (features_of(jnp.asarray(x), scales) for x in (q, k))
        errors = np.abs(np.exp(np.sum(q * k, -1)) - np.asarray(jnp.sum(left * right, -1)))
    np.testing.assert_allclose([errors.max(), errors[0]], bound, rtol=1e-2)


@pytest.mark.parametrize("degree", [-1, 0, 4])
def test_other_degrees_are_refused(degree):
    calls = [
        lambda: feature_count(4, degree),
        lambda: init_scales(degree),
        lambda: polynomial_features(jnp.ones(3), jnp.ones(degree + 1)),
        lambda: polynomial_kernel(jnp.ones(3), jnp.ones(degree + 1)),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=f"degree is {degree}, expected one of 1, 2, 3"):
            call()


def test_a_width_below_one_is_refused():
    for call in (lambda: feature_count(0, 2), lambda: polynomial_features(jnp.ones((3, 0)), jnp.ones(3))):
        with pytest.raises(ValueError, match="width is 0, expected at least 1"):
            call()
