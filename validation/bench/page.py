"""The page that shows the benchmark: what harms how much, by corpus too, and where labels and intuition differ."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from markupsafe import Markup

from validation import report
from validation.bench import plots, summary
from validation.bench.corpora import CORPORA
from validation.bench.domain import STEPS, TAIL_SHARE, TOKENS
from validation.bench.labels import LEAST_HARM, SIGMAS
from validation.bench.outcomes import SEEDS
from validation.bench.plots import level_words, strength_words
from validation.bench.rows import Kind
from validation.bench.summary import VERDICTS, Matrix, Spread
from validation.bench.table import Table
from validation.bench.trends import ORDER, monotone
from validation.report import wording

KINDS: dict[Kind, str] = {"text": "Text", "table": "Tables", "series": "Time series"}
MOST_SURPRISES = 12  # shown before a reader asks for the rest
MOST_TAILS = 8
WHITE, RED = LEAST_HARM, 3.0  # bits per token at the ends of the heat map's scale
PALEST, DEEPEST = 6, 58  # percent of red; text reads on all of them
_HERE, _REPORT = Path(__file__).parent, Path(report.__file__).parent


class Plot(NamedTuple):
    """A plot with its words."""

    title: str
    svg: Markup
    reading: str


class Cell(NamedTuple):
    """One corpus under one corruption: its harm, how red that is in percent, the label, and all of it in words."""

    harm: str
    red: int
    verdict: str
    title: str


class HeatMap(NamedTuple):
    """The corpora of one kind under every corruption at its strongest; None where there is no case."""

    title: str
    columns: list[str]
    rows: list[tuple[str, list[Cell | None]]]


class CorpusLine(NamedTuple):
    """A corpus, where it comes from and what became of its cases."""

    name: str
    kind: str
    licence: str
    source: str
    cases: Counter[str]
    spread: Spread | None


class TailLine(NamedTuple):
    """Mean over the cases of one corruption and strength, bits per token."""

    level: str
    mean: float
    tail: float
    cases: int


def write_page(table: Table, out: Path) -> None:
    """Writes the page, whole or not at all: an earlier one stays until the new one is complete.

    It asks nothing of the network, runs no script and holds no text of any corpus.

    Args:
      table: cases and labels, all or some of them; without a label the page says so.
      out: file, its folder made if it is missing.
    """
    page = _environment().get_template("page.html.jinja").render(_view(table))
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = out.with_name(f".{out.name}.partial")
    unfinished.write_text(page, encoding="utf-8")
    unfinished.replace(out)


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for name in ("number", "signed", "interval", "duration", "plural", "compact"):
        environment.filters[name] = getattr(wording, name)
    environment.filters["of"] = _share
    environment.filters["bits"] = _bits
    environment.globals["level_words"] = level_words
    environment.globals["strength_words"] = strength_words
    return environment


def _share(part: int | float, whole: int | float) -> str:
    """ "12 %", below ten with one digit."""
    percent = 100 * part / whole
    return f"{percent:.0f} %" if percent >= 9.95 or percent == round(percent) else f"{percent:.1f} %"


def _bits(value: float) -> str:
    """Bits per token with a sign, to three digits as the bars are."""
    return f"{value:+.3f}".replace("-", "−")


def _view(table: Table) -> dict[str, Any]:
    """All that the template shows; without a label little more than the counts."""
    cases = summary.labelled(table)
    view: dict[str, Any] = {
        "style": Markup((_REPORT / "style.css").read_text(encoding="utf-8")),
        "verdicts": VERDICTS,
        "status": table.status(),
        "labelled": len(cases),
        "rules": {
            "sigmas": SIGMAS,
            "least": LEAST_HARM,
            "tail": TAIL_SHARE,
            "seeds": len(SEEDS),
            "steps": STEPS,
            "tokens": TOKENS,
        },
    }
    if not cases:
        return view
    trends = monotone(table)
    return view | {
        "kinds": [(KINDS[kind], counts) for kind, counts in summary.counts(table, "kind").items()],
        "corpora": _corpora(table),
        "controls": max((spread.models for spread in summary.spreads(table).values()), default=0),
        "harmless": Counter(case.verdict for case in cases if case.harmless),
        "resamples": Counter(case.verdict for case in cases if case.corruption == "resample"),
        "fired": summary.criteria_fired(table).most_common(),
        "recursion": summary.recursion(table),
        "doubtful": summary.doubtful(table),
        "doubt": sum(case.doubt for case in cases) / len(cases),
        "times": summary.times(table),
        "harm_plots": list(_harm_plots(table)),
        "harms": summary.harm_by_strength(table),
        "heat_maps": list(_heat_maps(table)),
        "tail_plots": _tail_plots(table),
        "tails": _tails(table),
        "trends": trends,
        "outcomes": [(name, n) for name in ORDER if (n := sum(trend.outcome == name for trend in trends))],
        "surprises": summary.surprises(table),
        "wilson": summary.wilson,
        "most": MOST_SURPRISES,
    }


def _harm_plots(table: Table) -> Iterator[Plot]:
    cases = summary.labelled(table)
    highest = max(max(harm.by_corpus.values()) for harm in summary.harm_by_strength(table))
    for kind, title in KINDS.items():
        harms = summary.harm_by_strength(table, kind)
        corpora = {corpus for harm in harms for corpus in harm.by_corpus}
        bars = [case.criteria[0].bar for case in cases if case.kind == kind]
        svg = plots.harm_plot(harms, bars, highest)
        if svg is not None:
            yield Plot(f"{title}: {len(corpora)} corp{'us' if len(corpora) == 1 else 'ora'}", Markup(svg), "")


def _heat_maps(table: Table) -> Iterator[HeatMap]:
    for kind, title in KINDS.items():
        matrix = summary.harm_by_corpus(table, kind)
        if matrix.corpora:
            strongest = _strongest(matrix)
            yield HeatMap(
                title,
                [level_words(*matrix.columns[column]) for column in strongest],
                [
                    (corpus, [_cell(matrix, row, column) for column in strongest])
                    for row, corpus in enumerate(matrix.corpora)
                ],
            )


def _strongest(matrix: Matrix) -> list[int]:
    """Columns of every corruption's greatest strength, in their order."""
    last = {corruption: place for place, (corruption, _) in enumerate(matrix.columns)}  # from weak to strong
    return list(last.values())


def _cell(matrix: Matrix, row: int, column: int) -> Cell | None:
    harm, verdict = float(matrix.harm[row, column]), matrix.verdicts[row][column]
    if not verdict:
        return None
    above = math.log(max(harm, WHITE) / WHITE) / math.log(RED / WHITE)
    red = 0 if harm <= WHITE else round(PALEST + (DEEPEST - PALEST) * min(above, 1.0))
    title = f"{matrix.corpora[row]}, {level_words(*matrix.columns[column])}: {wording.signed(harm)} bits, {verdict}"
    return Cell(_short(harm), red, verdict, title)


def _short(value: float) -> str:
    """Two digits in little room: ".35", "4.7", "−.02"."""
    digits = 2 if abs(value) < 0.995 else 1 if abs(value) < 9.95 else 0
    text = f"{abs(value):.{digits}f}".removeprefix("0")
    return f"−{text}" if value < -0.005 else text


def _tail_plots(table: Table) -> list[Plot]:
    drawn = [
        (
            plots.tail_plot(summary.tail_against_mean(table)),
            "Rare words against the mean",
            "A dot is a case. On the dashed line rare words suffer as much as all words do; above it the mean hides harm. "
            "Solid lines: the least bar.",
        ),
        (
            plots.distance_plot(summary.labelled(table)),
            "How far cases lie from the bar",
            "The criterion that is highest in units of its own bar, so a case right of the bar collapses unless its seeds "
            "disagree. A clear benchmark has few cases near it.",
        ),
    ]
    return [Plot(title, Markup(svg), reading) for svg, title, reading in drawn if svg is not None]


def _tails(table: Table) -> list[TailLine]:
    """Where rare words suffer most beyond the mean."""
    points = summary.tail_against_mean(table)
    groups: dict[str, list[summary.TailHarm]] = {}
    for point in points:
        groups.setdefault(level_words(point.corruption, point.strength), []).append(point)
    lines = [
        TailLine(level, sum(p.mean for p in own) / len(own), sum(p.tail for p in own) / len(own), len(own))
        for level, own in groups.items()
    ]
    return sorted(lines, key=lambda line: line.mean - line.tail)[:MOST_TAILS]


def _corpora(table: Table) -> list[CorpusLine]:
    """Kinds in their order, corpora by name."""
    kinds = {case["corpus"]: case["kind"] for _, case in table.cases.items()}
    spreads, counts = summary.spreads(table), summary.counts(table, "corpus")
    lines = []
    for name in sorted(counts, key=lambda name: (list(KINDS).index(kinds[name]), name)):
        corpus = CORPORA.get(name)  # a table may be older or newer than this version
        licence, source = (corpus.licence, corpus.source) if corpus else ("unknown to this version", "unknown")
        lines.append(CorpusLine(name, kinds[name], licence, source, counts[name], spreads.get(name)))
    return lines
