"""The whole state of a training run: what a checkpoint holds, and all that a resumed run needs."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, Key, PyTree


class TrainState(NamedTuple):
    """Everything that changes while a model trains; `vmap` over a leading axis makes it the state of an ensemble."""

    params: PyTree
    opt_state: optax.OptState
    key: Key[Array, ""]  # typed key, constant for the run: each step folds its index in; restored bit-exactly by Orbax
    step: Int[Array, ""]  # int32: completed optimizer steps
    position: Int[Array, ""]  # int32: next batch in the data order; ahead of `step` once a rollback has skipped data


def init_state(params: PyTree, optimizer: optax.GradientTransformation, key: Key[Array, ""]) -> TrainState:
    """The state before the first step.

    Args:
      params: parameters of one model.
      optimizer: the transformation that `make_step` will be given.
      key: typed key (`jax.random.key`) from which all randomness of the run is derived.

    Returns:
      State at step 0 and position 0. It shares the arrays of `params`: a step that donates its state consumes them.
    """
    # Two arrays, not one twice: a donated buffer may appear in its state only once.
    return TrainState(params, optimizer.init(params), key, jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))
