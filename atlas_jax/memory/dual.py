"""The dual form: a memory that learns at every token, read at every token, by matrix products over a chunk alone.

With k_t, v_t the key and value of token t, a chunk that starts at t', and a memory M whose gradients are all taken at the weights
W_{t'} of the chunk's start,

  S_t = eta_t S_{t-1} - theta_t sum_{t-c < i <= t} gamma_i grad |M(k_i) - v_i|^2
  W_t = (1 - alpha_t) W_{t-1} + S_t,   y_t = M_t(q_t).

Every weight matrix is W_t = beta_t W_0 + f_t S_0 - sum_j A[t, j] x_j^T g_j, with x_j its input and g_j the gradient of its output
at token j, so that x_q W_t needs W_0, S_0 and two products over tokens: no weights per token, no scan over weights.

Source: Titans (arXiv:2501.00663) equations 13 to 18, ATLAS (arXiv:2505.23735) equation 9 (its eta and theta are exchanged: here
eta is the momentum); the dual form of TTT (arXiv:2407.04620, section 2.5) with decay, momentum and windows.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from atlas_jax.memory.networks import Linear, Network, Weights

Loss = Literal["l2", "dot", "ascent"]


class Gates(NamedTuple):
    """How each token is learnt and forgotten.

    Attributes:
      log_keep: log(1 - alpha), at most 0.
      log_momentum: log(eta), at most 0; finite.
      rate: theta, at least 0.
      strength: gamma, what the token counts in the windows that it stands in, 0 to 1.
    """

    log_keep: Float[Array, " t"]
    log_momentum: Float[Array, " t"]
    rate: Float[Array, " t"]
    strength: Float[Array, " t"]


class Tokens(NamedTuple):
    """What a memory reads: queries, keys, values and gates of t tokens."""

    query: Float[Array, "t d"]
    key: Float[Array, "t d"]
    value: Float[Array, "t v"]
    gates: Gates


class Past(NamedTuple):
    """The window - 1 tokens before: their keys, values and strengths; strength 0 before the first token."""

    key: Float[Array, "w d"]
    value: Float[Array, "w v"]
    strength: Float[Array, " w"]


class FastState(NamedTuple):
    """A memory between two tokens.

    Attributes:
      base: weights at the start of the open chunk, where its gradients are taken.
      weights: now.
      momentum: now.
      past: the last window - 1 tokens.
    """

    base: Weights
    weights: Weights
    momentum: Weights
    past: Past


class _Layers(NamedTuple):
    """Of every weight matrix, by name: its inputs at all keys, and the gradients of the loss by its outputs."""

    inputs: dict[str, Float[Array, "s i"]]
    gradients: dict[str, Float[Array, "s o"]]


def inner_loss(loss: Loss, predicted: Float[Array, "s v"], value: Float[Array, "s v"]) -> Float[Array, " s"]:
    """What a memory descends, of every token.

    "l2" is |M(k) - v|^2; "dot" -<M(k), v>, with which a linear memory is linear attention; "ascent" climbs the first, a control
    (arXiv:2602.21204).
    """
    if loss == "dot":
        return -jnp.sum(predicted * value, axis=-1)
    squared = jnp.sum((predicted - value) ** 2, axis=-1)
    return squared if loss == "l2" else -squared


def _layers(
    network: Network, loss: Loss, base: Weights, key: Float[Array, "s d"], value: Float[Array, "s v"]
) -> _Layers:
    """Inputs and output gradients of every matrix at the chunk's starting weights; each token's gradient is its own."""

    def objective(offsets: dict[str, Array]) -> tuple[Array, dict[str, Array]]:
        inputs: dict[str, Array] = {}

        def linear(name: str, x: Array) -> Array:
            inputs[name] = x
            return x @ base[name] + offsets[name]

        return jnp.sum(inner_loss(loss, network.forward(linear, key), value)), inputs

    offsets = {name: jnp.zeros((len(key), matrix.shape[1]), key.dtype) for name, matrix in base.items()}
    gradients, inputs = jax.grad(objective, has_aux=True)(offsets)
    return _Layers(inputs, gradients)


def _ratios(logs: Float[Array, " t"]) -> Float[Array, "t t"]:
    """[n, k] is the product of exp(logs) over k < l <= n; 0 above the diagonal. Masked before the exponential."""
    total = jnp.cumsum(logs)
    lower = jnp.tril(jnp.ones((len(logs), len(logs)), bool))
    return jnp.where(lower, jnp.exp(jnp.where(lower, total[:, None] - total[None, :], 0.0)), 0.0)


class _Mixing(NamedTuple):
    """How the tokens of a piece enter the weights (`by_weights`, A) and the momentum (`by_momentum`, B) after each of them."""

    by_weights: Float[Array, "t s"]
    by_momentum: Float[Array, "t s"]
    keep: Float[Array, " t"]  # beta
    carried: Float[Array, " t"]  # f, of the momentum before the piece
    momentum: Float[Array, " t"]  # cumulative product of eta


def _mixing(gates: Gates, learnt: Bool[Array, " t"], past: Float[Array, " w"], window: int) -> _Mixing:
    # A token that is not learnt leaves the weights alone: the momentum, which stays, is not added to them once more.
    keep = jnp.where(learnt[None, :], _ratios(gates.log_keep), 0.0)
    momentum = _ratios(gates.log_momentum)
    strength = jnp.concatenate([past, gates.strength])
    by_momentum = momentum * gates.rate[None, :]
    if window == 1:
        by_momentum = by_momentum * strength[None, :]
    else:
        n, i = jnp.arange(len(gates.rate))[:, None] + window - 1, jnp.arange(len(strength))[None, :]
        by_momentum = by_momentum @ jnp.where((i <= n) & (i > n - window), strength[None, :], 0.0)
    decayed = jnp.exp(jnp.cumsum(gates.log_momentum))
    return _Mixing(keep @ by_momentum, by_momentum, jnp.exp(jnp.cumsum(gates.log_keep)), keep @ decayed, decayed)


def advance(
    network: Network,
    state: FastState,
    tokens: Tokens,
    learnt: Bool[Array, " t"],
    *,
    window: int = 1,
    loss: Loss = "l2",
) -> tuple[FastState, Float[Array, "t v"]]:
    """Learns and reads t tokens of one chunk of one head; vmap it over batch and heads.

    Args:
      network: of the memory.
      state: before the first token; the gradients of all tokens are taken at its `base`, which stays.
      tokens: t of them.
      learnt: tokens that teach and age the memory; the others are only read, and seen by windows. Their outputs mean nothing.
      window: tokens whose losses each update descends, itself included.
      loss: see `inner_loss`.

    Returns:
      The state after the last token, and y_t = M_t(q_t) of every token, each token's own update included.
    """
    key = jnp.concatenate([state.past.key, tokens.key])
    value = jnp.concatenate([state.past.value, tokens.value])
    strength = jnp.concatenate([state.past.strength, tokens.gates.strength])
    layers = _layers(network, loss, state.base, key, value)
    mixing = _mixing(_masked(tokens.gates, learnt), learnt, state.past.strength, window)

    def linear(name: str, x: Float[Array, "t i"]) -> Float[Array, "t o"]:
        """x_t W_t for every token."""
        attention = mixing.by_weights * (x @ layers.inputs[name].T)
        return (
            mixing.keep[:, None] * (x @ state.weights[name])
            + mixing.carried[:, None] * (x @ state.momentum[name])
            - attention @ layers.gradients[name]
        )

    read: Linear = linear
    outputs = network.forward(read, tokens.query)
    by_weights, by_momentum = mixing.by_weights[-1][:, None], mixing.by_momentum[-1][:, None]
    weights = {
        name: mixing.keep[-1] * state.weights[name]
        + mixing.carried[-1] * state.momentum[name]
        - (by_weights * layers.inputs[name]).T @ layers.gradients[name]
        for name in state.weights
    }
    momentum = {
        name: mixing.momentum[-1] * state.momentum[name]
        - (by_momentum * layers.inputs[name]).T @ layers.gradients[name]
        for name in state.momentum
    }
    start = len(strength) - (window - 1)
    return FastState(state.base, weights, momentum, Past(key[start:], value[start:], strength[start:])), outputs


def _masked(gates: Gates, learnt: Bool[Array, " t"]) -> Gates:
    """Gates under which the other tokens neither teach nor age the memory; windows still see them."""
    return Gates(
        jnp.where(learnt, gates.log_keep, 0.0),
        jnp.where(learnt, gates.log_momentum, 0.0),
        jnp.where(learnt, gates.rate, 0.0),
        gates.strength,
    )


def start(weights: Weights, window: int, width: int, value_width: int) -> FastState:
    """A memory of these weights before its first token."""
    dtype = next(iter(weights.values())).dtype
    zeros = jax.tree.map(jnp.zeros_like, weights)
    past = Past(
        jnp.zeros((window - 1, width), dtype),
        jnp.zeros((window - 1, value_width), dtype),
        jnp.zeros((window - 1,), dtype),
    )
    return FastState(weights, weights, zeros, past)
