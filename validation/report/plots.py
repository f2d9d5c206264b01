"""The plots of the report. Each gives SVG text, or None where the report holds nothing to draw."""

from __future__ import annotations

import statistics
from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from validation.diversity.statistics import QUANTILES
from validation.report import wording
from validation.report.model import Dimension, ModelResult, Prediction, Report, Scaling, Tier
from validation.report.svg import PALETTE, figure, style, to_svg

_MOST_LANES = 10


def learning_curves(report: Report) -> str | None:
    """Training loss by tokens seen: one line a model, controls dashed."""
    models = [(tier.tier, model) for tier in report.tiers for model in tier.models if model.curve]
    if not models:
        return None
    with style():
        drawing, (axes,) = figure(3.4)
        for tier, model in models:
            tokens, loss = zip(*model.curve, strict=True)
            control = model.role == "control"
            colour = PALETTE["control" if control else f"tier-{tier}"]
            axes.plot(tokens, loss, color=colour, linewidth=1.1, alpha=0.85, linestyle=(0, (4, 2)) if control else "-")
        for name, colour, dashes in _legend_entries(report.tiers):
            axes.plot([], [], color=colour, linewidth=1.8, linestyle=dashes, label=name)
        # The first steps fall from a level that says nothing about the data; they may leave the frame.
        losses = np.concatenate([np.array([loss for _, loss in model.curve]) for _, model in models])
        floor, ceiling = float(losses.min()), float(np.quantile(losses, 0.985))
        axes.set_ylim(floor - 0.05 * (ceiling - floor), ceiling)
        _log_axis(axes, "tokens seen")
        axes.set_ylabel("training loss, bits per token")
        axes.legend(loc="upper right", handlelength=1.6)
        return to_svg(drawing, f"Training loss by tokens seen for {len(models)} models.")


def scaling_curves(report: Report) -> str | None:
    """Held-out loss at the decayed checkpoints, the fitted law and the tier-3 prediction beside what came of it."""
    tiers = [tier for tier in report.tiers if any(m.checkpoints for m in tier.models if m.role == "data")]
    if not tiers:
        return None
    with style():
        drawing, (axes,) = figure(3.4)
        for tier in tiers:
            colour = PALETTE[f"tier-{tier.tier}"]
            points = [(c.tokens, c.loss) for m in tier.models if m.role == "data" for c in m.checkpoints]
            tokens, loss = zip(*points, strict=True)
            name = f"tier {tier.tier}"
            axes.plot(tokens, loss, "o", color=colour, markersize=3.5, markeredgewidth=0, alpha=0.7, label=name)
            if report.scaling is not None:
                grid = np.geomspace(min(tokens) * 0.9, max(tokens) * 1.1, 60)
                axes.plot(grid, _fitted(report.scaling, tier.parameters, grid), color=colour, linewidth=1.4)
        if report.scaling is not None:
            used = report.scaling.points
            style_of_used = {
                "markersize": 6.5,
                "markeredgewidth": 1,
                "color": "none",
                "markeredgecolor": PALETTE["muted"],
            }
            axes.plot(
                [p["tokens"] for p in used], [p["loss"] for p in used], "o", label="fitted points", **style_of_used
            )
            largest = max(tiers, key=lambda tier: tier.tier)
            _prediction(axes, report.scaling.prediction, float(largest.tokens_per_model))
        _log_axis(axes, "tokens seen")
        axes.set_ylabel("held-out loss, bits per token")
        axes.legend(loc="upper right", handlelength=1.2)
        return to_svg(
            drawing, "Held-out loss by tokens seen at the checkpoints of each tier, with the fitted scaling law."
        )


def dimension_scores(report: Report) -> str | None:
    """Points of risk by dimension against the bar at 50; a dimension without an answer says so."""
    if not report.dimensions:
        return None
    with style():
        drawing, (axes,) = figure(0.7 + 0.3 * len(report.dimensions))
        for place, dimension in enumerate(report.dimensions):
            _score_bar(axes, place, dimension)
        axes.axvline(50, color=PALETTE["ink"], linewidth=1.2)
        axes.set_yticks(range(len(report.dimensions)), [wording.one_line(d.name, 28) for d in report.dimensions])
        axes.tick_params(axis="y", labelcolor=PALETTE["ink"])
        axes.set_ylim(len(report.dimensions) - 0.4, -0.6)
        axes.set_xlim(0, 108)
        axes.set_xticks([0, 25, 50, 75, 100], ["0", "25", "50 bar", "75", "100"])
        axes.set_xlabel("points of risk")
        axes.grid(axis="y", visible=False)
        words = [f"{d.name} {wording.risk_points(d.score)}" for d in report.dimensions]
        return to_svg(drawing, f"Points of risk, the bar lies at 50: {wording.one_line(', '.join(words))}.")


def final_losses(report: Report) -> str | None:
    """Held-out loss of every model at the end, data against control, on scales of equal width for all tiers."""
    tiers = [tier for tier in report.tiers if tier.models]
    if not tiers:
        return None
    ranges = [(min(m.loss for m in t.models), max(m.loss for m in t.models)) for t in tiers]
    width = max(max(high - low for low, high in ranges) * 1.35, 1e-3)
    with style():
        drawing, panels = figure(0.5 + 0.9 * len(tiers), rows=len(tiers))
        for axes, tier, (low, high) in zip(panels, tiers, ranges, strict=True):
            centre = (low + high) / 2
            axes.set_xlim(centre - width / 2, centre + width / 2)
            _strip(axes, tier)
        panels[-1].set_xlabel("held-out loss at the end, bits per token")
        words = [
            f"tier {t.tier}: data {wording.number(t.loss)}, control {wording.number(t.control_loss)}" for t in tiers
        ]
        return to_svg(drawing, f"Final held-out loss per model. Means in bits per token: {'; '.join(words)}.")


def flagged_positions(report: Report) -> str | None:
    """Where in each file the flagged rows lie, one lane an issue, most frequent first."""
    lanes: dict[tuple[str, str], list[int]] = {}
    for row in report.flagged_rows:
        lanes.setdefault((row.file, row.issue), []).append(row.row)
    if not lanes:
        return None
    shown = sorted(lanes.items(), key=lambda lane: (-len(lane[1]), lane[0]))[:_MOST_LANES]
    several = len({file for file, _ in lanes}) > 1
    with style():
        drawing, (axes,) = figure(0.75 + 0.3 * len(shown))
        for place, ((_, issue), rows) in enumerate(shown):
            axes.vlines(
                rows, place - 0.36, place + 0.36, color=PALETTE[issue_name(report, issue)], linewidth=1.1, alpha=0.75
            )
        names = [
            wording.one_line(f"{issue}, {wording.one_line(file, 16)}" if several else issue, 36)
            for (file, issue), _ in shown
        ]
        axes.set_yticks(range(len(shown)), names)
        axes.tick_params(axis="y", labelcolor=PALETTE["ink"])
        axes.set_ylim(len(shown) - 0.4, -0.6)
        last = max(max(rows) for rows in lanes.values())
        length = last if several else max(int(report.data["rows"]), last)
        axes.set_xlim(-0.01 * length, 1.01 * length)
        axes.set_xlabel("row number in its file" if several else "row number")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.grid(axis="y", visible=False)
        return to_svg(drawing, f"Positions of {len(report.flagged_rows):,} flagged rows, by issue.")


def row_lengths(report: Report) -> str | None:
    """Share of rows up to each length, from the length quantiles of the statistics pass."""
    quantiles = length_quantiles(report)
    if not quantiles:
        return None
    with style():
        drawing, (axes,) = figure(2.8)
        # Rows of length zero have no place on a logarithmic axis; they stand at one.
        lengths = [max(length, 1) for length in quantiles.values()]
        axes.plot(lengths, list(quantiles), "o-", color=PALETTE["tier-2"], markersize=4, linewidth=1.4)
        if 50 in quantiles:
            place = (max(quantiles[50], 1), 50)
            words = f"median {wording.number(quantiles[50])}"
            axes.annotate(words, place, xytext=(8, -3), textcoords="offset points", color=PALETTE["ink"])
        _log_axis(axes, "length of a row, bytes")
        axes.set_ylabel("% of rows up to this length")
        axes.set_ylim(-4, 104)
        return to_svg(
            drawing, f"Row lengths in bytes: {', '.join(f'{p:g} % up to {n:g}' for p, n in quantiles.items())}."
        )


def length_quantiles(report: Report) -> dict[float, float]:
    """Bytes of a row by percent of rows no longer than that, in order; empty where not measured.

    The statistics pass gives them as a list at its own `QUANTILES`; a dictionary from percent to bytes is as good.
    """
    values = report.data.get("statistics", {}).get("length_quantiles", report.data.get("length_quantiles", {}))
    pairs = values.items() if isinstance(values, Mapping) else zip(QUANTILES, values, strict=True)
    return dict(sorted((float(percent), float(length)) for percent, length in pairs))


def issue_name(report: Report, issue: str) -> str:
    """The name in `PALETTE` of an issue's colour, the same everywhere in a report."""
    issues = sorted(report.flagged_counts.keys() | {row.issue for row in report.flagged_rows})
    return f"issue-{min(issues.index(issue) + 1, 6)}"


def _legend_entries(tiers: list[Tier]) -> list[tuple[str, str, object]]:
    entries: list[tuple[str, str, object]] = [(f"tier {t.tier}", PALETTE[f"tier-{t.tier}"], "-") for t in tiers]
    if any(model.role == "control" for tier in tiers for model in tier.models):
        entries.append(("control", PALETTE["control"], (0, (4, 2))))
    return entries


def _log_axis(axes: Axes, name: str) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0), numticks=9))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: wording.compact(x)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(name)


def _fitted(scaling: Scaling, parameters: int, tokens: np.ndarray) -> np.ndarray:
    of_size = scaling.parameter_scale * parameters**-scaling.parameter_exponent
    return scaling.irreducible + of_size + scaling.data_scale * tokens**-scaling.data_exponent


def _prediction(axes: Axes, prediction: Prediction, tokens: float) -> None:
    beside = tokens * 1.22
    low, high = prediction.interval
    axes.plot([beside, beside], [low, high], color=PALETTE["fail"], linewidth=2, solid_capstyle="butt")
    axes.plot([beside], [prediction.predicted], "_", color=PALETTE["fail"], markersize=10, markeredgewidth=2)
    axes.plot([], [], "_", color=PALETTE["fail"], markersize=10, markeredgewidth=2, label="predicted, with interval")
    if prediction.actual is not None:
        axes.plot(
            [tokens],
            [prediction.actual],
            "D",
            color="none",
            markeredgecolor=PALETTE["ink"],
            markersize=7,
            label="actual mean",
        )


def _score_bar(axes: Axes, place: int, dimension: Dimension) -> None:
    axes.barh(place, 100, height=0.62, color=PALETTE["line"], alpha=0.35, linewidth=0)
    if dimension.score is None:
        axes.text(1.5, place, "unknown", va="center", color=PALETTE["unknown"], fontstyle="italic")
        return
    colour = PALETTE[wording.result(dimension.passed)]
    axes.barh(place, max(dimension.score, 0.4), height=0.62, color=colour, linewidth=0)
    axes.text(101.5, place, wording.risk_points(dimension.score), va="center", fontweight="bold", color=PALETTE["ink"])


def _strip(axes: Axes, tier: Tier) -> None:
    roles = [("data", PALETTE["tier-2"], tier.loss)]
    if tier.control_loss is not None:
        roles.append(("control", PALETTE["control"], tier.control_loss))
    for place, (role, colour, mean) in enumerate(roles):
        models = [model for model in tier.models if model.role == role]
        better = _better_rate(models)
        for model in models:
            fill = colour if model.learning_rate == better else "none"
            axes.plot([model.loss], [place], "o", color=fill, markeredgecolor=colour, markersize=5.5, alpha=0.85)
        axes.plot([mean, mean], [place - 0.36, place + 0.36], color=PALETTE["ink"], linewidth=1.5)
    axes.set_yticks(range(len(roles)), [role for role, _, _ in roles])
    axes.set_ylim(len(roles) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_title(_strip_title(tier), loc="left", fontsize=9.5, color=PALETTE["ink"], fontweight="bold", pad=3)


def _strip_title(tier: Tier) -> str:
    if tier.control_loss is None:
        return f"tier {tier.tier}: no control trained"
    return f"tier {tier.tier}: data minus control {wording.signed(tier.loss - tier.control_loss)}"


def _better_rate(models: list[ModelResult]) -> float:
    rates = {model.learning_rate for model in models}
    return min(rates, key=lambda rate: statistics.fmean(m.loss for m in models if m.learning_rate == rate))
