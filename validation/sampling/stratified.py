"""A stratified sample of a table of any size: two passes, bounded memory, exact row numbers and weights."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from validation.datasets import Table
from validation.sampling.allocation import FEWEST
from validation.sampling.checks import Sums, Verification, verify
from validation.sampling.draw import Drawn, choose, sample_columns, set_aside, thresholds, write
from validation.sampling.first_look import FirstLook, first_look
from validation.sampling.strata import Strata, make_strata

Stage = Callable[[str, int, int], None]
"""Told of the stage, the rows done in it and the rows of the table, which may be an estimate."""


class Sample(NamedTuple):
    """What was drawn.

    Attributes:
      data: what it was drawn from, as given to `open_table`.
      files: of the data; the sample's `file` counts in them from 0.
      seed: that rows were drawn with.
      path: the Parquet file; its own columns are `columns`, then come the data's. All of this is beside it as JSON.
      columns: names of file (index), row (1-based number in it), weight (rows it stands for), stratum and outlier.
      rows: in the sample.
      total: rows of the table; the weights add up to it.
      skipped: bad rows of the table that were left out.
      outliers: rows kept because they lie farthest from their clusters, with weight 1.
      strata: each with its rows in the table and in the sample and what they have in common.
      verification: the sample against the full pass.
    """

    data: str
    files: tuple[str, ...]
    seed: int
    path: Path
    columns: tuple[str, ...]
    rows: int
    total: int
    skipped: int
    outliers: int
    strata: tuple[dict[str, Any], ...]
    verification: Verification

    def as_json(self) -> dict[str, Any]:
        """Everything, as JSON can hold it."""
        return {**self._asdict(), "path": str(self.path), "verification": self.verification.as_json()}


def stratified_sample(
    table: Table,
    rows: int,
    out: str | os.PathLike[str],
    *,
    seed: int = 0,
    label: str | None = None,
    look: FirstLook | None = None,
    workers: int | None = None,
    progress: Stage | None = None,
) -> Sample:
    """Draws rows in proportion to strata, rare ones three times as often, and keeps the farthest outliers.

    The same rows come out for a seed, however many workers there are and however the table is cut into chunks.

    Args:
      table: what `open_table` returns.
      rows: of the sample; all rows where the table has no more.
      out: the Parquet file to write, in the order of files and rows; appears when it is whole, with a JSON file beside it.
      seed: decides which rows are drawn.
      label: a column whose values are to be represented each.
      look: a first look that was taken before, such as a profile's sample; None takes one.
      workers: threads; None for one a core.
      progress: told how far the passes are.

    Returns:
      What was drawn.

    Raises:
      DatasetError: the table cannot be read.
      ValueError: rows is not positive, no such folder or label column, no column tells rows apart, a file of the data would
        be written over, or the first look is of other data.
      OSError: the sample cannot be written; nothing is left of it then, nor after an interrupt.
    """
    if rows < 1:
        raise ValueError(f"rows: {rows}; expected at least 1")
    if label is not None and label not in table.schema.names:
        raise ValueError(f"label: no column {label!r}; expected one of {', '.join(table.schema.names)}")
    path = Path(out)
    if not path.parent.is_dir():
        raise ValueError(f"out: {path}: {path.parent} is not a folder")
    _check_output(path, table)
    folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        told = _told(progress, "first pass", table.metadata.rows)
        look = look or first_look(table, seed=seed, workers=workers, progress=told)
        strata = make_strata(look.sample, label=label, seed=seed, most=max(1, rows // FEWEST))
        limits = thresholds(strata, look, rows)
        whole = Sums.of(strata.embedding, look.sample)
        told = _told(progress, "second pass", look.rows)
        parts, skipped = set_aside(table, strata, limits, whole, folder, seed=seed, workers=workers, progress=told)
        for part in parts:
            whole.merge(part.sums)
        _check_unchanged(table, look, int(whole.weight))
        drawn = choose(parts, strata, limits, rows)
        counted = whole.empty(whole.moments())
        write(parts, drawn, table, strata.embedding, counted, folder / "rows")
        sample = Sample(
            data=table.metadata.path,
            files=table.metadata.files,
            seed=seed,
            path=path,
            columns=tuple(sample_columns(table.schema.names)),
            rows=int(drawn.chosen.sum()),
            total=int(whole.weight),
            skipped=skipped,
            outliers=int(drawn.outlier.sum()),
            strata=_described(strata, drawn),
            verification=verify(whole, counted),
        )
        (folder / "about").write_text(json.dumps(sample.as_json(), indent=1, allow_nan=False) + "\n", encoding="utf-8")
        os.replace(folder / "about", path.with_suffix(".json"))
        os.replace(folder / "rows", path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return sample


def _check_output(path: Path, table: Table) -> None:
    """Refuses to write over the data or another file than an earlier sample, and a name that hides what is written."""
    if path.suffix != ".parquet":
        raise ValueError(f"out: {path}: expected a name that ends in .parquet")
    beside = path.with_suffix(".json")
    for written in (path, beside):
        if written.is_dir():
            raise ValueError(f"out: {written} is a folder; expected a file")
        if any(written.exists() and written.samefile(source) for source in table.local_paths()):
            raise ValueError(f"out: {written} is a file of the data, which would be lost; expected another name")
    if beside.exists() and not path.exists():
        raise ValueError(f"out: {beside} is there already, and no sample beside it; expected another name")


def _check_unchanged(table: Table, look: FirstLook, rows: int) -> None:
    """Refuses a first look of other rows: too few would have been set aside, or none of a stratum."""
    if rows != look.rows:
        raise ValueError(
            f"{table.metadata.path}: {rows} rows, and the first look was of {look.rows}; "
            f"expected the same data, unchanged since"
        )


def _told(progress: Stage | None, stage: str, total: int) -> Callable[[int], None] | None:
    return None if progress is None else lambda done: progress(stage, done, max(done, total))


def _described(strata: Strata, drawn: Drawn) -> tuple[dict[str, Any], ...]:
    """Each stratum that has rows, with their numbers."""
    lengths = ["", *(f"{cut:.0f}" for cut in strata.lengths), ""]
    found = []
    for index in np.flatnonzero(drawn.sizes):
        one = strata.strata[index]
        described: dict[str, Any] = {"stratum": int(index), "cluster": one.cluster}
        if one.length >= 0:
            described["bytes"] = f"{lengths[one.length]}-{lengths[one.length + 1]}"
        if one.label is not None:
            described["label"] = one.label
        size, drawn_of = int(drawn.sizes[index]), int(drawn.rows[index])
        found.append({**described, "rows": size, "drawn": drawn_of, "weight": size / max(1, drawn_of)})
    return tuple(found)
