"""The command line: `python -m validation.signatures list|add|match|remove|import|export|merge|verify|bench|new-key`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from validation.datasets import DatasetError
from validation.signatures.library import Library, load, merge, save
from validation.signatures.record import FAMILIES, VERDICTS, Outcome, Signature, SignatureError, read_key, write_key

DONE, BAD_INPUT, INTERRUPTED = 0, 2, 130


def default_library() -> Path:
    """Where this user's library is: `ATLAS_SIGNATURES`, else in the folder of user data."""
    named = os.environ.get("ATLAS_SIGNATURES")
    data = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return Path(named) if named else data / "atlas-jax" / "signatures.json"


@dataclass(frozen=True)
class Common:
    """What all commands share."""

    library: Path | None = None
    """The library's file. Default: the variable ATLAS_SIGNATURES, or signatures.json in the folder of user data."""
    key: Path | None = None
    """File of mode 600 with the signing key; else the variable ATLAS_SIGNATURE_KEY."""

    def path(self) -> Path:
        """The library's file."""
        return self.library or default_library()


@dataclass(frozen=True)
class List(Common):
    """The records: family, outcome, source."""

    json: bool = False
    """Print one JSON object a record."""


@dataclass(frozen=True)
class Add(Common):
    """Add the signature of a dataset: of a profile that `python -m validation.profile` wrote."""

    profile: Annotated[Path, tyro.conf.Positional] = tyro.MISSING
    """Folder of the profile."""
    family: str = "unclassified"
    """Kind of damage, or "healthy"."""
    source: str = tyro.MISSING
    """What the dataset is or was made of; records of one source count as one in the skill."""
    by: str = tyro.MISSING
    """Who answers for it."""
    verdict: str = "unknown"
    """What training on it did: "collapse", "no collapse" or "unknown"."""
    harm: float | None = None
    """Measured excess loss, bits per token."""
    how: str = ""
    """How the outcome is known."""


@dataclass(frozen=True)
class Match(Common):
    """What a dataset is like in the library."""

    profile: Annotated[Path, tyro.conf.Positional] = tyro.MISSING
    """Folder of the profile."""
    most: int = 5
    """Records to show."""


@dataclass(frozen=True)
class Remove(Common):
    """Take a record out."""

    record: Annotated[str, tyro.conf.Positional] = tyro.MISSING
    """The beginning of its fingerprint."""


@dataclass(frozen=True)
class Verify(Common):
    """Check the tags of a library."""


@dataclass(frozen=True)
class Import(Common):
    """Take in the records of another library; of two of one dataset the one with the known, later outcome stays."""

    other: Annotated[Path, tyro.conf.Positional] = tyro.MISSING
    """Its file."""
    other_key: Path | None = None
    """File with the key that it is signed with, where that is another; the records are signed anew with ours."""


@dataclass(frozen=True)
class Export(Common):
    """Write some records as a library of their own."""

    out: Annotated[Path, tyro.conf.Positional] = tyro.MISSING
    """A new file."""
    family: str | None = None
    """Only this family."""
    verdict: str | None = None
    """Only this outcome."""


@dataclass(frozen=True)
class Merge(Common):
    """Write the union of several libraries, in any order the same."""

    out: Annotated[Path, tyro.conf.Positional] = tyro.MISSING
    """A new file."""
    others: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    """Libraries; `--library` is not among them."""


@dataclass(frozen=True)
class Bench(Common):
    """Add signatures of labelled cases of CollapseBench, whose rows are made again and profiled: seconds a case."""

    cases: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Names of cases as in wikitext-2/duplicates/5/0, or of corpora, all of whose cases are taken."""
    table: Path | None = None
    """The benchmark's results; default those that ship."""


@dataclass(frozen=True)
class NewKey:
    """Make a signing key in a new file of mode 600."""

    file: Annotated[Path, tyro.conf.Positional] = tyro.MISSING


Command = (
    Annotated[List, tyro.conf.subcommand("list")]
    | Annotated[Add, tyro.conf.subcommand("add")]
    | Annotated[Match, tyro.conf.subcommand("match")]
    | Annotated[Remove, tyro.conf.subcommand("remove")]
    | Annotated[Verify, tyro.conf.subcommand("verify")]
    | Annotated[Import, tyro.conf.subcommand("import")]
    | Annotated[Export, tyro.conf.subcommand("export")]
    | Annotated[Merge, tyro.conf.subcommand("merge")]
    | Annotated[Bench, tyro.conf.subcommand("bench")]
    | Annotated[NewKey, tyro.conf.subcommand("new-key")]
)


def _run(command: Command, console: Console) -> None:
    if isinstance(command, NewKey):
        write_key(command.file)
        console.print(f"Key: {command.file}")
        return
    key = read_key(command.key)
    if isinstance(command, Merge):
        _merge(command, key, console)
        return
    if isinstance(command, List | Verify | Match | Export) and command.library is not None:
        _there(command.library)
    library = load(command.path(), key)
    if isinstance(command, List | Verify):
        _show(command, library, console)
    elif isinstance(command, Match):
        save(_match(command, library, console), command.path(), key)
    elif isinstance(command, Export):
        _absent(command.out)
        _known(family=command.family, verdict=command.verdict)
        wanted = library.only(
            lambda one: command.family in (None, one.family) and command.verdict in (None, one.outcome.verdict)
        )
        save(wanted, command.out, key)
        console.print(f"{len(wanted.records)} records: {command.out}")
    else:
        after = _changed(command, library, key, console)
        save(after, command.path(), key)
        console.print(f"{len(after.records)} records, {len(library.records)} before: {command.path()}")


def _changed(command: Add | Remove | Import | Bench, library: Library, key: bytes, console: Console) -> Library:
    if isinstance(command, Remove):
        return library.remove(command.record)
    if isinstance(command, Import):
        _there(command.other)
        other = load(command.other, read_key(command.other_key) if command.other_key else key)
        after, conflicts = merge(library, other.only(lambda one: True))
        _tell(conflicts, console)
        return after
    from validation.signatures.matching import learn

    for record in _measured(command, console):
        _tell(merge(library, Library({record.id: record}))[1], console)
        library = learn(library, record)
    return library


def _measured(command: Add | Bench, console: Console) -> list[Signature]:
    from validation.profile import load as load_profile
    from validation.signatures.measured import bench_signatures, signature

    if isinstance(command, Add):
        _known(family=command.family, verdict=command.verdict)
        outcome = Outcome(command.verdict, command.harm, command.how)
        found = load_profile(command.profile)
        return [signature(found, family=command.family, source=command.source, measured_by=command.by, outcome=outcome)]
    from atlas_jax.distributed.mesh import cache_directory
    from validation.bench.table import DEFAULT, Table

    table = command.table or DEFAULT
    named = set(command.cases)
    cases = [line["id"] for _, line in Table(table).cases.items() if {line["id"], line["corpus"]} & named]
    if unknown := sorted(named - {name for case in cases for name in (case, case.split("/")[0])}):
        raise SignatureError(f"{unknown[0]!r} is no case and no corpus of the benchmark in {table}")
    found = bench_signatures(table, cache_directory() / "bench", cases, "CollapseBench", console.print)
    return list(found)


def _match(command: Match, library: Library, console: Console) -> Library:
    from validation.profile import features
    from validation.profile import load as load_profile
    from validation.signatures.matching import match

    if command.most < 0:
        raise SignatureError(f"--most is {command.most}, expected 0 or more")
    matched, after = match(library, features(load_profile(command.profile)), command.most)
    if matched.probability is not None:
        console.print(f"probability of collapse {matched.probability:.2f}")
    console.print(matched.note)
    for one in matched.matches:
        console.print(f"similarity {one.similarity:.2f}  {_line(one.record)}")
    return after


def _merge(command: Merge, key: bytes, console: Console) -> None:
    _absent(command.out)
    whole = Library()
    for path in command.others:
        _there(path)
        whole, conflicts = merge(whole, load(path, key))
        _tell(conflicts, console)
    save(whole, command.out, key)
    console.print(f"{len(whole.records)} records: {command.out}")


def _show(command: List | Verify, library: Library, console: Console) -> None:
    if isinstance(command, Verify):
        console.print(f"{len(library.records)} records, every tag fits: {command.path()}")
        return
    for record in library.records.values():
        if command.json:
            console.print(json.dumps(asdict(record) | {"features": dict(record.features)}))
        else:
            console.print(_line(record))
    if not library.records and not command.json:
        console.print(f"no records: {command.path()}")


def _line(record: Signature) -> str:
    harm = "" if record.outcome.harm is None else f" ({record.outcome.harm:+.3f} bits per token)"
    where = record.provenance
    return (
        f"{record.id[:12]}  {record.family}  {record.outcome.verdict}{harm}  {where.source}  {where.rows:,} rows  "
        f"{where.date}  {where.measured_by}"
    )


def _tell(conflicts: Sequence[str], console: Console) -> None:
    for line in conflicts:
        console.print(f"two records of {line}")


def _known(family: str | None, verdict: str | None) -> None:
    for name, given, known in (("family", family, FAMILIES), ("verdict", verdict, VERDICTS)):
        if given is not None and given not in known:
            raise SignatureError(f"--{name} is {given!r}, expected one of {', '.join(known)}")


def _there(path: Path) -> None:
    if not path.exists():
        raise SignatureError(f"{path}: no such file; expected a library")


def _absent(path: Path) -> None:
    if path.exists():
        raise SignatureError(f"{path}: is there already, expected a new file")


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    command = tyro.cli(
        Command, prog="python -m validation.signatures", args=given, config=(tyro.conf.FlagCreatePairsOff,)
    )
    errors = Console(stderr=True, soft_wrap=True, highlight=False, markup=False, emoji=False)
    try:
        _run(command, Console(soft_wrap=True, highlight=False, markup=False, emoji=False))
    except KeyboardInterrupt:
        errors.print("\nInterrupted. The library is as it was.")
        return INTERRUPTED
    except (SignatureError, DatasetError, OSError) as error:
        errors.print(f"error: {error}")
        return BAD_INPUT
    return DONE


if __name__ == "__main__":
    sys.exit(main())
