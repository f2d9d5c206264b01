"""Plain text: a row is a paragraph, or a line where the file has no paragraphs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from validation.datasets.base import BadRows, Columns, DatasetError, Record, TextKind, encoding_error

PROBE_BYTES = 1 << 20
BLANK_SHARE = 0.01
PARAGRAPH_CHARACTERS = 4_000


class Text:
    """Plain text files; one kind of row for all files of a dataset.

    Args:
      kind: "lines" makes every line a row, "paragraphs" every run of lines between blank ones.
    """

    def __init__(self, kind: TextKind) -> None:
        self.kind = kind

    def columns(self, path: Path) -> Columns:
        """Plain text has no columns; checks that there is something to read."""
        if next(self.records(path, BadRows(path, path.name, None), ()), None) is None:
            raise DatasetError(f"{path}: only blank lines; expected text")
        return {}

    def records(self, path: Path, bad: BadRows, fields: Sequence[str]) -> Iterator[Record]:
        """Rows with the 1-based line where each begins; blank rows are left out, other text is kept as it is."""
        lines = _lines(path)
        pieces = _paragraphs(lines) if self.kind == "paragraphs" else lines
        for row, text in pieces:
            if text and not text.isspace():
                yield row, {"text": text}


def text_kind(paths: Sequence[Path]) -> TextKind:
    """Decides from the first MiB of a dataset whether blank lines separate its rows.

    Where fewer than 1 % of the lines are blank, paragraphs would be most of the file, so each line is a row.
    """
    lines = blank = 0
    left = PROBE_BYTES
    for path in paths:
        with path.open("rb") as file:
            head = file.read(left)
        left -= len(head)
        found = head.splitlines()
        lines += len(found)
        blank += sum(not line.strip() for line in found)
        if left == 0:
            break
    return "lines" if blank < BLANK_SHARE * lines else "paragraphs"


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    # newline="\n": a lone carriage return is a character, so that row numbers agree with editors and `sed -n`.
    with path.open(encoding="utf-8-sig", newline="\n") as file:
        try:
            for number, line in enumerate(file, start=1):
                yield number, line.rstrip("\r\n")
        except UnicodeDecodeError:
            raise encoding_error(path) from None


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
