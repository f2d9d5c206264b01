"""Whether a workbook's archive is safe to unpack: what it claims, what it really holds, and how far its cells reach."""

from __future__ import annotations

import io
import re
import zipfile
import zlib
from collections.abc import Iterator

from validation.datasets.sources import Source
from validation.datasets.storage import DatasetError

MAX_ENTRIES = 10_000
MAX_CONTENT_BYTES = 1 << 30
MAX_EXPANSION = 200
FREE_BYTES = 64 << 20
"""Content up to this size may be compressed as well as it can be."""

MAX_CELLS = 50_000_000
CELLS_PER_ENTRY = 1_000
FREE_CELLS = 2_000_000
"""Sheets up to this area may be as empty as they are."""

BLOCK_BYTES = 1 << 20
_CELL = re.compile(rb'<(?:\w+:)?(?:c|row)\s[^>]*?\br="([A-Z]{0,3})([0-9]{1,9})"')
_HEADER = 30


def check_archive(source: Source, file: io.BytesIO) -> None:
    """Refuses a workbook that would unpack to more than it should.

    Raises:
      DatasetError: the archive is broken, or a bomb.
    """
    try:
        archive = zipfile.ZipFile(file)
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError, EOFError) as error:
        raise DatasetError(f"{source}: a damaged workbook: {error}; expected a whole .xlsx file") from None
    with archive:
        entries = archive.infolist()
    claimed = sum(entry.file_size for entry in entries)
    if len(entries) > MAX_ENTRIES:
        raise DatasetError(f"{source}: a workbook of {len(entries)} parts; expected at most {MAX_ENTRIES}")
    if sum(entry.compress_size for entry in entries) > source.size:
        raise DatasetError(f"{source}: the parts of the workbook overlap; expected each to be stored once")
    _check_size(source, claimed)
    for entry in entries:
        if entry.flag_bits & 1:
            raise DatasetError(f"{source}: {entry.filename} is encrypted; expected a workbook without a password")
        _check_entry(source, file, entry)


def _check_size(source: Source, size: int) -> None:
    if size > MAX_CONTENT_BYTES or size > max(FREE_BYTES, MAX_EXPANSION * source.size):
        raise DatasetError(
            f"{source}: the workbook would unpack from {source.size} to {size} bytes or more; expected at most "
            f"{MAX_EXPANSION} times as much and {MAX_CONTENT_BYTES >> 20} MiB"
        )


def _check_entry(source: Source, file: io.BytesIO, entry: zipfile.ZipInfo) -> None:
    """Unpacks one entry piece by piece: its directory may lie about its size."""
    sheet = "worksheets/" in entry.filename
    size = cells = last_row = last_column = 0
    rest = b""
    for block in _content(source, file, entry):
        size += len(block)
        if size > entry.file_size:
            raise DatasetError(f"{source}: {entry.filename} holds more than the {entry.file_size} bytes it claims")
        if not sheet:
            continue
        window = rest + block
        for letters, digits in _CELL.findall(window):
            cells += 1
            last_row = max(last_row, int(digits))
            last_column = max(last_column, _column(letters))
        rest = window[-200:] if b"<" in window[-200:] else b""
        rest = rest[rest.rfind(b"<") :] if rest else b""
    if sheet:
        area = last_row * last_column
        if area > MAX_CELLS or area > max(FREE_CELLS, CELLS_PER_ENTRY * cells):
            raise DatasetError(
                f"{source}: {entry.filename} spans {last_row} rows × {last_column} columns with {cells} entries; "
                f"expected at most {MAX_CELLS} cells, most of them filled"
            )


def _content(source: Source, file: io.BytesIO, entry: zipfile.ZipInfo) -> Iterator[bytes]:
    """The bytes of an entry, unpacked in blocks, whatever its directory claims."""
    file.seek(max(0, entry.header_offset))
    header = file.read(_HEADER)
    if entry.header_offset < 0 or len(header) < _HEADER or header[:4] != b"PK\x03\x04":
        raise DatasetError(f"{source}: {entry.filename} is not where the archive says; expected a whole .xlsx file")
    skipped = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    file.seek(entry.header_offset + _HEADER + skipped)
    left = entry.compress_size
    if entry.compress_type == zipfile.ZIP_STORED:
        while left > 0 and (block := file.read(min(left, BLOCK_BYTES))):
            left -= len(block)
            yield block
        return
    if entry.compress_type != zipfile.ZIP_DEFLATED:
        raise DatasetError(f"{source}: {entry.filename} uses compression {entry.compress_type}; expected deflate")
    unpack = zlib.decompressobj(-15)
    try:
        while left > 0 and not unpack.eof and (packed := file.read(min(left, BLOCK_BYTES))):
            left -= len(packed)
            while packed and not unpack.eof:
                yield unpack.decompress(packed, BLOCK_BYTES)
                packed = unpack.unconsumed_tail
    except zlib.error as error:
        raise DatasetError(f"{source}: {entry.filename} is damaged: {error}; expected a whole .xlsx file") from None


def _column(letters: bytes) -> int:
    """Number of a column from its letters; 0 of none."""
    number = 0
    for letter in letters:
        number = number * 26 + letter - 64
    return number
