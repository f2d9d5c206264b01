"""What a memory computes: small networks of d inputs and d outputs, written once for plain and for time-varying weights.

A network is a function of `linear(name, x)`, which multiplies by the weight matrix of that name. The dual form gives a `linear`
whose weights change at every token without ever making them (`atlas_jax.memory.dual`).

Source: Titans (arXiv:2501.00663) section 3, ATLAS (arXiv:2505.23735) section 5.1, GELU in its tanh form, expansion 4.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

Weights = dict[str, Float[Array, "..."]]
Linear = Callable[[str, Float[Array, "t i"]], Float[Array, "t o"]]

LIMIT = 10.0  # of weights, in units of fresh ones


@dataclass(frozen=True)
class Network:
    """A memory's architecture.

    Attributes:
      name: of it.
      forward: (linear, x [t, d]) to [t, v].
      shapes: of the weights, from the width that the first matrices read, the output width and the hidden width.
      first: names of the matrices that read the input, or its features (`features.expand`); x is added as it is.
      residual: whether x is added, so that v = d.
    """

    name: str
    forward: Callable[[Linear, Float[Array, "t d"]], Float[Array, "t v"]]
    shapes: Callable[[int, int, int], dict[str, tuple[int, int]]]
    first: frozenset[str]
    residual: bool = False

    def init(self, key: Key[Array, ""], width: int, value_width: int, hidden: int) -> Weights:
        """Fresh weights of variance 1 / inputs, float32 (float64 under x64)."""
        shapes = self.shapes(width, value_width, hidden)
        keys = jax.random.split(key, len(shapes))
        return {
            name: jax.random.normal(key, shape) * shape[0] ** -0.5
            for key, (name, shape) in zip(keys, shapes.items(), strict=True)
        }


def _gelu(x: Array) -> Array:
    return jax.nn.gelu(x, approximate=True)


def _linear(linear: Linear, x: Float[Array, "t d"]) -> Float[Array, "t v"]:
    """x W."""
    return linear("value", x)


def _mlp(linear: Linear, x: Float[Array, "t d"]) -> Float[Array, "t d"]:
    """x + gelu(x W_up) W_down."""
    return x + linear("down", _gelu(linear("up", x)))


def _gated_mlp(linear: Linear, x: Float[Array, "t d"]) -> Float[Array, "t d"]:
    """x + (gelu(x W_gate) * x W_up) W_down."""
    return x + linear("down", _gelu(linear("gate", x)) * linear("up", x))


def _linear_shapes(width: int, value_width: int, hidden: int) -> dict[str, tuple[int, int]]:
    del hidden
    return {"value": (width, value_width)}


def _mlp_shapes(width: int, value_width: int, hidden: int) -> dict[str, tuple[int, int]]:
    return {"up": (width, hidden), "down": (hidden, value_width)}


def _gated_mlp_shapes(width: int, value_width: int, hidden: int) -> dict[str, tuple[int, int]]:
    return {"gate": (width, hidden), **_mlp_shapes(width, value_width, hidden)}


LINEAR = Network("linear", _linear, _linear_shapes, frozenset({"value"}))
MLP = Network("mlp", _mlp, _mlp_shapes, frozenset({"up"}), residual=True)
GATED_MLP = Network("gated mlp", _gated_mlp, _gated_mlp_shapes, frozenset({"gate", "up"}), residual=True)


def limited(weights: Weights, limit: float | None) -> Weights:
    """Weights whose root mean square column norm, |W|_F / sqrt(columns), is at most `limit`; fresh ones are near 1.

    Taken where a chunk begins, it bounds what a memory can become, whatever it reads: gradients within a chunk are those at
    bounded weights. No limit is None.
    """
    if limit is None:
        return weights

    def one(matrix: Array) -> Array:
        most, square = limit * matrix.shape[-1] ** 0.5, jnp.sum(jnp.square(matrix))
        return jnp.where(square > most**2, most * jax.lax.rsqrt(jnp.maximum(square, most**2)), 1.0) * matrix

    return jax.tree.map(one, weights)


NETWORKS = {network.name: network for network in (LINEAR, MLP, GATED_MLP)}
