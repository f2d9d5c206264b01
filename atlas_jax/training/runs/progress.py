"""What a person sees of a run: a bar with the time left in a terminal, a line every ten seconds elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from atlas_jax.training.loop import Event

LINE_EVERY_SECONDS = 10.0


def duration(seconds: float) -> str:
    """Such as 42 s, 3 min 5 s, 2 h 10 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole // 60 % 60} min"


class Display:
    """Shows a run's progress on standard error; a hook and a sink of `run.execute`, made for `with`.

    The time left is that of the steps done in this process after the first, which waits for compiling, times those to come.
    """

    def __init__(self, steps: int, console: Console | None = None) -> None:
        """Args: the last step of the run; where to show it."""
        self._console = console or Console(stderr=True)
        self._steps = steps
        self._bar = Progress(
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.description}"),
            console=self._console,
            transient=True,
        )
        self._task = self._bar.add_task("compiling", total=steps)
        self._figures: dict[str, float] = {}
        self._done, self._began = 0, 0.0  # steps after the first, and when that was over
        self._spoke = time.monotonic()

    def __enter__(self) -> Display:
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:  # elsewhere it never started, and would print an empty line
            self._bar.stop()

    def __call__(self, event: Event) -> None:
        """A step is done."""
        now = time.monotonic()
        if self._began:
            self._done += 1
        else:
            self._began = now
        parts = [text for text in (self._said(), self._left(self._steps - event.index, now - self._began)) if text]
        self._bar.update(self._task, completed=event.index, description=" · ".join(parts))
        if not self._console.is_terminal and now - self._spoke > LINE_EVERY_SECONDS:
            self.say(" · ".join([f"step {event.index:,} of {self._steps:,}", *parts]))

    def row(self, row: dict[str, Any]) -> None:
        """Figures of a step, or of a measurement on what is held out."""
        self._figures |= {name: value for name, value in row.items() if isinstance(value, int | float)}
        if "held_out_loss" in row:
            self.say(f"step {row['step']:,}: {_measured(row)}")

    def say(self, text: str) -> None:
        """A line that stays."""
        self._spoke = time.monotonic()
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _said(self) -> str:
        found = self._figures
        if "loss" not in found:
            return ""
        return f"loss {found['loss']:.4f} · {found['tokens_per_second']:,.0f} tokens/s"

    def _left(self, steps: int, seconds: float) -> str:
        return f"about {duration(seconds / self._done * steps)} left" if self._done else ""


def _measured(row: dict[str, Any]) -> str:
    text = f"held-out loss {row['held_out_loss']:.4f}"
    if "held_out_bits_per_byte" in row:
        text += f", {row['held_out_bits_per_byte']:.4f} bits per byte"
    chunks = {name: value for name, value in row.items() if name.startswith("held_out_loss_chunk_")}
    if chunks:
        shown = ", ".join(f"{name.rsplit('chunk_', 1)[1]}: {value:.4f}" for name, value in chunks.items())
        text += f" (by chunk {shown})"
    return text
