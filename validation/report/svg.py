"""Matplotlib figures as SVG text that takes its colours and its font from the page around it."""

from __future__ import annotations

import hashlib
import html
import io
import re
import warnings
from contextlib import AbstractContextManager
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Each name is a custom property that the page sets for light and for dark; the value stands where no page does.
# Tiers are steps of one blue, since they are ordered; control is orange; issues follow Okabe and Ito.
PALETTE = {
    "ink": "#1c2128",
    "muted": "#5c6673",
    "line": "#d5dae1",
    "tier-1": "#85b7e2",
    "tier-2": "#3579c0",
    "tier-3": "#123f73",
    "control": "#c96a0a",
    "pass": "#0b7468",
    "fail": "#b5371f",
    "unknown": "#8a6d1a",
    "issue-1": "#d05a02",
    "issue-2": "#c99200",
    "issue-3": "#a8568b",
    "issue-4": "#0070ae",
    "issue-5": "#03906d",
    "issue-6": "#6b6f78",
}
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a dollar sign in a file name is a dollar sign
    "svg.hashsalt": "validation.report",
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.edgecolor": PALETTE["line"],
    "axes.labelcolor": PALETTE["muted"],
    "axes.labelsize": 9.5,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": PALETTE["line"],
    "grid.linewidth": 0.6,
    "text.color": PALETTE["ink"],
    "xtick.color": PALETTE["line"],
    "ytick.color": PALETTE["line"],
    "xtick.labelcolor": PALETTE["muted"],
    "ytick.labelcolor": PALETTE["muted"],
    "xtick.labelsize": 9.5,
    "ytick.labelsize": 9.5,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}


def style() -> AbstractContextManager[None]:
    """The context in which a plot is drawn and written: `with style(): ...`; settings outside stay as they were."""
    return matplotlib.rc_context(_STYLE)


def figure(height: float, rows: int = 1, **layout: Any) -> tuple[Figure, list[Axes]]:
    """A figure of the width that the page gives to a plot.

    Args:
      height: inches.
      rows: axes, one above the other.
      layout: passed to `Figure.subplots`.
    """
    drawing = Figure(figsize=(5.8, height), layout="constrained")
    axes = drawing.subplots(rows, 1, squeeze=False, **layout)
    return drawing, list(axes[:, 0])


def to_svg(drawing: Figure, description: str) -> str:
    """The figure as one `<svg>` element, the same text for the same figure.

    Colours of `PALETTE` become custom properties, ids are unique to this figure, and nothing refers outside.

    Args:
      drawing: a figure made within `style()`.
      description: what a reader who cannot see it should know.
    """
    buffer = io.StringIO()
    with warnings.catch_warnings():
        # The browser draws the text, with fonts of its own; matplotlib only measures it.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font", category=UserWarning)
        drawing.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :].strip()
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"\s*<!--.*?-->", "", text, flags=re.DOTALL)
    text = text.replace("xlink:href", "href")
    text = re.sub(r"font: ([\d.]+)px [^;\"]*", lambda m: f"font-size: {m[1]}px", text)
    text = re.sub(r"font: (\w+) ([\d.]+)px [^;\"]*", lambda m: f"font-weight: {m[1]}; font-size: {m[2]}px", text)
    for name, colour in PALETTE.items():
        text = text.replace(colour, f"var(--{name}, {colour})")
    return _opening(_own_ids(text), description)


def _own_ids(text: str) -> str:
    """Unreferenced ids dropped, the others made unique, so that several figures can stand in one page."""
    prefix = "f" + hashlib.sha256(text.encode()).hexdigest()[:8]
    used = set(re.findall(r'(?:url\(|href=")#([^)"]+)', text))

    def rename(match: re.Match[str]) -> str:
        return f' id="{prefix}-{match[1]}"' if match[1] in used else ""

    text = re.sub(r' id="([^"]+)"', rename, text)
    return re.sub(r'(url\(|href=")#', rf"\g<1>#{prefix}-", text)


def _opening(text: str, description: str) -> str:
    box = re.search(r'viewBox="([^"]+)"', text)
    assert box is not None
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box[1]}" width="100%" role="img" '
        f'font-family="{_FONT}" aria-label="{html.escape(description)}">'
    )
    return opening + text[text.index(">") + 1 :]
