"""The causal convolution with its time axis split over devices, which exchange states of fixed size and nothing else.

A slice of the sequence maps the state before it to the state after it by s -> lambda**length s + end, where `end` is what the
slice leaves behind if it starts from nothing. So each device

1. makes the end of its own slice, two small matmuls;
2. gathers all of them, m complex numbers a head and channel each, and adds up those of the devices before it, damped by the
   tokens between: the state before its slice, exactly;
3. convolves its slice from that state, with any algorithm, as if the earlier tokens had gone through it.

The second look at the inputs costs 4 m FLOPs a token and channel beside the 2 (chunk + 4 m) of the convolution; in exchange the
outputs are rounded once, and nothing waits for anything but one collective.

Source: the modal form of the state passing between devices in Dao and Gu 2024 (arXiv:2405.21060), section 8.2.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped

from atlas_jax.distributed.mesh import DATA, SEQUENCE, ambient_model_mesh
from atlas_jax.distributed.sharding import check_divides, spec
from spectral.convolution.causal import DEFAULT_CHUNK, causal_convolution
from spectral.convolution.checks import check_at_least_one, check_modal
from spectral.convolution.memory import advance, memory, summary
from spectral.convolution.modes import Modes, ModeState, powers

AXES = ("batch", "time", "heads", None)  # of the inputs and outputs


def damped_sum(modes: Modes, states: Float[Array, "n b h m2 k"], ages: Int[Array, " n"]) -> Float[Array, "b h m2 k"]:
    """Sum of states, each as it is after `ages` more tokens of zeros; one of a negative age counts for nothing."""
    real, imaginary = powers(modes, jnp.maximum(ages, 0).astype(modes.real.dtype))
    counted = (ages >= 0).astype(real.dtype)[None, None]
    add = partial(jnp.einsum, "hmn,nbhmk->bhmk")
    (real, imaginary), (sr, si) = (real * counted, imaginary * counted), jnp.split(states, 2, axis=3)
    return jnp.concatenate([add(real, sr) - add(imaginary, si), add(real, si) + add(imaginary, sr)], axis=2)


def end_state(x: Float[Array, "b t h k"], modes: Modes, chunk: int) -> ModeState:
    """The state after x alone: chunk by chunk, all at once, so that no power of lambda is made for each token."""
    batch, length, heads, width = x.shape
    chunk = min(chunk, length)
    count = length // chunk
    full = count * chunk
    chunks = x[:, :full].reshape(batch, count, chunk, heads, width)
    summaries = jnp.moveaxis(summary(memory(modes, chunk), chunks), 1, 0)
    state = damped_sum(modes, summaries, jnp.arange(count - 1, -1, -1, dtype=jnp.int32) * chunk)
    return state if full == length else advance(memory(modes, length - full), x[:, full:], state)


def sequence_parallel_convolution(
    x: Shaped[Array, "b t h k"],  # checked below, with a message that says what was expected
    modes: Modes,
    state: Shaped[Array, "*a"] | None = None,
    *,
    axis: str,
    chunk: int | None = None,
    algorithm: str | None = None,
) -> tuple[Float[Array, "b t h k"], ModeState]:
    """`causal_convolution` inside a `jax.shard_map` whose mesh axis `axis` splits the time axis into equal parts.

    Args:
      x: this device's contiguous slice.
      modes: the same on every device of the axis.
      state: before the first token of the whole sequence, the same on every device; None at the start.
      axis: name of the mesh axis.
      chunk, algorithm: see `causal_convolution`; the choice goes by the length of the slice.

    Returns:
      The slice's outputs, and the state after the last token of the whole sequence, the same on every device.

    Raises:
      ValueError: as `causal_convolution`.
    """
    check_modal(x, modes, state)
    check_at_least_one("chunk", chunk)
    length, devices = x.shape[1], jax.lax.axis_size(axis)
    # Said once here, the gradients of the modes are added up over devices once, not in every chunk of a scan.
    own = jax.tree.map(lambda part: jax.lax.pcast(part, axis, to="varying"), modes)
    end = end_state(x, own, chunk or DEFAULT_CHUNK)
    ends = jax.lax.all_gather(end, axis, to="invarying")
    first = 0 if state is None else -1  # a given state is the end of a slice before the first one
    passed = ends if state is None else jnp.concatenate([state[None], ends])
    slices = jnp.arange(first, devices, dtype=jnp.int32)
    before = damped_sum(own, passed, (jax.lax.axis_index(axis) - 1 - slices) * length)
    y, _ = causal_convolution(x, own, before, chunk=chunk, algorithm=algorithm)
    return y, damped_sum(modes, passed, (devices - 1 - slices) * length)


def mesh_convolution(
    x: Shaped[Array, "b t h k"],  # checked below, with a message that says what was expected
    modes: Modes,
    state: Shaped[Array, "*a"] | None = None,
    *,
    chunk: int | None = None,
    algorithm: str | None = None,
) -> tuple[Float[Array, "b t h k"], ModeState]:
    """`causal_convolution` split over the ambient model mesh: batch, heads and time; without a mesh the same function.

    Args and Returns: see `causal_convolution`; arrays are the whole ones.

    Raises:
      ValueError: as `causal_convolution`, or batch, time or heads are no multiple of the mesh axis that splits them.
    """
    mesh = ambient_model_mesh()
    if mesh is None:
        return causal_convolution(x, modes, state, chunk=chunk, algorithm=algorithm)
    check_divides("convolution inputs", x.shape, AXES, mesh)
    options = {"chunk": chunk, "algorithm": algorithm}
    split = mesh.shape[SEQUENCE] > 1
    over_time = partial(sequence_parallel_convolution, axis=SEQUENCE, **options)
    convolve = over_time if split else partial(causal_convolution, **options)

    def one_device(x: Array, modes: Modes, state: Array | None) -> tuple[Array, Array]:
        return convolve(x, jax.tree.map(lambda part: jax.lax.pcast(part, DATA, to="varying"), modes), state)

    inputs, states = spec("batch", "time" if split else None, "heads", None), spec("batch", "heads", None, None)
    return jax.shard_map(
        one_device, mesh=mesh, in_specs=(inputs, spec("heads", None), states), out_specs=(inputs, states)
    )(x, modes, state)
