"""The inner gradient: of every weight matrix of a memory at fixed weights, token by token, as a product of two vectors.

The gradient of a token's loss by a matrix W that maps x to x W is x^T g, with g the gradient by x W. So inputs x and output
gradients g of all tokens are all that there is to know, and no gradient matrix is made per token.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from atlas_jax.memory.chunks import kept
from atlas_jax.memory.features import expand
from atlas_jax.memory.networks import Network, Weights
from atlas_jax.memory.products import Dtype, matmul

Loss = Literal["l2", "dot", "ascent"]


class LayerGradients(NamedTuple):
    """Of every weight matrix, by name."""

    inputs: dict[
        str, Float[Array, "s i"]
    ]  # what the matrix multiplies, at all keys; the features where it is the first
    gradients: dict[str, Float[Array, "s o"]]  # of each token's loss by what the matrix gives


def inner_loss(loss: Loss, predicted: Float[Array, "s v"], value: Float[Array, "s v"]) -> Float[Array, " s"]:
    """What a memory descends, of every token.

    "l2" is |M(k) - v|^2; "dot" -<M(k), v>, with which a linear memory is linear attention; "ascent" climbs the first, a control
    (arXiv:2602.21204).
    """
    if loss == "dot":
        return -jnp.sum(predicted * value, axis=-1)
    squared = jnp.sum((predicted - value) ** 2, axis=-1)
    return squared if loss == "l2" else -squared


def layer_gradients(
    network: Network,
    loss: Loss,
    weights: Weights,
    key: Float[Array, "s d"],
    value: Float[Array, "s v"],
    scales: Float[Array, " i"] | None = None,
    dtype: Dtype = None,
) -> LayerGradients:
    """Inputs and output gradients of every matrix at all tokens.

    Args:
      network: of the memory.
      loss: see `inner_loss`.
      weights: where the gradients are taken.
      key, value: of s tokens.
      scales: of polynomial features (`features.expand`) that the first matrices read; None: the keys as they are.
      dtype: of the factors of its products, see `products`.
    """

    def objective(offsets: dict[str, Array]) -> tuple[Array, dict[str, Array]]:
        inputs: dict[str, Array] = {}

        def linear(name: str, x: Array) -> Array:
            inputs[name] = expand(x, scales) if name in network.first else x
            return kept(matmul(inputs[name], weights[name], dtype)) + offsets[name]

        return jnp.sum(inner_loss(loss, network.forward(linear, key), value)), inputs

    offsets = {name: jnp.zeros((len(key), matrix.shape[1]), key.dtype) for name, matrix in weights.items()}
    gradients, inputs = jax.grad(objective, has_aux=True)(offsets)
    return LayerGradients(inputs, {name: kept(gradient) for name, gradient in gradients.items()})
