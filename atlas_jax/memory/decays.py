"""What is left of a token at later ones: products of gates over stretches of a chunk, and sums that fade by them.

Gates are given by their logarithms, t of a chunk. It is cut into blocks. A stretch inside one is the difference of two sums of at
most `BLOCK` logarithms; one that goes on over blocks is the rest of its first, all between, and the beginning of its last, added
up: after a stretch that forgets much, differences of sums over the whole chunk would tell little of one that forgets nothing.
Sums that fade are handed on from block to block, t BLOCK operations a column where a product with all ratios takes t^2. Up to
`BLOCK` tokens are one block, one product.

All products are as exact as their dtype on every device, since gates are multiplied with one another again and again.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from atlas_jax.memory.chunks import kept
from atlas_jax.memory.products import exact

BLOCK = 64
"""Tokens of a block."""


def running(logs: Float[Array, " t"]) -> Float[Array, " t"]:
    """Sums of the first 1, .., t."""
    if len(logs) <= BLOCK:
        return _running(logs)
    blocks = _blocks(logs)
    inside = jax.vmap(_running)(blocks)
    before = jnp.cumsum(inside[:, -1]) - inside[:, -1]
    return (inside + before[:, None]).reshape(-1)[: len(logs)]


def ratios(logs: Float[Array, " t"]) -> Float[Array, "t t"]:
    """[n, k] is the product of exp(logs) over k < l <= n; 0 above the diagonal. Masked before the exponential."""
    if len(logs) <= BLOCK:
        return _ratios(_running(logs))
    inside = jax.vmap(_running)(_blocks(logs))
    ended = inside[:, -1]
    between = jnp.pad(_stretches(ended)[:-1], ((1, 0), (0, 0)))  # from the end of k's block to the beginning of n's
    # Each of k's block by itself, before the sums of other blocks: what it forgot before k would round them.
    same = jnp.eye(len(ended), dtype=bool)[:, :, None]
    rest = jnp.where(same, -inside[None], ended[None, :, None] - inside[None])
    total = inside[:, :, None, None] + (between[:, :, None] + rest)[:, None, :, :]
    size = inside.size
    return _exponential(total.reshape(size, size)[: len(logs), : len(logs)])


def fading_sums(logs: Float[Array, " t"], rows: Float[Array, "t s"]) -> Float[Array, "t s"]:
    """y_t = exp(logs_t) y_{t-1} + rows_t, with y_{-1} = 0."""
    if len(logs) <= BLOCK:
        return exact(_ratios(_running(logs)), rows)
    inside = jax.vmap(_running)(_blocks(logs))
    own = exact(jax.vmap(_ratios)(inside), _blocks(rows))
    ended = exact(_exponential(_stretches(inside[:, -1])), own[:, -1])
    before = jnp.pad(ended[:-1], ((1, 0), (0, 0)))
    return (own + jnp.exp(inside)[:, :, None] * before[:, None, :]).reshape(-1, rows.shape[1])[: len(logs)]


def _blocks(x: Float[Array, "t ..."]) -> Float[Array, "n b ..."]:
    """Filled up with zeros: gates of 1."""
    missing = -len(x) % BLOCK
    return jnp.pad(x, [(0, missing)] + [(0, 0)] * (x.ndim - 1)).reshape(-1, BLOCK, *x.shape[1:])


def _running(logs: Float[Array, " t"]) -> Float[Array, " t"]:
    """As a product with a triangle, which on a CPU takes a third of the time of a cumulative sum."""
    return exact(jnp.tril(jnp.ones((len(logs), len(logs)), logs.dtype)), logs)


def _ratios(total: Float[Array, " t"]) -> Float[Array, "t t"]:
    return _exponential(total[:, None] - total[None, :])


def _stretches(logs: Float[Array, " n"]) -> Float[Array, "n n"]:
    """[n, k] is the sum over k < l <= n, each summed apart: cheap for as few as there are blocks."""
    return jnp.cumsum(jnp.tril(jnp.broadcast_to(logs[:, None], (len(logs), len(logs))), -1), axis=0)


def _exponential(logs: Float[Array, "t t"]) -> Float[Array, "t t"]:
    lower = jnp.tril(jnp.ones(logs.shape, bool))
    return kept(jnp.where(lower, jnp.exp(jnp.where(lower, logs, 0.0)), 0.0))
