"""Files wherever they are stored: local, or behind any URI that Arrow's file systems know.

A `Source` can be sent to another process. Damage to compressed data is told by its place.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import pyarrow as pa

from validation.datasets.storage import LOCAL, DatasetError, Storage, one_line

BUFFER_BYTES = 1 << 20
MAGIC = {b"\x1f\x8b\x08": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
OTHER_COMPRESSION = {b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz", b"\x04\x22\x4d\x18": "lz4"}


@dataclass(frozen=True)
class Source:
    """One file of a dataset.

    Attributes:
      path: in its storage.
      name: relative to the dataset's folder.
      size: bytes.
      storage: where it lies.
      compression: "", "gzip" or "zstd".
    """

    path: str
    name: str
    size: int
    storage: Storage = LOCAL
    compression: str = ""

    def __str__(self) -> str:
        return self.storage.printed(self.path)

    def open(self) -> io.BufferedReader:
        """The bytes as stored, to be read in any order.

        Raises:
          DatasetError: the file cannot be opened.
        """
        if not self.storage.local:
            return io.BufferedReader(_RemoteFile(self), BUFFER_BYTES)
        try:
            return open(self.path, "rb")
        except OSError as error:
            raise DatasetError(f"{self}: cannot be opened: {error.strerror}") from None

    def open_arrow(self) -> pa.NativeFile:
        """The bytes as stored, for Arrow's readers."""
        if not self.storage.local:
            return pa.PythonFile(self.open(), mode="r")
        try:
            return pa.OSFile(self.path, mode="r")
        except OSError as error:
            raise DatasetError(f"{self}: cannot be opened: {error.strerror or one_line(error)}") from None

    def stream(self) -> io.BufferedReader:
        """The bytes from the beginning on, decompressed. Damage raises DatasetError when it is reached."""
        stored = self.open()
        return io.BufferedReader(_Inflated(self, stored), BUFFER_BYTES) if self.compression else stored

    def expansion(self) -> float:
        """Bytes of content per stored byte, measured on the first 8 MiB of content; 1 without compression."""
        if not self.compression:
            return 1.0
        with self.open() as stored, io.BufferedReader(_Inflated(self, stored), BUFFER_BYTES // 16) as content:
            size = sum(len(content.read(BUFFER_BYTES // 16)) for _ in range(128))
            return max(1, size) / max(1, stored.tell())


class _Inflated(io.RawIOBase):
    """Decompressed bytes of a file, counted, with damage told by place."""

    def __init__(self, source: Source, stored: io.BufferedReader) -> None:
        self._source = source
        self._stored = stored
        self._stream = pa.CompressedInputStream(pa.PythonFile(stored, mode="r"), source.compression)
        self._done = 0

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._done

    def readinto(self, buffer: bytearray | memoryview) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        try:
            block = self._stream.read(len(buffer))
        except (OSError, pa.ArrowException) as error:
            kind, done = self._source.compression, self._done
            raise DatasetError(
                f"{self._source}: {kind} data damaged or cut after byte {done} of its content: {one_line(error)}"
            ) from None
        buffer[: len(block)] = block
        self._done += len(block)
        return len(block)

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
            self._stored.close()
        super().close()


class _RemoteFile(io.RawIOBase):
    """A remote file whose reads are tried again, from the byte that was reached."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._file: pa.NativeFile | None = None
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._source.size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: bytearray | memoryview) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        size = min(len(buffer), self._source.size - self._position)
        if size <= 0:
            return 0
        what = f"{self._source}: cannot be read at byte {self._position}"
        block = self._source.storage.attempt(what, lambda: self._read(size))
        buffer[: len(block)] = block
        self._position += len(block)
        return len(block)

    def _read(self, size: int) -> bytes:
        try:
            file = self._file or self._source.storage.filesystem().open_input_file(self._source.path)
            block = file.read_at(size, self._position)
            self._file = file if block else None
        except OSError:
            self._file = None  # a broken connection is not used again
            raise
        if not block:
            raise OSError("the storage sent no data; has the file become shorter?")
        return block
