"""Documents to training windows: one stream, cut so that every token is predicted exactly once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int


class Packed(NamedTuple):
    """Windows of `length + 1` tokens; `tokens[:, :-1]` are inputs, `tokens[:, 1:]` targets.

    Neighbouring windows share one token (the last target of one is the first input of the next), and so does the
    memory: both arrays are read-only views of a flat stream.
    """

    tokens: Int[np.ndarray, "n t_plus_1"]  # int32
    rows: Int[np.ndarray, "n t_plus_1"]  # int32: row that the token comes from; -1 marks padding, never a target


def pack(
    documents: Sequence[np.ndarray], *, length: int, eos: int, row_ids: Sequence[int] | Int[np.ndarray, " rows"]
) -> Packed:
    """Concatenates documents, each followed by `eos`, and cuts windows of `length + 1` tokens at a stride of `length`.

    Args:
      documents: one integer array of tokens a document, each possibly empty.
      length: predicted tokens per window.
      eos: token that ends a document and pads the last window.
      row_ids: per document, the row it comes from (0 or more); its tokens and its eos carry it.

    Returns:
      All windows, the last one padded with `eos` in rows of -1. Every token of the stream but the first is a target
      in exactly one window.

    Raises:
      ValueError: lengths differ, or there is no target at all.
    """
    if len(documents) != len(row_ids):
        raise ValueError(f"pack: {len(documents)} documents but {len(row_ids)} row_ids, expected one id per document")
    if length < 1:
        raise ValueError(f"pack: length={length}, expected 1 or more")
    sizes = np.fromiter((len(document) + 1 for document in documents), np.int64, len(documents))
    total = int(sizes.sum())
    if total < 2:
        raise ValueError(f"pack: {len(documents)} documents with no token at all leave nothing to predict")
    padded = -(-(total - 1) // length) * length + 1

    tokens = np.full(padded, eos, np.int32)
    rows = np.full(padded, -1, np.int32)
    starts = np.cumsum(sizes) - sizes
    for start, document in zip(starts, documents, strict=True):
        tokens[start : start + len(document)] = document
    rows[:total] = np.repeat(np.asarray(row_ids, np.int32), sizes)
    return Packed(_windows(tokens, length), _windows(rows, length))


def _windows(flat: Int[np.ndarray, " stream"], length: int) -> Int[np.ndarray, "n t_plus_1"]:
    return np.lib.stride_tricks.sliding_window_view(flat, length + 1)[::length]
