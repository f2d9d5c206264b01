"""The short causal convolution that stands before a memory or an attention: each channel on its own, a few tokens wide."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from atlas_jax.nn.norms import sum_dtype


def init_kernel(key: Key[Array, ""], shape: tuple[int, int]) -> Float[Array, "w d"]:
    """Factors [width, channels] that pass the input on, and random ones half as large.

    Where they start closer to passing it on alone, what followed an earlier token is found later: after 768 steps a Titans memory
    of 64 tokens had 23 % of the answers about 8 pairs right with random numbers of 0.1, 86 % with 0.5; attention 52 and 88 %.
    """
    return jnp.zeros(shape).at[0].set(1.0) + 0.5 * jax.random.normal(key, shape)


def init_past(batch: int, width: int, channels: int) -> Float[Array, "b w1 d"]:
    """The inputs before the first token: width - 1 zeros, float32.

    Args:
      batch: sequences.
      width: tokens that each output sees, its own included.
      channels: of the inputs.
    """
    return jnp.zeros((batch, width - 1, channels))


def _check(x: Array, kernel: Array, past: Array | None) -> None:
    if x.ndim != 3:
        raise ValueError(f"short_convolution: x is {x.dtype} {x.shape}, expected [batch, time, channels]")
    if kernel.ndim != 2 or kernel.shape[0] < 1 or kernel.shape[1] != x.shape[-1]:
        raise ValueError(
            f"short_convolution: kernel is {kernel.shape}, expected [width, channels] with a width of at least 1 and the "
            f"{x.shape[-1]} channels of x"
        )
    expected = (x.shape[0], kernel.shape[0] - 1, x.shape[-1])
    if past is not None and (past.shape != expected or past.dtype != x.dtype):
        raise ValueError(f"short_convolution: past is {past.dtype} {past.shape}, expected {x.dtype} {expected}")


def short_convolution(
    x: Float[Array, "b t d"], kernel: Float[Array, "w d"], past: Float[Array, "b w1 d"] | None = None
) -> tuple[Float[Array, "b t d"], Float[Array, "b w1 d"]]:
    """y_t = sum over j < w of kernel[j] x_{t-j}, channel by channel, and the inputs that the next call goes on from.

    Any split of a sequence with `past` carried gives the same outputs; a step is a sequence of one token. Sums are taken in
    float32 at least. It is w shifted multiply-adds, which a compiler makes one pass over x: forward and backward about 3 ms
    of CPU time instead of the convolution primitive's 120 (w = 4, float32, 4 sequences of 1,024 tokens, 256 channels).

    Args:
      x: inputs, any float dtype; the result has the same.
      kernel: w factors a channel, that of the token itself first; of x's dtype, or float32 beside a narrower x. In a shard_map
        that checks what varies it must vary as x does (`jax.lax.pcast`), as its derivative is a custom one.
      past: the last w - 1 inputs, oldest first, of x's dtype; None at the start of a sequence (zeros).

    Returns:
      The convolved inputs, and the last w - 1 inputs.

    Raises:
      ValueError: x has other axes, the kernel is empty or has other channels than x, or the past is another convolution's.
    """
    _check(x, kernel, past)
    width, length = kernel.shape[0], x.shape[1]
    before = init_past(x.shape[0], width, x.shape[2]).astype(x.dtype) if past is None else past
    inputs = jnp.concatenate([before, x], axis=1)
    return _weighted(inputs, kernel), inputs[:, length:]


@jax.custom_vjp
def _weighted(inputs: Float[Array, "b s d"], kernel: Float[Array, "w d"]) -> Float[Array, "b t d"]:
    """The sums at all places that have w - 1 inputs before them."""
    width = kernel.shape[0]
    length = inputs.shape[1] - width + 1
    wide = inputs.astype(sum_dtype(inputs.dtype))
    factors = kernel.astype(wide.dtype)[:, None, None, :]
    y = factors[0] * wide[:, width - 1 :]
    for j in range(1, width):
        y = y + factors[j] * wide[:, width - 1 - j : width - 1 - j + length]
    return y.astype(inputs.dtype)


def _forward(inputs: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _weighted(inputs, kernel), (inputs, kernel)


def _backward(saved: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
    """Shifts the cotangent and not the inputs: XLA would keep a copy of those for each shift from the forward pass on."""
    inputs, kernel = saved
    (width, _), size, dtype = kernel.shape, inputs.shape[1], sum_dtype(inputs.dtype)
    padded = jnp.pad(cotangent.astype(dtype), ((0, 0), (width - 1, width - 1), (0, 0)))
    shifted = [padded[:, j : j + size] for j in range(width)]  # of y_t at the place of x_{t-j}
    factors, x = kernel.astype(dtype)[:, None, None, :], inputs.astype(dtype)
    of_inputs = factors[0] * shifted[0]
    for j in range(1, width):
        of_inputs = of_inputs + factors[j] * shifted[j]
    of_kernel = jnp.stack([jnp.sum(x * one, axis=(0, 1)) for one in shifted])
    return of_inputs.astype(inputs.dtype), of_kernel.astype(kernel.dtype)


_weighted.defvjp(_forward, _backward)
