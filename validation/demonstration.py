"""What a newcomer sees first: a clean corpus that passes and a damaged copy of it that fails, in one report.

The text is the Python standard library's own documentation, which every machine has. One half is the trusted reference, the
other half is the data; in the copy three fifths of it are damaged, in three ways, so that what is found can be counted.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from validation.api import make_request, run_and_write
from validation.assemble import Request
from validation.bench.damage import duplicates, shuffle_words, templates
from validation.datasets.standard_library import standard_library_rows
from validation.progress import Display
from validation.report import Report, write_report
from validation.runner import discard_state

PROFILE = "quick"
DAMAGE_SEED = 1


@dataclass(frozen=True)
class Found:
    """How well the damaged rows were found: shares of the flagged rows and of the damaged rows."""

    precision: float
    recall: float


def spoil(rows: list[str], seed: int) -> tuple[list[str], Bool[np.ndarray, " n"]]:
    """40 % of the rows as they are, 20 % each: repeated five times, replaced by templates, words shuffled.

    Returns:
      The rows in random order, and which of them are bad.
    """
    fifth = len(rows) // 5
    parts = [
        (rows[: 2 * fifth], np.zeros(2 * fifth, bool)),
        duplicates(rows[2 * fifth : 3 * fifth], 5, seed),
        templates(rows[3 * fifth : 4 * fifth], 1.0, seed),
        shuffle_words(rows[4 * fifth :], 1.0, seed),
    ]
    texts = [text for part, _ in parts for text in part]
    bad = np.concatenate([mask for _, mask in parts])
    order = np.random.default_rng(seed).permutation(len(texts))
    return [texts[i] for i in order], bad[order]


def write_rows(path: Path, rows: list[str]) -> None:
    """Rows as JSON lines, complete or not at all."""
    partial = path.with_suffix(".tmp")
    partial.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows), encoding="utf-8")
    partial.replace(path)


def demonstrate(out: Path, *, seed: int, fail_above: float, resume: bool) -> tuple[Report, Found]:
    """Runs the demonstration.

    Args:
      out: gets `data/` (the three datasets), `clean/` (its own report) and the report of both.
      seed, fail_above, resume: as for `validate`.

    Returns:
      The damaged copy's report, with the clean corpus's as its companion; and how well the damage was found.
    """
    rows = standard_library_rows()
    order = np.random.default_rng(0).permutation(len(rows))
    half = len(rows) // 2
    reference, data = [rows[i] for i in order[:half]], [rows[i] for i in order[half:]]
    damaged, bad = spoil(data, DAMAGE_SEED)
    folder = out / "data"
    folder.mkdir(parents=True, exist_ok=True)
    paths = {name: folder / f"{name}.jsonl" for name in ("reference", "clean", "damaged")}
    for name, texts in (("reference", reference), ("clean", data), ("damaged", damaged)):
        write_rows(paths[name], texts)
    clean, spoiled = (
        _run(
            make_request(
                paths[name],
                reference=paths["reference"],
                profile=PROFILE,
                out=out / name,
                seed=seed,
                fail_above=fail_above,
                resume=resume,
            ),
            title,
        )
        for name, title in (("clean", "clean corpus · "), ("damaged", "damaged copy · "))
    )
    report = replace(spoiled, companions=[clean])
    write_report(report, out)
    for name in ("clean", "damaged"):  # not before both are done: an interrupted demonstration goes on from both
        discard_state(out / name)
    return report, _found(out / "damaged" / "flagged_rows.jsonl", bad)


def _run(request: Request, title: str) -> Report:
    with Display(title=title) as display:
        return run_and_write(request, display)


def _found(flagged: Path, bad: Bool[np.ndarray, " n"]) -> Found:
    lines = flagged.read_text(encoding="utf-8").splitlines()
    named = np.unique([json.loads(line)["row"] - 1 for line in lines]).astype(int)
    hits = int(bad[named].sum())
    return Found(hits / max(1, len(named)), hits / max(1, int(bad.sum())))
