"""Damped modes: the parameters of a causal kernel that is a sum of them, and the state that streams it.

The kernel of a head is k[t] = sum_m Re(c_m lambda_m**t) with |lambda_m| < 1. The state holds s_m = sum over the past of
lambda_m**(t - s) x[s], m complex numbers a head and channel, whatever the length.

Source: the diagonal state-space view of long convolutions (Gu et al. 2022, S4D, arXiv:2206.11893; Smith et al. 2023,
S5, arXiv:2208.04933).
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float


class Modes(NamedTuple):
    """Damped modes of each head: lambda = exp(-exp(log_rate) + i frequency), coefficient c = real + i imaginary."""

    log_rate: Float[Array, "h m"]  # log of the decay per token; exp(-log_rate) is the memory in tokens
    frequency: Float[Array, "h m"]  # radians per token
    real: Float[Array, "h m"]  # coefficient, real part
    imaginary: Float[Array, "h m"]  # coefficient, imaginary part


# Real and imaginary parts of the mode states, stacked: complex arithmetic is twice as slow on a CPU.
ModeState = Float[Array, "b h m2 k"]


def init_state(batch: int, heads: int, modes: int, width: int) -> ModeState:
    """The state before the first token, float32."""
    return jnp.zeros((batch, heads, 2 * modes, width))


def powers(modes: Modes, exponents: Float[Array, " c"]) -> tuple[Float[Array, "h m c"], Float[Array, "h m c"]]:
    """Real and imaginary part of lambda**exponents.

    In float32 the angle of a far tap is off by up to half its last digit: as if the frequency were another float32 next to it.
    """
    exponents = exponents[None, None, :]
    decay = jnp.exp(-jnp.exp(modes.log_rate)[..., None] * exponents)
    angle = modes.frequency[..., None] * exponents
    return decay * jnp.cos(angle), decay * jnp.sin(angle)


def kernel(modes: Modes, length: int) -> Float[Array, "h t"]:
    """The first `length` taps of every head's kernel."""
    real, imaginary = powers(modes, jnp.arange(length, dtype=modes.real.dtype))
    return jnp.einsum("hm,hmt->ht", modes.real, real) - jnp.einsum("hm,hmt->ht", modes.imaginary, imaginary)
