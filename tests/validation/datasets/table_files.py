"""One table written in every format by writers that are not ours."""

from __future__ import annotations

import csv
import gzip
import json

import h5py
import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import feather

TABLE = pa.table(
    {
        "id": pa.array(range(1, 251), pa.int64()),
        "size": pa.array([number / 4 + 0.125 for number in range(250)], pa.float64()),
        "good": pa.array([number % 3 == 0 for number in range(250)]),
        "name": pa.array([f"näme, {number}\n" if number % 5 == 0 else f"n{number}" for number in range(250)]),
    }
)


def write_csv(table, path, delimiter=","):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(table.column_names)
        writer.writerows(
            [str(value).lower() if isinstance(value, bool) else value for value in row.values()]
            for row in table.to_pylist()
        )


def write_jsonl(table, path):
    path.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()), encoding="utf-8")


def write_stream(table, path):
    with pa.ipc.new_stream(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=100)


def write_file(table, path):
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=100)


def write_hdf5(table, path):
    with h5py.File(path, "w", track_order=True) as file:
        for name, column in zip(table.column_names, table.columns, strict=True):
            file[name] = column.to_pylist() if pa.types.is_string(column.type) else column.to_numpy()


def write_excel(table, path):
    book = openpyxl.Workbook()
    sheet = book.active
    sheet.append(table.column_names)
    for row in table.to_pylist():
        sheet.append(list(row.values()))
    book.save(path)


WRITERS = {
    "csv": write_csv,
    "tsv": lambda table, path: write_csv(table, path, "\t"),
    "json": lambda table, path: path.write_text(json.dumps(table.to_pylist()), encoding="utf-8"),
    "jsonl": write_jsonl,
    "parquet": lambda table, path: pq.write_table(table, path, row_group_size=90),
    "arrow": write_file,
    "arrows": write_stream,
    "feather": feather.write_feather,
    "h5": write_hdf5,
    "xlsx": write_excel,
}
NAMES = {"arrows": "arrow stream", "feather": "arrow", "h5": "hdf5", "xlsx": "excel"}
LINES = ("csv", "tsv", "jsonl")


def write(table, path):
    """Writes a table in the format of the path's suffix, compressed by a further suffix."""
    kind, _, compression = path.name.split(".", 1)[1].partition(".")
    if not compression:
        WRITERS[kind](table, path)
        return
    plain = path.with_name(f"plain.{kind}")
    WRITERS[kind](table, plain)
    raw = plain.read_bytes()
    plain.unlink()
    path.write_bytes(gzip.compress(raw) if compression == "gz" else pa.Codec("zstd").compress(raw, asbytes=True))


def rows_of(chunks):
    """Every row of some chunks as (file, row, values)."""
    return [
        (chunk.file, row, tuple(values.values()))
        for chunk in chunks
        for row, values in zip(chunk.row.tolist(), chunk.data.to_pylist(), strict=True)
    ]
