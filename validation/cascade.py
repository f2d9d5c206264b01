"""The command line: `python -m validation.cascade DATA`, or without DATA a demonstration on text that every machine has."""

from __future__ import annotations

import os
import shlex
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console

PASS, BAD_INPUT, RISKY, INTERRUPTED = 0, 2, 3, 130


@dataclass(frozen=True)
class Options:
    """Would this dataset collapse a model? Trains 18 small models in 3 tiers to find out.

    Exit codes: 0 pass, 3 risk above --fail-above or stopped before training, 2 bad input.
    """

    data: Annotated[str | None, tyro.conf.Positional] = None
    """File, folder, glob or URI of any of nine formats, see `python -m validation.datasets`; without it a demonstration runs."""
    reference: str | None = None
    """Trusted sample of the same kind; without it harm to real text stays unknown."""
    profile: Literal["quick", "laptop", "workstation", "h200x4"] = "laptop"
    """Size of the run: laptop takes about three minutes on two cores, h200x4 is for four H200."""
    out: Path | None = None
    """Folder for the report. Default: reports/NAME."""
    text_column: str | None = None
    """Column that holds the text, where it is not recognised."""
    tokenizer: Path | None = None
    """Your own tokenizer.json; else a byte-pair encoding is trained."""
    skip_bad_rows: bool = False
    """Count and leave out rows that cannot be read instead of stopping."""
    seed: int = 0
    """Decides every split, subsample and initialisation."""
    fail_above: float = 50.0
    """Risk (0 to 100) from which the exit code is 3."""
    resume: bool = False
    """Go on from where an interrupted run into the same folder stopped."""
    force: bool = False
    """Train even where the rows alone show that it is not worth it."""
    signatures: Path | None = None
    """Library of signatures to compare the data with before training, see python -m validation.signatures."""
    signature_key: Path | None = None
    """File with the key that the library is signed with; else the variable ATLAS_SIGNATURE_KEY."""

    def folder(self) -> Path:
        """Where the report goes."""
        if self.out is not None:
            return self.out
        name = "demonstration" if self.data is None else Path(self.data).resolve().stem.strip("*?[]. ") or "data"
        return Path("reports") / name


def _run(options: Options, console: Console) -> int:
    from validation.demonstration import demonstrate
    from validation.report import print_summary

    folder = options.folder()
    if options.data is None:
        report, found = demonstrate(folder, seed=options.seed, fail_above=options.fail_above, resume=options.resume)
        print_summary(report, console)
        console.print(
            f"The damage was known: {found.recall:.0%} of the spoiled rows were found, "
            f"{found.precision:.0%} of the flagged rows were spoiled."
        )
        console.print(f"Report of both: {folder / 'report.html'}", soft_wrap=True)
        return PASS
    from validation.api import validate

    report = validate(
        options.data,
        reference=options.reference,
        profile=options.profile,
        out=folder,
        text_column=options.text_column,
        tokenizer=options.tokenizer,
        skip_bad_rows=options.skip_bad_rows,
        seed=options.seed,
        fail_above=options.fail_above,
        resume=options.resume,
        force=options.force,
        signatures=options.signatures,
        signature_key=options.signature_key,
        settings={name: str(value) if isinstance(value, Path) else value for name, value in asdict(options).items()},
    )
    print_summary(report, console)
    console.print(f"Report: {folder / 'report.html'}", soft_wrap=True)
    return PASS if report.verdict.passed else RISKY


def _check(options: Options) -> str | None:
    """What is wrong with the options themselves; None if nothing."""
    if not 0 <= options.fail_above <= 100:
        return f"--fail-above is {options.fail_above:g}, expected 0 to 100"
    if options.seed < 0:
        return f"--seed is {options.seed}, expected 0 or more"
    if options.data is None:
        for names in (("reference", "tokenizer", "text_column"), ("signatures", "signature_key", "force")):
            if any(getattr(options, name) for name in names):
                first, second, third = (f"--{name.replace('_', '-')}" for name in names)
                return f"{first}, {second} and {third} need DATA"
    existing = options.folder().absolute()
    while not existing.exists():
        existing = existing.parent
    if not existing.is_dir():
        return f"--out {options.folder()}: {existing} is not a folder"
    if not os.access(existing, os.W_OK):
        return f"--out {options.folder()}: no permission to write in {existing}"
    return None


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    options = tyro.cli(Options, prog="python -m validation.cascade", args=given, config=(tyro.conf.FlagCreatePairsOff,))
    errors = Console(stderr=True, soft_wrap=True, highlight=False, markup=False, emoji=False)
    problem = _check(options)
    if problem is not None:
        errors.print(f"error: {problem}")
        return BAD_INPUT
    from atlas_jax.training import CheckpointError
    from validation.datasets import DatasetError
    from validation.prescreen import PreScreenError
    from validation.runner import StateError
    from validation.signatures import SignatureError

    try:
        return _run(options, Console(emoji=False))
    except KeyboardInterrupt:
        again = [a for a in given if a != "--resume"]
        errors.print(f"\nInterrupted. Go on with: python -m validation.cascade {shlex.join([*again, '--resume'])}")
        return INTERRUPTED
    except PreScreenError as error:
        errors.print(f"error: {error}")
        return RISKY
    except (DatasetError, StateError, CheckpointError, SignatureError, OSError) as error:
        errors.print(f"error: {error}")
        return BAD_INPUT


if __name__ == "__main__":
    sys.exit(main())
