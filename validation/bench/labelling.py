"""Building and labelling, a case at a time: what is done is in the table, and a run goes on from there."""

from __future__ import annotations

import difflib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import jax
import numpy as np

from validation.bench.cases import Case, Recipe, make, recipes
from validation.bench.corpora import CORPORA, MissingCorpus, read
from validation.bench.corruptions import CORRUPTIONS
from validation.bench.domain import Domain, NotApplicable, TooSmall, lay_out
from validation.bench.export import export
from validation.bench.labels import (
    Controls,
    Criterion,
    Judgement,
    control_losses,
    judge,
    loss_criteria,
    recursion_criteria,
)
from validation.bench.outcomes import SEEDS, train_cases, train_controls
from validation.bench.recursion import recurse
from validation.bench.table import Line, Table

Say = Callable[[str], None]
DIGITS = 4  # of a stored number
RECURSION_CORPORA = frozenset({"stories"})
RECURSION_CASES = frozenset(
    {
        ("resample", 1.0),
        ("reformat", 1.0),
        ("duplicates", 10),
        ("templates", 0.5),
        ("shuffle words", 1.0),
        ("tail cut", 0.2),
        ("replace by model", 5),
        ("replace by model top-k", 5),
    }
)
QUICK = "arithmetic"  # the corpus of the quick set
QUICK_CASES = frozenset(
    {
        ("resample", 1.0),
        ("resample, half the size", 0.5),
        ("duplicates", 2),
        ("duplicates", 5),
        ("duplicates", 10),
        ("templates", 0.05),
        ("templates", 0.5),
        ("shuffle words", 0.05),
        ("shuffle words", 0.5),
        ("random words", 0.5),
        ("tail cut", 0.05),
        ("tail cut", 0.2),
        ("reformat", 1.0),
        ("spell numbers", 1.0),
        ("replace by n-gram", 1),
        ("replace by n-gram", 5),
        ("replace by model", 1),
    }
)


@dataclass(frozen=True)
class Desk:
    """Where the benchmark works.

    Attributes:
      table: its results.
      chains: folder where generations that models wrote are kept between runs.
      say: told what begins, what is skipped and why, and every finished case.
    """

    table: Table
    chains: Path
    say: Say


def build(desk: Desk, corpora: Sequence[str], *, renew: bool = False, quick: bool = False) -> None:
    """Makes every case of the corpora once and writes its hash into the table.

    Where a corpus is not the one that the table's cases were made of, that is said, and nothing is made of it, unless `renew`
    says that the new rows are to be the cases from now on.

    Args:
      desk: where.
      corpora: names.
      renew: whether changed cases replace those of the table, whose labels then no longer count.
      quick: about twenty cases a corpus only.
    """
    for name in corpora:
        wanted = [r for r in recipes(CORPORA[name]) if not quick or (r.corruption, r.strength) in QUICK_CASES]
        domain = _domain(desk, name) if wanted else None
        if domain is None:
            continue
        stale = [line for _, line in desk.table.cases.items() if line["corpus"] == name and _is_stale(line, domain)]
        if stale and not renew:
            desk.say(
                f"changed: {name} is not what {len(stale)} cases of the table were made of; --renew takes the new rows"
            )
            continue
        desk.say(f"building {name}: {len(wanted)} cases")
        added = 0
        for recipe in wanted:
            if desk.table.cases.get(recipe.id) is not None and not renew:
                continue
            try:
                case = make(recipe, domain, desk.chains)
            except (TooSmall, NotApplicable) as error:
                desk.say(f"skipped {error}")
                continue
            line = _case_line(case, domain)
            if desk.table.cases.get(recipe.id) != line:
                desk.table.cases.add(line)
                added += 1
        desk.say(f"built {name}: {len(wanted)} cases, {added} of them new")


def label(desk: Desk, corpora: Sequence[str], *, at_once: int, limit: int | None = None) -> None:
    """Labels cases that have no label yet, a corpus after the other.

    Args:
      desk: where.
      corpora: names.
      at_once: cases trained by one program.
      limit: at most so many cases.
    """
    pending = [line for line in desk.table.pending() if line["corpus"] in corpora][:limit]
    done, started = 0, time.monotonic()
    for name, lines in groupby(sorted(pending, key=lambda line: line["corpus"]), key=lambda line: line["corpus"]):
        mine = list(lines)
        domain = _domain(desk, name)
        if domain is None:
            continue
        stale = [line for line in mine if _is_stale(line, domain)]
        if stale:
            desk.say(f"skipped {len(stale)} cases of {name}: its rows are not those that the cases were made of")
            mine = [line for line in mine if line not in stale]
        for half, group in groupby(sorted(mine, key=lambda line: line["half"]), key=lambda line: line["half"]):
            for found in _label_group(desk, domain, list(group), half, at_once):
                done += 1
                left = (time.monotonic() - started) / done * (len(pending) - done)
                desk.say(f"{done}/{len(pending)}, {left / 60:.0f} min left · {_summary(found)}")


def _label_group(desk: Desk, whole: Domain, lines: list[Line], half: bool, at_once: int) -> Iterator[Line]:
    """Labels cases of one corpus and size."""
    domain = whole.halved() if half else whole
    recursion = any(is_recursive(recipe_of(line)) for line in lines)
    controls = known_controls(desk, domain, at_once, recursion=recursion)
    for start in range(0, len(lines), at_once):
        began = time.monotonic()
        cases = [case for line in lines[start : start + at_once] if (case := _made(desk, whole, line))]
        if not cases:
            continue
        outcomes = train_cases(domain, [case.rows for case in cases], at_once=at_once)
        seconds = (time.monotonic() - began) / len(cases)
        for case, outcome in zip(cases, outcomes, strict=True):
            began, criteria = time.monotonic(), loss_criteria(outcome.losses, controls)
            if controls.slope is not None and is_recursive(case.recipe):
                criteria += recursion_criteria(recurse(domain, outcome.params, SEEDS), controls)
            line = label_line(case, judge(criteria), seconds + time.monotonic() - began)
            desk.table.labels.add(line)
            yield line


def known_controls(desk: Desk, domain: Domain, at_once: int, *, recursion: bool) -> Controls:
    """What the controls reach, from the table where it stands there."""
    name = f"{domain.name}/{domain.tokens}"
    line = desk.table.controls.get(name)
    if line is None or line["corpus_hash"] != domain.fingerprint or (recursion and "slope" not in line):
        desk.say(f"training the controls of {domain.name}, {domain.tokens:,} tokens a case")
        began = time.monotonic()
        outcomes = train_controls(domain, at_once=at_once)
        found: Line = {"losses": control_losses(outcomes)}
        if recursion:
            chains = [recurse(domain, outcome.params, SEEDS) for outcome in outcomes]
            found |= {name: np.stack([getattr(chain, name) for chain in chains]) for name in ("slope", "retention")}
        line = {
            "id": name,
            "corpus_hash": domain.fingerprint,
            "tokens": domain.tokens,
            "steps": domain.steps,
            **jax.tree.map(lambda values: np.round(values, DIGITS).tolist(), found),
            "seconds": round(time.monotonic() - began, 2),
            "jax": jax.__version__,
        }
        desk.table.controls.add(line)
    return Controls(
        {group: np.array(values) for group, values in line["losses"].items()},
        *(np.array(line[name]) if recursion else None for name in ("slope", "retention")),
    )


def is_recursive(recipe: Recipe) -> bool:
    """Whether a case is of the subset that C3 is measured on: it costs ten times as much as the rest."""
    return recipe.corpus in RECURSION_CORPORA and (recipe.corruption, recipe.strength) in RECURSION_CASES


def write_case(desk: Desk, name: str, folder: Path) -> list[Path]:
    """Writes a case of the table as files, see `export`.

    Raises:
      ValueError: there is no such case, or this machine cannot make the rows that the table has.
    """
    line = desk.table.cases.get(name)
    if line is None:
        near = difflib.get_close_matches(name, desk.table.cases.names(), n=3, cutoff=0.0)
        raise ValueError(f"case {name!r} is not in the table, expected one like {', '.join(near) or 'those of build'}")
    domain = _domain(desk, line["corpus"])
    case = None if domain is None else _made(desk, domain, line)
    if domain is None or case is None:
        raise ValueError(f"case {name}: this machine does not have its rows")
    return export(case, domain, folder)


def _is_stale(line: Line, domain: Domain) -> bool:
    """Whether a case was made of other rows than the corpus has now."""
    return line["corpus_hash"] != domain.fingerprint


def _domain(desk: Desk, name: str) -> Domain | None:
    """The corpus laid out; None, with a word, where it cannot be."""
    try:
        return lay_out(name, read(name), label=CORPORA[name].label)
    except (MissingCorpus, TooSmall) as error:
        desk.say(f"skipped {name}: {error}")
        return None


def _made(desk: Desk, domain: Domain, line: Line) -> Case | None:
    """The case of a line; None, with a word, where it comes out otherwise."""
    recipe = recipe_of(line)
    if recipe.corruption not in CORRUPTIONS:
        desk.say(f"skipped {recipe.id}: there is no such corruption any more")
        return None
    try:
        case = make(recipe, domain, desk.chains)
    except (TooSmall, NotApplicable) as error:
        desk.say(f"skipped {recipe.id}: {error}")
        return None
    if case.fingerprint() == line["hash"]:
        return case
    desk.say(f"skipped {recipe.id}: its rows are not those of the table; build --renew takes the new ones")
    return None


def recipe_of(line: Line) -> Recipe:
    """What a line of the cases was made from."""
    return Recipe(*(line[name] for name in Recipe._fields))


def _case_line(case: Case, domain: Domain) -> Line:
    corruption = CORRUPTIONS[case.recipe.corruption]
    return {
        "id": case.recipe.id,
        **case.recipe._asdict(),
        "kind": case.rows.kind,
        "harmless": corruption.harmless,
        "corpus_hash": domain.fingerprint,
        "hash": case.fingerprint(),
        "rows": len(case.rows),
        "bad": int(case.bad.sum()),
        "half": case.half,
    }


def label_line(case: Case, judgement: Judgement, seconds: float) -> Line:
    """A label as the table keeps it, with all that it was judged by."""
    return {
        "id": case.recipe.id,
        "hash": case.fingerprint(),
        "verdict": judgement.verdict,
        "doubt": round(judgement.doubt, DIGITS),
        "fired": judgement.fired,
        "criteria": [_criterion(criterion) for criterion in judgement.criteria],
        "seconds": round(seconds, 2),
    }


def _criterion(criterion: Criterion) -> Line:
    return {
        "name": criterion.name,
        "group": criterion.group,
        "values": [round(value, DIGITS) for value in criterion.values],
        "sigma": round(criterion.sigma, DIGITS),
        "bar": round(criterion.bar, DIGITS),
    }


def _summary(line: Line) -> str:
    harm = line["criteria"][0]
    values = " ".join(f"{value:+.3f}" for value in harm["values"])
    fired = ", ".join(line["fired"]) or "nothing fires"
    return f"{line['id']}: {line['verdict']} (C1 {values}, bar {harm['bar']:.3f}; {fired}) {line['seconds']:.1f} s"
