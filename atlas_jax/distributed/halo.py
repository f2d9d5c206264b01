"""The tokens just before a device's slice of a sequence, for layers that look a fixed number of tokens back.

For use inside a `jax.shard_map` one of whose mesh axes splits the time axis into equal contiguous slices: each device sends
the end of its slice to the device on its right, once, and all go on at the same time.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Shaped

from atlas_jax.nn.attention import Window


def left_neighbour(
    x: Shaped[Array, "*s"], axis_name: str, first: Shaped[Array, "*s"] | None = None
) -> Shaped[Array, "*s"]:
    """The x of the device before this one on a mesh axis; on the first device `first`.

    Args:
      x: an array of the same shape on every device.
      axis_name: of the mesh.
      first: what stands before the first device; None: zeros.
    """
    devices = jax.lax.axis_size(axis_name)
    sent = jax.lax.ppermute(x, axis_name, [(i, i + 1) for i in range(devices - 1)])  # who is sent nothing gets zeros
    return sent if first is None else jnp.where(jax.lax.axis_index(axis_name) == 0, first, sent)


def of_last_device(x: Shaped[Array, "*s"], axis_name: str) -> Shaped[Array, "*s"]:
    """The x of the last device on a mesh axis, on all of them: the state after the whole sequence.

    Args:
      x: an array of numbers, of the same shape on every device.
      axis_name: of the mesh.
    """
    is_last = jax.lax.axis_index(axis_name) == jax.lax.axis_size(axis_name) - 1
    return jax.lax.psum(jnp.where(is_last, x, jnp.zeros_like(x)), axis_name)


def tokens_before(
    x: Shaped[Array, "b t *d"], count: int, axis_name: str, first: Shaped[Array, "b n *d"] | None = None
) -> Shaped[Array, "b n *d"]:
    """The `count` tokens before this device's slice, oldest first: the end of its left neighbour's.

    With count = width - 1 it is the `past` of a `short_convolution`.

    Args:
      x: this device's slice.
      count: tokens wanted, n.
      axis_name: of the mesh axis that splits the time.
      first: the tokens before the whole sequence, the same on every device of the axis; None: zeros.

    Raises:
      ValueError: the slice is shorter than `count`: the tokens would lie on more than one device.
    """
    length = x.shape[1]
    if length < count:
        raise ValueError(
            f"tokens_before: the slice of each device on mesh axis {axis_name} has {length} tokens, expected at least the "
            f"{count} that the next device looks back; split the sequence over fewer devices"
        )
    return left_neighbour(x[:, length - count :], axis_name, first)


def window_before(
    key: Shaped[Array, "b t h k"],
    value: Shaped[Array, "b t h v"],
    window: int,
    axis_name: str,
    state: Window | None = None,
) -> Window:
    """The window that `sliding_window_attention` over this device's slice goes on from.

    Args:
      key, value: of this device's slice, not rotated.
      window: tokens that each token sees, itself included.
      axis_name: of the mesh axis that splits the time.
      state: the window before the whole sequence, the same on every device of the axis; None at its start.

    Raises:
      ValueError: the slice is shorter than window - 1.
    """
    keys, values, present = (None, None, None) if state is None else state
    before = tokens_before(key, window - 1, axis_name, keys)
    # All tokens of a neighbour are present: nobody need be asked.
    start = jnp.zeros(before.shape[:2], key.dtype) if present is None else present
    is_first = jax.lax.axis_index(axis_name) == 0
    return Window(
        before,
        tokens_before(value, window - 1, axis_name, values),
        jnp.where(is_first, start, jnp.ones_like(start)),
    )
