"""The command line: `python -m validation.duplicates DATA --out FILE` names the rows that repeat others, of any number."""

from __future__ import annotations

import itertools
import json
import re
import shlex
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tyro
from rich.console import Console

from validation.datasets import DatasetError, open_dataset, open_table
from validation.diversity.duplicate_rows import components
from validation.diversity.table_duplicates import DuplicateSearch, Found, find_table_duplicates
from validation.diversity.workspace import Workspace

PASS, BAD_INPUT, RISKY, INTERRUPTED = 0, 2, 3, 130
UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "KI": 2**10, "MI": 2**20, "GI": 2**30}
TOLD_EVERY = 10.0  # seconds, where there is no terminal


@dataclass(frozen=True)
class Options:
    """Which rows repeat others, exactly or nearly? Writes the rows of every group of which one would do.

    Exit codes: 0 done, 3 more duplicates than --fail-above, 2 bad input, 130 interrupted.
    """

    data: Annotated[str, tyro.conf.Positional]
    """File, folder, glob or URI of any format that can be read."""
    out: Path
    """Where the rows go: .jsonl or .parquet, a line for each row of a group, group by group."""
    near: bool = False
    """Find rows that are alike too. Rows are then compared as text."""
    threshold: float = 0.8
    """Jaccard similarity of runs of 5 words (5 characters in short rows) from which rows are alike."""
    columns: tuple[str, ...] = ()
    """Columns to compare; default all, or with --near the text."""
    memory: str = "500MB"
    """About what the process may take, at least 256MB; more is faster on large data."""
    workers: int | None = None
    """Threads; default one a core."""
    work: Path | None = None
    """Folder for intermediate files, kept when interrupted: the same command then goes on from there. Default: temporary."""
    seed: int = 0
    """Of the MinHash permutations."""
    skip_bad_rows: bool = False
    """Leave out rows that cannot be read instead of stopping."""
    fail_above: float = 100.0
    """Percent of rows that repeat others from which the exit code is 3."""


class Rows(NamedTuple):
    """What is read: names of the files, paths of those on this disk, about how many rows, what it depends on, the chunks."""

    files: tuple[str, ...]
    paths: tuple[str, ...]
    about: int | None
    facts: dict[str, Any]
    chunks: Iterable[tuple[int, np.ndarray, pa.RecordBatch]]
    skipped: list[tuple[str, int, str]]


@dataclass
class Told:
    """Progress on stderr: a line that changes on a terminal, one every ten seconds elsewhere."""

    console: Console
    rows: int | None
    stage: str = ""
    begun: float = 0.0
    first: int = 0
    last: float = field(default_factory=time.monotonic)

    def __call__(self, stage: str, done: int, whole: int | None) -> None:
        """Told how far a stage is."""
        now = time.monotonic()
        if stage != self.stage:
            self.stage, self.begun, self.first = stage, now, done
        if now - self.last < (0.5 if self.console.is_terminal else TOLD_EVERY):
            return
        self.last = now
        whole = self.rows if whole is None and stage == "reading" else whole
        line = f"{stage}: {done:,}" + (f" of {whole:,}" if whole else "")
        if whole and done > self.first and now > self.begun:
            left = max(0.0, (whole - done) * (now - self.begun) / (done - self.first))
            line += f", {left:,.0f} s left of this stage"
        self.console.print(line, end="\r" if self.console.is_terminal else "\n")


def read_bytes(text: str) -> int:
    """A number of bytes such as 500MB, 2GiB or 1000000.

    Raises:
      ValueError: the text is none.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(K|M|G|KI|MI|GI)?B?\s*", text.upper())
    if found is None:
        raise ValueError(f"--memory is {text!r}, expected a size such as 500MB or 2GiB")
    return int(float(found[1]) * UNITS[found[2] or ""])


def _open(options: Options) -> Rows:
    """The rows to compare."""
    columns = options.columns
    if options.near and not columns:
        try:
            dataset = open_dataset(options.data, skip_bad_rows=options.skip_bad_rows)
        except DatasetError as error:
            raise DatasetError(str(error).replace("--text-column", "--columns")) from None  # as it is named here
        if dataset.metadata.schema != "plain" or dataset.metadata.format == "text":
            facts = {"files": dataset.metadata.files, "bytes": dataset.metadata.bytes}
            paths = dataset.local_paths()
            return Rows(dataset.metadata.files, paths, None, facts, _text_chunks(dataset.stream()), dataset.skipped)
        columns = dataset.metadata.fields
    table = open_table(options.data, skip_bad_rows=options.skip_bad_rows)
    known = [name for name, _ in table.metadata.columns]
    for name in columns:
        if name not in known:
            raise DatasetError(f"--columns {name}: {options.data} has no such column, only {', '.join(known)}")
    facts = {"files": table.metadata.files, "bytes": table.metadata.bytes, "columns": columns}
    stream = table.stream(columns=columns or None)
    return Rows(table.metadata.files, table.local_paths(), table.metadata.rows, facts, stream, table.skipped)


def _text_chunks(stream: Iterable[pa.RecordBatch]) -> Iterator[tuple[int, np.ndarray, pa.RecordBatch]]:
    """Chunks of one file each of a stream of texts."""
    for batch in stream:
        file = batch.column("file").to_numpy()
        borders = [0, *(np.flatnonzero(np.diff(file)) + 1).tolist(), len(file)]
        for begin, end in itertools.pairwise(borders):
            part = batch.slice(begin, end - begin)
            yield int(file[begin]), part.column("row").to_numpy(), part.select(["text"])


def _write(batches: Iterable[pa.RecordBatch], out: Path) -> None:
    """The rows into a file that is there only when it is complete."""
    partial = out.with_name(out.name + ".tmp")
    schema = pa.schema(
        {"component": "int64", "file": "string", "row": "int64", "kind": "string"}
        | {"of_file": "string", "of_row": "int64", "similarity": "float64"}
    )
    try:
        if out.suffix == ".parquet":
            with pq.ParquetWriter(partial, schema, compression="zstd") as writer:
                for batch in batches:
                    writer.write_batch(batch)
        else:
            with partial.open("w", encoding="utf-8") as lines:
                for batch in batches:
                    lines.write(_lines(batch))
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)


def _lines(batch: pa.RecordBatch) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in batch.to_pylist())


def _run(options: Options, errors: Console) -> tuple[Found, int]:
    search = DuplicateSearch(
        options.near,
        options.threshold,
        read_bytes(options.memory),
        options.workers or DuplicateSearch.workers,
        options.seed,
    )
    with ExitStack() as stack:
        rows = _open(options)
        if options.out.exists() and any(options.out.samefile(path) for path in rows.paths):
            raise DatasetError(
                f"--out {options.out}: is a file of the data, which would be lost; expected another name"
            )
        folder = options.work
        if folder is None:
            options.out.parent.mkdir(parents=True, exist_ok=True)
            temporary = tempfile.TemporaryDirectory(prefix=".duplicates-", dir=options.out.parent)
            folder = Path(stack.enter_context(temporary))
        workspace = Workspace(folder, search.facts() | rows.facts)
        told = Told(errors, rows.about)
        found = find_table_duplicates(lambda: rows.chunks, search, workspace, told)
        _write(components(rows.files, search, workspace, told), options.out)
        workspace.discard()
        if options.work is None:
            folder.mkdir(exist_ok=True)  # for the temporary folder to remove
    return found, len(rows.skipped)


def _check(options: Options) -> str | None:
    """What is wrong with the options themselves; None if nothing."""
    if options.out.suffix not in (".jsonl", ".parquet"):
        return f"--out {options.out}: expected a name that ends in .jsonl or .parquet"
    if options.out.is_dir():
        return f"--out {options.out}: is a folder, expected a file"
    if not 0 <= options.fail_above <= 100:
        return f"--fail-above is {options.fail_above:g}, expected 0 to 100"
    return None


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    options = tyro.cli(
        Options, prog="python -m validation.duplicates", args=given, config=(tyro.conf.FlagCreatePairsOff,)
    )
    errors = Console(stderr=True, soft_wrap=True, highlight=False, markup=False, emoji=False)
    problem = _check(options)
    if problem is not None:
        errors.print(f"error: {problem}")
        return BAD_INPUT
    try:
        found, skipped = _run(options, errors)
    except KeyboardInterrupt:
        note = f" Go on with: python -m validation.duplicates {shlex.join(given)}" if options.work else ""
        errors.print(f"\nInterrupted.{note}")
        return INTERRUPTED
    except (ValueError, OSError) as error:
        errors.print(f"error: {error}")
        return BAD_INPUT
    repeats = found.copies + found.near
    bad = f", {skipped:,} bad rows left out" if skipped else ""
    Console(soft_wrap=True, highlight=False, markup=False, emoji=False).print(
        f"{found.rows:,} rows, {found.empty:,} without content{bad}: {found.copies:,} exact copies"
        + (f", {found.near:,} near duplicates" if options.near else "")
        + f" in {found.components:,} groups ({repeats / max(1, found.rows):.2%} of rows could go). Rows: {options.out}"
    )
    return RISKY if repeats > options.fail_above / 100 * found.rows else PASS


if __name__ == "__main__":
    sys.exit(main())
