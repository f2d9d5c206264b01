"""Signed records of datasets in one JSON file; state in, state out.

Two libraries merge to the same one in either order, any number of times: where both have a record of one dataset, the one
with the known outcome stays, of two such the later, of two of one day the one of the greater digest. What was given up is
named.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from validation.signatures.record import Signature, SignatureError, of_json

FORMAT = 1


class Use(NamedTuple):
    """How a record has served.

    Attributes:
      last: clock of the last match that it took part in.
      importance: of its votes, right less wrong; see `atlas_jax.patterns`.
    """

    last: int = 0
    importance: float = 1.0


@dataclass(frozen=True)
class Library:
    """Records by the fingerprint of their dataset, and how they have served on this machine.

    Attributes:
      records: by fingerprint.
      uses: by fingerprint; a record that is not there has not been used.
      clock: matches so far.
    """

    records: Mapping[str, Signature] = field(default_factory=dict)
    uses: Mapping[str, Use] = field(default_factory=dict)
    clock: int = 0

    def add(self, record: Signature) -> Library:
        """The library with a record; one of the same dataset gives way by the rule of `merge`."""
        return merge(self, Library({record.id: record}))[0]

    def remove(self, prefix: str) -> Library:
        """The library without the record whose fingerprint begins so.

        Raises:
          SignatureError: no record does, or several do.
        """
        found = [name for name in self.records if name.startswith(prefix)]
        if len(found) != 1 or not prefix:
            raise SignatureError(f"{prefix!r}: {len(found)} records have a fingerprint that begins so, expected 1")
        return replace(
            self,
            records={name: record for name, record in self.records.items() if name != found[0]},
            uses={name: use for name, use in self.uses.items() if name != found[0]},
        )

    def only(self, wanted: Callable[[Signature], bool]) -> Library:
        """The records that are wanted, without their uses: to be given away."""
        return Library({name: record for name, record in self.records.items() if wanted(record)})


def merge(left: Library, right: Library) -> tuple[Library, list[str]]:
    """One library of two, and a line for every record that gave way to another of the same dataset."""
    records, conflicts = dict(left.records), []
    for name, theirs in right.records.items():
        mine = records.get(name, theirs)
        kept = max(mine, theirs, key=_rank)
        records[name] = kept
        if mine.digest() != theirs.digest():
            lost = mine if kept is theirs else theirs
            conflicts.append(
                f"{name[:12]} ({kept.provenance.source}): kept {kept.family}, {kept.outcome.verdict} of "
                f"{kept.provenance.date} by {kept.provenance.measured_by}, not {lost.family}, {lost.outcome.verdict} of "
                f"{lost.provenance.date} by {lost.provenance.measured_by}"
            )
    uses = dict(left.uses)
    for name, use in right.uses.items():
        uses[name] = max(use, uses.get(name, use))
    ordered = {name: records[name] for name in sorted(records)}
    return Library(ordered, {n: uses[n] for n in sorted(uses)}, max(left.clock, right.clock)), conflicts


def load(path: Path, key: bytes) -> Library:
    """A library from its file; an empty one where there is none.

    Raises:
      SignatureError: the file is no library, or one of its records is unsigned, forged or malformed.
    """
    if not path.exists():
        return Library()
    content = _content(path)
    records: dict[str, Signature] = {}
    for number, value in enumerate(content["records"], start=1):
        try:
            record = of_json(value, key)
        except SignatureError as error:
            raise SignatureError(f"{path}: record {number}: {error}") from error
        if record.id in records:
            raise SignatureError(f"{path}: record {number}: {record.id[:12]} is there twice, expected one of a dataset")
        records[record.id] = record
    served = content["served"]
    if not hmac.compare_digest(_tag(served["uses"], served["clock"], key), str(served["tag"])):
        raise SignatureError(f"{path}: served: its tag does not fit: changed, or signed with another key")
    uses = {name: Use(int(last), float(importance)) for name, (last, importance) in served["uses"].items()}
    return Library(records, uses, int(served["clock"]))


def save(library: Library, path: Path, key: bytes) -> None:
    """Writes a library; the file is the old one or the new one at any moment.

    Raises:
      SignatureError: it cannot be written.
    """
    uses = {name: list(library.uses[name]) for name in sorted(library.uses)}
    content = {
        "format": FORMAT,
        "records": [library.records[name].as_json(key) for name in sorted(library.records)],
        "served": {"uses": uses, "clock": library.clock, "tag": _tag(uses, library.clock, key)},
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, partial = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump(content, file, indent=1, allow_nan=False)
                file.flush()
                os.fsync(file.fileno())
            Path(partial).replace(path)
        finally:
            Path(partial).unlink(missing_ok=True)
    except OSError as error:
        raise SignatureError(f"{path}: {error.strerror or error}; the library is as it was") from error


def _content(path: Path) -> dict[str, Any]:
    """The file's JSON, of the right shape."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refused)
    except (OSError, ValueError, RecursionError) as error:
        raise SignatureError(f"{path}: not a library of signatures: {error}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise SignatureError(f"{path}: format {found!r}, expected a library of format {FORMAT}")
    served = content.get("served")
    if not isinstance(served, dict) or not isinstance(content.get("records"), list):
        raise SignatureError(f"{path}: expected records and served")
    if not (set(served) == {"uses", "clock", "tag"} and isinstance(served["uses"], dict)):
        raise SignatureError(f"{path}: served holds {', '.join(map(str, served))}, expected uses, clock and tag")
    for name, use in served["uses"].items():
        if not (isinstance(use, list) and len(use) == len(Use._fields)):
            raise SignatureError(f"{path}: served.uses holds {use!r} for {name!r}, expected a clock and an importance")
    return content


def _refused(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def _tag(uses: Mapping[str, Iterable[Any]], clock: Any, key: bytes) -> str:
    told = json.dumps([{name: list(use) for name, use in uses.items()}, clock], sort_keys=True, separators=(",", ":"))
    return hmac.new(key, told.encode(), hashlib.sha256).hexdigest()


def _rank(record: Signature) -> tuple[bool, str, str]:
    return record.outcome.verdict != "unknown", record.provenance.date, record.digest()
