"""Rows of the benchmark, whatever their kind: a text, a table's record, a window of a series is a tuple of cells."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

Kind = Literal["text", "table", "series"]
Cells = tuple[str, ...]

# What stands before every cell but the first. Byte-pair encodings split words where a space leads them, so that a value
# of a series is one token; no cell holds a tab.
SEPARATOR: dict[Kind, str] = {"text": "\t", "table": "\t", "series": " "}


@dataclass(frozen=True)
class Rows:
    """n rows of one kind.

    Attributes:
      kind: a text is one cell, or two where a class goes with it; a series is cut into windows of equal length, each a row,
        its values whole numbers of 0 to 99.
      columns: names of the cells; ("text",) or ("text", "label"), those of the table, ("0", "1", ...) for time steps.
      cells: every row has one cell a column.
    """

    kind: Kind
    columns: Cells
    cells: list[Cells]

    def __len__(self) -> int:
        return len(self.cells)

    def take(self, chosen: Sequence[int]) -> Rows:
        """The rows of these numbers, in this order."""
        return replace(self, cells=[self.cells[index] for index in chosen])

    def texts(self) -> list[str]:
        """Every row as the text that models read."""
        return [SEPARATOR[self.kind].join(cells) for cells in self.cells]

    def fingerprint(self) -> str:
        """SHA-256 over kind, columns and all cells."""
        digest = hashlib.sha256(repr((self.kind, self.columns)).encode())
        for cells in self.cells:
            for cell in cells:
                data = cell.encode("utf-8", "surrogatepass")
                digest.update(len(data).to_bytes(8, "little") + data)
        return digest.hexdigest()


def parse(kind: Kind, columns: Cells, texts: Sequence[str]) -> Rows:
    """Rows from texts as models write them.

    Records with the wrong number of cells and empty texts are dropped. A series is cut anew from all values that are whole
    numbers of 0 to 99: a small model does not count to the length of a window, and no window begins at a special step.
    """
    if kind == "series":
        values = [value for text in texts for value in text.split() if value.isdecimal() and len(value) <= 2]
        width = len(columns)
        cuts = range(0, len(values) - width + 1, width)
        return Rows(kind, columns, [tuple(values[start : start + width]) for start in cuts])
    most = len(columns) - 1 if kind == "text" else -1
    cells = [tuple(text.split(SEPARATOR[kind], most)) for text in texts]
    return Rows(kind, columns, [row for row in cells if len(row) == len(columns) and row[0].strip()])
