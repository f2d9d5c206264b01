"""The gated delta rule in chunks against the rule token by token, in float64 except where float32 is what is tested."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas_jax.memory.delta import GatedDelta
from atlas_jax.memory.features import expand, feature_count
from atlas_jax.memory.networks import MLP
from atlas_jax.memory.tokens import Gates, Tokens

HEADS, LENGTH, WIDTH, VALUE_WIDTH = 2, 24, 4, 3
RULE = GatedDelta()


def normal(seed, *shapes):
    """float64 arrays, made by NumPy: nothing to compile."""
    generator = np.random.default_rng(seed)
    return [generator.standard_normal(shape) for shape in shapes]


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def world(degree):
    """First weights, tokens of two heads and scales; |phi(k)|^2 is 2.4 at degree 2, where rates up to 0.8 make a contraction."""
    inputs = WIDTH if degree is None else feature_count(WIDTH, degree)
    shape = (HEADS, LENGTH)
    query, key, value, weights, forget, rate = normal(
        0, (*shape, WIDTH), (*shape, WIDTH), (*shape, VALUE_WIDTH), (HEADS, inputs, VALUE_WIDTH), shape, shape
    )
    unused = np.full(shape, np.nan)
    # alpha from 0 to nearly 1, theta from 0 to 2 (0.8).
    gates = Gates(-(forget**4), unused, (1 + np.tanh(rate)) * (1.0 if degree is None else 0.4), unused)
    scales = None if degree is None else np.asarray([0.9, 1.1, 0.6, 0.3][: degree + 1])
    return jax.tree.map(jnp.asarray, ({"value": weights}, Tokens(unit(query), unit(key), value, gates), scales))


def token_by_token(weights, tokens, scales):
    """The rule as it is printed, transposed: outputs and last weights of one head."""

    def one(w, token):
        q, k = expand(token.query, scales), expand(token.key, scales)
        rate, keep = token.gates.rate, jnp.exp(token.gates.log_keep)
        w = keep * (jnp.eye(len(k)) - rate * jnp.outer(k, k)) @ w + rate * jnp.outer(k, token.value)
        return w, q @ w

    w, outputs = jax.lax.scan(one, weights["value"], tokens)
    return outputs, {"value": w}


def in_calls(weights, tokens, scales, counts, most):
    """`counts[i]` of `most` tokens a call, one call after the other; the rest of a call's tokens are the next call's."""
    counts = jnp.asarray(counts, jnp.int32)
    places = jnp.cumsum(counts)[:, None] - counts[:, None] + jnp.arange(most, dtype=jnp.int32)[None, :]
    cut = jax.tree.map(lambda x: x[jnp.minimum(places, len(x) - 1)], tokens)

    def one(state, call):
        piece, count = call
        return RULE.advance(RULE.open(state), piece, count, scales)

    state, outputs = jax.lax.scan(one, RULE.start(weights, WIDTH, VALUE_WIDTH), (cut, counts))
    into = jnp.where(jnp.arange(most, dtype=jnp.int32)[None, :] < counts[:, None], places, len(tokens.key))
    whole = jnp.zeros((len(tokens.key), VALUE_WIDTH), outputs.dtype)
    return whole.at[into].set(outputs, mode="drop"), state.weights


def of_heads(memory):
    return jax.vmap(memory, in_axes=(0, 0, None))


def with_gradients(memory):
    """Outputs and last weights of all heads, and the gradients of a sum of both by everything that the rule reads."""

    def total(weights, tokens, scales):
        result = of_heads(memory)(weights, tokens, scales)
        return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(result)), result

    return jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2), has_aux=True))


@cache
def expected(degree):
    with jax.enable_x64(True):
        return jax.device_get(with_gradients(token_by_token)(*world(degree)))


@pytest.mark.parametrize(
    ("degree", "counts", "most"),
    [
        (None, (1,) * 24, 1),
        (None, (24,), 24),
        (None, (3, 8, 0, 5, 8), 8),
        (2, (3, 8, 0, 5, 8), 8),
    ],
)
def test_chunks_are_the_rule_token_by_token(degree, counts, most):
    with jax.enable_x64(True):
        memory = partial(in_calls, counts=counts, most=most)
        (_, result), gradients = with_gradients(memory)(*world(degree))
        (_, wanted), wanted_gradients = expected(degree)
        for got, want in zip(jax.tree.leaves(result), jax.tree.leaves(wanted), strict=True):
            np.testing.assert_allclose(got, want, rtol=0, atol=1e-10)
        for got, want in zip(jax.tree.leaves(gradients), jax.tree.leaves(wanted_gradients), strict=True):
            np.testing.assert_allclose(got, want, rtol=0, atol=1e-10)
        by_scales, by_gates = gradients[2], gradients[1].gates
        assert by_scales is None or (jnp.abs(by_scales) > 1e-3).all()
        assert all((jnp.abs(by) > 0).all() for by in (by_gates.rate, by_gates.log_keep))


@jax.jit
def split(weights, tokens, counts):
    return of_heads(lambda *head: in_calls(*head, counts=counts, most=LENGTH))(weights, tokens, None)


@given(cuts=st.lists(st.integers(0, LENGTH), min_size=4, max_size=4))
@settings(max_examples=15)
def test_any_split_is_the_whole(cuts):
    with jax.enable_x64(True):
        weights, tokens, _ = world(None)
        counts = jnp.diff(jnp.asarray([0, *sorted(cuts), LENGTH]))
        (_, (outputs, last)), _ = expected(None)
        got, got_last = split(weights, tokens, counts)
        np.testing.assert_allclose(got, outputs, rtol=0, atol=1e-10)
        np.testing.assert_allclose(got_last["value"], last["value"], rtol=0, atol=1e-10)


def test_the_future_changes_nothing():
    with jax.enable_x64(True):
        weights, tokens, _ = world(None)
        counts = jnp.asarray([0, 10, 0, 14, 0])
        before, _ = split(weights, tokens, counts)
        for place in (0, 5, 10, 17, LENGTH - 1):
            after, _ = split(weights, jax.tree.map(lambda x, p=place: x.at[:, p].multiply(0.5), tokens), counts)
            np.testing.assert_array_equal(after[:, :place], before[:, :place])
            assert (after[:, place] != before[:, place]).any()


def test_no_tokens_leave_the_state_bit_for_bit(key):
    with jax.enable_x64(True):
        _, tokens, _ = jax.tree.map(lambda x: x[0], world(None))
        weights = RULE.network.init(key, WIDTH, VALUE_WIDTH, 0)
        state = RULE.start(weights, WIDTH, VALUE_WIDTH)
        after, _ = RULE.advance(RULE.open(state), tokens, jnp.asarray(0))
        np.testing.assert_array_equal(after.weights["value"], weights["value"])


def test_a_rate_of_one_replaces_what_a_unit_key_held():
    with jax.enable_x64(True):
        weights, tokens, _ = jax.tree.map(lambda x: x[0], world(None))
        ones = tokens.gates._replace(rate=jnp.ones(LENGTH), log_keep=jnp.zeros(LENGTH))
        tokens = tokens._replace(key=tokens.key[jnp.arange(LENGTH) // 2], query=tokens.key[jnp.arange(LENGTH) // 2])
        state = RULE.start(weights, WIDTH, VALUE_WIDTH)
        state, outputs = RULE.advance(state, tokens._replace(gates=ones), jnp.asarray(LENGTH))
        np.testing.assert_allclose(outputs, tokens.value, rtol=0, atol=1e-10)
        np.testing.assert_allclose(tokens.key[-1] @ state.weights["value"], tokens.value[-1], rtol=0, atol=1e-10)


def test_a_zero_key_only_forgets():
    with jax.enable_x64(True):
        weights, tokens, _ = jax.tree.map(lambda x: x[0], world(None))

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
    counts, most = [64] * 156 + [16], 64

    def learn(weights, tokens):
        outputs, last = of_heads(partial(in_calls, counts=counts, most=most))(weights, tokens, None)
        return jnp.mean(outputs**2), (outputs, last["value"])

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
