"""Which of many rows belong together: equal keys found in bounded memory, and components of rows by union-find.

Keys stay where they are, in row order, in memory or in a file; they are read once for every range of values whose rows
fit, so that nothing but the keys is ever written. Against sorting them on disk with DuckDB see docs/duplicates.md.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Int, UInt64
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from validation.diversity.workspace import touchable

READ_ROWS = 1 << 20
BYTES_A_ROW = 24
"""Memory that sorting takes for a row: its key and number in 8 bytes, and copies while they are put together."""

MOST_ROWS = 1 << 32

PIVOTS = 64
"""Rows of one bucket that its other rows are compared with, at most; buckets of more unlike rows are mostly noise."""

_BINS = 12  # bits of a key by which ranges are laid out

Release = Callable[[], None]
"""Gives pages of mapped files back, so that what has been read does not count as memory."""

Similar = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Whether pairs of rows are alike: two arrays of row numbers in, one of booleans out."""

Packed = UInt64[np.ndarray, " m"]
"""Leading bits of a key, followed by the number of its row: sorted ten times faster than keys that take rows along."""


@runtime_checkable
class Keys(Protocol):
    """Keys in row order, read a stretch at a time: an array, or what stands for one."""

    @property
    def size(self) -> int:
        """Number of rows."""
        ...

    def __getitem__(self, part: slice, /) -> UInt64[np.ndarray, " n"]:
        """The keys of some rows."""
        ...


def buckets(
    keys: Keys, memory_bytes: int, wanted: Bool[np.ndarray, " rows"] | None = None, release: Release = lambda: None
) -> Iterator[tuple[Int[np.ndarray, " m"], Int[np.ndarray, " m"]]]:
    """Rows whose keys agree in their leading bits, in pieces that fit into memory.

    As many bits are compared as the row numbers leave of 64: 40 for ten million rows. Of so many unlike rows some fifty pairs
    agree by chance, so that what a bucket proposes has to be looked at.

    Args:
      keys: well mixed hashes, in row order; may be a file mapped to memory.
      memory_bytes: about what a piece may take.
      wanted: rows to look at; all by default.
      release: called whenever a stretch of the keys has been read.

    Yields:
      Number of the bucket within the piece, and row; by bucket, and by row within it. A bucket that is larger than a piece
      comes in several, each of which begins with its first row.

    Raises:
      ValueError: there are 2**32 rows or more.
    """
    if keys.size >= MOST_ROWS:
        raise ValueError(f"{keys.size:,} rows; expected fewer than {MOST_ROWS:,}")
    capacity = max(1024, memory_bytes // BYTES_A_ROW)
    low_bits = np.uint64((1 << max(1, keys.size.bit_length())) - 1)
    for low, high in _key_ranges(keys, capacity, release):
        known = np.empty(0, np.uint64)
        for found in _in_range(keys, low, high, capacity, wanted, release):
            packed = np.concatenate([known, found])
            packed.sort()
            same = (packed[1:] ^ packed[:-1]) <= low_bits
            if high == low + 1:  # possibly more of these keys to come
                known = packed[np.append(True, ~same)]
            several = packed[np.append(same, False) | np.append(False, same)]
            if several.size:
                bucket = np.cumsum(np.append(False, (several[1:] ^ several[:-1]) > low_bits))
                yield bucket, (several & low_bits).astype(np.int64)


def find_copies(
    lanes: tuple[UInt64[np.ndarray, " rows"], UInt64[np.ndarray, " rows"]],
    wanted: Bool[np.ndarray, " rows"],
    first: Int[np.ndarray, " rows"],
    memory: int,
    release: Release = lambda: None,
) -> int:
    """Finds rows of equal 128-bit hash.

    Args:
      lanes: the two halves of the hashes.
      wanted: rows that can be copies; the others are left alone.
      first: written in place: the first row of equal hash, its own number for that row and for all that are alone.
      memory: bytes that sorting may take.
      release: called whenever a stretch of the hashes has been read.

    Returns:
      The number of copies, the first of equal rows not among them.
    """
    for begin in range(0, first.size, READ_ROWS):
        end = min(begin + READ_ROWS, first.size)
        first[begin:end] = np.arange(begin, end)
        release()
    copies = 0
    for _, several in buckets(lanes[0], memory, wanted, release):
        # In row order, a stretch at a time: pages that are touched at random would all count as memory.
        found = np.sort(several)
        low, high = np.empty((2, found.size), np.uint64)
        for stretch in stretches(found):
            low[stretch], high[stretch] = lanes[0][found[stretch]], lanes[1][found[stretch]]
            release()
        order = np.lexsort((high, low))
        low, high = low[order], high[order]
        starts = np.flatnonzero(np.append(True, (low[1:] != low[:-1]) | (high[1:] != high[:-1])))
        heads = np.empty_like(found)
        heads[order] = np.repeat(found[order[starts]], np.diff(np.append(starts, found.size)))
        for stretch in stretches(found):
            copies += int((first[found[stretch]] != heads[stretch]).sum())
            first[found[stretch]] = heads[stretch]
            release()
    return copies


def stretches(rows: Int[np.ndarray, " n"]) -> Iterator[slice]:
    """Places in a sorted list of rows, split where another `READ_ROWS` rows begin."""
    if rows.size:
        borders = np.arange(rows[0] + READ_ROWS, rows[-1] + 1, READ_ROWS)
        ends = [0, *np.searchsorted(rows, borders).tolist(), rows.size]
        yield from (slice(begin, end) for begin, end in itertools.pairwise(ends) if begin < end)


def join_band(
    parent: Int[np.ndarray, " rows"],
    keys: Keys,
    similar: Similar,
    memory: int,
    wanted: Bool[np.ndarray, " rows"] | None = None,
    release: Release = lambda: None,
) -> tuple[int, int]:
    """Joins the components of rows that share a key and are alike, in place.

    Args:
      parent: of every row, see `roots`.
      keys: of one band.
      similar: decides on the pairs that the band proposes.
      memory: bytes that sorting may take.
      wanted: rows that can be alike; all by default.
      release: called whenever a stretch of the keys has been read.

    Returns:
      Pairs that were compared, and pairs that were alike.
    """
    compared = alike = 0
    at_once = keys.size if parent.nbytes <= memory else touchable(memory)
    for bucket, rows in buckets(keys, memory, wanted, release):
        for part in _whole_buckets(bucket, at_once):
            for left, right in _proposals(bucket[part], rows[part], parent):
                agree = similar(left, right)
                compared, alike = compared + agree.size, alike + int(agree.sum())
                join(parent, left[agree], right[agree])
            release()
    return compared, alike


def roots(parent: Int[np.ndarray, " rows"], rows: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """First row of the component of each of some rows."""
    found = parent[rows]
    while True:
        above = parent[found]
        if (above == found).all():
            return found
        found = above


def join(parent: Int[np.ndarray, " rows"], left: Int[np.ndarray, " pairs"], right: Int[np.ndarray, " pairs"]) -> None:
    """Joins the components of pairs of rows in place; the first row of a component is its root.

    Source: Galler and Fischer 1964, with all pairs of a call joined at once.
    """
    if left.size == 0:
        return
    nodes, place = np.unique(roots(parent, np.concatenate([left, right])), return_inverse=True)
    a, b = np.split(place, 2)
    count, part = connected_components(coo_array((np.ones(a.size, bool), (a, b)), (nodes.size,) * 2), directed=False)
    least = np.full(count, np.iinfo(np.int64).max)
    np.minimum.at(least, part, nodes)
    parent[nodes] = least[part]
    ends = np.concatenate([left, right])
    parent[ends] = least[part[place]]


def _whole_buckets(bucket: Int[np.ndarray, " m"], rows: int) -> Iterator[slice]:
    """Parts of a list of buckets of about so many rows: of these the components are looked at, anywhere in their file."""
    starts = np.flatnonzero(np.diff(bucket, prepend=-1))
    cuts = starts[1:][np.diff(starts // rows) > 0]
    yield from (slice(begin, end) for begin, end in itertools.pairwise([0, *cuts.tolist(), bucket.size]))


def _proposals(
    bucket: Int[np.ndarray, " m"], rows: Int[np.ndarray, " m"], parent: Int[np.ndarray, " rows"]
) -> Iterator[tuple[Int[np.ndarray, " pairs"], Int[np.ndarray, " pairs"]]]:
    """Pairs of rows of one bucket that no component joins yet.

    In each turn the first row of every bucket is compared with the rest of it; the rows of its component then leave the
    bucket. A bucket of like rows is done after one turn, and one of m unlike rows after m - 1.
    """
    for _ in range(PIVOTS):
        starts = np.flatnonzero(np.diff(bucket, prepend=-1))
        pivot = np.repeat(rows[starts], np.diff(np.append(starts, bucket.size)))
        apart = roots(parent, pivot) != roots(parent, rows)
        if not apart.any():
            return
        yield pivot[apart], rows[apart]
        left = roots(parent, pivot) != roots(parent, rows)
        rows, bucket = rows[left], bucket[left]


def _key_ranges(keys: Keys, capacity: int, release: Release) -> list[tuple[int, int]]:
    """Ranges of the leading bits of the keys that hold at most `capacity` rows each, where a single value does not."""
    if keys.size <= capacity:
        return [(0, 1 << _BINS)]
    counts = np.zeros(1 << _BINS, np.int64)
    for begin in range(0, keys.size, READ_ROWS):
        counts += np.bincount(_bin(keys[begin : begin + READ_ROWS]), minlength=counts.size)
        release()
    out, low, held = [], 0, 0
    for value, count in enumerate(counts.tolist()):
        if held and held + count > capacity:
            out.append((low, value))
            low, held = value, 0
        held += count
    return [*out, (low, counts.size)]


def _in_range(
    keys: Keys,
    low: int,
    high: int,
    capacity: int,
    wanted: Bool[np.ndarray, " rows"] | None,
    release: Release,
) -> Iterator[Packed]:
    """Keys in a range with their rows, at most about `capacity` at a time."""
    low_bits = np.uint64((1 << max(1, keys.size.bit_length())) - 1)
    parts: list[np.ndarray] = []
    held = 0
    for begin in range(0, keys.size, READ_ROWS):
        block = np.asarray(keys[begin : begin + READ_ROWS])
        packed = (block & ~low_bits) | np.arange(begin, begin + block.size, dtype=np.uint64)
        inside = np.ones(block.size, bool) if wanted is None else wanted[begin : begin + READ_ROWS]
        if high - low < 1 << _BINS:
            places = _bin(block)
            inside = inside & (places >= low) & (places < high)
        parts.append(packed[inside])
        held += parts[-1].size
        release()
        if held >= capacity:
            yield np.concatenate(parts)
            parts, held = [], 0
    if held:
        yield np.concatenate(parts)


def _bin(keys: UInt64[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    return (keys >> np.uint64(64 - _BINS)).astype(np.int64)
