"""What a run writes down while it trains: a line of figures per step, and what happened."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from atlas_jax.training.loop import Event, Hook
from atlas_jax.training.telemetry import Telemetry
from atlas_jax.training.whole_file import append_lines

Row = dict[str, Any]
Sink = Callable[[Row], None]
FLUSH_SECONDS = 5.0  # between transfers, at most, where steps are slow
SMOOTHING = 0.98  # of the mean perplexity that `ppl_delta` compares with: about the last 50 steps

# Dense bfloat16 products with float32 sums, operations a second, by the start of JAX's name for the device (data sheets).
PEAKS = {"NVIDIA H200": 989.4e12, "NVIDIA H100 80GB HBM3": 989.4e12, "NVIDIA A100": 312e12}


class Work(NamedTuple):
    """What a step does.

    Attributes:
      tokens: predicted per step, on all devices together.
      operations: floating-point, per token, forward and backward.
      peak: operations a second of all devices together; None where it is not known.
    """

    tokens: int
    operations: float
    peak: float | None


def peak_of(devices: Sequence[Any]) -> float | None:
    """Operations a second of the devices together, from their data sheets; None for a kind that is not in `PEAKS`."""
    each = [next((peak for name, peak in PEAKS.items() if one.device_kind.startswith(name)), None) for one in devices]
    return None if None in each else math.fsum(peak for peak in each if peak is not None)


class RunLog(Telemetry):
    """Telemetry whose lines also tell perplexity, tokens a second and the share of the peak (MFU).

    Of lines that are fetched together, tokens a second are those of the group: a step of its own is never waited for.
    `ppl_delta` is how far, relatively, a step's perplexity is above the mean of those before, which `ppl_mean` keeps.
    """

    def __init__(
        self, path: str | os.PathLike[str], work: Work, *, sinks: Sequence[Sink] = (), flush_every: int = 50
    ) -> None:
        """Args: JSON-lines file; what a step does; called with every row once it is written; steps between transfers."""
        super().__init__(path, flush_every)
        self._work, self._sinks = work, sinks
        self._since = time.perf_counter()
        self._mean: float | None = None

    def __call__(self, event: Event) -> None:
        """Keeps the metrics of a step; those of slow steps are not kept from the reader for minutes."""
        super().__call__(event)
        if time.perf_counter() - self._since > FLUSH_SECONDS:
            self.flush()

    def begin(self) -> None:
        """A step begins. What was done between a `flush` and the step after it, compiling or saving, was no training."""
        if not self._kept:
            self._since = time.perf_counter()

    def resume_from(self, step: int) -> None:
        """As `Telemetry` does; the mean perplexity goes on from the last line that stays."""
        self._kept.clear()
        super().resume_from(step)
        self._mean = None
        if self._path.exists():
            lines = self._path.read_text(encoding="utf-8").splitlines()
            self._mean = json.loads(lines[-1])["ppl_mean"] if lines else None

    def flush(self) -> None:
        """Waits for the kept metrics and writes them, as `Telemetry` does."""
        kept, self._kept = self._kept, []
        if not kept:
            return
        values = jax.device_get([metrics for _, _, metrics in kept])
        rate = len(values) * self._work.tokens / (time.perf_counter() - self._since)
        rows = [self._row(step, at, found, rate) for (step, at, _), found in zip(kept, values, strict=True)]
        append_lines(self._path, "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))
        for row in rows:
            for sink in self._sinks:
                sink(row)

    def _row(self, step: int, at: float, found: dict[str, Any], rate: float) -> Row:
        figures = {name: np.asarray(value).tolist() for name, value in found.items()}
        loss = figures["loss"]
        perplexity = math.exp(loss) if loss < 700 else loss * math.inf  # beyond, and NaN, it is no number
        usual = perplexity if self._mean is None else self._mean
        if math.isfinite(perplexity):
            self._mean = SMOOTHING * usual + (1 - SMOOTHING) * perplexity
        figures |= {"perplexity": perplexity, "ppl_delta": perplexity / usual - 1}
        row: Row = {"step": step, "time": round(at, 3)} | {name: _or_null(value) for name, value in figures.items()}
        if not all(np.isfinite(value).all() for value in figures.values()):
            row["nonfinite"] = True
        peak = self._work.peak
        share = None if peak is None else round(rate * self._work.operations / peak, 5)
        return row | {"ppl_mean": self._mean, "tokens_per_second": round(rate, 1), "mfu": share}


def _or_null(value: Any) -> Any:
    if isinstance(value, list):
        return [_or_null(item) for item in value]
    return value if math.isfinite(value) else None


class EventLog:
    """What happened and at which step, as JSON lines: a start, another stage, a rollback. Nothing is ever taken back."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Args: JSON-lines file; its folder exists."""
        self._path = Path(path)

    def note(self, step: int, event: str, **details: Any) -> None:
        """Appends `{"step", "time", "event", **details}`; details are JSON."""
        line = {"step": step, "time": round(time.time(), 3), "event": event, **details}
        append_lines(self._path, json.dumps(line) + "\n")


def stay_near(most: int) -> Hook:
    """A hook that holds the host at most so many steps ahead of the device.

    Unbounded, a host queues the batches of an hour of work for the device, and what it shows is far ahead; waiting for each step
    would leave the device without the next.

    Args:
      most: steps, 1 or more.
    """
    waiting: list[Any] = []

    def hook(event: Event) -> None:
        waiting.append(event.metrics)
        if len(waiting) > most:
            jax.block_until_ready(waiting.pop(0))

    return hook
