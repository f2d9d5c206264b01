"""A sample of rows that is the same however a table was cut up: the k rows of the smallest hash of (seed, file, row).

The hash takes the file's name, so that a table profiled file by file and merged gives the sample of the whole.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int, UInt64

from validation.diversity.hash_counts import mixed
from validation.profile.cells import is_list, is_string

ROWS = 10_000
LONGEST = 4096
"""Characters of a string, or bytes of a binary value, that the sample keeps."""


def row_priorities(seed: int, file: str, row: Int[np.ndarray, " n"]) -> UInt64[np.ndarray, " n"]:
    """The hash by which rows are sampled; uniform and independent of what the rows hold.

    Args:
      seed: chooses another sample.
      file: name of the file.
      row: numbers of rows in it.
    """
    digest = hashlib.blake2b(f"{seed}\n{file}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    start = np.frombuffer(digest, np.uint64)
    return mixed(mixed(start) + mixed(row.astype(np.uint64)))


def kept_type(of_type: pa.DataType) -> pa.DataType | None:
    """How a leaf of this type stands in the sample; None where it does not."""
    if is_list(of_type):
        return pa.int64()
    if is_string(of_type):
        return pa.large_string()
    if isinstance(of_type, pa.DictionaryType | pa.BaseExtensionType):
        inner = of_type.value_type if isinstance(of_type, pa.DictionaryType) else of_type.storage_type
        return kept_type(inner)
    if pa.types.is_nested(of_type) or pa.types.is_binary_view(of_type):
        return None
    if pa.types.is_binary(of_type) or pa.types.is_large_binary(of_type):
        return pa.large_binary()
    return of_type


class RowSample:
    """The sampled rows of a table, with room for more.

    Attributes:
      seed: see `row_priorities`.
      size: most rows to keep.
    """

    def __init__(self, schema: pa.Schema, seed: int, size: int = ROWS) -> None:
        self.seed = seed
        self.size = size
        self._priority = np.empty(0, np.uint64)
        self._place = np.empty((0, 2), np.int64)
        self._data = schema.empty_table()
        self._waiting: list[tuple[np.ndarray, np.ndarray, pa.Table]] = []
        self._table: pa.Table | None = None

    def add(self, file: int, name: str, row: Int[np.ndarray, " n"], arrays: Sequence[pa.Array | None]) -> None:
        """Adds rows of one file.

        Args:
          file: index of the file.
          name: its name.
          row: their numbers.
          arrays: leaves of all columns; None for one that is not kept.
        """
        priority = row_priorities(self.seed, name, row)
        chosen = np.arange(row.size)
        if row.size > self.size:
            chosen = np.sort(np.argpartition(priority, self.size)[: self.size])
        if self._priority.size == self.size:
            chosen = chosen[priority[chosen] <= self._priority[-1]]
        if not chosen.size:
            return
        indices = pa.array(chosen)
        columns = [
            _kept(array.take(indices), field.type)
            for array, field in zip([a for a in arrays if a is not None], self._data.schema, strict=True)
        ]
        place = np.stack([np.full(chosen.size, file), row[chosen]], axis=1)
        self._waiting.append((priority[chosen], place, pa.table(columns, schema=self._data.schema)))
        if sum(part[0].size for part in self._waiting) >= self.size:
            self._settle()

    def merge(self, other: RowSample, files: int) -> None:
        """Adds the rows of another sample; `files` is added to its file indices.

        Raises:
          ValueError: the samples are of different seeds.
        """
        if (self.seed, self.size) != (other.seed, other.size):
            raise ValueError(f"samples of seed {self.seed} and {other.seed} cannot be merged; expected one seed")
        other._settle()
        data = other._data.cast(self._data.schema)
        self._waiting.append((other._priority, other._place + np.array([files, 0]), data))
        self._settle()

    def _settle(self) -> None:
        if not self._waiting:
            return
        parts = [(self._priority, self._place, self._data), *self._waiting]
        self._waiting, self._table = [], None
        priority = np.concatenate([part[0] for part in parts])
        place = np.concatenate([part[1] for part in parts])
        best = np.lexsort((place[:, 1], place[:, 0], priority))[: self.size]
        self._priority, self._place = priority[best], place[best]
        # In chunks as they came, strings of the sample would hold whole buffers alive.
        self._data = pa.concat_tables([part[2] for part in parts]).take(pa.array(best)).combine_chunks()

    def table(self) -> pa.Table:
        """The rows in order of their hash, so that any beginning is a sample too: `(file)`, `(row)`, then the columns."""
        self._settle()
        if self._table is not None:
            return self._table
        places = [pa.array(self._place[:, 0], pa.int32()), pa.array(self._place[:, 1], pa.int64())]
        columns = [*places, *self._data.columns]
        fields = [pa.field("(file)", pa.int32()), pa.field("(row)", pa.int64()), *self._data.schema]
        self._table = pa.Table.from_arrays(columns, schema=pa.schema(fields))
        return self._table

    @classmethod
    def of_table(cls, table: pa.Table, names: Sequence[str], seed: int, size: int) -> RowSample:
        """The sample that `table` was taken from; `names` are those of the files."""
        data = table.select(list(range(2, table.num_columns)))
        one = cls(data.schema, seed, size)
        one._place = np.stack([table.column(i).to_numpy().astype(np.int64) for i in (0, 1)], axis=1)
        one._priority = np.zeros(table.num_rows, np.uint64)
        for file in np.unique(one._place[:, 0]):
            here = one._place[:, 0] == file
            one._priority[here] = row_priorities(seed, str(names[int(file)]), one._place[here, 1])
        one._data = data
        return one


def _kept(array: pa.Array, of_type: pa.DataType) -> pa.Array:
    if is_list(array.type):
        array = pc.call_function("list_value_length", [array])
    if pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
        array = pc.call_function("utf8_slice_codeunits", [array], pc.SliceOptions(0, LONGEST))
    elif pa.types.is_binary(array.type) or pa.types.is_large_binary(array.type):
        array = pc.call_function("binary_slice", [array], pc.SliceOptions(0, LONGEST))
    return array if array.type == of_type else array.cast(of_type)
