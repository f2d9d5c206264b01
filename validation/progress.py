"""What a person sees while a run works: a bar in a terminal, a line every ten seconds elsewhere."""

from __future__ import annotations

import signal
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from atlas_jax.training.interrupts import Interrupts

LINE_EVERY_SECONDS = 10.0


class Display:
    """Shows a run's progress on standard error; made for `with`.

    The time left is what the work done so far took, scaled by the size of what is left: models x parameters.

    While models train, Ctrl-C is heard between two steps, as `Interrupts` does.
    """

    def __init__(self, console: Console | None = None, title: str = "") -> None:
        self._console = console or Console(stderr=True)
        self._title = title
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=self._console,
            transient=True,
        )
        self._task = self._bar.add_task("starting", total=1.0, left="")
        self._total = 0.0
        self._done: dict[str, float] = {}  # units of work by what they were done on
        self._started = self._spoke = time.monotonic()
        self._interrupts = Interrupts((signal.SIGINT,))

    def __enter__(self) -> Display:
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._interrupts.stop()
        if self._console.is_terminal:  # elsewhere it never started, and would print an empty line
            self._bar.stop()

    def stage(self, name: str) -> None:
        """A stage begins."""
        self._heed()
        self._bar.update(self._task, description=f"{self._title}{name}", left="")
        if not self._console.is_terminal:
            self._say(name)

    def plan(self, units: float) -> None:
        """All the work ahead."""
        self._interrupts.listen()
        self._total, self._done = units, {}
        self._started = time.monotonic()

    def training(self, label: str, models: str, share: float, units: float, loss: float) -> None:
        """Progress of some models."""
        self._heed()
        self._done[label + models] = share * units
        share_of_all = min(1.0, sum(self._done.values()) / self._total) if self._total else 0.0
        elapsed = time.monotonic() - self._started
        left = f"about {elapsed / share_of_all * (1 - share_of_all):.0f} s left" if share_of_all > 0.02 else ""
        text = f"{self._title}{label} · {models} · loss {loss:.2f} bits/token"
        self._bar.update(self._task, description=text, completed=share_of_all, left=left)
        if not self._console.is_terminal and time.monotonic() - self._spoke > LINE_EVERY_SECONDS:
            self._say(f"{label} · {models} · {share:.0%} of their steps · loss {loss:.2f} bits/token · {left}")

    def finished(self, text: str) -> None:
        """A result worth keeping on the screen."""
        self._say(text)

    def _heed(self) -> None:
        if self._interrupts():
            raise KeyboardInterrupt

    def _say(self, text: str) -> None:
        self._spoke = time.monotonic()
        self._console.print(f"{self._title}{text}", markup=False, highlight=False, soft_wrap=True)
