"""What the table says: harm by corruption, strength and corpus, where labels surprise, what they rest on and what they cost.

A corpus is one observation: cases of one corpus, corruption and strength are averaged first, and every interval and test is
over corpora. Labels of rows that a case no longer has do not count.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats

from validation.bench.labels import TAIL, Criterion, Verdict
from validation.bench.outcomes import ALL
from validation.bench.rows import Kind
from validation.bench.table import Line, Table

VERDICTS: tuple[Verdict, ...] = ("collapsing", "grey", "clean")  # the worst first
LEVEL = 0.95  # of intervals
LEAST_CORPORA = 3  # of an interval
DOUBTFUL = 0.05
EXAMPLES = 2

Measure = Literal["C1", "C2 tail", "C2 worst group"]
Level = tuple[str, float]  # a corruption and its strength


@dataclass(frozen=True)
class Labelled:
    """A case with its label.

    Attributes:
      id, corpus, corruption, strength, kind, harmless: as in its line of the table.
      verdict, doubt, fired: as in its label.
      criteria: C1, then the groups of C2, then C3 where it was measured.
    """

    id: str
    corpus: str
    corruption: str
    strength: float
    kind: Kind
    harmless: bool
    verdict: Verdict
    doubt: float
    fired: tuple[str, ...]
    criteria: tuple[Criterion, ...]

    def criterion(self, measure: Measure) -> Criterion:
        """C1, C2 of the rarest words, or of the group of C2 that is worst off, in units of its bar."""
        if measure == "C1":
            return self.criteria[0]
        groups = [c for c in self.criteria if c.name == "C2" and (measure != "C2 tail" or c.group == TAIL)]
        return max(groups, key=_in_bars)

    @property
    def harm(self) -> float:
        """Mean of C1 over the seeds; bits per token."""
        return self.criteria[0].mean

    @property
    def clearest(self) -> Criterion:
        """Of all criteria the one that is highest in units of its bar."""
        return max(self.criteria, key=_in_bars)


@dataclass(frozen=True)
class Harm:
    """Harm of one corruption at one strength.

    Attributes:
      corruption, strength, harmless: what it is.
      by_corpus: C1's mean harm; bits per token.
      verdicts: cases by label.
    """

    corruption: str
    strength: float
    harmless: bool
    by_corpus: dict[str, float]
    verdicts: Counter[str]

    @property
    def mean(self) -> float:
        """Over the corpora."""
        return float(np.mean(list(self.by_corpus.values())))

    @property
    def interval(self) -> tuple[float, float] | None:
        """Of the mean over corpora, 95 %, from Student's t; None for less than three corpora, where it would say nothing."""
        return _interval(list(self.by_corpus.values()))

    @property
    def cases(self) -> int:
        """How many have a label."""
        return self.verdicts.total()

    @property
    def majority(self) -> str:
        """The commonest label, of equally common ones the worst."""
        return commonest(self.verdicts)

    def share(self, verdict: Verdict) -> float:
        """Of the cases."""
        return self.verdicts[verdict] / self.cases


@dataclass(frozen=True)
class Matrix:
    """Mean harm of C1 by corpus and by corruption and strength.

    Attributes:
      corpora, columns: names of rows and columns.
      harm: bits per token; NaN where no case is labelled.
      verdicts: the commonest label of those cases; "" where there is none.
    """

    corpora: list[str]
    columns: list[Level]
    harm: Float[np.ndarray, "corpora columns"]
    verdicts: list[list[str]]


@dataclass(frozen=True)
class Surprise:
    """Cases of one corruption and strength whose label is not what one would expect.

    Attributes:
      corruption, strength: what they are.
      surprising: how many.
      cases: of how many.
      harm: mean of C1 over the surprising ones; bits per token.
      fired: by criterion, how many of them it fires on.
      examples: names of some, those of the clearest criterion in units of its bar first.
      clearest: that criterion of the first example, "C2 tail", and its mean in units of its bar.
    """

    corruption: str
    strength: float
    surprising: int
    cases: int
    harm: float
    fired: Counter[str]
    examples: list[str]
    clearest: tuple[str, float]


class Surprises(NamedTuple):
    """Where label and intuition differ: harmless cases that collapse, damaged ones that are clean."""

    harmless: list[Surprise]
    damaged: list[Surprise]


class TailHarm(NamedTuple):
    """C1 and C2's tail of one case; bits per token."""

    id: str
    corruption: str
    strength: float
    verdict: Verdict
    mean: float
    tail: float


class Times(NamedTuple):
    """Seconds of one label, and hours of all; a label that was made again counts as it was made last."""

    median: float
    ninetieth: float
    hours_of_labels: float
    hours_of_controls: float


class Spread(NamedTuple):
    """A corpus' controls: tokens of a case, how many models, and C1's sigma and bar in bits per token."""

    tokens: int
    models: int
    sigma: float
    bar: float


def labelled(table: Table) -> list[Labelled]:
    """All cases with a label that counts, in the order of the table."""
    return [_joined(case, label) for name, case in table.cases.items() if (label := table.label(name)) is not None]


def _joined(case: Line, label: Line) -> Labelled:
    criteria = tuple(
        Criterion(c["name"], c["group"], tuple(c["values"]), c["sigma"], c["bar"]) for c in label["criteria"]
    )
    return Labelled(
        id=case["id"],
        corpus=case["corpus"],
        corruption=case["corruption"],
        strength=float(case["strength"]),
        kind=case["kind"],
        harmless=case["harmless"],
        verdict=label["verdict"],
        doubt=label["doubt"],
        fired=tuple(label["fired"]),
        criteria=criteria,
    )


def harm_by_strength(table: Table, kind: Kind | None = None) -> list[Harm]:
    """Harm of every corruption at every strength, over all corpora or those of one kind; strengths of one corruption stand
    together, from weak to strong, and the corruption that harms most at any strength stands first.
    """
    groups = by_level(_of_kind(table, kind))
    found = [
        Harm(name, strength, cases[0].harmless, by_corpus(cases, "C1"), Counter(c.verdict for c in cases))
        for (name, strength), cases in groups.items()
    ]
    worst: dict[str, float] = defaultdict(lambda: -np.inf)
    for harm in found:
        worst[harm.corruption] = max(worst[harm.corruption], harm.mean)
    return sorted(found, key=lambda harm: (-worst[harm.corruption], harm.corruption, harm.strength))


def harm_by_corpus(table: Table, kind: Kind | None = None) -> Matrix:
    """The same harms, corpus by corpus; columns as `harm_by_strength` orders them, corpora by name."""
    cases = _of_kind(table, kind)
    corpora = sorted({case.corpus for case in cases})
    columns = [(harm.corruption, harm.strength) for harm in harm_by_strength(table, kind)]
    groups: dict[tuple[str, Level], list[Labelled]] = defaultdict(list)
    for case in cases:
        groups[case.corpus, (case.corruption, case.strength)].append(case)
    cells = [[groups.get((corpus, column), []) for column in columns] for corpus in corpora]
    harm = [[np.mean([case.harm for case in own]) if own else np.nan for own in row] for row in cells]
    return Matrix(
        corpora,
        columns,
        np.array(harm, np.float64).reshape(len(corpora), len(columns)),
        [[commonest(Counter(case.verdict for case in own)) if own else "" for own in row] for row in cells],
    )


def surprises(table: Table) -> Surprises:
    """Harmless cases that are labelled collapsing, and damaged ones that are labelled clean.

    The former are sorted by the share that collapses, the latter by strength in parts of the corruption's strongest, then
    by the share that is clean: the most surprising first.
    """
    groups = by_level(labelled(table))
    strongest: dict[str, float] = defaultdict(float)
    for name, strength in groups:
        strongest[name] = max(strongest[name], strength)
    harmless, damaged = [], []
    for (name, strength), cases in groups.items():
        found, wrong = (harmless, "collapsing") if cases[0].harmless else (damaged, "clean")
        surprising = [case for case in cases if case.verdict == wrong]
        if surprising:
            found.append(_surprise(name, strength, surprising, len(cases)))

    def share(one: Surprise) -> float:
        return -one.surprising / one.cases

    def strength_of(one: Surprise) -> float:
        return -one.strength / (strongest[one.corruption] or 1.0)  # a copula that keeps all is of strength 0

    harmless.sort(key=lambda one: (share(one), -one.surprising, one.corruption))
    damaged.sort(key=lambda one: (strength_of(one), share(one), -one.surprising, one.corruption))
    return Surprises(harmless, damaged)


def _surprise(name: str, strength: float, surprising: list[Labelled], cases: int) -> Surprise:
    ordered = sorted(surprising, key=lambda case: -_in_bars(case.clearest))
    first = ordered[0].clearest
    return Surprise(
        name,
        strength,
        len(surprising),
        cases,
        float(np.mean([case.harm for case in surprising])),
        Counter(criterion for case in surprising for criterion in case.fired),
        [case.id for case in ordered[:EXAMPLES]],
        (first.name if first.group == ALL else f"{first.name} {first.group}", _in_bars(first)),
    )


def tail_against_mean(table: Table) -> list[TailHarm]:
    """C1's mean harm and that of the rarest decile of words, of every case."""
    return [
        TailHarm(c.id, c.corruption, c.strength, c.verdict, c.harm, c.criterion("C2 tail").mean)
        for c in labelled(table)
    ]


def counts(table: Table, by: Literal["kind", "corpus"]) -> dict[Any, Counter[str]]:
    """Cases by label, those without one as "pending", for every kind or corpus."""
    found: dict[Any, Counter[str]] = defaultdict(Counter)
    for name, case in table.cases.items():
        label = table.label(name)
        found[case[by]]["pending" if label is None else label["verdict"]] += 1
    return dict(found)


def criteria_fired(table: Table) -> Counter[str]:
    """Collapsing cases by the criteria that fire on them, as "C1", "C2" or "C1 + C2"; a criterion fires in any group."""
    return Counter(
        " + ".join(sorted({name.split()[0] for name in case.fired})) for case in labelled(table) if case.fired
    )


def recursion(table: Table) -> dict[str, Counter[str]]:
    """Cases on which C3 was "measured" and "fired", by group; empty where it never was."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for criterion in (c for case in labelled(table) for c in case.criteria if c.name == "C3"):
        found[criterion.group]["measured"] += 1
        found[criterion.group]["fired"] += criterion.fires
    return dict(found)


def wilson(part: int, whole: int) -> tuple[float, float]:
    """The 95 % interval of a share, as Wilson gives it."""
    found = stats.binomtest(part, whole).proportion_ci(LEVEL, "wilson")
    return float(found.low), float(found.high)


def doubtful(table: Table) -> Counter[str]:
    """Labels that a repetition would change with a probability of more than 5 %, by verdict."""
    return Counter(case.verdict for case in labelled(table) if case.doubt > DOUBTFUL)


def times(table: Table) -> Times | None:
    """What labels cost; None where there is none."""
    labels = [label["seconds"] for name, _ in table.cases.items() if (label := table.label(name)) is not None]
    if not labels:
        return None
    controls = sum(line["seconds"] for _, line in table.controls.items())
    median, ninetieth = np.quantile(labels, [0.5, 0.9])
    return Times(float(median), float(ninetieth), sum(labels) / 3600, controls / 3600)


def spreads(table: Table) -> dict[str, Spread]:
    """Of every corpus with controls, as its cases of full size were judged by them."""
    controls: dict[str, Line] = {}
    for name, line in sorted(table.controls.items(), key=lambda item: item[1]["tokens"]):
        controls[name.rsplit("/", 1)[0]] = line
    judged = {
        case["corpus"]: label["criteria"][0]
        for name, case in table.cases.items()
        if (label := table.label(name)) is not None and not case["half"]
    }
    return {
        corpus: Spread(
            line["tokens"], int(np.size(line["losses"][ALL])), judged[corpus]["sigma"], judged[corpus]["bar"]
        )
        for corpus, line in controls.items()
        if corpus in judged
    }


def _of_kind(table: Table, kind: Kind | None) -> list[Labelled]:
    return [case for case in labelled(table) if kind in (None, case.kind)]


def by_level(cases: Iterable[Labelled]) -> dict[Level, list[Labelled]]:
    """Cases by corruption and strength."""
    found: dict[Level, list[Labelled]] = defaultdict(list)
    for case in cases:
        found[case.corruption, case.strength].append(case)
    return dict(found)


def by_corpus(cases: Iterable[Labelled], measure: Measure) -> dict[str, float]:
    """Mean over the cases of each corpus; bits per token."""
    found: dict[str, list[float]] = defaultdict(list)
    for case in cases:
        found[case.corpus].append(case.criterion(measure).mean)
    return {corpus: float(np.mean(values)) for corpus, values in found.items()}


def commonest(verdicts: Counter[str]) -> str:
    """The label that most cases have, of equally common ones the worst."""
    return max(VERDICTS, key=lambda verdict: verdicts[verdict])


def _interval(values: Sequence[float]) -> tuple[float, float] | None:
    if len(values) < LEAST_CORPORA:
        return None
    half = stats.t.isf((1 - LEVEL) / 2, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5
    return float(np.mean(values) - half), float(np.mean(values) + half)


def _in_bars(criterion: Criterion) -> float:
    return criterion.mean / criterion.bar
