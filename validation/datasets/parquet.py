"""Apache Parquet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.parquet as pq

from validation.datasets.base import PIECE_BYTES, BadRows, Columns, Inspection, Piece, Record, Request, Span
from validation.datasets.columnar import checked_schema, columns_of, good_piece, records_of
from validation.datasets.sources import Source
from validation.datasets.storage import DatasetError, one_line

SPAN_ROWS = 1_000_000
"""Row groups are gathered into parts of about so many rows."""

PROBE_ROWS = 256
FEWEST_ROWS = 64


class Parquet:
    """Parquet files, read in batches."""

    def inspect(self, source: Source, sample_rows: int) -> Inspection:
        """Columns, types and rows as the footer states them."""
        with _opened(source) as file:
            schema, rows = checked_schema(source, file.schema_arrow), file.metadata.num_rows
            spans = _spans(file.metadata)
            held = sum(span.rows for span in spans)
            if held != rows:
                raise DatasetError(f"{source}: the footer claims {rows} rows and its row groups {held}")
        return Inspection(schema, rows, True, spans)

    def columns(self, source: Source) -> Columns:
        """Columns and their kinds from the file's own schema."""
        with _opened(source) as file:
            schema, rows = checked_schema(source, file.schema_arrow), file.metadata.num_rows
        return columns_of(source, self, schema, rows)

    def records(self, source: Source, bad: BadRows, fields: Sequence[str]) -> Iterator[Record]:
        """Rows with their 1-based numbers."""
        with _opened(source) as file:
            schema = file.schema_arrow
        return records_of(self, source, bad, schema, fields)

    def pieces(self, source: Source, bad: BadRows, request: Request) -> Iterator[Piece]:
        """Batches as Arrow decodes them, small where rows are large."""
        with _opened(source) as file:
            span = request.span or Span(0, file.num_row_groups, 1, file.metadata.num_rows)
            columns = [name for name in request.columns if name in file.schema_arrow.names]
            row = span.row
            groups = list(range(span.first, span.stop))
            size = batch_rows(file, groups, columns, request.rows)
            for batch in file.iter_batches(size, row_groups=groups, columns=columns):
                if batch.num_rows:
                    yield good_piece(row, batch, bad)
                row += batch.num_rows
        if row != span.row + span.rows:
            raise DatasetError(f"{source}: row groups {span.first} to {span.stop - 1} claim {span.rows} rows and hold {row - span.row}")


def batch_rows(file: pq.ParquetFile, groups: list[int], columns: list[str], most: int) -> int:
    """Rows of a batch of at most about PIECE_BYTES; a dictionary can hold few long values for many rows.

    Args:
      file: the open file.
      groups: row groups that will be read.
      columns: columns that will be read.
      most: rows that are wanted.
    """
    rows = sum(file.metadata.row_group(group).num_rows for group in groups)
    if rows <= PROBE_ROWS:
        return most
    probe = next(file.iter_batches(PROBE_ROWS, row_groups=groups, columns=columns), None)
    if probe is None or probe.num_rows == 0:
        return most
    return min(most, max(FEWEST_ROWS, int(PIECE_BYTES * probe.num_rows / max(1, probe.nbytes))))


@contextmanager
def _opened(source: Source) -> Iterator[pq.ParquetFile]:
    with source.open_arrow() as stored:
        try:
            with pq.ParquetFile(stored, page_checksum_verification=True, pre_buffer=not source.storage.local) as file:
                yield file
        except DatasetError:
            raise
        except (pa.ArrowException, OSError, ValueError, NotImplementedError) as error:
            raise DatasetError(f"{source}: not a whole Parquet file: {one_line(error)}") from None


def _spans(metadata: pq.FileMetaData) -> tuple[Span, ...]:
    """Runs of row groups of about SPAN_ROWS rows."""
    spans: list[Span] = []
    first, row, rows = 0, 1, 0
    for group in range(metadata.num_row_groups):
        rows += metadata.row_group(group).num_rows
        if rows >= SPAN_ROWS or group == metadata.num_row_groups - 1:
            spans.append(Span(first, group + 1, row, rows))
            first, row, rows = group + 1, row + rows, 0
    return tuple(spans)
