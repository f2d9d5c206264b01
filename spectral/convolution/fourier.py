"""The convolution theorem with zero padding: taps and inputs to the frequency domain, one product, and back.

A transform of T points would wrap the end of the sequence onto its start: every output would see the future. With as many
zeros as there are taps what wraps around meets zeros only. Rounding of any input still spreads over all outputs, so that a
change in the future moves the past by about 1e-7 of its size in float32, 1e-16 in float64.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float
from scipy.fft import next_fast_len

from spectral.convolution.memory import advance, memory, read
from spectral.convolution.modes import Modes, ModeState, kernel


def fft_filter(x: Float[Array, "b t h k"], taps: Float[Array, "h t2"]) -> Float[Array, "b t h k"]:
    """One filter a head over the whole sequence at once; transforms in the dtype of the taps, which bfloat16 has none of."""
    length = x.shape[1]
    points = next_fast_len(length + taps.shape[1], real=True)  # 2 T for T taps where that is a product of 2, 3 and 5
    channels = jnp.moveaxis(x, 1, -1).astype(taps.dtype)  # a transform along axis 1 would be slow
    spectrum = jnp.fft.rfft(channels, points) * jnp.fft.rfft(taps, points)[None, :, None, :]
    return jnp.moveaxis(jnp.fft.irfft(spectrum, points)[..., :length], -1, 1).astype(x.dtype)


def fft(x: Float[Array, "b t h k"], modes: Modes, state: ModeState | None) -> tuple[Float[Array, "b t h k"], ModeState]:
    """The modal convolution with its kernel written out to T taps: 8 T numbers of working memory a channel."""
    length = x.shape[1]
    block = memory(modes, length)
    y = fft_filter(x, kernel(modes, length))
    return y if state is None else read(block, y, state), advance(block, x, state)
