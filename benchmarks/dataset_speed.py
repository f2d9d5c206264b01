"""Profile, sample and duplicates of generated tables of any size: time and memory beside DuckDB, Polars, ydata-profiling
and datasketch.

    python -m benchmarks.dataset_speed --rows 10000000 --peers FOLDER

Rows are generated into a temporary folder; every measurement is a process of its own and reads the same Parquet file, ours and
the peers' in turns. Seconds are those of the work, from opening the file to the result, a million rows; memory is the most that
the process and its children held, shared pages once. Work is equal but for these: ours computes far more than a `SUMMARIZE`,
which is the part of a profile that DuckDB and Polars have; their sample is a plain one. A peer that is not installed is left
out and said so; ydata-profiling and datasketch are given fewer rows. Peers: `pip install --target FOLDER polars datasketch
ydata-profiling`. Linux only.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import tyro

from benchmarks.datasets import generate
from benchmarks.datasets.processes import Cost, TaskError, run
from benchmarks.quality.records import Records

WORK = {
    ("profile", "duckdb"): "SUMMARIZE: count, nulls, distinct, extremes, mean, deviation, quartiles",
    ("profile", "polars"): "the same figures as SUMMARIZE",
    ("profile", "ydata"): "minimal report",
    ("sample", "duckdb"): "plain reservoir sample, no strata, weights or checks",
    ("exact", "duckdb"): "the same",
    ("exact", "polars"): "the same",
    ("near", "datasketch"): "MinHash and LSH, candidates not compared; one thread",
}
"""What a peer does where we profile, sample or search."""
PACKAGES = {"duckdb": "duckdb", "polars": "polars", "ydata": "ydata-profiling", "datasketch": "datasketch"}


@dataclass(frozen=True)
class Options:
    """Sizes, and what is measured."""

    rows: int = 10_000_000
    """Of the mixed table: six columns, about 36 bytes a row."""
    small_rows: int = 1_000_000
    """Of a smaller one: memory must not grow from it to the other."""
    text_rows: int = 2_000_000
    """Of the texts that are profiled: twelve words each."""
    near_rows: int = 1_000_000
    """Of the texts among which near-duplicates are sought: twenty words each."""
    truth_rows: int = 20_000
    """Of those for which recall and precision are measured against brute force."""
    sample_share: float = 0.01
    """Of the rows, drawn."""
    ydata_rows: int = 100_000
    """Rows that ydata-profiling is given."""
    datasketch_rows: int = 20_000
    """Rows that datasketch is given."""
    threshold: float = 0.8
    """Similarity from which rows are near-duplicates."""
    what: tuple[str, ...] = ("profile", "text", "sample", "exact", "near", "recall")
    """What is measured."""
    turns: int = 3
    """Processes a side; medians are reported."""
    peers: Path | None = None
    """Folder with the peers' packages."""
    seed: int = 0
    """Of the rows."""
    results: Path = Path("benchmarks/results/dataset_speed.jsonl")
    """Where figures are appended."""


@dataclass
class Bench:
    """What all measurements share."""

    options: Options
    folder: Path
    records: Records

    def data(self, name: str) -> Path:
        """A generated file, made when it is first asked for."""
        given, path = self.options, self.folder / f"{name}.parquet"
        if not path.exists():
            kind, _, rows = name.partition("-")
            tables = {
                "mixed": lambda: generate.mixed_rows(int(rows), seed=given.seed),
                "copies": lambda: generate.mixed_rows(int(rows), copies=0.05, seed=given.seed),
                "text": lambda: generate.text_rows(int(rows), seed=given.seed),
                "near": lambda: generate.text_rows(int(rows), words=20, seed=given.seed),
            }
            size = generate.write(path, tables[kind]())
            print(f"{name}: {size / 1e6:.0f} MB", file=sys.stderr, flush=True)
        return path

    def costs(self, sides: dict[str, dict[str, Any]], what: str) -> dict[str, list[Cost]]:
        """Runs all sides in turns; a side that fails is left out from then on, and said so."""
        found: dict[str, list[Cost]] = {}
        failed: set[str] = set()
        for _ in range(self.options.turns):
            for side, given in sides.items():
                if side in failed:
                    continue
                try:
                    peers = None if side == "ours" else self.options.peers
                    found.setdefault(side, []).append(run(f"{what}.{side}", peers=peers, **given))
                except TaskError as error:
                    if side == "ours":
                        raise
                    failed.add(side)
                    print(f"left out: {error}", file=sys.stderr, flush=True)
        return {side: costs for side, costs in found.items() if side not in failed}

    def compare(self, name: str, what: str, sides: dict[str, dict[str, Any]]) -> None:
        """Measures ours and the peers, and writes a line for each peer, time and memory; one of each without any."""
        costs = self.costs(sides, what)
        ours = costs.pop("ours")
        about = {key: value for key, value in ours[0].found.items() if key != "rows"}
        about |= {"rows": ours[0].found["rows"], "turns": self.options.turns}
        seconds, memory = _medians(ours)
        about["rows_per_second"] = 1e6 / seconds
        for side, theirs in (costs or {"none": None}).items():
            more, peer = dict(about), (None, None)
            if theirs is not None:
                peer = _medians(theirs)
                found = {f"peer_{key}": value for key, value in theirs[0].found.items()}
                more |= {"peer_name": side, "peer_work": WORK[what, side], "peer_version": self._version(side), **found}
            more["absent"] = [one for one in sides if one not in costs and one != "ours"]
            self.records.add(f"dataset.{name}.{side}.seconds", seconds, "s a million rows", peer[0], **more)
            self.records.add(f"dataset.{name}.{side}.memory", memory, "bytes", peer[1], **more)

    def _version(self, side: str) -> str | None:
        paths = [str(self.options.peers)] if self.options.peers else []
        for one in metadata.distributions(name=PACKAGES[side], path=[*paths, *sys.path]):
            return one.version
        return None

    def recall(self) -> None:
        """Rows that are like another one: those found against those that brute force finds."""
        path = self.data(f"near-{self.options.truth_rows}")
        given = {"path": path, "threshold": self.options.threshold, "named": True}
        truth = set(run("near.truth", **given).found["named"])
        shares = {}
        for side, costs in self.costs({"ours": given, "datasketch": given}, "near").items():
            named = set(costs[0].found["named"])
            shares[side] = (len(named & truth) / len(truth), len(named & truth) / max(1, len(named)))
        theirs = shares.get("datasketch", (None, None))
        more = {"rows": self.options.truth_rows, "threshold": self.options.threshold, "alike": len(truth)}
        for place, what in enumerate(("recall", "precision")):
            self.records.add(f"dataset.near.{what}", shares["ours"][place], "share of rows", theirs[place], **more)


def _medians(costs: list[Cost]) -> tuple[float, float]:
    """Seconds a million rows, and bytes."""
    seconds = statistics.median(1e6 * cost.seconds / cost.found["rows"] for cost in costs)
    return seconds, float(statistics.median(cost.memory for cost in costs))


def main(options: Options) -> None:
    """Measures what was asked for, one thing after the other."""
    with tempfile.TemporaryDirectory(prefix="dataset-speed-") as folder:
        bench = Bench(options, Path(folder), Records(options.results))
        for what in options.what:
            if what == "profile":
                for rows in (options.small_rows, options.rows):
                    path = {"path": bench.data(f"mixed-{rows}")}
                    few = {"ydata": {**path, "rows": options.ydata_rows}} if rows == options.rows else {}
                    bench.compare(f"profile.{rows}", "profile", {"ours": path, "duckdb": path, "polars": path, **few})
            elif what == "text":
                path = {"path": bench.data(f"text-{options.text_rows}")}
                few = {"ydata": {**path, "rows": options.ydata_rows}}
                bench.compare("profile-text", "profile", {"ours": path, "duckdb": path, "polars": path, **few})
            elif what == "sample":
                for rows in (options.small_rows, options.rows):
                    given = {"path": bench.data(f"mixed-{rows}"), "rows": int(rows * options.sample_share)}
                    bench.compare(f"sample.{rows}", "sample", {"ours": given, "duckdb": given})
            elif what == "exact":
                path = {"path": bench.data(f"copies-{options.rows}")}
                bench.compare("exact-duplicates", "exact", {"ours": path, "duckdb": path, "polars": path})
            elif what == "near":
                given = {"path": bench.data(f"near-{options.near_rows}"), "threshold": options.threshold}
                few = {**given, "rows": options.datasketch_rows}
                bench.compare("near-duplicates", "near", {"ours": given, "datasketch": few})
            elif what == "recall":
                bench.recall()
            else:
                sys.exit(f"error: --what {what!r}, expected some of profile, text, sample, exact, near, recall")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
