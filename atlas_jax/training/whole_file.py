"""Files that are there whole or not at all, and lines that are."""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Iterator
from io import FileIO
from pathlib import Path


def write_whole(path: str | os.PathLike[str], text: str) -> None:
    """Writes text beside the file, on disk before it takes the file's name; a process killed at any moment leaves old or new.

    Args:
      path: of the file; its folder is made.
      text: all of it, written as UTF-8.

    Raises:
      OSError: it cannot be written; what was there stays, and the error names the file.
    """
    path = Path(path)
    written = path.with_name(path.name + ".tmp")
    with _naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with written.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            written.unlink(missing_ok=True)  # what little was written would keep a full disk full
            raise
        written.replace(path)


def append_lines(path: str | os.PathLike[str], lines: str) -> None:
    """Appends lines, all of them or none.

    A process that is killed may leave a part of them, the last one torn: the next call takes the torn one away. Where the disk
    is full the file is cut back to what it was, so that a second attempt doubles nothing.

    Args:
      path: of the file; its folder exists.
      lines: each ends with a newline, written as UTF-8.

    Raises:
      OSError: they cannot be written; it names the file.
    """
    with _naming(path), Path(path).open("a+b", buffering=0) as file:
        end = _whole_lines(file)
        _cut(file, end)
        left = lines.encode()
        try:
            while left:
                left = left[file.write(left) :]
        except OSError:
            _cut(file, end)
            raise


def _whole_lines(file: FileIO) -> int:
    """Bytes up to the end of the last whole line."""
    size = os.fstat(file.fileno()).st_size
    if size == 0:
        return 0
    with mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as content:
        return content.rfind(b"\n") + 1


def _cut(file: FileIO, end: int) -> None:
    if os.fstat(file.fileno()).st_size > end:  # a device, whose size is 0, cannot be cut
        file.truncate(end)


@contextlib.contextmanager
def _naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """An error of a write does not say to which file."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error
