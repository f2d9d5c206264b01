"""Does the cascade tell a damaged dataset from a clean one, and does it find the bad rows? One JSON line a run.

    python benchmarks/damaged_copies.py DATA --reference REFERENCE --seeds 3 --profile laptop
    python benchmarks/damaged_copies.py DATA --halve

With --halve one random half of DATA is the reference and the other the data: a true resample, on which an alarm would be false.
DATA is copied as it is, with its rows repeated five times (equal row count), with half of them replaced by templates and with
the words of a fifth of them shuffled. Which rows were spoiled is known, so precision and recall are exact.
"""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from validation import validate
from validation.bench import damage
from validation.datasets import open_dataset
from validation.demonstration import write_rows

DAMAGE: dict[str, Callable[[list[str], int], tuple[list[str], np.ndarray]]] = {
    "clean": lambda rows, seed: (rows, np.zeros(len(rows), bool)),
    "duplicates x5": lambda rows, seed: damage.duplicates(rows, 5, seed),
    "templates 50 %": lambda rows, seed: damage.templates(rows, 0.5, seed),
    "shuffled 20 %": lambda rows, seed: damage.shuffle_words(rows, 0.2, seed),
}


@dataclass(frozen=True)
class Options:
    """Clean against damaged copies of one dataset."""

    data: Annotated[str, tyro.conf.Positional]
    """Dataset that is taken as clean."""
    reference: str | None = None
    """Trusted sample of the same kind."""
    halve: bool = False
    """One random half of DATA is the reference."""
    seeds: int = 3
    """Runs a copy; damage, splits and models all change with the seed."""
    first_seed: int = 0
    """The first of them."""
    profile: str = "laptop"
    """Size of the runs."""


def sides(options: Options, folder: Path) -> tuple[list[str], str | Path | None]:
    """The rows that are taken as clean, and the reference."""
    rows = [text for batch in open_dataset(options.data).stream() for text in batch.column("text").to_pylist()]
    if not options.halve:
        return rows, options.reference
    random.Random(0).shuffle(rows)
    reference = folder / "reference.jsonl"
    write_rows(reference, rows[len(rows) // 2 :])
    return rows[: len(rows) // 2], reference


def measure(options: Options, name: str, seed: int, folder: Path) -> dict[str, object]:
    """One run: risk, dimensions, and how many of the flagged rows were spoiled and the reverse."""
    rows, reference = sides(options, folder)
    spoiled, bad = DAMAGE[name](rows, seed)
    data, out = folder / "data.jsonl", folder / "out"
    write_rows(data, spoiled)
    report = validate(data, reference=reference, profile=options.profile, out=out, seed=seed)
    lines = (out / "flagged_rows.jsonl").read_text(encoding="utf-8").splitlines()
    named = np.unique([json.loads(line)["row"] - 1 for line in lines]).astype(int)
    hits = int(bad[named].sum())
    by_issue: dict[str, list[bool]] = {}
    for line in lines:
        row = json.loads(line)
        by_issue.setdefault(row["issue"], []).append(bool(bad[row["row"] - 1]))
    return {
        "name": name,
        "seed": seed,
        "risk": round(report.verdict.risk, 1),
        "passed": report.verdict.passed,
        "values": {d.name: None if d.value is None else round(d.value, 4) for d in report.dimensions},
        "scores": {d.name: None if d.score is None else round(d.score, 1) for d in report.dimensions},
        "flagged": len(named),
        "spoiled": int(bad.sum()),
        "precision": round(hits / len(named), 4) if len(named) else None,
        "recall": round(hits / int(bad.sum()), 4) if bad.any() else None,
        "precision_by_issue": {issue: [sum(hit), len(hit)] for issue, hit in by_issue.items()},
        "minimum_detectable_harm": report.verdict.minimum_detectable_harm,
        "tier_losses": [round(t.loss, 4) for t in report.tiers],
        "tier_spreads": [round(t.spread, 4) for t in report.tiers],
        "prediction_error": report.scaling.prediction.error if report.scaling else None,
        "baseline_error": (report.tiers[2].loss - report.scaling.prediction.baseline) if report.scaling else None,
        "seconds": report.environment["seconds"],
        "steps": report.config["steps"],
    }


def main() -> None:
    """Runs every copy with every seed."""
    options = tyro.cli(Options)
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        for name in DAMAGE:
            with tempfile.TemporaryDirectory() as folder:
                print(json.dumps(measure(options, name, seed, Path(folder))), flush=True)


if __name__ == "__main__":
    main()
