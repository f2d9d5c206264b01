"""Human-written English that every installation has: the documentation inside Python's standard library.

Docstrings and comment blocks make a small, varied corpus for demonstrations, tests and controls that need no download.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

MIN_CHARACTERS = 80
EXCLUDED = frozenset(("test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"))


def standard_library_rows() -> list[str]:
    """Docstrings and blocks of at least two comment lines in the running Python's standard library.

    Returns:
      Distinct texts of at least 80 characters, ordered by module path and line.
    """
    return list(_rows())


def write_standard_library(path: str | os.PathLike[str]) -> int:
    """Writes the rows as JSON Lines with the fields `text` and `source` ("module:line"), whole or not at all.

    Returns:
      Number of rows.
    """
    rows = _rows()
    target = Path(path)
    partial = target.with_name(target.name + ".partial")
    with partial.open("w", encoding="utf-8") as file:
        for text, source in rows.items():
            file.write(json.dumps({"text": text, "source": source}, ensure_ascii=False) + "\n")
    partial.replace(target)
    return len(rows)


def _rows() -> dict[str, str]:
    """Source of each distinct text, in order of its first appearance."""
    root = Path(sysconfig.get_path("stdlib"))
    rows: dict[str, str] = {}
    for module in sorted(_modules(root)):
        for line, text in _texts((root / module).read_bytes()):
            if len(text) >= MIN_CHARACTERS:
                rows.setdefault(text, f"{'.'.join(module.with_suffix('').parts)}:{line}")
    return rows


def _modules(root: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in EXCLUDED]
        yield from ((Path(folder) / name).relative_to(root) for name in names if name.endswith(".py"))


def _texts(source: bytes) -> list[tuple[int, str]]:
    """Line and text of every docstring and comment block of a module, in line order."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old escapes in the library's own strings are not ours to report
        tree = ast.parse(source)
    found: list[tuple[int, str]] = []
    quoted: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant | ast.JoinedStr) and node.end_lineno != node.lineno:
            quoted.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                found.append((node.body[0].lineno, text))
    lines = importlib.util.decode_source(source).split("\n")
    found.extend(_comment_blocks(lines, quoted))
    return sorted(found)


def _comment_blocks(lines: list[str], quoted: set[int]) -> Iterator[tuple[int, str]]:
    """Runs of lines that hold nothing but a comment; lines inside strings are no comments, whatever they begin with."""
    block: list[str] = []
    for number, line in enumerate([*lines, ""], start=1):
        comment = line.strip()
        if comment.startswith("#") and number not in quoted:
            block.append(comment.lstrip("#").removeprefix(" "))
        elif block:
            if len(block) > 1:
                yield number - len(block), "\n".join(block).strip()
            block = []
