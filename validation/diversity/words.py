"""Words of text as 64-bit hashes, straight from the bytes of an Arrow array: no Python object for a row or a word.

A word is a run of letters, digits and underscores, lower-cased character by character. Characters are numbers from a
table, a word's hash is the polynomial of its numbers modulo 2^64, taken as a difference of prefix sums.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache

import numpy as np
import pyarrow as pa
from jaxtyping import Int, UInt8, UInt64

from validation.diversity.hash_counts import Hashes, mixed

TILE = 1 << 18
"""Bytes worked on at a time; a word longer than this is cut."""

_BASE = 0xD1342543DE82EF95
_INVERSE = pow(_BASE, -1, 1 << 64)
_FINAL_SIGMA, _SIGMA, _DOTTED_I = 0x3C2, 0x3C3, 0x130
_SURROGATES = slice(0xD800, 0xE000)

Bytes = UInt8[np.ndarray, " bytes"]
Offsets = Int[np.ndarray, " rows_and_one"]


def text_buffers(texts: Sequence[str] | pa.Array) -> tuple[Bytes, Offsets]:
    """Rows as one run of UTF-8 bytes and where each row begins; a null is an empty row.

    Args:
      texts: strings, or an Arrow array of string, large_string or string_view.

    Returns:
      bytes, and offsets into them of which the last is the end.
    """
    if isinstance(texts, Sequence):
        encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
        offsets = np.zeros(len(encoded) + 1, np.int64)
        np.cumsum(np.array([len(row) for row in encoded], np.int64), out=offsets[1:])
        return np.frombuffer(b"".join(encoded), np.uint8), offsets
    array: pa.Array = texts if texts.type == pa.large_string() else texts.cast(pa.large_string())
    if array.null_count:
        array = array.fill_null("")
    _, places, data = array.buffers()
    offsets = np.frombuffer(places, np.int64)[array.offset : array.offset + len(array) + 1]
    return (np.frombuffer(data, np.uint8) if data is not None else np.empty(0, np.uint8)), offsets


def word_hashes(data: Bytes, offsets: Offsets) -> tuple[UInt64[np.ndarray, " words"], Int[np.ndarray, " rows"]]:
    """Hashes of all words, and the number of words of each row.

    Args:
      data: UTF-8 bytes.
      offsets: where rows begin in `data`; the last element is the end.

    Returns:
      one hash a word, row after row; words of each row.
    """
    hashes, starts = [np.empty(0, np.uint64)], [np.empty(0, np.int64)]
    begin, end = int(offsets[0]), int(offsets[-1])
    while begin < end:
        cut = _cut(data, offsets, begin, end)
        tile = data[begin:cut]
        first, last = np.searchsorted(offsets, [begin + 1, cut])
        borders = offsets[first:last] - begin
        words, places = _ascii_words(tile, borders) if tile.max() < 128 else _unicode_words(tile, borders)
        hashes.append(words)
        starts.append(places + begin)
        begin = cut
    return np.concatenate(hashes), np.diff(np.searchsorted(np.concatenate(starts), offsets))


def blank(text: str) -> bool:
    """Whether a row holds nothing but white space."""
    return not text or text.isspace()


def span_hashes(data: Bytes | Hashes, offsets: Offsets) -> UInt64[np.ndarray, " rows"]:
    """A hash of each row's elements in their order, equal exactly where they are.

    Args:
      data: bytes, or hashes of the elements of lists.
      offsets: where rows begin in `data`; the last element is the end.
    """
    at_offsets = np.zeros(offsets.size, np.uint64)
    begin, end = int(offsets[0]), int(offsets[-1])
    powers, inverses = _powers()
    carried, scale, unscale = 0, 1, 1
    starts = np.zeros(offsets.size, np.uint64)
    for tile_begin in range(begin, max(end, begin + 1), TILE):
        tile = data[tile_begin : min(tile_begin + TILE, end)]
        sums = np.zeros(tile.size + 1, np.uint64)
        codes = _byte_codes()[tile] if tile.dtype == np.uint8 else tile
        np.cumsum(codes * powers[: tile.size], out=sums[1:])
        sums *= np.uint64(scale)
        first, last = np.searchsorted(offsets, [tile_begin, tile_begin + TILE])
        if tile_begin + TILE >= end:
            last = offsets.size
        places = offsets[first:last] - tile_begin
        at_offsets[first:last] = sums[places] + np.uint64(carried)
        starts[first:last] = inverses[places] * np.uint64(unscale)
        carried = (carried + int(sums[-1])) % (1 << 64)
        scale = scale * pow(_BASE, TILE, 1 << 64) % (1 << 64)
        unscale = unscale * pow(_INVERSE, TILE, 1 << 64) % (1 << 64)
    lengths = np.diff(offsets).astype(np.uint64)
    return mixed(np.diff(at_offsets) * starts[:-1] + mixed(lengths))


def _cut(data: Bytes, offsets: Offsets, begin: int, end: int) -> int:
    """End of the tile that begins at `begin`: behind a character that is in no word, or between rows."""
    stop = begin + TILE
    if stop >= end:
        return end
    for window in (min(1 << 12, TILE), TILE):
        places = np.flatnonzero(_separators()[data[stop - window : stop]])
        if places.size:
            return stop - window + int(places[-1]) + 1
    row = int(offsets[np.searchsorted(offsets, stop, side="right") - 1])
    if row > begin:
        return row
    while data[stop] & 0xC0 == 0x80:
        stop -= 1
    text = data[begin:stop].tobytes().decode("utf-8", "surrogatepass")
    characters = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    places = np.flatnonzero(~_tables()[1][characters])
    return begin + len(text[: int(places[-1]) + 1].encode("utf-8", "surrogatepass")) if places.size else stop


def _ascii_words(tile: Bytes, borders: Int[np.ndarray, " n"]) -> tuple[Hashes, Int[np.ndarray, " words"]]:
    codes, inside = _ascii_tables()
    return _words(codes[tile], inside[tile], borders)


def _unicode_words(tile: Bytes, borders: Int[np.ndarray, " n"]) -> tuple[Hashes, Int[np.ndarray, " words"]]:
    text = tile.tobytes().decode("utf-8", "surrogatepass")
    characters = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    places = np.flatnonzero(tile & 0xC0 != 0x80)
    codes, inside = _tables()
    words, starts = _words(codes[characters], inside[characters], np.searchsorted(places, borders))
    return words, places[starts]


def _words(
    codes: UInt64[np.ndarray, " n"], inside: np.ndarray, borders: Int[np.ndarray, " k"]
) -> tuple[Hashes, Int[np.ndarray, " words"]]:
    begins, ends = inside.copy(), inside.copy()
    np.greater(inside[1:], inside[:-1], out=begins[1:])
    np.greater(inside[:-1], inside[1:], out=ends[:-1])
    begins[borders] = inside[borders]
    ends[borders - 1] = inside[borders - 1]
    first, last = np.flatnonzero(begins), np.flatnonzero(ends) + 1
    powers, inverses = _powers()
    sums = np.zeros(codes.size + 1, np.uint64)
    np.multiply(codes, powers[: codes.size], out=codes)
    np.cumsum(codes, out=sums[1:])
    return mixed((sums[last] - sums[first]) * inverses[first] + (last - first).astype(np.uint64)), first


@cache
def _powers() -> tuple[Hashes, Hashes]:
    """The base to the power 0 to TILE, and the inverses."""
    tables = []
    for base in (_BASE, _INVERSE):
        factors = np.full(TILE + 1, base, np.uint64)
        factors[0] = 1
        tables.append(np.cumprod(factors))
    return tables[0], tables[1]


@cache
def _tables() -> tuple[UInt64[np.ndarray, " characters"], np.ndarray]:
    """For every character: its number, equal for both cases, and whether it belongs to words."""
    points = np.arange(0x110000, dtype=np.uint32)
    points[_SURROGATES] = ord(" ")
    points[_DOTTED_I] = ord("i")  # the one character whose lower case has two
    text = points.tobytes().decode("utf-32-le")
    inside = np.zeros(points.size, bool)
    for run in re.finditer(r"\w+", text):
        inside[run.start() : run.end()] = True
    inside[_SURROGATES] = False
    lower = np.frombuffer(text.lower().encode("utf-32-le"), np.uint32).copy()
    lower[lower == _FINAL_SIGMA] = _SIGMA
    return mixed(lower.astype(np.uint64)), inside


@cache
def _ascii_tables() -> tuple[UInt64[np.ndarray, " bytes"], np.ndarray]:
    """The first part of `_tables`, without the cost of making all of it."""
    lower = np.frombuffer(bytes(range(128)).lower(), np.uint8)
    inside = np.array([re.match(r"\w", chr(c)) is not None for c in range(128)])
    return mixed(lower.astype(np.uint64)), inside


@cache
def _separators() -> np.ndarray:
    """Whether a byte is a character that belongs to no word."""
    return np.concatenate([~_ascii_tables()[1], np.zeros(128, bool)])


@cache
def _byte_codes() -> UInt64[np.ndarray, " bytes"]:
    return mixed(np.arange(1 << 10, (1 << 10) + 256, dtype=np.uint64))
