"""The run that a report is about: trained with recovery and probes, each of which is timed, from where it stopped."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jaxtyping import PyTree

from atlas_jax.training.gates_report.course import Row
from atlas_jax.training.loop import Event, Hook, NonFiniteError
from atlas_jax.training.needles.interval import ProbeInterval, read_interval
from atlas_jax.training.needles.probe import Metrics, NeedleHook, Probe
from atlas_jax.training.recovery.recovery import Recovery, RecoveryError, loop_with_recovery
from atlas_jax.training.recovery.rollback import write_rollbacks
from atlas_jax.training.runs.execution import execute, step_of
from atlas_jax.training.runs.probes import DECISION, probing_of
from atlas_jax.training.runs.progress import Display
from atlas_jax.training.runs.run import EVENTS, HELD_OUT, KEPT, METRICS, Run, last_state
from atlas_jax.training.runs.run_plot import rows_of
from atlas_jax.training.state import TrainState
from atlas_jax.training.whole_file import append_lines

ROLLBACKS, PROBES = "rollbacks.jsonl", "probes.jsonl"
CHECKED, HEALTHY = 50, 200  # as in the command that trains


class Trained(NamedTuple):
    """A run that came to its end, or to one before it.

    Attributes:
      run: of `resolve`.
      state: after the last step; of one that ended early that of its newest checkpoint.
      ended: why it ended early; None: it did not.
      decision: on the interval of probes; None: it had none.
      metrics, held_out, events, rollbacks, probes: lines of its files.
    """

    run: Run
    state: TrainState
    ended: str | None
    decision: ProbeInterval | None
    metrics: list[Row]
    held_out: list[Row]
    events: list[Row]
    rollbacks: list[Row]
    probes: list[Row]


class TimedProbe:
    """A probe that is waited for, and a line in a file of the seconds of each.

    The first call of a process is made twice: what compiling took is told apart.
    """

    def __init__(self, probe: Probe, path: Path) -> None:
        """Args: the probe; its file of JSON lines."""
        self._probe, self._path, self._warm, self._step = probe, path, False, 0

    def before(self, hook: Hook) -> Hook:
        """The hook, of whose events the steps are noted."""

        def noted(event: Event) -> None:
            self._step = event.index
            hook(event)

        return noted

    def __call__(self, params: PyTree) -> Metrics:
        """Probes the parameters of the event under way."""
        jax.block_until_ready(params)
        began = time.perf_counter()
        if not self._warm:
            jax.block_until_ready(self._probe(params))
            self._warm = True
        warm = time.perf_counter()
        found = jax.block_until_ready(self._probe(params))
        row = {"step": self._step, "seconds": time.perf_counter() - warm, "compiling": warm - began}
        append_lines(self._path, json.dumps(row) + "\n")
        return found


def train(run: Run, display: Display, interrupted: Callable[[], bool]) -> Trained:
    """Trains to the last step, from the newest checkpoint in the run's folder.

    Args:
      run: from `resolve`.
      display: of its progress.
      interrupted: asked after every step.

    Raises:
      KeyboardInterrupt: `interrupted` said so; all is saved.
    """
    folder, every, ended = run.folder, run.settings.save_every, None
    with ExitStack() as opened:
        probing = probing_of(run, None, display.say, make_run_step=step_of(run.settings))

        def through(log: Hook) -> Hook:
            if probing is None:
                return log
            timed = TimedProbe(probing.probe, folder / PROBES)
            hook = opened.enter_context(NeedleHook(probing.interval, timed, log, last=run.settings.steps))
            return timed.before(hook)

        recovery = Recovery(
            save_every=every, check_every=min(CHECKED, every), healthy_after=min(HEALTHY, (KEPT - 1) * every)
        )
        try:
            state: Any = execute(
                run,
                hooks=[display],
                sinks=[display.row],
                through=through,
                drive=partial(loop_with_recovery, recovery=recovery),
                restored=lambda step, extra: write_rollbacks(folder / ROLLBACKS, extra),
                interrupted=interrupted,
            )
        except (NonFiniteError, RecoveryError) as error:
            ended, state = str(error), last_state(run)
    return Trained(
        run,
        state,
        ended,
        read_interval(folder / DECISION) if (folder / DECISION).exists() else None,
        *(rows_of(folder / name) for name in (METRICS, HELD_OUT, EVENTS, ROLLBACKS, PROBES)),
    )
