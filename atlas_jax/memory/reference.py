"""The same memory token by token, with autodiff for the inner gradient: slow, and what everything fast is tested against."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from atlas_jax.memory.dual import Loss, Tokens, inner_loss
from atlas_jax.memory.networks import Network, Weights


def read(network: Network, weights: Weights, x: Float[Array, "t d"]) -> Float[Array, "t v"]:
    """M(x) with fixed weights."""
    return network.forward(lambda name, x: x @ weights[name], x)


def reference(
    network: Network,
    initial: Weights,
    tokens: Tokens,
    *,
    chunk: int,
    window: int = 1,
    shard: int | None = None,
    loss: Loss = "l2",
) -> tuple[Float[Array, "t v"], Weights, Weights]:
    """One head of one sequence, from its beginning.

    Args:
      network, initial: the memory.
      tokens: all of the sequence.
      chunk: tokens whose gradients are taken at the same weights.
      window: tokens whose losses each update descends.
      shard: tokens after which weights, momentum and window begin anew; None never.
      loss: see `inner_loss`.

    Returns:
      y_t = M_t(q_t), and the weights and the momentum after the last token.
    """

    count = jnp.arange(len(tokens.query))
    zeros = jax.tree.map(jnp.zeros_like, initial)

    def objective(weights: Weights, seen: Bool[Array, " t"]) -> Array:
        """The losses of the tokens of a window."""
        each = inner_loss(loss, read(network, weights, tokens.key), tokens.value)
        return jnp.sum(jnp.where(seen, tokens.gates.strength * each, 0.0))

    def one(carry: tuple[Weights, Weights, Weights], t: Array) -> tuple[tuple[Weights, Weights, Weights], Array]:
        base, weights, momentum = carry
        beginning = t - t if shard is None else t // shard * shard
        if shard is not None:
            weights, momentum = (
                jax.tree.map(lambda new, old: jnp.where(t == beginning, new, old), *pair)
                for pair in ((initial, weights), (zeros, momentum))
            )
        base = jax.tree.map(lambda new, old: jnp.where(t % chunk == 0, new, old), weights, base)
        gradient = jax.grad(objective)(base, (count <= t) & (count > t - window) & (count >= beginning))
        keep, decay = jnp.exp(tokens.gates.log_keep[t]), jnp.exp(tokens.gates.log_momentum[t])
        momentum = jax.tree.map(lambda s, g: decay * s - tokens.gates.rate[t] * g, momentum, gradient)
        weights = jax.tree.map(lambda w, s: keep * w + s, weights, momentum)
        return (base, weights, momentum), read(network, weights, tokens.query[t][None])[0]

    (_, weights, momentum), outputs = jax.lax.scan(one, (initial, initial, zeros), count)
    return outputs, weights, momentum
