"""Token after token: the recurrence itself, a scan in split real and imaginary parts without any Toeplitz matrix.

The backward pass needs the state at every token. Keeping them all would take 2 m numbers a token and channel, so that the scan
runs in segments: only the state at each segment's start is kept, and the segment runs again on the way back.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from spectral.convolution.chunked import Convolved, in_chunks
from spectral.convolution.memory import decay, rotate
from spectral.convolution.modes import Modes, ModeState


def _token_by_token(x: Float[Array, "b t h k"], modes: Modes, state: ModeState) -> Convolved:
    factor = decay(modes, 1)
    real, imaginary = modes.real[None, ..., None], modes.imaginary[None, ..., None]

    def one_token(carry: tuple[Array, Array], token: Array) -> tuple[tuple[Array, Array], Array]:
        turned_real, turned_imaginary = rotate(factor, carry)
        carry = (turned_real + token[:, :, None].astype(turned_real.dtype), turned_imaginary)
        return carry, jnp.sum(real * carry[0] - imaginary * carry[1], axis=2).astype(token.dtype)

    start_real, start_imaginary = jnp.split(state, 2, axis=2)
    parts, y = jax.lax.scan(one_token, (start_real, start_imaginary), jnp.moveaxis(x, 1, 0))
    return jnp.moveaxis(y, 0, 1), jnp.concatenate(parts, axis=2)


def _in_segments(x: Float[Array, "b t h k"], modes: Modes, state: ModeState, segment: int) -> Convolved:
    batch, length, heads, width = x.shape

    @jax.checkpoint
    def one_segment(carry: Array, tokens: Array) -> tuple[Array, Array]:
        y, carry = _token_by_token(tokens, modes, carry)
        return carry, y

    segments = jnp.moveaxis(x.reshape(batch, length // segment, segment, heads, width), 1, 0)
    state, y = jax.lax.scan(one_segment, state, segments)
    return jnp.moveaxis(y, 0, 1).reshape(x.shape), state


def scan(x: Float[Array, "b t h k"], modes: Modes, state: ModeState | None, chunk: int) -> Convolved:
    """The recurrence, 8 m FLOPs a token and channel; `chunk` is the segment whose states are not kept."""
    return in_chunks(_in_segments, _token_by_token, x, modes, state, chunk)
