"""Texts and tables that any machine with this project has, or most of them."""

from __future__ import annotations

import ast
import gzip
import importlib.util
import os
import re
import sysconfig
import unicodedata
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from validation.bench.corpora.corpus import (
    LINES,
    TEXT_BYTES,
    Corpus,
    MissingCorpus,
    evenly,
    table_rows,
    text_rows,
)
from validation.bench.corpora.manual import plain_text
from validation.bench.rows import Rows
from validation.datasets.standard_library import EXCLUDED, MIN_CHARACTERS

PACKAGES = ("chex", "flax", "jax", "matplotlib", "numpy", "optax", "orbax", "pyarrow", "rich", "scipy")
DATA_FOLDERS = frozenset(("encodings", "pydoc_data"))  # of the standard library: tables, not code
PARSED_BYTES = 10_000_000  # of source, which takes about five seconds to parse
LEAST_BYTES = 350_000  # of text, or it is no corpus
MANUALS, DOCUMENTS = Path("/usr/share/man"), Path("/usr/share/doc")
COUNTED = ("#", "def ", "class ", "import ", "from ", "return", "for ", "if ")  # that lines of source begin with
BEGINNING = re.compile(rb"\n[ \t]*(?:(?=\n)|(" + b"|".join(word.encode() for word in COUNTED) + rb"))")
NOTES = re.compile(r"(README|NEWS|TODO|FAQ|HACKING|BUGS)[\w.-]*")


def _library() -> list[Path]:
    return _modules(Path(sysconfig.get_path("stdlib")))


def _packages() -> list[Path]:
    return [path for name in PACKAGES for folder in _folders(name) for path in _modules(folder)]


def _folders(package: str) -> list[Path]:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise MissingCorpus(f"package {package} is not installed; expected {', '.join(PACKAGES)}: install this project")
    return sorted(Path(folder) for folder in spec.submodule_search_locations)


def _modules(root: Path) -> list[Path]:
    """Source files under a folder but its tests, sorted."""
    found: list[Path] = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in EXCLUDED | DATA_FOLDERS]
        found += [Path(folder) / name for name in names if name.endswith(".py")]
    return sorted(found)


def _some(paths: Sequence[Path], size: int) -> list[Path]:
    """Files of about so many bytes together, spread evenly over all."""
    total = sum(path.stat().st_size for path in paths)
    return evenly(paths, max(1, len(paths) * size // total)) if total > size else list(paths)


def _documentation(paths: Sequence[Path]) -> Rows:
    """Docstrings of modules, classes and functions."""
    return text_rows(text for path in _some(paths, PARSED_BYTES) for text in docstrings(path.read_bytes()))


def docstrings(source: bytes) -> Iterator[str]:
    """Docstrings of at least 80 characters in a module, outer before inner."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old escapes in strings of others are not ours to report
        tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text and len(text) >= MIN_CHARACTERS:
                yield text


def _code(paths: Sequence[Path]) -> Rows:
    return text_rows((path.read_text(encoding="utf-8", errors="replace") for path in _some(paths, TEXT_BYTES)), LINES)


def _system_files(folder: Path, paths: Sequence[Path], size: int) -> Iterator[str]:
    """Text of some files of the operating system, packed or not; links and what is no text are left out."""
    if not paths:
        raise MissingCorpus(f"{folder}: no such files; expected a system with its documentation installed")
    for path in _some(paths, size):
        data = path.read_bytes()
        yield (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8", errors="replace")


def _large_enough(rows: Rows, folder: Path) -> Rows:
    size = sum(len(text.encode()) for text in rows.texts())
    if size < LEAST_BYTES:
        raise MissingCorpus(f"{folder}: {size} bytes of text; expected {LEAST_BYTES}: install more documentation")
    return rows


def _manuals() -> Rows:
    """The English manual pages of all sections."""
    pages = sorted(path for path in MANUALS.glob("man[1-8]/*.gz") if not path.is_symlink())
    texts = _system_files(MANUALS, pages, TEXT_BYTES // 2)  # packed to a third, and half of it is marks
    return _large_enough(text_rows(plain_text(text) for text in texts), MANUALS)


def _notes() -> Rows:
    """What packages tell those who read before they use them."""
    files = (path for path in DOCUMENTS.glob("*/*") if NOTES.fullmatch(path.name) and path.is_file())
    paths = sorted(path for path in files if not path.is_symlink() and path.suffix not in (".html", ".xz", ".bz2"))
    return _large_enough(text_rows(_system_files(DOCUMENTS, paths, 2 * TEXT_BYTES)), DOCUMENTS)


def _changes() -> Rows:
    """Changes of packages of the distribution: short entries in one form."""
    paths = sorted(path for path in DOCUMENTS.glob("*/changelog.Debian.gz") if not path.is_symlink())
    return _large_enough(text_rows(_system_files(DOCUMENTS, paths, TEXT_BYTES), LINES), DOCUMENTS)


def _characters() -> Rows:
    """Properties of characters of Unicode that have a name of their own."""
    columns = (
        "category",
        "bidirectional",
        "combining",
        "mirrored",
        "width",
        "decomposition",
        "numeric",
        "upper",
        "lower",
    )
    columns += ("bytes", "block", "words", "first", "second", "last")

    def records() -> Iterator[tuple[object, ...]]:
        for point in range(0x110000):
            character = chr(point)
            name = unicodedata.name(character, "").split()
            if not name or name[-1].endswith(f"{point:04X}") or name[:2] == ["HANGUL", "SYLLABLE"]:
                continue
            parts = unicodedata.decomposition(character).split()
            yield (
                unicodedata.category(character),
                unicodedata.bidirectional(character),
                unicodedata.combining(character),
                unicodedata.mirrored(character),
                unicodedata.east_asian_width(character),
                (parts[0].strip("<>") if parts[0].startswith("<") else "canonical") if parts else "none",
                unicodedata.numeric(character, ""),
                int(character.upper() != character),
                int(character.lower() != character),
                len(character.encode("utf-8", "surrogatepass")),
                f"{point >> 8:X}xx",
                len(name),
                name[0],
                name[1] if len(name) > 1 else "",
                name[-1],
            )

    return table_rows(columns, records())


def _installed_files() -> Rows:
    """Counts of the source files of the standard library and of packages; the class is the package."""
    columns = ("package", "folder", "name", "depth", "bytes", "lines", "blank", *(word.strip() for word in COUNTED))
    roots = {"python": [Path(sysconfig.get_path("stdlib"))]} | {name: _folders(name) for name in PACKAGES}
    files = [(name, root, path) for name, folders in roots.items() for root in folders for path in _modules(root)]

    def records() -> Iterator[tuple[object, ...]]:
        for package, root, path in files:
            source, parts = path.read_bytes(), path.relative_to(root).parts
            counts = Counter(BEGINNING.findall(source))  # an empty one is that of a blank line
            found = (counts[key] for key in (b"", *(word.encode() for word in COUNTED)))
            folder, name = parts[0] if len(parts) > 1 else "", path.stem.strip("_").split("_")[0]
            yield (package, folder, name, len(parts), len(source), source.count(b"\n"), *found)

    return table_rows(columns, records())


LIBRARY, INSTALLED = "PSF licence, the running Python", "BSD, MIT and Apache-2.0, packages this project depends on"
SYSTEM = "free licences of the packages of the operating system"
CORPORA: tuple[Corpus, ...] = (
    Corpus("standard-library-documentation", "text", LIBRARY, "running Python", lambda: _documentation(_library())),
    Corpus("standard-library-code", "text", LIBRARY, "running Python", lambda: _code(_library())),
    Corpus("package-documentation", "text", INSTALLED, "installed packages", lambda: _documentation(_packages())),
    Corpus("package-code", "text", INSTALLED, "installed packages", lambda: _code(_packages())),
    Corpus("man-pages", "text", SYSTEM, "operating system", _manuals),
    Corpus("system-notes", "text", SYSTEM, "operating system", _notes),
    Corpus("system-changes", "text", SYSTEM, "operating system", _changes),
    Corpus("unicode-table", "table", "Unicode licence, the running Python", "running Python", _characters, "category"),
    Corpus("installed-files", "table", INSTALLED, "installed packages", _installed_files, "package"),
)
