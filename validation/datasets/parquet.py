"""Apache Parquet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.parquet as pq

from validation.datasets.base import PIECE_BYTES, BadRows, Columns, Inspection, Piece, Record, Request, Span
from validation.datasets.columnar import checked_schema, columns_of, good_piece, records_of
from validation.datasets.lines import MAX_ROW_BYTES
from validation.datasets.sources import Source
from validation.datasets.storage import DatasetError, one_line

SPAN_ROWS = 1_000_000
"""Row groups are gathered into parts of about so many rows."""

PROBE_ROWS = 256


class Parquet:
    """Parquet files, read in batches."""

    def inspect(self, source: Source, sample_rows: int) -> Inspection:
        """Columns, types and rows as the footer states them."""
        with _opened(source) as file:
            schema, spans = checked_schema(source, file.schema_arrow), _spans(file.metadata)
        return Inspection(schema, sum(span.rows for span in spans), True, spans)

    def columns(self, source: Source) -> Columns:
        """Columns and their kinds from the file's own schema."""
        with _opened(source) as file:
            schema, spans = checked_schema(source, file.schema_arrow), _spans(file.metadata)
        return columns_of(source, self, schema, sum(span.rows for span in spans))

    def records(self, source: Source, bad: BadRows, fields: Sequence[str]) -> Iterator[Record]:
        """Rows with their 1-based numbers."""
        with _opened(source) as file:
            schema = file.schema_arrow
        return records_of(self, source, bad, schema, fields)

    def pieces(self, source: Source, bad: BadRows, request: Request) -> Iterator[Piece]:
        """Batches as Arrow decodes them, small where rows are large."""
        row = request.span.row if request.span else 1
        with _opened(source) as file:
            spans = [request.span] if request.span else _spans(file.metadata)
            there = set(file.schema_arrow.names)
            columns = [name for name in request.columns if name in there]
            for span in spans:
                for batch in _batches(source, file, span, columns, request.rows):
                    if batch.num_rows:
                        yield good_piece(row, batch, bad)
                    row += batch.num_rows
                if row != span.row + span.rows:
                    held = row - span.row
                    raise DatasetError(
                        f"{source}: the rows from {span.row} on: {span.rows} are claimed, {held} are there"
                    )


def _batches(
    source: Source, file: pq.ParquetFile, span: Span, columns: list[str], most: int
) -> Iterator[pa.RecordBatch]:
    """Rows of a run of row groups; an error names the rows that were reached."""
    groups = list(range(span.first, span.stop))
    done = 0
    try:
        for batch in file.iter_batches(
            _batch_rows(source, file, groups, columns, most), row_groups=groups, columns=columns
        ):
            yield batch
            done += batch.num_rows
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        raise _unreadable(source, error, f"after row {span.row + done - 1}: ") from None


def _batch_rows(source: Source, file: pq.ParquetFile, groups: list[int], columns: list[str], most: int) -> int:
    """Rows of a batch of about PIECE_BYTES at most, judged by the footer and by the first rows.

    The footer alone would not do: a dictionary holds few long values for many rows.

    Raises:
      DatasetError: rows are larger than anything that is read.
    """
    footer = [file.metadata.row_group(group) for group in groups]
    rows = sum(group.num_rows for group in footer)
    for group, number in zip(footer, groups, strict=True):
        if group.total_byte_size > MAX_ROW_BYTES * max(1, group.num_rows):
            raise DatasetError(
                f"{source}: row group {number} claims {group.total_byte_size} bytes for {group.num_rows} rows; "
                f"expected at most {MAX_ROW_BYTES >> 20} MiB a row"
            )
    stated = max((group.total_byte_size / max(1, group.num_rows) for group in footer), default=0.0)
    most = min(most, _fitting(stated))
    if rows <= PROBE_ROWS:
        return most
    probe = next(file.iter_batches(min(PROBE_ROWS, most), row_groups=groups, columns=columns), None)
    if probe is None or probe.num_rows == 0:
        return most
    return min(most, _fitting(probe.nbytes / probe.num_rows))


def _fitting(row_bytes: float) -> int:
    return max(1, int(PIECE_BYTES / max(1.0, row_bytes)))


@contextmanager
def _opened(source: Source) -> Iterator[pq.ParquetFile]:
    with source.open_arrow() as stored:
        try:
            with pq.ParquetFile(stored, page_checksum_verification=True, pre_buffer=not source.storage.local) as file:
                yield file
        except DatasetError:
            raise
        except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
            raise _unreadable(source, error) from None


def _unreadable(source: Source, error: Exception, place: str = "") -> DatasetError:
    if isinstance(error, DatasetError):
        return error
    reason = one_line(error)
    if "crypt" in reason.lower():
        return DatasetError(f"{source}: encrypted Parquet; expected a file that needs no key ({reason})")
    return DatasetError(f"{source}: {place}not a whole Parquet file: {reason}")


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
