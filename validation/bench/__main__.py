"""The command line: `python -m validation.bench build|label|status|report|export`."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from validation.bench.table import COUNTED, DEFAULT, Table, TableError

DONE, BAD_INPUT, INTERRUPTED = 0, 2, 130


@dataclass(frozen=True)
class Common:
    """What all commands share."""

    table: Path = DEFAULT
    """Folder of cases.jsonl, controls.jsonl and labels.jsonl; the default is the table that ships."""


@dataclass(frozen=True)
class Build(Common):
    """Make the cases of the corpora that this machine has, and write recipes and hashes."""

    corpora: tuple[str, ...] = ()
    """Names; none means all."""
    renew: bool = False
    """Where a corpus has changed, take the cases as they are now; their labels no longer count."""
    quick: bool = False
    """About twenty cases of one generated corpus, for a look and for the tests."""


@dataclass(frozen=True)
class Label(Common):
    """Train models on the cases without a label and write what became of them. Stop and start at will."""

    corpora: tuple[str, ...] = ()
    """Names; none means all."""
    limit: int | None = None
    """At most so many cases."""
    at_once: int | None = None
    """Cases trained by one program. Default: 1 on CPUs, 32 on an accelerator."""


@dataclass(frozen=True)
class Status(Common):
    """Count the cases by label."""

    json: bool = False
    """Print one JSON object and nothing else."""


@dataclass(frozen=True)
class Report(Common):
    """Write the page that shows the benchmark."""

    out: Path = Path("reports") / "bench.html"
    """Where it goes."""


@dataclass(frozen=True)
class Export(Common):
    """Write one case as files: the data, its trusted reference, and the numbers of the bad rows."""

    case: Annotated[str, tyro.conf.Positional] = tyro.MISSING
    """Name of the case, as in wikitext-2/duplicates/5/0."""
    out: Path = Path("case")
    """Folder that the files go to."""


Command = (
    Annotated[Build, tyro.conf.subcommand("build")]
    | Annotated[Label, tyro.conf.subcommand("label")]
    | Annotated[Status, tyro.conf.subcommand("status")]
    | Annotated[Report, tyro.conf.subcommand("report")]
    | Annotated[Export, tyro.conf.subcommand("export")]
)


def _run(command: Command, console: Console) -> int:
    if isinstance(command, Status):
        _status(command, console)
        return DONE
    if isinstance(command, Report):
        from validation.bench.page import write_page

        write_page(Table(command.table), command.out)
        console.print(f"Report: {command.out}", soft_wrap=True)
        return DONE
    from atlas_jax.distributed.mesh import cache_directory, compilation_cache
    from validation.bench.corpora import CORPORA
    from validation.bench.labelling import QUICK, Desk, build, label, write_case

    compilation_cache()

    def say(line: str) -> None:
        console.print(line, soft_wrap=True, highlight=False, markup=False)

    desk = Desk(Table(command.table), cache_directory() / "bench", say)
    if isinstance(command, Export):
        for path in write_case(desk, command.case, command.out):
            say(str(path))
        return DONE
    unknown = [name for name in command.corpora if name not in CORPORA]
    if unknown:
        raise ValueError(f"corpus {unknown[0]!r} is not known, expected some of {', '.join(CORPORA)}")
    chosen = command.corpora or tuple(CORPORA)
    if isinstance(command, Build):
        build(desk, [QUICK] if command.quick else chosen, renew=command.renew, quick=command.quick)
    else:
        for name in ("at_once", "limit"):
            value = getattr(command, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}, expected at least 1")
        label(desk, chosen, at_once=command.at_once or _at_once(), limit=command.limit)
    _status(Status(command.table), console)
    return DONE


def _at_once() -> int:
    import jax

    return 1 if jax.default_backend() == "cpu" else 32


def _status(command: Status, console: Console) -> None:
    counts = Table(command.table).status()
    if command.json:
        console.print_json(json.dumps(counts), indent=None, highlight=False)
    else:
        console.print(", ".join(f"{counts[name]} {name}" for name in COUNTED))


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    command = tyro.cli(Command, prog="python -m validation.bench", args=given, config=(tyro.conf.FlagCreatePairsOff,))
    errors = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    try:
        return _run(command, Console())
    except KeyboardInterrupt:
        errors.print("\nInterrupted. What is labelled is in the table; the same command goes on from there.")
        return INTERRUPTED
    except (TableError, ValueError, OSError) as error:
        errors.print(f"error: {error}")
        return BAD_INPUT


if __name__ == "__main__":
    sys.exit(main())
