"""The drawings of the page, as SVG text."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from atlas_jax.training.gates_report.course import Row
from atlas_jax.training.gates_report.rehearsal import Rehearsed
from atlas_jax.training.runs.run_plot import BLUE, MUTED, ORANGE, PALE, RED, STYLE, column, smooth

Point = Sequence[int | float]  # step and loss
_SVG: dict[Any, Any] = {**STYLE, "svg.fonttype": "none", "svg.hashsalt": "atlas_jax.training.gates_report"}


def loss_plot(metrics: Sequence[Row], held_out: Sequence[Row], rehearsed: Rehearsed | None) -> str:
    """The losses of the run, and beside them of the rehearsal: the spike, and where it went back to.

    Args:
      metrics, held_out: lines of the run.
      rehearsed: on its copy; None: there was none.
    """
    with matplotlib.rc_context(_SVG):
        drawing = Figure(figsize=(9.6, 3.5), layout="constrained")
        if rehearsed is None:
            (axes,) = drawing.subplots(1, 1, squeeze=False)[0]
        else:
            axes, beside = drawing.subplots(1, 2, width_ratios=(3, 2))
            _rehearsal(beside, rehearsed)
        steps, loss = column(metrics, "step"), column(metrics, "loss")
        axes.plot(steps, loss, color=PALE, lw=0.8, label="each step")
        axes.plot(steps, smooth(loss), color=BLUE, lw=1.6, label="mean of 21 steps")
        axes.plot(
            column(held_out, "step"), column(held_out, "loss"), "o-", color=ORANGE, ms=3.5, lw=1.4, label="held out"
        )
        axes.set(xlabel="step", ylabel="loss, nats a token")
        axes.set_title("training", loc="left", fontsize=9.5)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3)
        for panel in drawing.axes:
            panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        return to_svg(drawing)


def _rehearsal(axes: Axes, found: Rehearsed) -> None:
    """In the order in which steps were taken: a return is a jump to the left, drawn as a new line."""
    for place, course in enumerate(_courses(found.losses)):
        label = ("each step", "after going back")[place] if place < 2 else None
        axes.plot(*zip(*course, strict=True), color=(RED, BLUE)[min(place, 1)], lw=1.0, label=label)
    for place, course in enumerate(_courses(found.held_out)):
        axes.plot(*zip(*course, strict=True), "o-", color=ORANGE, ms=3.5, lw=1.2, label=None if place else "held out")
    axes.axvline(found.began + 0.5, color=RED, lw=0.9, ls="--")
    marks = [(found.began + 0.5, "corrupt from here", RED)]
    if found.restored is not None:
        axes.axvline(found.restored, color=MUTED, lw=0.9, ls="--")
        marks.append((found.restored, "back to here", MUTED))
    for step, name, colour in marks:
        axes.annotate(
            name,
            (step, 1),
            xycoords=("data", "axes fraction"),
            xytext=(-4, -4),
            textcoords="offset points",
            rotation=90,
            va="top",
            ha="right",
            color=colour,
            fontsize=8.5,
        )
    axes.set(xlabel="step")
    axes.set_title("a rehearsed fault, on a copy", loc="left", fontsize=9.5)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3)


def _courses(points: Sequence[Point]) -> list[list[Point]]:
    """Cut where steps begin again."""
    cut: list[list[Point]] = []
    for point in points:
        if not cut or point[0] <= cut[-1][-1][0]:
            cut.append([])
        cut[-1].append(point)
    return cut


def chunks_plot(perplexities: dict[int, float | None]) -> str:
    """Held-out perplexity over chunks.

    Args:
      perplexities: by chunk.
    """
    known = {size: found for size, found in perplexities.items() if found is not None}
    with matplotlib.rc_context(_SVG):
        drawing = Figure(figsize=(5.2, 2.8), layout="constrained")
        (axes,) = drawing.subplots(1, 1, squeeze=False)[0]
        axes.plot(range(len(known)), list(known.values()), "o-", color=BLUE, lw=1.6, ms=4)
        axes.set_xticks(range(len(known)), [str(size) for size in known])
        least = min(known.values(), default=1.0)
        axes.axhspan(least, 1.1 * least, color=PALE, alpha=0.4, lw=0)
        axes.set(xlabel="chunk, tokens", ylabel="held-out perplexity", ylim=(0, None))
        return to_svg(drawing)


def to_svg(drawing: Figure) -> str:
    """The element alone, of the width of what it stands in."""
    buffer = io.StringIO()
    drawing.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    return element(buffer.getvalue())


def element(svg: str) -> str:
    """An SVG file's element, to stand in a page."""
    return svg[svg.index("<svg") :].replace("<svg ", '<svg role="img" ', 1)
