"""Arrow arrays as what a profile counts: leaves of nested columns, 64-bit hashes of cells, numbers without nulls."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float, Num, UInt64

from validation.diversity.hash_counts import mixed, unmixed
from validation.diversity.words import span_hashes, text_buffers

Kind = Literal["number", "boolean", "date", "category", "text", "list", "other"]
Keys = UInt64[np.ndarray, " _"]

NULL = np.uint64(0x6E756C6C)
ADDED = ("(file)", "(row)", "(instruction)", "(chat)", "(preference)")
"""Columns that a profile adds to those of the table."""
_PROBE_ROWS = 2048
_FLOAT_DIGITS = 15  # decimals of so many digits are all different as floating point numbers
_DECIMALS = (pa.Decimal32Type, pa.Decimal64Type, pa.Decimal128Type, pa.Decimal256Type)


@dataclass(frozen=True)
class Leaf:
    """A column of the profile: a column of the table, a field of a struct ("a.b") or the length of a list ("a[]").

    Attributes:
      name: the column, with the path inside it.
      type: Arrow type, as text.
      kind: what is measured of it.
      zone: time zone of a timestamp, else empty.
    """

    name: str
    type: str
    kind: Kind
    zone: str = ""


def leaves(schema: pa.Schema) -> list[tuple[str, pa.DataType]]:
    """Names and types of the leaves of all columns, in order; no two names are the same, or one that a profile adds."""
    found = [leaf for field in schema for leaf in _leaves(field.name, field.type)]
    taken: set[str] = {*ADDED}
    for place, (name, of_type) in enumerate(found):
        others = (f"{name} ({number})" for number in itertools.count(2))
        free = next(one for one in itertools.chain([name], others) if one not in taken)
        taken.add(free)
        found[place] = free, of_type
    return found


def _leaves(name: str, of_type: pa.DataType) -> Iterator[tuple[str, pa.DataType]]:
    if pa.types.is_struct(of_type):
        for field in of_type.fields:
            yield from _leaves(f"{name}.{field.name}", field.type)
    elif is_list(of_type):
        yield f"{name}[]", of_type
    else:
        yield name, of_type


def leaf_arrays(array: pa.Array) -> Iterator[pa.Array]:
    """The leaves of one column in the order of `leaves`, dictionaries decoded, views made plain."""
    if pa.types.is_struct(array.type):
        for child in array.flatten():
            yield from leaf_arrays(child)
    elif isinstance(array, pa.DictionaryArray):
        yield from leaf_arrays(array.dictionary_decode())
    elif isinstance(array, pa.ExtensionArray):
        yield from leaf_arrays(array.storage)
    elif pa.types.is_string_view(array.type):
        yield array.cast(pa.large_string())  # few kernels take views
    else:
        yield array


def kind_of(of_type: pa.DataType) -> Kind:
    """What is measured of a leaf of this type; whether strings are text is for their values to say."""
    kind = _plain(of_type)
    if pa.types.is_boolean(kind):
        return "boolean"
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind) or _is_span(kind):
        return "number"
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return "date"
    if is_string(kind):
        return "category"
    return "list" if is_list(kind) else "other"


def is_string(of_type: pa.DataType) -> bool:
    """Whether values are text."""
    return pa.types.is_string(of_type) or pa.types.is_large_string(of_type) or pa.types.is_string_view(of_type)


def is_list(of_type: pa.DataType) -> bool:
    """Whether values are sequences."""
    return pa.types.is_list(of_type) or pa.types.is_large_list(of_type) or pa.types.is_fixed_size_list(of_type)


def is_wide(of_type: pa.DataType) -> bool:
    """Whether values are decimals of which several can be one floating point number."""
    kind = _plain(of_type)
    return isinstance(kind, _DECIMALS) and kind.precision > _FLOAT_DIGITS


def _is_span(of_type: pa.DataType) -> bool:
    return pa.types.is_time(of_type) or pa.types.is_duration(of_type)


def _plain(of_type: pa.DataType) -> pa.DataType:
    while isinstance(of_type, pa.DictionaryType | pa.BaseExtensionType):
        of_type = of_type.value_type if isinstance(of_type, pa.DictionaryType) else of_type.storage_type
    return of_type


def numbers(array: pa.Array) -> tuple[Num[np.ndarray, " n"], Bool[np.ndarray, " rows"] | None]:
    """The values that are there, and which those are (None: all).

    Integers, dates and times come as int64 (uint64 beyond it), everything else as float64; lists as their lengths.
    """
    valid = None if array.null_count == 0 else array.is_valid().to_numpy(zero_copy_only=False)
    if is_list(array.type):
        array = pc.call_function("list_value_length", [array])
    if array.null_count:
        array = array.drop_null()
    kind = array.type
    if pa.types.is_date32(kind) or pa.types.is_time32(kind):
        array = array.cast(pa.int32())
    elif pa.types.is_date(kind) or pa.types.is_time(kind) or pa.types.is_timestamp(kind) or pa.types.is_duration(kind):
        array = array.cast(pa.int64())
    elif pa.types.is_decimal(kind):
        array = array.cast(pa.float64())
    values = array.to_numpy(zero_copy_only=False)
    if values.dtype.kind == "f":
        return values.astype(np.float64, copy=False), valid
    return values.astype(np.uint64 if values.dtype == np.uint64 else np.int64, copy=False), valid


def seconds(of_type: str) -> float:
    """Seconds that one of an Arrow type's dates, times or durations counts in; 1 for all other types."""
    name, _, rest = of_type.partition("[")
    if name in ("date32", "date64"):
        return 86_400.0 if name == "date32" else 1e-3
    timed = name in ("timestamp", "time32", "time64", "duration")
    return {"ns": 1e-9, "us": 1e-6, "ms": 1e-3}.get(rest.partition(",")[0].rstrip("]"), 1.0) if timed else 1.0


def as_floats(array: pa.Array) -> Float[np.ndarray, " rows"]:
    """Numbers, dates or times (in seconds, whatever their unit) as floating point numbers, nan where nothing is."""
    values, valid = numbers(array)
    unit = seconds(str(array.type))
    if unit < 1:  # whole seconds apart from the rest, so that equal times of different units are equal
        whole, rest = np.divmod(values, round(1 / unit))
        values = whole + rest * 1.0 / round(1 / unit)
    floats = values.astype(np.float64, copy=False) * max(unit, 1.0)
    if valid is None:
        return floats
    spread = np.full(valid.size, np.nan)
    spread[valid] = floats
    return spread


def number_keys(values: Num[np.ndarray, " n"]) -> Keys:
    """Hashes of numbers from which `of_keys` makes the numbers again."""
    if values.dtype.kind == "f":
        with np.errstate(invalid="ignore"):  # a signalling nan
            values = np.where(np.isnan(values), np.nan, values + 0.0)  # one nan, one zero
    return mixed(np.ascontiguousarray(values).view(np.uint64))


def of_keys(keys: Keys, dtype: np.dtype[Any]) -> Num[np.ndarray, " n"]:
    """The numbers of `number_keys`."""
    return unmixed(keys).view(dtype)


def cell_keys(array: pa.Array) -> Keys:
    """A hash for each cell of any type, equal exactly where cells are; nulls have one of their own."""
    keys = _present_keys(array)
    if array.null_count:
        keys = np.where(array.is_valid().to_numpy(zero_copy_only=False), keys, NULL)
    return keys


def _present_keys(array: pa.Array) -> Keys:  # noqa: PLR0911 one return a type
    kind = array.type
    if pa.types.is_null(kind):
        return np.full(len(array), NULL)
    if isinstance(array, pa.DictionaryArray):
        return _by_dictionary(array)
    if isinstance(array, pa.ExtensionArray):
        return _present_keys(array.storage)
    if is_string(kind):
        return string_keys(array)[0]
    if pa.types.is_boolean(kind):
        return mixed(array.fill_null(False).to_numpy(zero_copy_only=False).astype(np.uint64))
    if is_wide(kind):
        return _fixed_keys(array)
    if kind_of(kind) in ("number", "date"):
        values, valid = numbers(array)
        return _spread(number_keys(values), valid)
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        array = (array.fill_null(b"") if array.null_count else array).cast(pa.large_binary())
        return span_hashes(*_large_buffers(array))
    if pa.types.is_struct(kind):
        keys = np.full(len(array), NULL)
        for child in array.flatten():
            keys = mixed(keys + cell_keys(child))
        return keys
    if isinstance(array, pa.ListArray | pa.LargeListArray) and not pa.types.is_map(kind):
        return span_hashes(cell_keys(array.values), array.offsets.to_numpy().astype(np.int64))
    # Maps, unions, fixed-size lists and what is to come: rare enough to go through their text.
    return string_keys(pa.array([repr(value) for value in array.to_pylist()], pa.large_string()))[0]


def _fixed_keys(array: pa.Array) -> Keys:
    width = array.type.bit_width // 8
    data = np.frombuffer(array.buffers()[1], np.uint8)
    return span_hashes(data, np.arange(array.offset, array.offset + len(array) + 1, dtype=np.int64) * width)


def _large_buffers(array: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    offsets = np.frombuffer(array.buffers()[1], np.int64)[array.offset : array.offset + len(array) + 1]
    data = array.buffers()[2]
    return (np.frombuffer(data, np.uint8) if data is not None else np.empty(0, np.uint8)), offsets


def _by_dictionary(array: pa.DictionaryArray) -> Keys:
    keys = cell_keys(array.dictionary)
    if not keys.size:
        return np.full(len(array), NULL)
    indices = array.indices.fill_null(0) if array.indices.null_count else array.indices
    return keys[indices.to_numpy()]


def string_keys(array: pa.Array) -> tuple[Keys, pa.Array | None]:
    """Hashes of strings, nulls as empty ones; and the distinct strings where looking for them pays.

    Where few values are repeated often, finding them is cheaper than reading every byte of every row.
    """
    if pa.types.is_string_view(array.type):
        array = array.cast(pa.large_string())
    probe = array.slice(0, _PROBE_ROWS)
    if not 0 < len(probe.dictionary_encode().dictionary) * 4 <= len(probe):
        return span_hashes(*text_buffers(array)), None
    encoded = array.dictionary_encode()
    return _by_dictionary(encoded), encoded.dictionary


def _spread(keys: Keys, valid: Bool[np.ndarray, " rows"] | None) -> Keys:
    if valid is None:
        return keys
    spread = np.full(valid.size, NULL)
    spread[valid] = keys
    return spread


def looks_like_text(array: pa.Array) -> bool:
    """Whether strings are sentences and not names: many words, or many letters of a script without spaces.

    Args:
      array: the first strings of a column.
    """
    values: Sequence[str] = [value for value in array.to_pylist() if value and not value.isspace()]
    if len(set(values)) * 10 < len(values):
        return False
    words = sum(len(value.split()) for value in values)
    unspaced = sum(len(value) >= 12 and not value.isascii() and len(value.split()) <= 2 for value in values)
    return words >= 4 * len(values) > 0 or unspaced * 2 > len(values)
