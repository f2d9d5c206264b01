"""Rows as sets of overlapping pieces, and the exact similarity of two such sets.

A row of at least `SHORT_WORDS` words is the set of its runs of 5 words; a shorter one, or one in a script without
spaces, is the set of its runs of 5 characters, since a handful of words has too few runs to compare.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, UInt64

from validation.diversity.hash_counts import hash_ngrams, hash_words

WORDS = 5
CHARACTERS = 5
SHORT_WORDS = 10
PAIR_ELEMENTS = 1 << 22

WORD = re.compile(r"\w+")


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
        ends = np.cumsum(sizes)
        within = np.arange(sizes.sum()) - np.repeat(ends - sizes, sizes)
        return (
            self.items[np.repeat(self.offsets[rows], sizes) + within]
            + np.repeat(np.arange(rows.size), sizes) * self._span()
        )

    def _span(self) -> int:
        return self.items.size + 1


def normalised(text: str) -> str:
    """Text as compared for exact duplicates: case and white space do not count."""
    return " ".join(text.lower().split())


def shingle(rows: Sequence[str]) -> Shingles:
    """Sets of shingles of rows.

    Args:
      rows: normalised texts.

    Returns:
      Sets in row order; an empty row has the empty set. Word and character shingles are never equal.
    """
    words = [WORD.findall(row) for row in rows]
    long = np.array([len(found) >= SHORT_WORDS for found in words], bool)
    by_words = hash_words((word for found in words if len(found) >= SHORT_WORDS for word in found), {})
    lengths = np.array([len(found) if len(found) >= SHORT_WORDS else 0 for found in words], np.int64)
    word_rows = np.repeat(np.arange(len(rows)), np.maximum(lengths - WORDS + 1, 0))
    short = [
        row.ljust(CHARACTERS, "\0") if row and not is_long else "" for row, is_long in zip(rows, long, strict=True)
    ]
    points = np.frombuffer("".join(short).encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    short_lengths = np.array([len(row) for row in short], np.int64)
    short_rows = np.repeat(np.arange(len(rows)), np.maximum(short_lengths - CHARACTERS + 1, 0))
    return _sets(
        np.concatenate([word_rows, short_rows]),
        np.concatenate([hash_ngrams(by_words, lengths, WORDS), hash_ngrams(points, short_lengths, CHARACTERS)]),
        len(rows),
    )


def _sets(rows: Int[np.ndarray, " n"], hashes: UInt64[np.ndarray, " n"], count: int) -> Shingles:
    """Numbers the shingles, and sorts and deduplicates them within each row."""
    distinct, numbers = np.unique(hashes, return_inverse=True)
    keys = np.unique(rows * max(distinct.size, 1) + numbers)
    row, items = np.divmod(keys, max(distinct.size, 1))
    offsets = np.zeros(count + 1, np.int64)
    np.cumsum(np.bincount(row, minlength=count), out=offsets[1:])
    return Shingles(items, offsets)
