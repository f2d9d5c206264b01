"""A run as a drawing: its losses, what the gradient did, its learning rate, and when something happened."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from atlas_jax.training.telemetry import LogError

INK, MUTED, LINE, BLUE, PALE, ORANGE, RED = "#1c2128", "#5c6673", "#d5dae1", "#3579c0", "#c4dcf1", "#c96a0a", "#b5371f"
STYLE: dict[Any, Any] = {
    "font.size": 9.5,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "legend.frameon": False,
}
SILENT = frozenset(("start", "compiled", "finished"))  # of every run; nothing that a reader looks for


def draw(folder: Path) -> Path:
    """Draws the run in a folder, finished or not, as `run.png` beside its files.

    Args:
      folder: of `run.execute`.

    Returns:
      The drawing's path.

    Raises:
      LogError: the folder has no line of metrics.
    """
    rows, held_out = rows_of(folder / "metrics.jsonl"), rows_of(folder / "held_out.jsonl")
    if not rows:
        raise LogError(f"{folder / 'metrics.jsonl'}: no line of metrics, expected those of a run that has taken a step")
    with matplotlib.rc_context(STYLE):
        drawing = Figure(figsize=(8.4, 6.4), layout="constrained", facecolor="white")
        losses, gradient, rate = drawing.subplots(3, 1, sharex=True, height_ratios=(3, 1.4, 1))
        _losses(losses, rows, held_out)
        _gradient(gradient, rows)
        steps = column(rows, "step")
        rate.plot(steps, column(rows, "learning_rate"), color=BLUE, lw=1.4)
        rate.set(ylabel="learning rate", xlabel="step", xlim=(0, max(1.0, float(steps[-1]))), ylim=(0, None))
        _events((losses, gradient, rate), rows, rows_of(folder / "events.jsonl"))
        path = folder / "run.png"
        drawing.savefig(path, dpi=150)
    return path


def _losses(axes: Axes, rows: list[dict[str, Any]], held_out: list[dict[str, Any]]) -> None:
    steps, loss = column(rows, "step"), column(rows, "loss")
    axes.plot(steps, loss, color=PALE, lw=0.8, label="each step")
    axes.plot(steps, smooth(loss), color=BLUE, lw=1.6, label="mean of 21 steps")
    axes.plot(column(held_out, "step"), column(held_out, "loss"), "o-", color=ORANGE, ms=3.5, lw=1.4, label="held out")
    axes.set(ylabel="loss, nats a token")
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3)
    if held_out:
        last = held_out[-1]
        text = f"{last['loss']:.3f} nats"
        text += f"\n{last['bits_per_byte']:.3f} bits per byte" if "bits_per_byte" in last else ""
        axes.annotate(
            text, (last["step"], last["loss"]), xytext=(-6, 14), textcoords="offset points", ha="right", color=ORANGE
        )


def _gradient(axes: Axes, rows: list[dict[str, Any]]) -> None:
    steps, norms = column(rows, "step"), column(rows, "grad_norm")
    axes.plot(steps, norms, color=PALE, lw=0.8)
    axes.plot(steps, smooth(norms), color=BLUE, lw=1.4)
    axes.set(ylabel="gradient norm", yscale="log")


def _events(panels: tuple[Axes, ...], rows: list[dict[str, Any]], events: list[dict[str, Any]]) -> None:
    """A line through all panels where something happened, with its name at the top; steps that were not finite in red."""
    marks = [(event["step"], event["event"], MUTED) for event in events if event["event"] not in SILENT]
    stages = [row["step"] for row in rows if row.get("stage") == 2]
    marks += [(stages[0], "stage two", INK)] if stages else []
    marks += [(row["step"], "not finite", RED) for row in rows if row.get("nonfinite")]
    for step, name, colour in marks:
        for axes in panels:
            axes.axvline(step, color=colour, lw=0.9, ls="--")
        panels[0].annotate(
            name,
            (step, 1),
            xycoords=("data", "axes fraction"),
            xytext=(3, -4),
            textcoords="offset points",
            rotation=90,
            va="top",
            color=colour,
            fontsize=8.5,
        )


def smooth(values: Float[np.ndarray, " n"], reach: int = 10) -> Float[np.ndarray, " n"]:
    """Mean over so many steps on either side, fewer near an end, so that it never lags; steps without a number do not count."""
    place, known = np.arange(len(values)), np.isfinite(values)
    reaches = np.minimum(reach, np.minimum(place, place[::-1]))

    def totals(numbers: np.ndarray) -> np.ndarray:
        sums = np.concatenate([[0.0], np.cumsum(numbers)])
        return sums[place + reaches + 1] - sums[place - reaches]

    counts = totals(known.astype(np.float64))
    return np.where(counts > 0, totals(np.where(known, values, 0.0)) / np.maximum(counts, 1), np.nan)


def column(rows: Sequence[dict[str, Any]], name: str) -> Float[np.ndarray, " n"]:
    return np.array([np.nan if row.get(name) is None else row[name] for row in rows], np.float64)


def rows_of(path: Path) -> list[dict[str, Any]]:
    """Complete lines; none where there is no file."""
    if not path.exists():
        return []
    return [
        json.loads(line) for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")
    ]
