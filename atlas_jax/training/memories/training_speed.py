"""How fast a model trains on the machine at hand, and whether it fits."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from atlas_jax.models import atlas
from atlas_jax.models.atlas import AtlasConfig
from atlas_jax.training.memories.gates import next_token_loss, with_gate_spread, with_gate_statistics
from atlas_jax.training.optim import adamw
from atlas_jax.training.state import init_state
from atlas_jax.training.step import make_step


class DoesNotFitError(RuntimeError):
    """A training step takes more memory than the device has."""


class TrainingSpeed(NamedTuple):
    """Measures tokens a second of a whole training step: forward, backward and AdamW, with random tokens, compilation apart.

    Attributes:
      batch, length: sequences a step and tokens of each.
      steps: timed ones, of which the median counts.
      warm: steps before them.
    """

    batch: int
    length: int
    steps: int = 5
    warm: int = 2

    def __call__(self, config: AtlasConfig) -> float:
        """Of a config with fresh parameters.

        Raises:
          DoesNotFitError: the device's memory is too small.
        """
        with _out_of_memory():
            return self.batch * self.length / statistics.median(self._seconds(config))

    def _seconds(self, config: AtlasConfig) -> list[float]:
        optimizer, key = adamw(), jax.random.key(0)
        state = jax.jit(lambda key: init_state(atlas.init(config, key), optimizer, key))(key)
        shape = (self.batch, self.length + 1)
        tokens = jnp.asarray(np.random.default_rng(0).integers(config.vocab_size, size=shape, dtype=np.int32))
        one = with_gate_spread(make_step(with_gate_statistics(next_token_loss(config)), optimizer))
        step = jax.jit(one, donate_argnums=0)
        found = []
        for _ in range(self.warm + self.steps):
            began = time.perf_counter()
            state, metrics = step(state, {"tokens": tokens}, 1e-4)
            jax.block_until_ready((state, metrics))
            found.append(time.perf_counter() - began)
        return found[self.warm :]


@contextlib.contextmanager
def _out_of_memory() -> Iterator[None]:
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise DoesNotFitError(f"out of memory: {str(error).splitlines()[0][:200]}") from error
