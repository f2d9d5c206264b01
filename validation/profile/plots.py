"""The plots of a profile's page. Each gives SVG text, or None where there is nothing to draw."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from validation.profile.cells import seconds
from validation.profile.column import Column
from validation.profile.compare import Comparison
from validation.profile.dependence import Pair
from validation.profile.drift import Change
from validation.profile.figures import Distribution, distribution, iso_time, top_values
from validation.profile.state import Profile
from validation.report import wording
from validation.report.svg import PALETTE, figure, style, to_svg

BARS = 40
TOP = 8
LARGEST = 1e300
_MOST_LANES = 12
_MOST_CELLS = 24
_CARD = 3.7  # inches of a card's width
_BLUE, _ORANGE = PALETTE["tier-2"], PALETTE["control"]


def column_plot(profile: Profile, column: Column, reference: Profile | None = None) -> str | None:
    """A histogram of numbers, dates and lengths; bars of the most frequent values of everything else."""
    spread = distribution(profile, column)
    if spread.values.size > 1 and _drawable(spread):
        same = _same_column(column, reference)
        other = None if same is None or reference is None else distribution(reference, same)
        if other is not None and same is not None:
            unit = seconds(same.leaf.type) / seconds(column.leaf.type)
            other = other._replace(values=other.values * unit)
        return _histogram(column, spread, None if other is None or not _drawable(other) else other)
    values = top_values(profile, column, TOP)
    if not values or values[0].count == 1:
        return None
    counts = [value.count for value in values]
    rest = column.rows - column.nulls - sum(counts)
    names = [wording.one_line(str(value.value), 26) or "(empty)" for value in values]
    if rest > 0:
        names.append("all others")
        counts.append(rest)
    with style():
        drawing, (axes,) = figure(0.55 + 0.22 * len(names))
        drawing.set_figwidth(_CARD)
        colours = [_BLUE] * len(values) + [PALETTE["line"]]
        axes.barh(range(len(names)), counts, color=colours[: len(names)], height=0.7)
        axes.set_yticks(range(len(names)), names)
        axes.tick_params(axis="y", labelcolor=PALETTE["ink"])
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.grid(axis="y", visible=False)
        _counts(axes, "x")
        axes.set_xlabel("rows")
        words = ", ".join(f"{name} {count:,}" for name, count in zip(names, counts, strict=True))
        return to_svg(drawing, f"Most frequent values: {words}.")


def _drawable(spread: Distribution) -> bool:
    """Whether an axis can hold the numbers and tell them apart."""
    most = np.abs(spread.values).max(initial=0.0)
    return bool(most < LARGEST and np.ptp(spread.values) > 1e-12 * most) if spread.values.size else False


def _same_column(column: Column, reference: Profile | None) -> Column | None:
    if reference is None:
        return None
    alike = [c for c in reference.columns if (c.leaf.name, c.leaf.kind) == (column.leaf.name, column.leaf.kind)]
    return alike[0] if alike else None


def _histogram(column: Column, spread: Distribution, other: Distribution | None) -> str:
    both = [spread] if other is None or not other.values.size else [spread, other]
    low = min(one.quantile(0.005) for one in both)
    high = max(one.quantile(0.995) for one in both)
    if not high > low:
        low, high = float(spread.values[0]), float(spread.values[-1])
    logarithmic = low >= 0 and spread.quantile(0.5) > 0 and high > 100 * spread.quantile(0.5)
    edges = _edges(spread, low, high, logarithmic)
    with style():
        drawing, (axes,) = figure(1.5)
        drawing.set_figwidth(_CARD)
        for one, colour in zip(both, (_BLUE, _ORANGE), strict=False):
            inside = (one.values >= edges[0]) & (one.values <= edges[-1])
            mass = np.histogram(one.values[inside], edges, weights=one.mass[inside])[0]
            shares = 100 * mass / one.mass.sum()
            if colour == _BLUE:
                axes.bar(edges[:-1], shares, np.diff(edges), align="edge", color=colour, linewidth=0)
            else:
                axes.stairs(shares, edges, color=colour, linewidth=1.4)
        if logarithmic:
            axes.set_xscale("log")
        else:
            whole = bool((spread.values == np.floor(spread.values)).all())
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=whole))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: _value(x, column, high - low)))
        axes.set_xlim(edges[0], edges[-1])
        axes.set_ylabel("% of rows")
        axes.grid(axis="x", visible=False)
        axes.set_xlabel({"text": "bytes of a row", "list": "length"}.get(column.leaf.kind, ""))
        middle = _value(spread.quantile(0.5), column, high - low)
        return to_svg(drawing, f"Histogram of {wording.one_line(column.leaf.name)}; median {middle}.")


def _edges(spread: Distribution, low: float, high: float, logarithmic: bool) -> np.ndarray:
    whole = bool((spread.values == np.floor(spread.values)).all())
    if logarithmic:
        return np.geomspace(max(low, high / 1e6, 1 if whole else 0), high, BARS + 1)
    if whole and high - low < 2 * BARS:
        return np.arange(math.floor(low), math.floor(high) + 2) - 0.5
    if whole:  # bars of equal numbers of integers, or some would stand out for holding one more
        step = math.ceil((high - low + 1) / BARS)
        return np.arange(low, high + step + 1, step) - 0.5
    return np.linspace(low, high, BARS + 1)


def _value(value: float, column: Column, reach: float) -> str:
    if column.leaf.kind == "date":
        text = iso_time(round(value), column.leaf.type)
        days = reach * seconds(column.leaf.type) / 86_400
        return text[:10] if days > 30 else text[5:16].replace("T", " ")
    if abs(value) >= 10_000:
        return wording.compact(value) if abs(value) < 1e15 else f"{value:.2g}"
    return f"{value:.4g}"


def changes_plot(profile: Profile, changes: Sequence[Change]) -> str | None:
    """Where along the files columns change: one lane a column and aspect, deeper where the effect is larger."""
    lanes: dict[tuple[str, str], list[Change]] = {}
    for change in changes:
        lanes.setdefault((change.column, change.aspect), []).append(change)
    if not lanes:
        return None
    shown = list(lanes.items())[:_MOST_LANES]
    segments = profile.segments.settled()
    ends = np.cumsum(segments.rows[:, 0])
    place = {
        (int(f), int(r)): int(end - n)
        for (f, _), (n, r, _), end in zip(segments.place, segments.rows, ends, strict=True)
    }
    stop = {
        (int(f), int(r)): int(end) for (f, _), (_, _, r), end in zip(segments.place, segments.rows, ends, strict=True)
    }
    with style():
        drawing, (axes,) = figure(0.75 + 0.28 * len(shown))
        for lane, (_, here) in enumerate(shown):
            largest = max(change.effect for change in here)
            for change in here:
                first = place[change.file >> segments.files_shift, change.row]
                last = stop[change.last_file >> segments.files_shift, change.last_row]
                depth = 0.25 + 0.75 * change.effect / largest
                axes.barh(
                    lane, last - first, left=first, height=0.66, color=PALETTE["issue-1"], alpha=depth, linewidth=0
                )
        axes.set_yticks(range(len(shown)), [wording.one_line(f"{name}: {aspect}", 34) for (name, aspect), _ in shown])
        axes.tick_params(axis="y", labelcolor=PALETTE["ink"])
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.set_xlim(0, profile.rows)
        axes.set_xlabel("rows, all files one after the other" if len(profile.files) > 1 else "rows")
        _counts(axes, "x")
        axes.grid(axis="y", visible=False)
        return to_svg(drawing, f"Runs of rows that differ from the rest, in {len(lanes)} lanes.")


def dependence_plot(pairs: Sequence[Pair]) -> str | None:
    """Strength of dependence between the columns that have any."""
    real = [pair for pair in pairs if pair.measure != "missing together"]
    names = list(dict.fromkeys(name for pair in real for name in (pair.left, pair.right)))[:_MOST_CELLS]
    if len(names) < 3:
        return None
    strength = np.full((len(names), len(names)), np.nan)
    for pair in real:
        if pair.left in names and pair.right in names:
            a, b = names.index(pair.left), names.index(pair.right)
            strength[max(a, b), min(a, b)] = pair.strength
    with style():
        drawing, (axes,) = figure(1.2 + 0.24 * len(names))
        for (row, column), value in np.ndenumerate(strength):
            if not math.isnan(value):
                axes.barh(
                    row, 0.92, left=column - 0.46, height=0.92, color=_BLUE, alpha=0.1 + 0.9 * value**1.5, linewidth=0
                )
                if len(names) <= 14:
                    axes.text(column, row, f"{value:.2f}".lstrip("0"), ha="center", va="center", fontsize=8)
        axes.set_yticks(range(1, len(names)), [wording.one_line(name, 18) for name in names[1:]])
        axes.set_xticks(
            range(len(names) - 1), [wording.one_line(name, 18) for name in names[:-1]], rotation=45, ha="right"
        )
        axes.set_xlim(-0.6, len(names) - 1.4)
        axes.set_ylim(len(names) - 0.4, 0.4)
        axes.grid(visible=False)
        return to_svg(drawing, f"Dependence between {len(names)} columns.")


def zipf_plot(column: Column) -> str | None:
    """Counts of words by their rank."""
    if column.text is None:
        return None
    counts, ranks = column.text.ranked()
    if not ranks.size or ranks[-1] < 20:
        return None
    wanted = np.unique(np.geomspace(1, ranks[-1], 200).astype(np.int64))
    with style():
        drawing, (axes,) = figure(2.6)
        axes.plot(wanted, counts[np.searchsorted(ranks, wanted)], color=_BLUE, linewidth=1.6)
        axes.set_xscale("log")
        axes.set_yscale("log")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda x, _: wording.compact(x)))
        axes.set_xlabel("rank of a word")
        axes.set_ylabel("times it occurs")
        return to_svg(drawing, f"Counts of words by rank: {ranks[-1]:,.0f} words.")


def comparison_plot(comparison: Comparison) -> str | None:
    """Effect in each column beside what chance gives."""
    shown = sorted((c for c in comparison.columns if math.isfinite(c.effect)), key=lambda c: -c.effect)[:20]
    if not shown:
        return None
    with style():
        drawing, (axes,) = figure(0.75 + 0.24 * len(shown))
        for lane, one in enumerate(shown):
            colour = PALETTE["fail"] if one.status == "changed" else PALETTE["pass"]
            axes.barh(lane, one.effect, height=0.62, color=colour, linewidth=0)
            axes.plot([one.chance, one.chance], [lane - 0.4, lane + 0.4], color=PALETTE["ink"], linewidth=1.4)
        axes.set_yticks(range(len(shown)), [wording.one_line(one.name, 28) for one in shown])
        axes.tick_params(axis="y", labelcolor=PALETTE["ink"])
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.set_xlim(0, max(0.1, 1.05 * shown[0].effect))
        axes.set_xlabel("effect, 0 to 1; black: the largest between halves of the reference")
        axes.grid(axis="y", visible=False)
        return to_svg(drawing, f"Effects in {len(shown)} columns; {len(comparison.changed)} changed.")


def _counts(axes: Axes, which: str) -> None:
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(MaxNLocator(6, integer=True))
    axis.set_major_formatter(FuncFormatter(lambda x, _: wording.compact(x)))
