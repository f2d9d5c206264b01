"""The plots of the benchmark's page. Each gives SVG text, or None where there is nothing to draw."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from validation.bench.corruptions import CORRUPTIONS
from validation.bench.labels import LEAST_HARM
from validation.bench.summary import VERDICTS, Harm, Labelled, TailHarm
from validation.report import wording
from validation.report.svg import PALETTE, figure, style, to_svg

COLOURS = {"collapsing": PALETTE["fail"], "grey": PALETTE["issue-6"], "clean": PALETTE["pass"]}
ROW, GAP = 0.152, 0.42  # inches of a strength, and rows between corruptions
TICKS = (0.0, LEAST_HARM, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)  # bits per token
LEAST_SHOWN = -0.1
TAIL_CUT = "tail cut"
MOST_BARS = 100.0

# How a strength is written by its unit; all others are shares.
_UNITS = {"copies": "×{:g}", "generation": "g{:g}", "size": ""}


def strength_words(corruption: str, strength: float) -> str:
    """ "×5", "g3" for a third generation, "20 %"; nothing for a corruption without strengths."""
    if corruption not in CORRUPTIONS:  # a table may be older or newer than this version
        return f"{strength:g}"
    form = _UNITS.get(CORRUPTIONS[corruption].unit)
    return f"{100 * strength:g} %" if form is None else form.format(strength)


def level_words(corruption: str, strength: float) -> str:
    """A corruption with its strength: "duplicates · ×5"."""
    return " · ".join(filter(None, (corruption, strength_words(corruption, strength))))


def harm_plot(harms: Sequence[Harm], bars: Sequence[float], highest: float) -> str | None:
    """Harm of every corruption and strength: the mean with its interval, and every corpus as a small dot.

    Args:
      harms: strengths of one corruption together.
      bars: of C1 of these corpora; bits per token.
      highest: harm that the axis has to hold, so that the plots of all kinds have the same.
    """
    if not harms:
        return None
    groups = [list(group) for _, group in groupby(harms, key=lambda harm: harm.corruption)]
    places = [place + GAP * number for number, place in _numbered(groups)]
    with style():
        drawing, (axes,) = figure(0.75 + ROW * places[-1])
        for place, harm in zip(places, harms, strict=True):
            _harm_row(axes, place, harm)
        axes.axvspan(min(bars), max(bars), color=PALETTE["line"], alpha=0.55, linewidth=0)
        axes.axvline(LEAST_HARM, color=PALETTE["ink"], linewidth=0.9)
        _symlog(axes, "x", highest)
        axes.tick_params(axis="x", labeltop=True)
        names = [
            (strength_words if place else level_words)(harm.corruption, harm.strength)
            for group in groups
            for place, harm in enumerate(group)
        ]
        axes.set_yticks(places, names)
        axes.tick_params(axis="y", labelcolor=PALETTE["ink"], labelsize=8.4)
        axes.set_ylim(places[-1] + 0.9, -0.9)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("harm: excess held-out loss (C1), bits per token")
        worst = max(harms, key=lambda harm: harm.mean)
        return to_svg(
            drawing,
            f"Mean harm with 95 % intervals of {len(harms)} corruptions and strengths. Most: "
            f"{level_words(worst.corruption, worst.strength)}, {wording.number(worst.mean)} bits per token.",
        )


def tail_plot(points: Sequence[TailHarm]) -> str | None:
    """Harm on the rarest words against mean harm, tail cuts apart."""
    if not points:
        return None
    with style():
        drawing, (axes,) = figure(4.1)
        for verdict in reversed(VERDICTS):
            own = [p for p in points if p.verdict == verdict and p.corruption != TAIL_CUT]
            axes.plot(
                [p.mean for p in own],
                [p.tail for p in own],
                "o",
                color=COLOURS[verdict],
                markersize=3.2,
                markeredgewidth=0,
                alpha=0.6,
                label=verdict,
            )
        cuts = [p for p in points if p.corruption == TAIL_CUT]
        axes.plot(
            [p.mean for p in cuts],
            [p.tail for p in cuts],
            "D",
            color=PALETTE["control"],
            markersize=4.5,
            markeredgewidth=0,
            label=TAIL_CUT,
        )
        highest = max(max(p.mean, p.tail) for p in points)
        for axis in ("x", "y"):
            _symlog(axes, axis, highest)
        line = [LEAST_SHOWN, 1.5 * highest]
        axes.plot(line, line, color=PALETTE["muted"], linewidth=0.8, linestyle=(0, (4, 3)))
        axes.axvline(LEAST_HARM, color=PALETTE["ink"], linewidth=0.9)
        axes.axhline(LEAST_HARM, color=PALETTE["ink"], linewidth=0.9)
        axes.set_xlabel("mean harm (C1), bits per token")
        axes.set_ylabel("harm on the rarest words (C2 tail)")
        axes.legend(loc="upper left", handlelength=0.8, markerscale=1.4)
        return to_svg(drawing, f"Harm on the rarest words against mean harm of {len(points)} cases.")


def distance_plot(cases: Sequence[Labelled]) -> str | None:
    """How many cases lie how far from the bar by the criterion that is highest, by label."""
    if not cases:
        return None
    edges = np.concatenate([np.linspace(-1, 1, 11), np.geomspace(1, MOST_BARS, 21)[1:]])
    with style():
        drawing, (axes,) = figure(4.1)
        distances = [
            np.clip([c.clearest.mean / c.clearest.bar for c in cases if c.verdict == verdict], -1, MOST_BARS)
            for verdict in VERDICTS
        ]
        axes.hist(distances, edges.tolist(), stacked=True, color=[COLOURS[v] for v in VERDICTS], label=list(VERDICTS))
        axes.axvline(1, color=PALETTE["ink"], linewidth=0.9)
        axes.set_xscale("symlog", linthresh=1, linscale=0.9)
        axes.xaxis.set_major_locator(FixedLocator([0, 1, 3, 10, 30, MOST_BARS]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: "bar" if x == 1 else f"{x:g}×"))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlim(-1, MOST_BARS)
        axes.set_xlabel("mean over the seeds of the clearest criterion, in units of its bar")
        axes.set_ylabel("cases")
        axes.legend(loc="upper right", handlelength=0.8)
        return to_svg(drawing, f"Distance of {len(cases)} cases from the bar, by label.")


def _numbered(groups: Sequence[Sequence[Harm]]) -> list[tuple[int, int]]:
    """The number of its group for every row, and that of the row."""
    numbers = [number for number, group in enumerate(groups) for _ in group]
    return [(number, row) for row, number in enumerate(numbers)]


def _harm_row(axes: Axes, place: float, harm: Harm) -> None:
    colour = COLOURS[harm.majority]
    values = list(harm.by_corpus.values())
    axes.plot(values, [place] * len(values), "o", color=colour, markersize=2.3, markeredgewidth=0, alpha=0.4)
    if harm.interval is not None:
        axes.plot(harm.interval, [place, place], color=colour, linewidth=1.5, solid_capstyle="butt")
    axes.plot([harm.mean], [place], "o", color=colour, markersize=5, markeredgewidth=0)


def _symlog(axes: Axes, axis: str, highest: float) -> None:
    """Linear up to the least bar, logarithmic above."""
    scale, limit, one = (
        (axes.set_xscale, axes.set_xlim, axes.xaxis) if axis == "x" else (axes.set_yscale, axes.set_ylim, axes.yaxis)
    )
    scale("symlog", linthresh=LEAST_HARM, linscale=0.7)
    limit(LEAST_SHOWN, max(1.25 * highest, 4 * LEAST_HARM))
    one.set_major_locator(FixedLocator([tick for tick in TICKS if tick <= max(1.25 * highest, 4 * LEAST_HARM)]))
    one.set_minor_locator(NullLocator())
    one.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
