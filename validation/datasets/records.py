"""What formats that read row by row share: kinds of columns, estimates of rows, and typed pieces."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from validation.datasets.base import PIECE_BYTES, SAMPLE_ROWS, BadRows, ColumnKind, Columns, Format, Piece, no_rows
from validation.datasets.sources import Source
from validation.datasets.storage import DatasetError
from validation.datasets.values import Converter

Row = tuple[int, Sequence[Any], int]
"""A row: its number, its values in the order of the columns, and about how many bytes they take."""


def sampled_columns(source: Source, fmt: Format) -> Columns:
    """Learns what columns hold from the first rows of a file.

    A column that holds text in one row and null in another holds text; broken rows are passed over here, since the
    stream reports them with their numbers.

    Raises:
      DatasetError: no row can be read.
    """
    skipped: list[tuple[str, int, str]] = []
    columns: Columns = {}
    records = fmt.records(source, BadRows(source, source.name, skipped), ())
    sample = list(itertools.islice(records, SAMPLE_ROWS))
    for _, values in sample:
        for name, value in values.items():
            kind = kind_of(value)
            if columns.setdefault(name, kind) == "other":
                columns[name] = kind
    if not sample and skipped:
        _, row, reason = skipped[0]
        raise DatasetError(f"{source}: row {row}: {reason}")
    if not sample:
        raise no_rows(source)
    return columns


def kind_of(value: Any) -> ColumnKind:
    """Kind of one value."""
    if isinstance(value, str):
        return "encoded list" if encoded_list(value) is not None else "string"
    return "list" if isinstance(value, list) else "other"


def encoded_list(value: str) -> list[Any] | None:
    """The list of objects that a string holds as JSON, as conversations are kept in flat files; None if it holds none."""
    if not value.lstrip().startswith("["):
        return None
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, list) and found and all(isinstance(one, dict) for one in found) else None


def estimate(source: Source, content_bytes: int, rows: int) -> int:
    """Rows of a whole file from the bytes that its first rows take, before compression."""
    return max(rows, round(source.size * source.expansion() * rows / max(1, content_bytes)))


def pieces_of(
    found: Iterable[Row], names: Sequence[str], schema: pa.Schema, bad: BadRows, rows: int, convert: Converter
) -> Iterator[Piece]:
    """Gathers rows into typed pieces of at most `rows` rows and about PIECE_BYTES.

    Args:
      found: rows with values in the order of `names`.
      names: columns of the file.
      schema: columns to keep, and their types.
      bad: told of rows with a value that does not fit its column.
      rows: most rows of a piece.
      convert: makes a column of values.
    """
    places = [names.index(name) for name in schema.names]
    numbers: list[int] = []
    values: list[Sequence[Any]] = []
    size = 0
    for number, row, row_bytes in found:
        numbers.append(number)
        values.append(row)
        size += row_bytes
        if len(numbers) == rows or size >= PIECE_BYTES:
            yield piece_of(numbers, _columns(values, places), schema, bad, convert)
            numbers, values, size = [], [], 0
    if numbers:
        yield piece_of(numbers, _columns(values, places), schema, bad, convert)


def _columns(values: list[Sequence[Any]], places: list[int]) -> list[Sequence[Any]]:
    columns = list(zip(*values, strict=True))
    return [columns[place] for place in places]


def piece_of(
    numbers: Sequence[int],
    columns: Sequence[Sequence[Any] | pa.Array],
    schema: pa.Schema,
    bad: BadRows,
    convert: Converter,
) -> Piece:
    """A typed piece of columns that stand in the order of the schema; rows with a value that does not fit are left out.

    Args:
      numbers: of the rows.
      columns: values of every row.
      schema: columns and types.
      bad: told of rows with a value that does not fit its column.
      convert: makes a column of values.
    """
    wrong: dict[int, str] = {}
    arrays = []
    for values, field in zip(columns, schema, strict=True):
        array, reasons = convert(values, field.type)
        arrays.append(array)
        for row, reason in reasons.items():
            wrong.setdefault(row, f"{field.name!r} {reason}")
    for row in sorted(wrong):
        bad.report(numbers[row], wrong[row])
    row = np.array(numbers, np.int64)
    data = pa.RecordBatch.from_arrays(arrays, schema=schema)
    if wrong:
        good = np.ones(len(numbers), bool)
        good[list(wrong)] = False
        return Piece(row[good], data.filter(pa.array(good)))
    return Piece(row, data)
