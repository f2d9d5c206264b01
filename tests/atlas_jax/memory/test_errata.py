"""Where the papers print one thing and mean another, or leave a choice: what is done here, by hand-sized numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import compiled
from memory_world import RULES, random_beginning, random_tokens

from atlas_jax.memory.dual import Descent
from atlas_jax.memory.features import polynomial_features
from atlas_jax.memory.networks import LINEAR
from atlas_jax.memory.sequence import Beginning, MemoryConfig, run
from atlas_jax.memory.tokens import Gates, Tokens

WIDTH = 3


def learn(config, keys, values, *, alpha=0.0, eta=0.0, theta=0.1, scales=None, initial=None):
    """Weights after these tokens, and outputs for queries = keys, in float64; eta 0 is 1e-300, whose logarithm is finite."""
    count = len(keys)
    alpha, eta, theta = (np.broadcast_to(gate, count) for gate in (alpha, eta, theta))
    gates = Gates(jnp.log1p(-alpha), jnp.log(np.maximum(eta, 1e-300)), jnp.asarray(theta), jnp.ones(count))
    tokens = Tokens(jnp.asarray(keys), jnp.asarray(keys), jnp.asarray(values), gates)
    read = keys.shape[1] if scales is None else polynomial_features(jnp.asarray(keys[:1]), scales).shape[1]
    first = np.zeros((read, values.shape[1])) if initial is None else initial
    beginning = Beginning({"value": jnp.asarray(first)[None]}, None if scales is None else scales[None])
    outputs, state = run(config, beginning, jax.tree.map(lambda x: x[None, None], tokens))
    return np.asarray(state.heads.weights["value"][0, 0]), np.asarray(outputs[0, 0])


def random(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def test_a_memory_moves_towards_what_it_is_taught():
    """ATLAS equations 11 and 28 have v phi(k)^T with a minus; from zero weights a step is + 2 theta phi(k)^T v."""
    with jax.enable_x64(True):
        keys, values, scales = random(0, 1, WIDTH), random(1, 1, 2), jnp.array([1.0, 0.8, 0.5])
        weights, _ = learn(MemoryConfig(Descent(LINEAR, clip=None), 4), keys, values, scales=scales)
        phi = np.asarray(polynomial_features(jnp.asarray(keys), scales))
        np.testing.assert_allclose(weights, 2 * 0.1 * phi.T @ values, rtol=1e-12)


def test_a_gradient_fades_by_the_decay_after_its_token():
    """ATLAS equation 16 has the decay up to token n beside the gradient of n; it is that of the tokens after n."""
    with jax.enable_x64(True):
        keys, values, alpha = random(0, 4, WIDTH), random(1, 4, 2), np.array([0.1, 0.2, 0.3, 0.4])
        weights, _ = learn(MemoryConfig(Descent(LINEAR, loss="dot", clip=None), 4), keys, values, alpha=alpha)
        after = [np.prod(1 - alpha[n + 1 :]) for n in range(4)]
        expected = sum(0.1 * a * np.outer(k, v) for a, k, v in zip(after, keys, values, strict=True))
        np.testing.assert_allclose(weights, expected, rtol=1e-12)


@pytest.mark.parametrize("chunk", [2, 4])
def test_gradients_are_taken_where_the_local_chunk_began(chunk):
    """TNT equation 6 prints the shard's first weights as the base; it is those at the start of the token's local chunk."""
    with jax.enable_x64(True):
        keys, values, initial = random(0, 4, WIDTH), random(1, 4, 2), random(2, WIDTH, 2)
        weights, _ = learn(
            MemoryConfig(Descent(LINEAR, limit=None, clip=None), chunk, shard=4), keys, values, initial=initial
        )
        expected = initial
        for start in range(0, 4, chunk):
            base = expected
            for key, value in zip(keys[start : start + chunk], values[start : start + chunk], strict=True):
                expected = expected - 0.1 * 2 * np.outer(key, key @ base - value)
        np.testing.assert_allclose(weights, expected, rtol=1e-12)


def test_momentum_is_eta_and_the_rate_is_theta():
    """ATLAS exchanges the two letters of Titans; here S_t = eta_t S_{t-1} - theta_t gradient, in both."""
    with jax.enable_x64(True):
        keys, values = random(0, 2, WIDTH), random(1, 2, 2)
        weights, _ = learn(
            MemoryConfig(Descent(LINEAR, loss="dot", clip=None), 4),
            keys,
            values,
            eta=np.array([0.9, 0.5]),
            theta=np.array([0.1, 0.2]),
        )
        first, second = (np.outer(k, v) for k, v in zip(keys, values, strict=True))
        momentum = 0.1 * first
        np.testing.assert_allclose(weights, momentum + (0.5 * momentum + 0.2 * second), rtol=1e-12)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_outer_gradients_flow_through_inner_ones(rule):
    """Against finite differences, second order effects of what is learnt at test time included."""
    with jax.enable_x64(True):
        config = MemoryConfig(rule, 3, shard=6, projection="norm_sum")
        leaves, tree = jax.tree.flatten(
            (random_beginning(rule.network.name, persistent=2), random_tokens(length=9, rate=0.2))
        )

        def loss(leaves):
            return jnp.sum(jnp.sin(run(config, *tree.unflatten(leaves))[0]))

        value, gradients = compiled(loss), compiled(jax.grad(loss))(leaves)
        for i, gradient in enumerate(gradients):
            step = random(i, *gradient.shape)  # a short way along it: Newton-Schulz bends
            up, down = (value([x + h * step if j == i else x for j, x in enumerate(leaves)]) for h in (1e-7, -1e-7))
            np.testing.assert_allclose(np.sum(gradient * step), (up - down) / 2e-7, rtol=1e-6, atol=1e-6)
