"""Metrics as JSON lines, fetched from the device in groups so that no step waits for its own."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import numpy as np

from atlas_jax.training.loop import Event
from atlas_jax.training.whole_file import append_lines


class LogError(ValueError):
    """A file in the place of a log holds something else; the message names file and line."""


class Telemetry:
    """A hook that writes `{"step": ..., "time": ..., **metrics}`, one line per completed step.

    The device arrays are kept as they are and converted `flush_every` steps at a time, with one transfer. Values that
    are not finite become null, and their line gets `"nonfinite": true`: JSON has no NaN.

    A checkpoint must not run ahead of the file, or a killed run would lose the lines in between: flush before saving.
    """

    def __init__(self, path: str | os.PathLike[str], flush_every: int = 50) -> None:
        """Appends to `path`; after restoring a checkpoint call `resume_from` first.

        Args:
          path: JSON-lines file; its folder is made.
          flush_every: steps between transfers.
        """
        self._path = Path(path)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._flush_every = flush_every
        self._kept: list[tuple[int, float, dict[str, Any]]] = []

    def __call__(self, event: Event) -> None:
        """Keeps the metrics of a step."""
        self._kept.append((event.index, time.time(), event.metrics))
        if len(self._kept) >= self._flush_every:
            self.flush()

    def flush(self) -> None:
        """Waits for the kept metrics and writes them.

        Raises:
          OSError: the disk is full; the file is as it was, and the metrics are not kept: take the run up again from a checkpoint.
        """
        kept, self._kept = self._kept, []  # at once: an interrupt must not have them written twice
        if not kept:
            return
        values = jax.device_get([metrics for _, _, metrics in kept])
        lines = [_line(step, at, row) for (step, at, _), row in zip(kept, values, strict=True)]
        append_lines(self._path, "".join(lines))

    def resume_from(self, step: int) -> None:
        """Cuts off the lines beyond the first `step` steps, and a last line that a killed process left half written.

        Args:
          step: completed steps of the restored checkpoint.

        Raises:
          LogError: a complete line is not a line of telemetry.
        """
        if not self._path.exists():
            return
        end = 0
        with self._path.open("r+b") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n") or _step_of(line, self._path, number) > step:
                    break
                end += len(line)
            file.truncate(end)  # which a full disk allows too

    def __enter__(self) -> Telemetry:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.flush()


def _line(step: int, at: float, metrics: dict[str, Any]) -> str:
    row: dict[str, Any] = {"step": step, "time": round(at, 3)}
    row |= {name: _finite_or_null(np.asarray(value).tolist()) for name, value in metrics.items()}
    if not all(np.isfinite(value).all() for value in metrics.values()):
        row["nonfinite"] = True
    return json.dumps(row, allow_nan=False) + "\n"


def _finite_or_null(value: Any) -> Any:
    if isinstance(value, list):
        return [_finite_or_null(item) for item in value]
    return value if np.isfinite(value) else None


def _step_of(line: bytes, path: Path, number: int) -> int:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError) as error:  # ValueError: no JSON, or no UTF-8
        found = line[:80].decode(errors="replace")
        raise LogError(f"{path}, line {number}: expected a JSON object with a step, found {found!r}") from error
