"""`python -m validation.datasets DATA`: what a dataset is, and its first rows."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Annotated, Literal

import pyarrow as pa
import tyro
from rich.console import Console
from rich.table import Table as Grid

from validation.datasets.storage import DatasetError
from validation.datasets.table import SAMPLE_ROWS, Table, open_table
from validation.datasets.values import shortened

BAD_INPUT, INTERRUPTED = 2, 130


@dataclass(frozen=True)
class Options:
    """What is this dataset? Reads the beginning of each file (or its footer) and prints what was found."""

    data: Annotated[str, tyro.conf.Positional]
    """File, folder, glob or URI (s3://…) of CSV, TSV, JSON, JSONL, Parquet, HDF5, Arrow, Feather, Excel or plain text."""
    rows: int = 5
    """First rows to print."""
    kind: Literal["text", "tabular", "time series"] | None = None
    """Kind of data, where it is not recognised."""
    sheet: str | None = None
    """Sheet of an Excel workbook."""
    sample_rows: int = SAMPLE_ROWS
    """Rows from which the types of CSV, TSV and JSON Lines are learned."""
    skip_bad_rows: bool = False
    """Leave out first rows that cannot be read instead of stopping."""


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    options = tyro.cli(
        Options, prog="python -m validation.datasets", args=arguments, config=(tyro.conf.FlagCreatePairsOff,)
    )
    errors = Console(stderr=True, soft_wrap=True, highlight=False, markup=False, emoji=False)
    if options.rows < 0:
        errors.print(f"error: --rows is {options.rows}, expected 0 or more")
        return BAD_INPUT
    try:
        table = open_table(
            options.data,
            kind=options.kind,
            skip_bad_rows=options.skip_bad_rows,
            sample_rows=options.sample_rows,
            sheet=options.sheet,
        )
        console = Console(highlight=False, markup=False, emoji=False, soft_wrap=not sys.stdout.isatty())
        _print_metadata(table, console, _schema_line(table) if options.sheet is None else "")
        if options.rows:
            _print_rows(table, options.rows, console)
    except KeyboardInterrupt:
        errors.print("\nInterrupted.")
        return INTERRUPTED
    except ValueError as error:
        errors.print(f"error: {error}")
        return BAD_INPUT
    return 0


def readable_bytes(size: int) -> str:
    """A number of bytes as people write it."""
    value = float(size)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def _print_metadata(table: Table, console: Console, schema: str) -> None:
    found = table.metadata
    compression = f", {found.compression}" if found.compression else ""
    rows = f"{found.rows:,}" if found.rows_exact else f"about {found.rows:,} (estimated from the first rows)"
    files = f"{len(found.files)}: {', '.join(found.files[:3])}{', …' if len(found.files) > 3 else ''}"
    lines = {
        "data": found.path,
        "format": found.format + compression,
        "files": files,
        "kind": found.kind,
        "rows": rows,
        "stored": readable_bytes(found.bytes),
        "memory": f"about {readable_bytes(found.memory_bytes)} for all rows as Arrow columns",
        "schema": schema,
    }
    for name, value in lines.items():
        if value:
            console.print(f"{name:8}{value}")
    for note in found.notes:
        console.print(f"note    {note}")
    console.print(f"columns {len(found.columns)}")
    width = max(len(name) for name, _ in found.columns)
    for name, kind in found.columns:
        console.print(f"  {name:{width}}  {kind}")


def _schema_line(table: Table) -> str:
    """What the text view would train on, where there is one."""
    from validation.datasets.dataset import open_dataset

    if table.metadata.format == "text":
        return ""
    try:
        found = open_dataset(table.metadata.path).metadata
    except DatasetError:
        return ""
    return f"{found.schema} ({', '.join(found.fields)})"


def _print_rows(table: Table, rows: int, console: Console) -> None:
    chunk = next(table.stream(rows), None)
    if chunk is None:
        raise DatasetError(f"{table.metadata.path}: no row can be read; the first problem: {table.skipped[:1]}")
    grid = Grid("row", *chunk.data.schema.names, box=None)
    columns = [[_shown(value) for value in column] for column in chunk.data.columns]
    for number, *row in zip(chunk.row.tolist(), *columns, strict=True):
        grid.add_row(str(number), *row)
    console.print(grid)


def _shown(value: pa.Scalar) -> str:
    """A value in a cell; Arrow's own words where Python has no such value, as a time before the year 1."""
    if not value.is_valid:
        return ""
    if pa.types.is_temporal(value.type):
        text = str(value.cast(pa.string()))
    else:
        try:
            found = value.as_py()
        except (ValueError, OverflowError):
            found = str(value)
        text = found if isinstance(found, str) else shortened(found)
    line = " ".join(text.split())
    return line if len(line) <= 40 else line[:37] + "..."


if __name__ == "__main__":
    sys.exit(main())
