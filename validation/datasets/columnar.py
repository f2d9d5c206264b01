"""What formats with typed columns of their own share: Python records, kinds of columns, and text that must be UTF-8."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from validation.datasets.base import SAMPLE_ROWS, BadRows, ColumnKind, Columns, Format, Piece, Record, Request, no_rows
from validation.datasets.records import kind_of
from validation.datasets.sources import Source
from validation.datasets.storage import DatasetError

RECORD_ROWS = 10_000
ENCODED_NAMES = frozenset(("messages", "conversations", "conversation", "chosen", "rejected"))
"""Columns whose strings may be lists kept as JSON."""


def checked_schema(source: Source, schema: pa.Schema) -> pa.Schema:
    """The schema of a file, whose columns must have different names.

    Raises:
      DatasetError: two columns share a name, or there is none.
    """
    names = schema.names
    if twice := [name for name in names if names.count(name) > 1]:
        raise DatasetError(f"{source}: the column {twice[0]!r} exists more than once; expected different names")
    if not names:
        raise DatasetError(f"{source}: no columns; expected at least one")
    return pa.schema([(field.name, _stored(field.type)) for field in schema])


def columns_of(source: Source, fmt: Format, schema: pa.Schema, rows: int) -> Columns:
    """What the columns of a typed file hold as text; strings are looked at for lists kept as JSON.

    Raises:
      DatasetError: the file has no row.
    """
    if rows == 0:
        raise no_rows(source)
    columns: Columns = {field.name: kind_of_type(field.type) for field in schema}
    texts = [name for name, kind in columns.items() if kind == "string" and name.lower() in ENCODED_NAMES]
    if texts:
        bad = BadRows(source, source.name, [])
        for _, values in itertools.islice(fmt.records(source, bad, texts), SAMPLE_ROWS):
            for name in texts:
                if kind_of(values[name]) == "encoded list":
                    columns[name] = "encoded list"
    return columns


def records_of(fmt: Format, source: Source, bad: BadRows, schema: pa.Schema, fields: Sequence[str]) -> Iterator[Record]:
    """Rows of a typed file as Python values."""
    request = Request(schema, tuple(fields), RECORD_ROWS)
    for rows, data in fmt.pieces(source, bad, request):
        yield from zip(rows.tolist(), data.to_pylist(), strict=True)


def good_piece(first: int, data: pa.RecordBatch, bad: BadRows) -> Piece:
    """A batch with its row numbers, without rows whose strings are not UTF-8.

    Raises:
      DatasetError: such a row, where bad rows are not skipped.
    """
    row = np.arange(first, first + data.num_rows, dtype=np.int64)
    broken: dict[int, str] = {}
    arrays = []
    for name, column in zip(data.schema.names, data.columns, strict=True):
        stored = column.storage if isinstance(column, pa.ExtensionArray) else column
        arrays.append(stored)
        if _holds_text(stored.type):
            try:
                stored.validate(full=True)
            except pa.ArrowInvalid as error:
                broken |= {place: f"{name!r} {reason}" for place, reason in _not_utf8(stored, error).items()}
    data = pa.RecordBatch.from_arrays(arrays, names=data.schema.names)
    if not broken:
        return Piece(row, data)
    for place in sorted(broken):
        bad.report(first + place, broken[place])
    good = np.ones(len(row), bool)
    good[list(broken)] = False
    return Piece(row[good], data.filter(pa.array(good)))


def _not_utf8(column: pa.Array, error: pa.ArrowInvalid) -> dict[int, str]:
    """Rows of a column whose text cannot be decoded."""
    found = {}
    for place in range(len(column)):
        try:
            column[place].as_py()
        except UnicodeDecodeError as reason:
            found[place] = f"holds a string that is not UTF-8: {reason.reason} at its byte {reason.start}"
    if not found:
        raise error
    return found


def _holds_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _holds_text(kind.value_type)
    if is_text(kind):
        return True
    return any(_holds_text(kind.field(index).type) for index in range(kind.num_fields))


def is_text(kind: pa.DataType) -> bool:
    """Whether a type is one of Arrow's strings."""
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _stored(kind: pa.DataType) -> pa.DataType:
    return kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind


def kind_of_type(kind: pa.DataType) -> ColumnKind:
    """What a column of an Arrow type holds, as far as choosing a text column needs to know."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if is_text(kind):
        return "string"
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    return "list" if is_list and pa.types.is_struct(kind.value_type) else "other"
