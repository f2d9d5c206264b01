"""Excel workbooks, .xlsx and .xls: the first visible sheet with cells, below its header."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, NamedTuple

import python_calamine as calamine

from validation.datasets.archive import check_archive
from validation.datasets.base import BadRows, Columns, Inspection, Piece, Record, Request
from validation.datasets.objects import infer_schema, object_pieces
from validation.datasets.records import sampled_columns
from validation.datasets.sources import Source
from validation.datasets.storage import DatasetError, one_line

MAX_FILE_BYTES = 512 << 20
HEADER_ROWS = 50
"""Rows in which a header is looked for: people write titles and notes above it."""

CELL_BYTES = 16


class _Sheet(NamedTuple):
    """The table of a workbook: values by sheet row below the header, and what is not part of it."""

    header: list[str]
    rows: list[tuple[int, list[Any]]]
    notes: tuple[str, ...]


class Excel:
    """Excel workbooks, read whole. A row's number counts from the header; blank rows are passed over, and counted.

    Args:
      sheet: the sheet to read; None reads the first visible one with cells.
    """

    def __init__(self, sheet: str | None = None) -> None:
        self.sheet = sheet

    def inspect(self, source: Source, sample_rows: int) -> Inspection:
        """Columns and types of all rows, since the workbook is read whole anyway."""
        sheet = _sheet(source, self.sheet)
        schema = infer_schema((row, dict(zip(sheet.header, values, strict=True))) for row, values in sheet.rows)
        return Inspection(schema, len(sheet.rows), True, notes=sheet.notes)

    def columns(self, source: Source) -> Columns:
        """Columns named by the header."""
        return sampled_columns(source, self)

    def records(self, source: Source, bad: BadRows, fields: Sequence[str]) -> Iterator[Record]:
        """Rows with their 1-based numbers below the header."""
        sheet = _sheet(source, self.sheet)
        return ((row, dict(zip(sheet.header, values, strict=True))) for row, values in sheet.rows)

    def pieces(self, source: Source, bad: BadRows, request: Request) -> Iterator[Piece]:
        """The same rows as typed columns."""
        size = CELL_BYTES * len(request.columns)
        records = ((row, values, size) for row, values in self.records(source, bad, ()))
        return object_pieces(records, bad, request)


def _sheet(source: Source, asked: str | None) -> _Sheet:
    book = _workbook(source)
    name, cells = _chosen(source, book, asked)
    above, header = _header(source, cells)
    rows = [
        (row, values)
        for row, values in enumerate((list(map(_value, line)) for line in cells[above + 1 :]), start=1)
        if any(value is not None for value in values)
    ]
    others = [other for other in book.sheet_names if other != name]
    notes = [f"sheet {name!r} is read, not {', '.join(map(repr, others))}"] if others else []
    if above:
        notes.append(f"row {above + 1} of the sheet is the header; rows above it are not read")
    return _Sheet(header, rows, tuple(notes))


def _chosen(source: Source, book: calamine.CalamineWorkbook, asked: str | None) -> tuple[str, list[list[Any]]]:
    """Name and cells of the sheet to read."""
    if asked is not None and asked not in book.sheet_names:
        raise DatasetError(f"{source}: no sheet {asked!r}; sheets: {', '.join(book.sheet_names)}")
    shown = [
        sheet.name
        for sheet in book.sheets_metadata
        if sheet.typ == calamine.SheetTypeEnum.WorkSheet and sheet.visible == calamine.SheetVisibleEnum.Visible
    ]
    for name in [asked] if asked is not None else shown:
        cells = _cells(source, book, name)
        if any(value != "" for row in cells for value in row):
            return name, _without_margin(cells)
    raise DatasetError(f"{source}: no visible sheet with cells; expected at least one")


def _without_margin(cells: list[list[Any]]) -> list[list[Any]]:
    """Cells without columns in which nothing stands, such as a margin on the left."""
    used = [place for place, column in enumerate(zip(*cells, strict=True)) if any(value != "" for value in column)]
    return cells if len(used) == len(cells[0]) else [[row[place] for place in used] for row in cells]


def _workbook(source: Source) -> calamine.CalamineWorkbook:
    if source.size > MAX_FILE_BYTES:
        raise DatasetError(
            f"{source}: {source.size} bytes; a workbook of more than {MAX_FILE_BYTES >> 20} MiB is not read"
        )
    with source.open() as file:
        content = io.BytesIO(file.read())
    if content.getbuffer()[:4] == b"PK\x03\x04":
        check_archive(source, content)
        content.seek(0)
    with _Refusing(source):
        return calamine.CalamineWorkbook.from_filelike(content)


def _cells(source: Source, book: calamine.CalamineWorkbook, name: str) -> list[list[Any]]:
    with _Refusing(source):
        return book.get_sheet_by_name(name).to_python(skip_empty_area=False)


class _Refusing:
    """Turns the errors of calamine into ours; it panics on some broken files, with an exception of no public class."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def __enter__(self) -> _Refusing:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, calamine.PasswordError):
            raise DatasetError(f"{self.source}: protected by a password; expected a workbook without one") from None
        known = (calamine.CalamineError, ValueError, OSError, LookupError, OverflowError, MemoryError)
        if isinstance(error, known) or (kind is not None and kind.__name__ == "PanicException"):
            raise DatasetError(f"{self.source}: not a whole workbook: {one_line(error)}") from None


def _header(source: Source, cells: list[list[Any]]) -> tuple[int, list[str]]:
    """Place and names of the header: the first row of which more than half is filled, which titles and notes seldom are.

    Where no row is, the first row with a cell is the header. Columns without a name are named by their number.
    """
    filled = [sum(value != "" for value in row) for row in cells]
    above = (place for place, count in enumerate(filled[:HEADER_ROWS]) if 2 * count > len(cells[0]))
    place = next(above, next(place for place, count in enumerate(filled) if count))
    names = [str(_value(value)) if value != "" else f"column {index}" for index, value in enumerate(cells[place], 1)]
    if twice := [name for name in names if names.count(name) > 1]:
        raise DatasetError(f"{source}: the header names the column {twice[0]!r} more than once")
    return place, names


def _value(cell: Any) -> Any:
    """A cell's value: None of an empty one, and an integer where the number is whole, since Excel knows only floats."""
    if isinstance(cell, float) and cell.is_integer():
        return int(cell)
    return None if cell == "" else cell
