"""Whether harm grows with the strength of a corruption, over the corpora that have all of its strengths."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats

from validation.bench.summary import Labelled, Measure, by_corpus, by_level, labelled
from validation.bench.table import Table

SIGNIFICANT = 0.05  # all tests of one corruption and measure together
BEYOND = 2.0  # standard errors by which harm has to fall in one corpus to count as falling
ROUNDED = 0.5e-4  # the table's numbers end at the fourth digit

Outcome = Literal["falls", "no fall", "rises", "too few corpora"]
ORDER: tuple[Outcome, ...] = ("falls", "no fall", "rises", "too few corpora")

# What a corruption takes away may hardly show in the mean; its harm is then also followed where it is meant to strike.
AIMED_AT: dict[str, Measure] = {
    "tail cut": "C2 tail",
    "drop levels": "C2 tail",
    "drop modes": "C2 worst group",
    "label noise": "C2 worst group",
}


class Fall(NamedTuple):
    """Harm at a stronger strength less that at a weaker one, mean over corpora in bits per token, and its p."""

    weaker: float
    stronger: float
    change: float
    p: float


@dataclass(frozen=True)
class Trend:
    """How one corruption's harm goes with its strength.

    Attributes:
      corruption, harmless, measure: what of.
      means: harm by strength, from weak to strong; bits per token. Empty where no corpus has all strengths.
      corpora: how many have.
      falls: pairs of strengths between which harm falls: one-sided paired t test over corpora, at 5 % for all pairs together.
      outcome: "falls" where there is such a pair; "rises" where there is none and the same test at 5 % sees a rise from the
        weakest to the strongest; "no fall" where it sees neither; "too few corpora" below two.
      never_falls: share of the corpora in which no strength is followed by one of less harm, beyond two standard errors.
      spearman: of strength and harm, mean over corpora; both are NaN where there is no corpus.
    """

    corruption: str
    harmless: bool
    measure: Measure
    means: dict[float, float]
    corpora: int
    falls: list[Fall]
    outcome: Outcome
    never_falls: float
    spearman: float


def monotone(table: Table) -> list[Trend]:
    """Trends of all corruptions with several strengths, by C1 and, for some, by what they are meant to strike.

    Those whose harm falls stand first, then those where neither a fall nor a rise is seen.
    """
    strengths: dict[str, dict[float, list[Labelled]]] = defaultdict(dict)
    for (name, strength), cases in sorted(by_level(labelled(table)).items()):
        strengths[name][strength] = cases
    trends = [
        _trend(name, measure, levels)
        for name, levels in strengths.items()
        if len(levels) > 1
        for measure in dict.fromkeys(("C1", AIMED_AT.get(name, "C1")))
    ]
    return sorted(trends, key=lambda trend: (ORDER.index(trend.outcome), trend.corruption))


def _trend(name: str, measure: Measure, levels: dict[float, list[Labelled]]) -> Trend:
    strengths, harmless = list(levels), next(iter(levels.values()))[0].harmless
    harms = [by_corpus(cases, measure) for cases in levels.values()]
    corpora = sorted(set.intersection(*map(set, harms)))
    if not corpora:
        return Trend(name, harmless, measure, {}, 0, [], "too few corpora", float("nan"), float("nan"))
    harm = np.array([[own[corpus] for own in harms] for corpus in corpora])
    errors = np.array([[_error(cases, corpus, measure) for cases in levels.values()] for corpus in corpora])
    falls, outcome = _tested(strengths, harm)
    return Trend(
        name,
        harmless,
        measure,
        dict(zip(strengths, harm.mean(axis=0).tolist(), strict=True)),
        len(corpora),
        falls,
        outcome,
        _share_that_never_falls(harm, errors),
        float(np.mean([_rank_correlation(strengths, row) for row in harm])),
    )


def _tested(strengths: Sequence[float], harm: Float[np.ndarray, "corpora strengths"]) -> tuple[list[Fall], Outcome]:
    if len(harm) < 2:
        return [], "too few corpora"
    falls = []
    for weaker, stronger in combinations(range(len(strengths)), 2):
        change = harm[:, stronger] - harm[:, weaker]
        falls.append(Fall(strengths[weaker], strengths[stronger], float(change.mean()), _p_of_fall(change)))
    seen = [fall for fall in falls if fall.p < SIGNIFICANT / len(falls)]
    if seen:
        return seen, "falls"
    return [], "rises" if _p_of_fall(harm[:, 0] - harm[:, -1]) < SIGNIFICANT else "no fall"


def _p_of_fall(change: Float[np.ndarray, " corpora"]) -> float:
    """One-sided t test of a mean below zero; changes that agree in all stored digits still differ by their rounding."""
    error = max(float(np.std(change, ddof=1)), ROUNDED) / len(change) ** 0.5
    return float(stats.t.cdf(float(change.mean()) / error, len(change) - 1))


def _share_that_never_falls(
    harm: Float[np.ndarray, "corpora strengths"], errors: Float[np.ndarray, "corpora strengths"]
) -> float:
    allowed = BEYOND * np.hypot(errors[:, :-1], errors[:, 1:])
    return float((np.diff(harm, axis=1) >= -allowed).all(axis=1).mean())


def _error(cases: Iterable[Labelled], corpus: str, measure: Measure) -> float:
    """Standard error of the mean over one corpus' cases."""
    errors = np.array([case.criterion(measure).standard_error for case in cases if case.corpus == corpus])
    return float(np.sqrt((errors**2).sum()) / len(errors))


def _rank_correlation(strengths: Sequence[float], harm: Float[np.ndarray, " strengths"]) -> float:
    """Spearman's; 0 where all harms are equal."""
    if np.ptp(harm) == 0:
        return 0.0
    return float(np.corrcoef(stats.rankdata(strengths), stats.rankdata(harm))[0, 1])
