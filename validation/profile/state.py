"""The profile of a table: columns, whole rows, segments along the files and a sample of rows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Int

from validation.datasets.schemas import Schema
from validation.diversity.hash_counts import SampledCounts, mixed
from validation.profile.cells import Leaf, kind_of, leaf_arrays, leaves, looks_like_text, numbers
from validation.profile.column import FLUSH, Column
from validation.profile.rendered import TYPE, column_name, render
from validation.profile.sample import ROWS, RowSample, kept_type
from validation.profile.segments import Segments

WHOLE_ROWS = 1 << 17
"""Most distinct rows counted; sampled beyond."""
LISTED_BAD_ROWS = 100


class Profile:
    """What one pass over a table found; it merges, is saved, and serves as the reference of another.

    Attributes:
      source: what was profiled: path, format, kind, files, bytes.
      rows: rows read.
      columns: one for each leaf of the table's columns; before them the rendered text, where there is any.
      schema: how rows are rendered to text; None for plain tables.
      whole_rows: counts of whole rows by hash.
      segments: sums of the columns along the files.
      seed: decides which rows are sampled.
      skipped: number of bad rows, and the first of them as (file, row, reason).
    """

    def __init__(
        self, source: Mapping[str, Any], columns: Sequence[Column], sample: RowSample, schema: Schema | None = None
    ) -> None:
        self.source = dict(source)
        self.rows = 0
        self.columns = list(columns)
        self.schema = schema
        self.whole_rows = SampledCounts(WHOLE_ROWS, FLUSH)
        self.segments = Segments(len(self.columns))
        self.skipped = 0
        self.bad_rows: list[tuple[str, int, str]] = []
        self._sample = sample

    @property
    def files(self) -> tuple[str, ...]:
        """Names of the files."""
        return tuple(self.source["files"])

    @property
    def rendered(self) -> Column | None:
        """The column of rendered text, which a model would be trained on; None for plain tables."""
        return None if self.schema is None else self.columns[0]

    @property
    def read(self) -> list[Column]:
        """The columns that the table itself has."""
        return self.columns if self.schema is None else self.columns[1:]

    @property
    def seed(self) -> int:
        return self._sample.seed

    @property
    def sample(self) -> pa.Table:
        """Up to 10,000 rows, uniform: `(file)` (index in `files`), `(row)` (1-based), then the columns.

        Strings end at 4,096 characters; a list is its length; structs are their fields, named "a.b".
        """
        return self._sample.table()

    def column(self, name: str) -> Column:
        """The column of a name.

        Raises:
          KeyError: there is none.
        """
        for column in self.columns:
            if column.leaf.name == name:
                return column
        raise KeyError(name)

    def add(self, file: int, row: Int[np.ndarray, " n"], data: pa.RecordBatch) -> None:
        """Adds consecutive rows of one file; rows of a file come in order.

        Args:
          file: index in `files`.
          row: 1-based numbers.
          data: the rows.
        """
        if not data.num_rows:
            return
        arrays = [leaf for array in data.columns for leaf in leaf_arrays(array)]
        derived = [] if self.schema is None else [render(self.schema, data)]
        segment = self.segments.split(row)
        whole = np.zeros(data.num_rows, np.uint64)
        sums = []
        for column, array in zip(self.columns, [*derived, *arrays], strict=True):
            keys, here = column.add(array, file, row, segment)
            if column is not self.rendered:
                whole = mixed(whole + keys)
            sums.append(here)
        self.rows += data.num_rows
        self.whole_rows.add(whole)
        self.segments.add(file, row, segment, sums)
        kept = [array if kept_type(array.type) else None for array in [*derived, *arrays]]
        self._sample.add(file, self.files[file], row, kept)

    def add_skipped(self, skipped: Sequence[tuple[str, int, str]]) -> None:
        """Adds bad rows that were left out."""
        self.skipped += len(skipped)
        self.bad_rows = [*self.bad_rows, *skipped][:LISTED_BAD_ROWS]

    def merge(self, other: Profile) -> Profile:
        """The profile of this table's rows followed by those of another, both left as they are.

        Raises:
          ValueError: the tables do not have the same columns, or their samples not the same seed.
        """
        mine, theirs = ([c.leaf for c in profile.columns] for profile in (self, other))
        if [leaf.name for leaf in mine] != [leaf.name for leaf in theirs]:
            raise ValueError(f"profiles of different columns cannot be merged: {_difference(mine, theirs)}")
        if self.schema != other.schema:
            ours, others = (", ".join(one.schema.fields) if one.schema else "none" for one in (self, other))
            raise ValueError(
                f"profiles cannot be merged: text rendered from {ours} in the first, {others} in the second"
            )
        one = Profile.of_state(*self.state())
        for place, (left, right) in enumerate(zip(one.columns, other.columns, strict=True)):
            one.columns[place] = _comparable(left, right)
        one._absorb(Profile.of_state(*other.state()), len(self.files))
        one.source["files"] = [*self.files, *other.files]
        one.source["bytes"] = self.source.get("bytes", 0) + other.source.get("bytes", 0)
        return one

    def absorb(self, other: Profile) -> None:
        """Adds the rows of another profile of the same table, which come after these."""
        self._absorb(other, 0)

    def _absorb(self, other: Profile, files: int) -> None:
        self.rows += other.rows
        for mine, theirs in zip(self.columns, other.columns, strict=True):
            mine.merge(theirs, files)
        self.whole_rows.merge(other.whole_rows)
        self.segments.merge(other.segments, files)
        self._sample.merge(other._sample, files)
        self.skipped += other.skipped
        self.bad_rows = [*self.bad_rows, *other.bad_rows][:LISTED_BAD_ROWS]

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray], pa.Table]:
        """All of it: what JSON can hold, arrays, and the sample."""
        words: dict[str, Any] = {
            "source": self.source,
            "rows": self.rows,
            "seed": self.seed,
            "sample_rows": self._sample.size,
            "skipped": self.skipped,
            "bad_rows": self.bad_rows,
            "schema": None if self.schema is None else _schema_state(self.schema),
            "columns": [],
        }
        arrays: dict[str, np.ndarray] = {}
        for part, state in (("rows", self.whole_rows.state()), ("segments", self.segments.state())):
            arrays |= {f"{part}/{name}": array for name, array in state.items()}
        for place, column in enumerate(self.columns):
            of_column, own = column.state()
            words["columns"].append(of_column)
            arrays |= {f"{place}/{name}": array for name, array in own.items()}
        return words, arrays, self.sample

    @classmethod
    def of_state(cls, words: Mapping[str, Any], arrays: Mapping[str, np.ndarray], sample: pa.Table) -> Profile:
        """The profile that `state` was taken from."""
        parts: defaultdict[str, dict[str, np.ndarray]] = defaultdict(dict)
        for path, array in arrays.items():
            part, _, name = path.partition("/")
            parts[part][name] = array
        columns = [Column.of_state(state, parts[str(place)]) for place, state in enumerate(words["columns"])]
        rows = RowSample.of_table(sample, words["source"]["files"], words["seed"], words["sample_rows"])
        schema = words["schema"]
        if schema is not None:
            lists = {name: frozenset(schema[name]) for name in ("optional", "encoded")}
            schema = Schema(schema["name"], tuple(schema["fields"]), **lists)
        one = cls(words["source"], columns, rows, schema)
        one.rows, one.skipped = words["rows"], words["skipped"]
        one.bad_rows = [(str(file), int(row), str(reason)) for file, row, reason in words["bad_rows"]]
        one.whole_rows = SampledCounts.of_state(parts["rows"])
        one.segments = Segments.of_state(parts["segments"])
        return one


def empty_profile(
    source: Mapping[str, Any],
    schema: pa.Schema,
    first: pa.RecordBatch | None,
    *,
    seed: int = 0,
    sample_rows: int = ROWS,
    rendered: Schema | None = None,
) -> Profile:
    """A profile of no rows yet.

    Args:
      source: see `Profile`.
      schema: columns of the table.
      first: its first rows, which say which strings are text; None takes all for categories.
      seed: decides which rows are sampled.
      sample_rows: rows to sample.
      rendered: how rows become text, which is profiled as a column of its own; None for plain tables.
    """
    peeks = [leaf for array in first.columns for leaf in leaf_arrays(array)] if first is not None else None
    columns, kept = [], []
    if rendered is not None:
        columns.append(Column(Leaf(column_name(rendered), str(TYPE), "text")))
        kept.append(pa.field(column_name(rendered), TYPE))
    for place, (name, of_type) in enumerate(leaves(schema)):
        kind = kind_of(of_type)
        if kind == "category" and peeks is not None and looks_like_text(peeks[place]):
            kind = "text"
        leaf = Leaf(name, str(of_type), kind, (of_type.tz or "") if pa.types.is_timestamp(of_type) else "")
        columns.append(Column(leaf, _dtype(of_type)))
        kept_as = kept_type(of_type)
        if kept_as is not None:
            kept.append(pa.field(name, kept_as))
    return Profile(source, columns, RowSample(pa.schema(kept), seed, sample_rows), rendered)


def _schema_state(schema: Schema) -> dict[str, Any]:
    """What JSON can hold of a schema."""
    return {
        "name": schema.name,
        "fields": list(schema.fields),
        "optional": sorted(schema.optional),
        "encoded": sorted(schema.encoded),
    }


def _dtype(of_type: pa.DataType) -> str:
    """dtype of `cells.numbers` for a type."""
    while isinstance(of_type, pa.DictionaryType | pa.BaseExtensionType):
        of_type = of_type.value_type if isinstance(of_type, pa.DictionaryType) else of_type.storage_type
    if kind_of(of_type) not in ("number", "date"):
        return "int64"
    return str(numbers(pa.array([], of_type))[0].dtype)


def _difference(mine: list[Leaf], theirs: list[Leaf]) -> str:
    ours, others = ([leaf.name for leaf in side] for side in (mine, theirs))
    for name in ours:
        if name not in others:
            return f"only the first has {name!r}"
    for name in others:
        if name not in ours:
            return f"only the second has {name!r}"
    return "their order differs"


def _comparable(left: Column, right: Column) -> Column:
    """The left column, ready to take the right one; text and categories together are categories."""
    mine, theirs = left.leaf, right.leaf
    strings = {"category", "text"}
    if mine.kind != theirs.kind and {mine.kind, theirs.kind} == strings:
        words, arrays = left.state()
        return Column.of_state(words | {"leaf": vars(mine) | {"kind": "category"}}, arrays)
    dtypes = [None if c.numbers is None else c.numbers.dtype for c in (left, right)]
    if mine.kind != theirs.kind or dtypes[0] != dtypes[1] or (mine.kind == "date" and mine.type != theirs.type):
        raise ValueError(
            f"profiles cannot be merged: column {mine.name!r} is {mine.type} ({mine.kind}) in the first and "
            f"{theirs.type} ({theirs.kind}) in the second; expected one type"
        )
    return left
