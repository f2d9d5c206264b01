"""The command line: `python -m validation.sampling DATA --rows 100000 --out SAMPLE.parquet`."""

from __future__ import annotations

import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Annotated

import pyarrow as pa
import tyro
from rich.console import Console

from validation.datasets import DatasetError, open_table
from validation.profile import load
from validation.sampling.checks import Check
from validation.sampling.first_look import look_of
from validation.sampling.stratified import Sample, stratified_sample

PASS, BAD_INPUT, NOT_HELD, INTERRUPTED = 0, 2, 3, 130
LINE_EVERY_SECONDS, BAR_EVERY_SECONDS = 10.0, 0.2
SHOWN = {"distribution": "distance of distributions", "correlation": "correlation", "entropy": "entropy, bits"}


@dataclass(frozen=True)
class Options:
    """Draws a stratified sample with weights, and verifies it against the whole.

    The sample is a Parquet file with file, row, weight, stratum and outlier before the data's own columns; a JSON file
    beside it says what it was drawn from and how close it came. Exit codes: 0 done, 2 bad input, 3 the sample is written
    but further from the whole than chance allows, 130 interrupted.
    """

    data: Annotated[str, tyro.conf.Positional]
    """File, folder, glob or URI, of any format that `open_table` reads."""
    rows: int
    """Rows to draw."""
    out: Path
    """The Parquet file to write."""
    seed: int = 0
    """Decides which rows."""
    label: str | None = None
    """Column whose values are to be represented each."""
    profile: Path | None = None
    """A profile of the same data by `python -m validation.profile`; its sample saves the first pass."""
    workers: int | None = None
    """Threads; one a core if not given."""
    skip_bad_rows: bool = False
    """Leave out rows that cannot be read instead of stopping."""


class Display:
    """How far the passes are, on standard error: one line that changes in a terminal, a line every ten seconds elsewhere."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._stage, self._began, self._spoke = "", 0.0, 0.0

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Told of the rows done in a stage."""
        now = time.monotonic()
        if stage != self._stage:
            self._stage, self._began = stage, now
        every = BAR_EVERY_SECONDS if self._console.is_terminal else LINE_EVERY_SECONDS
        if now - self._spoke < every and done < total:
            return
        self._spoke = now
        elapsed = now - self._began
        left = f", about {elapsed * (total - done) / done:.0f} s left" if elapsed > 1 and done < total else ""
        text = f"{stage}: {done:,} of {total:,} rows{left}"
        terminal = self._console.is_terminal and done < total
        self._console.print(f"{text:<72}" if self._console.is_terminal else text, end="\r" if terminal else "\n")


def summary(sample: Sample) -> str:
    """A few lines for a person."""
    found = sample.verification
    bad = f"; {sample.skipped:,} bad rows left out" if sample.skipped else ""
    lines = [
        f"{sample.rows:,} of {sample.total:,} rows in {sample.path}, {sample.outliers:,} of them outliers{bad}",
        f"{len(sample.strata)} strata; as exact as {found.effective_rows:,.0f} rows drawn evenly",
        f"any share estimated with the weights is off by at most {found.margin:.2%}, with {found.confidence:.0%} confidence",
    ]
    for kind, shown in SHOWN.items():
        worst = found.worst(kind)
        if worst is not None:
            lines.append(_line(shown, worst, sum(check.kind == kind for check in found.checks)))
    return "\n".join(lines)


def _line(shown: str, worst: Check, count: int) -> str:
    verdict = "within" if worst.held else "BEYOND"
    where = " and ".join(worst.columns)
    return f"{shown}: at most {worst.difference:.4f} ({where}; {count} checked), {verdict} chance ({worst.bound:.4f})"


def _run(options: Options, console: Console, errors: Console) -> int:
    table = open_table(options.data, skip_bad_rows=options.skip_bad_rows)
    sample = stratified_sample(
        table,
        options.rows,
        options.out,
        seed=options.seed,
        label=options.label,
        look=None if options.profile is None else look_of(load(options.profile), table),
        workers=options.workers,
        progress=Display(errors),
    )
    console.print(summary(sample))
    return PASS if sample.verification.held else NOT_HELD


def _terminated(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    options = tyro.cli(
        Options, prog="python -m validation.sampling", args=arguments, config=(tyro.conf.FlagCreatePairsOff,)
    )
    before = signal.signal(signal.SIGTERM, _terminated)
    errors = Console(stderr=True, soft_wrap=True, highlight=False, markup=False, emoji=False)
    try:
        return _run(options, Console(soft_wrap=True, highlight=False, markup=False, emoji=False), errors)
    except KeyboardInterrupt:
        errors.print("\nInterrupted; nothing was written.")
        return INTERRUPTED
    except (DatasetError, ValueError, OSError, pa.ArrowException) as error:
        errors.print(f"error: {error}")
        return BAD_INPUT
    finally:
        signal.signal(signal.SIGTERM, before)  # whoever called us from Python has a handler of their own


if __name__ == "__main__":
    sys.exit(main())
