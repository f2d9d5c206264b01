"""The criteria: each one measured, with its bar, and the risk that follows from them.

C1 harm, C2 tail and C5 scaling compare models trained on the data with paired controls trained on the reference; without a
reference C1 and C2 are unknown, and the verdict rests on duplicates, on what more data of this kind still teaches, and on
what removing the flagged rows gains. No weight is tuned: every score is 50 exactly at its criterion's bar.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from validation.report import Dimension, Verdict
from validation.scaling import Law, gain_per_doubling
from validation.tiers import TierResult

LEAST_HARM = 0.05  # bits per token; below it an excess does not count as harm, however well it is measured
SIGMAS = 3.0
STEEP = 0.5  # bits per token and doubling; above it a model is still learning which tokens there are
# P(at least 2 of 3 pairs exceed the bar) = 0.8 needs each to do so with probability 0.713, its normal quantile:
TWO_OF_THREE_AT_80_PERCENT = 0.562
ONE_AT_80_PERCENT = 0.842

FORMULA = (
    "risk = the largest score; score = 100 x / (1 + x), where x is the measured harm in units of its bar, so 50 lies exactly at "
    "the bar. Bar of a loss = max(3 sigma over seeds, 0.05 bits per token). Declared, not fitted: uncalibrated."
)
CostOf = Callable[[float], float]
KINDS = {
    "C1 harm": "A distribution",
    "C2 tail": "C rare pattern",
    "C5 scaling": "A distribution (saturated)",
    "Duplicates": "A distribution (duplication)",
    "Broken rows": "E semantic (broken rows)",
    "Flagged rows": "A distribution (bad rows)",
}


@dataclass(frozen=True)
class Pairs:
    """Paired losses of one tier: models on the data, and controls of equal seed and rate on the reference; [pairs]."""

    data: Float[np.ndarray, " p"]
    control: Float[np.ndarray, " p"]

    @property
    def excess(self) -> Float[np.ndarray, " p"]:
        """Loss on the data's side above its control, bits per token."""
        return self.data - self.control


def pooled_spread(groups: list[Float[np.ndarray, " _"]]) -> float:
    """Standard deviation within groups of equal models, pooled over the groups."""
    freedom = sum(len(g) - 1 for g in groups)
    if freedom < 1:
        raise ValueError("pooled_spread needs a group of at least two models")
    return math.sqrt(sum(float(((g - g.mean()) ** 2).sum()) for g in groups) / freedom)


def bar(spread: float) -> float:
    """Smallest excess that counts, bits per token."""
    return max(SIGMAS * spread, LEAST_HARM)


def score(ratio: float) -> float:
    """Points of risk for a harm of `ratio` bars: 0 at none, 50 at one, towards 100."""
    if not math.isfinite(ratio):  # a loss that is not a number is harm, not its absence
        return 100.0
    ratio = max(0.0, ratio)
    return 100.0 * ratio / (1.0 + ratio)


def harm(name: str, question: str, pairs: list[Pairs]) -> Dimension:
    """C1 or C2: the excess of the larger tier, which must stand in at least two of three pairs.

    Args:
      name, question: as shown.
      pairs: of tier 1 and of tier 2, the judged one last.
    """
    spread = pooled_spread([p.control for p in pairs])
    difference = pooled_spread([p.excess for p in pairs])
    judged, limit = pairs[-1], bar(spread)
    value = float(np.median(judged.excess))
    half = 1.96 * 1.2533 * difference / math.sqrt(len(judged.excess))  # standard error of a median
    small = float(np.median(pairs[0].excess))
    return Dimension(
        name=name,
        question=question,
        value=value,
        unit="bits per token above the control",
        control=float(np.median(judged.control)),
        interval=(value - half, value + half),
        threshold=limit,
        score=score(value / limit),
        passed=value <= limit,
        note=(
            f"median of {len(judged.excess)} pairs of equal seed and rate in tier 2, so above the bar means in at least two of "
            f"three; tier 1: {small:+.3f}; seed spread {spread:.3f}"
        ),
    )


def unknown(name: str, question: str, unit: str, why: str) -> Dimension:
    """A criterion that this run cannot answer."""
    return Dimension(name, question, None, unit, None, None, None, None, None, why)


def scaling_gain(
    losses: Float[np.ndarray, "r c"], control: Float[np.ndarray, "p c"] | None, spread: float
) -> Dimension:
    """C5: does more data of this kind still lower the loss, and by enough to keep up with the control?

    Against a control it is the excess to be expected one doubling on. The gains alone would not do: data that is ahead early and
    level at the end gained less, and harmed nothing (two halves of the standard library at 80 steps: .59 against .70).

    Args:
      losses: tier 2, equal rate, at the decayed checkpoints.
      control: the same of the controls.
      spread: of the final loss over seeds.
    """
    gain, interval = gain_per_doubling(losses)
    question = "Does doubling the data still lower the held-out loss?"
    unit = "bits per token gained by the last doubling"
    if control is None:
        limit = SIGMAS * spread
        ratio = limit / gain if gain > 0 else math.inf
        note = "bar: 3 sigma of the final loss over seeds; a smaller gain could not be told from none"
        return Dimension("C5 scaling", question, gain, unit, None, interval, limit, score(ratio), gain >= limit, note)
    expected = gain_per_doubling(control)[0]
    if expected > STEEP:
        why = f"the control's loss still falls by {expected:.2f} per doubling: too short a run to tell saturation"
        return unknown("C5 scaling", "Would it fall behind the control with twice the data?", "bits per token", why)
    ahead = [2 * curve[:, -1] - curve[:, -2] for curve in (losses, control)]  # each model's loss if it gained once more
    excess = float(ahead[0].mean() - ahead[1].mean())
    limit = bar(pooled_spread(ahead))
    half = 1.96 * pooled_spread(ahead) * math.sqrt(sum(1 / len(side) for side in ahead))
    return Dimension(
        "C5 scaling",
        "Would it fall behind the control with twice the data?",
        excess,
        "bits per token above the control, if the next doubling gains what the last one did",
        expected,
        (excess - half, excess + half),
        limit,
        score(excess / limit),
        excess <= limit,
        f"the last doubling gained {gain:.3f} here, {expected:.3f} in the control (column Control)",
    )


def lost_tokens(
    name: str, question: str, what: str, share: float, named: float, cost_of: CostOf, spread: float
) -> Dimension:
    """What a share of useless tokens costs, read off the loss-against-data curve measured on this very data.

    The tokens are counted as worthless, an upper bound where they still teach something (a second copy does: Hernandez et al.
    2022, arXiv:2205.10487; Muennighoff et al. 2023, arXiv:2305.16264; shuffled words teach vocabulary). Where they do active
    harm, C1 shows it.

    Args:
      name, question: as shown.
      what: the tokens, in words.
      share: of all tokens; an estimate where rows cannot all be told one by one.
      named: share of all tokens in rows that can be named.
      cost_of: share of lost tokens to excess loss in bits per token, see `token_cost`.
      spread: of the final loss over seeds.
    """
    cost, limit = cost_of(share), bar(spread)
    return Dimension(
        name=name,
        question=question,
        value=cost,
        unit="bits per token, at most",
        control=None,
        interval=None,
        threshold=limit,
        score=score(cost / limit),
        passed=cost <= limit,
        note=(
            f"{share:.1%} of all tokens are in {what} ({named:.1%} in rows that can be named); cost read off this run's own "
            "scaling law, as if they taught nothing"
        ),
    )


def token_cost(law: Law, parameters: int, tokens: int) -> CostOf:
    """Loss with a share of the tokens missing, minus loss with all, by a fitted law."""
    return lambda share: float(law.loss(parameters, (1 - share) * tokens) - law.loss(parameters, tokens))


def removal(gains: Float[np.ndarray, " p"] | None, spread: float) -> Dimension:
    """What training without the flagged rows gains, measured by doing it.

    Args:
      gains: held-out loss with all rows minus without the flagged ones, per pair of tier-1 models; None if not retrained.
      spread: of the tier-1 loss over seeds.
    """
    question, unit = "Does training without the flagged rows help?", "bits per token gained by removal"
    if gains is None:
        return unknown("Flagged rows", question, unit, "not retrained: too few rows are flagged to matter")
    value, limit = float(gains.mean()), bar(spread)
    half = 1.96 * float(gains.std(ddof=1)) / math.sqrt(len(gains))
    note = f"mean of {len(gains)} tier-1 models trained again without the flagged rows, same seeds, rates and tokens"
    interval = (value - half, value + half)
    return Dimension(
        "Flagged rows", question, value, unit, None, interval, limit, score(value / limit), value <= limit, note
    )


def judge(
    dimensions: list[Dimension], fail_above: float, detectable: float, detectable_note: str, against: str | None
) -> Verdict:
    """The verdict: the worst measured dimension decides.

    Args:
      dimensions: all of them, unknown ones too.
      fail_above: bar for the risk, in points.
      detectable: minimum detectable harm, bits per token.
      detectable_note: what that means here.
      against: name of the reference, None without.
    """
    measured = [(d.score, d) for d in dimensions if d.score is not None]
    risk, worst = max(measured, key=lambda pair: pair[0])
    passed = risk <= fail_above
    where = f"against {Path(against).name}" if against else "judged on its own, without a reference"
    found = f"{worst.name}: {_amount(worst)} {worst.unit}, bar {_bar(worst)}"
    if passed:
        summary = f"No sign of collapse, {where}. Closest to its bar: {found}."
    else:
        others = [d.name for s, d in measured if s > fail_above and d is not worst]
        summary = f"This data would harm a model, {where}. {found}."
        summary += f" Also above the bar: {', '.join(others)}." if others else ""
    kind = None if passed else KINDS[worst.name]
    return Verdict(risk, passed, False, kind, fail_above, summary, FORMULA, detectable, detectable_note)


def _amount(dimension: Dimension) -> str:
    assert dimension.value is not None  # only measured dimensions have a score
    return f"{dimension.value:.3f}"


def _bar(dimension: Dimension) -> str:
    assert dimension.threshold is not None
    return f"{dimension.threshold:.3f}"


def detectable_against_reference(pairs: list[Pairs]) -> tuple[float, str]:
    """Smallest true excess that this run would have called harm with 80 % power, bits per token, and what it means."""
    limit = bar(pooled_spread([p.control for p in pairs]))
    value = limit + TWO_OF_THREE_AT_80_PERCENT * pooled_spread([p.excess for p in pairs])
    note = (
        f"A true excess of {value:.3f} bits per token over the reference, at these model sizes and this amount of data, would "
        "have been called harm with 80 % power (two of three pairs above the bar). A smaller harm can pass unseen."
    )
    return value, note


def detectable_alone(spread: float, pairs: int) -> tuple[float, str]:
    """The same without a reference: only harm that removing the flagged rows would undo can be seen."""
    value = bar(spread) + ONE_AT_80_PERCENT * math.sqrt(2.0) * spread / math.sqrt(pairs)
    note = (
        f"Without a reference, harm against real text is unknown. Harm of {value:.3f} bits per token that comes from rows which "
        "can be flagged would have been seen with 80 % power; harm spread evenly over all rows would not."
    )
    return value, note


def better_rate(result: TierResult, multipliers: list[float]) -> Bool[np.ndarray, " e"]:
    """The models of the learning rate that does better on average."""
    rates = np.array(multipliers)
    means = {rate: result.loss[rates == rate, -1].mean() for rate in np.unique(rates)}
    return rates == min(means, key=lambda rate: means[rate])


def equal_groups(result: TierResult, multipliers: list[float]) -> list[Float[np.ndarray, " _"]]:
    """Final losses in groups of equal rate, for a spread that is over seeds and subsamples alone."""
    rates = np.array(multipliers)
    return [result.loss[rates == rate, -1] for rate in np.unique(rates)]
