"""How much a text dataset holds: words, their spread, repetition and row lengths, in one pass and bounded memory.

Words are lower-cased runs of letters, digits and underscores (`words`). N-grams never cross rows. Tables of words and
n-grams are exact up to `NGRAM_LIMIT` distinct ones and estimated from a sample beyond (see `hash_counts`).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int, UInt64

from validation.diversity.hash_counts import FLUSH, HashCounts, SampledCounts, counted, hash_ngrams
from validation.diversity.words import blank, text_buffers, word_hashes

QUANTILES = (5, 25, 50, 75, 95, 99, 100)
DISTINCT_WORDS = 50_000
COMPRESSION_BYTES = 1 << 20
COMMON_TYPES = 1_000
ZIPF_RANKS = (100, 10_000)
NGRAM_LIMIT = 1 << 22
BLOCK_BYTES = 1 << 22


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
      ngram_limit: most distinct words or n-grams to hold of each kind; 16 bytes each.
      flush: words gathered before they are sorted into the tables.
    """

    def __init__(self, ngram_limit: int = NGRAM_LIMIT, flush: int = FLUSH) -> None:
        self.empty_rows = 0
        self.bytes = 0
        self.characters = 0
        self.lengths = HashCounts()
        self.words = SampledCounts(ngram_limit, flush)
        self.contexts = SampledCounts(ngram_limit, flush)
        self.bigrams = SampledCounts(ngram_limit, flush)
        self.eightgrams = SampledCounts(ngram_limit, flush)
        self._first_words = np.empty(0, np.uint64)
        self._first_lengths = np.empty(0, np.int64)
        self._sample = bytearray()

    def update(self, texts: Sequence[str] | pa.Array) -> tuple[UInt64[np.ndarray, " words"], Int[np.ndarray, " rows"]]:
        """Adds rows.

        Args:
          texts: the rows, in file order; strings or an Arrow array of them, a null being an empty row.

        Returns:
          hashes of the words, row after row, and the number of words of each row.
        """
        data, offsets = text_buffers(texts)
        found = [self._update(data, block) for block in _blocks(offsets)]
        return (
            np.concatenate([words for words, _ in found] or [np.empty(0, np.uint64)]),
            np.concatenate([lengths for _, lengths in found] or [np.empty(0, np.int64)]),
        )

    def _update(
        self, data: np.ndarray, offsets: Int[np.ndarray, " n"]
    ) -> tuple[UInt64[np.ndarray, " words"], Int[np.ndarray, " rows"]]:
        words, lengths = word_hashes(data, offsets)
        text = data[offsets[0] : offsets[-1]]
        self.bytes += text.size
        self.characters += text.size - int(np.count_nonzero(text & 0xC0 == 0x80))
        self.lengths.add(np.diff(offsets).astype(np.uint64))
        for row in np.flatnonzero(lengths == 0):
            self.empty_rows += blank(data[offsets[row] : offsets[row + 1]].tobytes().decode("utf-8", "surrogatepass"))
        for row in range(offsets.size - 1):
            if len(self._sample) >= COMPRESSION_BYTES:
                break
            self._sample += data[offsets[row] : offsets[row + 1]][:COMPRESSION_BYTES].tobytes() + b"\n"
        self.words.add(words)
        not_last = np.ones(words.size, bool)
        not_last[np.cumsum(lengths)[lengths > 0] - 1] = False
        self.contexts.add(words[not_last])
        self.bigrams.add(hash_ngrams(words, lengths, 2))
        self.eightgrams.add(hash_ngrams(words, lengths, 8))
        self._begin(words, lengths)
        return words, lengths

    def _begin(self, words: UInt64[np.ndarray, " n"], lengths: Int[np.ndarray, " rows"]) -> None:
        """Keeps words up to exactly `DISTINCT_WORDS`, cutting the row in which they are reached."""
        left = DISTINCT_WORDS - self._first_words.size
        if left > 0:
            ends = np.minimum(np.cumsum(lengths), left)
            cut = np.diff(ends, prepend=0)
            self._first_lengths = np.concatenate([self._first_lengths, cut[cut > 0]])
            self._first_words = np.concatenate([self._first_words, words[:left]])

    def merge(self, other: TextStatistics) -> None:
        """Adds the rows of another, which come after these; `other` stays as it is."""
        self.empty_rows += other.empty_rows
        self.bytes += other.bytes
        self.characters += other.characters
        self.lengths.add_counted(other.lengths.keys, other.lengths.counts)
        for mine, theirs in zip(self._tables().values(), other._tables().values(), strict=True):
            mine.merge(theirs)
        self._begin(other._first_words, other._first_lengths)
        if len(self._sample) < COMPRESSION_BYTES:
            self._sample += other._sample

    def _tables(self) -> dict[str, SampledCounts]:
        return {"words": self.words, "contexts": self.contexts, "bigrams": self.bigrams, "eightgrams": self.eightgrams}

    def state(self) -> dict[str, np.ndarray]:
        """All of it as arrays."""
        arrays = {
            "numbers": np.array([self.empty_rows, self.bytes, self.characters]),
            "lengths": self.lengths.keys,
            "length_counts": self.lengths.counts,
            "first_words": self._first_words,
            "first_lengths": self._first_lengths,
            "sample": np.frombuffer(bytes(self._sample[:COMPRESSION_BYTES]), np.uint8),
        }
        for name, table in self._tables().items():
            arrays |= {f"{name}/{part}": array for part, array in table.state().items()}
        return arrays

    @classmethod
    def of_state(cls, state: Mapping[str, np.ndarray]) -> TextStatistics:
        """The statistics that `state` was taken from."""
        one = cls()
        one.empty_rows, one.bytes, one.characters = (int(number) for number in state["numbers"])
        one.lengths.add_counted(state["lengths"], state["length_counts"])
        one._first_words, one._first_lengths = state["first_words"], state["first_lengths"]
        one._sample = bytearray(state["sample"].tobytes())
        for name in one._tables():
            parts = {key[len(name) + 1 :]: array for key, array in state.items() if key.startswith(f"{name}/")}
            setattr(one, name, SampledCounts.of_state(parts))
        return one

    def distinct(self, n: int) -> float:
        """Distinct runs of n words / such runs, in the first `DISTINCT_WORDS` words."""
        runs = hash_ngrams(self._first_words, self._first_lengths, n)
        return _share(counted(runs)[0].size, runs.size)

    def ranked(self) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
        """Counts of word types, largest first, and the last rank of each; a sampled type stands for several ranks."""
        _, counts, weights = self.words.kept()
        order = np.argsort(-counts, kind="stable")
        return counts[order].astype(np.float64), np.cumsum(weights[order])

    def result(self) -> Diversity:
        """Statistics of all rows so far."""
        words, sample = self.words, bytes(self._sample[:COMPRESSION_BYTES])
        counts, ranks = self.ranked()
        bigrams = self.bigrams.entropy() - self.contexts.entropy()
        return Diversity(
            rows=self.lengths.total,
            empty_rows=self.empty_rows,
            bytes=self.bytes,
            characters=self.characters,
            words=words.total,
            distinct_words=round(words.distinct()),
            word_entropy=words.entropy(),
            bigram_conditional_entropy=max(bigrams, 0.0) if self.bigrams.total else float("nan"),
            good_turing_unseen=_share(words.singletons(), words.total),
            zipf_slope=_zipf_slope(counts, ranks),
            tail_share=_tail_share(counts, ranks, words.total),
            distinct_2=self.distinct(2),
            distinct_2_words=self._first_words.size,
            repeated_8grams=_share(self.eightgrams.repeats(), self.eightgrams.total),
            compression_ratio=_share(len(sample), len(zlib.compress(sample, 6))) if sample else float("nan"),
            compression_bytes=len(sample),
            length_quantiles=_quantiles(self.lengths),
        )


def _blocks(offsets: Int[np.ndarray, " n"]) -> Iterator[Int[np.ndarray, " k"]]:
    """Splits a batch between rows so that hash arrays stay small, whatever its size."""
    first, last = 0, offsets.size - 1
    while first < last:
        end = int(np.searchsorted(offsets, offsets[first] + BLOCK_BYTES, side="right")) - 1
        end = min(max(end, first + 1), last)
        yield offsets[first : end + 1]
        first = end


def _share(part: int | float, whole: int | float) -> float:
    return part / whole if whole else float("nan")


def _zipf_slope(counts: Float[np.ndarray, " n"], ranks: Float[np.ndarray, " n"]) -> float:
    first, last = ZIPF_RANKS
    if not ranks.size or ranks[-1] < 2 * first:
        return float("nan")
    wanted = np.arange(first, min(last, int(ranks[-1])) + 1)
    slopes = np.polyfit(np.log(wanted), np.log(counts[np.searchsorted(ranks, wanted)]), 1)
    return float(slopes[0])


def _tail_share(counts: Float[np.ndarray, " n"], ranks: Float[np.ndarray, " n"], total: int) -> float:
    """Share of words beyond the most common types."""
    common = np.diff(np.minimum(ranks, COMMON_TYPES), prepend=0)
    return _share(max(total - float((counts * common).sum()), 0.0), total)


def _quantiles(lengths: HashCounts) -> tuple[int, ...]:
    """Smallest length that at least q % of the rows do not exceed."""
    if lengths.total == 0:
        return (0,) * len(QUANTILES)
    below = np.cumsum(lengths.counts) * 100
    return tuple(int(lengths.keys[np.searchsorted(below, q * lengths.total)]) for q in QUANTILES)
