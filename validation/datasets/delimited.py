"""CSV and TSV with a header line."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

from validation.datasets.base import SAMPLE_ROWS, BadRows, Columns, Inspection, Piece, Record, Request
from validation.datasets.fields import field_array, infer_field_type
from validation.datasets.lines import MAX_ROW_BYTES, Lines
from validation.datasets.plain_blocks import BLOCK_BYTES, split
from validation.datasets.records import Row, estimate, kind_of, piece_of, pieces_of
from validation.datasets.sources import Source
from validation.datasets.storage import DatasetError

PROBE_ROWS = 1_000


class Delimited:
    """Files of separated fields, quoted as in RFC 4180; tab-separated files may also be unquoted.

    Args:
      delimiter: the character between two fields.
    """

    def __init__(self, delimiter: Literal[",", "\t"]) -> None:
        self.delimiter = delimiter

    def inspect(self, source: Source, sample_rows: int) -> Inspection:
        """The header, the types of the first rows, and rows estimated from their bytes."""
        lines, skipped = Lines(source), []
        rows = self._rows(source, lines)
        header = self._header(source, next(rows, None))
        start = lines.offset
        good = self._good(header, rows, BadRows(source, source.name, skipped))
        sample = [row for _, row, _ in itertools.islice(good, sample_rows)]
        columns = list(zip(*sample, strict=True)) or [()] * len(header)
        schema = pa.schema([(name, infer_field_type(column)) for name, column in zip(header, columns, strict=True)])
        size = lines.offset - start
        if next(good, None) is None:
            return Inspection(schema, len(sample), not skipped)
        return Inspection(schema, estimate(source, size, len(sample)), False)

    def columns(self, source: Source) -> Columns:
        """The header; a column of which all sampled values are numbers does not hold text."""
        sample = itertools.islice(self.records(source, BadRows(source, source.name, []), ()), SAMPLE_ROWS)
        rows = [values for _, values in sample]
        if not rows:
            # The first bad row, if any, says more than "no rows".
            next(self.records(source, BadRows(source, source.name, None), ()), None)
            raise DatasetError(f"{source}: a header but no rows; expected at least one")
        return {
            name: "other" if all(_is_number(row[name]) for row in rows) else kind_of(rows[0][name]) for name in rows[0]
        }

    def records(self, source: Source, bad: BadRows, fields: Sequence[str]) -> Iterator[Record]:
        """Rows with their 1-based numbers; the header and blank lines are not counted."""
        rows = self._rows(source, Lines(source))
        header = self._header(source, next(rows, None))
        for number, row, _ in self._good(header, rows, bad):
            yield number, dict(zip(header, row, strict=True))

    def pieces(self, source: Source, bad: BadRows, request: Request) -> Iterator[Piece]:
        """The same rows as typed columns: those of plain blocks by Arrow, others one by one."""
        lines, counted = Lines(source), _Counted()
        quoted = self._quoting(source) != csv.QUOTE_NONE
        rows = self._rows(source, lines)
        header = self._header(source, next(rows, None))
        schema = pa.schema([request.schema.field(name) for name in request.columns if name in header])
        good = self._good(header, rows, bad, counted)
        while block := lines.block(BLOCK_BYTES):
            columns = split(block, header, schema.names, self.delimiter, quoted)
            if columns is None:
                lines.give_back(block)
                yield from pieces_of(_in_block(good, lines), header, schema, bad, request.rows, field_array)
                continue
            numbers = range(counted.rows + 1, counted.rows + 1 + len(columns[0]))
            counted.rows += len(numbers)
            for start in range(0, len(numbers), request.rows):
                stop = start + request.rows
                part = [column[start:stop] for column in columns]
                yield piece_of(numbers[start:stop], part, schema, bad, field_array)

    def _good(
        self, header: list[str], rows: Iterable[list[str] | csv.Error], bad: BadRows, counted: _Counted | None = None
    ) -> Iterator[Row]:
        counted = counted or _Counted()
        for row in rows:
            counted.rows += 1
            if isinstance(row, csv.Error):
                bad.report(counted.rows, f"broken quoting: {row}")
            elif len(row) != len(header):
                bad.report(counted.rows, f"{len(row)} fields; the header has {len(header)}")
            else:
                yield counted.rows, row, sum(map(len, row))

    def _header(self, source: Source, header: list[str] | csv.Error | None) -> list[str]:
        if header is None:
            raise DatasetError(f"{source}: only blank lines; expected a header line")
        if isinstance(header, csv.Error):
            raise DatasetError(f"{source}: broken quoting in the header line: {header}")
        other = next((mark for mark in ";\t," if mark != self.delimiter and mark in header[0]), None)
        if len(header) == 1 and other:
            raise DatasetError(f"{source}: fields seem to be separated by {other!r}; expected {self.delimiter!r}")
        if twice := [name for name in header if header.count(name) > 1]:
            raise DatasetError(f"{source}: the header names the column {twice[0]!r} more than once")
        return header

    def _rows(self, source: Source, lines: Iterable[str]) -> Iterator[list[str] | csv.Error]:
        """Fields of every row that is not blank; an error stands where a row cannot be split."""
        csv.field_size_limit(MAX_ROW_BYTES)  # documents are longer than the module's default of 128 KiB
        reader = csv.reader(lines, delimiter=self.delimiter, quoting=self._quoting(source), strict=True)
        while True:
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield error
            else:
                if row:
                    yield row

    def _quoting(self, source: Source) -> Literal[0, 3]:
        """Whether quotes are marks or characters: tab-separated files are often written without quoting.

        Read with quotes, such a file merges rows at the first field that begins with one, so a tab-separated file
        counts as quoted only if its first rows then have equally many fields.
        """
        if self.delimiter == ",":
            return csv.QUOTE_MINIMAL
        try:
            rows = itertools.islice(csv.reader(Lines(source), delimiter="\t", strict=True), PROBE_ROWS)
            widths = {len(row) for row in rows if row}
        except csv.Error:
            return csv.QUOTE_NONE
        return csv.QUOTE_MINIMAL if len(widths) == 1 else csv.QUOTE_NONE


@dataclass
class _Counted:
    """Rows of a file that were read, whoever split them."""

    rows: int = 0


def _in_block(rows: Iterator[Row], lines: Lines) -> Iterator[Row]:
    """Rows up to the end of the block that was given back, or of a row that goes on beyond it."""
    for row in rows:
        yield row
        if not lines.in_block:
            return


def _is_number(text: str) -> bool:
    """Whether a sampled field is a number or empty."""
    try:
        float(text or "0")
    except ValueError:
        return False
    return True
