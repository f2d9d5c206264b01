"""Plain text: a row is a paragraph, or a line where the file has no paragraphs."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import pyarrow as pa

from validation.datasets.base import BadRows, Columns, Inspection, Piece, Record, Request, TextKind
from validation.datasets.lines import Lines
from validation.datasets.records import estimate, pieces_of
from validation.datasets.sources import Source
from validation.datasets.storage import DatasetError
from validation.datasets.values import value_array

PROBE_BYTES = 1 << 20
BLANK_SHARE = 0.01
PARAGRAPH_CHARACTERS = 4_000
SCHEMA = pa.schema([("text", pa.string())])


class Text:
    """Plain text files; one kind of row for all files of a dataset.

    Args:
      kind: "lines" makes every line a row, "paragraphs" every run of lines between blank ones.
    """

    def __init__(self, kind: TextKind) -> None:
        self.kind: TextKind = kind

    def inspect(self, source: Source, sample_rows: int) -> Inspection:
        """One column; rows estimated from the first ones."""
        lines = Lines(source)
        rows = self._rows(lines)
        count = sum(1 for _ in itertools.islice(rows, sample_rows))
        size = lines.offset
        if next(rows, None) is None:
            return Inspection(SCHEMA, count, True)
        return Inspection(SCHEMA, estimate(source, size, count), False)

    def columns(self, source: Source) -> Columns:
        """Plain text has no columns; checks that there is something to read."""
        if next(self._rows(Lines(source)), None) is None:
            raise DatasetError(f"{source}: only blank lines; expected text")
        return {}

    def records(self, source: Source, bad: BadRows, fields: Sequence[str]) -> Iterator[Record]:
        """Rows with the 1-based line where each begins; blank rows are left out, other text is kept as it is."""
        for row, text in self._rows(Lines(source)):
            yield row, {"text": text}

    def pieces(self, source: Source, bad: BadRows, request: Request) -> Iterator[Piece]:
        """The same rows as one column of text."""
        found = ((row, (text,), len(text)) for row, text in self._rows(Lines(source)))
        return pieces_of(found, ("text",), SCHEMA, bad, request.rows, value_array)

    def _rows(self, lines: Lines) -> Iterator[tuple[int, str]]:
        numbered = ((number, line.rstrip("\r\n")) for number, line in enumerate(lines, start=1))
        pieces = _paragraphs(numbered) if self.kind == "paragraphs" else numbered
        return ((row, text) for row, text in pieces if text and not text.isspace())


def text_kind(sources: Sequence[Source]) -> TextKind:
    """Decides from the first MiB of a dataset whether blank lines separate its rows.

    Where fewer than 1 % of the lines are blank, paragraphs would be most of the file, so each line is a row.
    """
    lines = blank = 0
    left = PROBE_BYTES
    for source in sources:
        with source.stream() as file:
            head = file.read(left)
        left -= len(head)
        found = head.splitlines()
        lines += len(found)
        blank += sum(not line.strip() for line in found)
        if left == 0:
            break
    return "lines" if blank < BLANK_SHARE * lines else "paragraphs"


def _paragraphs(lines: Iterator[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """Joins lines up to a blank one, and ends a paragraph early where the next line would make it too long."""
    start, size, paragraph = 0, 0, []
    for number, line in lines:
        blank = not line or line.isspace()
        if paragraph and (blank or size + len(line) > PARAGRAPH_CHARACTERS):
            yield start, "\n".join(paragraph)
            paragraph = []
        if blank:
            continue
        if not paragraph:
            start, size = number, 0
        paragraph.append(line)
        size += len(line) + 1
    if paragraph:
        yield start, "\n".join(paragraph)
