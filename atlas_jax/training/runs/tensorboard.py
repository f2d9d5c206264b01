"""The rows of a run for TensorBoard, where its package is installed."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

PACKAGE = "tensorboardX"
NOT_FIGURES = frozenset(("step", "time"))


class Board:
    """A sink of `run.execute` that writes every number of a row as a scalar; made for `with`."""

    def __init__(self, folder: Path) -> None:
        """Args: folder of its event files.

        Raises:
          ImportError: the package is not installed.
        """
        if find_spec(PACKAGE) is None:
            raise ImportError(
                f"--tensorboard needs the package {PACKAGE}, which is not installed: pip install {PACKAGE}"
            )
        self._folder, self._writer = folder, None

    def __call__(self, row: dict[str, Any]) -> None:
        if self._writer is None:  # what an abandoned course wrote beyond the first row is hidden
            self._writer = import_module(PACKAGE).SummaryWriter(str(self._folder), purge_step=row["step"])
        for name, value in row.items():
            if name not in NOT_FIGURES and isinstance(value, int | float):
                self._writer.add_scalar(name, value, row["step"])

    def __enter__(self) -> Board:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.close()
