"""JSON Lines: one object (or string) a line."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from validation.datasets.base import BadRows, Columns, Record, encoding_error, sampled_columns


class JsonLines:
    """Files of one JSON value a line; blank lines are passed over, and counted in row numbers."""

    def columns(self, path: Path) -> Columns:
        """Columns named by the first rows."""
        return sampled_columns(path, self)

    def records(self, path: Path, bad: BadRows, fields: Sequence[str]) -> Iterator[Record]:
        """Objects with the 1-based line each stands on."""
        with path.open("rb") as file:
            for row, raw in enumerate(file, start=1):
                line = raw.removeprefix(codecs.BOM_UTF8) if row == 1 else raw
                if not line.strip():
                    continue
                try:
                    values = row_values(json.loads(line.decode()))
                except UnicodeDecodeError:
                    raise encoding_error(path) from None
                except json.JSONDecodeError as error:
                    bad.report(row, f"not JSON: {error.msg} at column {error.colno}")
                except (ValueError, RecursionError) as error:
                    # Integers of thousands of digits, nesting deeper than the interpreter's stack.
                    bad.report(row, f"not JSON that can be read: {error}")
                except TypeError as error:
                    bad.report(row, str(error))
                else:
                    yield row, values


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
