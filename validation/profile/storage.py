"""A profile as a folder: profile.json (figures and state), arrays.npz, sample.arrow; written whole or not at all."""

from __future__ import annotations

import json
import math
import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from validation.datasets import DatasetError
from validation.profile.state import Profile

SCHEMA = "validation.profile"
VERSION = 1
_WORDS, _ARRAYS, _SAMPLE, _PAGE = "profile.json", "arrays.npz", "sample.arrow", "profile.html"


def save(profile: Profile, folder: str | os.PathLike[str], figures: dict[str, Any], page: str | None = None) -> None:
    """Writes a profile; an earlier profile in the folder stays until this one is complete.

    Args:
      profile: what to write.
      folder: where; made if it is missing. A folder that holds something else is left alone.
      figures: readable figures for profile.json.
      page: an HTML page to write as profile.html.

    Raises:
      DatasetError: the folder holds something that is not a profile.
    """
    target = Path(folder)
    writable(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f".{target.name}.partial-{os.getpid()}")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    try:
        _write(profile, unfinished, figures, page)
        _replace(unfinished, target)
    except OSError as error:
        if error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror or str(error), str(target)) from None  # such as a full disk
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def writable(target: Path) -> None:
    """Checks that a profile may be written to a folder.

    Raises:
      DatasetError: the folder holds something that is not a profile.
    """
    if target.is_dir() and any(target.iterdir()) and not _is_profile(target):
        raise DatasetError(f"{target}: not empty, and no profile; expected a new folder or an earlier profile")
    if target.exists() and not target.is_dir():
        raise DatasetError(f"{target}: a file; expected a folder")


def _is_profile(folder: Path) -> bool:
    """Whether a folder holds nothing but a profile, complete or damaged, which can be made again."""
    if (
        not {path.name for path in folder.iterdir()} <= {_WORDS, _ARRAYS, _SAMPLE, _PAGE}
        or not (folder / _WORDS).is_file()
    ):
        return False
    with (folder / _WORDS).open("rb") as file:
        return SCHEMA.encode() in file.read(100)


def _write(profile: Profile, folder: Path, figures: dict[str, Any], page: str | None) -> None:
    words, arrays, sample = profile.state()
    with (folder / _ARRAYS).open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **{name.replace("/", "|"): a for name, a in arrays.items()})
    with pa.OSFile(str(folder / _SAMPLE), "wb") as sink, pa.ipc.new_file(sink, sample.schema) as writer:
        writer.write_table(sample)
    if page is not None:
        (folder / _PAGE).write_text(page, encoding="utf-8")
    document = {"schema": SCHEMA, "schema_version": VERSION, **figures, "state": words}
    text = json.dumps(plain(document), indent=1, ensure_ascii=True, allow_nan=False)
    (folder / _WORDS).write_text(text + "\n", encoding="utf-8")


def _replace(unfinished: Path, target: Path) -> None:
    if not target.exists():
        unfinished.rename(target)
        return
    old = target.with_name(f".{target.name}.old-{os.getpid()}")
    target.rename(old)
    unfinished.rename(target)
    shutil.rmtree(old)


def load(folder: str | os.PathLike[str]) -> Profile:
    """Reads a profile that `save` wrote.

    Raises:
      DatasetError: there is none, it is damaged, or it is of another version.
    """
    source = Path(folder)
    try:
        words = json.loads((source / _WORDS).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise DatasetError(f"{source}: no profile; expected a folder with {_WORDS}") from None
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise DatasetError(f"{source / _WORDS}: not JSON: {error}") from None
    if not isinstance(words, dict) or words.get("schema") != SCHEMA:
        raise DatasetError(f"{source / _WORDS}: not a profile; expected schema {SCHEMA!r}")
    if words.get("schema_version") != VERSION:
        found = words.get("schema_version")
        raise DatasetError(f"{source / _WORDS}: schema version {found!r}; expected {VERSION}: profile the data again")
    try:
        with (source / _ARRAYS).open("rb") as stored, np.load(stored, allow_pickle=False) as file:
            arrays = {name.replace("|", "/"): file[name] for name in file.files}
        with pa.OSFile(str(source / _SAMPLE), "rb") as stream:
            sample = pa.ipc.open_file(stream).read_all()
        return Profile.of_state(words["state"], arrays, sample)
    except (FileNotFoundError, zipfile.BadZipFile, EOFError, pa.ArrowException) as error:
        raise DatasetError(f"{source}: a damaged profile: {_line(error)}; profile the data again") from None
    except (KeyError, ValueError, TypeError, IndexError) as error:
        raise DatasetError(f"{source}: a damaged profile: {type(error).__name__} {_line(error)}") from None


def plain(value: Any) -> Any:
    """A value as JSON can hold it: what is not finite becomes null, keys become text."""
    if isinstance(value, dict):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
