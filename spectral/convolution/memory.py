"""How a block of tokens reads and writes the state of the modes: two small matmuls and a complex factor."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from spectral.convolution.modes import Modes, ModeState, powers

Complex = tuple[Array, Array]  # real and imaginary part


class Memory(NamedTuple):
    """What a block of c tokens does with the state.

    Attributes:
      into: what each token adds to the state after the block, lambda**(c - 1 - s), real parts then imaginary parts.
      out: what the state before the block adds to each output, Re(c lambda**(t + 1) s) as a row of real numbers.
      decay: what the block multiplies the state by, lambda**c.
    """

    into: Float[Array, "h m2 c"]
    out: Float[Array, "h m2 c"]
    decay: tuple[Float[Array, "1 h m 1"], Float[Array, "1 h m 1"]]


def memory(modes: Modes, length: int) -> Memory:
    """The matrices of a block of `length` tokens, in the dtype of the modes."""
    dtype = modes.real.dtype
    real, imaginary = powers(modes, jnp.arange(1, length + 1, dtype=dtype))
    cr, ci = modes.real[..., None], modes.imaginary[..., None]
    return Memory(
        into=jnp.concatenate(powers(modes, jnp.arange(length - 1, -1, -1, dtype=dtype)), axis=1),
        out=jnp.concatenate([cr * real - ci * imaginary, -(cr * imaginary + ci * real)], axis=1),
        decay=decay(modes, length),
    )


def decay(modes: Modes, length: int) -> Complex:
    """lambda**length, [1, h, m, 1]: by what `length` tokens multiply the state before them."""
    real, imaginary = powers(modes, jnp.full((1,), length, modes.real.dtype))
    return real[None], imaginary[None]


def rotate(factor: Complex, value: Complex) -> Complex:
    """The product of two complex numbers."""
    (fr, fi), (real, imaginary) = factor, value
    return fr * real - fi * imaginary, fr * imaginary + fi * real


def summary(block: Memory, x: Float[Array, "*n c h k"]) -> Float[Array, "*n h m2 k"]:
    """What blocks of inputs leave behind; a matmul of x in its own dtype that adds up in float32."""
    into = block.into.astype(x.dtype)
    return jnp.einsum("hms,...shk->...hmk", into, x, preferred_element_type=block.into.dtype)


def read(block: Memory, y: Float[Array, "*n c h k"], state: Float[Array, "*n h m2 k"]) -> Float[Array, "*n c h k"]:
    """Outputs y of blocks that start from nothing, as if they had started in `state`."""
    return (y.astype(state.dtype) + jnp.einsum("hmt,...hmk->...thk", block.out, state)).astype(y.dtype)


def advance(block: Memory, x: Float[Array, "b c h k"], state: ModeState | None) -> ModeState:
    """The state after a block that starts in `state`, or from nothing."""
    added = summary(block, x)
    if state is None:
        return added
    real, imaginary = jnp.split(state, 2, axis=2)
    return added + jnp.concatenate(rotate(block.decay, (real, imaginary)), axis=2)


def empty_state(modes: Modes, x: Float[Array, "b t h k"]) -> ModeState:
    """The state before the first token, made as the state after no tokens.

    Zeros, but they vary over the same axes of a mesh as x and the modes do, which a scan inside `shard_map` asks of its carry.
    """
    return advance(memory(modes, 0), x[:, :0], None)
