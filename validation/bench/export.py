"""A case as files that any tool can read: the data to judge, the trusted reference beside it, and which rows are bad."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from validation.bench.cases import Case
from validation.bench.domain import Domain
from validation.bench.rows import Rows


def export(case: Case, domain: Domain, folder: Path) -> list[Path]:
    """Writes a case, and nothing of what its label was measured on.

    Text becomes JSON lines with the fields of its columns, tables and series CSV with a header line.

    Args:
      case: what to write.
      domain: of its corpus.
      folder: made where it is missing; gets `data`, `reference` and `bad_rows.json`, the numbers of the bad rows from 0.

    Returns:
      The three files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    suffix = "jsonl" if case.rows.kind == "text" else "csv"
    data, reference, bad = (folder / name for name in (f"data.{suffix}", f"reference.{suffix}", "bad_rows.json"))
    for path, rows in ((data, case.rows), (reference, domain.trusted)):
        _write_rows(path, rows)
    bad.write_text(json.dumps(case.bad.nonzero()[0].tolist()) + "\n", encoding="utf-8")
    return [data, reference, bad]


def _write_rows(path: Path, rows: Rows) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        if rows.kind == "text":
            file.writelines(json.dumps(dict(zip(rows.columns, cells, strict=True))) + "\n" for cells in rows.cells)
        else:
            csv.writer(file).writerows([rows.columns, *rows.cells])
