"""Causal sliding-window attention with rotary embeddings, block after block, with a carried window of fixed size.

Each token sees itself and the `window - 1` tokens before it. What a stream carries is their keys and values, unrotated:
rotary attention depends on distances alone, so positions are counted from the oldest carried token of each block. No
position grows with the stream, the tables of angles are constants exact to rounding, and there is no counter to keep.

Persistent tokens, where there are some, are seen by every query beside its window. They stand at no position, so nothing
is turned where they are scored, and they are no part of what is carried.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from atlas_jax.nn.norms import sum_dtype

ROTARY_BASE = 10_000.0

Persistent = tuple[Float[Array, "p h k"], Float[Array, "p h v"]]  # keys and values, the same for every sequence


class Window(NamedTuple):
    """The last w = window - 1 tokens of every sequence, oldest first; zeros where the sequence is still shorter."""

    keys: Float[Array, "b w h k"]  # before rotation
    values: Float[Array, "b w h v"]
    present: Float[Array, "b w"]  # 1 where a token stands, 0 before the start; a float, so that a cast takes all


def init_window(batch: int, window: int, heads: int, key_width: int, value_width: int | None = None) -> Window:
    """The window before the first token: empty, float32.

    Args:
      batch: sequences.
      window: tokens that each token sees, itself included.
      heads: attention heads.
      key_width: channels of a key.
      value_width: channels of a value; default as many.

    Raises:
      ValueError: window is below 1.
    """
    if window < 1:
        raise ValueError(f"init_window: window is {window}, expected at least 1")
    past = window - 1
    return Window(
        jnp.zeros((batch, past, heads, key_width)),
        jnp.zeros((batch, past, heads, key_width if value_width is None else value_width)),
        jnp.zeros((batch, past)),
    )


def rotary_table(
    length: int, width: int, base: float = ROTARY_BASE
) -> tuple[Float[np.ndarray, "t r"], Float[np.ndarray, "t r"]]:
    """Cosine and sine of position x base**(-2 i / width), float64, for positions 0 to length - 1 and r = width / 2.

    Raises:
      ValueError: width is odd, or base not positive.
    """
    if width % 2:
        raise ValueError(f"rotary_table: width is {width}, expected an even number of channels")
    if not base > 0:
        raise ValueError(f"rotary_table: base is {base}, expected more than 0")
    angles = np.arange(length)[:, None] * base ** (-np.arange(0, width, 2) / width)[None, :]
    return np.cos(angles), np.sin(angles)


def rotate(
    x: Float[Array, "b t h k"], cosine: Float[Array | np.ndarray, "t r"], sine: Float[Array | np.ndarray, "t r"]
) -> Float[Array, "b t h k"]:
    """Turns channel pairs (i, i + k / 2) by the angles of their position; in float32 at least, result as x.

    Source: Su et al. 2021, RoFormer, arXiv:2104.09864, equation 34, with the pairs half the width apart.
    """
    dtype = sum_dtype(x.dtype)
    first, second = jnp.split(x.astype(dtype), 2, axis=-1)
    c, s = (jnp.asarray(table, dtype)[None, :, None, :] for table in (cosine, sine))
    return jnp.concatenate([first * c - second * s, second * c + first * s], axis=-1).astype(x.dtype)


def attend(
    query: Float[Array, "b t h k"],
    keys: Float[Array, "b s h k"],
    values: Float[Array, "b s h v"],
    visible: Bool[Array | np.ndarray, "#b t s"],
    beside: tuple[Float[Array, "b h t p"], Float[Array, "p h v"]] | None = None,
) -> Float[Array, "b t h v"]:
    """softmax(query keys / sqrt(k)) values over the visible tokens; scores and softmax in float32 at least.

    What is not visible has weight exactly 0. Each query must see at least one token.

    Args:
      query, keys, values: of one dtype.
      visible: which tokens s each token t sees.
      beside: finished scores (`persistent_scores`) and values of tokens that all see besides, in the same softmax.

    Source: Vaswani et al. 2017, arXiv:1706.03762, equation 1.
    """
    dtype = sum_dtype(query.dtype)
    scores = jnp.einsum("bthk,bshk->bhts", query, keys, preferred_element_type=dtype)
    scores = jnp.where(visible[:, None], scores * query.shape[-1] ** -0.5, jnp.finfo(dtype).min)
    if beside is None:
        weights = jax.nn.softmax(scores, axis=-1).astype(values.dtype)
        return jnp.einsum("bhts,bshv->bthv", weights, values, preferred_element_type=dtype).astype(values.dtype)
    more_scores, more_values = beside
    weights = jax.nn.softmax(jnp.concatenate([more_scores, scores], axis=-1), axis=-1).astype(values.dtype)
    more, own = jnp.split(weights, [more_scores.shape[-1]], axis=-1)
    mixed = jnp.einsum("bhts,bshv->bthv", own, values, preferred_element_type=dtype)
    return (mixed + jnp.einsum("bhtp,phv->bthv", more, more_values, preferred_element_type=dtype)).astype(values.dtype)


def persistent_scores(query: Float[Array, "b t h k"], keys: Float[Array, "p h k"]) -> Float[Array, "b h t p"]:
    """query keys / sqrt(k) for keys at no position: `query` is the one that is not rotated; in float32 at least."""
    scores = jnp.einsum("bthk,phk->bhtp", query, keys, preferred_element_type=sum_dtype(query.dtype))
    return scores * query.shape[-1] ** -0.5


def _beside(query: Array, persistent: Persistent | None) -> tuple[Array, Array] | None:
    return None if persistent is None else (persistent_scores(query, persistent[0]), persistent[1])


def _band(length: int, past: int, window: int) -> Bool[np.ndarray, "1 t s"]:
    """Which of `past` carried tokens and the block's own each token of the block may see."""
    distance = past + np.arange(length)[:, None] - np.arange(past + length)[None, :]
    return ((distance >= 0) & (distance < window))[None]


def _first_block(
    query: Array, key: Array, value: Array, persistent: Persistent | None, window: int, base: float
) -> tuple[Float[Array, "b t h v"], Window]:
    """A block with nothing before it: no carried token is looked at."""
    batch, length = query.shape[:2]
    table = rotary_table(length, query.shape[-1], base)
    near, beside = _band(length, 0, window), _beside(query, persistent)
    mixed = attend(rotate(query, *table), rotate(key, *table), value, near, beside)
    missing = max(0, window - 1 - length)

    def last(x: Array) -> Array:
        kept = x[:, length + missing - (window - 1) :]
        return jnp.pad(kept, [(0, 0), (missing, 0)] + [(0, 0)] * (x.ndim - 2))

    return mixed, Window(last(key), last(value), last(jnp.ones((batch, length), key.dtype)))


def _next_block(
    query: Array, key: Array, value: Array, persistent: Persistent | None, state: Window, window: int, base: float
) -> tuple[Float[Array, "b t h v"], Window]:
    """A block that goes on from `state`."""
    batch, length = query.shape[:2]
    past = window - 1
    keys, values = jnp.concatenate([state.keys, key], axis=1), jnp.concatenate([state.values, value], axis=1)
    present = jnp.concatenate([state.present, jnp.ones((batch, length), state.present.dtype)], axis=1)
    cosine, sine = rotary_table(past + length, query.shape[-1], base)
    visible = jnp.asarray(_band(length, past, window)) & (present > 0)[:, None, :]
    turned, beside = rotate(query, cosine[past:], sine[past:]), _beside(query, persistent)
    mixed = attend(turned, rotate(keys, cosine, sine), values, visible, beside)
    return mixed, Window(keys[:, length:], values[:, length:], present[:, length:])


def _check(
    query: Array,
    key: Array,
    value: Array,
    persistent: tuple[Array, Array] | None,
    state: Window | None,
    window: int,
    chunk: int,
) -> None:
    if query.ndim != 4 or not jnp.issubdtype(query.dtype, jnp.floating):
        found = f"{query.dtype} {query.shape}"
        raise ValueError(f"sliding_window_attention: query is {found}, expected floats [batch, time, heads, width]")
    for name, size in (("window", window), ("chunk", chunk), ("query length", query.shape[1])):
        if size < 1:
            raise ValueError(f"sliding_window_attention: {name} is {size}, expected at least 1")
    for name, array, shape in (("key", key, query.shape), ("value", value, (*query.shape[:3], *value.shape[-1:]))):
        if array.shape != shape or array.dtype != query.dtype:
            found = f"{array.dtype} {array.shape}"
            raise ValueError(f"sliding_window_attention: {name} is {found}, expected {query.dtype} {shape} as query")
    batch, _, heads, width = key.shape
    past, given = window - 1, []
    if state is not None:
        shapes = ((batch, past, heads, width), (batch, past, heads, value.shape[-1]), (batch, past))
        given += zip([f"state.{name}" for name in Window._fields], state, shapes, strict=True)
    if persistent is not None:
        shapes = tuple((persistent[0].shape[0], *array.shape[2:]) for array in (key, value))
        given += zip(("persistent key", "persistent value"), persistent, shapes, strict=True)
    for name, array, shape in given:
        if array.shape != shape or array.dtype != key.dtype:
            found = f"{array.dtype} {array.shape}"
            raise ValueError(f"sliding_window_attention: {name} is {found}, expected {key.dtype} {shape}")


def sliding_window_attention(
    query: Float[Array, "b t h k"],
    key: Float[Array, "b t h k"],
    value: Float[Array, "b t h v"],
    state: Window | None = None,
    *,
    window: int,
    chunk: int = 128,
    base: float = ROTARY_BASE,
    persistent: Persistent | None = None,
) -> tuple[Float[Array, "b t h v"], Window]:
    """Attention of each token to itself and the `window - 1` before it, and the window that the next call goes on from.

    Any split of a sequence with the window carried gives the same outputs; a step is a block of one token. Blocks of
    `chunk` queries meet window - 1 + chunk keys each, one block after the other, and a backward pass computes their
    weights again instead of keeping them: memory is O(t d + chunk window).

    Args:
      query, key, value: projections of the inputs, not rotated, all of one float dtype; k even.
      state: where an earlier call stopped; None at the start of a sequence (then nothing is spent on it).
      window: tokens that each token sees, itself included.
      chunk: queries per block.
      base: of the rotary frequencies; wavelengths run from 2 pi to about 2 pi base tokens.
      persistent: keys and values of p tokens that every query sees beside its window, in the same softmax and without
        rotation of either side; they do not count in the window and never leave. None: there are none.

    Returns:
      The mixed values, and the last window - 1 tokens.

    Raises:
      ValueError: a size is below 1, the width is odd, arrays do not fit each other, or the state is another model's.
    """
    _check(query, key, value, persistent, state, window, chunk)
    batch, length, heads, width = query.shape
    if length <= chunk:
        if state is None:
            return _first_block(query, key, value, persistent, window, base)
        return _next_block(query, key, value, persistent, state, window, base)
    start = state
    if start is None:  # zeros like key: inside a `shard_map` they vary over the axes that key varies over
        empty = init_window(batch, window, heads, width, value.shape[-1])
        start = jax.tree.map(lambda x: jnp.zeros_like(key, shape=x.shape), empty)

    @jax.checkpoint
    def one_block(carry: Window, block: tuple[Array, Array, Array]) -> tuple[Window, Array]:
        mixed, carry = _next_block(*block, persistent, carry, window, base)
        return carry, mixed

    count, whole = length // chunk, length // chunk * chunk
    blocks = [
        jnp.moveaxis(x[:, :whole].reshape(batch, count, chunk, heads, x.shape[-1]), 1, 0) for x in (query, key, value)
    ]
    last, mixed = jax.lax.scan(one_block, start, tuple(blocks))
    mixed = jnp.moveaxis(mixed, 0, 1).reshape(batch, whole, heads, value.shape[-1])
    if whole < length:
        tail = (query[:, whole:], key[:, whole:], value[:, whole:])
        rest, last = _next_block(*tail, persistent, last, window, base)
        mixed = jnp.concatenate([mixed, rest], axis=1)
    return mixed, last
