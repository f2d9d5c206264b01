"""The benchmark's table: three files of JSON lines that are committed, with recipes, hashes, labels and statistics, and no text.

`cases.jsonl` says what every case is, `controls.jsonl` what models of trusted rows reach, `labels.jsonl` what the case did.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

# Raised whenever making or labelling changes: labels of another format are not those of this benchmark.
FORMAT = 1
DEFAULT = Path(__file__).parent / "results"
COUNTED = ("clean", "collapsing", "grey", "pending")

Line = dict[str, Any]


class TableError(ValueError):
    """A file of the table is not what this version writes."""


class Table:
    """The lines of one folder by name of the case; what is added is on disk when `add` returns."""

    def __init__(self, folder: Path) -> None:
        """Args: the folder; made at the first line. Lines of another format are left out.

        Raises:
          TableError: a whole line is no line of a table.
        """
        self.folder = folder
        self.cases, self.controls, self.labels = (
            _Lines(folder / f"{n}.jsonl") for n in ("cases", "controls", "labels")
        )

    def label(self, name: str) -> Line | None:
        """The label of a case, if it is one of the rows that the case has now."""
        case, label = self.cases.get(name), self.labels.get(name)
        return label if case is not None and label is not None and label["hash"] == case["hash"] else None

    def pending(self) -> list[Line]:
        """Cases without a label, in the order of the table."""
        return [case for name, case in self.cases.items() if self.label(name) is None]

    def status(self) -> dict[str, int]:
        """How many cases are clean, collapsing, grey and pending."""
        labels = [self.label(name) for name in self.cases.names()]
        found = ["pending" if label is None else label["verdict"] for label in labels]
        return {name: found.count(name) for name in COUNTED}


class _Lines:
    """One file; the last line of a name counts."""

    def __init__(self, path: Path) -> None:
        self._path = path
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        whole = text[: text.rfind("\n") + 1]
        self._broken_at = len(whole.encode()) if len(whole) < len(text) else None  # a killed run left half a line
        self._lines = {line["id"]: line for line in _parsed(path, whole)}

    def get(self, name: str) -> Line | None:
        return self._lines.get(name)

    def items(self) -> Iterable[tuple[str, Line]]:
        return self._lines.items()

    def names(self) -> list[str]:
        return list(self._lines)

    def add(self, line: Line) -> None:
        """Appends a line, which replaces an earlier one of its name."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if self._broken_at is not None:
            os.truncate(self._path, self._broken_at)
            self._broken_at = None
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"format": FORMAT, **line}) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._lines[line["id"]] = line


def _parsed(path: Path, text: str) -> Iterable[Line]:
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            found = json.loads(line)
            version = found.pop("format")
            found["id"]
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise TableError(f"{path}, line {number}: no line of the benchmark's table ({error!r})") from error
        if version == FORMAT:
            yield found
