"""JSON documents: an array of objects or strings, or one object that holds exactly one such list."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from validation.datasets.base import BadRows, Columns, DatasetError, Record, encoding_error, sampled_columns
from validation.datasets.json_lines import json_type, row_values


class JsonArray:
    """Files that are one JSON document; read whole, the only format that does not stream."""

    def columns(self, path: Path) -> Columns:
        """Columns named by the first rows."""
        return sampled_columns(path, self)

    def records(self, path: Path, bad: BadRows, fields: Sequence[str]) -> Iterator[Record]:
        """Elements of the array with their 1-based places."""
        for row, element in enumerate(_rows(path), start=1):
            try:
                values = row_values(element)
            except TypeError as error:
                bad.report(row, str(error))
            else:
                yield row, values


def _rows(path: Path) -> list[Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError:
        raise encoding_error(path) from None
    except json.JSONDecodeError as error:
        hint = "; if it holds one object a line, name it .jsonl" if error.msg == "Extra data" else ""
        raise DatasetError(
            f"{path}: not JSON: {error.msg} at line {error.lineno}, column {error.colno}{hint}"
        ) from None
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path}: not JSON that can be read: {error}") from None
    if isinstance(document, list):
        return document
    expected = "expected an array of objects or strings, or an object that holds exactly one list of objects"
    if not isinstance(document, dict):
        raise DatasetError(f"{path}: {expected}; found {json_type(document)}")
    lists = {name: value for name, value in document.items() if _is_list_of_objects(value)}
    if len(lists) != 1:
        held = f"lists of objects: {', '.join(lists) or 'none'}"
        raise DatasetError(f"{path}: {expected}; found an object with {held}")
    return next(iter(lists.values()))


def _is_list_of_objects(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(element, dict) for element in value)
