"""Training in two stages: long chunks first, which are fast, then the same parameters at the short ones of use.

Parameters of a memory do not depend on its chunk, so the second stage goes on with them and with the optimizer's state.

Source: TNT (arXiv:2511.07343), section 4.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax

from atlas_jax.training.optim import wsd


class Stage(NamedTuple):
    """Steps that run one after the other.

    Attributes:
      number: 1 or 2.
      start, stop: completed steps before the first and after the last.
      configs: of the model; step `start + i` is at number i modulo their count. Each is compiled once.
    """

    number: int
    start: int
    stop: int
    configs: tuple[Any, ...]


def two_stages(config: Any, *, steps: int, sizes: Sequence[int], share: float) -> tuple[Stage, ...]:
    """The stages of a run; one where no sizes are asked for.

    Args:
      config: of the model, for the first stage.
      steps: of both together.
      sizes: chunks of the second, see `short_chunks`.
      share: of the steps that the second takes, above 0 and below 1; at least one step.

    Raises:
      ValueError: the model has no local memories of those sizes, or the share leaves a stage without steps.
    """
    if not sizes:
        return (Stage(1, 0, steps, (config,)),)
    second = max(1, round(steps * share))
    if not 0 < share < 1 or second >= steps:
        raise ValueError(
            f"stage two: share is {share} of {steps} steps, expected above 0 and below 1, a step at least for each"
        )
    return (
        Stage(1, 0, steps - second, (config,)),
        Stage(2, steps - second, steps, short_chunks(config, sizes)),
    )


def short_chunks(config: Any, sizes: Sequence[int]) -> tuple[Any, ...]:
    """The same model at other chunks.

    Args:
      config: with `chunks`, one for each local memory.
      sizes: of a model with one local memory, the chunks that it takes in turn; of one with several, a chunk for each.

    Raises:
      ValueError: the model has no `chunks`, another number of local memories, or cannot have such a chunk.
    """
    have = getattr(config, "chunks", ())
    if not have:
        raise ValueError(f"stage two: {type(config).__name__} has no local memories, expected a model with chunks")
    if len(have) == 1:
        return tuple(replace(config, chunks=(size,)) for size in sizes)
    if len(have) != len(sizes):
        raise ValueError(
            f"stage two: chunks are {', '.join(map(str, sizes))}, expected {len(have)}, one for each local memory ({have})"
        )
    return (replace(config, chunks=tuple(sizes)),)


def stage_at(stages: Sequence[Stage], index: int) -> Stage:
    """The stage in which the step after `index` completed ones runs."""
    return next(stage for stage in stages if index < stage.stop)


def config_at(stages: Sequence[Stage], index: int) -> Any:
    """The config at which the step after `index` completed ones runs."""
    stage = stage_at(stages, index)
    return stage.configs[(index - stage.start) % len(stage.configs)]


def staged(first: optax.Schedule, stages: Sequence[Stage], *, peak: float, floor: float) -> optax.Schedule:
    """`first` through stage one; in stage two from `peak` down to `floor` times it, on a straight line.

    A decayed learning rate would leave the second stage little to learn with: it starts anew, below the first.

    Args:
      first: schedule of the first stage, over its own steps.
      stages: from `two_stages`.
      peak: learning rate of the second stage's first step.
      floor: share of it that is left at the end.
    """
    if len(stages) == 1:
        return first
    start, length = stages[1].start, stages[1].stop - stages[1].start
    second = wsd(peak, warmup=0, stable=0, decay=length, floor=floor)

    def schedule(count: Any) -> Any:
        return jnp.where(count < start, first(count), second(count - start))

    return schedule
