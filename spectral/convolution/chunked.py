"""Chunk after chunk: each is one matmul, and a scan carries the state from one to the next.

A chunk maps its inputs x and the state s before it to its outputs y and the state after it; both are linear, so with the Toeplitz
matrix K inside the chunk,

    [y ]   [K     out  ] [x]
    [s'] = [into  decay] [s]

is one matrix of c + 2 m rows a head, times all sequences and channels at once.

Source: the chunking of structured state-space duality (Dao and Gu 2024, arXiv:2405.21060) for a time-invariant transition.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from spectral.convolution.block import toeplitz, whole
from spectral.convolution.memory import Complex, empty_state, memory
from spectral.convolution.modes import Modes, ModeState, kernel

Convolved = tuple[Float[Array, "b t h k"], ModeState]


def in_chunks(
    many: Callable[[Array, Modes, ModeState, int], Convolved],
    one: Callable[[Array, Modes, ModeState], Convolved],
    x: Float[Array, "b t h k"],
    modes: Modes,
    state: ModeState | None,
    chunk: int,
) -> Convolved:
    """`many` over the whole chunks, then `one` over the tokens that fill no chunk."""
    length = x.shape[1]
    full = length - length % chunk
    if state is None:
        state = empty_state(modes, x)
    if full == 0:
        return one(x, modes, state)
    y, state = many(x[:, :full], modes, state, chunk)
    if full < length:
        rest, state = one(x[:, full:], modes, state)
        y = jnp.concatenate([y, rest], axis=1)
    return y, state


def _diagonal(decay: Complex) -> Float[Array, "h m2 m2b"]:
    """The complex factors of the states as a matrix on their real and imaginary parts."""
    real, imaginary = (part[0] * jnp.eye(part.shape[2], dtype=part.dtype)[None] for part in decay)
    return jnp.block([[real, imaginary], [-imaginary, real]])


def _transition(modes: Modes, chunk: int) -> Float[Array, "h n n2"]:
    """The matrix above, as [h, from, to]."""
    matrices = memory(modes, chunk)
    into = jnp.swapaxes(matrices.into, 1, 2)
    return jnp.block([[toeplitz(kernel(modes, chunk)), into], [matrices.out, _diagonal(matrices.decay)]])


def _one_after_another(x: Float[Array, "b t h k"], modes: Modes, state: ModeState, chunk: int) -> Convolved:
    batch, length, heads, width = x.shape
    chunks, columns = length // chunk, batch * width
    transition = _transition(modes, chunk)

    def one_chunk(carry: Array, inputs: Array) -> tuple[Array, Array]:
        both = jnp.concatenate([inputs.astype(carry.dtype), carry], axis=1)
        both = jnp.einsum("hst,hsz->htz", transition, both)
        return both[:, chunk:], both[:, :chunk].astype(inputs.dtype)

    # Sequences and channels side by side, once: so laid out a chunk's matmul is twice as fast on a CPU.
    by_head = x.reshape(batch, chunks, chunk, heads, width).transpose(1, 3, 2, 0, 4)
    start = state.transpose(1, 2, 0, 3).reshape(heads, -1, columns)
    last, y = jax.lax.scan(one_chunk, start, by_head.reshape(chunks, heads, chunk, columns))
    y = y.reshape(chunks, heads, chunk, batch, width).transpose(3, 0, 2, 1, 4)
    return y.reshape(x.shape), last.reshape(heads, -1, batch, width).transpose(2, 0, 1, 3)


def chunked(x: Float[Array, "b t h k"], modes: Modes, state: ModeState | None, chunk: int) -> Convolved:
    """One chunk at a time: the working set is one chunk. About 2 (chunk + 2 m) (1 + 2 m / chunk) FLOPs a token and channel."""
    return in_chunks(_one_after_another, whole, x, modes, state, chunk)
