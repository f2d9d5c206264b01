"""Normalisation of activations, and the dtype that sums over them are taken in."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def sum_dtype(dtype: jnp.dtype) -> jnp.dtype:
    """The dtype to add up values of `dtype` in: itself, or float32 where it is narrower (bfloat16 keeps 8 bits)."""
    return dtype if jnp.finfo(dtype).bits >= 32 else jnp.dtype(jnp.float32)


def rms_norm(x: Float[Array, "*b d"], scale: Float[Array, " d"], epsilon: float = 1e-6) -> Float[Array, "*b d"]:
    """x / rms(x) * scale over the last axis, in float32 at least.

    Args:
      x: activations, any float dtype; the result has the same.
      scale: one factor a channel; of x's dtype, or float32 beside a narrower x.
      epsilon: added to the mean square, so that zeros stay zeros.

    Raises:
      ValueError: not one factor a channel.

    Source: Zhang and Sennrich 2019, arXiv:1910.07467, equation 4.
    """
    if scale.shape != x.shape[-1:]:
        raise ValueError(
            f"rms_norm: scale is {scale.dtype}{list(scale.shape)}, expected [{x.shape[-1]}], one a channel"
        )
    wide = x.astype(sum_dtype(x.dtype))
    mean_square = jnp.mean(jnp.square(wide), axis=-1, keepdims=True)
    scaled = wide * jax.lax.rsqrt(mean_square + epsilon) * jnp.broadcast_to(scale.astype(wide.dtype), x.shape)
    return scaled.astype(x.dtype)
