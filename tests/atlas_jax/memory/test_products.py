"""Products and their derivatives against plain ones, and what bfloat16 factors cost a memory."""

from __future__ import annotations

from dataclasses import replace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import compiled

from atlas_jax.memory.dual import Descent
from atlas_jax.memory.networks import MLP
from atlas_jax.memory.one_step import OneStep
from atlas_jax.memory.products import matmul, matmul_nt, matmul_tn
from atlas_jax.memory.sequence import Beginning, MemoryConfig, run
from atlas_jax.memory.tokens import Gates, Tokens

RNG = np.random.default_rng(0)
PLAIN = {
    "nn": (matmul, lambda x, y: x @ y, (5, 3), (3, 7)),
    "nn tall": (matmul, lambda x, y: x @ y, (5, 7), (7, 2)),
    "nt": (matmul_nt, lambda x, y: x @ y.T, (5, 3), (6, 3)),
    "tn": (matmul_tn, lambda x, y: x.T @ y, (5, 3), (5, 7)),
    "tn tall": (matmul_tn, lambda x, y: x.T @ y, (5, 7), (5, 2)),
}


@pytest.mark.parametrize("name", PLAIN)
def test_products_and_their_first_two_derivatives_are_the_plain_ones(name):
    ours, plain, left, right = PLAIN[name]
    with jax.enable_x64(True):
        x, y = (jnp.asarray(RNG.normal(size=(4, *shape))) for shape in (left, right))
        weights = jnp.asarray(RNG.normal(size=plain(x[0], y[0]).shape))

        def slopes(product):
            def value(x, y):
                return jnp.sum(jnp.sin(product(x, y)) * weights)

            def squared(x, y):
                return sum(jnp.sum(g**2) for g in jax.grad(value, argnums=(0, 1))(x, y))

            return compiled(jax.vmap(lambda x, y: (product(x, y), jax.grad(squared, argnums=(0, 1))(x, y))))(x, y)

        chex.assert_trees_all_close(slopes(ours), slopes(plain), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", PLAIN)
def test_factors_are_rounded_and_sums_are_not(name):
    """bfloat16 knows 1 + 2^-7, not 1 + 2^-9, and cannot count to 300."""
    product, _, _, _ = PLAIN[name]
    for value, rounded in ((1 + 2**-7, 1 + 2**-7), (1 + 2**-9, 1.0)):
        x = jnp.full((300, 300), value, jnp.float32)
        said, back = jax.vjp(lambda x: product(x, jnp.ones_like(x), "bfloat16"), x)
        assert said.dtype == jnp.float32
        np.testing.assert_array_equal(said, 300 * rounded)
        np.testing.assert_array_equal(back(x)[0], 300 * rounded)


def drawn(batch=2, heads=2, length=48, width=16, hidden=32):
    def unit(x):
        return x / jnp.linalg.norm(x, axis=-1, keepdims=True)

    keys = iter(jax.random.split(jax.random.key(0), 8))
    query, key, value = (jax.random.normal(next(keys), (batch, heads, length, width)) for _ in range(3))
    forget, momentum, rate = (jax.random.uniform(next(keys), (batch, heads, length)) for _ in range(3))
    gates = Gates(-0.1 * forget, -momentum, 0.1 * rate, jnp.ones_like(rate))
    weights = jax.vmap(lambda key: MLP.init(key, width, width, hidden))(jax.random.split(next(keys), heads))
    return Beginning(weights), Tokens(unit(query), unit(key), value, gates)


@pytest.mark.parametrize("rule", [Descent(MLP), Descent(MLP, 3), OneStep.atlas(MLP), OneStep.lact(MLP)])
def test_bfloat16_factors_change_a_memory_little(rule):
    """Measured: .001 to .013 of the outputs' norm, .004 to .016 of the gradients'."""

    def value_and_slopes(rule):
        def value(beginning, tokens):
            said, _ = run(MemoryConfig(rule, 16), beginning, tokens)
            return jnp.mean(said**2), said

        return compiled(jax.value_and_grad(value, argnums=(0, 1), has_aux=True))(*drawn())

    (_, exact), slopes = value_and_slopes(rule)
    (_, rounded), rounded_slopes = value_and_slopes(replace(rule, dtype="bfloat16"))
    assert rounded.dtype == jnp.float32

    def distance(x, y):
        return float(jnp.linalg.norm(x - y) / jnp.linalg.norm(y))

    def flat(tree):
        return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(tree)])

    assert 1e-4 < distance(rounded, exact) < 0.03
    assert 1e-4 < distance(flat(rounded_slopes), flat(slopes)) < 0.05
