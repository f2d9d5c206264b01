"""Keys under which similar rows meet: MinHash signatures (Broder 1997) cut into bands."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int, UInt32, UInt64

from validation.diversity.hash_counts import mixed
from validation.diversity.shingles import FlatShingles, shingle
from validation.diversity.texts import Texts, ranges

RECALL = 0.998
"""Share of pairs exactly at the threshold that the bands must propose; pairs above it are found more often."""

PERMUTATIONS = 80
"""Values of a signature, at most, where one value a band does not need more. With more values a band proposes fewer pairs in
vain, but every value takes time and disk for every row. Of 400,000 rows of seven words a band of 4, 5 and 6 values proposed
0.32, 0.05 and 0.03 pairs a row; at threshold 0.8 these take 48, 80 and 126 values."""

SKETCHED = 48
"""Values of which one byte is kept, to look at a proposed pair before its texts are: agreement of bytes estimates similarity."""

MISSED = 2e-4
"""Share of pairs at the threshold that the sketch may turn away."""

_PIECE = 64  # shingles of a row that are looked at together
_CACHED = 1 << 14  # shingles that are multiplied at a time: they and their products stay in the cache


class Signatures(NamedTuple):
    """What is kept of rows to find similar ones.

    Attributes:
      keys: one for each band; rows of similarity at or above the threshold share one nearly always.
      sketches: the last bytes of the first `SKETCHED` values, eight in a number.
    """

    keys: UInt64[np.ndarray, "bands rows"]
    sketches: UInt64[np.ndarray, "rows words"]


def bands(threshold: float) -> tuple[int, int]:
    """Number of bands and values in each: as many values as `PERMUTATIONS` allows while `RECALL` of the pairs are proposed.

    Source: Leskovec, Rajaraman, Ullman, Mining of Massive Datasets, section 3.4.2: 1 - (1 - s^r)^b.
    """
    fitting = [width for width in range(2, 33) if width * _bands(threshold, width) <= PERMUTATIONS]
    width = max(fitting, default=1)
    return _bands(threshold, width), width


def signatures(texts: Texts, threshold: float, seed: int) -> Signatures:
    """Band keys and sketches of rows.

    Args:
      texts: normalised texts, none of them empty.
      threshold: Jaccard similarity of shingle sets.
      seed: of the permutations.
    """
    count, width = bands(threshold)
    values = least_products(shingle(texts), max(count * width, SKETCHED), seed)
    rows = values.shape[0]
    keys = np.zeros(rows * count, np.uint64)
    for column in values[:, : count * width].reshape(-1, width).T:
        keys = mixed(keys + column)
    # The second byte: the last of a product depends on the last byte of the shingle alone, the first ones are small.
    sketches = (values[:, :SKETCHED] >> np.uint32(8)).astype(np.uint8).view(np.uint64)
    return Signatures(keys.reshape(rows, count).T, sketches)


def least_products(flat: FlatShingles, count: int, seed: int) -> UInt32[np.ndarray, "rows values"]:
    """MinHash values: for each of some odd multipliers the least product of a shingle's hash, modulo 2^32.

    Rows are laid side by side, shingle beneath shingle, so that one operation serves many of them; a row that is shorter than
    its neighbours repeats its last shingle, and a long one is cut into pieces.

    Args:
      flat: shingles of rows, at least one each.
      count: of values.
      seed: of the multipliers.

    Source: Dietzfelbinger et al., "A reliable randomized algorithm for the closest-pair problem" (1997), the multiplicative
    hash; of hashes that are mixed already it needs neither an added number nor a prime.
    """
    multipliers = np.random.SeedSequence(seed).generate_state(count) | np.uint32(1)
    hashes = (flat.hashes >> np.uint64(32)).astype(np.uint32)
    pieces = -(-np.diff(flat.offsets) // _PIECE)
    ends = np.repeat(flat.offsets[1:], pieces)
    starts = np.repeat(flat.offsets[:-1], pieces) + _PIECE * ranges(np.zeros_like(pieces), pieces)
    lengths = np.minimum(ends - starts, _PIECE)
    order = np.argsort(-lengths, kind="stable")
    out = np.empty((starts.size, count), np.uint32)
    begin = 0
    while begin < order.size:
        longest = int(lengths[order[begin]])
        block = order[begin : begin + _CACHED // longest]
        place = np.minimum(np.arange(longest)[:, None], lengths[block] - 1) + starts[block]
        given = hashes[place]
        products, least = np.empty_like(given), np.empty((count, block.size), np.uint32)
        for value, multiplier in enumerate(multipliers):
            np.multiply(given, multiplier, out=products)
            np.minimum.reduce(products, axis=0, out=least[value])
        out[block] = least.T
        begin += block.size
    if starts.size == pieces.size:
        return out
    return np.minimum.reduceat(out, np.cumsum(pieces) - pieces, axis=0)


def may_agree(
    sketches: UInt64[np.ndarray, "rows words"],
    left: Int[np.ndarray, " pairs"],
    right: Int[np.ndarray, " pairs"],
    threshold: float,
) -> Bool[np.ndarray, " pairs"]:
    """Whether pairs of rows agree in as many sketched values as all but `MISSED` of the pairs at the threshold do."""
    differing = sketches[left] ^ sketches[right]
    agree = (differing.view(np.uint8).reshape(left.size, SKETCHED) == 0).sum(axis=1)
    return agree >= _needed(threshold)


def _bands(threshold: float, width: int) -> int:
    """Fewest bands of a width that propose `RECALL` of the pairs at the threshold."""
    if threshold == 1:
        return 1
    return max(1, math.ceil(math.log(1 - RECALL) / math.log1p(-(threshold**width))))


@functools.cache
def _needed(threshold: float) -> int:
    """Fewest agreeing values of `SKETCHED` that more than `MISSED` of the pairs at the threshold do not have."""
    below = 0.0
    for agree in range(SKETCHED + 1):
        below += math.comb(SKETCHED, agree) * threshold**agree * (1 - threshold) ** (SKETCHED - agree)
        if below >= MISSED:
            return agree
    return SKETCHED
