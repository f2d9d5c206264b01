"""One dataset of one or many files as typed columns: what it is, and a stream of its rows."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Int64

from validation.datasets.base import BadRows, Format, Inspection, Piece, Request, Span, TableKind, no_rows
from validation.datasets.chunks import resized
from validation.datasets.files import find_files, shown_path
from validation.datasets.kinds import table_kind
from validation.datasets.opening import one_format, reader
from validation.datasets.sources import Source
from validation.datasets.storage import DatasetError
from validation.datasets.unify import conform, unify

SAMPLE_ROWS = 10_000
"""Rows from which the types of CSV, TSV and JSON Lines are learned."""

FIRST_ROWS = 200


@dataclass(frozen=True)
class TableMetadata:
    """What a table is, without reading all of it.

    Attributes:
      path: as given, without keys.
      files: names relative to the folder given, in reading order.
      format: "text", "jsonl", "json", "csv", "tsv", "parquet", "arrow", "arrow stream", "feather", "hdf5" or "excel".
      compression: "", "gzip", "zstd", or both.
      rows: number of rows.
      rows_exact: whether the files state it, or it is estimated from the bytes of the first rows.
      columns: name and Arrow type of each column; in JSON and Excel a large_string column holds values of mixed types,
        strings as they are and the others as JSON text.
      kind: "text", "tabular" or "time series".
      bytes: of all files as stored.
      memory_bytes: estimate of the memory that all rows take as Arrow columns.
      notes: what else should be known, such as sheets that are not read.
    """

    path: str
    files: tuple[str, ...]
    format: str
    compression: str
    rows: int
    rows_exact: bool
    columns: tuple[tuple[str, pa.DataType], ...]
    kind: TableKind
    bytes: int
    memory_bytes: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Part:
    """A piece of a table that can be streamed on its own, in any order, by another process.

    Attributes:
      file: index in `metadata.files`.
      rows: number of rows, None where it is not known.
      span: row groups of the file; None is the whole file.
    """

    file: int
    rows: int | None = None
    span: Span | None = None


class Chunk(NamedTuple):
    """Consecutive rows of one file.

    Attributes:
      file: index in `metadata.files`.
      row: 1-based number of each row in its file: the line for text and JSON Lines, the record elsewhere.
      data: the columns.
    """

    file: int
    row: Int64[np.ndarray, " rows"]
    data: pa.RecordBatch


@dataclass
class Table:
    """A table ready to be streamed; made by `open_table`. It can be sent to another process.

    Attributes:
      metadata: files, columns, types and rows.
      skipped: bad rows of the last stream as (file, row, reason), where bad rows are skipped.
    """

    metadata: TableMetadata
    skipped: list[tuple[str, int, str]] = field(default_factory=list)
    _sources: tuple[Source, ...] = ()
    _format: Format = field(kw_only=True)
    _parts: tuple[Part, ...] = ()
    _skip_bad_rows: bool = False

    @property
    def schema(self) -> pa.Schema:
        """Columns and types of every chunk."""
        return pa.schema(list(self.metadata.columns))

    def parts(self) -> tuple[Part, ...]:
        """Pieces that can be streamed on their own: files, or runs of row groups of Parquet files."""
        return self._parts

    def local_paths(self) -> tuple[str, ...]:
        """Paths of the files on the local disk, so that nobody writes over them."""
        return tuple(source.path for source in self._sources if source.storage.local)

    def stream(
        self,
        chunk_rows: int = 100_000,
        *,
        parts: Sequence[Part] | None = None,
        columns: Sequence[str] | None = None,
        after: tuple[int, int] | None = None,
    ) -> Iterator[Chunk]:
        """Reads rows in order, from the beginning at each call.

        Args:
          chunk_rows: rows of a chunk; fewer at the end of a part, or where rows are very large.
          parts: pieces to read, in this order; None reads everything.
          columns: columns to read, in this order; None reads all.
          after: (file, row) that was reached before: only rows behind it are given.

        Yields:
          Chunks of one file each; a column has the same type in all of them.

        Raises:
          DatasetError: a file or row cannot be read.
          ValueError: chunk_rows is not positive, or a column does not exist.
        """
        if chunk_rows < 1:
            raise ValueError(f"chunk_rows: {chunk_rows}; expected at least 1")
        known = [name for name, _ in self.metadata.columns]
        there, names = set(known), tuple(known if columns is None else columns)
        if unknown := [name for name in names if name not in there]:
            raise ValueError(f"columns: no column {unknown[0]!r}; columns: {', '.join(known)}")
        self.skipped.clear()
        return self._chunks(chunk_rows, self._parts if parts is None else tuple(parts), names, after)

    def _chunks(
        self, chunk_rows: int, parts: tuple[Part, ...], names: tuple[str, ...], after: tuple[int, int] | None
    ) -> Iterator[Chunk]:
        file, row = after or (0, 0)
        schema = self.schema
        chosen = pa.schema([schema.field(name) for name in names])
        for part in parts:
            if part.file < file or (part.file == file and part.span and part.span.row + part.span.rows <= row + 1):
                continue
            source = self._sources[part.file]
            bad = BadRows(source, self.metadata.files[part.file], self.skipped if self._skip_bad_rows else None)
            request = Request(schema, names, chunk_rows, part.span)
            pieces = (conform(source, piece, chosen) for piece in self._format.pieces(source, bad, request))
            for piece in resized(pieces, chunk_rows):
                chunk = _after(piece, row) if part.file == file and row else piece
                if len(chunk.row):
                    yield Chunk(part.file, chunk.row, chunk.data)


def _after(piece: Piece, row: int) -> Piece:
    start = int(np.searchsorted(piece.row, row, side="right"))
    return Piece(piece.row[start:], piece.data.slice(start))


def open_table(
    path: str | os.PathLike[str],
    *,
    kind: TableKind | None = None,
    skip_bad_rows: bool = False,
    storage: Mapping[str, str] | None = None,
    sample_rows: int = SAMPLE_ROWS,
    sheet: str | None = None,
) -> Table:
    """Opens data of any format and finds out what it is, reading only the beginning (or the footer) of each file.

    Args:
      path: a file, a folder (searched with its subfolders), a glob pattern, or a URI such as `s3://bucket/folder`.
      kind: "text", "tabular" or "time series"; None finds it from the schema and the first rows.
      skip_bad_rows: whether rows that cannot be read are counted in `Table.skipped` instead of stopping the stream.
      storage: options of remote storage: `endpoint_override`, `access_key`, `secret_key`, `region`, `scheme`; what is
        not given comes from the usual environment variables.
      sample_rows: rows from which the types of CSV, TSV and JSON Lines are learned; a later value that does not fit is a
        bad row.
      sheet: of an Excel workbook; None reads the first visible sheet with cells.

    Returns:
      The table.

    Raises:
      DatasetError: nothing to read, an unknown format, an unreadable file, or files that do not belong together.
    """
    if sample_rows < 1:
        raise ValueError(f"sample_rows: {sample_rows}; expected at least 1")
    given = os.fspath(path)
    sources, name = one_format(find_files(given, storage))
    fmt = reader(name, sources, sheet)
    each = max(FIRST_ROWS, sample_rows // len(sources))
    found = [fmt.inspect(source, each) for source in sources]
    schema = unify(sources, [one.schema for one in found], name)
    rows = sum(one.rows for one in found)
    if rows == 0 and all(one.rows_exact for one in found):
        raise no_rows(sources[0])
    if not schema.names:
        raise DatasetError(f"{sources[0]}: no columns; expected at least one")
    first = _first_rows(fmt, sources[0], schema)
    parts = tuple(part for index, one in enumerate(found) for part in _parts(index, one))
    metadata = TableMetadata(
        path=shown_path(given),
        files=tuple(source.name for source in sources),
        format=name,
        compression=" and ".join(sorted({source.compression for source in sources} - {""})),
        rows=rows,
        rows_exact=all(one.rows_exact for one in found),
        columns=tuple((column.name, column.type) for column in schema),
        kind=kind or ("text" if name == "text" else table_kind(schema, first)),
        bytes=sum(source.size for source in sources),
        memory_bytes=round(rows * first.nbytes / first.num_rows) if first else 0,
        notes=tuple(f"{source.name}: {note}" for source, one in zip(sources, found, strict=True) for note in one.notes),
    )
    return Table(metadata, [], sources, _format=fmt, _parts=parts, _skip_bad_rows=skip_bad_rows)


def _first_rows(fmt: Format, source: Source, schema: pa.Schema) -> pa.RecordBatch | None:
    """First rows that can be read; bad ones are left to the stream, which tells their numbers."""
    request = Request(schema, tuple(schema.names), FIRST_ROWS)
    pieces = (conform(source, piece, schema) for piece in fmt.pieces(source, BadRows(source, source.name, []), request))
    return next((piece.data for piece in pieces if len(piece.row)), None)


def _parts(file: int, found: Inspection) -> tuple[Part, ...]:
    if not found.spans:
        return (Part(file, found.rows if found.rows_exact else None),)
    return tuple(Part(file, span.rows, span) for span in found.spans)
