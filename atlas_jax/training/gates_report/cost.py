"""What hierarchy and probes cost: gates G2-1 and G2-2."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from atlas_jax.training.gates_report.course import Row
from atlas_jax.training.gates_report.gate import Gate
from atlas_jax.training.memories.chunk_sets import BASELINE, Decision
from atlas_jax.training.needles.interval import CANDIDATES, MOST, ProbeInterval


def chunk_gate(decision: Decision, trained: tuple[int, ...]) -> Gate:
    """G2-1: a set of chunks is locked, as it trains at least five times as fast as chunks of 8 alone, and trained with.

    Args:
      decision: as measured on the machine at hand.
      trained: chunks of the run's local memories.
    """
    reasons = list(dict.fromkeys(row.reason for row in decision.rows if row.reason is not None))
    why = f" ({'; '.join(reasons)})" if reasons and decision.chunks is None else ""
    if decision.chunks not in (None, trained):
        why = f"; the run trained with {list(trained)} instead"
    return Gate(
        "G2-1",
        "chunk sets",
        passed=decision.chunks == trained,
        measured={
            "verdict": decision.verdict,
            "chosen": decision.chosen,
            "trained": list(trained),
            "rows": [row._asdict() for row in decision.rows],
            "measured": decision.measured,
            "machine": decision.machine,
        },
        expected=(
            f"the fastest of three trains at least {decision.least_ratio:g} times the tokens a second of {BASELINE} alone, and "
            "the run with it"
        ),
        text=decision.verdict + why,
    )


def probe_gate(decision: ProbeInterval | None, metrics: Sequence[Row], probes: Sequence[Row], tokens: int) -> Gate:
    """G2-2: an interval was found by measurement at which probes take less than a hundredth of the time, and they did.

    The probe after the last step is the report's own where it was not due, and is left out.

    Args:
      decision: on the interval; None: the run had no probe.
      metrics: lines of the run, `tokens_per_second` among them, the time of probes included.
      probes: lines with the step and the seconds of every probe, those of compiling apart, which count for neither.
      tokens: of a step.
    """
    candidates = ", ".join(map(str, CANDIDATES))
    about = partial(
        Gate,
        "G2-2",
        "cost of probes",
        expected=f"an interval among {candidates} steps below {MOST:.0%} of the time, in the run too",
    )
    if decision is None:
        return about(passed=False, measured={}, text="the run has no probe: its texts or its context are too short")
    seconds = sum(tokens / row["tokens_per_second"] for row in metrics) - sum(row["compiling"] for row in probes)
    due = {row["step"]: row["seconds"] for row in probes if row["step"] % decision.interval == 0}
    share = sum(due.values()) / seconds if due and seconds > 0 else None
    confirmed = "no probe was due in the run" if share is None else f"in the run {share:.2%} ({len(due)} of them)"
    return about(
        passed=decision.chosen is not None and share is not None and share < MOST,
        measured={
            "chosen": decision.chosen,
            "interval": decision.interval,
            "overheads": {str(interval): found for interval, found in decision.overheads.items()},
            "step_seconds": decision.step_seconds,
            "probe_seconds": decision.probe_seconds,
            "share_in_run": share,
            "probes_in_run": len(due),
            "seconds_of_training": seconds,
        },
        text=f"{decision.verdict}; {confirmed}",
    )
