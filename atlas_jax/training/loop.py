"""The loop as a generator: it counts on the host, calls hooks, and never waits for the device."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np
import optax
from jaxtyping import PyTree

from atlas_jax.training.state import TrainState
from atlas_jax.training.step import Step


class Event(NamedTuple):
    """A completed step. Its arrays may still be in flight; reading one waits for the device."""

    index: int  # completed steps  # pyright: ignore[reportIncompatibleMethodOverride] (hides tuple.index)
    state: Any  # valid until the next step where `advance` donates it: a hook that keeps it must copy
    metrics: PyTree  # never donated: may be kept


Hook = Callable[[Event], None]
Advance = Callable[[int, Any], tuple[Any, PyTree]]


@runtime_checkable
class BatchSource(Protocol):
    """Batches addressed by position, so that resuming needs no replay."""

    def at(self, position: int) -> PyTree: ...


def loop(advance: Advance, state: Any, *, start: int, stop: int, hooks: Sequence[Hook] = ()) -> Iterator[Event]:
    """Runs `advance` from `start` completed steps to `stop`, yielding after each one.

    Args:
      advance: `(index, state) -> (state, metrics)`, index the number of steps completed before this one.
      state: whatever `advance` takes.
      start, stop: completed steps before the first and after the last.
      hooks: called in order with every event, before it is yielded.
    """
    for index in range(start, stop):
        state, metrics = advance(index, state)
        event = Event(index + 1, state, metrics)
        for hook in hooks:
            hook(event)
        yield event


def every(n: int, fn: Hook, *, last: int | None = None) -> Hook:
    """Calls `fn` at each n-th completed step, and at step `last` whether or not n divides it."""
    if n < 1:
        raise ValueError(f"every: n={n}, expected 1 or more")

    def hook(event: Event) -> None:
        if event.index % n == 0 or event.index == last:
            fn(event)

    return hook


class NonFiniteError(FloatingPointError):
    """A step's metrics hold NaN or an infinity."""


def require_finite(event: Event) -> None:
    """A hook that stops training at the first step whose metrics are not finite: NaN in the data or a divergence.

    It waits for the step, so give it to `every` where steps are short.

    Raises:
      NonFiniteError: it names the step and every such metric.
    """
    bad = {name: value for name, value in event.metrics.items() if not np.isfinite(value).all()}
    if bad:
        shown = ", ".join(f"{name} is {np.asarray(value)}" for name, value in bad.items())
        raise NonFiniteError(
            f"step {event.index}: {shown}; expected finite numbers: look for NaN in its batch, or lower the rate"
        )


def train(
    step: Step,
    state: TrainState,
    batches: BatchSource,
    schedule: optax.Schedule,
    *,
    steps: int,
    hooks: Sequence[Hook] = (),
) -> Iterator[Event]:
    """Trains one model up to `steps` completed steps, from wherever `state` stands.

    The step is compiled once, with the learning rate computed inside it; the state is donated: the one passed in and
    that of every event are consumed by the step that follows.

    Args:
      step: what `make_step` returned.
      state: fresh or restored; its step and position say where to go on.
      batches: source of batches by position.
      schedule: completed steps -> learning rate.
      steps: completed steps at the end, those of an earlier run included.
      hooks: see `loop`.
    """

    @partial(jax.jit, donate_argnums=0)
    def update(state: TrainState, batch: PyTree) -> tuple[TrainState, PyTree]:
        return step(state, batch, schedule(state.step))

    start, offset = int(state.step), int(state.position) - int(state.step)

    def advance(index: int, state: TrainState) -> tuple[TrainState, PyTree]:
        return update(state, batches.at(index + offset))

    return loop(advance, state, start=start, stop=steps, hooks=hooks)
