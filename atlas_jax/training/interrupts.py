"""Ctrl-C and SIGTERM, heard where work can stop and not where they come."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Sequence
from types import FrameType, TracebackType

INTERRUPTED, TERMINATED = signal.SIGINT, signal.SIGTERM
SAID = {
    INTERRUPTED: b"\nstopping after this step; Ctrl-C once more: at once\n",
    TERMINATED: b"\nstopping after this step\n",
}


class Interrupts:
    """Hears signals and says so when it is asked, between two steps; made for `with`.

    Raised anywhere else JAX's garbage-collection callback may swallow an interrupt, and a process that ends while a device
    still computes may crash. The first is answered on standard error, as a step may compile for minutes. A second Ctrl-C is
    not waited for. SIGTERM is heard as often as it comes: `timeout` sends it twice at once, and schedulers have SIGKILL for
    what takes too long. What is ignored (nohup, a job in the background) stays ignored, and other threads than the main one
    hear nothing.

    Attributes:
      heard: the first signal that came; None before.
    """

    def __init__(self, signals: Sequence[signal.Signals] = (INTERRUPTED, TERMINATED)) -> None:
        """Args: which to hear; what is usually done at them is noted now, and done again in the end."""
        self.heard: signal.Signals | None = None
        self._usual = {number: signal.getsignal(number) for number in signals}

    def listen(self) -> None:
        """Begins to hear."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number, usual in self._usual.items():
            if usual is not signal.SIG_IGN:
                signal.signal(number, self._hear)

    def stop(self) -> None:
        """The signals do again what they usually do."""
        for number, usual in self._usual.items():
            if signal.getsignal(number) == self._hear:
                signal.signal(number, usual)

    def __enter__(self) -> Interrupts:
        self.listen()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def __call__(self) -> bool:
        """Whether one was heard."""
        return self.heard is not None

    def _hear(self, number: int, frame: FrameType | None) -> None:
        heard, first = signal.Signals(number), self.heard is None
        self.heard = self.heard or heard
        if number == INTERRUPTED:
            signal.signal(number, self._usual[INTERRUPTED])
        if first:
            with contextlib.suppress(OSError):  # nobody may read it any more, and the step goes on all the same
                os.write(2, SAID[heard])  # what a stream has in its buffer may be half written when a signal comes
