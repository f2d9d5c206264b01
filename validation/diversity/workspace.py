"""A folder of plain arrays, and a note of which of them are complete: what a long run keeps, and what it goes on from."""

from __future__ import annotations

import errno
import json
import mmap
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

NOTE = "run.json"


class WorkspaceError(OSError):
    """A working folder that cannot be used: one line that says why."""


class Workspace:
    """Arrays in files, mapped to memory; their pages can be given back at any time.

    Args:
      folder: made where it is missing; must be empty or hold a run of this kind.
      facts: what the arrays depend on. Those of a run with other facts are removed.

    Raises:
      WorkspaceError: the folder holds something else.
    """

    def __init__(self, folder: Path, facts: Mapping[str, Any]) -> None:
        self.folder = folder
        self._maps: dict[str, mmap.mmap] = {}
        folder.mkdir(parents=True, exist_ok=True)
        note = folder / NOTE
        if not note.exists() and any(folder.iterdir()):
            raise WorkspaceError(f"{folder}: holds other files; expected an empty folder, or one that a run has left")
        wanted = json.loads(json.dumps(dict(facts)))
        kept = json.loads(note.read_text(encoding="utf-8")) if note.exists() else {}
        self.done: dict[str, int] = kept.get("done", {})
        if kept.get("facts") != wanted:
            for array in folder.glob("*.bin"):
                array.unlink()
            self.done = {}
        self._facts = wanted
        self._write_note()

    def finish(self, stage: str, value: int) -> None:
        """Notes that a stage is complete, or how far it is; arrays that it wrote are on disk first."""
        for mapped in self._maps.values():
            mapped.flush()
        self.done[stage] = value
        self._write_note()

    def append(self, name: str) -> BinaryIO:
        """A new file to which an array is written piece by piece."""
        self._maps.pop(name, None)
        return (self.folder / f"{name}.bin").open("wb")

    def create(self, name: str, kind: type[np.generic], shape: tuple[int, ...]) -> np.ndarray:
        """A new array of zeros, its disk space taken at once: a full disk shows here and not as a crash on writing."""
        size = int(np.prod(shape)) * np.dtype(kind).itemsize
        with self.append(name) as file:
            if size and hasattr(os, "posix_fallocate"):
                try:
                    os.posix_fallocate(file.fileno(), 0, size)
                except OSError as error:
                    raise self.full(error, size) from error
            else:
                file.truncate(size)
        return self.open(name, kind, shape)

    def open(self, name: str, kind: type[np.generic], shape: tuple[int, ...]) -> np.ndarray:
        """An array that is there already, to be read and written."""
        if int(np.prod(shape)) == 0:
            return np.zeros(shape, kind)
        if name not in self._maps:
            with (self.folder / f"{name}.bin").open("r+b") as file:
                self._maps[name] = mmap.mmap(file.fileno(), 0)
        return np.frombuffer(self._maps[name], kind).reshape(shape)

    def read(self, name: str, kind: type[np.generic], begin: int, end: int) -> np.ndarray:
        """A stretch of an array, in memory of its own."""
        size = np.dtype(kind).itemsize
        return np.fromfile(self.folder / f"{name}.bin", kind, end - begin, offset=begin * size)

    def release(self) -> None:
        """Gives the pages of all arrays back to the system; what was written to them is kept."""
        if hasattr(mmap, "MADV_DONTNEED"):
            for mapped in self._maps.values():
                mapped.madvise(mmap.MADV_DONTNEED)

    def full(self, error: OSError, more: int | None = None) -> OSError:
        """The error as one line where the disk is full; else as it is."""
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return error
        need = "" if more is None else f", {more / 1e6:,.0f} MB more are needed"
        return WorkspaceError(f"{self.folder}: no space left on the disk of the working folder{need}; choose another")

    def discard(self) -> None:
        """Removes all arrays and the note, and the folder where nothing else is in it."""
        self._maps.clear()
        for file in (*self.folder.glob("*.bin"), *self.folder.glob(f"{NOTE}*")):
            file.unlink()
        if not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _write_note(self) -> None:
        partial = self.folder / f"{NOTE}.tmp"
        try:
            partial.write_text(json.dumps({"facts": self._facts, "done": self.done}), encoding="utf-8")
            partial.replace(self.folder / NOTE)
        except OSError as error:
            raise self.full(error) from error
