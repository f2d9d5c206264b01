"""HDF5: one table (a compound dataset), or datasets of equal length as columns.

Nothing outside the file is ever opened: external links, external storage, virtual datasets and soft links are refused.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
import pyarrow as pa

from validation.datasets.base import PIECE_BYTES, BadRows, Columns, Inspection, Piece, Record, Request
from validation.datasets.columnar import checked_schema, columns_of, good_piece, records_of
from validation.datasets.heaps import check_heaps
from validation.datasets.sources import Source
from validation.datasets.storage import DatasetError, one_line

MAX_OBJECTS = 10_000
MAX_MATRIX_COLUMNS = 1_024
MAX_BLOCK_BYTES = 256 << 20
"""Largest compressed block that is unpacked: HDF5 unpacks blocks whole."""

MAX_EXPANSION = 10_000
"""Bytes of values per stored byte; gzip reaches about 1,000."""

FREE_BYTES = 64 << 20
"""Values up to this size may be stored in any number of bytes, as those of an array of zeros."""

PROBE_ROWS = 256
MOST_ROWS = 16_384


@dataclass(frozen=True)
class _Column:
    """Where the values of a column lie: a dataset, a field of a compound dataset, or a column of a matrix."""

    name: str
    dataset: str
    type: pa.DataType
    field: str | None = None
    place: int | None = None


class Hdf5:
    """HDF5 files, read in slices of rows."""

    def inspect(self, source: Source, sample_rows: int) -> Inspection:
        """Columns and rows as the shapes of the datasets state them."""
        with _opened(source) as file:
            columns, rows, notes = _table(source, file)
            schema = _schema(source, columns)
        return Inspection(schema, rows, True, notes=notes)

    def columns(self, source: Source) -> Columns:
        """Columns and their kinds from the types of the datasets."""
        with _opened(source) as file:
            columns, rows, _ = _table(source, file)
        return columns_of(source, self, _schema(source, columns), rows)

    def records(self, source: Source, bad: BadRows, fields: Sequence[str]) -> Iterator[Record]:
        """Rows with their 1-based numbers."""
        with _opened(source) as file:
            columns, _, _ = _table(source, file)
        return records_of(self, source, bad, _schema(source, columns), fields)

    def pieces(self, source: Source, bad: BadRows, request: Request) -> Iterator[Piece]:
        """Slices of rows, small where rows are large."""
        with _opened(source) as file:
            found, rows, _ = _table(source, file)
            by_name = {column.name: column for column in found}
            # a file may lack all of them, and still tells how many rows it has
            columns = [by_name[name] for name in request.columns if name in by_name] or found[:1]
            step = min(request.rows, PROBE_ROWS)
            start = 0
            while start < rows:
                stop = min(rows, start + step)
                _check_lengths(source, file, columns, start, stop)
                data = _batch(file, columns, start, stop)
                yield good_piece(start + 1, data, bad)
                start += data.num_rows
                row_bytes = max(1.0, data.nbytes / data.num_rows)
                step = max(1, min(request.rows, MOST_ROWS, 4 * step, int(PIECE_BYTES / row_bytes)))


@contextmanager
def _opened(source: Source) -> Iterator[h5py.File]:
    place = source.path if source.storage.local else source.open()
    try:
        with h5py.File(place, "r") as file:
            yield file
    except DatasetError:
        raise
    except (OSError, RuntimeError, LookupError, ValueError, TypeError, NotImplementedError, MemoryError) as error:
        raise DatasetError(f"{source}: not a whole HDF5 file: {one_line(error)}") from None


def _table(source: Source, file: h5py.File) -> tuple[list[_Column], int, tuple[str, ...]]:
    """Columns of a file, its number of rows, and notes."""
    datasets = dict(_datasets(source, file, "", set()))
    tables = [name for name, one in datasets.items() if one.dtype.names and one.ndim == 1]
    if len(tables) > 1:
        raise DatasetError(f"{source}: {len(tables)} tables: {', '.join(tables[:5])}; expected one")
    used = {name: datasets[name] for name in tables} or {name: one for name, one in datasets.items() if one.ndim > 0}
    if not used:
        raise DatasetError(f"{source}: no dataset with rows; expected at least one")
    lengths = {name: one.shape[0] for name, one in used.items()}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name} has {length}" for name, length in list(lengths.items())[:5])
        raise DatasetError(f"{source}: datasets of different lengths: {listed}; expected equal ones")
    if any(_is_variable(one.dtype) for one in used.values()):
        check_heaps(source)
    columns = [column for name, one in used.items() for column in _columns(source, name, one, alone=len(used) == 1)]
    left = [name for name in datasets if name not in used]
    notes = (f"not read: {', '.join(left[:5])}{', …' if len(left) > 5 else ''}",) if left else ()
    return columns, next(iter(lengths.values())), notes


def _datasets(source: Source, group: h5py.Group, prefix: str, seen: set[int]) -> Iterator[tuple[str, h5py.Dataset]]:
    """Every dataset below a group, checked; links that leave the group are refused."""
    for key in group:
        name = f"{prefix}{key}"
        link = group.get(key, getlink=True)
        if isinstance(link, h5py.ExternalLink):
            raise DatasetError(f"{source}: {name!r} is a link to another file; external links are not followed")
        if isinstance(link, h5py.SoftLink):
            raise DatasetError(f"{source}: {name!r} is a soft link; links are not followed")
        one = group[key]
        address = h5py.h5o.get_info(one.id).addr  # pyright: ignore[reportAttributeAccessIssue]
        if address in seen:
            continue  # a second name of what has been read
        seen.add(address)
        if len(seen) > MAX_OBJECTS:
            raise DatasetError(f"{source}: more than {MAX_OBJECTS} objects; expected one table")
        if isinstance(one, h5py.Group):
            yield from _datasets(source, one, f"{name}/", seen)
        elif isinstance(one, h5py.Dataset):
            _check(source, name, one)
            yield name, one


def _check(source: Source, name: str, one: h5py.Dataset) -> None:
    """Refuses values that lie elsewhere, and claims of more values than the stored bytes can hold."""
    if one.is_virtual:
        raise DatasetError(f"{source}: {name!r} is a virtual dataset of other files; expected values in this file")
    if one.external:
        raise DatasetError(f"{source}: {name!r} keeps its values in other files; expected values in this file")
    if one.shape is None:
        raise DatasetError(f"{source}: {name!r} is empty; expected an array")
    claimed, stored = math.prod(one.shape) * one.dtype.itemsize, one.id.get_storage_size()
    if claimed > max(FREE_BYTES, MAX_EXPANSION * stored):
        raise DatasetError(
            f"{source}: {name!r} claims {claimed} bytes of values and stores {stored}; expected real data"
        )
    block = math.prod(one.chunks) * one.dtype.itemsize if one.chunks else 0
    if block > MAX_BLOCK_BYTES:
        limit = MAX_BLOCK_BYTES >> 20
        raise DatasetError(f"{source}: {name!r} is stored in blocks of {block} bytes; expected at most {limit} MiB")


def _columns(source: Source, name: str, one: h5py.Dataset, *, alone: bool) -> list[_Column]:
    if one.dtype.names:
        if one.ndim != 1:
            raise DatasetError(f"{source}: {name!r} is a table of {one.ndim} dimensions; expected 1")
        return [
            _Column(field, name, _type(source, f"{name}/{field}", one.dtype[field]), field=field)
            for field in one.dtype.names
        ]
    kind = _type(source, name, one.dtype)
    if one.ndim == 1:
        return [_Column(name, name, kind)]
    width = math.prod(one.shape[1:])
    if alone and one.ndim == 2 and 1 <= width <= MAX_MATRIX_COLUMNS:
        return [_Column(f"{name}_{place}", name, kind, place=place) for place in range(width)]
    return [_Column(name, name, pa.list_(kind, width))]


def _type(source: Source, name: str, dtype: np.dtype) -> pa.DataType:
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        return pa.list_(_type(source, name, base), math.prod(shape))
    if h5py.check_string_dtype(dtype) is not None:
        return pa.string()
    if (base := h5py.check_vlen_dtype(dtype)) is not None:
        return pa.list_(_type(source, name, np.dtype(base)))
    if dtype.kind in "biuf" and dtype.itemsize <= 8:
        return pa.from_numpy_dtype(dtype.newbyteorder("="))
    raise DatasetError(f"{source}: {name!r} holds {dtype}; expected integers, floats, booleans or strings")


def _schema(source: Source, columns: list[_Column]) -> pa.Schema:
    return checked_schema(source, pa.schema([(column.name, column.type) for column in columns]))


def _check_lengths(source: Source, file: h5py.File, columns: list[_Column], start: int, stop: int) -> None:
    """Refuses strings and lists that claim more bytes than the file has: HDF5 would ask for the memory first.

    Each is stored as its length (4 bytes), and the place of its bytes in a heap of the same file. Blocks that are
    compressed hide their lengths; there HDF5 is left to find the damage.
    """
    for name in {column.dataset for column in columns}:
        one: Any = file[name]
        place = one.id.get_offset()
        if not _is_variable(one.dtype) or place is None or one.id.get_storage_size() != 16 * one.size:
            continue
        each = 16 * (one.size // one.shape[0])
        with source.open() as stored:
            stored.seek(place + start * each)
            lengths = np.frombuffer(stored.read((stop - start) * each), "<u4")[::4]
        if lengths.size and int(lengths.sum(dtype=np.int64)) > max(source.size, MAX_BLOCK_BYTES):
            raise DatasetError(
                f"{source}: {name!r} claims {lengths.sum(dtype=np.int64)} bytes of values from row {start + 1} on; "
                f"expected no more than the file has"
            )


def _is_variable(dtype: np.dtype) -> bool:
    """Whether values are kept in a heap: strings and lists of any length, also as fields of a table."""
    if dtype.names:
        return any(_is_variable(dtype[name]) for name in dtype.names)
    text = h5py.check_string_dtype(dtype)
    return (text is not None and text.length is None) or h5py.check_vlen_dtype(dtype) is not None


def _batch(file: h5py.File, columns: list[_Column], start: int, stop: int) -> pa.RecordBatch:
    read: dict[str, Any] = {}
    arrays = []
    for column in columns:
        if column.dataset not in read:
            read[column.dataset] = file[column.dataset][start:stop]  # pyright: ignore[reportIndexIssue, reportArgumentType]
        values = read[column.dataset]
        if column.field is not None:
            values = values[column.field]
        if column.place is not None:
            values = values[:, column.place]
        arrays.append(_array(values, column.type))
    return pa.RecordBatch.from_arrays(arrays, names=[column.name for column in columns])


def _array(values: np.ndarray, kind: pa.DataType) -> pa.Array:
    """Values as Arrow has them; text stays bytes marked as text, so that bytes that are not UTF-8 are found by row."""
    if pa.types.is_fixed_size_list(kind):
        return pa.FixedSizeListArray.from_arrays(_array(values.reshape(-1), kind.value_type), kind.list_size)
    if pa.types.is_string(kind):
        encoded = [value.encode() if isinstance(value, str) else bytes(value) for value in values]
        return pa.array(encoded, pa.binary()).view(pa.string())
    if pa.types.is_list(kind):
        return pa.array([one.tolist() for one in values], kind)
    return pa.array(np.ascontiguousarray(values.astype(values.dtype.newbyteorder("="), copy=False)), kind)
