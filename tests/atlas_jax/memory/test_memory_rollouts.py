"""10,000 tokens of the worst kinds through every rule, float32: all stays finite, and the weights within their limit."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import compiled
from memory_world import RULES, random_beginning, random_tokens

from atlas_jax.memory.dual import Descent
from atlas_jax.memory.networks import LIMIT, MLP
from atlas_jax.memory.sequence import MemoryConfig, run
from atlas_jax.memory.tokens import Gates

LENGTH, CHUNK = 10_000, 16
KINDS = ("usual", "huge values", "zeros", "one key", "a key and its opposite", "one key and huge values")
each_rule = pytest.mark.parametrize("rule", RULES.values(), ids=RULES)


def hostile(length=LENGTH):
    """Tokens of a head for each kind: as gates start out in a layer, and without forgetting, at a rate far beyond stability."""
    heads = len(KINDS)
    tokens = random_tokens(heads=heads, length=length)
    key, value = np.array(tokens.key), np.array(tokens.value)
    key[:, 2], value[:, 2] = 0, 0
    key[:, 3:] = key[:, 3:, :1]
    key[:, 4, ::2] *= -1
    value[:, [1, 5]] *= 1e4
    query = np.where(np.arange(heads)[None, :, None, None] == 2, 0, np.asarray(tokens.query))

    def gates(log_keep, log_momentum, rate, strength):
        return Gates(*(jnp.full(key.shape[:-1], x) for x in (log_keep, log_momentum, rate, strength)))

    two = (gates(np.log1p(-1 / 55), np.log(0.5), 0.05, 0.88), gates(0.0, 0.0, 2.0, 1.0))
    return [
        tokens._replace(query=jnp.asarray(query), key=jnp.asarray(key), value=jnp.asarray(value), gates=g) for g in two
    ]


@each_rule
def test_ten_thousand_tokens_stay_finite_and_the_weights_within_their_limit(rule):
    beginning = random_beginning(rule.network.name, heads=len(KINDS))
    memory = compiled(partial(run, MemoryConfig(rule, CHUNK), beginning))
    for tokens in hostile():
        outputs, state = jax.device_get(memory(tokens))
        for leaf in jax.tree.leaves((outputs, state.heads)):
            assert np.isfinite(leaf).all()
        if getattr(rule, "limit", None) is not None:
            # Where the open chunk began.
            base = state.heads.base if isinstance(rule, Descent) else state.heads.weights
            for matrix in jax.tree.leaves(base):
                size = np.sqrt(np.square(matrix.astype(np.float64)).sum((-2, -1)) / matrix.shape[-1])
                assert size.max() <= LIMIT * (1 + 1e-5)


def test_without_the_limit_they_do_not():
    *_, tokens = hostile()
    outputs, _ = compiled(partial(run, MemoryConfig(Descent(MLP, limit=None, clip=None), CHUNK)))(
        random_beginning("mlp", heads=len(KINDS)), tokens
    )
    assert not np.isfinite(outputs).all()


@each_rule
@pytest.mark.parametrize("degree", [None, 2])
def test_zeros_have_finite_gradients(rule, degree):
    config = MemoryConfig(rule, 4, projection="per_key")
    beginning = random_beginning(rule.network.name, degree=degree, persistent=3)
    tokens = random_tokens(length=12)
    zeros = tokens._replace(**{name: jnp.zeros_like(getattr(tokens, name)) for name in ("query", "key", "value")})

    def total(beginning, tokens):
        return jnp.sum(jnp.sin(run(config, beginning, tokens)[0]))

    gradients = compiled(jax.grad(total, argnums=(0, 1)))(beginning, zeros)
    for leaf in jax.tree.leaves(gradients):
        assert np.isfinite(leaf).all()
