"""When has training gone wrong? A pure trigger: what it knows and a loss in, what it knows and a reason out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

_LONGER = 8  # the average that the smoothed loss is held against, in horizons
_SURE = 8.0  # standard deviations of the smoothed loss within which nothing is said
_SMALL = 0.1  # of the first loss: below it, deviations are no longer measured in the loss itself


@dataclass(frozen=True)
class Trigger:
    """What counts as a divergence.

    A single batch says little: the loss of normal steps scatters by some percent, and its perplexity by more. So the loss is
    smoothed over `horizon` steps and held against its average over 8 times as many. How far it strays in health is observed over
    the first `calibration` steps: the threshold is the 99th percentile of these deviations and their standard deviation, at least
    `floor` and at most `stop`. `stop` is also how far the smoothed loss may stand above its lowest so far, which sees a slow
    rise. Eight standard deviations of the noise, known from the differences of successive losses, are never exceeded by
    chance: where that is more, it is the threshold.

    Attributes:
      horizon: steps that smooth the loss.
      calibration: steps whose deviations give the threshold, after the first `horizon` ones; until then it is `stop`.
      floor: least threshold, as a share of the average.
      stop: largest threshold, and largest rise above the lowest smoothed loss.

    Raises:
      ValueError: a length is too short, or the thresholds are out of order.
    """

    horizon: int = 32
    calibration: int = 200
    floor: float = 0.05
    stop: float = 0.10

    def __post_init__(self) -> None:
        for name, least in (("horizon", 2), ("calibration", 2)):
            if getattr(self, name) < least:
                raise ValueError(f"Trigger.{name} is {getattr(self, name)}, expected at least {least} steps")
        if not 0 < self.floor <= self.stop:
            raise ValueError(f"Trigger: floor is {self.floor} and stop {self.stop}, expected 0 < floor <= stop")


class TriggerState(NamedTuple):
    """All that a trigger remembers: numbers that JSON holds exactly. The default is the state before the first loss."""

    seen: int = 0  # losses so far; a tuple has a `count` already
    first: float = 0.0
    last: float = 0.0
    smoothed: float = 0.0
    average: float = 0.0
    variance: float = 0.0  # of one loss, in squared shares of the average
    lowest: float = 0.0  # smoothed loss
    lowest_over: int = 1  # steps whose plain mean would be as exact
    deviations: tuple[float, ...] = ()  # of the smoothed loss in shares of the average, while calibrating
    threshold: float | None = None  # None while calibrating


def to_json(state: TriggerState) -> dict[str, Any]:
    """The state as a dict for a checkpoint's `extra`."""
    return {**state._asdict(), "deviations": list(state.deviations)}


def from_json(saved: dict[str, Any]) -> TriggerState:
    """The state that `to_json` wrote."""
    return TriggerState(**{**saved, "deviations": tuple(saved["deviations"])})


def observe(trigger: Trigger, state: TriggerState, loss: float) -> tuple[TriggerState, str | None]:
    """Takes the loss of one more step.

    Args:
      trigger: what counts as a divergence.
      state: before this step.
      loss: training loss of the step, any unit; its noise is taken as independent from step to step (shuffled batches).

    Returns:
      The state after this step, and None in health or what was seen, in words. After a loss that is not finite the state is
      the one before.
    """
    if not math.isfinite(loss):
        return state, f"the loss is {loss}"
    state = _calibrated(trigger, _averaged(trigger, state, loss))
    return state, _reason(trigger, state) if state.seen >= trigger.horizon / 2 else None


def _toward(mean: float, value: float, over: int) -> float:
    """A running mean while `over` counts the values, an exponential average once it stays."""
    return mean + (value - mean) / over


def _unit(state: TriggerState, average: float) -> float:
    """What deviations from an average are measured in: 1 only for losses that are all 0."""
    return max(abs(average), _SMALL * abs(state.first)) or 1.0


def _averaged(trigger: Trigger, state: TriggerState, loss: float) -> TriggerState:
    seen = state.seen + 1
    if seen == 1:
        return TriggerState(1, loss, loss, loss, loss, lowest=loss)
    over = min(seen, _LONGER * trigger.horizon)
    average = _toward(state.average, loss, over)
    # Successive differences, so that neither learning nor a divergence passes for noise.
    noise = ((loss - state.last) / _unit(state, average)) ** 2 / 2
    state = state._replace(
        seen=seen,
        last=loss,
        smoothed=_toward(state.smoothed, loss, min(seen, trigger.horizon)),
        average=average,
        variance=_toward(state.variance, noise, min(seen - 1, _LONGER * trigger.horizon)),
    )
    if state.smoothed < state.lowest:
        return state._replace(lowest=state.smoothed, lowest_over=_smoothed_over(trigger, state))
    return state


def _smoothed_over(trigger: Trigger, state: TriggerState) -> int:
    """Steps whose plain mean would be as exact as the smoothed loss."""
    return min(2 * trigger.horizon - 1, state.seen)


def _deviation(state: TriggerState) -> float:
    return (state.smoothed - state.average) / _unit(state, state.average)


def _calibrated(trigger: Trigger, state: TriggerState) -> TriggerState:
    if state.threshold is not None or state.seen <= trigger.horizon:
        return state
    deviations = (*state.deviations, _deviation(state))
    if len(deviations) < trigger.calibration:
        return state._replace(deviations=deviations)
    found = float(np.quantile(deviations, 0.99) + np.std(deviations))
    return state._replace(deviations=(), threshold=min(max(found, trigger.floor), trigger.stop))


def _reason(trigger: Trigger, state: TriggerState) -> str | None:
    smoothed_over = _smoothed_over(trigger, state)
    noise = _SURE * math.sqrt(state.variance)
    most = max(trigger.stop if state.threshold is None else state.threshold, noise * smoothed_over**-0.5)
    deviation = _deviation(state)
    if deviation > most:
        return (
            f"the loss, smoothed, is {state.smoothed:.4g}, {deviation:.1%} above its average of {state.average:.4g} "
            f"(at most {most:.1%})"
        )
    rise = (state.smoothed - state.lowest) / _unit(state, state.lowest)
    most = max(trigger.stop, noise * math.sqrt(1 / smoothed_over + 1 / state.lowest_over))
    if rise > most:
        return (
            f"the loss, smoothed, is {state.smoothed:.4g}, {rise:.1%} above its lowest of {state.lowest:.4g} "
            f"(at most {most:.1%})"
        )
    return None
