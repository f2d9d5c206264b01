"""Typed columns from records that name their own columns, as JSON's do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pyarrow as pa

from validation.datasets.base import BadRows, Piece, Record, Request
from validation.datasets.records import Row, pieces_of
from validation.datasets.values import infer_type, value_array


def infer_schema(records: Iterable[Record]) -> pa.Schema:
    """Columns of records, in order of their first appearance, and the narrowest type of each."""
    columns: dict[str, list] = {}
    for _, values in records:
        for name, value in values.items():
            columns.setdefault(name, []).append(value)
    return pa.schema([(name, infer_type(values)) for name, values in columns.items()])


def object_pieces(
    records: Iterable[tuple[int, Mapping[str, Any], int]], bad: BadRows, request: Request
) -> Iterator[Piece]:
    """Typed pieces of records; a row with a column that the dataset does not have is bad, since its value would be lost.

    Args:
      records: row, values by column, and bytes.
      bad: told of rows that do not fit.
      request: the columns to read.
    """
    known = frozenset(request.schema.names)
    names = request.columns

    def ordered() -> Iterator[Row]:
        for number, values, size in records:
            if not known.issuperset(values):
                other = next(name for name in values if name not in known)
                bad.report(number, f"unknown column {other!r}; the rows that columns were learned from do not have it")
            else:
                yield number, [values.get(name) for name in names], size

    schema = pa.schema([request.schema.field(name) for name in names])
    return pieces_of(ordered(), names, schema, bad, request.rows, value_array)
