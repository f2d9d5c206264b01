"""One column of a profile: everything that is gathered of it in the pass, and merged exactly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Int, UInt64

from validation.diversity.hash_counts import SampledCounts
from validation.diversity.statistics import TextStatistics
from validation.diversity.words import span_hashes, text_buffers
from validation.profile import cells, segments
from validation.profile.cells import Leaf
from validation.profile.numbers import Numbers
from validation.profile.segments import Sums

VALUES = 1 << 16
"""Most distinct values counted of a column; sampled beyond."""
TOP = 1 << 10
"""Counters of frequent values."""
NAMES = 1 << 10
"""Most distinct strings that are kept by name."""
LONGEST_NAME = 200
NGRAMS = 1 << 19
"""Most distinct words, pairs and runs of words counted of a column; sampled beyond."""
FLUSH = 1 << 17


class Column:
    """Counts of values, and what their kind has beside: numbers, text, names of the values.

    Attributes:
      leaf: what the column is.
      rows: rows read.
      nulls: nulls among them.
      values: counts of values by hash; a list is its elements.
      numbers: of numbers, dates and list lengths; None for other kinds.
      text: of text; None for other kinds.
      names: strings by hash, up to `NAMES` distinct ones; None beyond, and for other kinds.
    """

    def __init__(self, leaf: Leaf, dtype: str = "int64") -> None:
        self.leaf = leaf
        self.rows = 0
        self.nulls = 0
        self.values = SampledCounts(VALUES, FLUSH, TOP)
        numeric = leaf.kind in ("number", "date", "list")
        self.numbers = Numbers(np.dtype(dtype), leaf.kind == "date") if numeric else None
        self.text = TextStatistics(NGRAMS) if leaf.kind == "text" else None
        self.names: dict[int, str] | None = {} if leaf.kind in ("category", "text") else None

    def add(
        self,
        array: pa.Array,
        file: int,
        row: Int[np.ndarray, " n"],
        segment: Int[np.ndarray, " n"],
    ) -> tuple[UInt64[np.ndarray, " n"], Sums]:
        """Adds cells of consecutive rows of one file.

        Args:
          array: the cells.
          file: index of the file.
          row: numbers of the rows.
          segment: number of the segment within the chunk, see `Segments.split`.

        Returns:
          hashes of the cells, and the column's sums by segment.
        """
        self.rows += len(array)
        self.nulls += array.null_count
        count = int(segment[-1]) + 1
        valid = array.is_valid().to_numpy(zero_copy_only=False) if array.null_count else np.ones(len(array), bool)
        keys, sums = self._add(array, file, row, segment, valid if array.null_count else None)
        here = keys[valid] if array.null_count else keys
        self.values.add(here)
        missing = np.bincount(segment, weights=~valid, minlength=count)
        if self.numbers is None and self.text is None:
            sums = sums._replace(bins=segments.bins_by(segment[valid] if array.null_count else segment, here, count))
        exact = cells.cell_keys(array) if cells.is_wide(array.type) else keys
        return exact, sums._replace(missing=sums.missing + missing)

    def _add(
        self,
        array: pa.Array,
        file: int,
        row: Int[np.ndarray, " n"],
        segment: Int[np.ndarray, " n"],
        valid: np.ndarray | None,
    ) -> tuple[UInt64[np.ndarray, " n"], Sums]:
        count = int(segment[-1]) + 1
        if self.numbers is not None:
            return self._add_numbers(array, file, row, segment, valid)
        if self.leaf.kind not in ("category", "text"):
            return cells.cell_keys(array), segments.no_sums(count)
        filled = array.fill_null("") if array.null_count else array
        keys, distinct = cells.string_keys(filled)
        self._name(array, keys, distinct)
        sums = segments.no_sums(count)
        if self.text is not None:
            words, lengths = self.text.update(filled)
            bins = segments.bins_by(np.repeat(segment, lengths), words, count)
            sizes = np.diff(text_buffers(filled)[1]).astype(np.float64)
            sums = sums._replace(bins=bins, moments=segments.moments_by(segment, sizes, count))
        if valid is not None:
            keys = np.where(valid, keys, cells.NULL)
        return keys, sums

    def _add_numbers(
        self,
        array: pa.Array,
        file: int,
        row: Int[np.ndarray, " n"],
        segment: Int[np.ndarray, " n"],
        valid: np.ndarray | None,
    ) -> tuple[UInt64[np.ndarray, " n"], Sums]:
        assert self.numbers is not None
        values, _ = cells.numbers(array)
        values = values.astype(self.numbers.dtype, copy=False)
        if self.leaf.kind == "list":
            keys = cells.cell_keys(array)
        else:
            keys = cells.number_keys(values)
            if valid is not None:
                spread = np.full(valid.size, cells.NULL)
                spread[valid] = keys
                keys = spread
        if valid is not None:
            row, segment_here = row[valid], segment[valid]
        else:
            segment_here = segment
        self.numbers.add(values, file, row)
        count = int(segment[-1]) + 1
        sums = segments.no_sums(count)
        if self.leaf.kind == "date":
            return keys, sums
        floats = values.astype(np.float64, copy=False)
        finite = np.isfinite(floats)
        if not finite.all():
            odd = np.bincount(segment_here[~finite], minlength=count).astype(np.float64)
            sums = sums._replace(missing=odd)
            floats, segment_here = floats[finite], segment_here[finite]
        return keys, sums._replace(moments=segments.moments_by(segment_here, floats, count))

    def _name(self, array: pa.Array, keys: UInt64[np.ndarray, " n"], distinct: pa.Array | None) -> None:
        if self.names is None:
            return
        if distinct is None:
            if len(array) > NAMES and np.unique(keys[: 2 * NAMES]).size > NAMES + 1:  # one may be that of nulls
                self.names = None
                return
            known = array.drop_null().unique()
        elif array.null_count and not (array.is_valid().to_numpy(zero_copy_only=False) & (keys == _EMPTY)).any():
            # Nulls were hashed as empty strings, which no row holds.
            known = distinct.filter(pa.array(cells.cell_keys(distinct) != _EMPTY))
        else:
            known = distinct
        if len(known) > NAMES:
            self.names = None
            return
        new = span_hashes(*text_buffers(known)).tolist()
        for key, value in zip(new, known, strict=True):
            if key not in self.names:
                self.names[key] = value.as_py()[:LONGEST_NAME]
        self._bound()

    def _bound(self) -> None:
        if self.names is not None and len(self.names) > NAMES:
            self.names = None

    def merge(self, other: Column, files: int) -> None:
        """Adds the cells of rows that come after these; `files` is added to the other's file indices."""
        self.rows += other.rows
        self.nulls += other.nulls
        self.values.merge(other.values)
        if self.numbers is not None and other.numbers is not None:
            self.numbers.merge(other.numbers, files)
        if self.text is not None and other.text is not None:
            self.text.merge(other.text)
        if self.names is not None and other.names is not None:
            self.names = {**other.names, **self.names}
        else:
            self.names = None
        self._bound()

    def numbers_of(self, keys: UInt64[np.ndarray, " n"]) -> np.ndarray:
        """The numbers whose hashes these are."""
        assert self.numbers is not None
        return cells.of_keys(keys, self.numbers.dtype)

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """All of it: what JSON can hold, and arrays."""
        parts: dict[str, Mapping[str, np.ndarray]] = {"values": self.values.state()}
        if self.numbers is not None:
            parts["numbers"] = self.numbers.state()
        if self.text is not None:
            parts["text"] = self.text.state()
        words = {
            "leaf": vars(self.leaf),
            "rows": self.rows,
            "nulls": self.nulls,
            # A key can exceed what a JSON reader takes for an integer.
            "names": None if self.names is None else [[str(key), name] for key, name in sorted(self.names.items())],
        }
        return words, {f"{part}/{name}": a for part, arrays in parts.items() for name, a in arrays.items()}

    @classmethod
    def of_state(cls, words: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Column:
        """The column that `state` was taken from."""
        one = cls(Leaf(**words["leaf"]))
        one.rows, one.nulls = words["rows"], words["nulls"]
        one.names = None if words["names"] is None else {int(key): name for key, name in words["names"]}
        one.values = SampledCounts.of_state(under("values", arrays))
        if one.numbers is not None:
            one.numbers = Numbers.of_state(under("numbers", arrays))
        if one.text is not None:
            one.text = TextStatistics.of_state(under("text", arrays))
        return one


def under(part: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays whose names begin with `part`, without it."""
    return {name[len(part) + 1 :]: array for name, array in arrays.items() if name.startswith(f"{part}/")}


_EMPTY = span_hashes(np.empty(0, np.uint8), np.zeros(2, np.int64))[0]
