"""A model in training that may go on at other chunk lengths: its held-out loss by seconds of training."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import jit
from jaxtyping import Array, Float, Int, PyTree

from atlas_jax.data import batch_order
from atlas_jax.training import adamw, init_state, make_step
from benchmarks.quality.trials import LN2, Contestant, target_losses


class Data(NamedTuple):
    """Windows to train on and held out, the bytes of text of those held out, and a fingerprint of the text."""

    train: Int[np.ndarray, "n 2 t"]
    test: Int[np.ndarray, "m 2 t"]
    test_bytes: int
    fingerprint: str


class Point(NamedTuple):
    """An evaluation: optimizer steps and seconds of training so far, held-out bits per byte, the first local chunk."""

    step: int
    seconds: float
    bits: float
    chunk: int


class Training:
    """One Atlas in training, what it has cost so far, and its held-out loss.

    Attributes:
      one: the model as it trains now.
      state: parameters and the optimizer's state.
      steps, seconds: of training; neither compilation nor evaluation is in them.
      compiling: seconds of tracing and compiling the step, once for all chunk lengths met.
      curve: every evaluation.
    """

    def __init__(
        self, one: Contestant, data: Data, *, batch: int, steps: int, rate: float, warmup: int, seed: int
    ) -> None:
        """Args: the model; the text; sequences per step; most steps; rate after `warmup` steps; of parameters and order."""
        self._data, self._batch, self._rate, self._warmup = data, batch, rate, warmup
        self._order = batch_order(count=len(data.train), batch=batch, steps=steps, seed=seed)
        self._optimizer, key = adamw(), jax.random.key(seed)
        self.state = init_state(jit(partial(one.model.init, one.config))(key), self._optimizer, key)
        self.steps, self.seconds, self.compiling = 0, 0.0, 0.0
        self.curve: list[Point] = []
        self._compile(one)

    def set_chunks(self, chunks: tuple[int, ...]) -> None:
        """Goes on with the same parameters and the same state of the optimizer at other local chunks."""
        self._compile(self.one._replace(config=replace(self.one.config, chunks=chunks)))

    def _compile(self, one: Contestant) -> None:
        def loss_fn(params: PyTree, examples: Array, key: Array) -> tuple[Float[Array, ""], dict[str, Any]]:
            del key  # nothing in the models is random
            bits, _ = target_losses(one, params, examples)
            return jnp.sum(bits) * LN2 / jnp.sum(examples[:, 1] >= 0).astype(bits.dtype), {}

        began = time.perf_counter()
        step = jit(make_step(loss_fn, self._optimizer), donate_argnums=0)
        self._step = step.lower(self.state, *self._inputs(0)).compile()
        self.compiling += time.perf_counter() - began
        self._bits = jit(lambda params, examples: jnp.sum(target_losses(one, params, examples)[0]))
        self.one = one

    def _inputs(self, position: int) -> tuple[Int[Array, "b 2 t"], Float[Array, ""]]:
        rate = self._rate * min(1.0, (position + 1) / self._warmup)
        return jnp.asarray(self._data.train[self._order[position]]), jnp.asarray(rate, jnp.float32)

    def advance(self, steps: int) -> Point:
        """So many more steps, timed, and an evaluation, which is not."""
        began = time.perf_counter()
        for position in range(self.steps, self.steps + steps):
            self.state, _ = self._step(self.state, *self._inputs(position))
        jax.block_until_ready(self.state)
        self.seconds += time.perf_counter() - began
        self.steps += steps
        self.curve.append(Point(self.steps, self.seconds, self.evaluate(), self.one.config.chunks[0]))
        return self.curve[-1]

    def evaluate(self) -> float:
        """Bits per byte of the held-out text at the present chunks."""
        test, batch = self._data.test, self._batch
        parts = [self._bits(self.state.params, test[i : i + batch]) for i in range(0, len(test), batch)]
        return float(np.sum(parts)) / self._data.test_bytes
