"""The parts of a Temporal Eigenstate layer: plain functions, and Linen modules that hold their parameters.

Axes beside those of `atlas_jax.types`: w channels of a mode, p parts of a drive. A head is a group of m eigenvalues that
see the same w complex inputs; one eigenvalue for all of a head's channels is what makes it learn (at d = 128 and 640 steps
2.21 bits a byte against 2.26 with an eigenvalue for each channel, other things equal).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from atlas_jax.nn.norms import sum_dtype
from spectral.layers import FeedForward, RMSNorm, matmul, octave_modes
from spectral.scans import Split, fixed_scan, times, varying_scan

# Bounds of the log decay rate: memories from a fiftieth of a block to 1.2 million blocks. Below the lower one a float32 decay
# rounds to 1 and the mode would never forget; above the upper one the gradient of the rate overflows.
LOG_RATE = (-14.0, 4.0)

Drive = Float[Array, "b t h p"]
# (heads, mean drive of each block) -> transition [h, m, w] or [b, t, h, m, w], and inputs [b, t, h, m, w].
Terms = Callable[[slice, Drive], tuple[Split, Split]]
# (heads, modes [b, t, h, m, w]) -> what is read from them, [b, t, h, w].
Coupling = Callable[[slice, Split], Split]


class LayerState(NamedTuple):
    """What one layer remembers."""

    modes: Float[Array, "b 2 h m w"]  # real and imaginary part after the last complete block
    partial: Float[Array, "b h p"]  # sums of the drive over the block that each head is in; zeros between two blocks
    phase: Float[Array, " b"]  # tokens seen, modulo the longest block; a count, kept as a float like the rest


def head_scales(heads: int, scales: Sequence[int]) -> Int[np.ndarray, " h"]:
    """Tokens per block of each head: consecutive heads share a scale, an equal number for each."""
    return np.repeat(np.asarray(scales, np.int32), heads // len(scales))


def spread_modes(
    heads: int, modes: int, scales: Sequence[int], longest: float
) -> tuple[Float[np.ndarray, "h m"], Float[np.ndarray, "h m"]]:
    """Where the modes start: memories spread geometrically from 1 token to `longest`, frequencies over [0, 2 pi).

    Returns:
      log_rate and frequency, per block of the head's scale. The frequencies of a head are spread evenly and then narrowed by
      the square root of its memory: a slow mode that turned fast would cancel all that changes slowly.
    """
    log_rate, _ = octave_modes(heads, modes, longest)
    memory = np.maximum(np.exp(-log_rate) / head_scales(heads, scales)[:, None], 1.0)
    return -np.log(memory), 2 * np.pi * np.arange(modes) / modes / np.sqrt(memory)


def eigenvalue(log_rate: Float[Array, "*s"], frequency: Float[Array, "*s"]) -> tuple[Split, Float[Array, "*s"]]:
    """lambda = exp(-exp(log_rate) + i frequency), inside the unit circle by construction, and sqrt(1 - |lambda|**2).

    The second factor gives every mode the power of its input, however long it remembers.

    Source: Orvieto et al. 2023, LRU, arXiv:2303.06349, sections 3.3 and 3.4.
    """
    rate = jnp.exp(jnp.clip(log_rate, *LOG_RATE))
    decay = jnp.exp(-rate)
    return Split(decay * jnp.cos(frequency), decay * jnp.sin(frequency)), jnp.sqrt(-jnp.expm1(-2 * rate))


def _spread(x: Float[Array, "*s"], width: int) -> Float[Array, "*s w"]:
    return jnp.broadcast_to(x[..., None], (*x.shape, width))


def _complex_inputs(drive: Float[Array, "b t h w2"], power: Float[Array, "b t h m"]) -> Split:
    """The head's inputs, real then imaginary, into each of its modes with that mode's power."""
    real, imaginary = jnp.split(drive[:, :, :, None], 2, axis=-1)
    width = (*power.shape, real.shape[-1])
    power = _spread(power, real.shape[-1])
    return Split(jnp.broadcast_to(real, width) * power, jnp.broadcast_to(imaginary, width) * power)


def fixed_terms(
    log_rate: Float[Array, "h m"], frequency: Float[Array, "h m"], drive: Float[Array, "b t h w2"]
) -> tuple[Split, Split]:
    """Transition [h, m, w] and inputs of modes whose decay is the same for every token; drive: real, imaginary."""
    transition, power = eigenvalue(log_rate, frequency)
    inputs = _complex_inputs(drive, jnp.broadcast_to(power, (*drive.shape[:2], *power.shape)))
    return Split(*(_spread(part, drive.shape[-1] // 2) for part in transition)), inputs


def selective_terms(log_rate: Float[Array, "h m"], frequency: Float[Array, "h m"], drive: Drive) -> tuple[Split, Split]:
    """Transition and inputs of modes whose log rate is moved by the last m parts of the drive."""
    moved = log_rate[None, None] + drive[..., -log_rate.shape[1] :]
    transition, power = eigenvalue(moved, jnp.broadcast_to(frequency, moved.shape))
    inputs = _complex_inputs(drive[..., : -log_rate.shape[1]], power)
    return Split(*(_spread(part, inputs.real.shape[-1]) for part in transition)), inputs


def recur(transition: Split, inputs: Split, start: Split) -> Split:
    """The modes after every block, [b, t, h, m, w], with a transition for all blocks or one for each."""
    batch, length, *shape = inputs.real.shape
    flat = (batch, length, -1)
    flat_inputs = Split(*(part.reshape(flat) for part in inputs))
    flat_start = Split(*(part.reshape(batch, -1) for part in start))
    if transition.real.ndim == len(shape):
        modes = fixed_scan(Split(*(part.reshape(-1) for part in transition)), flat_inputs, flat_start)
    else:
        modes = varying_scan(Split(*(part.reshape(flat) for part in transition)), flat_inputs, flat_start)
    return Split(*(part.reshape(batch, length, *shape) for part in modes))


def _hold(blocks: Float[Array, "b n h w"], before: Float[Array, "b 1 h w"], scale: int, length: int) -> Array:
    """Each block's value from its last token on until the next block's last; `before` until the first is complete."""
    batch, count, *rest = blocks.shape
    held = jnp.broadcast_to(blocks[:, :, None], (batch, count, scale, *rest)).reshape(batch, count * scale, *rest)
    return jnp.concatenate([jnp.broadcast_to(before, (batch, scale - 1, *rest)), held], axis=1)[:, :length]


def _block_means(x: Float[Array, "b t h p"], scale: int) -> Float[Array, "b n h p"]:
    """Sums of pairs, of pairs of pairs: the order of `_window_sums`, so that the two paths round alike."""
    sums = x
    for _ in range(scale.bit_length() - 1):
        pairs = sums.reshape(sums.shape[0], -1, 2, *sums.shape[2:])
        sums = pairs[:, :, 0] + pairs[:, :, 1]
    return sums / scale


def _split_state(modes: Float[Array, "b 2 h m w"]) -> Split:
    return Split(modes[:, 0], modes[:, 1])


def decimated(
    terms: Terms, coupling: Coupling, drive: Drive, scales: Sequence[int], start: Float[Array, "b 2 h m w"]
) -> tuple[Split, LayerState]:
    """The hierarchy from the start of a block of every scale: each head's recurrence runs over its blocks alone.

    Args:
      terms: of the cell.
      coupling: reads the modes; it has no memory, so it acts before the result is held.
      drive: what the tokens say to the heads; heads in the order of `head_scales`.
      scales: tokens per block, powers of two, ascending.
      start: the modes before the first token, with no token in an unfinished block.

    Returns:
      What every token reads, [b, t, h, w]: from the modes after the last block that is complete with this token; the state.
    """
    length, each = drive.shape[1], drive.shape[2] // len(scales)
    outputs, last, partial = [], [], []
    for n, scale in enumerate(scales):
        heads, count = slice(n * each, (n + 1) * each), length // scale
        x, before = drive[:, :, heads], start[:, :, heads]
        blocks = _block_means(x[:, : count * scale], scale)
        found = coupling(heads, Split(*(part[:, None] for part in _split_state(before))))
        if count:
            modes = recur(*terms(heads, blocks), _split_state(before))
            read = coupling(heads, modes)
            outputs.append([_hold(*pair, scale, length) for pair in zip(read, found, strict=True)])
            last.append(jnp.stack([part[:, -1] for part in modes], axis=1))
        else:
            outputs.append([jnp.broadcast_to(part, (part.shape[0], length, *part.shape[2:])) for part in found])
            last.append(before)
        partial.append(jnp.sum(x[:, count * scale :], axis=1))
    phase = jnp.full((drive.shape[0],), length % scales[-1], drive.dtype)
    state = LayerState(jnp.concatenate(last, axis=2), jnp.concatenate(partial, axis=1), phase)
    return Split(*(jnp.concatenate(part, axis=2) for part in zip(*outputs, strict=True))), state


def _window_sums(drive: Drive, scales: Sequence[int]) -> Drive:
    """Sum over the last `scale` tokens, with each head's own scale; zeros before the first token."""
    each, sums, width, groups = drive.shape[2] // len(scales), drive, 1, []
    for n, scale in enumerate(scales):
        while width < scale:
            earlier = jnp.pad(sums, ((0, 0), (width, 0), (0, 0), (0, 0)))[:, : drive.shape[1]]
            sums, width = sums + earlier, 2 * width
        groups.append(sums[:, :, n * each : (n + 1) * each])
    return jnp.concatenate(groups, axis=2)


def full_rate(
    terms: Terms, coupling: Coupling, drive: Drive, scales: Sequence[int], state: LayerState
) -> tuple[Split, LayerState]:
    """The hierarchy from any token on, even another one in each row: a head stands still until its block is complete.

    Args, Returns: see `decimated`, which it equals where both apply.
    """
    length, longest = drive.shape[1], scales[-1]
    tokens = jnp.asarray(head_scales(drive.shape[2], scales))
    drive = drive.at[:, 0].add(state.partial)
    seen = state.phase.astype(jnp.int32)[:, None] + jnp.arange(1, length + 1, dtype=jnp.int32)[None]
    since = seen[:, :, None] % tokens[None, None]  # tokens of the unfinished block, [b, t, h]
    means = _window_sums(drive, scales) / tokens.astype(drive.dtype)[None, None, :, None]
    transition, inputs = terms(slice(None), means)
    complete = jnp.broadcast_to((since == 0)[..., None, None], inputs.real.shape)
    zero, one = jnp.zeros_like(inputs.real), jnp.ones_like(inputs.real)
    transition = Split(*(jnp.broadcast_to(part, zero.shape) for part in transition))
    transition = Split(jnp.where(complete, transition.real, one), jnp.where(complete, transition.imaginary, zero))
    inputs = Split(*(jnp.where(complete, part, zero) for part in inputs))
    modes = recur(transition, inputs, _split_state(state.modes))
    tail = drive[:, max(0, length - longest + 1) :]  # no block that is unfinished at the end begins before
    age = jnp.arange(tail.shape[1] - 1, -1, -1, dtype=jnp.int32)
    unfinished = (age[None, :, None] < since[:, -1:]).astype(drive.dtype)
    partial = jnp.sum(tail * unfinished[..., None], axis=1)
    after = jnp.stack([part[:, -1] for part in modes], axis=1)
    return coupling(slice(None), modes), LayerState(after, partial, (seen[:, -1] % longest).astype(drive.dtype))


class TemporalFlowCell(nn.Module):
    """Fixed modes: c[t] = lambda c[t-1] + sqrt(1 - |lambda|**2) B x[t], B complex, in blocks of each head's scale.

    Attributes:
      d: channels of x; d / 2 complex inputs.
      heads, modes, scales, longest: see `spectral.eigenstate.EigenstateConfig`; `longest` is its context.

    Source: Orvieto et al. 2023, LRU, arXiv:2303.06349.
    """

    d: int
    heads: int
    modes: int
    scales: tuple[int, ...]
    longest: float

    def setup(self) -> None:
        log_rate, frequency = spread_modes(self.heads, self.modes, self.scales, self.longest)
        self.log_rate = self.param("log_rate", lambda _: jnp.asarray(log_rate, jnp.float32))
        self.frequency = self.param("frequency", lambda _: jnp.asarray(frequency, jnp.float32))
        self.weight = self.param("in", nn.initializers.lecun_normal(), (self.d, self.d))

    def drive(self, x: Float[Array, "b t d"]) -> Drive:
        """B x, real then imaginary part of each head, in float32 at least."""
        return self._by_head(matmul(x, self.weight))

    def terms(self, heads: slice, means: Drive) -> tuple[Split, Split]:
        """See `fixed_terms`."""
        return fixed_terms(*self._rates(heads, means.dtype), means)

    def _by_head(self, x: Float[Array, "b t n"]) -> Drive:
        return x.reshape(*x.shape[:2], self.heads, -1).astype(sum_dtype(x.dtype))

    def _rates(self, heads: slice, dtype: jnp.dtype) -> tuple[Float[Array, "h m"], Float[Array, "h m"]]:
        return self.log_rate[heads].astype(dtype), self.frequency[heads].astype(dtype)


class SelectiveTemporalFlowCell(TemporalFlowCell):
    """As `TemporalFlowCell`, with a decay that the input sets: log rate + mean of x D over the block.

    Source: Gu and Dao 2023, Mamba, arXiv:2312.00752, algorithm 2 (the step size is a projection of the input); De et al. 2024,
    Griffin, arXiv:2402.19427, equation 4 (the input scaled by sqrt(1 - |lambda|**2) of the same step).
    """

    def setup(self) -> None:
        super().setup()
        self.rate = self.param("rate", nn.initializers.lecun_normal(), (self.d, self.heads * self.modes))

    def drive(self, x: Float[Array, "b t d"]) -> Drive:
        """B x as in the fixed cell, then what moves the log rate of each mode."""
        return jnp.concatenate([super().drive(x), self._by_head(matmul(x, self.rate))], axis=-1)

    def terms(self, heads: slice, means: Drive) -> tuple[Split, Split]:
        """See `selective_terms`."""
        return selective_terms(*self._rates(heads, means.dtype), means)


class ResonanceBlock(nn.Module):
    """Block-diagonal coupling R of the modes, outside the recurrence: y_h = sum over m of R_hm c_hm, complex.

    A block is a head. R has one row a head: a square block in front of the linear read-out of a head would be the same
    functions with more parameters. Every mode starts with the same power, phases over half a turn.

    Attributes:
      heads: blocks.
      modes: that are coupled in each.
    """

    heads: int
    modes: int

    def setup(self) -> None:
        phase = np.broadcast_to(np.pi * np.arange(self.modes) / self.modes, (self.heads, self.modes))
        real, imaginary = np.cos(phase) / np.sqrt(self.modes), np.sin(phase) / np.sqrt(self.modes)
        self.real = self.param("real", lambda _: jnp.asarray(real, jnp.float32))
        self.imaginary = self.param("imaginary", lambda _: jnp.asarray(imaginary, jnp.float32))

    def __call__(self, heads: slice, modes: Split) -> Split:
        """What the modes [b, t, h, m, w] of some of the heads say together, [b, t, h, w]."""
        shape, dtype = modes.real.shape, modes.real.dtype
        parts = (part[heads, :, None].astype(dtype) for part in (self.real, self.imaginary))
        weights = Split(*(jnp.broadcast_to(part, shape) for part in parts))
        return Split(*(jnp.sum(part, axis=3) for part in times(weights, modes)))


class EigenstateGate(nn.Module):
    """Gate and mixing over what the modes say, (y * silu(x G)) O: what each token takes from its past, linear in T.

    The seed of this project called it EigenstateAttention; no token attends to another here.
    """

    @nn.compact
    def __call__(self, x: Float[Array, "b t d"], read: Float[Array, "b t d"]) -> Float[Array, "b t d"]:
        d = x.shape[-1]
        w_gate = self.param("gate", nn.initializers.lecun_normal(), (d, d))
        w_out = self.param("out", nn.initializers.lecun_normal(), (d, d))
        return matmul(read * nn.silu(matmul(x, w_gate)), w_out)


class HierarchicalTEN(nn.Module):
    """The mixer of a layer: modes at several scales, coupled, gated and read out.

    A head of scale s takes the mean of s tokens once they are all there, moves on once for it, and holds its value until the
    next s tokens are complete: nothing is pooled around a token, which would let it see ahead.

    Attributes: see `spectral.eigenstate.EigenstateConfig`; `longest` is its context.
    """

    heads: int
    modes: int
    scales: tuple[int, ...]
    longest: float
    selective: bool

    @nn.compact
    def __call__(self, x: Float[Array, "b t d"], state: LayerState | None) -> tuple[Float[Array, "b t d"], LayerState]:
        kind = SelectiveTemporalFlowCell if self.selective else TemporalFlowCell
        cell = kind(x.shape[-1], self.heads, self.modes, self.scales, self.longest, name="cell")
        coupling = ResonanceBlock(self.heads, self.modes, name="coupling")
        drive = cell.drive(x)
        if state is None:
            shape = (x.shape[0], 2, self.heads, self.modes, x.shape[-1] // (2 * self.heads))
            read, state = decimated(cell.terms, coupling, drive, self.scales, jnp.zeros(shape, drive.dtype))
        else:
            read, state = full_rate(cell.terms, coupling, drive, self.scales, state)
        flat = jnp.concatenate(read, axis=-1).reshape(x.shape).astype(x.dtype)
        return EigenstateGate(name="gate")(x, flat), state


class EigenstateLayer(nn.Module):
    """norm, hierarchical mixer, residual; norm, feed-forward, residual.

    Attributes: see `HierarchicalTEN`, and
      feed_forward: inner width.
    """

    heads: int
    modes: int
    scales: tuple[int, ...]
    longest: float
    selective: bool
    feed_forward: int

    @nn.compact
    def __call__(self, x: Float[Array, "b t d"], state: LayerState | None) -> tuple[Float[Array, "b t d"], LayerState]:
        mixer = HierarchicalTEN(self.heads, self.modes, self.scales, self.longest, self.selective, name="mixer")
        mixed, state = mixer(RMSNorm(name="mixer_norm")(x), state)
        x = x + mixed
        return x + FeedForward(self.feed_forward, name="feed_forward")(RMSNorm(name="feed_forward_norm")(x)), state
