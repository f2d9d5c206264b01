"""The first pass: how many rows there are, and some of them, drawn evenly from the whole dataset."""

from __future__ import annotations

from threading import Lock
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import UInt64

from validation.datasets import Chunk, DatasetError, Table
from validation.profile import Profile
from validation.sampling.passes import Progress, run_pass
from validation.sampling.priority import LARGEST, priorities

MOST_ROWS = 20_000
"""Rows that strata are made from."""
FEWEST_ROWS = 1_000
MOST_BYTES = 200e6  # in memory, by the table's own estimate; fewer rows are kept where they are long


class FirstLook(NamedTuple):
    """Attributes: the rows of the whole dataset, and a sample of them in random order."""

    rows: int
    sample: pa.Table


class _Smallest:
    """The rows of the smallest priorities so far; several threads may add to it."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = Lock()
        self._limit = np.uint64(LARGEST)
        self._kept: list[tuple[UInt64[np.ndarray, " rows"], pa.Table]] = []
        self._waiting = 0
        self.rows = 0

    def add(self, chunk: Chunk, seed: int) -> None:
        priority = priorities(chunk.file, chunk.row, "first look", seed)
        chosen = np.flatnonzero(priority <= self._limit)
        table = pa.Table.from_batches([chunk.data.take(pa.array(chosen))])
        with self._lock:
            self.rows += len(priority)
            self._kept.append((priority[chosen], table))
            self._waiting += len(chosen)
            if self._waiting > 2 * self._most:
                self._shrink()

    def _shrink(self) -> None:
        priority = np.concatenate([one for one, _ in self._kept])
        rows = pa.concat_tables([table for _, table in self._kept], promote_options="permissive")
        if len(priority) > self._most:
            chosen = np.argpartition(priority, self._most - 1)[: self._most]
            priority, rows = priority[chosen], rows.take(pa.array(chosen)).combine_chunks()
            self._limit = priority.max()
        self._kept, self._waiting = [(priority, rows)], len(priority)

    def result(self) -> pa.Table:
        self._shrink()
        priority, rows = self._kept[0]
        # in an order that says nothing, so that the first few thousand are a sample as well
        return rows.take(pa.array(np.argsort(priority)))


def first_look(
    table: Table, *, seed: int = 0, workers: int | None = None, progress: Progress | None = None
) -> FirstLook:
    """Reads a table once and keeps the rows with the smallest hashes of (seed, file, row).

    Args:
      table: what `open_table` returns.
      seed: decides which rows.
      workers: threads; None for one a core.
      progress: told of the rows done.

    Returns:
      The number of rows, and at most 20,000 of them; fewer where rows are long, never under 1,000.

    Raises:
      DatasetError: the table cannot be read, or no row of it.
    """
    known = table.metadata
    long = known.memory_bytes / max(1, known.rows)
    smallest = _Smallest(int(np.clip(MOST_BYTES / max(1.0, long), FEWEST_ROWS, MOST_ROWS)))
    run_pass(table, lambda part, chunk: smallest.add(chunk, seed), workers=workers, progress=progress)
    if not smallest.rows:
        raise DatasetError(f"{known.path}: no rows that can be read; expected at least one")
    return FirstLook(smallest.rows, smallest.result())


def look_of(profile: Profile, table: Table) -> FirstLook:
    """The first look that a profile of the same table has taken: its sample, but for nested columns, which it abridges.

    Raises:
      ValueError: the profile is of other files.
    """
    if profile.files != table.metadata.files:
        files = [
            ", ".join(names[:3]) + (", …" if len(names) > 3 else "") for names in (profile.files, table.metadata.files)
        ]
        raise ValueError(f"profile is of {files[0]}, and the table of {files[1]}; expected the same files")
    sample = profile.sample
    sample = sample.select(list(range(2, sample.num_columns)))
    plain = [field.name for field in table.schema if not pa.types.is_nested(field.type)]
    return FirstLook(profile.rows, sample.select([name for name in plain if sample.column_names.count(name) == 1]))
