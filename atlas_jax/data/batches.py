"""The order of batches as a function of (seed, position): resuming, rolling back and skipping need no replay."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int

from atlas_jax.data.packing import Packed


def _permutation(count: int, seed: int, epoch: int) -> Int[np.ndarray, " count"]:
    generator = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, epoch])))
    return generator.permutation(np.arange(count, dtype=np.int32))


def batch_order(*, count: int, batch: int, steps: int, seed: int) -> Int[np.ndarray, "steps batch"]:
    """Which windows each batch holds: a new permutation of all windows per epoch, epochs running through batches.

    Args:
      count: number of windows.
      batch: windows per batch; may exceed `count`.
      steps: number of batches; the order for fewer steps is a prefix of the order for more.
      seed: 0 or more; epoch e depends on (seed, e) alone.

    Returns:
      int32 indices; each epoch's worth of consecutive entries holds every window once.
    """
    _check(count, batch, seed)
    epochs = -(-steps * batch // count)
    order = [_permutation(count, seed, epoch) for epoch in range(epochs)]
    return np.concatenate([*order, np.empty(0, np.int32)])[: steps * batch].reshape(steps, batch)


class Batches:
    """The batches of one run by position, in the order of `batch_order`, with one epoch's permutation in memory."""

    def __init__(self, packed: Packed, batch: int, seed: int) -> None:
        """Args: the windows; windows per batch; seed of the order (0 or more)."""
        _check(len(packed.tokens), batch, seed)
        self._packed, self._batch, self._seed = packed, batch, seed
        self._epoch, self._order = -1, np.empty(0, np.int32)

    def at(self, position: int) -> dict[str, Int[np.ndarray, "b t_plus_1"]]:
        """Batch number `position` (from 0): `{"tokens", "rows"}`, int32 copies of its windows."""
        chosen = self.indices(position)
        return {"tokens": self._packed.tokens[chosen], "rows": self._packed.rows[chosen]}

    def indices(self, position: int) -> Int[np.ndarray, " b"]:
        """Windows of batch number `position`: row `position` of `batch_order`."""
        if position < 0:
            raise ValueError(f"Batches: position={position}, expected 0 or more")
        count = len(self._packed.tokens)
        entries = np.arange(position * self._batch, (position + 1) * self._batch)
        epochs, places = entries // count, entries % count
        chosen = [self._epoch_order(int(epoch))[places[epochs == epoch]] for epoch in np.unique(epochs)]
        return np.concatenate(chosen)

    def _epoch_order(self, epoch: int) -> Int[np.ndarray, " count"]:
        if epoch != self._epoch:
            self._epoch, self._order = epoch, _permutation(len(self._packed.tokens), self._seed, epoch)
        return self._order


def _check(count: int, batch: int, seed: int) -> None:
    for name, value, least in (("count", count, 1), ("batch", batch, 1), ("seed", seed, 0)):
        if value < least:
            raise ValueError(f"batch order: {name}={value}, expected {least} or more")
