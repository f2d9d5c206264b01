"""Texts as short vectors: words, hashed and projected; nothing is learned but how common each hash is.

A batch is handled as one array of bytes. Runs of letters, digits and bytes beyond ASCII are words, lower-cased where they
are ASCII, and cut after every 12 bytes, so that languages without spaces have words too (four characters of most scripts).
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import scipy.sparse
from jaxtyping import Float, Int, UInt8, UInt64

from validation.diversity.hash_counts import mixed

BUCKETS = 1 << 14
"""Hash values that are told apart."""
PIECE_BYTES = 12
LONGEST_BYTES = 512
"""Of a text only so many bytes from its beginning are looked at."""

_FOLDED = np.arange(256, dtype=np.uint8)
_FOLDED[:128] = [ord(chr(c).lower()) if chr(c).isalnum() else 0 for c in range(128)]
_FOLDED.flags.writeable = False
_BYTE_KEYS = mixed(np.arange(PIECE_BYTES * 256, dtype=np.uint64)).reshape(PIECE_BYTES, 256)


def text_bytes(texts: pa.Array) -> tuple[UInt8[np.ndarray, " bytes"], Int[np.ndarray, " rows_and_end"]]:
    """The bytes of all texts, one after the other, none longer than `LONGEST_BYTES`, and where each begins.

    Args:
      texts: strings or binary; null counts as empty.

    Returns:
      The bytes, and for each row where it begins, with the end of the last one.
    """
    texts = texts.cast(pa.large_binary())
    if texts.null_count:
        texts = texts.fill_null(b"")
    _, starts, data = texts.buffers()
    offsets = np.frombuffer(starts, np.int64)[texts.offset : texts.offset + len(texts) + 1]
    if data is None:
        return np.empty(0, np.uint8), np.zeros(len(texts) + 1, np.int64)
    content = np.frombuffer(data, np.uint8)[offsets[0] : offsets[-1]]
    offsets = offsets - offsets[0]
    lengths = np.diff(offsets)
    if not len(lengths) or lengths.max() <= LONGEST_BYTES:
        return content, offsets
    kept = np.minimum(lengths, LONGEST_BYTES)
    ends = np.concatenate([[0], np.cumsum(kept)])
    return content[np.arange(ends[-1]) + np.repeat(offsets[:-1] - ends[:-1], kept)], ends


def byte_lengths(texts: pa.Array) -> Int[np.ndarray, " rows"]:
    """Bytes of each text, strings or binary; 0 of null."""
    texts = texts.cast(pa.large_binary())
    if texts.null_count:
        texts = texts.fill_null(b"")
    return np.diff(np.frombuffer(texts.buffers()[1], np.int64)[texts.offset : texts.offset + len(texts) + 1])


def word_hashes(
    content: UInt8[np.ndarray, " bytes"], offsets: Int[np.ndarray, " rows_and_end"]
) -> tuple[UInt64[np.ndarray, " words"], Int[np.ndarray, " rows_and_end"]]:
    """Hashes of the words of all rows in order, and where each row's begin.

    Args:
      content: bytes of all rows, one row after the other.
      offsets: where each row begins, with the end of the last one.
    """
    folded = _FOLDED[content]
    inside = folded != 0
    fresh = inside.copy()
    fresh[1:] &= ~inside[:-1]
    begins = offsets[:-1][offsets[:-1] < len(content)]
    fresh[begins] = inside[begins]
    place = np.flatnonzero(inside)
    if not len(place):
        return np.empty(0, np.uint64), np.zeros(len(offsets), np.int64)
    first = np.flatnonzero(fresh[place])
    into = np.arange(len(place)) - np.repeat(first, np.diff(np.append(first, len(place))))
    into %= PIECE_BYTES
    first = np.flatnonzero(into == 0)
    hashes = mixed(np.add.reduceat(_BYTE_KEYS[into, folded[place]], first))
    return hashes, np.searchsorted(place[first], offsets)


def word_counts(texts: pa.Array) -> scipy.sparse.csr_array:
    """Words of each text by hash: float32 [rows, BUCKETS], repeated ones unsummed."""
    words, starts = word_hashes(*text_bytes(texts))
    columns = (words & np.uint64(BUCKETS - 1)).astype(np.int32)
    return scipy.sparse.csr_array((np.ones(len(columns), np.float32), columns, starts), (len(texts), BUCKETS))


def telling(counts: scipy.sparse.csr_array) -> Float[np.ndarray, " buckets"]:
    """How much each hash tells of what a text is about: log((1 + rows) / (1 + rows that hold it)), the usual weight.

    0 for those in fewer than two rows or 0.1 % of them: they make no two texts alike, and being so many would drown the
    rest. In a sample where that leaves nothing all count as one.
    """
    held = counts.copy()
    held.sum_duplicates()
    rows = held.shape[0]
    frequency = np.bincount(held.indices, minlength=BUCKETS)
    weights = np.where(frequency >= max(2, rows / 1000), np.log((1 + rows) / (1 + frequency)), 0.0)
    return (weights if weights.any() else np.ones(BUCKETS)).astype(np.float32)


def projection(key: int, height: int, width: int) -> Float[np.ndarray, "height width"]:
    """A fixed matrix of signs ±1/√width, the same in every process and for every version of NumPy."""
    signs = mixed(mixed(np.arange(height * width, dtype=np.uint64)) ^ np.uint64(key)) >> np.uint64(63)
    return ((signs.astype(np.float32) * 2 - 1) / np.float32(np.sqrt(width))).reshape(height, width)
