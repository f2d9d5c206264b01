"""What a memory computes: small networks of d inputs and d outputs, written once for plain and for time-varying weights.

A network is a function of `linear(name, x)`, which multiplies by the weight matrix of that name. The dual form gives a `linear`
whose weights change at every token without ever making them (`atlas_jax.memory.dual`).

Source: Titans (arXiv:2501.00663) section 3, ATLAS (arXiv:2505.23735) section 5.1, GELU in its tanh form, expansion 4.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
from jaxtyping import Array, Float, Key

Weights = dict[str, Float[Array, "..."]]
Linear = Callable[[str, Float[Array, "t i"]], Float[Array, "t o"]]

EXPANSION = 4


@dataclass(frozen=True)
class Network:
    """A memory's architecture.

    Attributes:
      name: of it.
      forward: (linear, x [t, d]) to [t, d].
      shapes: of the weights, from the input width, the output width and the hidden width.
    """

    name: str
    forward: Callable[[Linear, Float[Array, "t d"]], Float[Array, "t v"]]
    shapes: Callable[[int, int, int], dict[str, tuple[int, int]]]

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


LINEAR = Network("linear", _linear, lambda d, v, h: {"value": (d, v)})
MLP = Network("mlp", _mlp, lambda d, v, h: {"up": (d, h), "down": (h, v)})
GATED_MLP = Network("gated mlp", _gated_mlp, lambda d, v, h: {"gate": (d, h), "up": (d, h), "down": (h, v)})
NETWORKS = {network.name: network for network in (LINEAR, MLP, GATED_MLP)}
