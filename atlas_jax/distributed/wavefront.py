"""What must go from token to token, over devices that each hold a part of the time: they take turns, piece after piece.

For use inside a `jax.shard_map` one of whose mesh axes splits the time axis into equal contiguous slices. A device can begin only
when its left neighbour has ended, so a batch of b sequences is cut into p pieces: in round r device i works on piece r - i,

  round      0   1   2   3   4
  device 0   a   b   .   .   .
  device 1   .   a   b   .   .        4 devices, 2 pieces: 5 rounds
  device 2   .   .   a   b   .
  device 3   .   .   .   a   b

so that n devices need n + p - 1 rounds and idle (n - 1) / (n + p - 1) of the time: 3/4 of it with one sequence on 4 devices,
3/7 with 4 pieces. A backward pass goes the same way back.

Source: the schedule of GPipe (Huang et al. 2019, arXiv:1811.06965, section 2.3), with slices of time for layers.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from atlas_jax.distributed.halo import left_neighbour
from atlas_jax.nn.neighbours import Learn


def pieces_of(batch: int, devices: int) -> int:
    """Into how many equal parts a batch is cut: as many as there are devices, or fewer where that does not divide it."""
    return max(count for count in range(1, devices + 1) if batch % count == 0)


def in_turn(learn: Learn, xs: PyTree, given: PyTree, axis_name: str) -> tuple[PyTree, PyTree]:
    """`learn` over a sequence whose slices lie on different devices, one device after the other.

    Args:
      learn: (inputs [b, ...], state) to (outputs [b, ...], state), on any stretch of time; it must not communicate. Arrays of its
        state are [b, ...], or numbers that all sequences share; zeros begin a sequence.
      xs: this device's slice, arrays [b, ...].
      given: the state before the whole sequence, the same on every device of the axis; None begins it.
      axis_name: of the mesh axis that splits the time.

    Returns:
      This device's outputs, and the state after its slice.
    """
    devices, batch = jax.lax.axis_size(axis_name), jax.tree.leaves(xs)[0].shape[0]
    if devices == 1:
        return learn(xs, given)
    device, count = jax.lax.axis_index(axis_name), pieces_of(batch, devices)

    def pieces(x: Array) -> Array:
        """[p, b / p, ...]; a number once for each."""
        return x.reshape(count, batch // count, *x.shape[1:]) if x.ndim else jnp.broadcast_to(x, (count,))

    def in_rounds(x: Array, before: int, first: Array | int) -> Array:
        """[rounds, ...] of [p, ...]: zeros in the rounds that this device sits out."""
        x = jnp.pad(x, [(before, devices - 1)] + [(0, 0)] * (x.ndim - 1))
        return jax.lax.dynamic_slice_in_dim(x, first, devices + count - 1)

    own = jax.tree.map(lambda x: in_rounds(pieces(x), devices - 1, devices - 1 - device), xs)
    starts = jax.tree.map(lambda x: in_rounds(pieces(x), 0, 0), given)  # of the first device's pieces
    shapes = jax.eval_shape(learn, jax.tree.map(lambda x: x[0], own), jax.tree.map(lambda x: x[0], starts))
    nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

    def one_round(last: PyTree, inputs: tuple[Array, PyTree, PyTree]) -> tuple[PyTree, tuple[PyTree, PyTree]]:
        number, xs, start = inputs
        before = _received(last, start, axis_name)
        works = (number >= device) & (number < device + count)
        outputs, after = jax.lax.cond(works, learn, lambda xs, state: nothing, xs, before)
        return after, (outputs, after)

    numbers = jnp.arange(devices + count - 1, dtype=device.dtype)
    _, done = jax.lax.scan(one_round, nothing[1], (numbers, own, starts))

    def joined(x: Array) -> Array:
        """[b, ...] of the rounds in which this device worked; of numbers any one."""
        mine = jax.lax.dynamic_slice_in_dim(x, device, count)
        return mine.reshape(batch, *x.shape[2:]) if x.ndim > 1 else mine[0]

    return jax.tree.map(joined, done)


def _received(last: PyTree, start: Any, axis_name: str) -> PyTree:
    """The state with which a device begins its round: what its left neighbour had at the end of the last one."""
    if start is None:
        return jax.tree.map(lambda x: left_neighbour(x, axis_name), last)
    return jax.tree.map(lambda x, first: left_neighbour(x, axis_name, first), last, start)
