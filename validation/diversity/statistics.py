"""How much a text dataset holds: words, their spread, repetition and row lengths, in one pass and bounded memory.

Words are lower-cased runs of letters, digits and underscores. N-grams never cross rows. Tables of n-grams are exact up
to `NGRAM_LIMIT` distinct n-grams and estimated from a sample beyond (see `hash_counts`).
"""

from __future__ import annotations

import itertools
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, UInt64

from validation.diversity.hash_counts import HashCounts, SampledCounts, entropy, hash_ngrams, hash_words

QUANTILES = (5, 25, 50, 75, 95, 99, 100)
DISTINCT_WORDS = 50_000
COMPRESSION_BYTES = 1 << 20
COMMON_TYPES = 1_000
ZIPF_RANKS = (100, 10_000)
NGRAM_LIMIT = 1 << 22

WORD = re.compile(r"\w+")
BLOCK_CHARACTERS = 1 << 22
KNOWN_WORDS = 1 << 20


@dataclass(frozen=True)
class Diversity:
    """Statistics of a dataset. A figure that needs more text than there is, is nan.

    Attributes:
      rows: number of rows.
      empty_rows: rows without a character other than white space.
      bytes: size of the text in UTF-8.
      characters: length of the text.
      words: number of words.
      distinct_words: number of word types.
      word_entropy: entropy of the word distribution, bits.
      bigram_conditional_entropy: entropy of a word given the word before it in the row, bits.
      good_turing_unseen: estimated probability that the next word is of a type not seen yet: types seen once / words.
      zipf_slope: slope of log count over log rank by least squares, ranks 100 to 10,000 or as far as there are types;
        about -1 in natural text; nan under 200 types.
      tail_share: share of words whose type is not among the 1,000 most frequent.
      distinct_2: distinct word pairs / word pairs in the first 50,000 words, or in all of a smaller dataset.
      distinct_2_words: words `distinct_2` was measured on; values compare only at equal numbers.
      repeated_8grams: share of runs of 8 words that occurred before.
      compression_ratio: bytes / compressed bytes (zlib, level 6) of the first MiB, rows joined by line ends.
      compression_bytes: bytes `compression_ratio` was measured on.
      length_quantiles: bytes of a row at 5, 25, 50, 75, 95, 99 and 100 % of the rows (`QUANTILES`).
    """

    rows: int
    empty_rows: int
    bytes: int
    characters: int
    words: int
    distinct_words: int
    word_entropy: float
    bigram_conditional_entropy: float
    good_turing_unseen: float
    zipf_slope: float
    tail_share: float
    distinct_2: float
    distinct_2_words: int
    repeated_8grams: float
    compression_ratio: float
    compression_bytes: int
    length_quantiles: tuple[int, ...]


class TextStatistics:
    """Collects statistics batch by batch; the result does not depend on how rows are batched.

    Args:
      ngram_limit: most distinct n-grams to hold of each kind; 16 bytes each.
    """

    def __init__(self, ngram_limit: int = NGRAM_LIMIT) -> None:
        self._empty_rows = 0
        self._bytes = 0
        self._characters = 0
        self._lengths = HashCounts()
        self._words = HashCounts()
        self._contexts = HashCounts()
        self._bigrams = SampledCounts(ngram_limit)
        self._eightgrams = SampledCounts(ngram_limit)
        self._distinct_2 = HashCounts()
        self._distinct_2_words = 0
        self._sample = bytearray()
        self._known: dict[str, int] = {}

    def update(self, texts: Sequence[str]) -> None:
        """Adds rows.

        Args:
          texts: the rows, in file order.
        """
        for block in _blocks(texts):
            self._update_sizes(block)
            self._update_words(block)

    def _update_sizes(self, texts: Sequence[str]) -> None:
        encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
        self._lengths.add(np.array([len(row) for row in encoded], np.uint64))
        self._bytes += sum(map(len, encoded))
        self._characters += sum(map(len, texts))
        self._empty_rows += sum(not text or text.isspace() for text in texts)
        for row in encoded:
            if len(self._sample) >= COMPRESSION_BYTES:
                break
            self._sample += row + b"\n"

    def _update_words(self, texts: Sequence[str]) -> None:
        if len(self._known) > KNOWN_WORDS:
            self._known.clear()
        rows = [WORD.findall(text.lower()) for text in texts]
        lengths = np.array([len(row) for row in rows], np.int64)
        words = hash_words(itertools.chain.from_iterable(rows), self._known)
        self._words.add(words)
        ends = np.cumsum(lengths)[lengths > 0] - 1
        self._contexts.add(np.delete(words, ends))
        self._bigrams.add(hash_ngrams(words, lengths, 2))
        self._eightgrams.add(hash_ngrams(words, lengths, 8))
        self._update_distinct_2(words, lengths)

    def _update_distinct_2(self, words: UInt64[np.ndarray, " n"], lengths: Int[np.ndarray, " rows"]) -> None:
        """Adds pairs up to exactly `DISTINCT_WORDS` words, cutting the row in which they are reached."""
        left = DISTINCT_WORDS - self._distinct_2_words
        if left > 0:
            ends = np.minimum(np.cumsum(lengths), left)
            self._distinct_2.add(hash_ngrams(words[:left], np.diff(ends, prepend=0), 2))
            self._distinct_2_words += min(words.size, left)

    def result(self) -> Diversity:
        """Statistics of all rows so far."""
        words = self._words
        sample = bytes(self._sample[:COMPRESSION_BYTES])
        bigrams = self._bigrams.entropy() - entropy(self._contexts.counts, self._contexts.total)
        return Diversity(
            rows=self._lengths.total,
            empty_rows=self._empty_rows,
            bytes=self._bytes,
            characters=self._characters,
            words=words.total,
            distinct_words=words.keys.size,
            word_entropy=entropy(words.counts, words.total),
            bigram_conditional_entropy=max(bigrams, 0.0) if self._bigrams.total else float("nan"),
            good_turing_unseen=_share(int((words.counts == 1).sum()), words.total),
            zipf_slope=_zipf_slope(words.counts),
            tail_share=_share(int(np.sort(words.counts)[::-1][COMMON_TYPES:].sum()), words.total),
            distinct_2=_share(self._distinct_2.keys.size, self._distinct_2.total),
            distinct_2_words=self._distinct_2_words,
            repeated_8grams=_share(self._eightgrams.repeats(), self._eightgrams.total),
            compression_ratio=_share(len(sample), len(zlib.compress(sample, 6))) if sample else float("nan"),
            compression_bytes=len(sample),
            length_quantiles=_quantiles(self._lengths),
        )


def _blocks(texts: Sequence[str]) -> Iterator[list[str]]:
    """Splits a batch so that word lists and hash arrays stay small, whatever its size."""
    block, size = [], 0
    for text in texts:
        block.append(text)
        size += len(text)
        if size >= BLOCK_CHARACTERS:
            yield block
            block, size = [], 0
    if block:
        yield block


def _share(part: int | float, whole: int | float) -> float:
    return part / whole if whole else float("nan")


def _zipf_slope(counts: Int[np.ndarray, " distinct"]) -> float:
    first, last = ZIPF_RANKS
    if counts.size < 2 * first:
        return float("nan")
    ranked = np.sort(counts)[::-1][first - 1 : last]
    ranks = np.log(np.arange(first, first + ranked.size))
    return float(np.polyfit(ranks, np.log(ranked), 1)[0])


def _quantiles(lengths: HashCounts) -> tuple[int, ...]:
    """Smallest length that at least q % of the rows do not exceed."""
    if lengths.total == 0:
        return (0,) * len(QUANTILES)
    below = np.cumsum(lengths.counts) * 100
    return tuple(int(lengths.keys[np.searchsorted(below, q * lengths.total)]) for q in QUANTILES)
