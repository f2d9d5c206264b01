"""Systems of a lower triangular matrix with ones on its diagonal, by matrix products alone.

XLA gives triangular systems on CPUs to LAPACK. Its kernel hands the matrices of a batch to the threads of XLA's pool and waits
for them inside that same pool (jaxlib 0.10.2, `ParallelBatchMap`), while each call wants threads of OpenBLAS's own. Where two
systems that do not depend on each other are due at once on two cores, as those of a hierarchy of memories are, every thread can
be one that waits: steps took 20 times as long, and one never ended. Products wait for nobody, and accelerators are made for
them. They are as exact as their dtype on every device: a GPU's fast products of float32 keep 10 bits of it, too few to solve
once more for what an inverse leaves over.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from atlas_jax.memory.products import exact

SMALL = 4
"""Blocks up to this size are multiplied by sums that fuse, since a call for so small a product costs more than its work."""


def solve(matrix: Float[Array, "t t"], right: Float[Array, "t v"]) -> Float[Array, "t v"]:
    """X with (I + the part of `matrix` below its diagonal) X = right.

    What the inverse leaves over is solved for once more: over 10,000 tokens at an eigenvalue of -1, products of inverses alone
    are off by twice as much as LAPACK's substitution, and with this by half as much.

    Args:
      matrix: what is not below its diagonal is not looked at.
      right: columns to solve for.

    Source: Higham 2002, Accuracy and Stability of Numerical Algorithms, section 12.2 (refinement at fixed precision).
    """
    if len(matrix) == 1:
        return right
    inverted = _inverse(matrix)
    found = exact(inverted, right)
    return found + exact(inverted, right - found - exact(jnp.tril(matrix, -1), found))


@jax.custom_jvp
def _inverse(matrix: Float[Array, "t t"]) -> Float[Array, "t t"]:
    """Of I + the part of `matrix` below its diagonal: lower triangular, ones on its diagonal.

    Of two inverted blocks A and B of the diagonal and C below A, the inverse of the block twice the size is
    [[A, 0], [-B C A, B]]; all blocks of a size are done together, so t tokens take log2(t) rounds.

    Args:
      matrix: what is not below its diagonal is not looked at.

    Source: Higham 2002, section 14.2 (block inversion of triangular matrices).
    """
    length = matrix.shape[-1]
    whole = 1 << (length - 1).bit_length()
    matrix = jnp.pad(matrix, (0, whole - length))
    inverted, size = jnp.ones((whole, 1, 1), matrix.dtype), 1
    while size < whole:
        first, second = inverted[0::2], inverted[1::2]
        corner = -_product(_product(second, _below(matrix, size)), first)
        above = jnp.concatenate([first, jnp.zeros_like(first)], axis=-1)
        inverted = jnp.concatenate([above, jnp.concatenate([corner, second], axis=-1)], axis=-2)
        size *= 2
    return inverted[0, :length, :length]


@_inverse.defjvp
def _inverse_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    inverted = _inverse(*primals)
    return inverted, -exact(exact(inverted, jnp.tril(tangents[0], -1)), inverted)


def _below(matrix: Float[Array, "t t"], size: int) -> Float[Array, "pairs size size"]:
    """The blocks below the diagonal that join blocks 2 i and 2 i + 1 of the diagonal."""
    pairs = matrix.shape[-1] // (2 * size)
    blocks = matrix.reshape(pairs, 2, size, pairs, 2, size)[:, 1, :, :, 0, :]
    return jnp.moveaxis(jnp.diagonal(blocks, axis1=0, axis2=2), -1, 0)


def _product(left: Float[Array, "n s s"], right: Float[Array, "n s s"]) -> Float[Array, "n s s"]:
    if left.shape[-1] > SMALL:
        return exact(left, right)
    return jnp.sum(left[:, :, :, None] * right[:, None, :, :], axis=-2)
