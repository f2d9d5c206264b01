"""Counts of things too many to name: 64-bit hashes as keys, sorted arrays as tables.

A table of word n-grams outgrows memory long before the text is read. When `SampledCounts` is full for the first time it
sets the most frequent keys apart and counts them exactly for good; of all others it keeps those in a random part of the
hash space, halving that part whenever the table is full again. Every kept key has its exact count from the first row
on, so sums over keys, those in the sampled part divided by the share kept, are unbiased.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
from jaxtyping import Bool, Int, UInt64

Hashes = UInt64[np.ndarray, " n"]


class HashCounts:
    """Exact counts; 16 bytes for every distinct key."""

    def __init__(self) -> None:
        self.keys: UInt64[np.ndarray, " distinct"] = np.empty(0, np.uint64)
        self.counts: Int[np.ndarray, " distinct"] = np.empty(0, np.int64)
        self.total = 0

    def add(self, keys: Hashes) -> None:
        """Counts every element of `keys` once."""
        self.total += keys.size
        new, counts = np.unique(keys, return_counts=True)
        place = np.searchsorted(self.keys, new)
        known = self.holds(new)
        self.counts[place[known]] += counts[known]
        self.keys = np.insert(self.keys, place[~known], new[~known])
        self.counts = np.insert(self.counts, place[~known], counts[~known])

    def holds(self, keys: Hashes) -> Bool[np.ndarray, " n"]:
        """Whether each key has been counted."""
        place = np.searchsorted(self.keys, keys)
        inside = place < self.keys.size
        inside[inside] = self.keys[place[inside]] == keys[inside]
        return inside

    def take(self, chosen: Bool[np.ndarray, " distinct"]) -> HashCounts:
        """Moves the chosen keys and their counts into a table of their own."""
        taken = HashCounts()
        taken.keys, taken.counts = self.keys[chosen], self.counts[chosen]
        self.keys, self.counts = self.keys[~chosen], self.counts[~chosen]
        return taken


class SampledCounts:
    """Counts of more keys than fit: exact for the frequent ones, sampled for the rest.

    Args:
      limit: most distinct keys to hold, a quarter of them frequent ones.

    Attributes:
      total: number of keys counted, kept or not.
      frequent: the keys set apart when the table was first full.
      sampled: the other keys that are kept.
      share: part of the hash space that `sampled` covers, 1 until the limit is first reached.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.halvings = 0
        self.total = 0
        self.frequent = HashCounts()
        self.sampled = HashCounts()

    @property
    def share(self) -> float:
        return 0.5**self.halvings

    def add(self, keys: Hashes) -> None:
        """Counts every element of `keys` that is frequent or falls into the part of the hash space that is kept."""
        self.total += keys.size
        frequent = self.frequent.holds(keys)
        self.frequent.add(keys[frequent])
        rest = keys[~frequent]
        self.sampled.add(rest[self._kept(rest)])
        while self.frequent.keys.size + self.sampled.keys.size > self.limit:
            if self.halvings == 0:
                counts = self.sampled.counts
                self.frequent = self.sampled.take(counts > np.sort(counts)[-1 - self.limit // 4])
            self.halvings += 1
            self.sampled = self.sampled.take(self._kept(self.sampled.keys))

    def _kept(self, keys: Hashes) -> Bool[np.ndarray, " n"]:
        return keys & np.uint64((1 << self.halvings) - 1) == 0

    def repeats(self) -> float:
        """Estimated number of keys that were counted before; exact while `share` is 1."""
        return float((self.frequent.counts - 1).sum() + (self.sampled.counts - 1).sum() / self.share)

    def entropy(self) -> float:
        """Estimated entropy of the keys in bits; exact while `share` is 1, nan without keys."""
        return entropy(self.frequent.counts, self.total) + entropy(self.sampled.counts, self.total) / self.share


def entropy(counts: Int[np.ndarray, " distinct"], total: int) -> float:
    """Entropy in bits of a distribution given by counts, or the part of it that belongs to some of its keys."""
    if total == 0:
        return float("nan")
    return float(-(counts / total * np.log2(counts / total)).sum()) + 0.0


def hash_words(words: Iterable[str], known: dict[str, int]) -> Hashes:
    """64-bit hashes of words, the same in every process, unlike Python's own.

    Args:
      words: words in order.
      known: hashes already computed; extended here.

    Returns:
      One hash for each word.
    """
    words = list(words)
    for word in set(words).difference(known):
        digest = hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        known[word] = int.from_bytes(digest, "little")
    return np.fromiter(map(known.__getitem__, words), np.uint64, len(words))


def hash_ngrams(words: Hashes, lengths: Int[np.ndarray, " rows"], n: int) -> UInt64[np.ndarray, " runs"]:
    """Hashes of all runs of n words that lie within one row.

    Args:
      words: word hashes of all rows, one row after the other.
      lengths: words in each row.
      n: words in a run.

    Returns:
      Hashes of the runs, in order; a row of fewer than n words has none.
    """
    if words.size < n:
        return np.empty(0, np.uint64)
    last = words.size - n + 1
    grams = np.zeros(last, np.uint64)
    for offset in range(n):
        grams = mixed(grams + words[offset : offset + last])
    left = np.repeat(np.cumsum(lengths), lengths)[:last] - np.arange(last)
    return grams[left >= n]


def mixed(hashes: Hashes) -> Hashes:
    """Scrambles 64-bit values so that every output bit depends on every input bit; a bijection.

    Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators" (2014), the finaliser of SplitMix64.
    """
    hashes = hashes + np.uint64(0x9E3779B97F4A7C15)
    hashes = (hashes ^ (hashes >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    hashes = (hashes ^ (hashes >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return hashes ^ (hashes >> np.uint64(31))
