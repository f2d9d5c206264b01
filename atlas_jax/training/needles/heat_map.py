"""Where needles are found: a heat map of the share of right answers over length and depth, with memory and without."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

_INK, _MUTED = "#1c2128", "#5c6673"
_SHARES = LinearSegmentedColormap.from_list("shares", ["#f3f6fa", "#85b7e2", "#3579c0", "#123f73"])
_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "svg.fonttype": "none",
    "svg.hashsalt": "atlas_jax.training",
    "text.color": _INK,
    "axes.labelcolor": _MUTED,
    "axes.titlesize": 9.5,
    "xtick.labelcolor": _MUTED,
    "ytick.labelcolor": _MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
}


def draw_needle_map(
    path: str | os.PathLike[str],
    right: Float[np.ndarray, "l d"],
    control: Float[np.ndarray, "l d"],
    *,
    lengths: Sequence[int],
    depths: Sequence[float],
    trained: int | None = None,
) -> None:
    """Draws both maps side by side, into a PNG, an SVG or whatever the ending of the path says.

    Args:
      path: of the picture; its folder is made.
      right: shares of right answers with all of the text read, a probe's `niah_map`.
      control: the same of a model that has read only the end, `niah_control_map`.
      lengths: of texts, tokens, rising.
      depths: of needles, shares of the hay: 0 is the start.
      trained: tokens of the sequences that the model was trained on; a line stands before longer texts.

    Raises:
      ValueError: a map is not of these lengths and depths.
    """
    for name, shares in (("right", right), ("control", control)):
        if shares.shape != (len(lengths), len(depths)):
            raise ValueError(
                f"draw_needle_map: {name} has shape {shares.shape}, expected {(len(lengths), len(depths))}: lengths by depths"
            )
    with matplotlib.rc_context(_STYLE):
        width = 1.6 + 2 * max(1.9, 0.62 * len(lengths))
        drawing = Figure(figsize=(width, 1.3 + 0.42 * len(depths)), layout="constrained")
        panels = drawing.subplots(1, 2, sharey=True)
        titles = (f"all read: {100 * np.mean(right):.0f} %", f"only the end read: {100 * np.mean(control):.0f} %")
        images = []
        for axes, shares, title in zip(panels, (right, control), titles, strict=True):
            images.append(_panel(axes, shares, lengths, depths, trained))
            axes.set_title(title, loc="left")
        panels[0].set_ylabel("depth of the needle")
        bar = drawing.colorbar(images[0], ax=list(panels), shrink=0.9, ticks=[0, 0.5, 1])
        bar.ax.set_yticklabels(["0 %", "50 %", "100 %"])
        bar.set_label("right answers")
        bar.outline.set_visible(False)
        marked = "" if trained is None else f" (dashed: trained on {trained:,})"
        drawing.supxlabel(f"length of the text, tokens{marked}", color=_MUTED, fontsize=9.5)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        drawing.savefig(path, dpi=160, facecolor="white")


def _panel(
    axes: Axes, shares: np.ndarray, lengths: Sequence[int], depths: Sequence[float], trained: int | None
) -> AxesImage:
    image = axes.imshow(shares.T, cmap=_SHARES, vmin=0, vmax=1, aspect="auto")
    for (column, row), share in np.ndenumerate(shares):
        colour = "white" if share > 0.5 else _INK
        axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", color=colour, fontsize=8.5)
    axes.set_xticks(range(len(lengths)), [f"{length:,}" for length in lengths])
    axes.set_yticks(range(len(depths)), [f"{100 * depth:.0f} %" for depth in depths])
    axes.set_xticks(np.arange(1, len(lengths)) - 0.5, minor=True)
    axes.set_yticks(np.arange(1, len(depths)) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="minor", size=0)
    axes.spines[:].set_visible(False)
    if trained is not None:
        within = sum(length <= trained for length in lengths)
        axes.axvline(within - 0.5, color="#c96a0a", linewidth=1.6, linestyle=(0, (3, 2)))
    return image
