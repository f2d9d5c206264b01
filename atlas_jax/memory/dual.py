"""Titans and Omega in the dual form: a memory that learns at every token and is read at every token, by matrix products alone.

With k_t, v_t the key and value of token t, a chunk that starts at t', and a memory M whose gradients are all taken at the weights
W_{t'} of the chunk's start,

  S_t = eta_t S_{t-1} - theta_t sum_{t-c < i <= t} gamma_i grad |M(k_i) - v_i|^2
  W_t = (1 - alpha_t) W_{t-1} + S_t,   y_t = M_t(q_t).

Every weight matrix is W_t = beta_t W_0 + f_t S_0 - sum_j A[t, j] x_j^T g_j, with x_j its input and g_j the gradient of its output
at token j, so that x_q W_t needs W_0, S_0 and two products over tokens: no weights per token, no scan over weights.

Source: Titans (arXiv:2501.00663) equations 13 to 18, ATLAS (arXiv:2505.23735) equation 9 (its eta and theta are exchanged: here
eta is the momentum); the dual form of TTT (arXiv:2407.04620, section 2.5) with decay, momentum and windows. Deviation: weights
and momentum are `limited` where a chunk begins, so that no input can make them grow without bound.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from atlas_jax.memory.checks import check_rule
from atlas_jax.memory.chunks import kept
from atlas_jax.memory.decays import fading_sums, ratios, running
from atlas_jax.memory.features import expand, scores
from atlas_jax.memory.gradients import Loss, layer_gradients
from atlas_jax.memory.networks import LIMIT, Network, Weights, limited
from atlas_jax.memory.products import Dtype, matmul, matmul_nt, matmul_tn
from atlas_jax.memory.tokens import Gates, Past, Tokens, empty_past, masked, with_past


class DescentState(NamedTuple):
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


class _Mixing(NamedTuple):
    """How the tokens of a piece enter the weights (`by_weights`, A) and the momentum (`by_momentum`, B) after each of them."""

    by_weights: Float[Array, "t s"]
    by_momentum: Float[Array, "t s"]
    keep: Float[Array, " t"]  # beta
    carried: Float[Array, " t"]  # f, of the momentum before the piece
    momentum: Float[Array, " t"]  # cumulative product of eta


@dataclass(frozen=True)
class Descent:
    """Gradient descent at every token with momentum and forgetting; see the top of this file.

    Attributes:
      network: of the memory.
      window: c, tokens whose losses each update descends, itself included: 1 is Titans, more the Omega rule.
      loss: what it descends.
      limit: of weights and momentum where a chunk begins, see `networks.limited`; None is the papers' rule as it is.
      clip: the largest norm of one token's gradient by one matrix, in lengths of a value of unit variance, see `gradients`; None
        is the papers' rule as it is.
      dtype: that the factors of matrix products are rounded to, see `products`; None: as they are.

    Raises:
      ValueError: window, limit or clip is not positive, or the loss unknown.
    """

    network: Network
    window: int = 1
    loss: Loss = "l2"
    limit: float | None = LIMIT
    clip: float | None = 1.0
    dtype: Dtype = None

    def __post_init__(self) -> None:
        check_rule(self)

    @property
    def quadratic(self) -> bool:
        """Every token is multiplied with every one before it in its piece."""
        return True

    def start(self, weights: Weights, width: int, value_width: int) -> DescentState:
        """A memory of these weights, within the limit, before its first token."""
        weights = limited(weights, self.limit)
        dtype = next(iter(weights.values())).dtype
        zeros = jax.tree.map(jnp.zeros_like, weights)
        return DescentState(weights, weights, zeros, empty_past(self.window, width, value_width, dtype))

    def open(self, state: DescentState) -> DescentState:
        """From here on gradients are taken at the weights of now."""
        weights = limited(state.weights, self.limit)
        return DescentState(weights, weights, limited(state.momentum, self.limit), state.past)

    def advance(
        self,
        state: DescentState,
        tokens: Tokens,
        count: Int[Array, ""],
        scales: Float[Array, " i"] | None = None,
    ) -> tuple[DescentState, Float[Array, "t v"]]:
        """Learns and reads the first `count` of t tokens of one chunk of one head; vmap it over batch and heads.

        Args:
          state: before the first token; the gradients of all tokens are taken at its `base`, which stays.
          tokens: t of them.
          count: tokens that are there; the outputs of the others mean nothing.
          scales: of polynomial features of keys and queries; None: as they are.

        Returns:
          The state after the last token, and y_t = M_t(q_t) of every token, each token's own update included.
        """
        seen = with_past(state.past, tokens)
        layers = layer_gradients(
            self.network, self.loss, state.base, seen.key, seen.value, scales, self.dtype, self.clip
        )
        mixing = _mixing(tokens.gates, count, state.past.strength, self.window)

        def linear(name: str, x: Float[Array, "t i"]) -> Float[Array, "t o"]:
            """x_t W_t for every token."""
            first = name in self.network.first
            similar = (
                scores(x, seen.key, scales, self.dtype) if first else matmul_nt(x, layers.inputs[name], self.dtype)
            )
            read = expand(x, scales) if first else x
            # Scaled before the products, so that no derivative asks for what they give.
            return kept(
                matmul(mixing.keep[:, None] * read, state.weights[name], self.dtype)
                + matmul(mixing.carried[:, None] * read, state.momentum[name], self.dtype)
                - matmul(mixing.by_weights * kept(similar), layers.gradients[name], self.dtype)
            )

        outputs = self.network.forward(linear, tokens.query)

        taken = jnp.stack([mixing.by_weights[-1], mixing.by_momentum[-1]])
        weights, momentum = {}, {}
        for name in state.weights:
            by_weights, by_momentum = _sums(layers.inputs[name], layers.gradients[name], taken, self.dtype)
            weights[name] = (
                mixing.keep[-1] * state.weights[name] + mixing.carried[-1] * state.momentum[name] - by_weights
            )
            momentum[name] = mixing.momentum[-1] * state.momentum[name] - by_momentum
        past = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, count, self.window - 1), seen)
        return DescentState(state.base, weights, momentum, past), outputs


def _sums(
    x: Float[Array, "s i"], g: Float[Array, "s o"], rows: Float[Array, "2 s"], dtype: Dtype
) -> tuple[Float[Array, "i o"], Float[Array, "i o"]]:
    """sum_j row_j x_j^T g_j for two rows, as one product: the narrower of x and g stands there twice."""
    one, two = rows[:, :, None]
    if x.shape[1] <= g.shape[1]:
        both = matmul_tn(jnp.concatenate([one * x, two * x], axis=1), g, dtype)
        return both[: x.shape[1]], both[x.shape[1] :]
    both = matmul_tn(x, jnp.concatenate([one * g, two * g], axis=1), dtype)
    return both[:, : g.shape[1]], both[:, g.shape[1] :]


def by_momentum(gates: Gates, past: Float[Array, " w"], window: int) -> Float[Array, "t s"]:
    """B: what the gradient of each token of the window before and of the piece counts in the momentum after each token."""
    strength = jnp.concatenate([past, gates.strength])[None, :]
    rate = gates.rate[:, None]
    if window == 1:
        return ratios(gates.log_momentum) * gates.rate[None, :] * strength
    n, i = jnp.arange(len(rate))[:, None] + window - 1, jnp.arange(strength.shape[1])[None, :]
    return fading_sums(gates.log_momentum, rate * jnp.where((i <= n) & (i > n - window), strength, 0.0))


def _mixing(gates: Gates, count: Int[Array, ""], past: Float[Array, " w"], window: int) -> _Mixing:
    there = jnp.arange(len(gates.rate), dtype=count.dtype) < count
    gates = masked(gates, there)
    momentum = by_momentum(gates, past, window)
    decayed = jnp.exp(running(gates.log_momentum))
    # A token that is not there leaves the weights alone: the momentum, which stays, is not added to them once more.
    added = jnp.where(there[:, None], jnp.concatenate([momentum, decayed[:, None]], axis=1), 0.0)
    summed = kept(fading_sums(gates.log_keep, added))
    return _Mixing(summed[:, :-1], momentum, jnp.exp(running(gates.log_keep)), summed[:, -1], decayed)
