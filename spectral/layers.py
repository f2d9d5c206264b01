"""Parameter shells of the spectral blocks: Linen modules that hold arrays and call plain functions."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from atlas_jax.distributed.mesh import ambient_model_mesh
from atlas_jax.distributed.sharding import constrain, over_model_mesh
from atlas_jax.nn import linear
from atlas_jax.nn.norms import rms_norm
from spectral.convolution import Modes, ModeState
from spectral.convolution.sharded import mesh_convolution

OPEN = -2.0  # threshold of a band's gate at the start, nats below the power that bands start with
QUIET = 1e-6  # energy added under the logarithm
# Names of axes, for a model that is split over devices:
ACTIVATIONS = ("batch", "time", None)  # of the residual stream
INNER = ("batch", "time", "inner")  # between two matmuls
MIXING = ("inner", None)  # of the frequency responses over channels


class LayerState(NamedTuple):
    """What one layer remembers."""

    modes: ModeState  # of the bands
    energy: Float[Array, "b g 2 2"]  # their running sums and weights; g = 0 without a band gate


def matmul(x: Float[Array, "*b d"], weight: Float[Array, "d n"]) -> Float[Array, "*b n"]:
    """x @ weight in the dtype of x; the parameter stays float32."""
    weight = weight.astype(x.dtype)
    # The other's weight gradient puts batch and time in one axis, which cannot be split over devices by both.
    return x @ weight if ambient_model_mesh() else linear(x, weight)


def two_matmuls(
    x: Float[Array, "b t d"], weight: Float[Array, "d n2"]
) -> tuple[Float[Array, "b t n"], Float[Array, "b t n"]]:
    """x times the left and the right half of a weight."""
    if ambient_model_mesh() is None:
        left, right = jnp.split(matmul(x, weight), 2, axis=-1)
        return left, right
    # Split over devices as one matrix, a device would get other channels of the one half than of the other.
    halves = [constrain("weight", half, None, "inner") for half in jnp.split(weight.astype(x.dtype), 2, axis=1)]
    left, right = (constrain("channels", x @ half, *INNER) for half in halves)
    return left, right


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
    """Gated causal mixing in frequency bands: (gate(convolution(x V)) * silu(x G)) O, one band of damped modes a head.

    Attributes:
      heads: bands; d must be a multiple.
      modes: damped modes a band.
      longest: memory, in tokens, of the slowest mode at the start.
      chunk: tokens per Toeplitz block, see `causal_convolution`.
      band_gate: whether `AdvancedSpectralGating` acts on the bands.

    Source: the gated long convolution of Hyena (Poli et al. 2023, arXiv:2302.10866) with the modal kernel of S4D, one
    kernel a head instead of one a channel.
    """

    heads: int
    modes: int
    longest: float
    chunk: int
    band_gate: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "b t d"], state: LayerState | None) -> tuple[Float[Array, "b t d"], LayerState]:
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
        value, gate = two_matmuls(x, w_in)
        bands, mode_state = mesh_convolution(
            value.reshape(batch, length, self.heads, d // self.heads),
            modes,
            None if state is None else state.modes,
            chunk=self.chunk,
        )
        energy = None if state is None else state.energy
        if self.band_gate:
            shares, energy = AdvancedSpectralGating(self.longest, self.chunk, name="band_gate")(x, bands, energy)
            bands = bands * shares[..., None]
        elif energy is None:
            energy = jnp.zeros((batch, 0, 2, 2), mode_state.dtype)
        return matmul(bands.reshape(batch, length, d) * nn.silu(gate), w_out), LayerState(mode_state, energy)


class AdvancedSpectralGating(nn.Module):
    """How far each band is let through at each token: sigmoid(x W + slope (log energy - threshold)), one number a band.

    The energy is a running mean of the band's own squared output up to t, as long as the band's memory, so a band that has gone
    quiet is shut and one that carries something is open; nothing in it depends on the future or on the whole sequence's spectrum
    (the published gate does, and so leaks).

    Attributes:
      longest: memory of the slowest band, in tokens, see `octave_modes`.
      chunk: tokens per block of the running mean.
    """

    longest: float
    chunk: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "b t d"], bands: Float[Array, "b t h k"], state: Float[Array, "b h 2 2"] | None
    ) -> tuple[Float[Array, "b t h"], Float[Array, "b h 2 2"]]:
        heads = bands.shape[2]
        weight = self.param("weight", nn.initializers.zeros, (x.shape[-1], heads))
        slope = self.param("slope", nn.initializers.ones, (heads,))
        threshold = self.param("threshold", nn.initializers.constant(OPEN), (heads,))
        rate = jnp.asarray(octave_modes(heads, 1, self.longest)[0], slope.dtype)
        zero = jnp.zeros_like(rate)
        decaying = Modes(rate, zero, jnp.ones_like(rate), zero)
        power = jnp.mean(jnp.square(bands.astype(slope.dtype)), axis=-1)
        # Summed beside the weights, so that it is a mean from the first token on.
        summed, state = mesh_convolution(
            jnp.stack([power, jnp.ones_like(power)], axis=-1), decaying, state, chunk=self.chunk
        )
        loudness = jnp.log(summed[..., 0] / summed[..., 1] + QUIET)
        asked = matmul(x, weight).astype(slope.dtype)
        shares = nn.sigmoid(asked + (loudness - threshold[None, None]) * slope[None, None])
        return shares.astype(x.dtype), state


class FeedForward(nn.Module):
    """relu(x A)**2 B (So et al. 2021, Primer, arXiv:2109.08668)."""

    width: int

    @nn.compact
    def __call__(self, x: Float[Array, "b t d"]) -> Float[Array, "b t d"]:
        d = x.shape[-1]
        up = self.param("up", nn.initializers.lecun_normal(), (d, self.width))
        down = self.param("down", nn.initializers.lecun_normal(), (self.width, d))
        inner = constrain("channels", matmul(x, up), *INNER)
        return matmul(jnp.square(nn.relu(inner)), down)


def mix_blocks(
    x: Float[Array, "b t n"], real: Float[Array, "blocks f"], imaginary: Float[Array, "blocks f"]
) -> Float[Array, "b t n"]:
    """A circular convolution within each block of channels, given by its frequency response; by FFT, in float32 at least."""
    block = x.shape[-1] // len(real)
    inner = x.reshape(*x.shape[:-1], len(real), block)
    spectrum = jnp.fft.rfft(inner.astype(real.dtype)) * jax.lax.complex(real, imaginary)[None, None]
    return jnp.fft.irfft(spectrum, n=block).reshape(x.shape).astype(x.dtype)


class SpectralFFN(nn.Module):
    """relu(mix(relu(x A)))**2 B, where mix is a circular convolution within blocks of inner channels, by FFT.

    A layer between the two dense ones for width/2 + width/block complex numbers instead of width**2: a block-circulant matrix
    (Cheng et al. 2015, arXiv:1502.03436), diagonal in the frequency domain over channels. Channels have no order in time, so
    this cannot leak. It starts as the identity, where the layer equals `FeedForward`.

    Attributes:
      width: inner channels, a multiple of `block`.
      block: channels that are mixed with one another.
    """

    width: int
    block: int

    @nn.compact
    def __call__(self, x: Float[Array, "b t d"]) -> Float[Array, "b t d"]:
        d, blocks = x.shape[-1], self.width // self.block
        up = self.param("up", nn.initializers.lecun_normal(), (d, self.width))
        down = self.param("down", nn.initializers.lecun_normal(), (self.width, d))
        shape = (blocks, self.block // 2 + 1)
        real = self.param("real", nn.initializers.ones, shape)
        imaginary = self.param("imaginary", nn.initializers.zeros, shape)
        mixed = over_model_mesh(mix_blocks, (INNER, MIXING, MIXING), INNER)(nn.relu(matmul(x, up)), real, imaginary)
        return matmul(jnp.square(nn.relu(mixed)), down)


class ResonanceLayer(nn.Module):
    """norm, frequency layer, residual; norm, feed-forward, residual.

    Attributes: see `spectral.resonance.ResonanceConfig`.
    """

    heads: int
    modes: int
    longest: float
    chunk: int
    feed_forward: int
    band_gate: bool = False
    channel_block: int = 0

    @nn.compact
    def __call__(self, x: Float[Array, "b t d"], state: LayerState | None) -> tuple[Float[Array, "b t d"], LayerState]:
        mixed, state = MultiHeadFrequencyLayer(
            self.heads, self.modes, self.longest, self.chunk, self.band_gate, name="mixer"
        )(RMSNorm(name="mixer_norm")(x), state)
        x = constrain("x", x + mixed, *ACTIVATIONS)
        inner = RMSNorm(name="feed_forward_norm")(x)
        if self.channel_block:
            transformed = SpectralFFN(self.feed_forward, self.channel_block, name="feed_forward")(inner)
        else:
            transformed = FeedForward(self.feed_forward, name="feed_forward")(inner)
        return constrain("x", x + transformed, *ACTIVATIONS), state
