"""One block of tokens as one matmul with a lower-triangular Toeplitz matrix.

The whole sequence as one block is the "toeplitz" algorithm, the fastest for short sequences: T**2 multiplications a channel,
but in one dense product.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from spectral.convolution.memory import advance, memory, read
from spectral.convolution.modes import Modes, ModeState, kernel


def toeplitz(taps: Float[Array, "h c"]) -> Float[Array, "h c c2"]:
    """Matrix [h, s, t] = taps[t - s] for t >= s, else 0.

    Made by tiling and re-cutting, so that its gradient is a sum of slices; a gather's would be a slow scatter.
    """
    heads, length = taps.shape
    ring = jnp.concatenate([taps, jnp.zeros_like(taps)], axis=1)
    tiled = jnp.tile(ring, (1, length))[:, : length * (2 * length - 1)]
    return tiled.reshape(heads, length, 2 * length - 1)[:, :, :length]


def inside(matrix: Float[Array, "h c c2"], x: Float[Array, "*n c h k"]) -> Float[Array, "*n c h k"]:
    """Outputs of blocks that start from nothing, in the dtype of x.

    The product is bfloat16 times bfloat16 where x is, forward and backward; the hardware adds up in float32.
    """
    return jnp.einsum("hst,...shk->...thk", matrix.astype(x.dtype), x)


def whole(
    x: Float[Array, "b t h k"], modes: Modes, state: ModeState | None
) -> tuple[Float[Array, "b t h k"], ModeState]:
    """The convolution of the whole sequence as one block; without a state nothing is spent on one."""
    length = x.shape[1]
    block = memory(modes, length)
    y = inside(toeplitz(kernel(modes, length)), x)
    return y if state is None else read(block, y, state), advance(block, x, state)
