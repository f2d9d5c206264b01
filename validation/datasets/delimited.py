"""CSV and TSV with a header line."""

from __future__ import annotations

import csv
import itertools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from validation.datasets.base import SAMPLE_ROWS, BadRows, Columns, DatasetError, Record, encoding_error

PROBE_ROWS = 1_000


class Delimited:
    """Files of separated fields, quoted as in RFC 4180; tab-separated files may also be unquoted.

    Args:
      delimiter: the character between two fields.
    """

    def __init__(self, delimiter: Literal[",", "\t"]) -> None:
        self.delimiter = delimiter

    def columns(self, path: Path) -> Columns:
        """The header; a column of which all sampled values are numbers does not hold text."""
        header = self._header(path)
        sample = itertools.islice(self.records(path, BadRows(path, path.name, []), ()), SAMPLE_ROWS)
        rows = [values for _, values in sample]
        if not rows:
            # The first bad row, if any, says more than "no rows".
            next(self.records(path, BadRows(path, path.name, None), ()), None)
            raise DatasetError(f"{path}: a header but no rows; expected at least one")
        return {name: "other" if all(_is_number(row[name]) for row in rows) else "string" for name in header}

    def records(self, path: Path, bad: BadRows, fields: Sequence[str]) -> Iterator[Record]:
        """Rows with their 1-based numbers; the header and blank lines are not counted."""
        header = self._header(path)
        rows = self._rows(path)
        next(rows)
        for number, row in enumerate(rows, start=1):
            if isinstance(row, csv.Error):
                bad.report(number, f"broken quoting: {row}")
            elif len(row) != len(header):
                bad.report(number, f"{len(row)} fields; the header has {len(header)}")
            else:
                yield number, dict(zip(header, row, strict=True))

    def _header(self, path: Path) -> list[str]:
        header = next(self._rows(path), None)
        if header is None:
            raise DatasetError(f"{path}: only blank lines; expected a header line")
        if isinstance(header, csv.Error):
            raise DatasetError(f"{path}: broken quoting in the header line: {header}")
        other = next((mark for mark in ";\t," if mark != self.delimiter and mark in header[0]), None)
        if len(header) == 1 and other:
            raise DatasetError(f"{path}: fields seem to be separated by {other!r}; expected {self.delimiter!r}")
        if twice := [name for name in header if header.count(name) > 1]:
            raise DatasetError(f"{path}: the header names the column {twice[0]!r} more than once")
        return header

    def _rows(self, path: Path) -> Iterator[list[str] | csv.Error]:
        """Fields of every row that is not blank; an error stands where a row cannot be split."""
        csv.field_size_limit(sys.maxsize)  # documents are longer than the module's default of 128 KiB
        quoting = self._quoting(path)
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=self.delimiter, quoting=quoting, strict=True)
            while True:
                try:
                    row = next(reader)
                except StopIteration:
                    return
                except UnicodeDecodeError:
                    raise encoding_error(path) from None
                except csv.Error as error:
                    yield error
                else:
                    if row:
                        yield row

    def _quoting(self, path: Path) -> Literal[0, 3]:
        """Whether quotes are marks or characters: tab-separated files are often written without quoting.

        Read with quotes, such a file merges rows at the first field that begins with one, so a tab-separated file
        counts as quoted only if its first rows then have equally many fields.
        """
        if self.delimiter == ",":
            return csv.QUOTE_MINIMAL
        try:
            with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
                rows = itertools.islice(csv.reader(file, delimiter="\t", strict=True), PROBE_ROWS)
                widths = {len(row) for row in rows if row}
        except csv.Error:
            return csv.QUOTE_NONE
        return csv.QUOTE_MINIMAL if len(widths) == 1 else csv.QUOTE_NONE


def _is_number(text: str) -> bool:
    """Whether a sampled field is a number or empty."""
    try:
        float(text or "0")
    except ValueError:
        return False
    return True
