"""Whether the heaps in which HDF5 keeps strings can be walked: on a damaged one its library never returns.

A heap is a collection of objects: signature, size, and for each object its number, its size and its bytes. The library
steps from object to object and does not notice a step of no bytes (libhdf5 2.0).

Source: HDF5 File Format Specification, III.E "Disk Format: Level 1E - Global Heap".
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from validation.datasets.sources import Source
from validation.datasets.storage import DatasetError

SIGNATURE = b"GCOL\x01\x00\x00\x00"
HEADER_BYTES = 16
BLOCK_BYTES = 4 << 20


def check_heaps(source: Source) -> None:
    """Walks every heap of an HDF5 file, in one pass over it.

    Raises:
      DatasetError: a heap is damaged.
    """
    with source.open() as file:
        start, block = 0, file.read(BLOCK_BYTES)
        while block:
            place = block.find(SIGNATURE)
            while place >= 0:
                file.seek(start + place)
                _walk(source, start + place, file.read(HEADER_BYTES), file.read)
                place = block.find(SIGNATURE, place + 1)
            start += max(1, len(block) - len(SIGNATURE) + 1)
            file.seek(start)
            block = file.read(BLOCK_BYTES) if start + len(SIGNATURE) <= source.size else b""


def _walk(source: Source, place: int, header: bytes, read: Callable[[int], bytes]) -> None:
    size = int.from_bytes(header[8:16], "little")
    damaged = DatasetError(f"{source}: not a whole HDF5 file: the heap of strings at byte {place} is damaged")
    if len(header) < HEADER_BYTES or not HEADER_BYTES <= size <= source.size - place:
        raise damaged
    heap = read(size - HEADER_BYTES)
    at = 0
    while at + HEADER_BYTES <= len(heap):
        number, length = struct.unpack_from("<H6xQ", heap, at)
        step = HEADER_BYTES + (length + 7) // 8 * 8 if number else length
        if step < HEADER_BYTES or at + step > len(heap):
            raise damaged
        at += step
