"""Results as JSON lines that an interrupted benchmark goes on from, and the summary of several seeds."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import figures

RATE_STEP = 2**0.5
LOWEST, HIGHEST = -4, 1  # of the first grid, in steps from the starting rate
EXTENSIONS = 3  # of two rates each, while the best one stands at an end


class Records:
    """A file of figures, and those already in it."""

    def __init__(self, path: Path) -> None:
        """Args: the JSON-lines file; made with its folder at the first figure."""
        self._path = path
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        # A killed run may have left half a line at the end.
        self._figures = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
        if text and not text.endswith("\n"):
            path.write_text(text[: text.rfind("\n") + 1], encoding="utf-8")

    def find(self, **key: Any) -> dict[str, Any] | None:
        """The last figure all of whose named fields have these values."""
        for figure in reversed(self._figures):
            if all(name in figure and figure[name] == value for name, value in key.items()):
                return figure
        return None

    def add(self, name: str, value: float, unit: str, peer: float | None = None, **more: Any) -> dict[str, Any]:
        """Prints a figure, appends it to the file and returns it; the ratio to the peer is added."""
        line = figures.line(name, value, unit, peer, None if peer is None else peer / value, **more)
        print(line, flush=True)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        self._figures.append(json.loads(line))
        return self._figures[-1]


def best_rate(loss_at: Callable[[list[float]], Sequence[float]], start: float) -> tuple[float, Mapping[float, float]]:
    """The learning rate of the lowest loss on a grid that grows until its best is no end of it.

    Args:
      loss_at: losses of the rates it is given; it trains them all as one program.
      start: where a good rate is expected.

    Returns:
      The best rate, and the loss at every rate tried.
    """

    def rates(exponents: range) -> list[float]:
        return [float(f"{start * RATE_STEP**exponent:.3g}") for exponent in exponents]

    low, high = LOWEST, HIGHEST
    asked = rates(range(low, high + 1))
    losses = dict(zip(asked, loss_at(asked), strict=True))
    for _ in range(EXTENSIONS):
        best = min(losses, key=losses.__getitem__)
        if best == max(losses):
            asked, high = rates(range(high + 1, high + 3)), high + 2
        elif best == min(losses):
            asked, low = rates(range(low - 2, low)), low - 2
        else:
            break
        losses |= dict(zip(asked, loss_at(asked), strict=True))
    return min(losses, key=losses.__getitem__), losses


def spread(values: Sequence[float]) -> float:
    """Standard deviation over the seeds; 0 of a single one."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
