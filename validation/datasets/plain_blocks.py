"""Blocks of a delimited file that Arrow may split: those in which it can only find what Python's strict reader would.

Arrow goes on where a quote stands inside a field or a carriage return alone, and does not name the row where fields are too few.
So it is given blocks without any of this; the rows of other blocks are split one by one (`delimited`).
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence

import pyarrow as pa
from pyarrow import csv

from validation.datasets.lines import MAX_ROW_BYTES

BLOCK_BYTES = 1 << 20


def split(
    block: bytes, header: Sequence[str], names: Sequence[str], delimiter: str, quoted: bool
) -> list[pa.Array] | None:
    """The named columns of whole lines, as text; None for a block that has to be read row by row.

    Args:
      block: bytes of whole lines.
      header: all columns of the file.
      names: the columns to split off, one at least.
      delimiter: the character between two fields.
      quoted: whether a quote is a mark; else it is a character like others.
    """
    odd = (b"\0", b'"') if quoted else (b"\0",)
    if not names or len(block) > MAX_ROW_BYTES or block.startswith(codecs.BOM_UTF8):
        return None
    if any(mark in block for mark in odd) or block.count(b"\r") != block.count(b"\r\n"):
        return None
    read = csv.ReadOptions(use_threads=False, block_size=len(block) + 1, column_names=list(header))
    parse = csv.ParseOptions(delimiter=delimiter, quote_char=False)
    convert = csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), include_columns=list(names))
    try:
        block.decode()  # all of it, as columns that are not asked for may hold other bytes too
        table = csv.read_csv(pa.BufferReader(block), read, parse, convert)
    except (UnicodeDecodeError, pa.ArrowInvalid):  # the other reader says which row or byte
        return None
    return [column.combine_chunks() for column in table.columns]
