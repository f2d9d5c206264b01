"""From the fields of a delimited file to typed columns."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from validation.datasets.values import INT64, Converted, expectation, shortened

NULLS = ("", "NA", "N/A", "n/a", "#N/A", "NULL", "null", "None")
"""Fields that stand for nothing in a column that is not text; in a text column they are text."""

_LEADING_ZERO = re.compile(r"-?0[0-9]+")
_INTEGER = re.compile(r"-?[0-9]+")
_NUMBER = re.compile(r"-?(([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?|[iI]nf|[nN]a[nN]|INF|Infinity)")
_BOOLEAN = re.compile(r"true|false|True|False|TRUE|FALSE")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_TIME = r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,9})?)?"
_TIMESTAMP = re.compile(_TIME)
_ZONED = re.compile(_TIME + r"(Z|[+-][0-9]{2}(:?[0-9]{2})?)")
_LONG = re.compile(r"-?[0-9]{19,}")
LONGEST_INTEGER = len(str(-(2**63)))
_CODES = {pa.int64(): r"^-?0[0-9xX]", pa.float64(): r"^-?(0[0-9]+|[0-9]{16,})$", pa.bool_(): r"^[01]$"}
"""Fields that Arrow would read, and perhaps change: 007, 0x1F, 1 for true, integers longer than a float's precision."""

_KINDS = (
    (_INTEGER, pa.int64()),
    (_NUMBER, pa.float64()),
    (_BOOLEAN, pa.bool_()),
    (_DATE, pa.date32()),
    (_TIMESTAMP, pa.timestamp("us")),
    (_TIMESTAMP, pa.timestamp("ns")),
    (_ZONED, pa.timestamp("us", "UTC")),
    (_ZONED, pa.timestamp("ns", "UTC")),
)
"""Types from narrow to wide, and how their fields look."""

_WORDS = {pa.date32(): "a date such as 2024-12-31", pa.bool_(): "true or false"}


def infer_field_type(values: Sequence[str]) -> pa.DataType:
    """Narrowest type that all fields of a column can be read as; null if all are empty."""
    distinct = set(values)
    filled = distinct.difference(NULLS)
    if not filled:
        return pa.null() if distinct <= {""} else pa.string()
    if any(map(_LEADING_ZERO.fullmatch, filled)) or any(map(_too_long, filled)):
        return pa.string()  # codes and identifiers, not numbers
    for pattern, kind in _KINDS:
        if all(map(pattern.fullmatch, filled)) and not field_array(list(filled), kind)[1]:
            return kind
    return pa.string()


def field_array(values: Sequence[str] | pa.Array, kind: pa.DataType) -> Converted:
    """A column of fields (see `values.Converter`), given as strings or as Arrow's."""
    try:
        texts = values if isinstance(values, pa.Array) else pa.array(values, pa.string())
    except UnicodeEncodeError:  # cannot come from a decoded file, but from a caller
        raise ValueError("fields: half of a surrogate pair; expected text") from None
    if pa.types.is_string(kind):
        return texts, {}
    absent = pc.call_function("is_in", [texts], pc.SetLookupOptions(pa.array(NULLS)))
    texts = pc.call_function("if_else", [absent, pa.scalar(None, pa.string()), texts])
    refused = _changed(texts, kind)
    wrong = {place: _unfit(texts[place].as_py(), kind) for place in refused}
    if refused:
        texts = pc.call_function("if_else", [_mask(refused, len(texts)), pa.scalar(None, pa.string()), texts])
    return _cast(texts, kind, 0, wrong), wrong


def _too_long(text: str) -> bool:
    return _LONG.fullmatch(text) is not None and (len(text) > LONGEST_INTEGER or int(text) not in INT64)


def _changed(texts: pa.Array, kind: pa.DataType) -> list[int]:
    """Places of fields that a cast would change without a word: codes, and integers that a float does not hold."""
    if kind not in _CODES:
        return []
    matches = pc.call_function("match_substring_regex", [texts], pc.MatchSubstringOptions(_CODES[kind]))
    places = pc.call_function("indices_nonzero", [matches]).to_pylist()
    return places if kind != pa.float64() else [place for place in places if not _held_by_float(texts[place].as_py())]


def _held_by_float(text: str) -> bool:
    return not _LEADING_ZERO.fullmatch(text) and len(text) < 300 and int(float(text)) == int(text)


def _mask(places: list[int], size: int) -> pa.Array:
    chosen = np.zeros(size, bool)
    chosen[places] = True
    return pa.array(chosen)


def _unfit(text: str, kind: pa.DataType) -> str:
    return f"holds {shortened(text)}, expected {_WORDS.get(kind, expectation(kind))}"


def _cast(texts: pa.Array, kind: pa.DataType, start: int, wrong: dict[int, str]) -> pa.Array:
    """Casts a column; where a field resists, halves it until the field is found."""
    try:
        return texts.cast(kind)
    except pa.ArrowInvalid:
        if len(texts) == 1:
            wrong[start] = _unfit(texts[0].as_py(), kind)
            return pa.nulls(1, kind)
    half = len(texts) // 2
    parts = (_cast(texts[:half], kind, start, wrong), _cast(texts[half:], kind, start + half, wrong))
    return pa.concat_arrays(parts)
