"""From losses to a label: clean, collapsing, or in the grey band between.

The label's criteria are those of the design (`validation.criteria` applies them to a detector's models): C1 excess loss on
held-out real rows, C2 the same on the rarest decile of words and on every group, C3 recursion. Bars are fixed before a case is
trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats

from validation.bench.outcomes import ALL, Outcome
from validation.bench.recursion import Recursion

Verdict = Literal["clean", "collapsing", "grey"]

SIGMAS = 3.0
LEAST_HARM = 0.05  # bits per token
MUST_FIRE = 2 / 3  # of the seeds
TAIL = "tail"


@dataclass(frozen=True)
class Criterion:
    """One criterion's measurement on a case.

    Attributes:
      name: "C1", "C2" or "C3".
      group: targets it is about: "all", "tail", or a column or class; of C3 "loss" or "entropy".
      values: of each seed, case less control; bits per token, of C3 bits per token and generation, or the share of entropy lost.
      sigma: spread of the controls over samples and seeds, in the same unit.
      bar: a seed fires above it.
    """

    name: str
    group: str
    values: tuple[float, ...]
    sigma: float
    bar: float

    @property
    def mean(self) -> float:
        """Mean over the seeds."""
        return float(np.mean(self.values))

    @property
    def fired(self) -> int:
        """Seeds above the bar."""
        return sum(value > self.bar for value in self.values)

    @property
    def fires(self) -> bool:
        """In at least two of three seeds."""
        return self.fired >= MUST_FIRE * len(self.values) - 1e-9

    @property
    def standard_error(self) -> float:
        """Of the mean: from the seeds' own spread, and never less than that of as many controls would give."""
        own = float(np.std(self.values, ddof=1))
        return max(own, self.sigma) / len(self.values) ** 0.5


@dataclass(frozen=True)
class Judgement:
    """The label of one case and what it rests on.

    Attributes:
      verdict: see `judge`.
      criteria: C1, then every group of C2, then C3 where it was measured.
      doubt: probability that the mean of a repetition with other seeds would lie on the other side of the bar of the clearest
        criterion, from the standard error and a normal distribution; above 1/2 where the seeds disagree with their mean.
    """

    verdict: Verdict
    criteria: tuple[Criterion, ...]
    doubt: float

    @property
    def fired(self) -> list[str]:
        """Names of the criteria that fire, "C1" or "C2 column income"."""
        return [c.name if c.group == ALL else f"{c.name} {c.group}" for c in self.criteria if c.fires]


class Controls(NamedTuple):
    """What models trained on real rows reach.

    Attributes:
      losses: held-out loss by group of targets, bits per token.
      slope, retention: of C3, see `Recursion`; None where it was not measured.
    """

    losses: dict[str, Float[np.ndarray, "samples seeds"]]
    slope: Float[np.ndarray, "samples seeds"] | None = None
    retention: Float[np.ndarray, "samples seeds"] | None = None


def control_losses(outcomes: Sequence[Outcome]) -> dict[str, Float[np.ndarray, "samples seeds"]]:
    """Losses of the controls of several samples, stacked."""
    return {group: np.stack([outcome.losses[group] for outcome in outcomes]) for group in outcomes[0].losses}


def loss_criteria(losses: Mapping[str, Float[np.ndarray, " seeds"]], controls: Controls) -> tuple[Criterion, ...]:
    """C1 and C2 of a case: its losses less those of the controls of equal seed.

    A group's bar is raised so that all groups together alarm no more often than one criterion at three sigma would.
    """
    groups = len(losses) - 2  # besides "all" and "tail"
    many = float(stats.norm.isf(stats.norm.sf(SIGMAS) / max(1, groups)))
    return tuple(
        Criterion(
            "C1" if group == ALL else "C2",
            group,
            *_excess(loss, controls.losses[group], SIGMAS if group in (ALL, TAIL) else many),
        )
        for group, loss in losses.items()
    )


def recursion_criteria(found: Recursion, controls: Controls) -> tuple[Criterion, ...]:
    """C3 of a case: real loss rises faster over the generations, or less of the entropy is kept, than for the controls."""
    assert controls.slope is not None
    assert controls.retention is not None
    worse = {"loss": (found.slope, controls.slope), "entropy": (-found.retention, -controls.retention)}
    return tuple(
        Criterion("C3", group, *_excess(values, control, SIGMAS)) for group, (values, control) in worse.items()
    )


def _excess(
    values: Float[np.ndarray, " seeds"], control: Float[np.ndarray, "samples seeds"], sigmas: float
) -> tuple[tuple[float, ...], float, float]:
    """Each seed's value less that of the controls of equal seed, their spread, and the bar."""
    sigma = float(np.std(control, ddof=1))
    return tuple(float(value) for value in values - control.mean(axis=0)), sigma, max(sigmas * sigma, LEAST_HARM)


def judge(criteria: tuple[Criterion, ...]) -> Judgement:
    """The label: collapsing where a criterion fires in two of three seeds; grey where harm is more than the spread of seeds
    and no criterion fires; clean otherwise.
    """
    harm = criteria[0]
    firing = [criterion for criterion in criteria if criterion.fires]
    if firing:
        clearest = max(firing, key=_distance)
        return Judgement("collapsing", criteria, float(stats.norm.sf(_distance(clearest))))
    verdict: Verdict = "grey" if harm.mean > harm.sigma else "clean"
    return Judgement(verdict, criteria, float(stats.norm.sf(-_distance(max(criteria, key=_distance)))))


def _distance(criterion: Criterion) -> float:
    """How far above its bar the mean lies, in standard errors."""
    return (criterion.mean - criterion.bar) / criterion.standard_error
