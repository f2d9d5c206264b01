"""What a run found, as data (`report.json`), as one self-contained page (`report.html`) and as a terminal summary."""

from __future__ import annotations

import os
from pathlib import Path

from validation.report.html import render_html
from validation.report.model import (
    SCHEMA_VERSION,
    Activations,
    Checkpoint,
    Dimension,
    FlaggedRow,
    Interval,
    ModelResult,
    Prediction,
    Recommendation,
    Report,
    Scaling,
    Tier,
    Verdict,
)
from validation.report.notebook import show
from validation.report.terminal import print_summary

__all__ = [
    "SCHEMA_VERSION",
    "Activations",
    "Checkpoint",
    "Dimension",
    "FlaggedRow",
    "Interval",
    "ModelResult",
    "Prediction",
    "Recommendation",
    "Report",
    "Scaling",
    "Tier",
    "Verdict",
    "print_summary",
    "render_html",
    "show",
    "write_report",
]


def write_report(report: Report, out: Path) -> tuple[Path, Path]:
    """Write `report.json` and `report.html` into a folder, each whole or not at all.

    Both texts are made before either file is touched, and each replaces its predecessor in one step, so an interrupted
    run leaves the previous report readable.

    Args:
      report: the finished report.
      out: folder, made if it is missing.

    Returns:
      the paths of the JSON file and of the page.
    """
    texts = {"report.json": report.to_json() + "\n", "report.html": render_html(report)}
    out.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        _replace(out / name, text)
    return out / "report.json", out / "report.html"


def _replace(path: Path, text: str) -> None:
    # A file name that is no UTF-8 reaches the report as a lone surrogate; as an escape it stays valid JSON.
    content = text.encode("utf-8", "backslashreplace")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
