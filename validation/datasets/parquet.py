"""Apache Parquet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from validation.datasets.base import BadRows, ColumnKind, Columns, DatasetError, Record

BATCH_ROWS = 10_000


class Parquet:
    """Parquet files, read in batches."""

    def columns(self, path: Path) -> Columns:
        """Columns and their kinds from the file's own schema."""
        try:
            with pq.ParquetFile(path) as file:
                schema, rows = file.schema_arrow, file.metadata.num_rows
        except (pa.ArrowException, OSError) as error:
            raise _unreadable(path, error) from None
        if rows == 0:
            raise DatasetError(f"{path}: no rows; expected at least one")
        return {field.name: _kind(field.type) for field in schema}

    def records(self, path: Path, bad: BadRows, fields: Sequence[str]) -> Iterator[Record]:
        """Rows with their 1-based numbers."""
        done = 0
        try:
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(BATCH_ROWS, columns=list(fields)):
                    yield from enumerate(batch.to_pylist(), start=done + 1)
                    done += batch.num_rows
        except UnicodeDecodeError as error:
            raise DatasetError(f"{path}: after row {done}: a string is not UTF-8: {error.reason}") from None
        except (pa.ArrowException, OSError) as error:
            raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> DatasetError:
    reason = " ".join(str(error).split())
    return DatasetError(f"{path}: not a whole Parquet file: {reason}")


def _kind(kind: pa.DataType) -> ColumnKind:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return "string"
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    return "list" if is_list and pa.types.is_struct(kind.value_type) else "other"
