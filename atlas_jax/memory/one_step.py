"""Rules that move a memory's weights once a chunk: Atlas with Muon, and the large chunks of LaCT.

Within a chunk that starts at t' everything is read from the weights W of its start, and only the momentum goes on,

  y_t = M_{t'}(q_t),   S_t = eta_t S_{t-1} - theta_t sum_{t-c < i <= t} gamma_i grad loss(M_{t'}; k_i, v_i),

so that a chunk costs one product over its tokens a matrix. At its end, after C tokens,

  W <- prod(1 - alpha) W + S_C,   or   W <- prod(1 - alpha) W + mean(theta) NS(S_C)

with NS the Newton-Schulz orthogonalisation: first the momentum, then NS of it; eta stays outside, because NS forgets the scale.
Weights and momentum are then `limited`, as in every rule, or columns brought back to the norms of the first weights.

No call knows that it is the chunk's last, so the weights move when the next chunk is opened. A token's own chunk is never seen by
its query: attention over at least a chunk has to stand beside such a memory.

Source: ATLAS (arXiv:2505.23735) equations 32 and 33, LaCT (Zhang et al. 2025, arXiv:2505.23884) section 3. Both deviate from what
was published; see `OneStep.atlas` and `OneStep.lact`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from atlas_jax.memory.checks import check_rule
from atlas_jax.memory.features import expand
from atlas_jax.memory.gradients import Loss, layer_gradients
from atlas_jax.memory.networks import GATED_MLP, LIMIT, MLP, Network, Weights, limited
from atlas_jax.memory.newton_schulz import CLASSIC, TUNED, Coefficients, orthogonalise
from atlas_jax.memory.products import Dtype, matmul, matmul_tn
from atlas_jax.memory.tokens import Past, Tokens, empty_past, masked, with_past


class OneStepState(NamedTuple):
    """A memory between two tokens.

    Attributes:
      weights: at the start of the open chunk: what is read, and where gradients are taken.
      momentum: now.
      past: the last window - 1 tokens.
      log_keep: sum of log(1 - alpha) over the open chunk.
      rate: sum of theta over the open chunk.
      learnt: tokens of the open chunk so far.
      norms: of the columns of the first weights, each [o]; empty where columns are free.
    """

    weights: Weights
    momentum: Weights
    past: Past
    log_keep: Float[Array, ""]
    rate: Float[Array, ""]
    learnt: Int[Array, ""]
    norms: Weights


@dataclass(frozen=True)
class OneStep:
    """One step of the weights a chunk, of one head of one sequence; vmap it over batch and heads. Static under jit.

    Attributes:
      network: of the memory.
      window: tokens whose losses each token's gradient sums, itself included.
      loss: see `gradients.inner_loss`.
      orthogonalise: (a, b, c) of every Newton-Schulz step, `newton_schulz.CLASSIC` or `TUNED`; a step then has singular values
        near mean(theta), whatever the gradients. None steps by the momentum as it is.
      unit_columns: every column of W [in, out], the weights of one output, keeps its norm at the start of the sequence or shard.
      limit: of weights and momentum where a chunk begins, see `networks.limited`; None never.
      dtype: that the factors of products over tokens are rounded to, see `products`; None: as they are. NS stays float32.

    Raises:
      ValueError: window or limit is not positive, or the loss unknown.
    """

    network: Network
    window: int = 1
    loss: Loss = "l2"
    orthogonalise: Coefficients | None = None
    unit_columns: bool = False
    limit: float | None = LIMIT
    dtype: Dtype = None

    def __post_init__(self) -> None:
        check_rule(self)

    @classmethod
    def atlas(cls, network: Network = MLP, window: int = 1, coefficients: Coefficients = CLASSIC) -> OneStep:
        """Atlas: the Omega window, Muon, decay.

        Deviations from ATLAS equations 32 and 33: one NS a chunk, not one a token. theta is in the momentum too, where it says
        how much each token counts in the direction, besides giving the step its length. With chunks of one token and a theta that
        is the same for all, the weights are those of the equations. y_t is read from the weights before token t, not after.
        `limit` is ours.
        """
        return cls(network, window, orthogonalise=coefficients)

    @classmethod
    def lact(cls, network: Network = GATED_MLP, coefficients: Coefficients | None = TUNED) -> OneStep:
        """LaCT: large chunks, the loss -<M(k), v>, momentum, Muon (None: without), norms of columns kept. Give it log_keep = 0.

        Deviations from the published code (lact_llm): momentum fades token by token, where theirs is multiplied by one mean eta a
        chunk, which is the same where only a chunk's first token has a momentum gate below 1; Muon's step is mean(theta) long,
        theirs 1; one theta for all matrices, theirs has one for each; NS in float32, theirs in bfloat16; no 1e-5 beside norms.
        Their network is gated with SiLU and does not add x.
        """
        return cls(network, loss="dot", orthogonalise=coefficients, unit_columns=True, limit=None)

    @property
    def quadratic(self) -> bool:
        """Tokens meet in sums alone."""
        return False

    def start(self, weights: Weights, width: int, value_width: int) -> OneStepState:
        """The memory before its first token.

        Args:
          weights: the first ones, each [i, o].
          width, value_width: channels of a key and of a value.
        """
        weights = limited(weights, self.limit)
        dtype = next(iter(weights.values())).dtype
        zero = jnp.zeros((), dtype)
        momentum = jax.tree.map(jnp.zeros_like, weights)
        norms = jax.tree.map(_column_norms, weights) if self.unit_columns else {}
        past = empty_past(self.window, width, value_width, dtype)
        return OneStepState(weights, momentum, past, zero, zero, jnp.zeros((), jnp.int32), norms)

    def open(self, state: OneStepState) -> OneStepState:
        """Ends the open chunk by moving the weights, and begins the next; where no token was learnt nothing moves."""
        ended = (self._moved(state), limited(state.momentum, self.limit))
        weights, momentum = jax.tree.map(
            lambda new, old: jnp.where(state.learnt > 0, new, old), ended, (state.weights, state.momentum)
        )
        zero = jnp.zeros_like(state.rate)
        return OneStepState(weights, momentum, state.past, zero, zero, jnp.zeros_like(state.learnt), state.norms)

    def advance(
        self,
        state: OneStepState,
        tokens: Tokens,
        count: Int[Array, ""],
        scales: Float[Array, " i"] | None = None,
    ) -> tuple[OneStepState, Float[Array, "t v"]]:
        """Reads t tokens of the open chunk, and takes the first `count` of them into the momentum.

        Args:
          state: before the first token.
          tokens: t of them; from `count` on they leave the state as it was, and their outputs mean nothing.
          count: 0 to t.
          scales: of polynomial features that the first matrices read (`features.expand`); None: keys and queries as they are.

        Returns:
          The state after the last of them, and y_t = M_{t'}(q_t) of every token.
        """

        def linear(name: str, x: Float[Array, "t i"]) -> Float[Array, "t o"]:
            read = expand(x, scales) if name in self.network.first else x
            return matmul(read, state.weights[name], self.dtype)

        gates = masked(tokens.gates, jnp.arange(len(tokens.query), dtype=count.dtype) < count)
        seen = with_past(state.past, tokens)
        layers = layer_gradients(self.network, self.loss, state.weights, seen.key, seen.value, scales, self.dtype)
        # Sums up to the last token, not differences of sums from the first, which tokens without momentum would round.
        onwards = jax.lax.cumsum(gates.log_momentum, reverse=True)
        share = gates.rate * jnp.exp(jnp.pad(onwards[1:], (0, 1)))  # of every token's gradient in the last momentum
        by_momentum = (_windowed(share, self.window) * seen.strength)[:, None]
        momentum = {
            name: jnp.exp(onwards[0]) * before
            - matmul_tn(by_momentum * layers.inputs[name], layers.gradients[name], self.dtype)
            for name, before in state.momentum.items()
        }
        after = state._replace(
            momentum=momentum,
            past=Past(*(jax.lax.dynamic_slice_in_dim(x, count, self.window - 1) for x in seen)),
            log_keep=state.log_keep + jnp.sum(gates.log_keep),
            rate=state.rate + jnp.sum(gates.rate),
            learnt=state.learnt + count.astype(state.learnt.dtype),
        )
        return after, self.network.forward(linear, tokens.query)

    def _moved(self, state: OneStepState) -> Weights:
        """The weights after the open chunk."""
        step = state.momentum
        if self.orthogonalise is not None:
            coefficients = self.orthogonalise
            mean = state.rate / jnp.maximum(state.learnt, 1).astype(state.rate.dtype)
            step = jax.tree.map(lambda s: mean * orthogonalise(s, coefficients), step)
        keep = jnp.exp(state.log_keep)
        moved = limited(jax.tree.map(lambda w, s: keep * w + s, state.weights, step), self.limit)
        return jax.tree.map(_with_norms, moved, state.norms) if self.unit_columns else moved


def _windowed(share: Float[Array, " t"], window: int) -> Float[Array, " s"]:
    """Of each of the window - 1 tokens before and the t of now, the shares of all updates in whose window it stands, summed."""
    if window == 1:
        return share
    zero = share.dtype.type(0)
    return jax.lax.reduce_window(share, zero, jax.lax.add, (window,), (1,), [(window - 1, window - 1)])


def _column_norms(matrix: Float[Array, "i o"]) -> Float[Array, " o"]:
    """Euclidean norms; the inner where keeps the root's infinite slope at 0 out of the gradient."""
    square = jnp.sum(jnp.square(matrix), axis=0)
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)


def _with_norms(matrix: Float[Array, "i o"], norms: Float[Array, " o"]) -> Float[Array, "i o"]:
    """The matrix with columns of these norms; a column of zeros has no direction and stays."""
    now = _column_norms(matrix)
    return matrix * (norms / jnp.where(now > 0, now, 1.0))[None, :]
