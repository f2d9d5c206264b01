"""A folder of plain arrays, and a note of which of them are complete: what a long run keeps, and what it goes on from."""

from __future__ import annotations

import errno
import json
import mmap
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import Int

NOTE = "run.json"
NOTED_SECONDS = 10.0
FAULT_BYTES = 16 * mmap.PAGESIZE
"""What one look at a mapped file may bring into memory: Linux maps the pages around it too."""


def touchable(memory_bytes: int) -> int:
    """Places of a mapped file that may be looked at before its pages have to be given back."""
    return max(256, memory_bytes // FAULT_BYTES)


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
        self._noted = time.monotonic()
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
        self._noted = time.monotonic()

    def reached(self, stage: str, value: int) -> None:
        """Notes how far a stage is, unless that was done just before: writing arrays to the disk takes time."""
        if time.monotonic() - self._noted >= NOTED_SECONDS:
            self.finish(stage, value)

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

    def take(self, array: np.ndarray, rows: Int[np.ndarray, "*any"], memory_bytes: int) -> np.ndarray:
        """Elements of an array of this folder, in any order, with a part of the file in memory at a time.

        Args:
          array: opened here.
          rows: which elements.
          memory_bytes: that the pages of the file may take.
        """
        flat = rows.ravel()
        order = np.argsort(flat, kind="stable")
        out = np.empty((flat.size, *array.shape[1:]), array.dtype)
        step = touchable(memory_bytes)
        for begin in range(0, order.size, step):
            part = order[begin : begin + step]
            out[part] = array[flat[part]]
            self.release()
        return out.reshape(*rows.shape, *array.shape[1:])

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
