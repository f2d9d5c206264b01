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
    *,
    accumulation: int = 1,
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
      accumulation: parts that a batch is cut into along its first axis, one after the other; their gradients are averaged
        before the update, so that memory is that of one part. The parts must count equally in the loss, which is a mean.

    Returns:
      The step. Its metrics are float32 scalars: loss, grad_norm (reduced, before clipping), update_norm (of what was
      subtracted) and the aux of the loss, a mean over the parts. It raises ValueError where a batch cannot be cut into
      that many parts.
    """
    whole = jax.value_and_grad(loss_fn, has_aux=True)
    gradient = whole if accumulation == 1 else _in_parts(whole, accumulation)

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


def _in_parts(gradient: Callable[..., Any], parts: int) -> Callable[..., Any]:
    """The same mean loss and gradient, a part of the batch at a time; each part has a key of its own."""

    def averaged(params: PyTree, batch: PyTree, key: Key[Array, ""]) -> Any:
        for leaf in jax.tree.leaves(batch):
            if leaf.shape[0] % parts:
                raise ValueError(f"make_step: batch is {leaf.shape[0]}, expected a multiple of accumulation = {parts}")
        cut = jax.tree.map(lambda leaf: leaf.reshape(parts, -1, *leaf.shape[1:]), batch)
        first = jax.tree.map(lambda leaf: leaf[0], cut)
        zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(gradient, params, first, key))

        def one(total: Any, inputs: tuple[Array, PyTree]) -> tuple[Any, None]:
            index, part = inputs
            found = gradient(params, part, jax.random.fold_in(key, index))
            return jax.tree.map(jnp.add, total, found), None

        total, _ = jax.lax.scan(one, zeros, (jnp.arange(parts), cut))
        return jax.tree.map(lambda leaf: leaf / jnp.asarray(parts, leaf.dtype), total)

    return averaged
