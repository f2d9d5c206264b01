"""What a corpus is, and the one way in which documents, records and series become rows."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from jaxtyping import Float, Int

from validation.bench.rows import Cells, Kind, Rows

LEAST, MOST = 200, 600  # characters of a row that is cut from a longer document
TEXT_BYTES = 2_000_000  # of a corpus of text
TABLE_ROWS = 12_000
DIGITS = 4  # of a number in a table, so that it is a few tokens
WINDOW = 32  # steps
LEVELS = 100  # of a series: whole numbers from 0, one token each
INSIDE = (0.005, 0.995)  # quantiles of a series that become the lowest and the highest level
UNKNOWN = "?"

PARAGRAPH, LINE, WORD = re.compile(r"\n\s*\n"), re.compile(r"\n"), re.compile(r"\s")
SENTENCE = re.compile(r"[.!?][\"')\]”’»]*\s")
PROSE = (PARAGRAPH, SENTENCE, LINE, WORD)
LINES = (PARAGRAPH, LINE, WORD)  # code and verse, where a line is a unit
NUMBER = re.compile(r"[+-]?\d+(\.\d+)?([eE][+-]?\d+)?")
PLAIN = str.maketrans({"\t": " ", "\r": "\n", "\f": "\n", "\v": "\n"})

Item = TypeVar("Item")


class MissingCorpus(FileNotFoundError):
    """The files of a corpus are not on this machine."""


@dataclass(frozen=True)
class Corpus:
    """Clean rows and where they come from.

    Attributes:
      name: by which cases and results name it.
      kind: of its rows.
      licence: licence or origin, in one line.
      source: where the rows come from on this machine: "development data", "running Python", "installed packages",
        "operating system" or "generated".
      reader: reads the rows; MissingCorpus where the files are absent.
      label: the column that is the class of a row, what label noise changes.
    """

    name: str
    kind: Kind
    licence: str
    source: str
    reader: Callable[[], Rows]
    label: str | None = None


def evenly(items: Sequence[Item], most: int) -> list[Item]:
    """At most so many of the items, in their order and equally far apart."""
    if len(items) <= most:
        return list(items)
    return [items[place * len(items) // most] for place in range(most)]


def chunks(document: str, ends: Sequence[re.Pattern[str]] = PROSE) -> Iterator[str]:
    """Cuts a document into pieces of 200 to 600 characters; a shorter document is one piece.

    Args:
      document: any text.
      ends: ends of units, the best place to cut first; of several the one nearest to 400 characters is taken.

    Yields:
      Pieces without blank lines before and white space after them.
    """
    start = 0
    while len(document) - start > MOST:
        low, high = start + LEAST, min(start + MOST, len(document) - LEAST)
        middle = start + (LEAST + MOST) // 2
        cut = high
        for end in ends:
            places = [match.end() for match in end.finditer(document, low, high)]
            if places:
                cut = min(places, key=lambda place, middle=middle: abs(place - middle))
                break
        yield _trimmed(document[start:cut])
        start = cut
    yield _trimmed(document[start:])


def _trimmed(piece: str) -> str:
    """Indentation stays, which code needs."""
    return re.sub(r"\A(\s*\n)+", "", piece).rstrip()


def text_rows(documents: Iterable[str], ends: Sequence[re.Pattern[str]] = PROSE) -> Rows:
    """Rows of one cell from documents, cut as `chunks` does."""
    pieces = (piece for document in documents for piece in chunks(document.translate(PLAIN), ends))
    return Rows("text", ("text",), _capped([(piece,) for piece in dict.fromkeys(pieces) if piece.strip()]))


def labelled_rows(documents: Iterable[tuple[str, str]], ends: Sequence[re.Pattern[str]] = PROSE) -> Rows:
    """Rows of a text and its class from documents with a class; of equal texts the first counts, whatever its class."""
    labels: dict[str, str] = {}
    for document, label in documents:
        for piece in chunks(document.translate(PLAIN), ends):
            labels.setdefault(piece, label)
    return Rows("text", ("text", "label"), _capped([row for row in labels.items() if row[0].strip()]))


def _capped(cells: list[Cells]) -> list[Cells]:
    size = sum(len(cell.encode("utf-8", "surrogatepass")) + 1 for row in cells for cell in row)
    return evenly(cells, len(cells) * TEXT_BYTES // size) if size > TEXT_BYTES else cells


def table_rows(columns: Sequence[str], records: Iterable[Sequence[object]]) -> Rows:
    """Rows of a table: numbers of at most 4 significant digits, "?" for empty cells.

    Args:
      columns: their names.
      records: one value a column each.
    """
    cells = dict.fromkeys(tuple(_cell(str(value)) for value in record) for record in records)
    return Rows("table", tuple(columns), evenly(list(cells), TABLE_ROWS))


@functools.lru_cache(maxsize=1 << 16)
def _cell(value: str) -> str:
    value = " ".join(value.split())
    if not NUMBER.fullmatch(value):
        return value or UNKNOWN
    number = float(f"{float(value):.{DIGITS}g}")
    return str(int(number)) if number == int(number) else repr(number)


def series_rows(series: Iterable[Float[np.ndarray, " t"]]) -> Rows:
    """Rows from series, each scaled by itself and cut into windows of 32 steps, one after another.

    The range between the quantiles 0.5 % and 99.5 % becomes the whole numbers 0 to 99; what lies outside is clipped. What
    is left over at the end of a series is dropped, and so are windows that repeat an earlier one.
    """
    windows = [window for values in series for window in _windows(_levels(values))]
    names = tuple(str(step) for step in range(WINDOW))
    return Rows("series", names, list(dict.fromkeys(windows)))


def _levels(values: Float[np.ndarray, " t"]) -> Int[np.ndarray, " t"]:
    low, high = np.quantile(values, INSIDE)
    scaled = (values - low) / (high - low) * (LEVELS - 1)
    return np.clip(np.rint(scaled), 0, LEVELS - 1).astype(np.int64)


def _windows(levels: Int[np.ndarray, " t"]) -> Iterator[Cells]:
    for start in range(0, len(levels) - WINDOW + 1, WINDOW):
        yield tuple(str(level) for level in levels[start : start + WINDOW].tolist())
