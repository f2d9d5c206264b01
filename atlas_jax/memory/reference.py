"""Every rule token by token, with autodiff for the inner gradient: slow, and what everything fast is tested against.

Nothing here knows of matrices over tokens, of chunks cut and joined, or of states between calls: one loop over the tokens of one
head of one sequence, with the weights themselves in its hands.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from atlas_jax.memory.delta import GatedDelta
from atlas_jax.memory.dual import Descent
from atlas_jax.memory.features import expand
from atlas_jax.memory.gradients import inner_loss
from atlas_jax.memory.networks import Network, Weights
from atlas_jax.memory.newton_schulz import Coefficients
from atlas_jax.memory.one_step import OneStep
from atlas_jax.memory.sequence import Beginning, MemoryConfig
from atlas_jax.memory.tokens import Tokens

Member = Descent | OneStep | GatedDelta


class Trace(NamedTuple):
    """What one head of one sequence did.

    Attributes:
      outputs: y_t.
      weights, momentum: after the last token; of rules that move the weights at a chunk's end, those of the open chunk.
    """

    outputs: Float[Array, "t v"]
    weights: Weights
    momentum: Weights


class _Memory(NamedTuple):
    """Between two tokens."""

    base: Weights  # where the open chunk's gradients are taken
    weights: Weights  # that are read
    momentum: Weights
    keep: Float[Array, ""]  # product of 1 - alpha over the open chunk
    rate: Float[Array, ""]  # sum of theta over it


def read(
    network: Network, weights: Weights, x: Float[Array, "t d"], scales: Float[Array, " i"] | None = None
) -> Float[Array, "t v"]:
    """M(x) with fixed weights."""

    def linear(name: str, x: Array) -> Array:
        return (expand(x, scales) if name in network.first else x) @ weights[name]

    return network.forward(linear, x)


def newton_schulz(x: Float[Array, "m k"], coefficients: Coefficients) -> Float[Array, "m k"]:
    """As printed, X X^T on the left whatever the shape."""
    x = x / (jnp.sqrt(jnp.sum(x * x)) + 1e-7)
    for a, b, c in coefficients:
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


def column_norms(matrix: Float[Array, "i o"]) -> Float[Array, "1 o"]:
    """Euclidean norms of what belongs to each output."""
    return jnp.sqrt(jnp.sum(matrix * matrix, axis=0, keepdims=True))


def reference(config: MemoryConfig, beginning: Beginning, tokens: Tokens) -> Trace:
    """One head of one sequence, from its beginning.

    Args:
      config: rule, chunk, shard and projection.
      beginning: of this head: weights [i, o], scales [i], persistent [p, d].
      tokens: all of the sequence.

    Raises:
      ValueError: a rule that there is no loop for.
    """
    if not isinstance(config.rule, Member):
        raise ValueError(f"reference: the rule is {type(config.rule).__name__}, expected one of {Member}")
    rule, scales, place = config.rule, beginning.scales, jnp.arange(len(tokens.query))
    fresh = _begun(rule, beginning.weights)
    query = tokens.query if beginning.persistent is None else _projected(config, beginning.persistent, tokens)

    def one(memory: _Memory, t: Int[Array, ""]) -> tuple[_Memory, tuple[Array, Weights, Weights]]:
        window = (place <= t) & (place > t - rule.window) & (place >= _start(config.shard, t))
        memory = _learnt(rule, memory, tokens, t, window, scales)
        now = (read(rule.network, memory.weights, query[t][None], scales)[0], memory.weights, memory.momentum)
        memory = _where((t + 1) % config.chunk == 0, _ended(rule, fresh, memory, config.chunk), memory)
        return _where(_start(config.shard, t + 1) == t + 1, fresh, memory), now

    outputs, weights, momentum = jax.lax.scan(one, fresh, place)[1]
    return Trace(outputs, *jax.tree.map(lambda x: x[-1], (weights, momentum)))


def _start(length: int | None, t: Int[Array, "*n"]) -> Int[Array, "*n"]:
    """Of the shard or chunk that token t stands in; the sequence's without a length."""
    return t - t if length is None else t // length * length


def _where(condition: Bool[Array, ""], new: _Memory, old: _Memory) -> _Memory:
    return jax.tree.map(lambda new, old: jnp.where(condition, new, old), new, old)


def _begun(rule: Member, weights: Weights) -> _Memory:
    if not isinstance(rule, GatedDelta):
        weights = _limited(weights, rule.limit)
    one = jnp.ones((), next(iter(weights.values())).dtype)
    return _Memory(weights, weights, jax.tree.map(jnp.zeros_like, weights), one, jnp.zeros_like(one))


def _learnt(
    rule: Member,
    memory: _Memory,
    tokens: Tokens,
    t: Int[Array, ""],
    window: Bool[Array, " t"],
    scales: Float[Array, " i"] | None,
) -> _Memory:
    """The memory after token t."""
    keep, decay, rate = (jnp.exp(tokens.gates.log_keep[t]), jnp.exp(tokens.gates.log_momentum[t]), tokens.gates.rate[t])
    if isinstance(rule, GatedDelta):
        key, value = expand(tokens.key[t], scales), memory.weights["value"]
        value = keep * (jnp.eye(len(key)) - rate * jnp.outer(key, key)) @ value + rate * jnp.outer(key, tokens.value[t])
        return memory._replace(weights={"value": value})

    def objective(weights: Weights, key: Array, value: Array) -> Array:
        return inner_loss(rule.loss, read(rule.network, weights, key[None], scales), value[None])[0]

    def counted(gradient: Array) -> Array:
        """The gradients of all tokens, clipped, of which those of the window count as much as their strength."""
        if isinstance(rule, Descent) and rule.clip is not None:
            norm = jnp.sqrt(jnp.sum(gradient**2, axis=(1, 2)) + 1e-30)
            gradient = gradient * jnp.minimum(1.0, rule.clip * tokens.value.shape[1] ** 0.5 / norm)[:, None, None]
        return jnp.einsum("t,tio->io", jnp.where(window, tokens.gates.strength, 0.0), gradient)

    by_token = jax.vmap(jax.grad(objective), (None, 0, 0))(memory.base, tokens.key, tokens.value)
    gradient = jax.tree.map(counted, by_token)
    momentum = jax.tree.map(lambda s, g: decay * s - rate * g, memory.momentum, gradient)
    memory = memory._replace(momentum=momentum, keep=memory.keep * keep, rate=memory.rate + rate)
    if isinstance(rule, OneStep):
        return memory
    return memory._replace(weights=jax.tree.map(lambda w, s: keep * w + s, memory.weights, momentum))


def _ended(rule: Member, fresh: _Memory, memory: _Memory, chunk: int) -> _Memory:
    """The memory that the next chunk begins with."""
    if isinstance(rule, GatedDelta):
        return memory
    weights = memory.weights
    if isinstance(rule, OneStep):
        step = memory.momentum
        if rule.orthogonalise is not None:
            mean, steps = memory.rate / chunk, rule.orthogonalise
            step = jax.tree.map(lambda s: mean * newton_schulz(s, steps), step)
        weights = jax.tree.map(lambda w, s: memory.keep * w + s, weights, step)
    weights = _limited(weights, rule.limit)
    if isinstance(rule, OneStep) and rule.unit_columns:
        weights = jax.tree.map(lambda w, first: w / column_norms(w) * column_norms(first), weights, fresh.weights)
    return fresh._replace(base=weights, weights=weights, momentum=_limited(memory.momentum, rule.limit))


def _limited(weights: Weights, limit: float | None) -> Weights:
    if limit is None:
        return weights

    def one(w: Array) -> Array:
        return w * jnp.minimum(1.0, limit * w.shape[1] ** 0.5 / jnp.sqrt(jnp.sum(w**2) + 1e-30))

    return jax.tree.map(one, weights)


def _projected(config: MemoryConfig, persistent: Float[Array, "p d"], tokens: Tokens) -> Float[Array, "t d"]:
    """Queries in the span of the keys since the shard or chunk began, each with a matrix of its own, of length 1."""
    place = jnp.arange(len(tokens.query))
    begin = _start(config.shard if config.span == "shard" else config.chunk, place)
    own = (place[None, :] <= place[:, None]) & (place[None, :] >= begin[:, None])
    keys = jnp.concatenate([persistent, tokens.key])
    seen = jnp.concatenate([jnp.ones((len(place), len(persistent)), bool), own], axis=1).astype(keys.dtype)
    square = jnp.sum(keys**2, axis=-1)
    share = seen / square[None, :] if config.projection == "per_key" else seen / (seen @ square)[:, None]
    matrices = jnp.einsum("ts,sk,sl->tkl", share, keys, keys)
    q = jnp.einsum("tkl,tl->tk", matrices, tokens.query)
    return q / jnp.sqrt(jnp.sum(q**2, axis=-1, keepdims=True) + 1e-12)
