"""Gates at their ends, logarithms of 0 among them: every rule is the token-by-token one there too, with finite gradients."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import compiled
from memory_world import RULES, one, random_beginning, random_tokens

from atlas_jax.memory.projection import persistent_state, project_chunk, unit
from atlas_jax.memory.reference import reference
from atlas_jax.memory.sequence import MemoryConfig, run

LENGTH, PLACE = 9, 5
ENDS = {
    "nothing kept": {"log_keep": -np.inf},
    "nothing kept at one token": {"log_keep": PLACE},
    "all kept": {"log_keep": 0.0},
    "no momentum": {"log_momentum": -np.inf},
    "no momentum at one token": {"log_momentum": PLACE},
    "all momentum": {"log_momentum": 0.0},
    "nothing learnt": {"rate": 0.0},
    "no strength": {"strength": 0.0},
    "all at once": {"log_keep": 0.0, "log_momentum": -np.inf, "rate": 0.0, "strength": 0.0},
}


def tokens_at(ends):
    """Gates of these values; a place stands for -inf at one token."""
    tokens = random_tokens(length=LENGTH, rate=0.5)
    for name, end in ends.items():
        gate = np.array(getattr(tokens.gates, name))
        gate[..., end if isinstance(end, int) else slice(None)] = -np.inf if isinstance(end, int) else end
        tokens = tokens._replace(gates=tokens.gates._replace(**{name: jnp.asarray(gate)}))
    return tokens


@cache
def memories(rule):
    """The fast one, with gradients of a number that all outputs move, and the one token by token."""
    config = MemoryConfig(RULES[rule], 4)

    def total(beginning, tokens):
        outputs, _ = run(config, beginning, tokens)
        return jnp.sum(jnp.sin(outputs)), outputs[0, 0]

    def slow(beginning, tokens):
        return reference(config, jax.tree.map(lambda x: x[0], beginning), one(tokens)).outputs

    return compiled(jax.grad(total, argnums=(0, 1), has_aux=True)), compiled(slow)


@pytest.mark.parametrize("rule", RULES)
def test_gates_at_their_ends(rule):
    fast, slow = memories(rule)
    with jax.enable_x64(True):
        beginning = random_beginning(RULES[rule].network.name)
        for ends in ENDS.values():
            tokens = tokens_at(ends)
            gradients, outputs = fast(beginning, tokens)
            np.testing.assert_allclose(outputs, slow(beginning, tokens), rtol=0, atol=1e-10)
            for leaf in jax.tree.leaves(gradients):
                assert np.isfinite(leaf).all()


def test_what_follows_a_token_that_forgets_all_keeps_its_precision():
    """In float32 the sum of logarithms would be -1e4, and what is added to it lost."""
    config = MemoryConfig(RULES["delta"], LENGTH)
    with jax.enable_x64(True):
        beginning, tokens = random_beginning("linear"), tokens_at({})
        tokens = tokens._replace(gates=tokens.gates._replace(log_keep=tokens.gates.log_keep.at[..., PLACE].set(-1e4)))
        exact, _ = compiled(partial(run, config))(beginning, tokens)
    outputs, _ = compiled(partial(run, config))(*jax.tree.map(lambda x: x.astype(jnp.float32), (beginning, tokens)))
    np.testing.assert_allclose(outputs, exact, rtol=0, atol=3e-6)  # measured 7e-7; 1.1e-4 with the sum


@pytest.mark.parametrize("size", [1e-10, 1e-15, 1e-18, 1e-20])
def test_a_key_of_hardly_any_length_has_a_finite_gradient(size):
    state, query = persistent_state(jnp.ones((1, 2, 4)), 1, "per_key"), jnp.ones((1, 1, 3, 4))

    def total(key, normalise):
        projected, _ = project_chunk(state, query, normalise(key), "per_key")
        return jnp.sum(jnp.sin(projected))

    key = jnp.zeros((1, 1, 3, 4)).at[0, 0, 1].set(size)
    for normalise in (unit, lambda key: key):
        assert np.isfinite(jax.grad(partial(total, normalise=normalise))(key)).all()
