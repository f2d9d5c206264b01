"""What a search for duplicates in a table found, row by row."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from jaxtyping import Int, UInt64

from validation.diversity.components import READ_ROWS, buckets
from validation.diversity.table_duplicates import DuplicateSearch, Progress, similarities_of
from validation.diversity.workspace import Workspace


def components(
    files: tuple[str, ...], search: DuplicateSearch, workspace: Workspace, progress: Progress = lambda *told: None
) -> Iterator[pa.RecordBatch]:
    """The rows of all components after a search, component by component, the first row of each first.

    Args:
      files: names of the files, by number.
      search: as it was made.
      workspace: in which it was made.
      progress: told how far it is.

    Yields:
      component (number of its first row in the stream, from 0), file, row, kind ("first", "exact" or "near"), of_file and
      of_row (for an exact copy the first row of equal content, for a near one the first of the component), similarity to the
      first row of the component.
    """
    rows = workspace.done["read"]
    ids = [workspace.open("file", np.int32, (rows,)), workspace.open("row", np.int64, (rows,))]
    first = workspace.open("first", np.int64, (rows,))
    group = workspace.open("group", np.int64, (rows,))
    shift = np.uint64(64 - max(1, rows.bit_length()))
    names = pa.array(files, pa.string())
    told, last = 0, -1
    for _, found in buckets(
        _Shifted(group, shift), search.sorting() // 2
    ):  # the leading bits of a row number are all 0
        heads = workspace.take(group, found, search.mapping())
        fresh = (found != heads) | (heads != last)  # a piece of one component begins with its first row again
        last, told = int(heads[-1]), told + int(fresh.sum())
        members = found[fresh]
        for part in np.array_split(members, 1 + members.size // READ_ROWS):
            yield _batch(part, group, first, ids, names, search, workspace)
        progress("writing", told, None)
        workspace.release()


class _Shifted:
    """Row numbers as keys whose leading bits differ, read in blocks."""

    def __init__(self, values: Int[np.ndarray, " rows"], shift: np.uint64) -> None:
        self.size = values.size
        self._values = values
        self._shift = shift

    def __getitem__(self, part: slice) -> UInt64[np.ndarray, " n"]:
        return self._values[part].astype(np.uint64) << self._shift


def _batch(
    rows: Int[np.ndarray, " n"],
    group: Int[np.ndarray, " rows"],
    first: Int[np.ndarray, " rows"],
    ids: list[np.ndarray],
    names: pa.Array,
    search: DuplicateSearch,
    workspace: Workspace,
) -> pa.RecordBatch:
    """Some rows of components as they are told."""

    def take(array: np.ndarray, wanted: np.ndarray = rows) -> np.ndarray:
        return workspace.take(array, wanted, search.mapping())

    heads, firsts = take(group), take(first)
    copies, head = firsts != rows, rows == heads
    of = np.where(copies, firsts, heads)
    similar = np.ones(rows.size, np.float64)
    near = np.flatnonzero(firsts != heads)
    if near.size:
        similar[near] = similarities_of(workspace, search, firsts[near], heads[near])
    kind = pa.DictionaryArray.from_arrays(
        np.where(head, 0, np.where(copies, 1, 2)).astype(np.int8), pa.array(["first", "exact", "near"])
    )
    columns = {
        "component": pa.array(heads),
        "file": names.take(pa.array(take(ids[0]))),
        "row": pa.array(take(ids[1])),
        "kind": kind.cast(pa.string()),
        "of_file": names.take(pa.array(take(ids[0], of), mask=head)),
        "of_row": pa.array(take(ids[1], of), mask=head),
        "similarity": pa.array(similar),
    }
    return pa.RecordBatch.from_pydict(columns)
