"""The format of a file, from its content first and its name second.

Formats with a signature are found by it, whatever the file is called. Text formats cannot be told apart by a signature:
there the name decides, but for JSON, where the structure shows whether a file is one document or one value a line; a
file without a known suffix is read if its structure is plain to see.
"""

from __future__ import annotations

import csv
import dataclasses
import itertools
import json
import os
import zipfile
from typing import Literal

from validation.datasets.json_values import parse
from validation.datasets.sources import MAGIC, OTHER_COMPRESSION, Source
from validation.datasets.storage import DatasetError

FormatName = Literal[
    "text", "jsonl", "json", "csv", "tsv", "parquet", "arrow", "arrow stream", "feather", "hdf5", "excel"
]

FORMATS: dict[str, FormatName] = {
    ".txt": "text",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
    ".arrows": "arrow stream",
    ".ipc": "arrow",
    ".feather": "arrow",
    ".h5": "hdf5",
    ".hdf5": "hdf5",
    ".xlsx": "excel",
    ".xls": "excel",
}
COMPRESSED = (".gz", ".zst", ".zstd")
TEXTUAL = frozenset(("text", "jsonl", "json", "csv", "tsv"))
HEAD_BYTES = 64 << 10
SIGNATURES: dict[bytes, FormatName] = {
    b"PAR1": "parquet",
    b"PARE": "parquet",
    b"ARROW1": "arrow",
    b"FEA1": "feather",
    b"\xff\xff\xff\xff": "arrow stream",
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": "excel",
}
HDF5 = b"\x89HDF\r\n\x1a\n"
EXPECTED: dict[str, str] = {
    "parquet": "the bytes 'PAR1' at its beginning",
    "arrow": "the bytes 'ARROW1' at its beginning, or an Arrow stream",
    "arrow stream": "an Arrow stream",
    "hdf5": "the HDF5 signature at its beginning",
    "excel": "a workbook (.xlsx or .xls)",
}


def suffix_of(name: str) -> str:
    """Suffix of a file name in lower case, without that of a compression."""
    stem, suffix = os.path.splitext(name.lower())
    return os.path.splitext(stem)[1] if suffix in COMPRESSED else suffix


def known_suffixes() -> str:
    """Suffixes that are looked for in folders, for messages."""
    return ", ".join(FORMATS)


def sniff(source: Source) -> tuple[Source, FormatName]:
    """Finds out what a file is.

    Returns:
      The source with its compression, and the format.

    Raises:
      DatasetError: no format can be told, or the name promises one that the content is not.
    """
    with source.open() as file:
        head = file.read(HEAD_BYTES)
    source = dataclasses.replace(source, compression=_compression(source, head))
    if source.compression:
        with source.stream() as stream:
            head = stream.read(HEAD_BYTES)
    named = FORMATS.get(suffix_of(source.name))
    found = _by_signature(source, head)
    if found is not None:
        if source.compression and found not in TEXTUAL | {"arrow stream"}:
            raise DatasetError(f"{source}: {found} inside {source.compression}; expected the file without it")
        return source, found
    if named is None:
        return source, _by_structure(source, head)
    if named not in TEXTUAL:
        raise DatasetError(
            f"{source}: named {suffix_of(source.name)} but not a whole {_title(named)} file: "
            f"begins with {head[:8]!r}; expected {EXPECTED[named]}"
        )
    return source, (_json_family(head) or named) if named in ("json", "jsonl") else named


def _title(name: str) -> str:
    return {"parquet": "Parquet", "arrow": "Arrow", "arrow stream": "Arrow", "hdf5": "HDF5", "excel": "Excel"}[name]


def _compression(source: Source, head: bytes) -> str:
    for magic, name in OTHER_COMPRESSION.items():
        if head.startswith(magic):
            raise DatasetError(f"{source}: compressed with {name}; expected gzip, zstd or no compression")
    return next((name for magic, name in MAGIC.items() if head.startswith(magic)), "")


def _by_signature(source: Source, head: bytes) -> FormatName | None:
    for signature, name in SIGNATURES.items():
        if head.startswith(signature):
            return name
    # HDF5 allows a block of the user's own before the signature, of 512 bytes or a doubling of it.
    if any(head.startswith(HDF5, at) for at in (0, 512, 1024, 2048, 4096, 8192, 16384, 32768)):
        return "hdf5"
    return _workbook(source) if head.startswith(b"PK\x03\x04") and not source.compression else None


def _workbook(source: Source) -> FormatName:
    """Whether a ZIP archive is a workbook; only its directory is read."""
    try:
        with source.open() as file, zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError, EOFError) as error:
        raise DatasetError(f"{source}: a damaged ZIP archive: {error}; expected a whole .xlsx workbook") from None
    if "xl/workbook.xml" in names:
        return "excel"
    inside = ", ".join(names[:3]) or "nothing"
    raise DatasetError(f"{source}: a ZIP archive that holds {inside}; expected an .xlsx workbook or unpacked files")


def _json_family(head: bytes) -> FormatName | None:
    """Whether JSON is one array, or one object a line; None where the beginning does not show it."""
    text = head.decode(errors="replace").removeprefix("\ufeff").lstrip(" \t\r\n")
    if text.startswith("[") and text[1:].lstrip(" \t\r\n").startswith("{"):
        return "json"
    first, more, rest = text.partition("\n")
    if not text.startswith("{") or not more or not rest.lstrip(" \t\r\n").startswith("{"):
        return None
    try:
        parse(first)
    except (ValueError, RecursionError):
        return None
    return "jsonl"


def _by_structure(source: Source, head: bytes) -> FormatName:
    """Format of a text file whose name says nothing."""
    suffix = os.path.splitext(source.name)[1]
    unknown = DatasetError(f"{source}: unknown suffix {suffix!r}; known: {known_suffixes()}")
    if b"\0" in head:
        raise unknown
    if (family := _json_family(head)) is not None:
        return family
    lines = head.decode(errors="replace").splitlines()[: 50 if len(head) < HEAD_BYTES else -1]
    delimited: tuple[tuple[FormatName, str], ...] = (("csv", ","), ("tsv", "\t"))
    for name, mark in delimited:
        try:
            widths = {len(row) for row in itertools.islice(csv.reader(lines, delimiter=mark, strict=True), 20) if row}
        except csv.Error:
            continue
        if len(widths) == 1 and min(widths) > 1 and len(lines) > 1:
            return name
    try:
        if isinstance(json.loads(head), list | dict):
            return "json"
    except (ValueError, RecursionError):
        raise unknown from None
    raise unknown
