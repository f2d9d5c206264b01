"""Exact and near duplicates, named row by row.

MinHash signatures (Broder 1997) in bands propose pairs; a pair counts only if the true Jaccard similarity of its
shingle sets reaches the threshold, so that hashing can miss a pair but never invent one. Pairs join into components,
and the first row of a component stands for it. `table_duplicates` does the same on disk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from validation.diversity.components import find_copies, join_band, roots
from validation.diversity.minhash import SKETCHED, bands, may_agree, signatures
from validation.diversity.shingles import similarities
from validation.diversity.texts import Texts, hash_texts, normalise_strings

MEMORY_BYTES = 1 << 30


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
    check_threshold(threshold)
    rows = normalise_strings(texts)
    places = np.arange(len(texts))
    empty = rows.lengths() == 0
    same = np.empty_like(places)
    find_copies(tuple(hash_texts(rows)), ~empty, same, MEMORY_BYTES)
    distinct = np.flatnonzero((same == places) & ~empty)

    parent = places.copy()
    parent[distinct] = distinct[_components(rows.take(distinct), threshold, seed)]
    group = parent[same]
    near = np.flatnonzero(group != places)
    similarity = np.zeros(len(texts), np.float64)
    similarity[near] = similarities(rows, same[near], group[near])
    return Duplicates(
        exact_of=np.where(same == places, -1, same),
        near_of=np.where(group == places, -1, group),
        group=group,
        similarity=similarity,
        empty=empty,
    )


def check_threshold(threshold: float) -> None:
    """Raises ValueError for a threshold out of range."""
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold: {threshold}; expected 0 < threshold <= 1")


def _components(texts: Texts, threshold: float, seed: int) -> Int[np.ndarray, " rows"]:
    """First row of the component of every row; none of them is empty."""
    rows = np.arange(texts.offsets.size - 1)
    parent = rows.copy()
    if parent.size < 2:
        return parent
    keys = np.empty((bands(threshold)[0], rows.size), np.uint64)
    sketches = np.empty((rows.size, SKETCHED // 8), np.uint64)
    for block in texts.blocks(rows):
        keys[:, block], sketches[block] = signatures(texts.take(block), threshold, seed)

    def similar(left: np.ndarray, right: np.ndarray) -> np.ndarray:
        agree = may_agree(sketches, left, right, threshold)
        agree[agree] = similarities(texts, left[agree], right[agree]) >= threshold
        return agree

    for band in keys:
        join_band(parent, band, similar, MEMORY_BYTES)
    return roots(parent, rows)
