"""One signature: what a dataset looked like, where that was measured, and what came of training on it."""

from __future__ import annotations

import hashlib
import hmac
import json
import math
import os
import re
import secrets
import stat
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import date
from pathlib import Path
from typing import Any

FAMILIES = (
    "drift",
    "diversity loss",
    "temporal instability",
    "synthetic artefacts",
    "duplication",
    "truncation",
    "healthy",
    "unclassified",
)
VERDICTS = ("collapse", "no collapse", "unknown")
KEY_VARIABLE = "ATLAS_SIGNATURE_KEY"
SHORTEST_KEY = 32  # characters


class SignatureError(ValueError):
    """A record, a library or a key that cannot be used: one line that says which and why."""


@dataclass(frozen=True)
class Provenance:
    """Where a signature comes from.

    Attributes:
      measured_by: person or program that answers for it.
      library_version: version of this package.
      fingerprint: SHA-256 of the dataset's content, as `measured.fingerprint` takes it; names the record.
      source: what the dataset is or was made of; records of one source are not independent.
      rows: of the dataset.
      date: of the measurement, YYYY-MM-DD.
    """

    measured_by: str
    library_version: str
    fingerprint: str
    source: str
    rows: int
    date: str


@dataclass(frozen=True)
class Outcome:
    """What training on the dataset did.

    Attributes:
      verdict: "collapse", "no collapse" or "unknown".
      harm: excess held-out loss against a trusted control, bits per token; None where it was not measured.
      how: how that is known, in words.
    """

    verdict: str = "unknown"
    harm: float | None = None
    how: str = ""


@dataclass(frozen=True)
class Signature:
    """One record.

    Attributes:
      features: figures by name, as `Profile.features` gives them; those that could not be measured are left out.
      family: kind of damage, or "healthy"; one of `FAMILIES`.
      provenance: where it comes from.
      outcome: what came of it.
    """

    features: Mapping[str, float]
    family: str
    provenance: Provenance
    outcome: Outcome = Outcome()

    def __post_init__(self) -> None:
        _expect(bool(self.features), "features", "none", "at least one")
        for name, value in self.features.items():
            _expect(isinstance(value, float) and math.isfinite(value), f"features.{name}", value, "a finite number")
        _expect(self.family in FAMILIES, "family", self.family, f"one of {', '.join(FAMILIES)}")
        _expect(
            self.outcome.verdict in VERDICTS, "outcome.verdict", self.outcome.verdict, f"one of {', '.join(VERDICTS)}"
        )
        harm = self.outcome.harm
        _expect(
            harm is None or (isinstance(harm, float) and math.isfinite(harm)), "outcome.harm", harm, "a number or null"
        )
        found = self.provenance.fingerprint
        _expect(
            re.fullmatch("[0-9a-f]{64}", found) is not None, "provenance.fingerprint", found, "64 hexadecimal digits"
        )
        _expect(self.provenance.rows >= 0, "provenance.rows", self.provenance.rows, "0 or more")
        try:
            date.fromisoformat(self.provenance.date)
        except ValueError as error:
            raise SignatureError(
                f"provenance.date is {self.provenance.date!r}, expected a day as 2026-01-31"
            ) from error

    @property
    def id(self) -> str:
        """The dataset's fingerprint: a library has one record of a dataset."""
        return self.provenance.fingerprint

    def canonical(self) -> bytes:
        """The record as bytes that are the same wherever it is written: what is signed."""
        content = asdict(self) | {"features": dict(self.features)}
        return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()

    def digest(self) -> str:
        """SHA-256 of the whole content."""
        return hashlib.sha256(self.canonical()).hexdigest()

    def tag(self, key: bytes) -> str:
        """HMAC-SHA256 of the content."""
        return hmac.new(key, self.canonical(), hashlib.sha256).hexdigest()

    def as_json(self, key: bytes) -> dict[str, Any]:
        """The record with its tag, as it is stored."""
        return asdict(self) | {"features": dict(self.features), "tag": self.tag(key)}


def of_json(value: Any, key: bytes) -> Signature:
    """A stored record, checked.

    Raises:
      SignatureError: it has no tag, or another than the key gives; or it is no record at all.
    """
    _expect(isinstance(value, dict), "record", type(value).__name__, "an object")
    _expect(isinstance(value.get("tag"), str), "tag", value.get("tag"), "a signature: unsigned records are refused")
    parts = {name: value.get(name) for name in ("features", "family", "provenance", "outcome")}
    unknown = sorted(set(value) - set(parts) - {"tag"})
    _expect(not unknown, "record", ", ".join(unknown), "only the fields of a record")
    _expect(isinstance(parts["features"], dict), "features", parts["features"], "an object")
    _expect(isinstance(parts["family"], str), "family", parts["family"], "text")
    found = Signature(
        {str(name): number for name, number in parts["features"].items()},
        parts["family"],
        _read(Provenance, "provenance", parts["provenance"]),
        _read(Outcome, "outcome", parts["outcome"]),
    )
    if not hmac.compare_digest(found.tag(key), value["tag"].encode("ascii", "replace").decode()):
        raise SignatureError(
            f"{found.id[:12]} ({found.family}): its tag does not fit: changed, or signed with another key"
        )
    return found


def read_key(path: Path | None = None) -> bytes:
    """The signing key: from a file that only its owner can read, or from the variable `ATLAS_SIGNATURE_KEY`.

    Raises:
      SignatureError: there is none, it is too short, or others can read the file. The key is never part of a message.
    """
    if path is None:
        text = os.environ.get(KEY_VARIABLE, "")
        where = f"the variable {KEY_VARIABLE}"
        if not text:
            raise SignatureError(f"no signing key: give --key FILE or set {KEY_VARIABLE}; `new-key` makes one")
    else:
        where = str(path)
        try:
            with path.open("rb") as file:
                mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
                if mode & 0o077:
                    raise SignatureError(f"{path}: mode {mode:o} lets others read the key; expected 600")
                text = file.read(4096).decode("ascii", "replace")
        except OSError as error:
            raise SignatureError(f"{path}: {error.strerror or error}; expected a file that holds the key") from error
    key = text.strip().encode()
    if len(key) < SHORTEST_KEY:
        raise SignatureError(f"{where}: a key of {len(key)} characters; expected at least {SHORTEST_KEY}")
    return key


def write_key(path: Path) -> None:
    """Makes a new key in a new file of mode 600.

    Raises:
      SignatureError: the file is there already, or cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(32) + "\n")
    except OSError as error:
        raise SignatureError(f"{path}: {error.strerror or error}; expected a name for a new file") from error


def _read(kind: type[Any], name: str, value: Any) -> Any:
    """A part of a record, its fields of the declared types."""
    _expect(isinstance(value, dict), name, value, "an object")
    wanted = {field.name: str(field.type) for field in fields(kind)}
    _expect(set(value) == set(wanted), name, ", ".join(sorted(value)), f"the fields {', '.join(wanted)}")
    types = {"str": (str,), "int": (int,), "float | None": (float, type(None))}
    for field, number in value.items():
        good = isinstance(number, types[wanted[field]]) and not isinstance(number, bool)
        _expect(good, f"{name}.{field}", number, wanted[field].replace("None", "null"))
    return kind(**value)


def _expect(good: bool, field: str, value: Any, expected: str) -> None:
    if not good:
        raise SignatureError(f"{field} is {str(value)[:80]!r}, expected {expected}")
