"""One schema for all files of a dataset, and rows brought to it."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from validation.datasets.base import Piece
from validation.datasets.sources import Source
from validation.datasets.storage import DatasetError, one_line
from validation.datasets.values import MIXED, settle, widen

LEARNED = {"csv": pa.string(), "tsv": pa.string(), "json": MIXED, "jsonl": MIXED, "excel": MIXED}
"""Formats whose types are learned from values, and the type of a column whose values have none in common."""


def unify(sources: Sequence[Source], schemas: Sequence[pa.Schema], name: str) -> pa.Schema:
    """The narrowest schema that holds every file: all columns, each as wide as needed.

    Raises:
      DatasetError: two files share no column, or a column has types that cannot be widened to one.
    """
    fields: dict[str, pa.DataType] = {}
    for source, schema in zip(sources, schemas, strict=True):
        if fields and not set(fields).intersection(schema.names):
            raise DatasetError(
                f"{sources[0]} has the columns {_listed(schemas[0])} and {source} has {_listed(schema)}; expected one schema"
            )
        for field in schema:
            known = fields.get(field.name, pa.null())
            wider = widen(known, field.type, LEARNED[name]) if name in LEARNED else _promoted(known, field.type)
            if wider is None:
                raise DatasetError(
                    f"{source}: the column {field.name!r} is {field.type}, and {known} in the files before; expected one type"
                )
            fields[field.name] = wider
    if name in LEARNED:
        return pa.schema([(key, _settled(kind, name)) for key, kind in fields.items()])
    return pa.schema(list(fields.items()))


def conform(source: Source, piece: Piece, schema: pa.Schema) -> Piece:
    """Rows of a file as the whole dataset has them: wider types, and nulls in columns that the file lacks.

    Raises:
      DatasetError: a value does not survive the wider type.
    """
    if piece.data.schema.equals(schema):
        return piece
    arrays = []
    for field in schema:
        index = piece.data.schema.get_field_index(field.name)
        if index < 0:
            arrays.append(pa.nulls(len(piece.row), field.type))
            continue
        column = piece.data.column(index)
        try:
            arrays.append(column if column.type == field.type else column.cast(field.type))
        except pa.ArrowException as error:
            span = f"rows {piece.row[0]} to {piece.row[-1]}" if len(piece.row) else "no rows"
            raise DatasetError(
                f"{source}: {span}: {field.name!r} does not become {field.type}: {one_line(error)}"
            ) from None
    return Piece(piece.row, pa.RecordBatch.from_arrays(arrays, schema=schema))


def _promoted(known: pa.DataType, found: pa.DataType) -> pa.DataType | None:
    if known == found:
        return known
    try:
        pair = [pa.schema([("x", known)]), pa.schema([("x", found)])]
        return pa.unify_schemas(pair, promote_options="permissive").field(0).type
    except pa.ArrowException:
        return None


def _settled(kind: pa.DataType, name: str) -> pa.DataType:
    return pa.string() if pa.types.is_null(kind) and LEARNED[name] != MIXED else settle(kind)


def _listed(schema: pa.Schema) -> str:
    names = schema.names
    return ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
