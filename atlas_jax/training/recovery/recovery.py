"""Training that goes back to its last healthy checkpoint when the loss says so, and stops with its story when that fails."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding
from jaxtyping import PyTree

from atlas_jax.distributed.sharding import REPLICATED
from atlas_jax.training.checkpoint import Checkpointer, CheckpointError
from atlas_jax.training.loop import Advance, BatchSource, Event, Hook
from atlas_jax.training.recovery.rollback import (
    KEY,
    Course,
    Response,
    Rollback,
    as_json,
    at_position,
    understood,
    words,
)
from atlas_jax.training.recovery.trigger import Trigger, TriggerState, observe
from atlas_jax.training.state import TrainState
from atlas_jax.training.step import Step

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recovery:
    """When a run saves, looks at its losses, goes back and gives up.

    Attributes:
      trigger: what counts as a divergence; a metric that is not finite always does.
      response: after going back, "skip" passes over every batch from the checkpoint to the step that fired, "slow" takes
        them again at a lower learning rate, which stays.
      save_every: steps between checkpoints.
      check_every: steps whose metrics are read together; the device waits for the host once each.
      healthy_after: steps without a fault after which a checkpoint is one to go back to.
      most_rollbacks: of the whole run; the next fault ends it.
      slower: factor on the learning rate at each "slow".
      most_failed_saves: one after the other that are only warned of; the next one ends the run, and one at its last step.

    Raises:
      ValueError: a number is out of its range.
    """

    trigger: Trigger = field(default_factory=Trigger)
    response: Response = "skip"
    save_every: int = 500
    check_every: int = 50
    healthy_after: int = 200
    most_rollbacks: int = 3
    slower: float = 0.5
    most_failed_saves: int = 3

    def __post_init__(self) -> None:
        least = {"save_every": 1, "check_every": 1, "healthy_after": 1, "most_rollbacks": 0, "most_failed_saves": 0}
        for name, value in least.items():
            if getattr(self, name) < value:
                raise ValueError(f"Recovery.{name} is {getattr(self, name)}, expected {value} or more")
        if not 0 < self.slower < 1:
            raise ValueError(f"Recovery.slower is {self.slower}, expected more than 0 and less than 1")
        if self.response not in ("skip", "slow"):
            raise ValueError(f"Recovery.response is {self.response!r}, expected 'skip' or 'slow'")


DEFAULT = Recovery()


class RecoveryError(RuntimeError):
    """Training cannot go on: faults keep coming back, or nothing healthy can be read. The message says what to do."""


@runtime_checkable
class Log(Protocol):
    """A file that must keep step with the checkpoints, such as a `Telemetry`."""

    def flush(self) -> None: ...
    def resume_from(self, step: int) -> None: ...


MakeAdvance = Callable[[Any, float], Advance]


class _Run(NamedTuple):
    """All of a run that is constant."""

    steps: int
    checkpoints: Checkpointer
    recovery: Recovery
    logs: Sequence[Log]
    extra: Callable[[], dict[str, Any]]
    restored: Callable[[int, dict[str, Any]], None]
    template: PyTree


def train_with_recovery(
    step: Step, state: TrainState, batches: BatchSource, schedule: optax.Schedule, **options: Any
) -> Iterator[Event]:
    """Trains one model as `train` does, going back to the last healthy checkpoint when a step goes wrong.

    Args:
      step: what `make_step` or `make_sharded_step` returned; compiled once, whatever the learning rate becomes.
      state: fresh; it is consumed.
      batches: source of batches by position.
      schedule: completed steps -> learning rate.
      options: of `loop_with_recovery`, of which `steps` and `checkpoints` are needed.

    Raises:
      RecoveryError, CheckpointError, ValueError: as `loop_with_recovery`.
    """

    @partial(jax.jit, donate_argnums=0, out_shardings=(_shardings(state), None))
    def update(state: TrainState, batch: PyTree, scale: Any) -> tuple[TrainState, PyTree]:
        return step(state, batch, schedule(state.step) * scale)

    def make_advance(state: TrainState, scale: float) -> Advance:
        _, ahead = _place(state)
        factor = np.float32(scale)
        return lambda index, state: update(state, batches.at(index + ahead), factor)

    return loop_with_recovery(make_advance, state, **options)


def loop_with_recovery(
    make_advance: MakeAdvance,
    state: TrainState,
    *,
    steps: int,
    checkpoints: Checkpointer,
    recovery: Recovery = DEFAULT,
    hooks: Sequence[Hook] = (),
    logs: Sequence[Log] = (),
    extra: Callable[[], dict[str, Any]] = dict,
    restored: Callable[[int, dict[str, Any]], None] = lambda step, extra: None,
    interrupted: Callable[[], bool] = lambda: False,
) -> Iterator[Event]:
    """Runs up to `steps` completed steps, saving, and going back to the last healthy checkpoint when a step goes wrong.

    It goes on from the newest readable checkpoint where there is one, to the bit as if it had never stopped, whatever
    rollbacks there were before or are to come. After a rollback, events and hooks see step numbers again; the abandoned
    course leaves the logs and the disk. At a step that is checked an event follows only if all is well.

    Args:
      make_advance: from a state and a factor on the learning rate to the `advance` of `loop` from that state's step and
        position on; called at the start and after every rollback, and not to compile anew.
      state: fresh; it is consumed. What is restored lies on devices as this does.
      steps: completed steps at the end, those of an earlier run included.
      checkpoints: of this run alone; let it keep 5. The first state is saved too.
      recovery: when to save, look, go back and give up.
      hooks: called in order with every event; none of them saves.
      logs: flushed before every save, taken back to the checkpoint at the start and with every rollback.
      extra: what a checkpoint holds beside the run's own, JSON, asked at every save; the key "recovery" is taken.
      restored: called with step and extra of the checkpoint, at the start where there is one and after each rollback.
      interrupted: asked after every step; once it is true the step is checked and saved, and the iterator ends.

    Raises:
      RecoveryError: the faults outnumber `most_rollbacks`, or no healthy checkpoint can be read.
      CheckpointError: the first state or the last cannot be saved, saves keep failing, a rollback cannot be noted, or there
        are checkpoints and none can be read.
      OSError: a log cannot be written; its error names the file. The last checkpoint stays to go on from.
      ValueError: the checkpoints are those of another model or optimizer, so few are kept that none lives to be called
        healthy, or `extra` holds "recovery".
    """
    if recovery.healthy_after > (checkpoints.keep - 1) * recovery.save_every:
        raise ValueError(
            f"Recovery.healthy_after is {recovery.healthy_after}, expected at most {checkpoints.keep - 1} x save_every = "
            f"{(checkpoints.keep - 1) * recovery.save_every}: {checkpoints.keep} checkpoints are kept"
        )
    shardings = _shardings(state)
    template = jax.tree.map(lambda leaf, s: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=s), state, shardings)
    run = _Run(steps, checkpoints, recovery, logs, extra, restored, template)
    state, course = _begin(run, jax.device_put(state, shardings))
    (index, ahead), advance = _place(state), make_advance(state, course.rate_scale)
    unread: list[tuple[int, PyTree]] = []
    failed_saves = 0
    while index < steps:
        state, metrics = advance(index, state)
        index += 1
        event = Event(index, state, metrics)
        for hook in hooks:
            hook(event)
        unread.append((index, metrics))
        last = index == steps or interrupted()
        saving = last or index % recovery.save_every == 0
        if saving or index % recovery.check_every == 0:
            course, fired = _read(recovery.trigger, course, unread)
            unread = []
            _mark(run, index if fired is None else fired[0] - 1)
            if fired is not None:
                state, course = _roll_back(run, course, state, *fired, ahead)
                (index, ahead), advance = _place(state), make_advance(state, course.rate_scale)
                continue
            if saving:
                failed_saves = _save(run, state, course, failed_saves, last)
        yield event
        if last:
            return


def _shardings(state: PyTree) -> PyTree:
    """Where the state lies: what was placed nowhere in particular goes to all devices of the mesh that the rest is on."""
    found = jax.tree.map(lambda leaf: jnp.asarray(leaf).sharding, state)
    mesh = next((s.mesh for s in jax.tree.leaves(found) if isinstance(s, NamedSharding)), None)
    if mesh is None:
        return found
    whole = NamedSharding(mesh, REPLICATED)
    return jax.tree.map(lambda s: s if isinstance(s, NamedSharding) else whole, found)


def _place(state: TrainState) -> tuple[int, int]:
    """Completed steps, and by how many batches the data order is ahead of them."""
    return int(state.step), int(state.position) - int(state.step)


def _begin(run: _Run, state: TrainState) -> tuple[TrainState, Course]:
    """The newest state there is, and the first checkpoint where there is none: the first state counts as healthy."""
    course = Course()
    if run.checkpoints.latest_step() is not None:
        _free(state)
    found = run.checkpoints.restore(run.template)
    if found is None:
        run.checkpoints.save(int(state.step), state, _extra(run, course, state))
    else:
        restored, extra, at = found
        run.checkpoints.abandon_after(at)  # what could not be read is no place to go back to
        state, course = understood(extra, restored)
    if not run.checkpoints.healthy_steps():
        run.checkpoints.mark_healthy(int(state.step))
    for log in run.logs:
        log.resume_from(int(state.step))
    if found is not None:
        run.restored(found[2], found[1])
    return state, course


def _free(state: PyTree) -> None:
    """Gives back the device memory of a state: two of a large model do not fit."""
    for leaf in jax.tree.leaves(state):
        leaf.delete()


def _extra(run: _Run, course: Course, state: TrainState) -> dict[str, Any]:
    given = run.extra()
    if KEY in given:
        raise ValueError(f"train_with_recovery: extra holds {KEY!r}, expected other keys: this one is taken")
    return {**given, KEY: as_json(course, int(state.position))}


def _read(trigger: Trigger, course: Course, unread: list[tuple[int, PyTree]]) -> tuple[Course, tuple[int, str] | None]:
    """Takes the metrics of several steps in one transfer; the first that is wrong ends it: (completed steps, why)."""
    known, stage = course.trigger, course.stage
    for (index, _), metrics in zip(unread, jax.device_get([metrics for _, metrics in unread]), strict=True):
        bad = [f"{name} is {np.asarray(value)}" for name, value in metrics.items() if not np.isfinite(value).all()]
        if bad:
            return course, (index, ", ".join(bad))
        if (
            now := int(metrics.get("stage", stage))
        ) != stage:  # another chunk has another loss, and that is no divergence
            known, stage = TriggerState(), now
        known, reason = observe(trigger, known, float(metrics["loss"]))
        if reason is not None:
            return course, (index, reason)
    return course._replace(trigger=known, stage=stage), None


def _mark(run: _Run, index: int) -> None:
    """Marks what training has gone on from, without a fault, for long enough.

    Not what an interruption saved between two others: a run that was interrupted must go back to where any would.
    """
    healthy = run.checkpoints.healthy_steps()
    for at in run.checkpoints.steps():
        regular = at % run.recovery.save_every == 0
        if regular and at not in healthy and at + run.recovery.healthy_after <= index:
            try:
                run.checkpoints.mark_healthy(at)
            except CheckpointError as error:
                _log.warning("%s; it is tried again at the next check", error)


def _save(run: _Run, state: TrainState, course: Course, failed: int, last: bool) -> int:
    """Saves and returns how many saves have failed one after the other."""
    for log in run.logs:
        log.flush()
    at = int(state.step)
    try:
        run.checkpoints.save(at, state, _extra(run, course, state))
    except CheckpointError as error:
        if last or failed == run.recovery.most_failed_saves:
            raise CheckpointError(
                f"step {at}: {error}. Saves that failed one after the other: {failed + 1}; checkpoints that are there: "
                f"{run.checkpoints.steps()}. Make room and start the same run again: it goes on from the newest of them"
            ) from error
        _log.warning("%s; training goes on without it", error)
        return failed + 1
    return 0


def _roll_back(
    run: _Run, course: Course, state: TrainState, fired: int, seen: str, ahead: int
) -> tuple[TrainState, Course]:
    """The last healthy state, with what is to be different this time written into its checkpoint.

    Whenever a process is killed in here, what is on disk leads to this same rollback or to its end: the abandoned checkpoints
    go first, and from what is left of them training comes back to the same fault.
    """
    if len(course.rollbacks) >= run.recovery.most_rollbacks:
        raise RecoveryError(_story(run, course, fired, seen, ahead))
    _free(state)
    state, extra, at = _last_healthy(run, fired, seen)
    state, saved = understood(extra, state)
    scale, position = course.rate_scale, int(state.position)
    skipped: tuple[int, int] | tuple[None, None] = (None, None)
    if run.recovery.response == "slow":
        scale *= run.recovery.slower
    else:
        skipped = (position, fired - 1 + ahead)
        position = fired + ahead
    record = Rollback(fired, seen, at, run.recovery.response, *skipped, scale)
    _log.warning("step %d: %s; back to step %d: %s", fired, seen, at, words(record))
    course = Course(saved.trigger, (*course.rollbacks, record), scale)
    extra = {**extra, KEY: as_json(course, position)}
    run.checkpoints.abandon_after(at)
    run.checkpoints.amend(at, extra)
    for log in run.logs:
        log.flush()
        log.resume_from(at)
    run.restored(at, extra)
    return at_position(state, position), course


def _last_healthy(run: _Run, fired: int, seen: str) -> tuple[TrainState, dict[str, Any], int]:
    healthy = run.checkpoints.healthy_steps()
    for at in reversed(healthy):
        try:
            found = run.checkpoints.restore(run.template, step=at)
        except CheckpointError as error:
            _log.warning("%s; going back to the healthy one before it", error)
        else:
            assert found is not None  # only without a step is there perhaps none
            return found
    raise RecoveryError(
        f"step {fired}: {seen}. There is no healthy checkpoint to go back to: of {run.checkpoints.steps()}, {healthy} are "
        "marked healthy and cannot be read. Start anew in another folder, or remove the later ones to go on from an older one"
    )


def _story(run: _Run, course: Course, fired: int, seen: str, ahead: int) -> str:
    tried = "".join(f"; step {r.fired} ({r.seen}) to step {r.restored}, {words(r)}" for r in course.rollbacks)
    healthy = run.checkpoints.healthy_steps()
    other = (
        'a lower learning rate or response="slow", if the model diverges on any data'
        if run.recovery.response == "skip"
        else f'response="skip", if it is the data (the last batch was {fired - 1 + ahead}), or a lower learning rate'
    )
    return (
        f"step {fired}: {seen}. Rollbacks so far: {len(course.rollbacks)} of at most {run.recovery.most_rollbacks}{tried}. "
        f"Healthy checkpoints {healthy} are kept. What may help: {other}; most_rollbacks for more attempts"
    )
