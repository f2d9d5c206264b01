"""JSON as RFC 8259 defines it, one value at a time."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


_DECODER = json.JSONDecoder(parse_constant=_refuse)
parse = _DECODER.decode
"""A value from its text; unlike Python's own `json.loads` it refuses NaN and Infinity. Raises ValueError."""


def row_values(value: Any) -> Mapping[str, Any]:
    """Values of one parsed row by column; a bare string is a row of text.

    Raises:
      TypeError: neither an object nor a string.
    """
    if isinstance(value, dict):
        return value
    if isinstance(value, str):
        return {"text": value}
    raise TypeError(f"expected a JSON object or string, found {json_type(value)}")


def json_type(value: Any) -> str:
    """Type of a value in the words of JSON."""
    names = {dict: "object", list: "array", str: "string", bool: "true or false", int: "number", float: "number"}
    return names.get(type(value), "null" if value is None else type(value).__name__)
