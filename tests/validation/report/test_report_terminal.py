"""The terminal summary: short, complete, and printing nothing that the terminal would obey."""

from __future__ import annotations

import dataclasses
import io

import pytest
from report_example import NASTY, example, without_measurements
from rich.console import Console

from validation.report import FlaggedRow, print_summary


def printed(report, width=110, encoding="utf-8", **options) -> str:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding, newline="\n")
    print_summary(report, Console(file=file, width=width, **options))
    file.flush()
    return raw.getvalue().decode(encoding)


def test_summary_shows_verdict_dimensions_rows_advice_and_harm():
    report = example(companions=True)
    text = printed(report)
    assert "FAIL  risk 94 of 100 (fails above 50) · uncalibrated score · type duplication · damaged.jsonl" in text
    assert "Minimum detectable harm: 0.041 bits per token" in text
    assert "Unknown on 1 of 7 dimensions." in text
    for dimension in report.dimensions:
        assert dimension.name in text
    assert "exact duplicate 3,102" in text
    assert "damaged.jsonl:" in text
    assert "1. Remove exact duplicates (3,102 rows)." in text
    assert "Compared: damaged.jsonl FAIL (risk 94) against clean.jsonl PASS (risk 23)" in text
    assert len(text.splitlines()) <= 36


def test_pass_without_control_says_what_it_does_not_rule_out():
    text = printed(example("own.jsonl", 0.0, with_control=False))
    assert "PASS" in text
    assert "no size of harm was ruled out" in text
    assert "unknown" in text
    assert "None\n" not in text
    assert "nan" not in text


def test_colour_appears_only_where_the_console_has_it():
    assert "\x1b[" not in printed(example())
    assert "\x1b[" not in printed(example(), no_color=True)
    assert "\x1b[" in printed(example(), force_terminal=True, no_color=False)


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "cp1252"])
def test_hostile_text_is_neither_markup_nor_terminal_command(encoding):
    report = example()
    rows = [FlaggedRow(i + 1, "a[red].txt", f"[b]issue {i}[/b]", 1.0, text, text) for i, text in enumerate(NASTY)]
    verdict = dataclasses.replace(report.verdict, summary=NASTY[2] + NASTY[3] + "[/nothing open]", type="[b]")
    report = dataclasses.replace(
        report, verdict=verdict, flagged_rows=rows, flagged_counts={row.issue: 1 for row in rows}
    )
    text = printed(report, encoding=encoding, width=200)
    assert "[bold red]not markup[/bold red] [/]" in text
    assert "\\x1b[2J" in text
    assert "a[red].txt:1 [b]issue 0[/b]" in text
    assert not {"\x1b", "\x00", "\u202e"} & set(text)


@pytest.mark.parametrize("width", [40, 60, 84, 200])
def test_lines_fit_the_terminal_except_commands(width):
    lines = printed(example(), width=width).splitlines()
    assert max(len(line) for line in lines if "python -m" not in line) <= width
    command = example().recommendations[1].command
    assert command is not None
    assert any(command in line for line in lines)


def test_nothing_measured_still_prints():
    text = printed(without_measurements(example()))
    assert "Flagged rows\n  None." in text
    assert "Nothing: no finding asks for a change." in text
    assert text.count("not measured") >= 7
