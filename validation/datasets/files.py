"""From a path, folder, pattern or URI to the files of a dataset."""

from __future__ import annotations

import difflib
import glob
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePath, PurePosixPath
from typing import NoReturn

import pyarrow.fs as pafs

from validation.datasets.sniff import FORMATS, known_suffixes, suffix_of
from validation.datasets.sources import Source
from validation.datasets.storage import LOCAL, DatasetError, Storage, parse_uri, split_uri

NOT_DATA = frozenset(("readme", "license", "licence", "copying", "notice", "changelog"))
MAX_FILES = 100_000


def find_files(path: str, options: Mapping[str, str] | None = None) -> tuple[Source, ...]:
    """Finds the files of a dataset.

    A folder gives its files of known suffix, subfolders included, in sorted order; dotfiles and papers such as
    `README.txt` are left out. A pattern gives the files that it matches, under the same rules.

    Args:
      path: a local path or pattern, or a URI such as `s3://bucket/folder/*.parquet`.
      options: of remote storage, such as `endpoint_override`.

    Raises:
      DatasetError: nothing is there, or nothing that can be read.
    """
    if not path:
        raise DatasetError("no path given; expected a file, a folder, a pattern or a URI")
    storage, place = parse_uri(path, options) if "://" in path else (LOCAL, path)
    try:
        found = _local_files(place) if storage.local else _remote_files(storage, place)
    except OSError as error:  # no permission, a name too long, a file that went away
        raise DatasetError(f"{error.filename or shown_path(path)}: cannot be looked at: {error.strerror}") from None
    if not found:
        shown = Path(path).expanduser() if "://" not in path else shown_path(path)
        raise DatasetError(f"{shown}: no data files; known suffixes: {known_suffixes()}")
    if len(found) > MAX_FILES:
        raise DatasetError(f"{found[0]} and {len(found) - 1} more files; expected at most {MAX_FILES}")
    for source in found:
        if source.size == 0:
            raise DatasetError(f"{source}: empty file (0 bytes); expected at least one row")
    return found


def shown_path(path: str) -> str:
    """A path as it is printed and kept in reports: a URI without its options and keys."""
    if "://" not in path:
        return path
    parts = split_uri(path)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _local_files(path: str) -> tuple[Source, ...]:
    place = Path(path).expanduser()
    if place.is_file():
        root, files = place.parent, [place]
    elif place.is_dir():
        root, files = place, _data_files(place, _below(place))
    elif glob.has_magic(path):
        root = Path(_fixed_folder(place))
        files = _data_files(root, map(Path, glob.glob(str(place), recursive=True)))
    else:
        raise _missing(place)
    return tuple(Source(str(file), str(file.relative_to(root)), file.stat().st_size) for file in files)


def _remote_files(storage: Storage, place: str) -> tuple[Source, ...]:
    shown = storage.printed(place)
    pattern = glob.has_magic(place)
    root = _fixed_prefix(place) if pattern else place

    def look(selector: str | pafs.FileSelector) -> list[pafs.FileInfo]:
        found = storage.attempt(f"{shown}: cannot be listed", lambda: storage.filesystem().get_file_info(selector))
        return found if isinstance(found, list) else [found]

    info = look(root)[0]
    if info.type == pafs.FileType.File:
        return (Source(info.path, info.base_name, info.size, storage),)
    if info.type == pafs.FileType.NotFound:
        raise DatasetError(f"{storage.printed(root)}: no such file or folder")
    infos = [info for info in look(pafs.FileSelector(root, recursive=True)) if info.type == pafs.FileType.File]
    matches = re.compile(_expression(place)) if pattern else None
    sources = (
        Source(info.path, str(PurePosixPath(info.path).relative_to(root)), info.size, storage)
        for info in sorted(infos, key=lambda info: info.path)
        if matches is None or matches.fullmatch(info.path)
    )
    return tuple(source for source in sources if _is_data(PurePosixPath(source.name)))


def _below(folder: Path) -> Iterator[Path]:
    """Everything below a folder; a folder that cannot be read is an error, as its files would be missed without a word."""

    def stop(error: OSError) -> NoReturn:
        raise error

    for place, _, names in os.walk(folder, onerror=stop):
        yield from (Path(place, name) for name in names)


def _data_files(root: Path, found: Iterable[Path]) -> list[Path]:
    return sorted(path for path in found if path.is_file() and _is_data(PurePosixPath(path.relative_to(root))))


def _is_data(path: PurePosixPath) -> bool:
    hidden = any(part.startswith(".") for part in path.parts)
    return not hidden and suffix_of(path.name) in FORMATS and path.name.partition(".")[0].lower() not in NOT_DATA


def _fixed_folder(pattern: PurePath) -> PurePath:
    """The part of a pattern before its first wildcard."""
    while glob.has_magic(str(pattern)):
        pattern = pattern.parent
    return pattern


def _fixed_prefix(pattern: str) -> str:
    return str(_fixed_folder(PurePosixPath(pattern)))


def _expression(pattern: str) -> str:
    """A glob pattern as a regular expression, by the rules of `glob.glob(..., recursive=True)`."""
    pieces = re.split(r"(\*\*/|\*|\?|\[[^]]+\])", pattern)
    known = {"**/": "(.*/)?", "*": "[^/]*", "?": "[^/]"}
    return "".join(
        known.get(piece) or (piece.replace("[!", "[^") if piece.startswith("[") else re.escape(piece))
        for piece in pieces
    )


def _missing(path: Path) -> DatasetError:
    folder = path.parent
    if path.exists():
        return DatasetError(f"{path}: a pipe or device; expected a file or folder, which can be read more than once")
    if not folder.is_dir():
        return DatasetError(f"{path}: no such file; the folder {folder} does not exist")
    close = difflib.get_close_matches(path.name, os.listdir(folder), n=3)
    hint = f"; did you mean {', '.join(map(repr, close))}?" if close else ""
    return DatasetError(f"{path}: no such file or folder{hint}")
