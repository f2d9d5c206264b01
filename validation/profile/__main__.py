"""The command line: `python -m validation.profile DATA --out P`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from rich.console import Console

if TYPE_CHECKING:  # what takes long to import waits until the options are known to be right
    from validation.datasets.table import Table
    from validation.profile.state import Profile

PASS, BAD_INPUT, DRIFTED, INTERRUPTED = 0, 2, 3, 130
LISTED = 20  # columns that an error names


@dataclass(frozen=True)
class Options:
    """Profiles a table in one pass; the result can be merged, compared and used as a reference later.

    Exit codes: 0 done, 2 bad input, 3 drift from --against where --fail-on-drift is given.
    """

    data: Annotated[str | None, tyro.conf.Positional] = None
    """File, folder, glob or URI of any format; without it, --merge joins earlier profiles."""
    out: Path | None = None
    """Folder for the profile: profile.json, profile.html, the sample of rows. Default: profiles/NAME."""
    against: str | None = None
    """An earlier profile, or data, to compare with."""
    ignore: tuple[str, ...] = ()
    """Columns that may differ from --against, such as a date or a number that goes on."""
    merge: tuple[str, ...] = ()
    """Earlier profiles whose rows come after those of DATA."""
    kind: Literal["text", "tabular", "time series"] | None = None
    """What the data is, where it is not recognised."""
    workers: int | None = None
    """Processes; one for each core where the data is large."""
    skip_bad_rows: bool = False
    """Count and leave out rows that cannot be read instead of stopping."""
    seed: int = 0
    """Decides which rows are sampled."""
    fail_on_drift: bool = False
    """Exit with 3 if anything changed against the reference."""

    def folder(self) -> Path:
        """Where the profile goes."""
        if self.out is not None:
            return self.out
        given = self.data or self.merge[0]
        return Path("profiles") / (Path(given).resolve().stem.strip("*?[]. ") or "data")


def _check(options: Options) -> str | None:
    """What is wrong with the options themselves; None if nothing."""
    if options.data is None and not options.merge:
        return "no DATA and no --merge; expected data to profile or profiles to merge"
    if options.workers is not None and options.workers < 1:
        return f"--workers is {options.workers}, expected at least 1"
    if options.seed < 0:
        return f"--seed is {options.seed}, expected 0 or more"
    if options.fail_on_drift and options.against is None:
        return "--fail-on-drift needs --against"
    if options.ignore and options.against is None:
        return "--ignore needs --against"
    return None


def _run(options: Options, console: Console, errors: Console) -> int:
    from validation.profile.compare import compare
    from validation.profile.page import all_figures, as_document, render
    from validation.profile.state import Profile
    from validation.profile.storage import load, save, writable
    from validation.profile.terminal import print_summary

    folder = options.folder()
    writable(folder)
    others = [load(given) for given in options.merge]
    table = None if options.data is None else _table(options.data, options)
    reference = None
    if options.against is not None:
        given = Path(options.against)
        source = load(given) if (given / "profile.json").is_file() else _table(options.against, options)
        _check_ignored(options.ignore, [one for one in (table, source, *others) if one is not None])
        reference = source if isinstance(source, Profile) else _profiled(source, options, errors)
    found: Profile | None = None if table is None else _profiled(table, options, errors)
    for other in others:
        found = other if found is None else found.merge(other)
    assert found is not None
    comparison = None if reference is None else compare(found, reference, options.seed, options.ignore)
    figures = all_figures(found)
    page = render(found, figures, comparison, reference)
    save(found, folder, as_document(found, figures, comparison), page)
    print_summary(found, figures, comparison, console)
    console.print(f"Profile: {folder / 'profile.html'}", soft_wrap=True, highlight=False, markup=False, emoji=False)
    return DRIFTED if options.fail_on_drift and comparison is not None and comparison.drifted else PASS


def _table(data: str, options: Options) -> Table:
    from validation.datasets import open_table

    return open_table(data, kind=options.kind, skip_bad_rows=options.skip_bad_rows)


def _check_ignored(ignore: Sequence[str], sources: Sequence[Table | Profile]) -> None:
    """Refuses a mistyped name before anything is read; `compare` knows all names, those inside nested columns too."""
    from validation.profile.cells import ADDED
    from validation.profile.state import Profile

    columns = [
        [column.leaf.name for column in source.columns]
        if isinstance(source, Profile)
        else [name for name, _ in source.metadata.columns]
        for source in sources
    ]
    known = sorted({name for names in columns for name in names})
    for name in ignore:
        outer = name.partition(".")[0].removesuffix("[]")
        if name not in known and outer not in known and name not in ADDED:
            more = f" and {len(known) - LISTED:,} more" if len(known) > LISTED else ""
            raise ValueError(f"--ignore {name}: there is no such column, only {', '.join(known[:LISTED])}{more}")


def _profiled(table: Table, options: Options, errors: Console) -> Profile:
    from validation.profile.run import profile
    from validation.profile.terminal import ProgressLines

    return profile(table, workers=options.workers, seed=options.seed, progress=ProgressLines(errors))


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    options = tyro.cli(Options, prog="python -m validation.profile", args=given, config=(tyro.conf.FlagCreatePairsOff,))
    errors = Console(stderr=True, soft_wrap=True, highlight=False, markup=False, emoji=False)
    problem = _check(options)
    if problem is not None:
        errors.print(f"error: {problem}")
        return BAD_INPUT
    try:
        return _run(options, Console(emoji=False), errors)
    except KeyboardInterrupt:
        errors.print("\nInterrupted; nothing was written.")
        return INTERRUPTED
    except (ValueError, OSError) as error:
        errors.print(f"error: {error}")
        return BAD_INPUT


if __name__ == "__main__":
    sys.exit(main())
