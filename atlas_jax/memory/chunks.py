"""Chunk after chunk through a sequence or through any part of one, with an open chunk carried between calls.

What is done with a chunk is the caller's: `open(state)` before its first token, `advance(state, xs, count)` on the first `count`
of the tokens of a piece, which all lie in the open chunk. A chunk may come in one piece or in many: work that grows with the
square of a piece is done in tiles of a long chunk.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Int, PyTree

Open = Callable[[Any], Any]
Advance = Callable[[Any, Any, Int[Array, ""]], tuple[Any, Any]]


_KEPT = "of a chunk"


def kept(x: Array) -> Array:
    """x, which a backward pass is given: its piece is computed again but for such arrays."""
    return checkpoint_name(x, _KEPT)


class Chunks(NamedTuple):
    """How a sequence is cut; static.

    Attributes:
      size: tokens of a chunk.
      axis: of time, in inputs and outputs.
      group: pieces, that is tiles or chunks, whose inner values a backward pass holds at a time. For 1 it is given the state
        before each piece and what is `kept` of it; else the state before each group alone, and computes the group again.
      tile: most tokens of a piece; None: a chunk. Changes speed and memory, and results by rounding alone.
    """

    size: int
    axis: int
    group: int = 1
    tile: int | None = None

    @property
    def piece(self) -> int:
        """Tokens given to `advance` at a time: the chunk, its largest divisor of over half a tile to a tile, or else a tile."""
        if self.tile is None or self.size <= self.tile:
            return self.size
        return next((n for n in range(self.tile, self.tile // 2, -1) if self.size % n == 0), self.tile)


def run_chunks(
    chunks: Chunks, open: Open, advance: Advance, state: PyTree, phase: Int[Array, ""] | None, xs: PyTree
) -> tuple[PyTree, PyTree, Int[Array, ""]]:
    """Goes through t tokens.

    Args:
      chunks: how they are cut.
      open: a new chunk begins.
      advance: (state, tokens, count) to (state, outputs); what comes from `count` on leaves the state alone.
      state: before the first token.
      phase: tokens of the open chunk that came before, 0 to size - 1; None says at compile time that a chunk begins here, so that
        no piece which divides it holds parts of two.
      xs: arrays with t tokens on the axis of time.

    Returns:
      Outputs of all tokens, the state after the last, and the phase there.
    """
    length, size = jax.tree.leaves(xs)[0].shape[chunks.axis], chunks.piece
    go = _begins if phase is None and chunks.size % size == 0 else _anywhere
    begun = jnp.zeros((), jnp.int32) if phase is None else phase

    def piece(carry: tuple[PyTree, Array], given: tuple[PyTree, Array]) -> tuple[tuple[PyTree, Array], PyTree]:
        xs, count = given
        state, outputs = go(chunks, open, advance, carry, xs, count)
        return (state, (carry[1] + count) % chunks.size), outputs

    if length <= size:
        (state, ended), outputs = piece((state, begun), (xs, jnp.asarray(length, jnp.int32)))
        return outputs, state, ended
    # One program for all pieces: the last is filled up with tokens that are not there.
    pieces = jax.tree.map(lambda x: _cut(chunks, x, -length % size), xs)
    counts = np.minimum(size, length - np.arange(0, length, size)).astype(np.int32)
    (state, ended), outputs = _in_groups(piece, (state, begun), (pieces, jnp.asarray(counts)), chunks.group)
    return jax.tree.map(lambda x: _join(chunks, x, length), outputs), state, ended


def _cut(chunks: Chunks, x: Array, missing: int) -> Array:
    """[n, ..., piece, ...] of [..., t, ...] and as many zeros as are missing."""
    axis = chunks.axis
    x = jnp.pad(x, [(0, missing if i == axis else 0) for i in range(x.ndim)])
    return jnp.moveaxis(x.reshape(*x.shape[:axis], -1, chunks.piece, *x.shape[axis + 1 :]), axis, 0)


def _join(chunks: Chunks, x: Array, length: int) -> Array:
    axis = chunks.axis
    x = jnp.moveaxis(x, 0, axis)
    return jax.lax.slice_in_dim(x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :]), 0, length, axis=axis)


def _in_groups(piece: Callable, carry: PyTree, pieces: PyTree, group: int) -> tuple[PyTree, PyTree]:
    """A scan over pieces; a backward pass computes each group of them again from the carry before it."""
    count = jax.tree.leaves(pieces)[0].shape[0]
    if group == 1 or count < group:
        policy = jax.checkpoint_policies.save_only_these_names(_KEPT)
        return jax.lax.scan(jax.checkpoint(piece, policy=policy), carry, pieces)

    @jax.checkpoint
    def one_group(carry: PyTree, pieces: PyTree) -> tuple[PyTree, PyTree]:
        return jax.lax.scan(piece, carry, pieces)

    whole = count // group * group
    grouped = jax.tree.map(lambda x: x[:whole].reshape(-1, group, *x.shape[1:]), pieces)
    carry, outputs = jax.lax.scan(one_group, carry, grouped)
    outputs = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), outputs)
    if whole == count:
        return carry, outputs
    carry, last = one_group(carry, jax.tree.map(lambda x: x[whole:], pieces))
    return carry, jax.tree.map(lambda *parts: jnp.concatenate(parts), outputs, last)


def _learn(
    open: Open, advance: Advance, state: PyTree, phase: Int[Array, ""], xs: PyTree, count: Int[Array, ""]
) -> tuple[PyTree, PyTree]:
    """Tokens of one chunk, which they begin where the phase is 0."""
    return advance(jax.lax.cond(phase == 0, open, lambda state: state, state), xs, count)


def _begins(
    chunks: Chunks, open: Open, advance: Advance, carry: tuple[PyTree, Array], xs: PyTree, count: Int[Array, ""]
) -> tuple[PyTree, PyTree]:
    """A piece that begins a chunk, or one of several that a chunk is cut into."""
    if chunks.piece == chunks.size:
        return advance(open(carry[0]), xs, count)
    return _learn(open, advance, *carry, xs, count)


def _anywhere(
    chunks: Chunks, open: Open, advance: Advance, carry: tuple[PyTree, Array], xs: PyTree, count: Int[Array, ""]
) -> tuple[PyTree, PyTree]:
    """A piece that begins anywhere in a chunk: the rest of the open chunk, then the beginning of the next."""
    state, phase = carry
    if jax.tree.leaves(xs)[0].shape[chunks.axis] == 1:
        return _learn(open, advance, state, phase, xs, count)

    def part(carry: tuple[PyTree, Array, Array, PyTree], _: None) -> tuple[tuple[PyTree, Array, Array, PyTree], None]:
        state, phase, done, outputs = carry
        now = jnp.minimum(chunks.size - phase, count - done)

        def some(state: PyTree, outputs: PyTree) -> tuple[PyTree, PyTree]:
            turned = jax.tree.map(lambda x: jnp.roll(x, -done, chunks.axis), xs)  # the tokens of this part first
            state, new = _learn(open, advance, state, phase, turned, now)
            return state, jax.tree.map(partial(_fill, chunks, done, now), outputs, new)

        state, outputs = jax.lax.cond(now > 0, some, lambda state, outputs: (state, outputs), state, outputs)
        return (state, (phase + now) % chunks.size, done + now, outputs), None

    shapes = jax.eval_shape(advance, state, xs, count)[1]
    empty = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    (state, _, _, outputs), _ = jax.lax.scan(part, (state, phase, jnp.zeros_like(phase), empty), None, length=2)
    return state, outputs


def _fill(chunks: Chunks, done: Int[Array, ""], now: Int[Array, ""], outputs: Array, new: Array) -> Array:
    """The outputs with those of the tokens from `done` on, `now` of them, put in place."""
    place = jnp.arange(outputs.shape[chunks.axis], dtype=done.dtype)
    others = [axis for axis in range(outputs.ndim) if axis != chunks.axis]
    mine = jnp.expand_dims((place >= done) & (place < done + now), others)
    return jnp.where(mine, jnp.roll(new, done, chunks.axis), outputs)
