"""The compiled programs of a run: an optimizer step and a held-out measurement of any registered model, data-parallel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Float, Int, Key, PyTree

from atlas_jax.distributed.mesh import DATA
from atlas_jax.distributed.sharding import REPLICATED, spec
from atlas_jax.models.atlas import AtlasConfig
from atlas_jax.training.losses import cross_entropy, weighted_mean
from atlas_jax.training.memories import gates
from atlas_jax.training.state import TrainState, init_state
from atlas_jax.training.step import LossFn, Step
from atlas_jax.types import SequenceModel

Update = Callable[[TrainState, PyTree, Any], tuple[TrainState, dict[str, Array]]]
Measure = Callable[[PyTree, Int[Any, "b t_plus_1"], Float[Any, " b"]], Float[Array, ""]]


def token_losses(
    model: SequenceModel, config: Any, params: PyTree, windows: Int[Array, "b t_plus_1"]
) -> Float[Array, "b t"]:
    """-log p of every token of the windows but the first, in nats.

    Of a model that offers `features`, whose head is `params["head"]` or the embedding, the logits of all tokens are never
    in memory at once.
    """
    inputs, targets = windows[:, :-1], windows[:, 1:]
    features = getattr(model, "features", None)
    if features is not None:
        x, _ = features(config, params, inputs)
        return cross_entropy(x, params["head"] if "head" in params else params["embedding"].T, targets)
    logits, _ = model.apply(config, params, inputs)
    picked = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - picked


def next_token_loss(model: SequenceModel, config: Any) -> LossFn:
    """The loss that language models train on: the mean over all targets of `{"tokens": [b, t + 1]}`, nats.

    With `"weights"` [b, t] in the batch each target counts as much. Of a model with gates its aux has their statistics, of the
    same pass.
    """
    if isinstance(config, AtlasConfig):
        return gates.with_gate_statistics(gates.next_token_loss(config))

    def loss_fn(params: PyTree, batch: PyTree, key: Key[Array, ""]) -> tuple[Float[Array, ""], dict[str, Any]]:
        del key  # nothing in the models is random
        return weighted_mean(token_losses(model, config, params, batch["tokens"]), batch), {}

    return loss_fn


def fresh_state(
    model: SequenceModel, config: Any, optimizer: optax.GradientTransformation, seed: int, mesh: Mesh
) -> TrainState:
    """The state before the first step, the same on every device of the mesh."""
    return jax.jit(_initial(model, config, optimizer), out_shardings=NamedSharding(mesh, REPLICATED))(
        jax.random.key(seed)
    )


def state_shapes(model: SequenceModel, config: Any, optimizer: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """Its shapes, dtypes and shardings, without taking memory: what a checkpoint is restored into."""
    whole = NamedSharding(mesh, REPLICATED)
    shapes = jax.eval_shape(_initial(model, config, optimizer), jax.random.key(0))
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=whole), shapes)


def _initial(
    model: SequenceModel, config: Any, optimizer: optax.GradientTransformation
) -> Callable[[Array], TrainState]:
    def initial(key: Array) -> TrainState:
        of_params, of_run = jax.random.split(key)
        return init_state(model.init(config, of_params), optimizer, of_run)

    return initial


def mean_over_data(tree: PyTree) -> PyTree:
    """Mean over the devices of the "data" axis: the `reduce_gradients` of a step for `make_update`."""
    return jax.lax.pmean(tree, DATA)


def make_update(step: Step, schedule: optax.Schedule, mesh: Mesh) -> jax.stages.Wrapped:
    """Compiles a step over the "data" axis of a mesh: each device takes its part of the batch.

    Args:
      step: from `make_step`, with `mean_over_data`; all rows of a batch count the same in its loss, a mean.
      schedule: completed steps -> learning rate.
      mesh: from `model_mesh`, with tensor = sequence = 1.

    Returns:
      `update(state, batch, scale) -> (state, metrics)`, an `Update`, jitted, the state donated: batch a tree of [b, ...]; scale,
      float32, is multiplied with the schedule's rate, traced, so that a recovery lowers it without compiling; metrics are
      those of the step and `learning_rate`.
    """

    def one_device(state: TrainState, batch: PyTree, scale: Any) -> tuple[TrainState, dict[str, Array]]:
        rate = schedule(state.step) * scale
        state, metrics = step(state, batch, rate)
        return state, {**metrics, "learning_rate": jnp.asarray(rate, jnp.float32)}

    return jax.jit(
        jax.shard_map(
            one_device,
            mesh=mesh,
            in_specs=(REPLICATED, spec("batch"), REPLICATED),
            out_specs=REPLICATED,
            check_vma=False,  # memories begin with zeros, of which the check would want to know where they vary
        ),
        donate_argnums=0,
    )


def make_measure(model: SequenceModel, config: Any, mesh: Mesh) -> Measure:
    """Compiles `measure(params, windows [b, t + 1], weights [b]) -> sum of weight x loss`, nats, over the same mesh."""

    def one_device(params: PyTree, windows: Array, weights: Array) -> Float[Array, ""]:
        losses = jnp.sum(token_losses(model, config, params, windows), axis=1)
        return jax.lax.psum(jnp.sum(losses * weights), DATA)

    return jax.jit(
        jax.shard_map(
            one_device,
            mesh=mesh,
            in_specs=(REPLICATED, spec("batch"), spec("batch")),
            out_specs=REPLICATED,
            check_vma=False,  # as in `make_update`
        )
    )
