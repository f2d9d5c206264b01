"""Faults to rehearse with: each wraps one part of a run and leaves the part itself alone.

What strikes by position strikes once where a rollback skips its batch, and again wherever the batch is read again.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import PyTree

from atlas_jax.training.checkpoint import Checkpointer
from atlas_jax.training.loop import BatchSource, Event, Hook
from atlas_jax.training.state import TrainState
from atlas_jax.training.step import Metrics, Step


def nan_gradient(step: Step, position: int) -> Step:
    """The step with what a NaN in the gradient leaves, at the step that reads the batch at `position`.

    The loss is still right; gradient norm and update are NaN, and with them all parameters and moments.

    Args:
      step: what `make_step` returned.
      position: of the batch; in a run without rollbacks the number of steps completed before.
    """

    def faulty(state: TrainState, batch: PyTree, learning_rate: Any) -> tuple[TrainState, Metrics]:
        hit = state.position == position
        after, metrics = step(state, batch, learning_rate)

        def poison(leaf: jax.Array) -> jax.Array:
            return jnp.where(hit, jnp.asarray(jnp.nan, leaf.dtype), leaf) if _is_float(leaf) else leaf

        after = after._replace(
            params=jax.tree.map(poison, after.params), opt_state=jax.tree.map(poison, after.opt_state)
        )
        return after, {**metrics, **{name: poison(metrics[name]) for name in ("grad_norm", "update_norm")}}

    return faulty


def nonsense(batch: PyTree) -> PyTree:
    """Integers anew between the array's least and largest, the same each time; NaN for every float."""

    def one(array: Any) -> np.ndarray:
        array = np.asarray(array)
        if not np.issubdtype(array.dtype, np.integer):
            return np.full_like(array, np.nan)
        return np.random.default_rng(0).integers(
            array.min(), array.max(), array.shape, dtype=array.dtype, endpoint=True
        )

    return jax.tree.map(one, batch)


class CorruptBatches:
    """A source of batches of which some are corrupt."""

    def __init__(
        self, batches: BatchSource, positions: Collection[int], corrupt: Callable[[PyTree], PyTree] = nonsense
    ) -> None:
        """Args: the sound source; where it is to be corrupt; from a sound batch to a corrupt one."""
        self._batches, self._positions, self._corrupt = batches, frozenset(positions), corrupt

    def at(self, position: int) -> PyTree:
        """The batch at `position`, corrupt or sound."""
        batch = self._batches.at(position)
        return self._corrupt(batch) if position in self._positions else batch


def wrong_rate(schedule: optax.Schedule, factor: float, start: int) -> optax.Schedule:
    """The schedule times `factor` from `start` completed steps on."""
    return lambda count: schedule(count) * jnp.where(jnp.asarray(count) >= start, jnp.float32(factor), jnp.float32(1))


class FullDisk(Checkpointer):
    """Checkpoints whose disk is full at some steps: all is written but the acknowledgement, as when the last block is gone."""

    def __init__(self, directory: str | os.PathLike[str], *, keep: int = 2, full_at: Collection[int]) -> None:
        """Args: as for `Checkpointer`; the steps at which a save fails."""
        super().__init__(directory, keep=keep)
        self._full_at = frozenset(full_at)

    def _acknowledge(self, path: Path) -> None:
        if int(path.stem) in self._full_at:  # the folder is `STEP.new` until it replaces others
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        super()._acknowledge(path)


def truncate_checkpoint(directory: str | os.PathLike[str], step: int) -> None:
    """Cuts the largest file of a checkpoint in half, as a disk that lost its last writes does.

    Args:
      directory: of a `Checkpointer`.
      step: of the checkpoint.
    """
    files = [path for path in (Path(directory) / str(step)).rglob("*") if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    os.truncate(largest, largest.stat().st_size // 2)


def kill_at(step: int) -> Hook:
    """A hook that ends the process at once (`kill -9`), nothing flushed and nothing closed, after `step` completed steps."""

    def hook(event: Event) -> None:
        if event.index == step:
            os.kill(os.getpid(), signal.SIGKILL)

    return hook


def _is_float(leaf: jax.Array) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.inexact)
