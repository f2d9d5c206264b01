"""The gated delta rule: a linear memory that unlearns what it holds under a key before it learns the key's new value.

With k_t, v_t the key and value of token t (phi(k_t) for k_t where there are features), theta the rate and alpha the forgetting,

  W_t = (1 - alpha_t) (I - theta_t k_t k_t^T) W_{t-1} + theta_t k_t v_t^T,   y_t = q_t W_t.

Unlike in the dual form, every gradient is taken at the weights as they are, not at those of the chunk's start. It still takes
matrix products alone, and one triangular system a chunk. With D[t, j] the product of 1 - alpha_l over j < l <= t, b_t that from
the first token on, and W the weights before it, a token adds k_t u_t^T with u_t = theta_t (v_t - (1 - alpha_t) k_t W_{t-1}), so

  W_t = b_t W + sum_{j <= t} D[t, j] k_j u_j^T,   (I + diag(theta) tril(D * K K^T, -1)) U = diag(theta) (V - b * K W).

Chunks need not begin anywhere: the weights between two tokens are the whole state.

Source: Yang et al. 2024 (Gated DeltaNet, arXiv:2412.06464), sections 3.1 (its alpha is 1 - alpha here, its beta theta, its S the
transpose of W) and 3.3, the chunked form of DeltaNet (arXiv:2406.06484). They solve for the values and for what the memory
predicts apart, before they know it; here, inside a scan over chunks, it is known, and one system of v columns gives U.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from atlas_jax.memory.decays import ratios, running
from atlas_jax.memory.features import expand, scores
from atlas_jax.memory.networks import LINEAR, Network, Weights
from atlas_jax.memory.tokens import Tokens, masked
from atlas_jax.memory.unit_triangular import solve


class DeltaState(NamedTuple):
    """The memory between two tokens.

    Attributes:
      weights: now, {"value": [d, v]}; d is the number of features where there are any.
    """

    weights: Weights


@dataclass(frozen=True)
class GatedDelta:
    """The gated delta rule of one head of one sequence; vmap it over batch and heads.

    Of the gates it takes `rate` and `log_keep`; it has no momentum and no window. Nothing grows as long as rate |k|^2 <= 2, with
    |phi(k)|^2 = sum_i a_i |k|^(2 i) for |k|^2 where there are features: at 1 the old value of a key is replaced, above 1 it is
    overshot, an eigenvalue below 0, which state tracking needs. Whoever makes the gates keeps to that.
    """

    @property
    def network(self) -> Network:
        """What learns: the linear memory, the only one that this rule has."""
        return LINEAR

    @property
    def window(self) -> int:
        """Tokens that each update is about: one."""
        return 1

    @property
    def quadratic(self) -> bool:
        """Every token is multiplied with every one before it in its piece."""
        return True

    def start(self, weights: Weights, width: int, value_width: int) -> DeltaState:
        """The memory before its first token.

        Args:
          weights: {"value": [d, v]}, as of `networks.LINEAR`.
          width: of keys and queries; unused, the memory keeps none.
          value_width: v.

        Raises:
          ValueError: other weights than one matrix "value" of v columns.
        """
        shapes = {name: matrix.shape for name, matrix in weights.items()}
        if list(shapes) != ["value"] or shapes["value"][-1] != value_width:
            raise ValueError(
                f"weights are {shapes}, expected one matrix 'value' of {value_width} columns: a linear memory"
            )
        return DeltaState(weights)

    def open(self, state: DeltaState) -> DeltaState:
        """The state as it is: nothing refers to a chunk's start."""
        return state

    def advance(
        self,
        state: DeltaState,
        tokens: Tokens,
        count: Int[Array, ""],
        scales: Float[Array, " i"] | None = None,
    ) -> tuple[DeltaState, Float[Array, "t v"]]:
        """Learns and reads the first `count` of t tokens.

        Args:
          state: before the first token.
          tokens: t of them; from `count` on they leave the state as it was, and their outputs mean nothing.
          count: 0 to t.
          scales: of the polynomial features of keys and queries (`features.polynomial_features`); None takes them as they are.

        Returns:
          The state after the last of them, and y_t = q_t W_t, each token's own update included.
        """
        gates = masked(tokens.gates, jnp.arange(len(tokens.key), dtype=count.dtype) < count)
        before = state.weights["value"]
        key, query = expand(tokens.key, scales), expand(tokens.query, scales)
        decay, kept = ratios(gates.log_keep), jnp.exp(running(gates.log_keep))
        added = solve(
            gates.rate[:, None] * decay * scores(tokens.key, tokens.key, scales),
            gates.rate[:, None] * (tokens.value - kept[:, None] * (key @ before)),
        )
        outputs = kept[:, None] * (query @ before) + (decay * scores(tokens.query, tokens.key, scales)) @ added
        after = kept[-1] * before + (decay[-1][:, None] * key).T @ added
        return DeltaState({"value": after}), outputs
