"""128-bit hashes of the rows of a record batch, whatever its columns hold."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, UInt64

from validation.diversity.hash_counts import mixed
from validation.diversity.texts import Texts, as_they_are, hash_texts, normalise, normalise_strings

FEW = 4  # values of a sample of a column for every different one, from which each is hashed once
SAMPLE = 1024

_NULL = np.uint64(0x9FB21C651E98DF25)
_LANES = np.array([0x8CB92BA72F3D8DD7, 0xBF58476D1CE4E5B9], np.uint64)


def hash_rows(batch: pa.RecordBatch) -> tuple[UInt64[np.ndarray, "2 rows"], Bool[np.ndarray, " rows"]]:
    """Hashes of rows; two rows have one hash if all their values are equal.

    Text is equal whatever its case and white space, -0 equals 0, and NaN equals NaN; null equals null alone.

    Args:
      batch: rows; columns of one place have one type in all batches that are compared.

    Returns:
      Both halves of the hashes, and which rows hold nothing: only nulls and blank text.
    """
    lanes = np.zeros((2, batch.num_rows), np.uint64)
    empty = np.ones(batch.num_rows, bool)
    for column in batch.columns:
        values, blank = _hash_column(column)
        for lane in (0, 1):
            lanes[lane] = mixed(lanes[lane] * _LANES[lane] + values[lane])
        empty &= blank
    return lanes, empty


def _hash_column(column: pa.Array) -> tuple[UInt64[np.ndarray, "2 rows"], Bool[np.ndarray, " rows"]]:
    """Hashes of the values of a column, and which are null or blank."""
    if pa.types.is_dictionary(column.type):
        return _hash_distinct(column)
    nulls = column.is_null().to_numpy(zero_copy_only=False) if column.null_count else np.zeros(len(column), bool)
    if _is_string(column.type):
        if _repeats(column):
            return _hash_distinct(column.dictionary_encode())
        texts = normalise(column)
        hashes, blank = hash_texts(texts), texts.lengths() == 0
    elif pa.types.is_primitive(column.type) and not pa.types.is_interval(column.type):
        bits = _bits(column)
        hashes, blank = np.stack([mixed(bits ^ salt) for salt in _LANES]), np.zeros(len(column), bool)
    else:
        texts = as_they_are(column) if _is_binary(column.type) else _rendered(column)
        hashes, blank = hash_texts(texts), np.zeros(len(column), bool)
    if nulls.any():
        hashes[:, nulls] = _NULL
    return hashes, blank | nulls


def _hash_distinct(column: pa.DictionaryArray) -> tuple[UInt64[np.ndarray, "2 rows"], Bool[np.ndarray, " rows"]]:
    """The same for a column of few different values: each is hashed once."""
    hashes, blank = _hash_column(column.dictionary)
    hashes = np.concatenate([hashes, np.full((2, 1), _NULL)], axis=1)
    place = column.indices.cast(pa.int64()).fill_null(len(blank)).to_numpy(zero_copy_only=False)
    return np.stack([lane[place] for lane in hashes]), np.append(blank, True)[place]


def _repeats(column: pa.Array) -> bool:
    sample = column.slice(0, SAMPLE)
    return len(sample) == SAMPLE and len(sample.unique()) * FEW < SAMPLE


def _bits(column: pa.Array) -> UInt64[np.ndarray, " rows"]:
    """Numbers, dates and times as 64 bits; equal numbers have equal bits."""
    kind = column.type
    if pa.types.is_boolean(kind):
        column = column.cast(pa.uint8())
    elif pa.types.is_temporal(kind):
        column = column.view(pa.int32() if kind.bit_width == 32 else pa.int64())
    values = (column.fill_null(0) if column.null_count else column).to_numpy(zero_copy_only=False)
    if values.dtype.kind == "f":
        values = values.astype(np.float64) + 0.0
        return np.where(np.isnan(values), np.nan, values).view(np.uint64)
    return values.astype(np.int64).view(np.uint64) if values.dtype.kind == "i" else values.astype(np.uint64)


def _rendered(column: pa.Array) -> Texts:
    """Other values as text: decimals, lists and records, each in Python's own way."""
    return normalise_strings([repr(value) for value in column.to_pylist()])


def _is_string(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _is_binary(kind: pa.DataType) -> bool:
    return (
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_fixed_size_binary(kind)
        or pa.types.is_binary_view(kind)
    )
