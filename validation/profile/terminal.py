"""A profile in a terminal: progress while it works, about a screen when it is done."""

from __future__ import annotations

import time

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from validation.profile.compare import Comparison
from validation.profile.page import Figures, change_words, column_facts, percent
from validation.profile.state import Profile
from validation.report import wording

EVERY_SECONDS = 3.0
SHOWN_COLUMNS = 20
SHOWN_LINES = 5


class ProgressLines:
    """Says every few seconds how far a pass is; call it with the rows done and the rows there are."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._started = self._spoke = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._spoke < EVERY_SECONDS or not done:
            return
        self._spoke = now
        rate = done / (now - self._started)
        left = wording.duration((total - done) / rate) if total > done else "a moment"
        line = (
            f"{wording.compact(done)} of {wording.compact(total)} rows · {wording.compact(rate)} rows/s · {left} left"
        )
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def print_summary(profile: Profile, figures: Figures, comparison: Comparison | None, console: Console) -> None:
    """Prints what a person needs before opening the page; text from the data is printed as it is, never as markup."""
    table = figures.table
    head = f"{profile.source['path']}: {wording.plural(table['rows'], 'row')} of {wording.plural(table['columns'], 'column')}"
    console.print(Text(wording.one_line(head), style="bold"))
    repeated = f"Rows that repeat another: {percent(table['duplicate_row_share'])}."
    skipped = f" Bad rows left out: {table['skipped_rows']:,}." if table["skipped_rows"] else ""
    console.print(Text(repeated + skipped))
    console.print(_columns(figures))
    if len(figures.columns) > SHOWN_COLUMNS:
        console.print(Text(f"and {len(figures.columns) - SHOWN_COLUMNS} more columns, in the page", style="dim"))
    changed = figures.changes[:SHOWN_LINES]
    _lines(
        console,
        "Changes along the file",
        [f"{change.column} ({change.aspect}): {change_words(profile, change)}" for change in changed],
        len(figures.changes),
    )
    strong = [
        f"{p.left}, {p.right}: {p.measure} {p.spearman if p.measure == 'rank correlation' else p.strength:.2f}"
        for p in figures.pairs[:SHOWN_LINES]
    ]
    _lines(console, "Columns that depend on each other", strong, len(figures.pairs))
    console.print(Text(_groups(figures), style="bold"))
    if comparison is not None:
        _comparison(comparison, console)


def _groups(figures: Figures) -> str:
    found = figures.geometry
    if found is None:
        return "Groups of rows: no column tells rows apart"
    rank, vendi = wording.number(found.spread.effective_rank), wording.number(found.spread.vendi_score)
    return (
        f"Groups of rows: {len(found.groups)}; outliers {percent(found.outlier_share)}; "
        f"effective rank {rank} of {found.spread.width}; Vendi score {vendi}"
    )


def _columns(figures: Figures) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False, pad_edge=False)
    for heading in ("Column", "Kind", "What"):
        table.add_column(heading, overflow="fold")
    for column in figures.columns[:SHOWN_COLUMNS]:
        facts = "; ".join(f"{label.lower()} {value}" for label, value in column_facts(column)[:4])
        words = (wording.one_line(column["name"], 30), column["kind"], wording.one_line(facts, 110))
        table.add_row(*(Text(word) for word in words))
    return table


def _lines(console: Console, heading: str, lines: list[str], count: int) -> None:
    console.print(Text(f"{heading}: {count or 'none'}", style="bold"))
    for line in lines:
        console.print(Text(f"  {wording.one_line(line)}"), soft_wrap=True)


def _comparison(comparison: Comparison, console: Console) -> None:
    overall = comparison.overall
    if overall.auc == overall.auc:
        verdict = "can be told apart" if overall.separated else "cannot be told apart"
        chance = f"halves of the reference up to {max(overall.halves):.3f}"
        auc = f"AUC {overall.auc:.3f}, {overall.low:.3f} to {overall.high:.3f}; {chance}"
    else:
        verdict, auc = "were not classified", "too few rows or no shared column"
    console.print(Text(f"Against {comparison.reference}: rows {verdict} ({auc})", style="bold"))
    changed = sorted(comparison.changed, key=lambda one: -(one.effect if one.effect == one.effect else 2))
    lines = [
        f"{one.name}: {one.status}"
        + (f", {one.measure} {one.effect:.3f} (chance {one.chance:.3f})" if one.effect == one.effect else "")
        + (f"; {'; '.join(one.notes)}" if one.notes else "")
        for one in changed
    ]
    _lines(console, "Changed columns", lines[: 3 * SHOWN_LINES], len(lines))
