"""Pieces of any size into chunks of one size."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from validation.datasets.base import Piece

MAX_CHUNK_BYTES = 128 << 20
"""A chunk ends early rather than take more memory than about this."""


def resized(pieces: Iterator[Piece], rows: int) -> Iterator[Piece]:
    """Cuts and joins pieces so that each has `rows` rows, but the last, and those that would become too large.

    Pieces that already have the right size are passed on without a copy.
    """
    held: list[Piece] = []
    count = size = 0
    for piece in pieces:
        start = 0
        while start < len(piece.row):
            part = Piece(piece.row[start : start + rows - count], piece.data.slice(start, rows - count))
            start += len(part.row)
            held.append(part)
            count += len(part.row)
            size += part.data.nbytes
            if count == rows or size >= MAX_CHUNK_BYTES:
                yield _joined(held)
                held, count, size = [], 0, 0
    if held:
        yield _joined(held)


def _joined(pieces: list[Piece]) -> Piece:
    if len(pieces) == 1:
        return pieces[0]
    table = pa.Table.from_batches([piece.data for piece in pieces]).combine_chunks()
    return Piece(np.concatenate([piece.row for piece in pieces]), table.to_batches()[0])
