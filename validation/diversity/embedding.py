"""Rows of any table as points: near where their values are alike. No model, no download, the same in every process.

Numbers and dates are scaled by quantiles and compressed beyond four deviations, categories become fixed directions, texts
the sum of the directions of their words. Every coordinate is a multiple of 1/1024, so that sums of products of two of them
are exact in float64: which centroid is nearest does not depend on how the rows were cut into batches.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float

from validation.diversity.hash_counts import hash_words, mixed
from validation.diversity.word_vectors import BUCKETS, projection, telling, text_bytes, word_counts, word_hashes

GRID = 1024.0
LINEAR = 4.0  # deviations up to which a number counts as it is; beyond, its logarithm does
FARTHEST = 1e300
MOST_KNOWN = 50_000  # hashes of names that are kept
CATEGORY_WIDTH, TEXT_WIDTH, LARGEST_WIDTH = 8, 32, 64
REPEATED = 0.5  # strings of which at most this share is distinct are categories
LONGEST_CATEGORY = 64.0  # bytes, on average
TEXT_WORDS = 3.0  # on average, from which distinct strings are texts and no names or keys

Points = Float[np.ndarray, "rows width"]


@dataclass(frozen=True)
class NumberColumn:
    """Numbers, dates or times: (x - center) / scale, compressed; a second coordinate says null where the sample had any."""

    name: str
    center: float
    scale: float
    nulls: bool

    @property
    def width(self) -> int:
        """Coordinates."""
        return 1 + self.nulls

    def embed(self, values: pa.Array) -> Points:
        """Coordinates of each value; null lies at the center."""
        numbers, missing = as_numbers(values)
        points = on_grid(compressed(numbers, self.center, self.scale))[:, None]
        if self.nulls:
            points = np.concatenate([points, np.zeros_like(points)], axis=1)
        if missing is not None:
            points[missing, 0] = 0.0
            points[missing, 1:] = 1.0
        return points


@dataclass(frozen=True)
class CategoryColumn:
    """Values told apart by name alone: each has a direction of its own, null too."""

    name: str
    key: int

    @property
    def width(self) -> int:
        """Coordinates."""
        return CATEGORY_WIDTH

    def embed(self, values: pa.Array) -> Points:
        """The direction of each value, of length 1."""
        codes, names = as_codes(values)
        return on_grid(directions(names, self.key, self._hashes)).take(codes, axis=0)

    @cached_property
    def _hashes(self) -> dict[str, int]:
        """Hashes of names seen before; hashing a name takes as long as hundreds of rows."""
        return {}


@dataclass(frozen=True)
class TextColumn:
    """Texts: the direction of the sum of their words' directions, telling ones counting more; empty lies at 0."""

    name: str
    key: int
    weights: Float[np.ndarray, " buckets"] = field(repr=False)

    @property
    def width(self) -> int:
        """Coordinates."""
        return TEXT_WIDTH

    @cached_property
    def _words(self) -> Float[np.ndarray, "buckets width"]:
        return self.weights[:, None] * projection(self.key, BUCKETS, TEXT_WIDTH)

    def embed(self, values: pa.Array) -> Points:
        """The direction of each text, of length 1."""
        return on_grid(unit(word_counts(as_strings(values)) @ self._words))


Column = NumberColumn | CategoryColumn | TextColumn


@dataclass(frozen=True)
class Embedding:
    """A map from rows to points; made by `Embedding.fit`.

    Attributes:
      columns: what is embedded, in the order of the coordinates.
      left_out: columns that say nothing about likeness, with the reason.
      width: coordinates of a point; more than 64 are projected to 64.
      seed: decides every direction.
    """

    columns: tuple[Column, ...]
    left_out: tuple[tuple[str, str], ...]
    seed: int = 0

    @property
    def names(self) -> list[str]:
        """Columns that `embed` needs."""
        return [column.name for column in self.columns]

    @property
    def width(self) -> int:
        """Coordinates of a point."""
        return min(LARGEST_WIDTH, self.full_width)

    @cached_property
    def full_width(self) -> int:
        """Coordinates before projection."""
        return sum(column.width for column in self.columns)

    @cached_property
    def _projection(self) -> Float[np.ndarray, "full width"]:
        signs = projection(_key(self.seed, "projection"), self.full_width, LARGEST_WIDTH)
        return np.rint(signs * GRID) / GRID

    @classmethod
    def fit(cls, sample: pa.Table | pa.RecordBatch, *, seed: int = 0, exclude: Collection[str] = ()) -> Embedding:
        """Learns scales, and what each column is, from a sample of the rows.

        Args:
          sample: rows; a few thousand suffice.
          seed: decides the direction of every value and word.
          exclude: columns to leave out.

        Returns:
          The embedding.

        Raises:
          ValueError: the sample has no rows, or no column that tells rows apart.
        """
        if sample.num_rows == 0:
            raise ValueError("sample: no rows; expected at least one")
        columns: list[Column] = []
        left_out = [(name, "excluded") for name in sample.column_names if name in exclude]
        keys: list[tuple[str, pa.Array]] = []
        for name, values in zip(sample.column_names, sample.columns, strict=True):
            whole = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
            if name in exclude:
                continue
            column = _fit_column(name, whole, seed)
            if isinstance(column, str):
                left_out.append((name, column))
                if column == KEYS:
                    keys.append((name, whole))
            else:
                columns.append(column)
        if not columns and keys:  # better than nothing: names and keys by the words in them
            columns = [_fit_text(name, values, seed) for name, values in keys]
            left_out = [(name, reason) for name, reason in left_out if reason != KEYS]
        if not columns:
            reasons = ", ".join(f"{name} ({reason})" for name, reason in left_out)
            raise ValueError(f"no column tells rows apart: {reasons}")
        return cls(tuple(columns), tuple(left_out), seed)

    def embed(self, batch: pa.RecordBatch) -> Float[np.ndarray, "rows {self.width}"]:
        """Points of rows.

        Args:
          batch: rows with the embedding's columns, and any others.

        Returns:
          float32 [rows, width], multiples of 1/1024.
        """
        return self.project(self.coordinates(batch))

    def coordinates(self, batch: pa.RecordBatch) -> Float[np.ndarray, "rows {self.full_width}"]:
        """The coordinates of every column, one column after the other, before they are projected to 64."""
        found = np.empty((batch.num_rows, self.full_width), np.float32)
        done = 0
        for column in self.columns:
            found[:, done : done + column.width] = column.embed(batch.column(column.name))
            done += column.width
        return found

    def project(
        self, coordinates: Float[np.ndarray, "rows {self.full_width}"]
    ) -> Float[np.ndarray, "rows {self.width}"]:
        """Points of rows whose coordinates are known."""
        if self.full_width <= LARGEST_WIDTH:
            return coordinates
        return on_grid(coordinates.astype(np.float64) @ self._projection).astype(np.float32)

    def encoded(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The embedding's columns, categories as dictionaries: worth it where several things are computed of a batch."""
        columns = [batch.column(column.name) for column in self.columns]
        pairs = zip(self.columns, columns, strict=True)
        return pa.RecordBatch.from_arrays(
            [as_dictionary(values) if isinstance(column, CategoryColumn) else values for column, values in pairs],
            names=self.names,
        )


KEYS = "names or keys: nearly every value is distinct"


def _fit_column(name: str, values: pa.Array, seed: int) -> Column | str:
    """What one column is; else why it is left out."""
    present = values.drop_null()
    if len(present) == 0:
        return "no values"
    kind = present.type.value_type if pa.types.is_dictionary(present.type) else present.type
    return _fit_number(name, values) if is_number(kind) else _fit_strings(name, values, as_strings(present), seed)


def _fit_strings(name: str, values: pa.Array, present: pa.Array, seed: int) -> Column | str:
    """Category, text or neither; `present` are the values that are not null, as strings."""
    distinct = len(present.unique())
    if distinct == 1 and values.null_count == 0:
        return "one value"
    content, starts = text_bytes(present)
    if distinct <= max(2, REPEATED * len(present)) and starts[-1] <= LONGEST_CATEGORY * len(present):
        return CategoryColumn(name, _key(seed, name))
    words, _ = word_hashes(content, starts)
    return _fit_text(name, values, seed) if len(words) >= TEXT_WORDS * len(present) else KEYS


def _fit_text(name: str, values: pa.Array, seed: int) -> TextColumn:
    return TextColumn(name, _key(seed, name), telling(word_counts(as_strings(values))))


def _fit_number(name: str, values: pa.Array) -> NumberColumn | str:
    numbers, missing = as_numbers(values)
    present = numbers if missing is None else numbers[~missing]
    present = np.clip(present[np.isfinite(present)], -FARTHEST, FARTHEST)  # their differences are then finite too
    if not len(present):
        return "no finite values"
    if present.min() == present.max() and missing is None:
        return "one value"
    quantiles = np.quantile(present, [0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0])
    # half-widths of a normal distribution's central 50, 90 and 98 %; the first that is not empty
    for outer, deviations in ((3, 0.6745), (2, 1.6449), (1, 2.3263), (0, 3.0)):
        half = quantiles[-1 - outer] / 2 - quantiles[outer] / 2
        if half > 0:
            return NumberColumn(name, float(quantiles[4]), float(half / deviations), missing is not None)
    return NumberColumn(name, float(quantiles[4]), 1.0, missing is not None)


def is_number(kind: pa.DataType) -> bool:
    """Whether values have an order and distances: numbers, dates, times, durations."""
    types = pa.types
    if types.is_interval(kind):  # months and days have no common unit
        return False
    return types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind) or types.is_temporal(kind)


def as_numbers(values: pa.Array) -> tuple[Float[np.ndarray, " rows"], Bool[np.ndarray, " rows"] | None]:
    """Numbers, dates or times as float64, and which are null or not a number (None where none is).

    Dates and times count in their own unit from its origin.
    """
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if pa.types.is_temporal(values.type):
        narrow = values.type.bit_width == 32
        values = values.view(pa.int32() if narrow else pa.int64())
    missing = np.asarray(values.is_null()) if values.null_count else None
    numbers = values if values.type == pa.float64() else values.cast(pa.float64(), safe=False)
    numbers = np.asarray(numbers.fill_null(0.0) if missing is not None else numbers)
    if pa.types.is_floating(values.type):
        undefined = np.isnan(numbers)
        if undefined.any():
            numbers = np.where(undefined, 0.0, numbers)
            missing = undefined if missing is None else missing | undefined
    return numbers, missing


def as_strings(values: pa.Array) -> pa.Array:
    """Any values as strings or binary; nested ones as JSON."""
    kind = values.type
    if pa.types.is_dictionary(kind):
        return as_strings(values.dictionary_decode())
    if pa.types.is_nested(kind) or pa.types.is_interval(kind):
        written = (None if v is None else json.dumps(v, ensure_ascii=False, default=str) for v in values.to_pylist())
        return pa.array(written, pa.large_string())
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return values.cast(pa.large_binary())
    return values.cast(pa.large_string())


def as_dictionary(values: pa.Array) -> pa.DictionaryArray:
    """Values as indices into those that are distinct."""
    if pa.types.is_nested(values.type) or pa.types.is_interval(values.type):
        values = as_strings(values)
    return values if pa.types.is_dictionary(values.type) else values.dictionary_encode()


def as_codes(values: pa.Array) -> tuple[np.ndarray, list[str | None]]:
    """Categories as indices into the list of their names; null is one of the names, the last."""
    encoded = as_dictionary(values)
    names = as_strings(encoded.dictionary).to_pylist()
    shown = [name.decode("utf-8", "surrogateescape") if isinstance(name, bytes) else name for name in names]
    return np.asarray(encoded.indices.fill_null(len(names))), [*shown, None]


def directions(names: list[str | None], key: int, known: dict[str, int]) -> Points:
    """A fixed direction for each name, float32 of length 1; `known` are hashes computed before, extended here."""
    if len(known) > MOST_KNOWN:
        known.clear()
    hashes = hash_words(["n" if name is None else f"v{name}" for name in names], known)
    axes = mixed(np.arange(CATEGORY_WIDTH, dtype=np.uint64) ^ np.uint64(key))
    spread = mixed((hashes[:, None] ^ axes).ravel()) >> np.uint64(40)
    return unit(spread.reshape(-1, CATEGORY_WIDTH).astype(np.float32) / np.float32(1 << 23) - 1)


def compressed(numbers: Float[np.ndarray, " rows"], center: float, scale: float) -> Float[np.ndarray, " rows"]:
    """Deviations from the center, those beyond four as their logarithm: an outlier stays one and does not drown the rest."""
    with np.errstate(over="ignore"):
        values = (numbers - center) / scale
    far = np.flatnonzero(np.abs(values) > LINEAR)
    if len(far):
        size = np.minimum(np.abs(values[far]), FARTHEST)
        values[far] = np.sign(values[far]) * (LINEAR + np.log1p(size - LINEAR))
    return values


def on_grid(values: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Values rounded to multiples of 1/1024."""
    values = values * values.dtype.type(GRID)
    np.rint(values, out=values)
    values *= values.dtype.type(1 / GRID)
    return values


def unit(points: Points) -> Points:
    """Points moved to length 1; those at 0 stay there."""
    sizes = np.sqrt(np.einsum("rw,rw->r", points, points))[:, None]
    return points / np.where(sizes > 0, sizes, 1)


def _key(seed: int, name: str) -> int:
    return int(hash_words([f"{seed} {name}"], {})[0])
