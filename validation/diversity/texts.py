"""Many texts as one run of bytes, normalised and hashed without a Python object for each.

Texts are compared without regard to case and white space: lower-cased, runs of white space made one space, none at the
ends. Rows of ASCII characters are brought to that form by array operations, all others by `normalised`, with one result.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Int, UInt8, UInt64

from validation.diversity.hash_counts import mixed
from validation.diversity.words import text_buffers

BLOCK_BYTES = 1 << 20
"""Text that is worked on at a time: what is made of it is some fifty times as large."""

SPACE = ord(" ")
_LOWER = np.frombuffer(bytes(SPACE if chr(b).isspace() and b < 128 else b for b in range(256)).lower(), np.uint8)
_MASKS = np.array([(1 << (8 * n)) - 1 for n in range(9)], np.uint64)
_LANES = np.array([[0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93], [0xC2B2AE3D27D4EB4F, 0xA0761D6478BD642F]], np.uint64)


class Texts(NamedTuple):
    """Texts one after the other, in UTF-8; half surrogate pairs as three bytes each.

    Attributes:
      data: their bytes; may be a file mapped to memory.
      offsets: where each begins; the last element is the end.
    """

    data: UInt8[np.ndarray, " bytes"]
    offsets: Int[np.ndarray, " rows_and_one"]

    def lengths(self) -> Int[np.ndarray, " rows"]:
        """Bytes of each text."""
        return np.diff(self.offsets)

    def take(self, rows: Int[np.ndarray, " n"]) -> Texts:
        """The texts of some rows, in that order, in memory."""
        starts = self.offsets[rows]
        lengths = self.offsets[rows + 1] - starts
        offsets = np.zeros(rows.size + 1, np.int64)
        np.cumsum(lengths, out=offsets[1:])
        return Texts(self.data[ranges(starts, lengths)], offsets)

    def blocks(self, rows: Int[np.ndarray, " n"]) -> Iterator[Int[np.ndarray, " m"]]:
        """Splits a list of rows so that the texts of each part are about `BLOCK_BYTES` long."""
        yield from (rows[block] for block in blocks_of(self.offsets[rows + 1] - self.offsets[rows]))

    def blocks_of_pairs(
        self, left: Int[np.ndarray, " pairs"], right: Int[np.ndarray, " pairs"]
    ) -> Iterator[Int[np.ndarray, " m"]]:
        """Numbers of the pairs, split so that the texts of each part are about `BLOCK_BYTES` long."""
        sizes = self.offsets[left + 1] - self.offsets[left] + self.offsets[right + 1] - self.offsets[right]
        return blocks_of(sizes)


def normalised(text: str) -> str:
    """Text as compared for exact duplicates: case and white space do not count."""
    return " ".join(text.lower().split())


def normalise_strings(texts: Sequence[str]) -> Texts:
    """Normalised texts of Python strings, which may hold half surrogate pairs."""
    rows = [normalised(text).encode("utf-8", "surrogatepass") for text in texts]
    offsets = np.zeros(len(rows) + 1, np.int64)
    np.cumsum([len(row) for row in rows], out=offsets[1:])
    return Texts(np.frombuffer(b"".join(rows), np.uint8), offsets)


def normalise(array: pa.Array) -> Texts:
    """Normalised texts of a string array; a null is an empty text."""
    array = array.cast(pa.large_string())
    given = _texts(array)
    if (given.data >= 128).any():
        high = np.append(0, np.cumsum(given.data >= 128))
        other = np.diff(high[given.offsets]) > 0
        rows = [normalised(text) for text in array.filter(pa.array(other)).to_pylist()]
        array = pc.call_function("replace_with_mask", [array, pa.array(other), pa.array(rows, pa.large_string())])
        given = _texts(array)
    data = _LOWER[given.data]
    space = data == SPACE
    if not space.any():
        return Texts(data, given.offsets)
    filled = np.flatnonzero(given.lengths())
    after = np.empty_like(space)
    after[1:] = space[:-1]
    after[given.offsets[filled]] = True
    data, offsets = _without(data, given.offsets, space & after)
    filled = np.flatnonzero(np.diff(offsets))
    last = offsets[filled + 1] - 1
    dropped = np.zeros(data.size, bool)
    dropped[last[data[last] == SPACE]] = True
    return Texts(*_without(data, offsets, dropped))


def as_they_are(array: pa.Array) -> Texts:
    """The bytes of an array of bytes, nothing normalised; a null is an empty one."""
    array = array.cast(pa.large_binary())
    return _texts((array.fill_null(b"") if array.null_count else array).view(pa.large_string()))


def hash_texts(texts: Texts) -> UInt64[np.ndarray, "2 rows"]:
    """128-bit hashes of texts, as two halves that know nothing of each other."""
    return hash_spans(texts.data, texts.offsets[:-1], texts.lengths(), lanes=2)


def hash_spans(
    data: UInt8[np.ndarray, " bytes"],
    starts: Int[np.ndarray, " spans"],
    lengths: Int[np.ndarray, " lengths"],
    lanes: int,
) -> UInt64[np.ndarray, "lanes spans"]:
    """64-bit hashes of pieces of a run of bytes; the same in every process.

    Eight bytes at a time are scrambled with their place and summed, so that no short difference cancels another.

    Args:
      data: the bytes.
      starts: where each piece begins.
      lengths: bytes of each piece.
      lanes: 1 or 2 hashes of each.

    Returns:
      The hashes of each piece; pieces of different length differ.
    """
    padded = np.concatenate([data, np.zeros(8, np.uint8)])
    words = np.ndarray(padded.size - 7, "<u8", buffer=padded, strides=(1,))
    size = lengths.astype(np.uint64)
    if lengths.max(initial=0) <= 8:
        values = words[starts] & _MASKS[lengths]
        return np.stack([mixed(mixed(values ^ salt) + size * step) for step, salt in _LANES[:lanes]])
    counts = (lengths + 7) >> 3
    place = ranges(np.zeros(starts.size, np.int64), counts)
    ends = np.cumsum(counts)
    values = words[np.repeat(starts, counts) + 8 * place]
    full = lengths & 7 == 0
    values[ends[~full] - 1] &= _MASKS[lengths[~full] & 7]
    place = place.astype(np.uint64)
    out = []
    for step, salt in _LANES[:lanes]:
        running = np.append(np.uint64(0), np.cumsum(mixed((values ^ salt) + place * step)))
        sums = running[ends] - running[ends - counts]
        sums[counts == 0] = mixed(np.array([salt]))[0]  # as where all pieces are short
        out.append(mixed(sums + size * step))
    return np.stack(out)


def ranges(starts: Int[np.ndarray, " n"], counts: Int[np.ndarray, " n"]) -> Int[np.ndarray, " total"]:
    """The numbers start, start + 1, ... of each of several ranges, one after the other."""
    ends = np.cumsum(counts)
    total = int(ends[-1]) if ends.size else 0
    return np.repeat(starts - (ends - counts), counts) + np.arange(total)


def blocks_of(sizes: Int[np.ndarray, " n"]) -> Iterator[Int[np.ndarray, " m"]]:
    """Places in a list of the sizes of texts, split into runs of about `BLOCK_BYTES`."""
    ends = np.cumsum(sizes + 1) // BLOCK_BYTES
    yield from np.split(np.arange(sizes.size), np.flatnonzero(np.diff(ends)) + 1)


def _without(
    data: UInt8[np.ndarray, " bytes"], offsets: Int[np.ndarray, " n"], dropped: Bool[np.ndarray, " bytes"]
) -> tuple[UInt8[np.ndarray, " kept"], Int[np.ndarray, " n"]]:
    """Bytes and offsets without some of the bytes."""
    if not dropped.any():
        return data, offsets
    before = np.append(0, np.cumsum(dropped))
    return data[~dropped], offsets - before[offsets]


def _texts(array: pa.Array) -> Texts:
    """The bytes of a string array as they are."""
    data, offsets = text_buffers(array)
    return Texts(data[offsets[0] : offsets[-1]], offsets - offsets[0])
