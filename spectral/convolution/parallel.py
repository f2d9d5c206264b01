"""All chunks at once, in two levels, for accelerators: nothing waits for the chunk before it but the small states.

1. every chunk's summary, the state it would leave behind if it started from nothing: one batched matmul;
2. the state before every chunk: an associative scan over the summaries, log2(T / chunk) steps on m complex numbers a channel;
3. every chunk's outputs from its inputs and that state: two batched matmuls.

Source: the block decomposition of structured state-space duality (Dao and Gu 2024, arXiv:2405.21060), section 6.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from spectral.convolution.block import inside, toeplitz, whole
from spectral.convolution.chunked import Convolved, in_chunks
from spectral.convolution.memory import Complex, memory, read, rotate, summary
from spectral.convolution.modes import Modes, ModeState, kernel

Step = tuple[Complex, Complex]  # the map s -> factor s + added


def _then(first: Step, second: Step) -> Step:
    """Two steps in a row."""
    (first_factor, first_added), (factor, added) = first, second
    real, imaginary = rotate(factor, first_added)
    return rotate(factor, first_factor), (real + added[0], imaginary + added[1])


def _states(decay: Complex, summaries: Float[Array, "n b h m2 k"], state: ModeState) -> Float[Array, "n1 b h m2 k"]:
    """The state before each of n chunks, and after the last."""
    real, imaginary = jnp.split(jnp.concatenate([state[None], summaries]), 2, axis=3)
    factor_real, factor_imaginary = (jnp.broadcast_to(part[None], (len(real), *part.shape)) for part in decay)
    _, states = jax.lax.associative_scan(_then, ((factor_real, factor_imaginary), (real, imaginary)))
    return jnp.concatenate(states, axis=3)


def _all_at_once(x: Float[Array, "b t h k"], modes: Modes, state: ModeState, chunk: int) -> Convolved:
    batch, length, heads, width = x.shape
    matrix, block = toeplitz(kernel(modes, chunk)), memory(modes, chunk)
    chunks = x.reshape(batch, length // chunk, chunk, heads, width)
    states = _states(block.decay, jnp.moveaxis(summary(block, chunks), 1, 0), state)
    y = read(block, inside(matrix, chunks), jnp.moveaxis(states[:-1], 0, 1))
    return y.reshape(x.shape), states[-1]


def parallel(x: Float[Array, "b t h k"], modes: Modes, state: ModeState | None, chunk: int) -> Convolved:
    """Two levels of batched matmuls: as many FLOPs as "chunked", in O(log(T / chunk)) steps instead of T / chunk."""
    return in_chunks(_all_at_once, whole, x, modes, state, chunk)
