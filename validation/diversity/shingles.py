"""Rows as sets of overlapping pieces, and the exact similarity of two such sets.

A row of at least `SHORT_WORDS` words is the set of its runs of 5 words; a shorter one, or one in a script without
spaces, is the set of its runs of 5 characters, since a handful of words has too few runs to compare.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt64

from validation.diversity.hash_counts import hash_ngrams, mixed
from validation.diversity.texts import Texts, hash_spans, ranges
from validation.diversity.words import word_hashes

WORDS = 5
CHARACTERS = 5
SHORT_WORDS = 10
PAIR_ELEMENTS = 1 << 22

_BY_WORDS = np.uint64(0x5851F42D4C957F2D)  # keeps runs of words apart from runs of characters


class FlatShingles(NamedTuple):
    """Shingles of rows as they come, with repeats.

    Attributes:
      hashes: of all rows, one row after the other.
      offsets: where each row begins; the last element is the end.
    """

    hashes: UInt64[np.ndarray, " items"]
    offsets: Int[np.ndarray, " rows_and_one"]


@dataclass(frozen=True)
class Shingles:
    """Sets of shingles of many rows, one after the other.

    Attributes:
      items: shingle numbers, sorted within each row, without repeats.
      offsets: where each row begins in `items`; the last element is the end.
    """

    items: Int[np.ndarray, " items"]
    offsets: Int[np.ndarray, " rows_and_one"]

    def sizes(self) -> Int[np.ndarray, " rows"]:
        """Shingles of each row."""
        return np.diff(self.offsets)

    def jaccard(self, left: Int[np.ndarray, " pairs"], right: Int[np.ndarray, " pairs"]) -> Float[np.ndarray, " pairs"]:
        """Exact Jaccard similarity of pairs of rows that are not empty.

        Args:
          left: row numbers.
          right: row numbers, pair by pair.
        """
        sizes = self.sizes()
        similar = np.zeros(left.size, np.float64)
        if left.size == 0:
            return similar
        blocks = np.cumsum(sizes[left] + sizes[right]) // PAIR_ELEMENTS
        for block in np.split(np.arange(left.size), np.flatnonzero(np.diff(blocks)) + 1):
            similar[block] = self._jaccard(left[block], right[block])
        return similar

    def _jaccard(
        self, left: Int[np.ndarray, " pairs"], right: Int[np.ndarray, " pairs"]
    ) -> Float[np.ndarray, " pairs"]:
        ours, theirs = self._keys(left), self._keys(right)
        # Both are sorted: pair by pair, and by shingle within a pair.
        place = np.minimum(np.searchsorted(ours, theirs), ours.size - 1)
        common = theirs[ours[place] == theirs]
        shared = np.bincount(common // self._span(), minlength=left.size)
        sizes = self.sizes()
        return shared / (sizes[left] + sizes[right] - shared)

    def _keys(self, rows: Int[np.ndarray, " pairs"]) -> Int[np.ndarray, " items"]:
        """Shingles of the listed rows, each made unique to its place in the list."""
        sizes = self.sizes()[rows]
        items = self.items[ranges(self.offsets[rows], sizes)]
        return items + np.repeat(np.arange(rows.size), sizes) * self._span()

    def _span(self) -> int:
        return self.items.size + 1


def shingle(texts: Texts) -> FlatShingles:
    """Shingles of rows.

    Args:
      texts: normalised texts.

    Returns:
      Hashes in row order; an empty row has none. Word and character shingles are never equal.
    """
    hashes, words = word_hashes(texts.data, texts.offsets)
    long = words >= SHORT_WORDS
    counts = np.where(long, words - WORDS + 1, 0)
    by_words = mixed(hash_ngrams(hashes[np.repeat(long, words)], words[long], WORDS) ^ _BY_WORDS)

    characters = np.flatnonzero((texts.data & 0xC0) != 0x80)  # byte at which each character begins
    first = np.searchsorted(characters, texts.offsets)  # character number at which each row begins
    lengths = np.diff(first)
    short = np.flatnonzero(~long & (lengths > 0))
    counts[short] = np.maximum(lengths[short] - CHARACTERS + 1, 1)
    begin = ranges(first[short], counts[short])
    end = np.minimum(begin + CHARACTERS, np.repeat(first[short + 1], counts[short]))
    characters = np.append(characters, texts.data.size)
    by_characters = hash_spans(texts.data, characters[begin], characters[end] - characters[begin], lanes=1)[0]

    offsets = np.zeros(counts.size + 1, np.int64)
    np.cumsum(counts, out=offsets[1:])
    out = np.empty(offsets[-1], np.uint64)
    out[ranges(offsets[:-1][long], counts[long])] = by_words
    out[ranges(offsets[short], counts[short])] = by_characters
    return FlatShingles(out, offsets)


def as_sets(flat: FlatShingles) -> Shingles:
    """Numbers the shingles, and sorts and deduplicates them within each row."""
    count = flat.offsets.size - 1
    rows = np.repeat(np.arange(count), np.diff(flat.offsets))
    distinct, numbers = np.unique(flat.hashes, return_inverse=True)
    keys = rows * max(distinct.size, 1) + numbers
    keys.sort()  # np.unique would fill a hash table with them first
    keys = keys[np.append(True, keys[1:] != keys[:-1])[: keys.size]]
    row, items = np.divmod(keys, max(distinct.size, 1))
    offsets = np.zeros(count + 1, np.int64)
    np.cumsum(np.bincount(row, minlength=count), out=offsets[1:])
    return Shingles(items, offsets)


def similarities(
    texts: Texts, left: Int[np.ndarray, " pairs"], right: Int[np.ndarray, " pairs"]
) -> Float[np.ndarray, " pairs"]:
    """Jaccard similarity of the shingle sets of pairs of rows that are not empty, in bounded memory.

    Args:
      texts: normalised texts; those of the pairs are read.
      left: row numbers.
      right: row numbers, pair by pair.
    """
    out = np.zeros(left.size, np.float64)
    for block in texts.blocks_of_pairs(left, right):
        rows, place = np.unique(np.concatenate([left[block], right[block]]), return_inverse=True)
        sets = as_sets(shingle(texts.take(rows)))
        out[block] = sets.jaccard(*np.split(place, 2))
    return out
