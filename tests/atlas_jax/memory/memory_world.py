"""Small memories and tokens for them, float64."""

import jax
import jax.numpy as jnp

from atlas_jax.memory.features import feature_count, init_scales
from atlas_jax.memory.networks import NETWORKS
from atlas_jax.memory.projection import init_persistent_keys
from atlas_jax.memory.sequence import Beginning
from atlas_jax.memory.tokens import Gates, Tokens

WIDTH, HIDDEN, LENGTH = 4, 6, 24


def random_tokens(*, batch=1, heads=1, length=LENGTH, seed=0, width=WIDTH):
    """Unit keys and queries, normal values, gates well inside their ranges."""
    keys = jax.random.split(jax.random.key(seed), 7)
    shape = (batch, heads, length)

    def unit(key):
        x = jax.random.normal(key, (*shape, width))
        return x / jnp.linalg.norm(x, axis=-1, keepdims=True)

    gates = Gates(
        jnp.log1p(-0.1 * jax.random.uniform(keys[0], shape)),
        jnp.log(0.9 * jax.random.uniform(keys[1], shape) + 0.05),
        0.05 * jax.random.uniform(keys[2], shape),
        jax.random.uniform(keys[3], shape),
    )
    return Tokens(unit(keys[4]), unit(keys[5]), jax.random.normal(keys[6], (*shape, width)), gates)


def random_beginning(network, *, heads=1, seed=1, degree=None, persistent=0, width=WIDTH):
    """Fresh weights of every head, with scales for a degree and so many persistent keys."""
    weights, scales, keys = jax.random.split(jax.random.key(seed), 3)
    read = width if degree is None else feature_count(width, degree)
    return Beginning(
        jax.vmap(lambda key: NETWORKS[network].init(key, read, width, HIDDEN))(jax.random.split(weights, heads)),
        None
        if degree is None
        else init_scales(degree, jnp.float64)[None] * (1 + 0.1 * jax.random.normal(scales, (heads, degree + 1))),
        init_persistent_keys(keys, heads, width, persistent) if persistent else None,
    )


def one(tree):
    """The only head of the only sequence."""
    return jax.tree.map(lambda x: x[0, 0], tree)
