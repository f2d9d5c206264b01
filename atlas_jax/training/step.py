"""One optimizer step as a pure function: callers jit, scan, vmap or shard it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key, PyTree

from atlas_jax.training.state import TrainState

Metrics = dict[str, Float[Array, ""]]
LossFn = Callable[[PyTree, PyTree, Key[Array, ""]], tuple[Float[Array, ""], dict[str, Any]]]
Step = Callable[[TrainState, PyTree, Any], tuple[TrainState, Metrics]]


def make_step(
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    reduce_gradients: Callable[[PyTree], PyTree] = lambda tree: tree,
) -> Step:
    """A step `(state, batch, learning_rate) -> (state, metrics)` that descends `loss_fn`.

    The learning rate is an argument and not part of the optimizer, so that it can be a traced array: the variants of
    an ensemble differ in it under one compiled program, and a rollback lowers it without compiling again.

    Args:
      loss_fn: `(params, batch, key) -> (loss, aux)`; key is `fold_in(state.key, state.step)`, aux a dict of scalars.
      optimizer: optax transformation at unit learning rate without the descent sign (`optim.adamw`): the step
        subtracts `learning_rate` times its updates.
      reduce_gradients: applied to `(gradients, {"loss": ..., **aux})` before anything is derived from them; the mean
        over a mesh axis makes the step data-parallel.

    Returns:
      The step. Its metrics are float32 scalars: loss, grad_norm (reduced, before clipping), update_norm (of what was
      subtracted) and the aux of the loss.
    """
    gradient = jax.value_and_grad(loss_fn, has_aux=True)

    def step(state: TrainState, batch: PyTree, learning_rate: Any) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(state.key, state.step)
        (loss, aux), gradients = gradient(state.params, batch, key)
        gradients, metrics = reduce_gradients((gradients, {**aux, "loss": loss}))
        direction, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        updates = jax.tree.map(lambda d: jnp.asarray(-learning_rate, d.dtype) * d, direction)
        params = optax.apply_updates(state.params, updates)
        norms = {"grad_norm": optax.tree.norm(gradients), "update_norm": optax.tree.norm(updates)}
        metrics = {name: jnp.asarray(value, jnp.float32) for name, value in {**metrics, **norms}.items()}
        return TrainState(params, opt_state, state.key, state.step + 1, state.position + 1), metrics

    return step
