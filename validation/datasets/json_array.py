"""JSON documents: an array of objects or strings, or one object that holds exactly one such list."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from validation.datasets.base import BadRows, Columns, Inspection, Piece, Record, Request
from validation.datasets.json_values import json_type, parse, row_values
from validation.datasets.lines import not_utf8
from validation.datasets.objects import infer_schema, object_pieces
from validation.datasets.records import sampled_columns
from validation.datasets.sources import Source
from validation.datasets.storage import DatasetError

MAX_DOCUMENT_BYTES = 512 << 20
"""Longest document that is read; Python's values take several times as much memory."""


class JsonArray:
    """Files that are one JSON document; read whole, as a document has no beginning that could be trusted."""

    def inspect(self, source: Source, sample_rows: int) -> Inspection:
        """Columns and types of all rows, since the document is read whole anyway."""
        skipped: list[tuple[str, int, str]] = []
        rows = list(_rows(source, BadRows(source, source.name, skipped)))
        schema = infer_schema((row, values) for row, values, _ in rows)
        return Inspection(schema, len(rows), not skipped)

    def columns(self, source: Source) -> Columns:
        """Columns named by the first rows."""
        return sampled_columns(source, self)

    def records(self, source: Source, bad: BadRows, fields: Sequence[str]) -> Iterator[Record]:
        """Elements of the array with their 1-based places."""
        return ((row, values) for row, values, _ in _rows(source, bad))

    def pieces(self, source: Source, bad: BadRows, request: Request) -> Iterator[Piece]:
        """The same rows as typed columns."""
        return object_pieces(_rows(source, bad), bad, request)


def _rows(source: Source, bad: BadRows) -> Iterator[tuple[int, Mapping[str, Any], int]]:
    elements, size = _elements(source)
    row_bytes = size // max(1, len(elements))
    for row, element in enumerate(elements, start=1):
        try:
            values = row_values(element)
        except TypeError as error:
            bad.report(row, str(error))
        else:
            yield row, values, row_bytes


def _elements(source: Source) -> tuple[list[Any], int]:
    """Rows of a document, and its bytes."""
    text, size = _text(source)
    try:
        document = parse(text)
    except json.JSONDecodeError as error:
        hint = "; if it holds one object a line, name it .jsonl" if error.msg == "Extra data" else ""
        raise DatasetError(
            f"{source}: not JSON: {error.msg} at line {error.lineno}, column {error.colno}{hint}"
        ) from None
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{source}: not JSON that can be read: {error}") from None
    if isinstance(document, list):
        return document, size
    expected = "expected an array of objects or strings, or an object that holds exactly one list of objects"
    if not isinstance(document, dict):
        raise DatasetError(f"{source}: {expected}; found {json_type(document)}")
    lists = {name: value for name, value in document.items() if _is_list_of_objects(value)}
    if len(lists) != 1:
        held = f"lists of objects: {', '.join(lists) or 'none'}"
        raise DatasetError(f"{source}: {expected}; found an object with {held}")
    return next(iter(lists.values())), size


def _text(source: Source) -> tuple[str, int]:
    with source.stream() as stream:
        raw = stream.read(MAX_DOCUMENT_BYTES + 1)
    if len(raw) > MAX_DOCUMENT_BYTES:
        limit = MAX_DOCUMENT_BYTES >> 20
        raise DatasetError(
            f"{source}: a JSON document of more than {limit} MiB is not read; expected JSON Lines (.jsonl)"
        )
    try:
        return raw.decode().removeprefix("\ufeff"), len(raw)
    except UnicodeDecodeError as error:
        raise not_utf8(source, raw, 0, error) from None


def _is_list_of_objects(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(element, dict) for element in value)
