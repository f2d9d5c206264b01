"""What every file format must offer, and how bad input is reported.

A format inspects one file (`inspect`: columns, types, rows, without reading everything) and streams it twice over:
`pieces` as typed Arrow columns, `records` as Python values for the text view. Row numbers stay true to the file. Rows
that cannot be read go to `BadRows`, which either stops or counts them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
from jaxtyping import Int64

from validation.datasets.sources import Source
from validation.datasets.storage import DatasetError

SAMPLE_ROWS = 200
"""Rows read at the beginning of a file to learn what its columns hold as text."""

PIECE_BYTES = 32 << 20
"""Data that a format reads into memory at a time, as far as the file's own blocks allow it."""

ColumnKind = Literal["string", "list", "encoded list", "other"]
"""What a column holds, as far as choosing a text column needs to know; an encoded list is JSON in a string."""

TextKind = Literal["lines", "paragraphs", "records"]
"""What a row is: a line or a paragraph of a text file, or a record of any other format."""

TableKind = Literal["text", "tabular", "time series"]

Columns = dict[str, ColumnKind]
Record = tuple[int, Mapping[str, Any]]
"""A row: its 1-based number in the file, and its values by column."""


@dataclass(frozen=True)
class Metadata:
    """What a dataset is, before its rows are read.

    Attributes:
      path: the path, folder or pattern as given.
      files: paths relative to the data path, in reading order; the file's own name if there is one file.
      format: "text", "jsonl", "json", "csv", "tsv", "parquet", "arrow", "feather", "hdf5" or "excel".
      schema: "plain", "instruction", "chat" or "preference".
      fields: the columns that are rendered to text, in order; empty for plain text files.
      columns: all columns of the data, in file order; empty for plain text files.
      bytes: size of all files on disk.
      text_kind: what a row is.
    """

    path: str
    files: tuple[str, ...]
    format: str
    schema: str
    fields: tuple[str, ...]
    columns: tuple[str, ...]
    bytes: int
    text_kind: TextKind


class Span(NamedTuple):
    """A piece of a file that can be read on its own: blocks `first` to `stop` (row groups), and the rows they hold."""

    first: int
    stop: int
    row: int
    rows: int


@dataclass(frozen=True)
class Inspection:
    """What one file holds, found out at its beginning or its end.

    Attributes:
      schema: columns and types.
      rows: number of rows: exact, or estimated from the bytes of the first ones.
      rows_exact: whether the format states it or the whole file was read.
      spans: pieces that can be read on their own, in file order; empty if the file is one piece.
      notes: what a reader of the data should know, such as sheets that are not read.
    """

    schema: pa.Schema
    rows: int
    rows_exact: bool
    spans: tuple[Span, ...] = ()
    notes: tuple[str, ...] = ()


class Request(NamedTuple):
    """What is asked of a file.

    Attributes:
      schema: columns and types of the whole dataset.
      columns: those to read, in order; a file may lack some.
      rows: most rows of a piece.
      span: the part of the file to read; None is the whole file.
    """

    schema: pa.Schema
    columns: tuple[str, ...]
    rows: int
    span: Span | None = None


class Piece(NamedTuple):
    """Rows of one file as they come from its format."""

    row: Int64[np.ndarray, " rows"]
    data: pa.RecordBatch


class BadRows:
    """Stops at the first bad row of one file, or counts bad rows and goes on.

    Args:
      source: the file, as named in errors.
      name: the file, as named in the list of skipped rows.
      skipped: where skipped rows are written; None stops at the first one.
    """

    def __init__(self, source: Source, name: str, skipped: list[tuple[str, int, str]] | None) -> None:
        self.source = source
        self.name = name
        self.skipped = skipped

    def report(self, row: int, reason: str) -> None:
        """Records that `row` (1-based) cannot be used.

        Raises:
          DatasetError: bad rows are not to be skipped.
        """
        if self.skipped is None:
            raise DatasetError(f"{self.source}: row {row}: {reason}")
        self.skipped.append((self.name, row, reason))


@runtime_checkable
class Format(Protocol):
    """One family of files; each module of this package has one."""

    def inspect(self, source: Source, sample_rows: int) -> Inspection:
        """Columns, types and rows of a file.

        Args:
          source: the file.
          sample_rows: rows from which types are learned, where the format states none.

        Raises:
          DatasetError: the file cannot be read.
        """
        ...

    def columns(self, source: Source) -> Columns:
        """Columns of a file in file order, empty for plain text. Raises DatasetError if the file holds no row."""
        ...

    def pieces(self, source: Source, bad: BadRows, request: Request) -> Iterator[Piece]:
        """Typed rows of a file in file order, in bounded memory where the format allows it; columns it lacks left out."""
        ...

    def records(self, source: Source, bad: BadRows, fields: Sequence[str]) -> Iterator[Record]:
        """Rows of a file as Python values; a format may leave out columns other than `fields`."""
        ...


def no_rows(source: Source) -> DatasetError:
    """What is said of a file without a row where one is needed."""
    return DatasetError(f"{source}: no rows; expected at least one")
