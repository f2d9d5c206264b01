"""Counts of things too many to name: 64-bit hashes as keys, sorted arrays as tables, merged exactly.

A table of word n-grams outgrows memory long before the text is read. When `SampledCounts` is full for the first time it
sets the most frequent keys apart and counts them exactly for good; of all others it keeps those in a random part of the
hash space, halving that part whenever the table is full again. Every kept key has its exact count from the first row
on, so sums over keys, those in the sampled part divided by the share kept, are unbiased, also after merging.
`FrequentKeys` is the other half: every key above a stated frequency, with counts that are too low by a stated error.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

import numpy as np
from jaxtyping import Bool, Float, Int, UInt64

Hashes = UInt64[np.ndarray, " _"]
Counts = Int[np.ndarray, " _"]

FLUSH = 1 << 18
_INCREMENT, _FIRST, _SECOND = (np.uint64(c) for c in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
_FIRST_INVERSE, _SECOND_INVERSE = (np.uint64(pow(int(c), -1, 1 << 64)) for c in (_FIRST, _SECOND))
_NGRAM_BASE = np.uint64(0xD1342543DE82EF95)


class HashCounts:
    """Exact counts; 16 bytes for every distinct key."""

    def __init__(self) -> None:
        self.keys: UInt64[np.ndarray, " distinct"] = np.empty(0, np.uint64)
        self.counts: Int[np.ndarray, " distinct"] = np.empty(0, np.int64)
        self.total = 0

    def add(self, keys: Hashes) -> None:
        """Counts every element of `keys` once."""
        self.add_counted(*counted(keys))

    def add_counted(self, keys: Hashes, counts: Counts) -> None:
        """Adds counts of keys, sorted and each there once."""
        self.total += int(counts.sum())
        if keys.size:
            self.keys, self.counts = _united(self.keys, self.counts, keys, counts)

    def holds(self, keys: Hashes) -> Bool[np.ndarray, " n"]:
        """Whether each key has been counted."""
        return _found(self.keys, keys)[1]

    def take(self, chosen: Bool[np.ndarray, " distinct"]) -> HashCounts:
        """Moves the chosen keys and their counts into a table of their own."""
        taken = HashCounts()
        taken.keys, taken.counts = self.keys[chosen], self.counts[chosen]
        self.keys, self.counts = self.keys[~chosen], self.counts[~chosen]
        return taken


class FrequentKeys:
    """Keys that are frequent, each with a count that is at most `error` too low; a key not held came at most `error` times.

    Source: Misra and Gries, "Finding repeated elements" (1982), merged as in Agarwal et al., "Mergeable summaries" (2012).
    The error is at most total / (limit + 1), and zero while there are at most `limit` distinct keys.

    Args:
      limit: most keys to hold.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.error = 0
        self.keys: UInt64[np.ndarray, " held"] = np.empty(0, np.uint64)
        self.counts: Int[np.ndarray, " held"] = np.empty(0, np.int64)

    def add_counted(self, keys: Hashes, counts: Counts) -> None:
        """Adds counts of keys, sorted and each there once."""
        place, known = _found(keys, self.keys)
        self.counts = self.counts.copy()
        self.counts[known] += counts[place[known]]
        new = np.ones(keys.size, bool)
        new[place[known]] = False
        keys, counts = keys[new], counts[new]
        if counts.size > self.limit + 1:  # smaller ones cannot matter: limit + 1 larger ones are there
            best = np.argpartition(counts, counts.size - self.limit - 1)[counts.size - self.limit - 1 :]
            best.sort()
            keys, counts = keys[best], counts[best]
        if keys.size:
            self.keys, self.counts = _united(self.keys, self.counts, keys, counts)
        self._cut()

    def merge(self, other: FrequentKeys) -> None:
        """Adds the keys of another list; the errors add up."""
        self.keys, self.counts = _united(self.keys, self.counts, other.keys, other.counts)
        self.error += other.error
        self._cut()

    def _cut(self) -> None:
        if self.keys.size > self.limit:
            least = int(np.partition(self.counts, -1 - self.limit)[-1 - self.limit])
            self.error += least
            kept = self.counts > least
            self.keys, self.counts = self.keys[kept], self.counts[kept] - least

    def state(self) -> dict[str, np.ndarray]:
        """All of it as arrays."""
        return {"keys": self.keys, "counts": self.counts, "numbers": np.array([self.limit, self.error])}

    @classmethod
    def of_state(cls, state: Mapping[str, np.ndarray]) -> FrequentKeys:
        """The list that `state` was taken from."""
        limit, error = (int(number) for number in state["numbers"])
        one = cls(limit)
        one.keys, one.counts, one.error = state["keys"], state["counts"], error
        return one


class SampledCounts:
    """Counts of more keys than fit: exact for the frequent ones, sampled for the rest.

    Keys are gathered until there are `flush` of them, counted from the first on, so that the result does not depend on
    how they were batched. While `share` is 1 everything is exact and merging gives what one table would have held;
    beyond, merging keeps as frequent what is frequent in both.

    Args:
      limit: most distinct keys to hold, a quarter of them frequent ones.
      flush: keys gathered before they are sorted into the table.
      frequent: keys of the `FrequentKeys` kept beside; 0 for none.

    Attributes:
      total: number of keys counted, kept or not.
      frequent: the keys set apart when the table was first full.
      sampled: the other keys that are kept.
      share: part of the hash space that `sampled` covers, 1 until the limit is first reached.
      top: frequent keys with their error bound, if asked for.
    """

    def __init__(self, limit: int, flush: int = FLUSH, frequent: int = 0) -> None:
        self.limit = limit
        self.flush = flush
        self.halvings = 0
        self.total = 0
        self._top = FrequentKeys(frequent)
        self._frequent = HashCounts()
        self._sampled = HashCounts()
        self._waiting: list[np.ndarray] = []
        self._waiting_size = 0

    @property
    def share(self) -> float:
        self._empty()
        return 0.5**self.halvings

    @property
    def top(self) -> FrequentKeys:
        self._empty()
        return self._top

    @property
    def frequent(self) -> HashCounts:
        self._empty()
        return self._frequent

    @property
    def sampled(self) -> HashCounts:
        self._empty()
        return self._sampled

    def add(self, keys: Hashes) -> None:
        """Counts every element of `keys` that is frequent or falls into the part of the hash space that is kept."""
        self.total += keys.size
        while keys.size:
            room = self.flush - self._waiting_size
            self._waiting.append(keys[:room])
            self._waiting_size += min(room, keys.size)
            keys = keys[room:]
            if self._waiting_size == self.flush:
                self._empty()

    def _empty(self) -> None:
        if not self._waiting:
            return
        keys, counts = counted(np.concatenate(self._waiting))
        self._waiting, self._waiting_size = [], 0
        if self._top.limit:
            self._top.add_counted(keys, counts)
        place, known = _found(keys, self._frequent.keys)
        self._frequent.counts[known] += counts[place[known]]
        rest = self._kept(keys)
        rest[place[known]] = False
        self._sampled.add_counted(keys[rest], counts[rest])
        self._fit()

    def _fit(self) -> None:
        while self._frequent.keys.size + self._sampled.keys.size > self.limit:
            if self.halvings == 0:
                counts = self._sampled.counts
                self._frequent = self._sampled.take(
                    counts > np.partition(counts, -1 - self.limit // 4)[-1 - self.limit // 4]
                )
            self.halvings += 1
            self._sampled = self._sampled.take(self._kept(self._sampled.keys))

    def _kept(self, keys: Hashes) -> Bool[np.ndarray, " n"]:
        return keys & np.uint64((1 << self.halvings) - 1) == 0

    def merge(self, other: SampledCounts) -> None:
        """Adds the counts of another table; `other` stays as it is."""
        mine, theirs = self.frequent, other.frequent
        # A table that was never full knows the count of every key, so the other's frequent keys stay known.
        common = np.concatenate(
            [
                mine.keys[theirs.holds(mine.keys) | (other.halvings == 0)],
                theirs.keys[mine.holds(theirs.keys) | (self.halvings == 0)],
            ]
        )
        frequent, sampled = HashCounts(), HashCounts()
        self.halvings = max(self.halvings, other.halvings)
        for table in (mine, self._sampled, theirs, other.sampled):
            chosen = np.isin(table.keys, common)
            frequent.add_counted(table.keys[chosen], table.counts[chosen])
            rest = ~chosen & self._kept(table.keys)
            sampled.add_counted(table.keys[rest], table.counts[rest])
        self._frequent, self._sampled = frequent, sampled
        self.total += other.total
        self.top.merge(other.top)
        self._fit()

    def kept(self) -> tuple[Hashes, Counts, Float[np.ndarray, " n"]]:
        """All keys held, their counts, and how many keys each stands for."""
        weights = np.repeat([1.0, 1 / self.share], [self.frequent.keys.size, self.sampled.keys.size])
        return (
            np.concatenate([self._frequent.keys, self._sampled.keys]),
            np.concatenate([self._frequent.counts, self._sampled.counts]),
            weights,
        )

    def distinct(self) -> float:
        """Estimated number of distinct keys; exact while `share` is 1, else of relative error 1 / √(keys sampled)."""
        return self.frequent.keys.size + self.sampled.keys.size / self.share

    def singletons(self) -> float:
        """Estimated number of keys counted once; exact while `share` is 1."""
        return float((self.frequent.counts == 1).sum() + (self.sampled.counts == 1).sum() / self.share)

    def repeats(self) -> float:
        """Estimated number of keys that were counted before; exact while `share` is 1."""
        return float((self.frequent.counts - 1).sum() + (self.sampled.counts - 1).sum() / self.share)

    def entropy(self) -> float:
        """Estimated entropy of the keys in bits; exact while `share` is 1, nan without keys.

        How many keys of the others were counted is known exactly; the sampled ones say only how that mass is spread,
        which varies far less from sample to sample than its sum.
        """
        known = entropy(self.frequent.counts, self.total)
        if self.share == 1 or not self.sampled.keys.size:
            return known + entropy(self.sampled.counts, self.total)
        counts = self.sampled.counts
        rest = self.total - int(self.frequent.counts.sum())
        return known + entropy(counts, self.total) * rest / float(counts.sum())

    def state(self) -> dict[str, np.ndarray]:
        """All of it as arrays."""
        arrays = {f"top_{name}": array for name, array in self.top.state().items()} if self.top.limit else {}
        return {
            "frequent_keys": self.frequent.keys,
            "frequent_counts": self.frequent.counts,
            "sampled_keys": self.sampled.keys,
            "sampled_counts": self.sampled.counts,
            "numbers": np.array([self.limit, self.flush, self.halvings, self.total]),
            **arrays,
        }

    @classmethod
    def of_state(cls, state: Mapping[str, np.ndarray]) -> SampledCounts:
        """The table that `state` was taken from."""
        limit, flush, halvings, total = (int(number) for number in state["numbers"])
        one = cls(limit, flush)
        one.halvings, one.total = halvings, total
        for name, table in (("frequent", one._frequent), ("sampled", one._sampled)):
            table.keys, table.counts = state[f"{name}_keys"], state[f"{name}_counts"].copy()
            table.total = int(table.counts.sum())
        if "top_keys" in state:
            one._top = FrequentKeys.of_state({name[4:]: array for name, array in state.items() if name[:4] == "top_"})
        return one


def counted(keys: Hashes) -> tuple[Hashes, Counts]:
    """The distinct keys in order, and how often each is there."""
    keys = np.sort(keys)
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]])) if keys.size else np.empty(0, np.intp)
    return keys[starts], np.diff(starts, append=keys.size)


def _united(keys: Hashes, counts: Counts, more: Hashes, their_counts: Counts) -> tuple[Hashes, Counts]:
    """Two sorted tables as one."""
    everything = np.concatenate([keys, more])
    order = np.argsort(everything, kind="stable")  # two sorted runs: one merge
    everything = everything[order]
    first = np.ones(everything.size, bool)
    np.not_equal(everything[1:], everything[:-1], out=first[1:])
    starts = np.flatnonzero(first)
    if not starts.size:
        return keys, counts
    return everything[starts], np.add.reduceat(np.concatenate([counts, their_counts])[order], starts)


def _found(table: Hashes, keys: UInt64[np.ndarray, " n"]) -> tuple[Int[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
    """Where each key stands in a sorted table, and whether it does."""
    place = np.searchsorted(table, keys)
    inside = place < table.size
    inside[inside] = table[place[inside]] == keys[inside]
    return place, inside


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
    grams = words[:last].copy()
    for offset in range(1, n):
        grams *= _NGRAM_BASE
        grams += words[offset : offset + last]
    inside = np.ones(last, bool)
    ends = np.cumsum(lengths)[:-1]
    # A run that begins within the n - 1 words before the end of a row reaches into the next.
    for before in range(1, n):
        late = ends - before
        inside[late[(late >= 0) & (late < last)]] = False
    return mixed(grams[inside])


def mixed(hashes: Hashes) -> Hashes:
    """Scrambles 64-bit values so that every output bit depends on every input bit; a bijection.

    Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators" (2014), the finaliser of SplitMix64.
    """
    hashes = hashes + _INCREMENT
    other = hashes >> np.uint64(30)
    hashes ^= other
    hashes *= _FIRST
    np.right_shift(hashes, np.uint64(27), out=other)
    hashes ^= other
    hashes *= _SECOND
    np.right_shift(hashes, np.uint64(31), out=other)
    hashes ^= other
    return hashes


def unmixed(hashes: Hashes) -> Hashes:
    """What `mixed` made these of."""
    hashes = hashes ^ (hashes >> np.uint64(31)) ^ (hashes >> np.uint64(62))
    hashes = hashes * _SECOND_INVERSE
    hashes = hashes ^ (hashes >> np.uint64(27)) ^ (hashes >> np.uint64(54))
    hashes = hashes * _FIRST_INVERSE
    return (hashes ^ (hashes >> np.uint64(30)) ^ (hashes >> np.uint64(60))) - _INCREMENT
