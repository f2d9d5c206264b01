"""One model's training step over a (data, tensor, sequence) mesh: the step of one device, with everything laid out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding
from jaxtyping import Array, PyTree

from atlas_jax.distributed.mesh import use
from atlas_jax.distributed.sharding import REPLICATED, check_divides, moment_shardings, parameter_shardings, spec
from atlas_jax.training.state import TrainState
from atlas_jax.training.step import Step


def train_state_shardings(state: TrainState, axes: PyTree, mesh: Mesh | AbstractMesh) -> TrainState:
    """Where every array of a training state lies: parameters split over "tensor", the optimizer's moments over all devices.

    Args:
      state: the state, or its shapes (`jax.eval_shape`).
      axes: names of the parameters' axes, a model's `parameter_axes`.
      mesh: from `model_mesh` or `abstract_model_mesh`.

    Raises:
      ValueError: an axis of a parameter is no multiple of the mesh axis that splits it.
    """
    params = parameter_shardings(state.params, axes, mesh)
    moments = moment_shardings(state.opt_state, state.params, params, mesh)
    whole = NamedSharding(mesh, REPLICATED)
    return TrainState._make((params, moments, whole, whole, whole))


def sharded_start(init: Callable[[Array], TrainState], key: Array, axes: PyTree, mesh: Mesh) -> TrainState:
    """`init(key)` laid out over the mesh; no device ever holds more than its part of it.

    Args:
      init: from a key to the first state of a run.
      key: typed key.
      axes, mesh: see `train_state_shardings`.

    Raises:
      ValueError: as `train_state_shardings`.
    """
    shardings = train_state_shardings(jax.eval_shape(init, key), axes, mesh)
    return jax.jit(init, out_shardings=shardings)(key)


def make_sharded_step(step: Step, state: TrainState, axes: PyTree, mesh: Mesh | AbstractMesh) -> Any:
    """Compiles `step(state, batch, learning_rate)` for one model over a mesh; equal to one device's but for rounding.

    The batch is a tree of [b, ...] arrays, split over "data"; the model splits the time axis itself, by the ambient mesh.

    Args:
      step: from `make_step`, without any reduction of gradients: the loss is over the whole batch.
      state: the state, or its shapes.
      axes: see `train_state_shardings`.
      mesh: from `model_mesh`, or an abstract one, which is enough to trace and lower.

    Returns:
      The jitted step; it consumes the state that it is given.

    Raises:
      ValueError: an axis of a parameter or, when traced, of the batch is no multiple of the mesh axis that splits it.
    """
    shardings, whole = train_state_shardings(state, axes, mesh), NamedSharding(mesh, REPLICATED)

    def on_mesh(state: TrainState, batch: PyTree, learning_rate: Any) -> tuple[TrainState, PyTree]:
        for path, leaf in jax.tree_util.tree_leaves_with_path(batch):
            names = ("batch", *(None,) * (leaf.ndim - 1))
            check_divides(f"batch{jax.tree_util.keystr(path)}", leaf.shape, names, mesh)
        by_data = jax.tree.map(
            lambda leaf: jax.lax.with_sharding_constraint(leaf, NamedSharding(mesh, spec("batch"))), batch
        )
        with use(mesh):
            return step(state, by_data, learning_rate)

    return jax.jit(on_mesh, in_shardings=(shardings, whole, whole), out_shardings=(shardings, whole), donate_argnums=0)
