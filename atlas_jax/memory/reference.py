"""The same memory token by token, with autodiff for the inner gradient: slow, and what everything fast is tested against."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from atlas_jax.memory.dual import Descent
from atlas_jax.memory.features import expand
from atlas_jax.memory.gradients import inner_loss
from atlas_jax.memory.networks import Network, Weights
from atlas_jax.memory.sequence import Beginning, MemoryConfig
from atlas_jax.memory.tokens import Tokens


class Trace(NamedTuple):
    """What one head of one sequence did.

    Attributes:
      outputs: y_t = M_t(q_t).
      weights, momentum: after the last token.
    """

    outputs: Float[Array, "t v"]
    weights: Weights
    momentum: Weights


def read(
    network: Network, weights: Weights, x: Float[Array, "t d"], scales: Float[Array, " i"] | None = None
) -> Float[Array, "t v"]:
    """M(x) with fixed weights."""

    def linear(name: str, x: Array) -> Array:
        return (expand(x, scales) if name in network.first else x) @ weights[name]

    return network.forward(linear, x)


def projected(config: MemoryConfig, persistent: Float[Array, "p d"], tokens: Tokens) -> Float[Array, "t d"]:
    """Queries in the span of the keys since the shard or chunk began, each with a matrix of its own."""
    span = config.shard if config.span == "shard" else config.chunk

    def one(t: int) -> Array:
        begin = 0 if span is None else t // span * span
        keys = jnp.concatenate([persistent, tokens.key[begin : t + 1]])
        lengths = jnp.sum(keys**2, axis=-1)
        if config.projection == "per_key":
            q = sum(jnp.outer(k, k) / n for k, n in zip(keys, lengths, strict=True)) @ tokens.query[t]
        else:
            q = keys.T @ keys @ tokens.query[t] / jnp.sum(lengths)
        return q / jnp.linalg.norm(q)

    return jnp.stack([one(t) for t in range(len(tokens.query))])


def _limited(weights: Weights, limit: float | None) -> Weights:
    if limit is None:
        return weights
    return {
        name: w * jnp.minimum(1.0, limit * w.shape[1] ** 0.5 / jnp.maximum(jnp.sqrt(jnp.sum(w**2) + 1e-30), 1e-15))
        for name, w in weights.items()
    }


def reference(config: MemoryConfig, rule: Descent, beginning: Beginning, tokens: Tokens) -> Trace:
    """One head of one sequence, from its beginning.

    Args:
      config: chunk, shard and projection.
      rule: that of the config.
      beginning: of this head: weights [i, o], scales [i], persistent [p, d].
      tokens: all of the sequence.
    """
    initial, scales = _limited(beginning.weights, rule.limit), beginning.scales
    count = jnp.arange(len(tokens.query))
    zeros = jax.tree.map(jnp.zeros_like, initial)
    query = tokens.query if beginning.persistent is None else projected(config, beginning.persistent, tokens)

    def objective(weights: Weights, seen: Bool[Array, " t"]) -> Array:
        """The losses of the tokens of a window."""
        each = inner_loss(rule.loss, read(rule.network, weights, tokens.key, scales), tokens.value)
        return jnp.sum(jnp.where(seen, tokens.gates.strength * each, 0.0))

    def one(carry: tuple[Weights, Weights, Weights], t: Array) -> tuple[tuple[Weights, Weights, Weights], Array]:
        base, weights, momentum = carry
        beginning = t - t if config.shard is None else t // config.shard * config.shard
        begins = t % config.chunk == 0
        weights, momentum = (
            jax.tree.map(lambda new, old: jnp.where(begins, new, old), _limited(tree, rule.limit), tree)
            for tree in (weights, momentum)
        )
        if config.shard is not None:
            weights, momentum = (
                jax.tree.map(lambda new, old: jnp.where(t == beginning, new, old), *pair)
                for pair in ((initial, weights), (zeros, momentum))
            )
        base = jax.tree.map(lambda new, old: jnp.where(begins, new, old), weights, base)
        gradient = jax.grad(objective)(base, (count <= t) & (count > t - rule.window) & (count >= beginning))
        keep, decay = jnp.exp(tokens.gates.log_keep[t]), jnp.exp(tokens.gates.log_momentum[t])
        momentum = jax.tree.map(lambda s, g: decay * s - tokens.gates.rate[t] * g, momentum, gradient)
        weights = jax.tree.map(lambda w, s: keep * w + s, weights, momentum)
        return (base, weights, momentum), read(rule.network, weights, query[t][None], scales)[0]

    (_, weights, momentum), outputs = jax.lax.scan(one, (initial, initial, zeros), count)
    return Trace(outputs, weights, momentum)
