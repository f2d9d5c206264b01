"""From a path, folder or pattern to the files of a dataset."""

from __future__ import annotations

import difflib
import glob
from collections.abc import Iterable
from pathlib import Path

from validation.datasets.base import DatasetError

FORMATS = {
    ".txt": "text",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
}
NOT_DATA = frozenset(("readme", "license", "licence", "copying", "notice", "changelog"))


def find_files(path: str) -> tuple[Path, list[Path]]:
    """Finds the files of a dataset.

    A folder gives its files of known suffix, subfolders included, in sorted order; dotfiles and papers such as
    `README.txt` are left out. A pattern gives the files that it matches, under the same rules.

    Returns:
      The folder that file names are relative to, and the files.

    Raises:
      DatasetError: nothing is there, or nothing that can be read.
    """
    place = Path(path).expanduser()
    if place.is_file():
        if place.suffix.lower() not in FORMATS:
            raise DatasetError(f"{place}: unknown suffix {place.suffix!r}; known: {_known()}")
        root, files = place.parent, [place]
    elif place.is_dir():
        root, files = place, _data_files(place, place.rglob("*"))
    elif glob.has_magic(path):
        root = _fixed_folder(place)
        files = _data_files(root, map(Path, glob.glob(str(place), recursive=True)))
    else:
        raise _missing(place)
    if not files:
        raise DatasetError(f"{place}: no data files; known suffixes: {_known()}")
    for file in files:
        if file.stat().st_size == 0:
            raise DatasetError(f"{file}: empty file (0 bytes); expected at least one row")
    return root, files


def format_of(file: Path) -> str:
    """Format of a file that `find_files` has found."""
    return FORMATS[file.suffix.lower()]


def _data_files(root: Path, found: Iterable[Path]) -> list[Path]:
    return sorted(path for path in found if path.is_file() and _is_data(path.relative_to(root)))


def _is_data(path: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.parts)
    return not hidden and path.suffix.lower() in FORMATS and path.stem.lower() not in NOT_DATA


def _fixed_folder(pattern: Path) -> Path:
    """The part of a pattern before its first wildcard."""
    while glob.has_magic(str(pattern)):
        pattern = pattern.parent
    return pattern


def _missing(path: Path) -> DatasetError:
    folder = path.parent
    if not folder.is_dir():
        return DatasetError(f"{path}: no such file; the folder {folder} does not exist")
    close = difflib.get_close_matches(path.name, [other.name for other in folder.iterdir()], n=3)
    hint = f"; did you mean {', '.join(map(repr, close))}?" if close else ""
    return DatasetError(f"{path}: no such file or folder{hint}")


def _known() -> str:
    return ", ".join(FORMATS)
