"""What every file format must offer, and how bad input is reported.

A format reads one file twice: `columns` looks at its beginning to find out what a row holds, `records` streams its rows
with numbers that stay true to the file. Rows that cannot be read go to `BadRows`, which either stops or counts them.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

SAMPLE_ROWS = 200
"""Rows read at the beginning of a file to learn its columns."""

ColumnKind = Literal["string", "list", "other"]
"""What a column holds, as far as choosing a text column needs to know."""

TextKind = Literal["lines", "paragraphs", "records"]
"""What a row is: a line or a paragraph of a text file, or a record of any other format."""

Columns = dict[str, ColumnKind]
Record = tuple[int, Mapping[str, Any]]
"""A row: its 1-based number in the file, and its values by column."""


class DatasetError(ValueError):
    """A dataset that cannot be read: one line that names the file, the place and what was expected."""


@dataclass(frozen=True)
class Metadata:
    """What a dataset is, before its rows are read.

    Attributes:
      path: the path, folder or pattern as given.
      files: paths relative to the data path, in reading order; the file's own name if there is one file.
      format: "text", "jsonl", "json", "csv", "tsv" or "parquet".
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


class BadRows:
    """Stops at the first bad row of one file, or counts bad rows and goes on.

    Args:
      path: the file, as named in errors.
      name: the file, as named in the list of skipped rows.
      skipped: where skipped rows are written; None stops at the first one.
    """

    def __init__(self, path: Path, name: str, skipped: list[tuple[str, int, str]] | None) -> None:
        self.path = path
        self.name = name
        self.skipped = skipped

    def report(self, row: int, reason: str) -> None:
        """Records that `row` (1-based) cannot be used.

        Raises:
          DatasetError: bad rows are not to be skipped.
        """
        if self.skipped is None:
            raise DatasetError(f"{self.path}: row {row}: {reason}")
        self.skipped.append((self.name, row, reason))


@runtime_checkable
class Format(Protocol):
    """One family of files; each module of this package has one."""

    def columns(self, path: Path) -> Columns:
        """Columns of a file in file order, empty for plain text. Raises DatasetError if the file holds no row."""
        ...

    def records(self, path: Path, bad: BadRows, fields: Sequence[str]) -> Iterator[Record]:
        """Rows of a file in file order, in bounded memory where the format allows it.

        Args:
          path: the file.
          bad: told of every row that cannot be read.
          fields: columns that the caller looks at; a format may leave out the others where that saves work.
        """
        ...


def sampled_columns(path: Path, fmt: Format) -> Columns:
    """Learns columns from the first rows of a file, for formats whose rows name their own columns.

    A column that holds text in one row and null in another holds text; broken rows are passed over here, since the
    stream reports them with their numbers.

    Raises:
      DatasetError: no row can be read.
    """
    skipped: list[tuple[str, int, str]] = []
    columns: Columns = {}
    seen = 0
    for seen, (_, values) in enumerate(fmt.records(path, BadRows(path, path.name, skipped), ()), start=1):
        for name, value in values.items():
            kind = kind_of(value)
            if columns.setdefault(name, kind) == "other":
                columns[name] = kind
        if seen == SAMPLE_ROWS:
            break
    if seen == 0 and skipped:
        _, row, reason = skipped[0]
        raise DatasetError(f"{path}: row {row}: {reason}")
    if seen == 0:
        raise DatasetError(f"{path}: no rows; expected at least one")
    return columns


def kind_of(value: Any) -> ColumnKind:
    """Kind of one parsed value."""
    if isinstance(value, str):
        return "string"
    return "list" if isinstance(value, list) else "other"


def encoding_error(path: Path) -> DatasetError:
    """Names the first byte of a file that is not UTF-8; for a file whose decoding has failed."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    offset = 0
    with path.open("rb") as file:
        head = file.read(2)
        file.seek(0)
        while block := file.read(1 << 20):
            pending = len(decoder.getstate()[0])
            try:
                decoder.decode(block)
            except UnicodeDecodeError as error:
                offset += error.start - pending
                byte = error.object[error.start]
                break
            offset += len(block)
        else:
            offset -= len(decoder.getstate()[0])
            byte = decoder.getstate()[0][0]
    utf16 = head in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    hint = "it begins like UTF-16; convert it to UTF-8" if utf16 else "convert it to UTF-8"
    return DatasetError(f"{path}: byte {offset} (0x{byte:02x}) is not UTF-8; {hint}")
