"""Exact and near duplicates, named row by row.

MinHash signatures (Broder 1997) in bands propose pairs; a pair counts only if the true Jaccard similarity of its
shingle sets reaches the threshold, so that hashing can miss a pair but never invent one. Pairs join into components,
and the first row of a component stands for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, UInt64
from rensa import RMinHash  # pyright: ignore[reportAttributeAccessIssue]  # compiled, without stubs

from validation.diversity.hash_counts import mixed
from validation.diversity.shingles import Shingles, normalised, shingle

PERMUTATIONS = 128
RECALL = 0.998
"""Share of pairs exactly at the threshold that the bands must propose; pairs above it are found more often."""

PIVOTS = 64
"""Rows of one bucket that its other rows are compared with, at most; buckets of more unlike rows are mostly noise."""


@dataclass(frozen=True)
class Duplicates:
    """Which rows repeat which. Row numbers are places in the list that was given.

    Attributes:
      exact_of: the first row with the same text but for case and white space; -1 for that first row and for unique
        rows.
      near_of: the first row of the component, for every other row of it; -1 for first and unique rows. Exact copies are
        near duplicates too.
      group: number of the component: its first row.
      similarity: Jaccard similarity of the shingles of a row and its `near_of`, 0 where `near_of` is -1. In a component
        that is a chain it can be under the threshold: each link reaches it.
      empty: rows without text; never duplicates.
    """

    exact_of: Int[np.ndarray, " rows"]
    near_of: Int[np.ndarray, " rows"]
    group: Int[np.ndarray, " rows"]
    similarity: Float[np.ndarray, " rows"]
    empty: Bool[np.ndarray, " rows"]


def find_duplicates(texts: Sequence[str], *, threshold: float = 0.8, seed: int = 0) -> Duplicates:
    """Finds exact copies and near duplicates.

    Args:
      texts: the rows.
      threshold: Jaccard similarity of shingle sets (see `shingles`) from which two rows are near duplicates, in (0, 1].
      seed: of the MinHash permutations.

    Returns:
      Duplicates of every row.

    Raises:
      ValueError: threshold is out of range.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold: {threshold}; expected 0 < threshold <= 1")
    rows = [normalised(text) for text in texts]
    empty = np.array([not row for row in rows], bool)
    first: dict[str, int] = {}
    same = np.array([first.setdefault(row, index) for index, row in enumerate(rows)], np.int64)
    same[empty] = np.flatnonzero(empty)
    places = np.arange(len(rows))
    distinct = np.flatnonzero((same == places) & ~empty)

    sets = shingle([rows[index] for index in distinct])
    component = places.copy()
    component[distinct] = distinct[_components(sets, threshold, seed)]
    group = component[same]
    near = np.flatnonzero(group != places)
    similarity = np.zeros(len(rows), np.float64)
    place_in_sets = np.zeros(len(rows), np.int64)
    place_in_sets[distinct] = np.arange(distinct.size)
    similarity[near] = sets.jaccard(place_in_sets[same[near]], place_in_sets[group[near]])
    return Duplicates(
        exact_of=np.where(same == places, -1, same),
        near_of=np.where(group == places, -1, group),
        group=group,
        similarity=similarity,
        empty=empty,
    )


def band_rows(threshold: float) -> int:
    """Signature values in a band: as many as still propose `RECALL` of the pairs at the threshold.

    More values a band mean fewer useless proposals; fewer mean fewer missed pairs.
    Source: Leskovec, Rajaraman, Ullman, Mining of Massive Datasets, section 3.4.2: 1 - (1 - s^r)^b.
    """
    fitting = [rows for rows in range(1, 33) if 1 - (1 - threshold**rows) ** (PERMUTATIONS // rows) >= RECALL]
    return max(fitting, default=1)


def _components(sets: Shingles, threshold: float, seed: int) -> Int[np.ndarray, " rows"]:
    """First row of the component of every row."""
    parent = np.arange(sets.sizes().size)
    if parent.size < 2:
        return parent
    signatures = _signatures(sets, seed)
    width = band_rows(threshold)
    for start in range(0, PERMUTATIONS - width + 1, width):
        for left, right in _proposals(signatures[:, start : start + width], parent):
            similar = sets.jaccard(left, right) >= threshold
            _join(parent, left[similar], right[similar])
    return parent


def _signatures(sets: Shingles, seed: int) -> UInt64[np.ndarray, "rows permutations"]:
    hashes = mixed(sets.items.astype(np.uint64))
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(hashes, sets.offsets.astype(np.uint64), PERMUTATIONS, seed)
    return np.array(matrix.to_rows(), np.uint64).reshape(-1, PERMUTATIONS)


def _proposals(
    band: UInt64[np.ndarray, "rows width"], parent: Int[np.ndarray, " rows"]
) -> Iterator[tuple[Int[np.ndarray, " pairs"], Int[np.ndarray, " pairs"]]]:
    """Pairs of rows of equal signature in one band that no component joins yet.

    In each turn the first row of every bucket is compared with the rest of it; the rows of its component then leave the
    bucket. A bucket of like rows is done after one turn, and one of m unlike rows after m - 1.
    """
    key = np.zeros(band.shape[0], np.uint64)
    for column in band.T:
        key = mixed(key + column)
    rows = np.argsort(key, kind="stable")
    bucket = np.cumsum(np.diff(key[rows], prepend=key[rows[:1]]) != 0)
    for _ in range(PIVOTS):
        starts = np.flatnonzero(np.diff(bucket, prepend=-1))
        sizes = np.diff(np.append(starts, bucket.size))
        pivot = np.repeat(rows[starts], sizes)
        apart = parent[pivot] != parent[rows]
        if not apart.any():
            return
        yield pivot[apart], rows[apart]
        left = parent[pivot] != parent[rows]
        rows, bucket = rows[left], bucket[left]


def _join(parent: Int[np.ndarray, " rows"], left: Int[np.ndarray, " pairs"], right: Int[np.ndarray, " pairs"]) -> None:
    """Joins the components of pairs of rows in place; `parent` stays the first row of every component."""
    while True:
        low = np.minimum(parent[left], parent[right])
        high = np.maximum(parent[left], parent[right])
        if (low == high).all():
            return
        target = np.arange(parent.size)
        np.minimum.at(target, high, low)
        while (target[target] != target).any():
            target = target[target]
        parent[:] = target[parent]
