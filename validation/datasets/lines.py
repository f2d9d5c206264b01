"""Lines of a file, decoded one at a time or left as blocks of bytes, with the byte of whatever is not text."""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterator

from validation.datasets.sources import Source
from validation.datasets.storage import DatasetError

MAX_ROW_BYTES = 64 << 20
"""Longest line or record that is read; a longer one would be a broken file more often than a document."""


class Lines:
    """Lines of a source; only "\\n" ends one, so that numbers agree with editors and `sed -n`.

    Args:
      source: the file; decompressed where needed.

    Attributes:
      number: lines read so far.
      offset: bytes of content read so far.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._stream = io.BufferedReader(io.BytesIO())
        self._returned = io.BytesIO()
        self._returned_end = 0
        self.number = 0
        self.offset = 0

    def __iter__(self) -> Iterator[str]:
        """Decoded lines with their ends, without a byte order mark.

        Raises:
          DatasetError: a line is not UTF-8, or longer than MAX_ROW_BYTES.
        """
        with self._source.stream() as self._stream:
            for raw in iter(self._line, b""):
                self.number += 1
                if len(raw) > MAX_ROW_BYTES:
                    raise self._too_long()
                try:
                    line = raw.decode()
                except UnicodeDecodeError as error:
                    raise not_utf8(self._source, raw, self.offset, error) from None
                self.offset += len(raw)
                yield line.removeprefix("\ufeff") if self.number == 1 else line

    def block(self, size: int) -> bytes:
        """The next lines as they are, about `size` bytes, between two steps of an iteration; empty at the end."""
        block = b"" if self._stream.closed else self._stream.read(size)
        if block and not block.endswith(b"\n"):
            block += self._stream.readline(MAX_ROW_BYTES + 1)
        self.number += block.count(b"\n")
        self.offset += len(block)
        return block

    def give_back(self, block: bytes) -> None:
        """The iteration goes on with this block, the last that was read."""
        self.number -= block.count(b"\n")
        self.offset -= len(block)
        self._returned, self._returned_end = io.BytesIO(block), self.offset + len(block)

    @property
    def in_block(self) -> bool:
        """Whether lines of a block that was given back are left."""
        return self.offset < self._returned_end

    def _line(self) -> bytes:
        return self._returned.readline(MAX_ROW_BYTES + 1) or self._stream.readline(MAX_ROW_BYTES + 1)

    def _too_long(self) -> DatasetError:
        return DatasetError(
            f"{self._source}: row {self.number}: the line that begins at byte {self.offset} is longer than "
            f"{MAX_ROW_BYTES >> 20} MiB; expected shorter lines"
        )


def not_utf8(source: Source, raw: bytes, offset: int, error: UnicodeDecodeError) -> DatasetError:
    """Names the first byte that is not UTF-8, in bytes that begin at `offset` of the content."""
    utf16 = offset == 0 and raw[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    hint = "it begins like UTF-16; convert it to UTF-8" if utf16 else "convert it to UTF-8"
    byte = raw[error.start]
    return DatasetError(f"{source}: byte {offset + error.start} (0x{byte:02x}) is not UTF-8; {hint}")
