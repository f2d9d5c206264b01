"""The report in about 25 lines of a terminal."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from validation.report import wording
from validation.report.model import Report

_SHOWN_ROWS = 4
_SHOWN_RECOMMENDATIONS = 3
_NARROW = 84
_STYLES = {"pass": "bold green", "fail": "bold red", "unknown": "bold yellow"}


def print_summary(report: Report, console: Console) -> None:
    """Print what a person needs from a report before opening the page.

    Args:
      report: the finished report; its text is printed as it is, never as markup or terminal commands.
      console: where to print; width, colour and encoding are its own.
    """
    for line in _verdict(report):
        console.print(_encodable(line, console))
    console.print(_dimensions(report, console))
    for heading, lines in (("Flagged rows", _flagged(report, console)), ("What to do", _recommendations(report))):
        console.print(_encodable(Text(heading, style="bold"), console))
        for line in lines:
            if line.no_wrap:  # a command is copied, so it stays on one line whatever the width
                console.print(Text("  ") + _encodable(line, console), soft_wrap=True)
            else:
                console.print(Padding(_encodable(line, console), (0, 0, 0, 2), expand=False))
    for line in _companions(report):
        console.print(_encodable(line, console))


def _verdict(report: Report) -> list[Text]:
    verdict = report.verdict
    word = wording.result(verdict.passed)
    head = Text.assemble(
        (f" {word.upper()} ", f"{_STYLES[word]} reverse"),
        (f" risk {wording.risk_points(verdict.risk)} of 100", "bold"),
        f" (fails above {wording.number(verdict.fail_above)})",
        f" · {'calibrated' if verdict.calibrated else 'uncalibrated score'}",
        f" · type {wording.one_line(verdict.type)}" if verdict.type else "",
        f" · {wording.one_line(wording.report_name(report))}",
    )
    lines = [head, Text(wording.one_line(verdict.summary))]
    unknown = wording.unknown_dimensions(report)
    if unknown:
        lines.append(Text(f"Unknown on {len(unknown)} of {len(report.dimensions)} dimensions.", style="yellow"))
    if report.prescreen is not None:
        lines.append(Text(wording.one_line(wording.screened(report.prescreen))))
    note = wording.one_line(verdict.minimum_detectable_harm_note)
    return [*lines, Text(f"{wording.detectable_harm(verdict)} {note}".rstrip(), style="cyan")]


def _dimensions(report: Report, console: Console) -> Table:
    wide = console.width >= _NARROW
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False, pad_edge=False)
    table.add_column("Dimension", overflow="fold")
    table.add_column("Value", justify="right", overflow="fold")
    for heading in ("Control", "Bar") if wide else ():
        table.add_column(heading, justify="right", overflow="fold")
    table.add_column("Score", justify="right", no_wrap=True)
    table.add_column("Result", no_wrap=True)
    for dimension in report.dimensions:
        word = wording.result(dimension.passed)
        value = wording.number(dimension.value)
        if dimension.value is not None:
            value = f"{value} {wording.one_line(dimension.unit)}"
        wide_cells = [wording.number(dimension.control), wording.bar(dimension)] if wide else []
        words = [wording.one_line(dimension.name), value, *wide_cells, wording.risk_points(dimension.score)]
        table.add_row(*(_encodable(Text(w), console) for w in words), Text(word, style=_STYLES[word]))
    return table


def _flagged(report: Report, console: Console) -> list[Text]:
    if not report.flagged_counts:
        return [Text("None.")]
    counts = ", ".join(f"{wording.one_line(issue)} {n:,}" for issue, n in report.flagged_counts.items())
    first_of_issue = {row.issue: row for row in reversed(report.flagged_rows)}
    rows = []
    for issue in [issue for issue in report.flagged_counts if issue in first_of_issue][:_SHOWN_ROWS]:
        row = first_of_issue[issue]
        line = Text(wording.one_line(f"{row.file}:{row.row} {row.issue}, {row.detail}: {row.text}"), style="dim")
        line.truncate(max(console.width - 2, 20), overflow="ellipsis")
        rows.append(line)
    listed = f"{wording.plural(len(report.flagged_rows), 'row')} in the page, with text and evidence."
    return [Text(counts), *rows, Text(listed, style="dim")]


def _recommendations(report: Report) -> list[Text]:
    ordered = sorted(report.recommendations, key=lambda recommendation: recommendation.priority)
    if not ordered:
        return [Text("Nothing: no finding asks for a change.")]
    lines = []
    for one in ordered[:_SHOWN_RECOMMENDATIONS]:
        rows = f" ({wording.plural(one.rows, 'row')})" if one.rows else ""
        action = f"{one.priority}. {wording.one_line(one.action).rstrip('.')}{rows}. {wording.gain(one)}"
        lines.append(Text(action))
        if one.command:
            lines.append(Text(f"   {wording.one_line(one.command)}", style="bold", no_wrap=True))
    left = len(ordered) - _SHOWN_RECOMMENDATIONS
    return [*lines, Text(f"and {left} more, in the page", style="dim")] if left > 0 else lines


def _companions(report: Report) -> list[Text]:
    lines = []
    for other in report.companions:
        mine, theirs = (
            f"{wording.one_line(wording.report_name(one))} {wording.result(one.verdict.passed).upper()} "
            f"(risk {wording.risk_points(one.verdict.risk)})"
            for one in (report, other)
        )
        lines.append(Text(f"Compared: {mine} against {theirs}", style="bold"))
    return lines


def _encodable(text: Text, console: Console) -> Text:
    """The text with characters that the console's encoding lacks written as escapes, so that printing cannot fail."""
    plain = text.plain.encode(console.encoding, "backslashreplace").decode(console.encoding)
    if plain == text.plain:
        return text
    return Text(plain, style=text.style, no_wrap=text.no_wrap)
