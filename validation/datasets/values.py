"""From Python values to typed columns: types learned from values, and values that do not fit told one by one."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Collection, Sequence
from typing import Any

import pyarrow as pa

MIXED = pa.large_string()
"""Type of a column whose values have no common type: JSON text, but strings as they are."""

INT64 = range(-(2**63), 2**63)
DECIMAL = pa.decimal128(38, 0)
LARGEST_DECIMAL = 10**38
LARGEST_FLOAT = 10**308
SHOWN_CHARACTERS = 40

_SCALARS: dict[type, pa.DataType] = {
    type(None): pa.null(),
    bool: pa.bool_(),
    float: pa.float64(),
    str: pa.string(),
    datetime.datetime: pa.timestamp("us"),
    datetime.date: pa.date32(),
    datetime.time: pa.time64("us"),
    datetime.timedelta: pa.duration("us"),
}
_TIMES = (datetime.datetime, datetime.date, datetime.time, datetime.timedelta)
_ACCEPTED: dict[pa.DataType, set[type]] = {
    **{arrow: {python, type(None)} for python, arrow in _SCALARS.items()},
    pa.int64(): {int, type(None)},
    DECIMAL: {int, type(None)},
    pa.float64(): {int, float, type(None)},
    pa.timestamp("us"): {datetime.datetime, datetime.date, type(None)},
}
_EXACT = (pa.float64(), pa.timestamp("us"))
_WIDER = ((pa.int64(), DECIMAL, pa.float64()), (pa.date32(), pa.timestamp("us"), pa.timestamp("ns")))
"""Types of which each holds the values of those before it."""

_WORDS: dict[pa.DataType, str] = {
    pa.int64(): "a 64-bit integer",
    pa.float64(): "a number",
    pa.bool_(): "true or false",
    pa.string(): "text",
    DECIMAL: "an integer of at most 38 digits",
    pa.null(): "null",
}

Converted = tuple[pa.Array, dict[int, str]]
"""A column, null where a value does not fit, and what is wrong with each such value by its place."""

Converter = Callable[[Any, pa.DataType], Converted]


def infer_type(values: Collection[Any]) -> pa.DataType:
    """Narrowest type that holds all values; null where there is none, `MIXED` where nothing narrower does."""
    found: pa.DataType = pa.null()
    nested: list[Any] = []
    kinds: set[pa.DataType] = set()
    for value in values:
        if type(value) is int:
            kinds.add(_integer_type(value))
        elif isinstance(value, dict | list):
            nested.append(value)
        else:
            kinds.add(_SCALARS[type(value)])
    for kind in (*kinds, *map(_nested_type, nested)):
        found = widen(found, kind)
    return MIXED if found == pa.float64() and not all(map(_held_by_float, values)) else found


def widen(a: pa.DataType, b: pa.DataType, mixed: pa.DataType = MIXED) -> pa.DataType:
    """Narrowest type that holds values of both; `mixed` where there is no other."""
    if a == b or pa.types.is_null(b):
        return a
    if pa.types.is_null(a):
        return b
    for order in _WIDER:
        if a in order and b in order:
            return max(a, b, key=order.index)
    return _widen_nested(a, b, mixed)


def _widen_nested(a: pa.DataType, b: pa.DataType, mixed: pa.DataType) -> pa.DataType:
    if pa.types.is_list(a) and pa.types.is_list(b):
        return pa.list_(widen(a.value_type, b.value_type, mixed))
    if pa.types.is_struct(a) and pa.types.is_struct(b):
        fields = {field.name: field.type for field in a}
        for field in b:
            fields[field.name] = widen(fields.get(field.name, pa.null()), field.type, mixed)
        return pa.struct(list(fields.items()))
    return mixed


def settle(kind: pa.DataType) -> pa.DataType:
    """A type for columns that held only nulls where types were learned: whatever may come."""
    if pa.types.is_null(kind):
        return MIXED
    if pa.types.is_list(kind):
        return pa.list_(settle(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([(field.name, settle(field.type)) for field in kind])
    return kind


def value_array(values: Sequence[Any], kind: pa.DataType) -> Converted:
    """A column of Python values (see `Converter`)."""
    try:
        if _ACCEPTED.get(kind, set()).issuperset(map(type, values)):
            return pa.array([_exact(value, kind) for value in values] if kind in _EXACT else values, kind), {}
    except (pa.ArrowException, OverflowError, UnicodeEncodeError, _UnfitError):
        return _one_by_one(values, kind)
    return _one_by_one(values, kind)


def shortened(value: Any) -> str:
    """A value as it appears in a message."""
    text = repr(value) if not isinstance(value, dict | list) else _json(value)
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 3] + "..."


def expectation(kind: pa.DataType) -> str:
    """A type in words."""
    return _WORDS.get(kind, str(kind))


def _one_by_one(values: Sequence[Any], kind: pa.DataType) -> Converted:
    fitted: list[Any] = []
    wrong: dict[int, str] = {}
    for place, value in enumerate(values):
        try:
            one = _fit(value, kind)
            pa.array([one], kind)
        except UnicodeEncodeError as error:
            wrong[place] = f"half of a surrogate pair at character {error.start}, which is not text"
        except (_UnfitError, pa.ArrowException, OverflowError) as error:
            detail = (
                str(error) if isinstance(error, _UnfitError) else f"{shortened(value)}, expected {expectation(kind)}"
            )
            wrong[place] = f"holds {detail}"
        else:
            fitted.append(one)
            continue
        fitted.append(None)
    return pa.array(fitted, kind), wrong


class _UnfitError(ValueError):
    """A value that a type does not hold."""


def _fit(value: Any, kind: pa.DataType) -> Any:
    """The value as Arrow accepts it for a type; without this, Arrow would drop unknown keys and cut fractions."""
    if value is None:
        return None
    if kind == MIXED:
        return value if isinstance(value, str) else _text(value)
    if pa.types.is_list(kind) and isinstance(value, list):
        return [_fit(element, kind.value_type) for element in value]
    if pa.types.is_struct(kind) and isinstance(value, dict):
        fields = {field.name: field.type for field in kind}
        if (unknown := next((key for key in value if key not in fields), None)) is not None:
            raise _UnfitError(f"the key {unknown!r}, which the rows that types were learned from do not have")
        return {name: _fit(value.get(name), inner) for name, inner in fields.items()}
    if type(value) not in _ACCEPTED.get(kind, set()):
        raise _UnfitError(f"{shortened(value)}, expected {expectation(kind)}")
    return _exact(value, kind)


def _exact(value: Any, kind: pa.DataType) -> Any:
    """A value of a narrower type as Arrow wants it: numbers as floats, and dates as their first moment."""
    if kind == pa.float64() and value is not None:
        if not _held_by_float(value):
            raise _UnfitError(f"{shortened(value)}, expected a number that a 64-bit float holds")
        return float(value)
    if kind == pa.timestamp("us") and type(value) is datetime.date:
        return datetime.datetime.combine(value, datetime.time())
    return value


def _held_by_float(value: Any) -> bool:
    """Whether a value that may be an integer is the same as a float."""
    return (
        type(value) is not int or -(2**53) <= value <= 2**53 or (abs(value) < LARGEST_FLOAT and float(value) == value)
    )


def _text(value: Any) -> str:
    """A value among others of different types, as text."""
    return str(value) if type(value) in _TIMES else _json(value)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def _integer_type(value: int) -> pa.DataType:
    if value in INT64:
        return pa.int64()
    return DECIMAL if abs(value) < LARGEST_DECIMAL else pa.float64()


def _nested_type(value: Any) -> pa.DataType:
    if isinstance(value, list):
        return pa.list_(infer_type(value))
    return pa.struct([(key, infer_type([inner])) for key, inner in value.items()])
