"""A fixed random number for every row of a dataset: what is drawn does not depend on chunks, workers or order."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int64, UInt64

from validation.diversity.hash_counts import hash_words, mixed

LARGEST = 2**64 - 1


def priorities(file: int, row: Int64[np.ndarray, " rows"], purpose: str, seed: int) -> UInt64[np.ndarray, " rows"]:
    """Uniform 64-bit numbers, one for each row; rows with the smallest are drawn.

    Args:
      file: index of the rows' file.
      row: their numbers in it.
      purpose: numbers of different purposes are independent.
      seed: numbers of different seeds are, too.
    """
    key = hash_words([f"{purpose} {seed} {file}"], {})
    return mixed(mixed(row.astype(np.uint64)) ^ key)


def as_threshold(share: float) -> np.uint64:
    """The largest priority of a share (0 to 1) of all rows."""
    return np.uint64(LARGEST if share >= 1 else int(share * 2.0**64))
