"""What is measured, ours and the peers', each run in a process of its own: `python -m benchmarks.datasets.tasks NAME JSON`.

A task prints one line of JSON: the seconds of its work, from opening the file to the result, and what it found.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

THREADS = len(os.sched_getaffinity(0))
MEMORY = 400_000_000  # bytes that a search for duplicates may plan with, ours and DuckDB's
PERMUTATIONS = 128
Found = dict[str, Any]


def profile_ours(path: str) -> Callable[[], Found]:
    """The whole profile."""
    from validation.datasets import open_table
    from validation.profile import profile

    return lambda: {"rows": profile(open_table(path)).rows}


def profile_duckdb(path: str) -> Callable[[], Found]:
    """Count, nulls, distinct (approximate), mean, deviation, extremes and quartiles (approximate) of each column."""
    connection = _duckdb()
    query = "SELECT count(*) FROM read_parquet(?)"

    def work() -> Found:
        columns = connection.execute("SUMMARIZE SELECT * FROM read_parquet(?)", [path]).fetchall()
        (rows,) = connection.execute(query, [path]).fetchone()
        return {"rows": rows, "columns": len(columns)}

    return work


def profile_polars(path: str) -> Callable[[], Found]:
    """The same figures as DuckDB's, by the streaming engine."""
    import polars as pl  # pyright: ignore[reportMissingImports] (no dependency of the project)

    def work() -> Found:
        frame = pl.scan_parquet(path)
        wanted = [pl.len().alias("rows")]
        for name, kind in frame.collect_schema().items():
            column = pl.col(name)
            parts = {"null": column.null_count(), "distinct": column.approx_n_unique(), "min": column.min()}
            parts["max"] = column.max()
            if kind.is_numeric() or kind.is_temporal():
                parts |= {f"q{share}": column.quantile(share) for share in (0.25, 0.5, 0.75)}
                parts["mean"] = column.mean()
            if kind.is_numeric():
                parts["std"] = column.std()
            wanted += [part.alias(f"{name} {what}") for what, part in parts.items()]
        return {"rows": frame.select(wanted).collect(engine="streaming")["rows"][0]}

    return work


def profile_ydata(path: str, rows: int) -> Callable[[], Found]:
    """The minimal report's figures of the first rows; it needs them in memory."""
    import pyarrow.parquet as pq
    from ydata_profiling import ProfileReport  # pyright: ignore[reportMissingImports]

    def work() -> Found:
        with pq.ParquetFile(path) as file:
            first = next(file.iter_batches(rows)).to_pandas()
        ProfileReport(first, minimal=True, progress_bar=False).get_description()
        return {"rows": len(first)}

    return work


def sample_ours(path: str, rows: int) -> Callable[[], Found]:
    """A stratified sample with weights, verified."""
    from validation.datasets import open_table
    from validation.sampling import stratified_sample

    def work() -> Found:
        with tempfile.TemporaryDirectory() as folder:
            sample = stratified_sample(open_table(path), rows, Path(folder) / "sample.parquet")
        checks = sample.verification.checks
        worst = {kind: max(c.difference for c in checks if c.kind == kind) for kind in {c.kind for c in checks}}
        found = {"strata": len(sample.strata), "drawn": sample.rows, "held": sample.verification.held, "worst": worst}
        return {"rows": sample.total, "effective_rows": sample.verification.effective_rows, **found}

    return work


def sample_duckdb(path: str, rows: int) -> Callable[[], Found]:
    """A plain reservoir sample: no strata, no weights, no check."""
    connection = _duckdb()

    def work() -> Found:
        with tempfile.TemporaryDirectory() as folder:
            connection.execute(
                f"COPY (SELECT * FROM read_parquet(?) USING SAMPLE reservoir({rows} ROWS)) "
                f"TO '{folder}/sample.parquet' (COMPRESSION zstd)",
                [path],
            )
        (total,) = connection.execute("SELECT count(*) FROM read_parquet(?)", [path]).fetchone()
        return {"rows": total, "drawn": rows}

    return work


def exact_ours(path: str) -> Callable[[], Found]:
    """First rows and their copies, by the hash of the whole row."""
    return lambda: _duplicates(path, near=False)


def exact_duckdb(path: str) -> Callable[[], Found]:
    """The number of the first row of each group of equal rows, and the rows in it, written where there are several."""
    connection = _duckdb()

    def work() -> Found:
        with tempfile.TemporaryDirectory() as folder:
            connection.execute(f"SET temp_directory = '{folder}/spill'")
            connection.execute(f"SET memory_limit = '{MEMORY // 10**6}MB'")
            names = [row[0] for row in connection.execute("DESCRIBE SELECT * FROM read_parquet(?)", [path]).fetchall()]
            connection.execute(
                "COPY (SELECT min(file_row_number) AS first, count(*) AS rows "
                f"FROM read_parquet(?, file_row_number = true) GROUP BY {', '.join(names)} HAVING count(*) > 1) "
                f"TO '{folder}/groups.parquet'",
                [path],
            )
            query = f"SELECT coalesce(sum(rows - 1), 0) FROM '{folder}/groups.parquet'"
            (copies,) = connection.execute(query).fetchone()
        (rows,) = connection.execute("SELECT count(*) FROM read_parquet(?)", [path]).fetchone()
        return {"rows": rows, "copies": int(copies)}

    return work


def exact_polars(path: str) -> Callable[[], Found]:
    """The same by the streaming engine."""
    import polars as pl  # pyright: ignore[reportMissingImports]

    def work() -> Found:
        frame = pl.scan_parquet(path)
        names = frame.collect_schema().names()
        groups = frame.with_row_index("first").group_by(names).agg(pl.col("first").min(), pl.len().alias("rows"))
        several = groups.filter(pl.col("rows") > 1).select("first", "rows").collect(engine="streaming")
        rows = frame.select(pl.len()).collect().item()
        return {"rows": rows, "copies": int((several["rows"] - 1).sum())}

    return work


def near_ours(path: str, threshold: float, rows: int | None = None, named: bool = False) -> Callable[[], Found]:
    """Components of alike rows, by MinHash and comparison of what it proposes."""
    return lambda: _duplicates(path, near=True, threshold=threshold, named=named)


def near_datasketch(path: str, threshold: float, rows: int | None = None, named: bool = False) -> Callable[[], Found]:
    """The usual loop: MinHash of the same shingles, LSH index, one query a row."""
    from datasketch import MinHash, MinHashLSH  # pyright: ignore[reportMissingImports]

    def work() -> Found:
        texts = _texts(path, rows)
        index = MinHashLSH(threshold=threshold, num_perm=PERMUTATIONS)
        hashes = []
        for row, text in enumerate(texts):
            one = MinHash(num_perm=PERMUTATIONS)
            one.update_batch([" ".join(run).encode() for run in shingles(text)])
            index.insert(row, one, check_duplication=False)
            hashes.append(one)
        alike = [row for row, one in enumerate(hashes) if len(index.query(one)) > 1]
        return {"rows": len(texts), "alike": len(alike)} | ({"named": alike} if named else {})

    return work


def near_truth(path: str, threshold: float, rows: int | None = None, named: bool = False) -> Callable[[], Found]:
    """Every pair that shares a shingle, compared by definition."""
    import numpy as np
    import scipy.sparse

    def work() -> Found:
        known: dict[tuple[str, ...], int] = {}
        runs = [[known.setdefault(run, len(known)) for run in sorted(shingles(text))] for text in _texts(path, rows)]
        sizes = np.array([len(one) for one in runs])
        places = (np.repeat(np.arange(len(runs)), sizes), np.concatenate(runs))
        held = scipy.sparse.csr_array((np.ones(sizes.sum()), places), (len(runs), len(known)))
        shared = (held @ held.T).tocoo()
        similar = shared.data / (sizes[shared.row] + sizes[shared.col] - shared.data) >= threshold - 1e-9
        alike = np.unique(shared.row[similar & (shared.row != shared.col)])
        return {"rows": len(runs), "alike": len(alike), "named": alike.tolist()}

    return work


def shingles(text: str) -> set[tuple[str, ...]]:
    """Runs of five words, as `validation.diversity` compares rows of at least ten words by."""
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[at : at + 5]) for at in range(len(words) - 4)}


def _duplicates(path: str, *, near: bool, threshold: float = 0.8, named: bool = False) -> Found:
    from validation.datasets import open_table
    from validation.diversity.duplicate_rows import components
    from validation.diversity.table_duplicates import DuplicateSearch, find_table_duplicates
    from validation.diversity.workspace import Workspace

    table = open_table(path)
    search = DuplicateSearch(near=near, threshold=threshold, memory_bytes=MEMORY, workers=THREADS)
    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace(Path(folder) / "work", search.facts())
        found = find_table_duplicates(table.stream, search, workspace)
        rows: list[int] = []
        for batch in components(table.metadata.files, search, workspace):
            if named:
                rows += batch.column("row").to_pylist()
    counts = {"rows": found.rows, "copies": found.copies, "near": found.near, "components": found.components}
    return counts | ({"named": [row - 1 for row in rows]} if named else {})


def _texts(path: str, rows: int | None) -> list[str]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        batches = file.iter_batches(rows or file.metadata.num_rows, columns=["text"])
        return next(batches).column(0).to_pylist()


def _duckdb() -> Any:
    import duckdb

    return duckdb.connect(config={"threads": THREADS})


TASKS: dict[str, Callable[..., Callable[[], Found]]] = {
    f"{what}.{side}": globals()[f"{what}_{side}"]
    for what, sides in {
        "profile": ("ours", "duckdb", "polars", "ydata"),
        "sample": ("ours", "duckdb"),
        "exact": ("ours", "duckdb", "polars"),
        "near": ("ours", "datasketch", "truth"),
    }.items()
    for side in sides
}


def main() -> None:
    """Runs one task."""
    work = TASKS[sys.argv[1]](**json.loads(sys.argv[2]))
    began = time.perf_counter()
    found = work()
    print(json.dumps({"seconds": time.perf_counter() - began, **found}))


if __name__ == "__main__":
    main()
