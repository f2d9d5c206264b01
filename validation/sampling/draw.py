"""The second pass: rows of small priority, and outliers, are set aside on disk; what is drawn of them is then written.

Which rows can be drawn is decided by two thresholds a stratum before the pass: on the priority, with room to spare over what
will be drawn, and on the outlier score. Exact sizes of the strata are counted on the way. Given these, the rows of smallest
priority of a stratum are a simple random sample of it, whichever n rows of it are wanted; so the weights N / n are exact.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool, Float, Int, UInt64

from validation.datasets import Chunk, Table
from validation.diversity.embedding import Embedding
from validation.sampling.allocation import allocate, outliers_kept, oversampling
from validation.sampling.checks import Sums
from validation.sampling.first_look import FirstLook
from validation.sampling.passes import Progress, run_pass
from validation.sampling.priority import as_threshold, priorities
from validation.sampling.strata import Strata

OUTPUT_ROWS, OUTPUT_BYTES = 65_536, 64 << 20
"""A row group of the sample ends with the chunk that reaches either."""
KEYS = (" file", " row", " stratum", " priority", " score")
SPARE, SPARE_DEVIATIONS, SPARE_ROWS = 1.1, 5.0, 40  # rows set aside over those that will be drawn


class Thresholds(NamedTuple):
    """Rows set aside: those of priority at most `priority` of their stratum, and those of score at least `score`."""

    priority: UInt64[np.ndarray, " strata"]
    score: float


def thresholds(strata: Strata, look: FirstLook, wanted: int) -> Thresholds:
    """Thresholds that set aside what will be drawn and a little more, by the first look's estimate of each stratum's size."""
    seen = np.array([one.seen for one in strata.strata])
    estimate = look.rows * seen / seen.sum()
    factors = oversampling(np.array([one.rarest for one in strata.strata]))
    rows = np.maximum(1, np.ceil(estimate)).astype(np.int64)
    drawn = allocate(rows, rows, factors, min(wanted, int(rows.sum())))
    unsure = SPARE + SPARE_DEVIATIONS / np.sqrt(np.maximum(seen, 1))
    share = (drawn * unsure + SPARE_ROWS) / np.maximum(estimate, 1)
    # of a stratum that was hardly met the size is not known: all its rows are set aside, which are few
    share = np.where((share > 0.5) | (seen < 5), 1.0, share)
    kept, met = outliers_kept(look.rows, wanted) / look.rows, len(strata.scores)
    place = kept * met + SPARE_DEVIATIONS * np.sqrt(kept * met) + 5
    score = float(strata.scores[-int(place)]) if place < met else 0.0
    return Thresholds(np.array([as_threshold(one) for one in share]), score if kept else np.inf)


@dataclass
class Aside:
    """Rows set aside by one part, in a file; and what was counted on the way."""

    path: Path
    sizes: Int[np.ndarray, " strata"]
    sums: Sums
    keys: list[pa.RecordBatch] = field(default_factory=list)
    writer: pa.ipc.RecordBatchFileWriter | None = None

    def add(self, chunk: Chunk, strata: Strata, limits: Thresholds, seed: int) -> None:
        """Counts all rows of a chunk and sets some aside."""
        seen = strata.encoded(chunk.data)
        coordinates = strata.embedding.coordinates(seen)
        place = strata.place(seen, coordinates)
        self.sizes += np.bincount(place.stratum, minlength=len(self.sizes))
        self.sums.add(seen, coordinates)
        priority = priorities(chunk.file, chunk.row, "draw", seed)
        chosen = np.flatnonzero((priority <= limits.priority[place.stratum]) | (place.score >= limits.score))
        if not len(chosen):
            return
        keys = (np.full(len(chosen), chunk.file, np.int32), chunk.row[chosen], place.stratum[chosen])
        keys = [pa.array(key) for key in (*keys, priority[chosen], place.score[chosen])]
        rows = chunk.data.take(pa.array(chosen))
        self.keys.append(pa.RecordBatch.from_arrays(keys, names=list(KEYS)))
        writer = self.writer or self._open(rows.schema)
        writer.write_batch(rows)

    def _open(self, schema: pa.Schema) -> pa.ipc.RecordBatchFileWriter:
        options = pa.ipc.IpcWriteOptions(compression="lz4", use_threads=False)
        writer = pa.ipc.new_file(str(self.path), schema, options=options)
        self.writer = writer
        return writer

    def close(self) -> None:
        """Ends the file; needed before it is read."""
        if self.writer is not None:
            self.writer.close()
            self.writer = None


def set_aside(
    table: Table,
    strata: Strata,
    limits: Thresholds,
    sums: Sums,
    folder: Path,
    *,
    seed: int,
    workers: int | None,
    progress: Progress | None,
) -> tuple[list[Aside], int]:
    """The pass itself; one file a part, in `folder`. Returns the parts, and the number of bad rows left out."""
    parts = [
        Aside(folder / f"{index}.arrow", np.zeros(len(strata.strata), np.int64), sums.empty())
        for index in range(len(table.parts()))
    ]
    try:
        skipped = run_pass(
            table,
            lambda index, chunk: parts[index].add(chunk, strata, limits, seed),
            workers=workers,
            progress=progress,
            finish=lambda index: parts[index].close(),
        )
    finally:
        for part in parts:
            part.close()
    return parts, skipped


@dataclass(frozen=True)
class Drawn:
    """Which of the rows set aside are drawn, and their weights.

    Attributes:
      chosen, outlier, weight, stratum: of each row set aside, parts in order.
      sizes: rows of each stratum, outliers not counted.
      rows: rows drawn of each stratum, outliers not counted.
    """

    chosen: Bool[np.ndarray, " aside"]
    outlier: Bool[np.ndarray, " aside"]
    weight: Float[np.ndarray, " aside"]
    stratum: Int[np.ndarray, " aside"]
    sizes: Int[np.ndarray, " strata"]
    rows: Int[np.ndarray, " strata"]


def choose(parts: list[Aside], strata: Strata, limits: Thresholds, wanted: int) -> Drawn:
    """Decides from exact counts: the farthest outliers first, then the smallest priorities of each stratum.

    Args:
      parts: what was set aside.
      strata: the strata.
      limits: by which rows were set aside.
      wanted: rows of the sample.
    """
    keys = pa.Table.from_batches([batch for part in parts for batch in part.keys])
    stratum, priority, score = (keys.column(name).to_numpy() for name in KEYS[2:])
    sizes = np.sum([part.sizes for part in parts], axis=0)
    far = np.flatnonzero(score >= limits.score)
    order = np.lexsort((priority[far], -score[far]))
    outlier = np.zeros(len(stratum), bool)
    outlier[far[order[: outliers_kept(int(sizes.sum()), wanted)]]] = True
    sizes = sizes - np.bincount(stratum[outlier], minlength=len(sizes))
    eligible = np.flatnonzero((priority <= limits.priority[stratum]) & ~outlier)
    available = np.bincount(stratum[eligible], minlength=len(sizes))
    lost = np.flatnonzero((sizes > 0) & (available == 0))
    assert not len(lost), f"no row of stratum {lost[0]} with {sizes[lost[0]]} rows was set aside"
    factors = oversampling(np.array([one.rarest for one in strata.strata]))
    rows = allocate(sizes, available, factors, wanted - int(outlier.sum()))
    order = eligible[np.lexsort((priority[eligible], stratum[eligible]))]
    place = np.arange(len(order)) - np.repeat(np.cumsum(available) - available, available)
    chosen = outlier.copy()
    chosen[order[place < rows[stratum[order]]]] = True
    weight = np.where(outlier, 1.0, sizes[stratum] / np.maximum(rows[stratum], 1))
    return Drawn(chosen, outlier, weight, stratum, sizes, rows)


def write(parts: list[Aside], drawn: Drawn, table: Table, embedding: Embedding, sums: Sums, path: Path) -> None:
    """Writes the rows drawn in the order of their files and rows, and counts them for the checks.

    Args:
      parts: what was set aside.
      drawn: which of it is drawn.
      table: whose columns are written, after the sample's own.
      embedding: of the sums.
      sums: counts every row written by its weight.
      path: a Parquet file, replaced if it exists.
    """
    names = sample_columns(table.schema.names)
    own = [pa.int32(), pa.int64(), pa.float64(), pa.int32(), pa.bool_()]
    schema = pa.schema([*zip(names, own, strict=True), *table.schema])
    waiting, held, done = [], 0, 0
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for part in parts:
            if not part.keys:
                continue
            with pa.OSFile(str(part.path)) as file:
                reader = pa.ipc.open_file(file)
                for index, keys in enumerate(part.keys):
                    here = slice(done, done + keys.num_rows)
                    done += keys.num_rows
                    if not drawn.chosen[here].any():
                        continue
                    waiting.append(_rows(keys, reader.get_batch(index), drawn, here, schema))
                    held += waiting[-1].num_rows
                    rows = waiting[-1].select(embedding.names)
                    sums.add(rows, embedding.coordinates(rows), waiting[-1].column(2).to_numpy())
                    if held >= OUTPUT_ROWS or sum(batch.nbytes for batch in waiting) > OUTPUT_BYTES:
                        writer.write_table(pa.Table.from_batches(waiting))
                        waiting, held = [], 0
        if waiting:
            writer.write_table(pa.Table.from_batches(waiting))


def _rows(keys: pa.RecordBatch, rows: pa.RecordBatch, drawn: Drawn, here: slice, schema: pa.Schema) -> pa.RecordBatch:
    chosen = pa.array(drawn.chosen[here])
    own = [keys.column(0), keys.column(1)]
    own += [pa.array(one[here]) for one in (drawn.weight, drawn.stratum.astype(np.int32), drawn.outlier)]
    return pa.RecordBatch.from_arrays([*own, *rows.columns], schema=schema).filter(chosen)


def sample_columns(names: list[str]) -> list[str]:
    """The names of the sample's own columns, beside those of the data: with "sample_" before them as often as they collide."""
    own = ["file", "row", "weight", "stratum", "outlier"]
    while set(own) & set(names):
        own = [f"sample_{name}" for name in own]
    return own
