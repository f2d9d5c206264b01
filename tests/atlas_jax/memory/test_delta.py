"""What the gated delta rule is for, and its extremes over 10,000 tokens in float32; token by token it is in `test_all_pairs`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax.memory.delta import GatedDelta
from atlas_jax.memory.networks import MLP
from atlas_jax.memory.sequence import Beginning, MemoryConfig, run
from atlas_jax.memory.tokens import Gates, Tokens

LENGTH, WIDTH, VALUE_WIDTH = 24, 4, 3
RULE = GatedDelta()


def normal(seed, *shapes):
    """float64 arrays, made by NumPy: nothing to compile."""
    generator = np.random.default_rng(seed)
    return [generator.standard_normal(shape) for shape in shapes]


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def world():
    """First weights and tokens of a head: alpha from 0 to nearly 1, theta from 0 to 2, the gates that are not used no numbers."""
    query, key, value, weights, forget, rate = normal(
        0, (LENGTH, WIDTH), (LENGTH, WIDTH), (LENGTH, VALUE_WIDTH), (WIDTH, VALUE_WIDTH), (LENGTH,), (LENGTH,)
    )
    unused = np.full(LENGTH, np.nan)
    gates = Gates(-(forget**4), unused, 1 + np.tanh(rate), unused)
    return jax.tree.map(jnp.asarray, ({"value": weights}, Tokens(unit(query), unit(key), value, gates)))


def test_no_tokens_leave_the_state_bit_for_bit(key):
    with jax.enable_x64(True):
        _, tokens = world()
        weights = RULE.network.init(key, WIDTH, VALUE_WIDTH, 0)
        state = RULE.start(weights, WIDTH, VALUE_WIDTH)
        after, _ = RULE.advance(RULE.open(state), tokens, jnp.asarray(0))
        np.testing.assert_array_equal(after.weights["value"], weights["value"])


def test_a_rate_of_one_replaces_what_a_unit_key_held():
    with jax.enable_x64(True):
        weights, tokens = world()
        ones = tokens.gates._replace(rate=jnp.ones(LENGTH), log_keep=jnp.zeros(LENGTH))
        tokens = tokens._replace(key=tokens.key[jnp.arange(LENGTH) // 2], query=tokens.key[jnp.arange(LENGTH) // 2])
        state = RULE.start(weights, WIDTH, VALUE_WIDTH)
        state, outputs = RULE.advance(state, tokens._replace(gates=ones), jnp.asarray(LENGTH))
        np.testing.assert_allclose(outputs, tokens.value, rtol=0, atol=1e-10)
        np.testing.assert_allclose(tokens.key[-1] @ state.weights["value"], tokens.value[-1], rtol=0, atol=1e-10)


def test_a_zero_key_only_forgets():
    with jax.enable_x64(True):
        weights, tokens = world()

        def learnt(key):
            state = RULE.start(weights, WIDTH, VALUE_WIDTH)
            state, outputs = RULE.advance(state, tokens._replace(key=key), jnp.asarray(LENGTH))
            return jnp.sum(outputs**2), (state.weights["value"], outputs)

        zeros = jnp.zeros_like(tokens.key)
        gradient, (last, outputs) = jax.jit(jax.grad(learnt, has_aux=True))(zeros)
        kept = jnp.exp(jnp.cumsum(tokens.gates.log_keep))
        np.testing.assert_allclose(last, kept[-1] * weights["value"], rtol=1e-12)
        np.testing.assert_allclose(outputs, kept[:, None] * (tokens.query @ weights["value"]), rtol=1e-12)
        assert jnp.isfinite(gradient).all()
        assert (gradient != 0).any()


def extremes(length, width):
    """Tokens of four heads, each at an edge: a rate of 2 and unit keys, so that nothing ever shrinks but by forgetting.

    The heads: no forgetting; the same key over and over; nearly all forgotten at every token; that at every third token, the
    keys between them zero.
    """
    query, key, value = normal(1, (4, length, width), (4, length, width), (4, length, VALUE_WIDTH))
    query, key = unit(query), unit(key)
    third = np.arange(length) % 3 == 0
    key[1] = key[1, 0]
    key[3] *= third[:, None]
    log_keep = np.log(1e-6) * np.stack([0 * third, 0 * third, 0 * third + 1, third])
    gates = Gates(log_keep, np.zeros((4, length)), np.full((4, length), 2.0), np.ones((4, length)))
    return {"value": np.ones((4, width, VALUE_WIDTH))}, Tokens(query, key, value, gates)


def in_numpy(weights, tokens):
    """The rule token by token, all heads at once, in NumPy."""
    w, outputs, keeps = weights["value"], np.empty_like(tokens.value), np.exp(tokens.gates.log_keep)
    for t in range(outputs.shape[1]):
        k, w = tokens.key[:, t], w * keeps[:, t, None, None]
        surprise = tokens.value[:, t] - (k[:, None] @ w)[:, 0]
        w = w + (tokens.gates.rate[:, t, None] * k)[:, :, None] * surprise[:, None]
        outputs[:, t] = (tokens.query[:, t, None] @ w)[:, 0]
    return outputs, w


def test_the_extremes_in_float32_stay_finite_and_exact_over_10000_tokens():
    def learn(weights, tokens):
        outputs, state = run(MemoryConfig(RULE, 64), Beginning(weights), jax.tree.map(lambda x: x[None], tokens))
        return jnp.mean(outputs**2), (outputs[0], state.heads.weights["value"][0])

    inputs = jax.tree.map(lambda x: np.asarray(x, np.float32), extremes(10_000, width=8))
    gradients, results = jax.jit(jax.grad(learn, argnums=(0, 1), has_aux=True))(*inputs)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((gradients, results)))
    wanted = in_numpy(*jax.tree.map(lambda x: np.asarray(x, np.float64), inputs))
    # Without forgetting, the rounding of every token stays for good, up to 1e-7 of the largest value: 10,000 times.
    for got, want in zip(results, wanted, strict=True):
        for head, tolerance in enumerate((1e-3, 1e-3, 1e-6, 1e-6)):
            np.testing.assert_allclose(got[head], want[head], rtol=0, atol=tolerance * np.abs(want[head]).max())


def test_other_weights_than_a_linear_memory(key):
    with pytest.raises(ValueError, match=r"weights are .*'up': \(4, 8\).*expected one matrix 'value' of 4 columns"):
        RULE.start(MLP.init(key, 4, 4, 8), 4, 4)
    with pytest.raises(ValueError, match=r"'value': \(4, 3\).*expected one matrix 'value' of 4 columns"):
        RULE.start(RULE.network.init(key, 4, 3, 0), 4, 4)
