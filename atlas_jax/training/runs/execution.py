"""A run, executed: from its newest checkpoint to its last step, everything told on the way."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
import optax
from jaxtyping import PyTree

from atlas_jax.training.checkpoint import Checkpointer
from atlas_jax.training.loop import Advance, Event, Hook, every, loop, require_finite
from atlas_jax.training.memories import gates
from atlas_jax.training.recovery.recovery import Log
from atlas_jax.training.recovery.rollback import KEY, Course, as_json, understood
from atlas_jax.training.runs.programs import (
    Update,
    fresh_state,
    make_measure,
    make_update,
    mean_over_data,
    next_token_loss,
)
from atlas_jax.training.runs.run import CHECKPOINTS, EVENTS, HELD_OUT, KEPT, METRICS, Run, alone
from atlas_jax.training.runs.run_log import EventLog, RunLog, Sink, Work, peak_of, stay_near
from atlas_jax.training.runs.settings import Settings
from atlas_jax.training.runs.stages import config_at, stage_at
from atlas_jax.training.runs.text_data import count_bytes
from atlas_jax.training.state import TrainState
from atlas_jax.training.step import Step, make_step
from atlas_jax.training.telemetry import Telemetry

AHEAD = 4  # steps that the host may be ahead of the device
LAST_POLARISATION = 0.01  # weight of the polarisation of gates at the last step, in that of the first

MakeAdvance = Callable[[TrainState, float], Advance]
Drive = Callable[..., Iterator[Event]]  # takes the arguments of `loop_with_saves` but for `save_every`
Reduce = Callable[[PyTree], PyTree]
MakeRunStep = Callable[[Any, Any, optax.GradientTransformation, Reduce, int], Step]


def plain_step(
    model: Any, config: Any, optimizer: optax.GradientTransformation, reduce_gradients: Reduce, accumulation: int
) -> Step:
    """`make_step` on the loss of the next token alone; its metrics tell the spread of gates, where the model has some."""
    step = make_step(next_token_loss(model, config), optimizer, reduce_gradients, accumulation=accumulation)
    return gates.with_gate_spread(step)


def step_of(settings: Settings) -> MakeRunStep:
    """`plain_step`, with the polarisation of gates in its loss where the settings give that a weight."""
    if not settings.polarisation:
        return plain_step
    peak = settings.polarisation
    weight = gates.polarisation_weight(settings.steps, peak=peak, floor=LAST_POLARISATION * peak)

    def polarised_step(
        model: Any, config: Any, optimizer: optax.GradientTransformation, reduce_gradients: Reduce, accumulation: int
    ) -> Step:
        gated = gates.next_token_loss(config)
        return gates.make_polarised_step(gated, optimizer, weight, reduce_gradients, accumulation=accumulation)

    return polarised_step


def loop_with_saves(
    make_advance: MakeAdvance,
    state: TrainState,
    *,
    steps: int,
    checkpoints: Checkpointer,
    save_every: int,
    hooks: Sequence[Hook] = (),
    logs: Sequence[Log] = (),
    restored: Callable[[int, dict[str, Any]], None] = lambda step, extra: None,
    interrupted: Callable[[], bool] = lambda: False,
) -> Iterator[Event]:
    """Runs up to `steps` completed steps from the newest readable checkpoint, or from `state` where there is none.

    Args:
      make_advance: from a state and a factor on the learning rate to the `advance` of `loop`.
      state: fresh; it is consumed.
      steps: completed steps at the end.
      checkpoints: of this run alone.
      save_every: steps between two; the last step is saved too, and the one after which it was interrupted.
      hooks: called with every event.
      logs: taken back to the checkpoint at the start, flushed before every save.
      restored: called with step and extra of the checkpoint that it goes on from.
      interrupted: asked after every step; once it is true all is saved and the iterator ends.

    Raises:
      NonFiniteError: a step's figures hold NaN or an infinity, at most a few steps late; such a state is never saved.
      CheckpointError: a checkpoint cannot be written, or none of those there can be read.
    """
    found, course = checkpoints.restore(state), Course()
    if found is not None:
        jax.tree.map(lambda leaf: leaf.delete(), state)
        state, course = understood(found[1], found[0])  # what a loop with recovery passed over stays so
    start = int(state.step)
    for log in logs:
        log.resume_from(start)
    if found is not None:
        restored(start, found[1])
    unread: list[Event] = []
    for event in loop(make_advance(state, course.rate_scale), state, start=start, stop=steps, hooks=hooks):
        unread.append(event._replace(state=None))
        last = event.index == steps or interrupted()
        saving = last or event.index % save_every == 0
        while unread and (saving or len(unread) > AHEAD):
            require_finite(unread.pop(0))
        if saving:
            for log in logs:
                log.flush()
            checkpoints.save(event.index, event.state, {KEY: as_json(course, int(event.state.position))})
        yield event
        if last:
            return


def execute(
    run: Run,
    *,
    hooks: Sequence[Hook] = (),
    sinks: Sequence[Sink] = (),
    through: Callable[[Hook], Hook] = lambda log: log,
    make_run_step: MakeRunStep | None = None,
    drive: Drive | None = None,
    restored: Callable[[int, dict[str, Any]], None] = lambda step, extra: None,
    interrupted: Callable[[], bool] = lambda: False,
) -> TrainState:
    """Trains to the last step, from the newest checkpoint in the folder if there is one; the same to the bit either way.

    Args:
      run: from `resolve`.
      hooks: called with every step after it is logged and before it is saved, in order.
      sinks: called with every row of figures once it is written, those of measurements too, whose names begin with "held_out".
      through: what stands before the log, to add figures to an event or to look at it: `NeedleHook(..., then=log)`.
      make_run_step: `(model, config, optimizer, reduce_gradients, accumulation) -> step`, to add terms to the loss; by default
        `step_of` the run's settings.
      drive: goes through the steps with the arguments of `loop_with_saves` but for `save_every`: by default that, or
        `recovery.loop_with_recovery` with its `recovery` bound.
      restored: called as `drive` calls it: with a checkpoint's step and extra, at the start where there is one and after
        every rollback.
      interrupted: asked after every step; once it is true the state is saved.

    Returns:
      The state after the last step.

    Raises:
      KeyboardInterrupt: `interrupted` said so; all is saved.
      NonFiniteError, CheckpointError: as `loop_with_saves`, or what `drive` raises.
      SettingsError: another process trains in the folder.
    """
    folder, steps = run.folder, run.settings.steps
    log, held_out = RunLog(folder / METRICS, _work(run), sinks=sinks), Telemetry(folder / HELD_OUT, flush_every=1)
    events, measurement = EventLog(folder / EVENTS), Measurement(run)
    with alone(folder), Checkpointer(folder / CHECKPOINTS, keep=KEPT) as checkpoints:
        state, begun = fresh_state(run.model, run.config, run.optimizer, run.settings.seed, run.mesh), []

        def measure(event: Event) -> None:
            log.flush()
            figures = measurement(event.state.params, event.index)
            held_out(Event(event.index, None, figures))
            for sink in sinks:
                sink({"step": event.index} | {f"held_out_{name}": value for name, value in figures.items()})

        def note(step: int, extra: dict[str, Any]) -> None:
            if begun or step < steps:
                events.note(step, "rollback" if begun else "resume", devices=run.mesh.size)
            begun.append(step)
            restored(step, extra)

        if checkpoints.latest_step() is None:
            events.note(0, "start", devices=run.mesh.size)
            begun.append(0)
            held_out.resume_from(-1)
            measure(Event(0, state, {}))
        each = [through(log), *hooks, stay_near(AHEAD), every(run.settings.evaluate_every, measure, last=steps)]
        programs, last = Programs(run, make_run_step or step_of(run.settings), log, events), None
        drive = drive or partial(loop_with_saves, save_every=run.settings.save_every)
        options = {"hooks": each, "logs": [log, held_out], "restored": note, "interrupted": interrupted}
        try:
            for event in drive(programs.advance, state, steps=steps, checkpoints=checkpoints, **options):
                last = event
        finally:
            log.flush()
        if last is None:  # it was finished before
            found = checkpoints.restore(run.shapes)
            assert found is not None  # the steps of a run end with a checkpoint
            return found[0]
        events.note(last.index, "finished" if last.index == steps else "interrupted")
        if last.index < steps:
            raise KeyboardInterrupt
        return last.state


class Programs:
    """The steps of a run, each config's compiled when it is first needed."""

    def __init__(self, run: Run, make_run_step: MakeRunStep, log: RunLog, events: EventLog) -> None:
        """Args: the run; its kind of step; its logs, as compiling is no time of training and is an event."""
        self._run, self._make_run_step, self._log, self._events = run, make_run_step, log, events
        self._updates: dict[Any, Update] = {}

    def advance(self, state: TrainState, scale: float) -> Advance:
        """The `advance` of `loop` from the state's step and position on, at `scale` times the schedule's learning rate."""
        offset, factor = int(state.position) - int(state.step), np.float32(scale)

        def advance(index: int, state: TrainState) -> tuple[TrainState, PyTree]:
            batch, config = self._run.batches.at(index + offset), config_at(self._run.stages, index)
            update = self._update(index, config, (state, batch, factor))
            self._log.begin()
            state, metrics = update(state, batch, factor)
            labels = {"stage": np.int32(stage_at(self._run.stages, index).number)}
            if getattr(config, "chunks", ()):
                labels["chunk"] = np.int32(config.chunks[0])
            return state, {**metrics, **labels}

        return advance

    def _update(self, index: int, config: Any, inputs: tuple[Any, ...]) -> Update:
        if config not in self._updates:
            run = self._run
            self._log.flush()
            began = time.monotonic()
            step = self._make_run_step(run.model, config, run.optimizer, mean_over_data, run.settings.accumulation)
            update = make_update(step, run.schedule, run.mesh)
            self._updates[config] = update.lower(*inputs).compile()
            seconds = round(time.monotonic() - began, 2)
            chunks = list(getattr(config, "chunks", ()))
            stage = stage_at(run.stages, index).number
            self._events.note(index, "compiled", stage=stage, chunks=chunks, seconds=seconds)
        return self._updates[config]


class Measurement:
    """The held-out loss at the model's own chunks, and in the second stage at each of that stage's too."""

    def __init__(self, run: Run) -> None:
        """Args: the run; nothing is compiled before it is asked for."""
        self._run, self._measures = run, {}
        self._windows = run.tokens.held_out.spread(run.settings.evaluate_windows)
        tokenizer = run.tokens.tokenizer
        self._bytes = None if tokenizer is None else count_bytes(tokenizer, self._windows)

    def __call__(self, params: PyTree, index: int) -> dict[str, float]:
        """`loss` (nats a token), `perplexity`, `bits_per_byte` where the tokenizer is known, `loss_chunk_N` in stage two.

        Args:
          params: of the run's model.
          index: completed steps.
        """
        total = self._total(params, self._run.config)
        loss = total / self._windows[:, 1:].size
        found = {"loss": loss, "perplexity": float(np.exp(min(loss, 700.0)))}
        if self._bytes:
            found["bits_per_byte"] = total / float(np.log(2)) / self._bytes
        stage = stage_at(self._run.stages, max(index - 1, 0))
        for config in stage.configs if stage.number == 2 else ():
            name = "_".join(map(str, config.chunks))
            found[f"loss_chunk_{name}"] = self._total(params, config) / self._windows[:, 1:].size
        return found

    def _total(self, params: PyTree, config: Any) -> float:
        if config not in self._measures:
            self._measures[config] = make_measure(self._run.model, config, self._run.mesh)
        size, count = self._run.settings.batch, len(self._windows)
        order = np.arange(-(-count // size) * size)
        weights = (order < count).astype(np.float32)
        windows = self._windows[np.minimum(order, count - 1)]
        groups = range(0, len(order), size)
        found = [self._measures[config](params, windows[i : i + size], weights[i : i + size]) for i in groups]
        return float(np.sum(jax.device_get(found), dtype=np.float64))


def _work(run: Run) -> Work:
    """6 operations a parameter and token; a table that is only looked into multiplies nothing.

    What attention and memories do beside their products with parameters is left out: MFU is a lower bound.
    """
    params = run.shapes.params
    idle = params["embedding"].size if "head" in params else 0
    tokens = run.settings.batch * run.tokens.train.length
    return Work(tokens, 6.0 * (run.parameters - idle), peak_of(list(run.mesh.devices.flat)))
