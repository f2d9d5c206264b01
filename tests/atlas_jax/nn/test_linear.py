"""The linear map and its hand-written gradient against JAX's own."""

import chex
import jax
import jax.numpy as jnp
import pytest

from atlas_jax.nn import linear


@pytest.fixture
def inputs(key):
    keys = jax.random.split(key, 3)
    return (
        jax.random.normal(keys[0], (2, 5, 3)),
        jax.random.normal(keys[1], (3, 7)),
        jax.random.normal(keys[2], (2, 5, 7)),
    )


def test_value_and_gradients_equal_the_plain_product(inputs):
    x, weight, cotangent = inputs
    value, pull = jax.vjp(linear, x, weight)
    expected, expected_pull = jax.vjp(jnp.matmul, x, weight)
    chex.assert_trees_all_close(value, expected)
    chex.assert_trees_all_close(pull(cotangent), expected_pull(cotangent), rtol=1e-6)


def test_gradients_under_vmap_and_a_second_derivative(inputs):
    x, weight, _ = inputs

    def loss(product):
        return lambda w: jnp.sum(jnp.tanh(product(x, w)) ** 2)

    stacked = jnp.stack([weight, 2.0 * weight])
    batched = jax.jit(jax.vmap(jax.grad(loss(linear))))(stacked)
    chex.assert_trees_all_close(batched, jax.vmap(jax.grad(loss(jnp.matmul)))(stacked), rtol=1e-5)

    def curvature(product):
        return jax.grad(lambda w: jnp.sum(jax.grad(loss(product))(w) ** 2))(weight)

    chex.assert_trees_all_close(curvature(linear), curvature(jnp.matmul), rtol=1e-4)
