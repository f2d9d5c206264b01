"""JSON Lines: one object (or string) a line."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from validation.datasets.base import BadRows, Columns, Inspection, Piece, Record, Request
from validation.datasets.json_values import parse, row_values
from validation.datasets.lines import Lines
from validation.datasets.objects import infer_schema, object_pieces
from validation.datasets.records import estimate, sampled_columns
from validation.datasets.sources import Source

BLANK = " \t\r\n"


class JsonLines:
    """Files of one JSON value a line; blank lines are passed over, and counted in row numbers."""

    def inspect(self, source: Source, sample_rows: int) -> Inspection:
        """Columns and types of the first rows; rows estimated from their bytes."""
        lines, skipped = Lines(source), []
        rows = _rows(lines, BadRows(source, source.name, skipped))
        sample = [(row, values) for row, values, _ in itertools.islice(rows, sample_rows)]
        schema, size = infer_schema(sample), lines.offset
        if next(rows, None) is None:
            return Inspection(schema, len(sample), not skipped)
        return Inspection(schema, estimate(source, size, len(sample)), False)

    def columns(self, source: Source) -> Columns:
        """Columns named by the first rows."""
        return sampled_columns(source, self)

    def records(self, source: Source, bad: BadRows, fields: Sequence[str]) -> Iterator[Record]:
        """Objects with the 1-based line each stands on."""
        return ((row, values) for row, values, _ in _rows(Lines(source), bad))

    def pieces(self, source: Source, bad: BadRows, request: Request) -> Iterator[Piece]:
        """The same rows as typed columns."""
        return object_pieces(_rows(Lines(source), bad), bad, request)


def _rows(lines: Lines, bad: BadRows) -> Iterator[tuple[int, Mapping[str, Any], int]]:
    for row, line in enumerate(lines, start=1):
        text = line.strip(BLANK)
        if not text:
            continue
        try:
            values = row_values(parse(line))
        except json.JSONDecodeError as error:
            bad.report(row, f"not JSON: {error.msg} at column {error.colno}")
        except (ValueError, RecursionError) as error:
            # NaN, integers of thousands of digits, nesting deeper than the interpreter's stack.
            bad.report(row, f"not JSON that can be read: {error}")
        except TypeError as error:
            bad.report(row, str(error))
        else:
            yield row, values, len(line)
