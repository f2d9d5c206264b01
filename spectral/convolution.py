"""Causal convolution with a kernel that is a sum of damped modes, chunk by chunk, with an exact streaming state.

Inside a chunk the kernel is a lower-triangular Toeplitz matmul; between chunks only m complex states a head and channel
travel. The kernel is k[t] = sum_m Re(c_m lambda_m**t), so the state after any number of tokens has the same small size.

Source: the diagonal state-space view of long convolutions (Gu et al. 2022, S4D, arXiv:2206.11893; Smith et al. 2023,
S5, arXiv:2208.04933); the chunking is the one of structured state-space duality (Dao and Gu 2024, arXiv:2405.21060) for
a time-invariant transition.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
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


def powers(modes: Modes, exponents: Float[Array, " c"]) -> tuple[Float[Array, "h m c"], Float[Array, "h m c"]]:
    """Real and imaginary part of lambda**exponents."""
    exponents = exponents[None, None, :]
    decay = jnp.exp(-jnp.exp(modes.log_rate)[..., None] * exponents)
    angle = modes.frequency[..., None] * exponents
    return decay * jnp.cos(angle), decay * jnp.sin(angle)


def kernel(modes: Modes, length: int) -> Float[Array, "h t"]:
    """The first `length` taps of every head's kernel."""
    real, imaginary = powers(modes, jnp.arange(length, dtype=modes.real.dtype))
    return jnp.einsum("hm,hmt->ht", modes.real, real) - jnp.einsum("hm,hmt->ht", modes.imaginary, imaginary)


def toeplitz(taps: Float[Array, "h c"]) -> Float[Array, "h c c2"]:
    """Matrix [h, s, t] = taps[t - s] for t >= s, else 0.

    Made by tiling and re-cutting, so that its gradient is a sum of slices; a gather's would be a slow scatter.
    """
    heads, length = taps.shape
    ring = jnp.concatenate([taps, jnp.zeros_like(taps)], axis=1)
    tiled = jnp.tile(ring, (1, length))[:, : length * (2 * length - 1)]
    return tiled.reshape(heads, length, 2 * length - 1)[:, :, :length]


def init_state(batch: int, heads: int, modes: int, width: int) -> ModeState:
    """The state before the first token, float32."""
    return jnp.zeros((batch, heads, 2 * modes, width))


def _mix_chunk(modes: Modes, x: Float[Array, "b c h k"], state: ModeState | None) -> Float[Array, "b c h k"]:
    """Outputs of one chunk that starts in `state`."""
    length = x.shape[1]
    y = jnp.einsum("hst,bshk->bthk", toeplitz(kernel(modes, length)), x)
    if state is None:
        return y
    real, imaginary = powers(modes, jnp.arange(1, length + 1, dtype=modes.real.dtype))
    cr, ci = modes.real[..., None], modes.imaginary[..., None]
    readout = jnp.concatenate([cr * real - ci * imaginary, -(cr * imaginary + ci * real)], axis=1)
    return y + jnp.einsum("hmt,bhmk->bthk", readout, state)


def _advance(modes: Modes, x: Float[Array, "b c h k"], state: ModeState | None) -> ModeState:
    """The state after a chunk."""
    length = x.shape[1]
    real, imaginary = powers(modes, jnp.arange(length - 1, -1, -1, dtype=modes.real.dtype))
    into = jnp.einsum("hms,bshk->bhmk", jnp.concatenate([real, imaginary], axis=1), x)
    if state is None:
        return into
    decay_real, decay_imaginary = (part[None] for part in powers(modes, jnp.full((1,), length, modes.real.dtype)))
    real, imaginary = jnp.split(state, 2, axis=2)
    carried = [decay_real * real - decay_imaginary * imaginary, decay_real * imaginary + decay_imaginary * real]
    return into + jnp.concatenate(carried, axis=2)


def causal_convolution(
    x: Float[Array, "b t h k"], modes: Modes, state: ModeState | None = None, *, chunk: int = 128
) -> tuple[Float[Array, "b t h k"], ModeState]:
    """y[t] = sum over s <= t of kernel[t - s] x[s], and the state that lets the next call go on from here.

    Args:
      x: inputs; the kernel of a head is shared by its k channels.
      modes: damped modes per head, same dtype as x.
      state: where an earlier call stopped; None at the start of a sequence (then nothing is spent on it).
      chunk: tokens per Toeplitz block. Cost per token and channel is about 2 chunk + 8 m FLOPs.

    Returns:
      The outputs, and the state after the last token: [b, h, 2 m, k], real parts then imaginary parts.
    """
    batch, length, heads, width = x.shape
    whole = length // chunk
    if whole <= 1 and length <= chunk:
        return _mix_chunk(modes, x, state), _advance(modes, x, state)
    if state is None:
        state = jnp.zeros((batch, heads, 2 * modes.real.shape[1], width), x.dtype)

    def one_chunk(carry: Array, chunk_x: Array) -> tuple[Array, Array]:
        return _advance(modes, chunk_x, carry), _mix_chunk(modes, chunk_x, carry)

    chunks = jnp.moveaxis(x[:, : whole * chunk].reshape(batch, whole, chunk, heads, width), 1, 0)
    state, y = jax.lax.scan(one_chunk, state, chunks)
    y = jnp.moveaxis(y, 0, 1).reshape(batch, whole * chunk, heads, width)
    if length % chunk:
        rest = x[:, whole * chunk :]
        y = jnp.concatenate([y, _mix_chunk(modes, rest, state)], axis=1)
        state = _advance(modes, rest, state)
    return y, state
