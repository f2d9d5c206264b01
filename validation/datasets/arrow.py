"""Apache Arrow files and streams, and Feather (both versions)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import pyarrow as pa
from pyarrow import feather

from validation.datasets.base import BadRows, Columns, Inspection, Piece, Record, Request
from validation.datasets.columnar import checked_schema, columns_of, good_piece, records_of
from validation.datasets.records import estimate
from validation.datasets.sources import Source
from validation.datasets.storage import DatasetError, one_line

MAX_OLD_FEATHER_BYTES = 512 << 20


class Arrow:
    """Arrow data in its three containers, read batch by batch; the oldest, Feather version 1, is read whole.

    Args:
      container: "file" (also Feather version 2), "stream", or "feather 1".
    """

    def __init__(self, container: Literal["file", "stream", "feather 1"]) -> None:
        self.container = container

    def inspect(self, source: Source, sample_rows: int) -> Inspection:
        """Columns and types as the schema states them; a stream does not state its rows."""
        with self._opened(source) as (stated, batches, rows):
            schema = checked_schema(source, stated)
            first = [_sound(batch) for batch in itertools.islice(batches, 2)]
            read = sum(batch.num_rows for batch in first)
            size = sum(batch.nbytes for batch in first)
            if rows is not None or len(first) < 2:
                return Inspection(schema, read if rows is None else rows, True)
            return Inspection(schema, estimate(source, size, read), False)

    def columns(self, source: Source) -> Columns:
        """Columns and their kinds from the file's own schema."""
        with self._opened(source) as (stated, batches, rows):
            schema = checked_schema(source, stated)
            some = any(batch.num_rows for batch in batches) if rows is None else rows > 0
        return columns_of(source, self, schema, int(some))

    def records(self, source: Source, bad: BadRows, fields: Sequence[str]) -> Iterator[Record]:
        """Rows with their 1-based numbers."""
        with self._opened(source) as (schema, _, _):
            pass
        return records_of(self, source, bad, schema, fields)

    def pieces(self, source: Source, bad: BadRows, request: Request) -> Iterator[Piece]:
        """Batches as they were written, cut to the rows asked for."""
        row = 1
        with self._opened(source) as (schema, batches, _):
            names = [name for name in request.columns if name in schema.names]
            for batch in batches:
                chosen = _sound(batch).select(names)
                for start in range(0, batch.num_rows, request.rows):
                    yield good_piece(row + start, chosen.slice(start, request.rows), bad)
                row += batch.num_rows

    @contextmanager
    def _opened(self, source: Source) -> Iterator[tuple[pa.Schema, Iterator[pa.RecordBatch], int | None]]:
        """Schema, batches, and the number of rows where it is known."""
        try:
            with source.open_arrow() as stored:
                if self.container == "file":
                    with pa.ipc.open_file(stored) as file:
                        yield file.schema, map(file.get_batch, range(file.num_record_batches)), file.count_rows()
                elif self.container == "stream":
                    with pa.ipc.open_stream(_content(source, stored)) as stream:
                        yield stream.schema, iter(stream), None
                else:
                    table = _old_feather(source, stored)
                    yield table.schema, iter(table.to_batches()), table.num_rows
        except DatasetError:
            raise
        except (pa.ArrowException, OSError, ValueError, NotImplementedError, MemoryError) as error:
            raise DatasetError(f"{source}: not whole Arrow data: {one_line(error)}") from None


def _sound(batch: pa.RecordBatch) -> pa.RecordBatch:
    """A batch whose offsets and indices lie where they should: Arrow follows wrong ones anywhere in memory.

    Text that is not UTF-8 is left to be told by row.

    Raises:
      pa.ArrowInvalid: they do not.
    """
    try:
        batch.validate(full=True)
    except pa.ArrowInvalid:
        views = {pa.string(): pa.binary(), pa.large_string(): pa.large_binary()}
        for column in batch.columns:
            column.validate()
            (column.view(views[column.type]) if column.type in views else column).validate(full=True)
    return batch


def _content(source: Source, stored: pa.NativeFile) -> pa.NativeFile:
    return pa.PythonFile(source.stream(), mode="r") if source.compression else stored


def _old_feather(source: Source, stored: pa.NativeFile) -> pa.Table:
    if source.size > MAX_OLD_FEATHER_BYTES:
        raise DatasetError(
            f"{source}: Feather version 1 is read whole, up to {MAX_OLD_FEATHER_BYTES >> 20} MiB; expected version 2"
        )
    return feather.read_table(stored, memory_map=False)
