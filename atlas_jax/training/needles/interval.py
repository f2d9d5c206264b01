"""How often to probe: the shortest interval that costs less than a hundredth of the throughput, measured and kept in a file.

A probe that takes p seconds after every n steps of s seconds takes p / (n s + p) of the time. The decision holds for the
model, the batch and the machine that it was measured with.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
from jaxtyping import PyTree

from atlas_jax.training.machine import machine
from atlas_jax.training.whole_file import write_whole

CANDIDATES = (500, 1000, 2000)  # steps
MOST = 0.01  # of the time


class IntervalError(RuntimeError):
    """There is no decision on an interval: its file is missing or holds something else."""


@dataclass(frozen=True)
class ProbeInterval:
    """What was measured, and the interval that follows.

    Attributes:
      chosen: the shortest candidate that is cheap enough, in steps; None: none is.
      fitting: the shortest interval at all that is, in steps, candidate or not.
      verdict: the decision in words.
      step_seconds, probe_seconds: of the fastest step and of a probe in the middle, compilation apart.
      overheads: shares of the time that the probe takes, by candidate.
      most: below which the share has to be.
      machine: hardware and versions.
      time: seconds since 1970 when it was made.
    """

    chosen: int | None
    fitting: int
    verdict: str
    step_seconds: float
    probe_seconds: float
    overheads: dict[int, float]
    most: float
    machine: dict[str, Any]
    time: float

    @property
    def interval(self) -> int:
        """To train with: the chosen one, or where no candidate is cheap enough the one that is."""
        return self.fitting if self.chosen is None else self.chosen


def overhead(interval: int, *, step_seconds: float, probe_seconds: float) -> float:
    """Share of the time, and so of the throughput, that a probe after every `interval` steps takes."""
    return probe_seconds / (interval * step_seconds + probe_seconds)


def choose_interval(
    step_seconds: float, probe_seconds: float, *, candidates: Sequence[int] = CANDIDATES, most: float = MOST
) -> ProbeInterval:
    """The shortest candidate whose overhead is below `most`; none may be.

    Args:
      step_seconds, probe_seconds: of one of each.
      candidates: steps between probes.
      most: share of the time that is too much, above 0.

    Raises:
      ValueError: a number is not positive, or there is no candidate.
    """
    if not (step_seconds > 0 and probe_seconds > 0 and 0 < most < 1 and candidates and min(candidates) > 0):
        raise ValueError(
            f"choose_interval: step_seconds={step_seconds}, probe_seconds={probe_seconds}, candidates={list(candidates)}, "
            f"most={most}; expected positive numbers, at least one candidate, and most below 1"
        )
    shares = {n: overhead(n, step_seconds=step_seconds, probe_seconds=probe_seconds) for n in sorted(candidates)}
    cheap = [interval for interval, share in shares.items() if share < most]
    fitting = math.floor(probe_seconds * (1 - most) / (most * step_seconds)) + 1
    told = f"a probe takes {probe_seconds:.4g} s, {probe_seconds / step_seconds:.3g} steps"
    if cheap:
        verdict = f"every {cheap[0]} steps: {told}, {shares[cheap[0]]:.2%} of the time"
    else:
        tried = ", ".join(map(str, shares))
        verdict = f"none of {tried} steps is below {most:.2%} of the time: {told}; every {fitting} steps would be"
    return ProbeInterval(
        chosen=cheap[0] if cheap else None,
        fitting=fitting,
        verdict=verdict,
        step_seconds=step_seconds,
        probe_seconds=probe_seconds,
        overheads=shares,
        most=most,
        machine=machine(),
        time=time.time(),
    )


def seconds_of(run: Callable[[], PyTree], *, repeats: int = 5) -> list[float]:
    """Wall times of calls whose arrays are waited for; a first call, which compiles, does not count.

    Args:
      run: does the work and returns arrays that are ready when it is done.
      repeats: calls that count.
    """
    jax.block_until_ready(run())
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(run())
        times.append(time.perf_counter() - began)
    return times


def measure_interval(
    step: Callable[[], PyTree],
    probe: Callable[[], PyTree],
    *,
    repeats: int = 5,
    candidates: Sequence[int] = CANDIDATES,
    most: float = MOST,
) -> ProbeInterval:
    """Times a step and a probe on the machine at hand, and chooses.

    What else the machine does only ever slows a step down, so the fastest step counts, and the probe in the middle: a share
    guessed too high costs a few probes, one guessed too low breaks the promise.

    Args:
      step: does one training step and returns its arrays; what it donates is its own affair.
      probe: probes once and returns the metrics.
      repeats: of each that count.
      candidates, most: as for `choose_interval`.
    """
    return choose_interval(
        min(seconds_of(step, repeats=repeats)),
        statistics.median(seconds_of(probe, repeats=repeats)),
        candidates=candidates,
        most=most,
    )


def write_interval(decision: ProbeInterval, path: str | os.PathLike[str]) -> None:
    """As JSON, whole or not at all; folders are made."""
    write_whole(path, json.dumps(asdict(decision), indent=2, allow_nan=False) + "\n")


def read_interval(path: str | os.PathLike[str]) -> ProbeInterval:
    """What `write_interval` wrote.

    Raises:
      IntervalError: there is no such file, or it holds something else.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        overheads = {int(interval): share for interval, share in content["overheads"].items()}
        for name in ("chosen", "fitting"):
            steps = content[name]
            if not (type(steps) is int and steps > 0) and not (steps is None and name == "chosen"):
                raise ValueError(f"{name} is {steps!r}, expected a number of steps")
        return ProbeInterval(**{**content, "overheads": overheads})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise IntervalError(f"{path}: expected a decision on a probe's interval: {error!r}") from error
