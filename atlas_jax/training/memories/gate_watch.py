"""A watch on the gates of a run, that ends it where they have died: they are the same for all tokens, or never began to differ.

What it knows is what `metrics.jsonl` says, so that it goes on where a run goes on, and goes back where a run goes back.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from atlas_jax.training.runs.run import EVENTS, METRICS
from atlas_jax.training.runs.run_log import EventLog, Row

_log = logging.getLogger(__name__)


class GateCollapseError(RuntimeError):
    """The gates of a run have died: they are the same for all tokens, or never began to differ."""


@dataclass(frozen=True)
class GateLimits:
    """What is asked of gates, and when, in completed steps.

    Attributes:
      first: where the variance is recorded, and gates should have been polarised.
      second: where the variance is compared with it.
      last: where some gates should still be polarised.
      growth: least gate_variance at `second`, in that of `first`.
      spread: gate_std at `first` from which growth is not asked: it asks whether gates leave their start, and these have. Healthy
        small runs went from .02 at step 1 to .16 at 100 and .12 at 300 on text, to .30 and .35 (500) with polarisation.
      least_std: of gate_std, at every step from `first` on.
      polarised_first, polarised_last: least gate_polarised at those steps; below it is reported and ends no run.

    Raises:
      ValueError: the steps are not in order.
    """

    first: int = 100
    second: int = 500
    last: int = 1000
    growth: float = 1.5
    spread: float = 0.1
    least_std: float = 0.01
    polarised_first: float = 0.8
    polarised_last: float = 0.2

    @classmethod
    def within(cls, steps: int) -> GateLimits:
        """For a run of so many steps: of one shorter than `last`, 10 %, 50 % and 100 % of it.

        Raises:
          ValueError: there are fewer than 10 steps.
        """
        if steps < 10:
            raise ValueError(f"GateLimits.within: {steps} steps, expected at least 10 to see gates spread")
        return cls() if steps >= cls.last else cls(first=round(0.1 * steps), second=round(0.5 * steps), last=steps)

    def __post_init__(self) -> None:
        if not 0 < self.first < self.second < self.last:
            raise ValueError(
                f"GateLimits: steps {self.first}, {self.second}, {self.last}, expected each above the last"
            )


class GateWatch(NamedTuple):
    """What a watch remembers; numbers that JSON knows, for a checkpoint's `extra`."""

    step: int = 0  # completed steps when it last looked
    variance: float | None = None  # gate_variance at `GateLimits.first`


class GateFinding(NamedTuple):
    """What was found of gates at a step.

    Attributes:
      step: completed steps.
      passed: what was asked.
      fatal: not passed, and the run is not worth going on with.
      text: the number and what was expected.
    """

    step: int
    passed: bool
    fatal: bool
    text: str


def watch_gates(
    limits: GateLimits, watch: GateWatch, step: int, metrics: Mapping[str, Any]
) -> tuple[GateWatch, list[GateFinding]]:
    """Looks at the gates after a step; call it with every step that is read, in order, and after a rollback go on.

    Args:
      limits: what is asked.
      watch: what was seen before; `GateWatch()` at the start.
      step: completed steps. What was due since the last look is looked at now.
      metrics: of the step, `gate_statistics` among them; on the host.

    Returns:
      What has been seen now, and what was found: nothing at most steps.
    """
    variance, std, share = (float(metrics[f"gate_{name}"]) for name in ("variance", "std", "polarised"))
    found: list[GateFinding] = []

    def due(at: int) -> bool:
        return watch.step < at <= step

    if step >= limits.first and not std >= limits.least_std:  # NaN is no variation either
        text = f"gates vary by {std:.4f} (standard deviation), expected at least {limits.least_std}"
        found.append(GateFinding(step, False, True, text))
    first = variance if due(limits.first) else watch.variance
    if due(limits.second):
        found.append(_growth(limits, step, variance, first))
    for at, least in ((limits.first, limits.polarised_first), (limits.last, limits.polarised_last)):
        if due(at):
            text = f"{share:.0%} of gates are polarised, expected at least {least:.0%}"
            found.append(GateFinding(step, share >= least, False, text))
    return GateWatch(step, first), found


def _growth(limits: GateLimits, step: int, variance: float, first: float | None) -> GateFinding:
    now = f"gate variance is {variance:.5f}"
    if first is None:
        return GateFinding(
            step, False, False, f"{now}, and that of step {limits.first} is not known: the watch began later"
        )
    against = f"{now}, expected at least {limits.growth} times the {first:.5f} of step {limits.first}"
    if first >= limits.spread**2:
        return GateFinding(step, True, False, f"{against} only where gates vary by less than {limits.spread} there")
    grown = variance >= limits.growth * first
    return GateFinding(step, grown, not grown, against)


def report_gates(findings: Sequence[GateFinding]) -> None:
    """Logs what was found, and ends a run whose gates have died.

    Raises:
      GateCollapseError: a finding is fatal; all such findings are in the message.
    """
    for finding in findings:
        _log.log(logging.INFO if finding.passed else logging.WARNING, "step %d: %s", finding.step, finding.text)
    fatal = [f"step {finding.step}: {finding.text}" for finding in findings if finding.fatal]
    if fatal:
        raise GateCollapseError(
            "; ".join(fatal)
            + "; the gates have collapsed: train with another seed or rate, with polarisation of gates if it was "
            "off, or without this watch"
        )


class RunWatch:
    """Watches the gates of a run; made for `with` around `execute`, which is given its methods.

    What it finds is noted among the run's events. Once that is fatal `collapsed` says so, to have all saved and the run stopped,
    and leaving `with` raises GateCollapseError. Taken up again, such a run ends at once.
    """

    def __init__(self, folder: Path, limits: GateLimits) -> None:
        """Args: folder of the run; what is asked of its gates."""
        self._metrics, self._events, self._limits = folder / METRICS, EventLog(folder / EVENTS), limits
        self._watch, self._fatal = GateWatch(), list[GateFinding]()

    def row(self, row: Row) -> None:
        """A sink of the run: figures, once they are written."""
        for found in self._look(row):
            self._events.note(found.step, "gates", passed=found.passed, fatal=found.fatal, text=found.text)
            if not found.fatal:
                report_gates([found])

    def restored(self, step: int) -> None:
        """The run goes on from that step, and its log has been cut to it.

        Raises:
          GateCollapseError: the gates had died by then.
        """
        self._watch, self._fatal = GateWatch(), []
        for line in self._metrics.read_text(encoding="utf-8").splitlines() if step else ():
            self._look(json.loads(line))
        report_gates(self._fatal)

    def collapsed(self) -> bool:
        """Whether the run is to be saved and stopped."""
        return bool(self._fatal)

    def __enter__(self) -> RunWatch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind in (None, KeyboardInterrupt):
            report_gates(self._fatal)

    def _look(self, row: Row) -> list[GateFinding]:
        if self._fatal or "gate_variance" not in row:  # a measurement of what is held out has none
            return []
        figures = {name: math.nan if value is None else value for name, value in row.items()}
        self._watch, found = watch_gates(self._limits, self._watch, row["step"], figures)
        self._fatal = [one for one in found if one.fatal]
        return found
