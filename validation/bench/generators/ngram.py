"""The next generation by an n-gram model: as many tokens as wanted, from counts with Witten-Bell interpolation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from validation.bench.generators.streams import BLOCK, STREAMS, check_generation, collect, longest_document


class Level(NamedTuple):
    """What followed each of the c contexts of one length, a longer context being a shorter one and a token before it.

    A context's key is (number of the shorter context) * vocab_size + (the token before that), so that a key fits an int64
    whatever the order.
    """

    keys: Int[np.ndarray, " c"]  # ascending; the place of a key is the number of its context
    starts: Int[np.ndarray, " c"]  # of the context's part of `following`
    counts: Int[np.ndarray, " c"]  # length of that part
    stay: Float[np.ndarray, " c"]  # probability of drawing here and not from the shorter context
    following: Int[np.ndarray, " n"]  # every continuation as often as it occurred, context after context


def ngram_generation(
    documents: Sequence[Int[np.ndarray, " _"]],
    *,
    vocab_size: int,
    eos: int,
    tokens: int,
    seed: int,
    top_k: int | None = None,
    order: int = 4,
) -> list[Int[np.ndarray, " _"]]:
    """Documents drawn from an n-gram model of others.

    At each position the longest context that has occurred is taken, of up to order - 1 tokens. With N occurrences and T
    distinct continuations it draws one of its occurrences with probability N / (N + T), and else leaves the draw to the
    context that is one token shorter; the shortest one, of no token, draws always. Before the start of a document stands eos.

    With `top_k` every context keeps its k most frequent continuations, ties by token number, and one that has k or more
    never leaves the draw to a shorter one: close to the k likeliest of the interpolated distribution where N is large. A context
    with fewer than k mixes them with up to k of the shorter one. `top_k=1` is thus the most frequent continuation of the longest
    context that has occurred.

    Args:
      documents: token numbers without eos; empty ones are left out.
      vocab_size: tokens are 0 to vocab_size - 1.
      eos: what ends a document; it occurs in none.
      tokens: to reach, with one eos a document.
      seed: the same one gives the same documents.
      top_k: 1 to vocab_size, or None for all.
      order: longest n-gram, 1 or more.

    Returns:
      int32 documents without eos, none empty; the last one reaches `tokens`. One that grows too long is cut, see
      `streams.longest_document`.

    Raises:
      ValueError: no document with a token, a token out of range, or a number out of its range.

    Source: Witten and Bell 1991, method C; Chen and Goodman 1999, section 2.5.
    """
    if order < 1:
        raise ValueError(f"order is {order}, expected at least 1")
    found = check_generation(documents, vocab_size=vocab_size, eos=eos, tokens=tokens, top_k=top_k)
    streams = _Streams(count(found, vocab_size, eos, order, top_k), vocab_size, eos, longest_document(found), seed)
    return collect(streams.draw, tokens=tokens, eos=eos)


def count(
    documents: Sequence[Int[np.ndarray, " _"]], vocab_size: int, eos: int, order: int, top_k: int | None
) -> list[Level]:
    """The levels of all context lengths, 0 to order - 1; the final eos of each document is a continuation as well."""
    padding, end = np.full(order - 1, eos, np.int64), np.array([eos], np.int64)
    flat = np.concatenate([part for document in documents for part in (padding, document, end)])
    sizes = np.array([len(document) + order for document in documents])
    within = np.arange(len(flat)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    places = np.flatnonzero(within >= order - 1)

    levels, contexts = [], np.zeros(len(places), np.int64)
    for length in range(order):
        keys = contexts * vocab_size + flat[places - length] if length else contexts
        distinct, contexts = np.unique(keys, return_inverse=True)
        levels.append(_level(distinct, contexts, flat[places], vocab_size, top_k))
    return levels


def _level(
    keys: Int[np.ndarray, " c"],
    contexts: Int[np.ndarray, " n"],
    following: Int[np.ndarray, " n"],
    vocab_size: int,
    top_k: int | None,
) -> Level:
    pairs, occurrences = np.unique(contexts * vocab_size + following, return_counts=True)
    owners, continuations = pairs // vocab_size, pairs % vocab_size
    seen, distinct = np.bincount(contexts, minlength=len(keys)), np.bincount(owners, minlength=len(keys))
    leave = distinct / (seen + distinct)
    if top_k is not None:
        leave[distinct >= top_k] = 0
        ranked = np.lexsort((continuations, -occurrences, owners))
        rank = np.arange(len(pairs)) - np.repeat(np.cumsum(distinct) - distinct, distinct)
        kept = np.sort(ranked[rank < top_k])
        owners, continuations, occurrences = owners[kept], continuations[kept], occurrences[kept]
    counts = np.bincount(owners, weights=occurrences, minlength=len(keys)).astype(np.int64)
    return Level(keys, np.cumsum(counts) - counts, counts, 1 - leave, np.repeat(continuations, occurrences))


class _Streams:
    """Documents being written side by side, a token each at a time."""

    def __init__(self, levels: list[Level], vocab_size: int, eos: int, longest: int, seed: int) -> None:
        self._levels, self._vocab_size, self._eos, self._longest = levels, vocab_size, eos, longest
        self._random = np.random.default_rng(seed)
        self._history = np.full((len(levels) - 1, STREAMS), eos, np.int64)  # the latest token first
        self._lengths = np.zeros(STREAMS, np.int64)

    def draw(self) -> Int[np.ndarray, "t s"]:
        """The next tokens of every stream."""
        return np.stack([self._next() for _ in range(BLOCK)]).astype(np.int32)

    def _next(self) -> Int[np.ndarray, " s"]:
        draws = self._random.random((len(self._levels) + 1, STREAMS))
        contexts, known = np.zeros(STREAMS, np.int64), np.ones(STREAMS, bool)
        token = np.empty(STREAMS, np.int64)
        for length, level in enumerate(self._levels):
            if length:
                keys = contexts * self._vocab_size + self._history[length - 1]
                contexts = np.minimum(np.searchsorted(level.keys, keys), len(level.keys) - 1)
                known &= level.keys[contexts] == keys
            # From the shortest up, the last to draw decides: as if the longest had begun.
            chosen = known & (draws[length] < level.stay[contexts]) if length else known
            places = level.starts[contexts] + (draws[-1] * level.counts[contexts]).astype(np.int64)
            token = np.where(chosen, level.following[places], token)

        token[self._lengths == self._longest] = self._eos
        ended = token == self._eos
        self._lengths = np.where(ended, 0, self._lengths + 1)
        self._history = np.where(ended, self._eos, np.concatenate([token[None], self._history])[:-1])
        return token
