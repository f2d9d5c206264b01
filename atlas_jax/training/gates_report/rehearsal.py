"""Gate G2-6: a copy of the trained run goes on, is given corrupt batches until it notices, and has to recover."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from jaxtyping import PyTree

from atlas_jax.training.checkpoint import Checkpointer
from atlas_jax.training.gates_report.gate import Gate
from atlas_jax.training.loop import Event, Hook
from atlas_jax.training.recovery.faults import CorruptBatches, nonsense
from atlas_jax.training.recovery.recovery import Recovery, RecoveryError, loop_with_recovery
from atlas_jax.training.recovery.rollback import rollbacks
from atlas_jax.training.runs.execution import execute
from atlas_jax.training.runs.run import CHECKPOINTS, Run
from atlas_jax.training.runs.run_log import Sink
from atlas_jax.training.state import TrainState

Restored = Callable[[int, dict[str, Any]], None]

WORSE = 0.01  # of the held-out loss, relative, that may be left of the fault


@dataclass(frozen=True)
class Plan:
    """How the fault is rehearsed, in steps.

    Attributes:
      every: between checkpoints and between measurements on held-out text; a checkpoint is healthy after as many steps.
      lead: sound ones before the fault, at least, to the next multiple of `every`.
      bound: within which the trigger has to fire; batches are corrupt for so long, or until it does.
      after: from where the fault began, if it had not been, to the end.
    """

    every: int = 20
    lead: int = 60
    bound: int = 32
    after: int = 80


class Rehearsed(NamedTuple):
    """What happened.

    Attributes:
      began: completed steps when the first corrupt batch was read.
      bound: steps within which the trigger had to fire.
      fired: completed steps when it did; None: it did not.
      seen: what it saw, in words; of a run that ended, why.
      restored: completed steps of the checkpoint that it went back to.
      healthy: whether that was marked so when it was gone back to.
      times: of going back.
      before, after: held-out loss before the fault and at the end, nats a token; None: not come to.
      losses, held_out: [step, loss] in the order in which they were seen, so that steps repeat after the return.
    """

    began: int
    bound: int
    fired: int | None
    seen: str
    restored: int | None
    healthy: bool
    times: int
    before: float | None
    after: float | None
    losses: list[list[float]]
    held_out: list[list[float]]


def rehearse(
    run: Run,
    state: TrainState,
    folder: Path,
    plan: Plan,
    *,
    hooks: Sequence[Hook] = (),
    sinks: Sequence[Sink] = (),
    interrupted: Callable[[], bool] = lambda: False,
) -> Rehearsed:
    """Copies the checkpoints of a finished run and goes on from them, with a fault.

    Args:
      run: finished, trained with recovery.
      state: its last.
      folder: for the copy; what is there goes.
      plan: of the steps.
      hooks, sinks, interrupted: as for `execute`.

    Raises:
      KeyboardInterrupt: `interrupted` said so; the next call begins anew.
    """
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(run.folder / CHECKPOINTS, folder / CHECKPOINTS)
    step, position = int(state.step), int(state.position)
    began = -(-(step + plan.lead) // plan.every) * plan.every
    seen = _Seen([], [], [])
    ended = None
    try:
        execute(
            _continued(run, folder, plan, first=position + began - step, stop=began + plan.after, seen=seen),
            hooks=hooks,
            sinks=[seen.keep, *sinks],
            drive=partial(_drive, plan, seen),
            interrupted=interrupted,
        )
    except RecoveryError as error:
        ended = str(error)
    return _found(plan, began, seen, ended)


class _Seen(NamedTuple):
    """What the rehearsal wrote down.

    Attributes:
      returns: extra, and whether healthy, of the checkpoint of the start, then of every return.
      losses, held_out: [step, loss].
    """

    returns: list[tuple[dict[str, Any], bool]]
    losses: list[list[float]]
    held_out: list[list[float]]

    def keep(self, row: dict[str, Any]) -> None:
        """A sink."""
        for name, kept in (("loss", self.losses), ("held_out_loss", self.held_out)):
            if row.get(name) is not None:
                kept.append([row["step"], row[name]])


def _continued(run: Run, folder: Path, plan: Plan, *, first: int, stop: int, seen: _Seen) -> Run:
    """The run, on to step `stop`, its batches from `first` on corrupt until it has gone back once."""

    def corrupt(batch: PyTree) -> PyTree:
        """Other tokens alone: a weight that is no number would be noticed as such, and no spike."""
        return {**batch, "tokens": nonsense(batch["tokens"])} if len(seen.returns) == 1 else batch

    return run._replace(
        folder=folder,
        settings=replace(run.settings, steps=stop, evaluate_every=plan.every, save_every=plan.every),
        stages=(*run.stages[:-1], run.stages[-1]._replace(stop=stop)),
        batches=CorruptBatches(run.batches, range(first, first + plan.bound), corrupt),
    )


def _drive(
    plan: Plan, seen: _Seen, *args: Any, checkpoints: Checkpointer, restored: Restored, **options: Any
) -> Iterator[Event]:
    """Asks whether a checkpoint is healthy when it is gone back to: later it may have been superseded."""

    def noted(step: int, extra: dict[str, Any]) -> None:
        seen.returns.append((extra, step in checkpoints.healthy_steps()))
        restored(step, extra)

    recovery = Recovery(save_every=plan.every, check_every=min(4, plan.every), healthy_after=plan.every)
    options |= {"checkpoints": checkpoints, "restored": noted, "recovery": recovery}
    return loop_with_recovery(*args, **options)


def _found(plan: Plan, began: int, seen: _Seen, ended: str | None) -> Rehearsed:
    known = set(rollbacks(seen.returns[0][0]))
    mine = [record for record in rollbacks(seen.returns[-1][0]) if record not in known]
    return Rehearsed(
        began=began,
        bound=plan.bound,
        fired=mine[0].fired if mine else None,
        seen=ended or (mine[0].seen if mine else "nothing"),
        restored=mine[0].restored if mine else None,
        healthy=bool(mine) and seen.returns[1][1],
        times=len(mine),
        before=next((loss for at, loss in seen.held_out if at == began), None),
        after=next((loss for at, loss in reversed(seen.held_out) if at == began + plan.after), None),
        losses=seen.losses,
        held_out=seen.held_out,
    )


def rollback_gate(found: Rehearsed | None) -> Gate:
    """G2-6: the trigger fired in time, the run went back to a healthy checkpoint, and its held-out loss is what it was.

    Args:
      found: of the rehearsal; None: there was no finished run to rehearse with.
    """
    expected = "fired within its bound, back to a healthy checkpoint, held-out loss at the end at most that before"
    about = partial(Gate, "G2-6", "rollback after a forced spike", expected=f"{expected} + {WORSE:.0%}")
    if found is None:
        return about(passed=False, measured={}, text="the run did not come to its end")
    measured = found._asdict()
    if found.fired is None or found.restored is None:
        text = f"batches were corrupt from step {found.began + 1:,} on and the trigger did not fire; seen: {found.seen}"
        return about(passed=False, measured=measured, text=text)
    late = found.fired - found.began
    text = f"fired at corrupt step {late} of at most {found.bound}: {found.seen}; back to step {found.restored:,}"
    if found.before is None or found.after is None:
        return about(passed=False, measured=measured, text=f"{text}; it did not come to its end")
    recovered = found.after <= (1 + WORSE) * found.before
    return about(
        passed=bool(0 < late <= found.bound and found.healthy and found.restored <= found.began and recovered),
        measured=measured,
        text=f"{text}; held-out loss {found.before:.4f} before, {found.after:.4f} at the end",
    )
