"""One dataset of one or many files: what it is, and a stream of its rows as text."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

import pyarrow as pa

from validation.datasets.base import BadRows, Columns, Format, Metadata
from validation.datasets.files import find_files, shown_path
from validation.datasets.opening import one_format, reader
from validation.datasets.schemas import BadValue, Schema, recognise
from validation.datasets.sources import Source
from validation.datasets.storage import DatasetError
from validation.datasets.text import Text

ROWS = pa.schema([("file", pa.int32()), ("row", pa.int64()), ("text", pa.large_string()), ("trained_from", pa.int32())])


class Dataset:
    """A dataset ready to be streamed; made by `open_dataset`.

    Attributes:
      metadata: files, format and schema.
      skipped: bad rows of the last stream as (file, row, reason), where bad rows are skipped.
    """

    def __init__(
        self, metadata: Metadata, sources: tuple[Source, ...], fmt: Format, schema: Schema, *, skip_bad_rows: bool
    ) -> None:
        self.metadata = metadata
        self.skipped: list[tuple[str, int, str]] = []
        self._sources = sources
        self._format = fmt
        self._schema = schema
        self._skip_bad_rows = skip_bad_rows

    def stream(self, chunk_rows: int = 100_000) -> Iterator[pa.RecordBatch]:
        """Reads all files in order, from the beginning at each call.

        Args:
          chunk_rows: rows of a batch; the last batch may be shorter.

        Yields:
          Batches with the columns `file` (int32, index into `metadata.files`), `row` (int64, 1-based: the line for text
          and JSON Lines, the record elsewhere), `text` (large_string) and `trained_from` (int32, characters).

        Raises:
          DatasetError: a file or row cannot be read, or no row is left after skipping bad ones.
          ValueError: chunk_rows is not positive.
        """
        if chunk_rows < 1:
            raise ValueError(f"chunk_rows: {chunk_rows}; expected at least 1")
        return self._batches(chunk_rows)

    def _batches(self, chunk_rows: int) -> Iterator[pa.RecordBatch]:
        self.skipped.clear()
        rows: list[tuple[int, int, str, int]] = []
        any_row = False
        for row in self._rows():
            rows.append(row)
            any_row = True
            if len(rows) == chunk_rows:
                yield _batch(rows)
                rows = []
        if rows:
            yield _batch(rows)
        if not any_row:
            if not self.skipped:
                raise DatasetError(f"{self.metadata.path}: no rows any more; has a file become shorter?")
            file, row, reason = self.skipped[0]
            raise DatasetError(f"{self.metadata.path}: every row is bad; the first is row {row} of {file}: {reason}")

    def local_paths(self) -> tuple[str, ...]:
        """Paths of the files on the local disk, so that nobody writes over them."""
        return tuple(source.path for source in self._sources if source.storage.local)

    def _rows(self) -> Iterator[tuple[int, int, str, int]]:
        for index, (source, name) in enumerate(zip(self._sources, self.metadata.files, strict=True)):
            bad = BadRows(source, name, self.skipped if self._skip_bad_rows else None)
            for row, values in self._format.records(source, bad, self._schema.fields):
                try:
                    text, trained_from = self._schema.render(values)
                    text.encode()
                except BadValue as error:
                    bad.report(row, str(error))
                except UnicodeEncodeError as error:
                    bad.report(row, f"half of a surrogate pair at character {error.start}, which is not text")
                else:
                    yield (index, row, "", 0) if text.isspace() else (index, row, text, trained_from)


def open_dataset(
    path: str | os.PathLike[str],
    *,
    text_column: str | None = None,
    skip_bad_rows: bool = False,
    storage: Mapping[str, str] | None = None,
) -> Dataset:
    """Opens text data and finds out what its rows are, reading only the beginning of each file.

    Args:
      path: a file, a folder (searched with its subfolders), a glob pattern or a URI, of any format that `open_table` reads.
      text_column: the column to use as plain text, whatever the schema; None recognises the schema from the columns.
      skip_bad_rows: whether rows that cannot be read are counted in `Dataset.skipped` instead of stopping the stream.
      storage: options of remote storage (see `open_table`).

    Returns:
      The dataset.

    Raises:
      DatasetError: nothing to read, an unknown format, an unreadable file, no text column, or files
        of different schemas.
    """
    given = os.fspath(path)
    sources, name = one_format(find_files(given, storage))
    if name == "text" and text_column is not None:
        raise DatasetError(f"{sources[0]}: no column {text_column!r}; plain text has no columns")
    fmt = reader(name, sources)
    found = [fmt.columns(source) for source in sources]
    columns = {column: None for columns in found for column in columns}
    schema = Schema("plain", ("text",)) if name == "text" else _one_schema(sources, found, text_column)
    metadata = Metadata(
        path=shown_path(given),
        files=tuple(source.name for source in sources),
        format=name,
        schema=schema.name,
        fields=schema.fields if columns else (),
        columns=tuple(columns),
        bytes=sum(source.size for source in sources),
        text_kind=fmt.kind if isinstance(fmt, Text) else "records",
    )
    return Dataset(metadata, sources, fmt, schema, skip_bad_rows=skip_bad_rows)


def _one_schema(sources: tuple[Source, ...], columns: list[Columns], text_column: str | None) -> Schema:
    """The schema that all files share; of two that differ in an optional field, the one that has it."""
    schemas = [recognise(source, here, text_column) for source, here in zip(sources, columns, strict=True)]
    first = schemas[0]
    for source, schema in zip(sources, schemas, strict=True):
        if schema.required() != first.required():
            ours, theirs = (f"{one.name} ({', '.join(one.fields)})" for one in (first, schema))
            raise DatasetError(f"{sources[0]} holds {ours} and {source} holds {theirs}; expected one schema")
    return max(schemas, key=lambda schema: len(schema.fields))


def _batch(rows: list[tuple[int, int, str, int]]) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays(
        [pa.array(column, field.type) for column, field in zip(zip(*rows, strict=True), ROWS, strict=True)], schema=ROWS
    )
