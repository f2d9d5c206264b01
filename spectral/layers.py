"""Parameter shells of the spectral blocks: Linen modules that hold arrays and call plain functions."""

from __future__ import annotations

from itertools import pairwise

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from atlas_jax.nn import linear
from spectral.convolution import Modes, ModeState, causal_convolution


def rms_norm(x: Float[Array, "*b d"], scale: Float[Array, " d"], epsilon: float = 1e-6) -> Float[Array, "*b d"]:
    """x / rms(x) * scale over the last axis (Zhang and Sennrich 2019, arXiv:1910.07467)."""
    mean_square = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(mean_square + epsilon) * jnp.broadcast_to(scale, x.shape)


def octave_modes(heads: int, modes: int, longest: float) -> tuple[np.ndarray, np.ndarray]:
    """Where the modes start: head after head, memories from 1 token up to `longest`, each head an octave-like band.

    Returns:
      log_rate [h, m] and frequency [h, m]: within a head every other mode is a pure decay, the rest turn by up to pi
      over their own memory's first tokens, so that each band can tell positions inside its scale apart.
    """
    edges = np.geomspace(1.0, longest, heads + 1)
    memory = np.stack([np.geomspace(low, high, modes, endpoint=False) for low, high in pairwise(edges)])
    turn = np.pi * np.arange(modes) / modes / np.sqrt(memory)
    return -np.log(memory), np.where(np.arange(modes) % 2 == 0, 0.0, turn)


def coefficients(log_rate: Float[np.ndarray, "h m"]) -> tuple[np.ndarray, np.ndarray]:
    """Starting coefficients, real and imaginary [h, m]: every mode with equal output power, phases over half a turn.

    The same for every seed: drawn at random they decide a small model's loss more than anything else does (spread over
    seeds .2 bits a token against .02 at width 32 and 320 steps).
    """
    modes = log_rate.shape[1]
    power = np.sqrt(1 - np.exp(-2 * np.exp(log_rate))) / np.sqrt(modes)
    phase = np.pi * np.arange(modes) / modes
    return power * np.cos(phase), power * np.sin(phase)


class RMSNorm(nn.Module):
    """Holds the scale of `rms_norm`."""

    @nn.compact
    def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
        return rms_norm(x, self.param("scale", nn.initializers.ones, (x.shape[-1],)))


class MultiHeadFrequencyLayer(nn.Module):
    """Gated causal mixing in frequency bands: (convolution(x V) * silu(x G)) O, one band of damped modes a head.

    Attributes:
      heads: bands; d must be a multiple.
      modes: damped modes a band.
      longest: memory, in tokens, of the slowest mode at the start.
      chunk: tokens per Toeplitz block, see `causal_convolution`.

    Source: the gated long convolution of Hyena (Poli et al. 2023, arXiv:2302.10866) with the modal kernel of S4D, one
    kernel a head instead of one a channel.
    """

    heads: int
    modes: int
    longest: float
    chunk: int

    @nn.compact
    def __call__(self, x: Float[Array, "b t d"], state: ModeState | None) -> tuple[Float[Array, "b t d"], ModeState]:
        batch, length, d = x.shape
        log_rate, frequency = octave_modes(self.heads, self.modes, self.longest)
        real, imaginary = coefficients(log_rate)
        modes = Modes(
            self.param("log_rate", lambda _: jnp.asarray(log_rate, jnp.float32)),
            self.param("frequency", lambda _: jnp.asarray(frequency, jnp.float32)),
            self.param("real", lambda _: jnp.asarray(real, jnp.float32)),
            self.param("imaginary", lambda _: jnp.asarray(imaginary, jnp.float32)),
        )
        w_in = self.param("in", nn.initializers.lecun_normal(), (d, 2 * d))
        w_out = self.param("out", nn.initializers.lecun_normal(), (d, d))
        value, gate = jnp.split(linear(x, w_in), 2, axis=-1)
        mixed, state = causal_convolution(
            value.reshape(batch, length, self.heads, d // self.heads), modes, state, chunk=self.chunk
        )
        return linear(mixed.reshape(batch, length, d) * nn.silu(gate), w_out), state


class FeedForward(nn.Module):
    """relu(x A)**2 B (So et al. 2021, Primer, arXiv:2109.08668)."""

    width: int

    @nn.compact
    def __call__(self, x: Float[Array, "b t d"]) -> Float[Array, "b t d"]:
        d = x.shape[-1]
        up = self.param("up", nn.initializers.lecun_normal(), (d, self.width))
        down = self.param("down", nn.initializers.lecun_normal(), (self.width, d))
        return linear(jnp.square(nn.relu(linear(x, up))), down)


class ResonanceBlock(nn.Module):
    """norm, frequency layer, residual; norm, feed-forward, residual."""

    heads: int
    modes: int
    longest: float
    chunk: int
    feed_forward: int

    @nn.compact
    def __call__(self, x: Float[Array, "b t d"], state: ModeState | None) -> tuple[Float[Array, "b t d"], ModeState]:
        mixed, state = MultiHeadFrequencyLayer(self.heads, self.modes, self.longest, self.chunk, name="mixer")(
            RMSNorm(name="mixer_norm")(x), state
        )
        x = x + mixed
        return x + FeedForward(self.feed_forward, name="feed_forward")(RMSNorm(name="feed_forward_norm")(x)), state
