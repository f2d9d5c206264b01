"""The only place where PartitionSpecs are written.

Models say what the axes of their arrays are ("batch", "heads", ...), and this file which axis of the mesh splits each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, PyTree

from atlas_jax.distributed.mesh import BATCH, DATA, SEQUENCE, TENSOR, VARIANT, ambient_model_mesh

REPLICATED = PartitionSpec()
BY_VARIANT = PartitionSpec(VARIANT)
BY_BATCH = PartitionSpec(BATCH)
VARIANT_WINDOW = PartitionSpec(VARIANT, BATCH)  # [e, n, ...]: evaluation results
VARIANT_STEP_BATCH = PartitionSpec(VARIANT, None, BATCH)  # [e, s, b]: batch indices

# Which axis of the model mesh splits an axis of that name; None and every other name are not split.
SPLIT = {
    "batch": DATA,
    "time": SEQUENCE,
    "heads": TENSOR,
    "inner": TENSOR,  # channels between two matmuls: of the bands and of the feed-forward
    "vocabulary": TENSOR,
    "columns": TENSOR,  # of the embedding as it is stored: a vocabulary need not divide
}

Axes = tuple[str | None, ...]


def spec(*axes: str | None) -> PartitionSpec:
    """How an array with these named axes lies on the model mesh."""
    return PartitionSpec(*(SPLIT.get(axis or "") for axis in axes))


def stacked_state_specs(state: PyTree) -> PyTree:
    """How the state of a model of stacked layers lies: arrays [n, b, ...] split over "data", numbers [n] the same everywhere.

    Args:
      state: or its shapes.
    """
    return jax.tree.map(lambda leaf: spec(None, "batch") if leaf.ndim > 1 else REPLICATED, state)


def check_divides(what: str, shape: tuple[int, ...], axes: Axes, mesh: Mesh | AbstractMesh) -> None:
    """Refuses an array that does not split evenly.

    Raises:
      ValueError: an axis is no multiple of the mesh axis that splits it; names array, axis, sizes.
    """
    for size, axis in zip(shape, axes, strict=True):
        part = SPLIT.get(axis or "")
        if part is not None and size % mesh.shape[part]:
            raise ValueError(
                f"{what}: axis {axis} is {size}, expected a multiple of the mesh's {part} = {mesh.shape[part]} devices"
            )


def constrain(what: str, x: Array, *axes: str | None) -> Array:
    """x, laid out over the ambient model mesh; without one x itself.

    Args:
      what: its name, for the message.
      x: any array.
      axes: names of its axes.

    Raises:
      ValueError: an axis does not split evenly.
    """
    mesh = ambient_model_mesh()
    if mesh is None:
        return x
    check_divides(what, x.shape, axes, mesh)
    return jax.lax.with_sharding_constraint(x, spec(*axes))


def over_model_mesh(function: Callable[..., Array], in_axes: tuple[Axes, ...], out_axes: Axes) -> Callable[..., Array]:
    """A function that needs nothing of another device, on each device's part of its arguments; without a mesh itself.

    Args:
      function: of arrays.
      in_axes: names of the axes of every argument.
      out_axes: of the result.
    """
    mesh = ambient_model_mesh()
    if mesh is None:
        return function
    return jax.shard_map(
        function, mesh=mesh, in_specs=tuple(spec(*axes) for axes in in_axes), out_specs=spec(*out_axes)
    )


def _is_axes(node: object) -> bool:
    return isinstance(node, tuple) and all(axis is None or isinstance(axis, str) for axis in node)


def parameter_shardings(params: PyTree, axes: PyTree, mesh: Mesh | AbstractMesh) -> PyTree:
    """Where every parameter lies: split over "tensor" by the names of its axes, the same on all other devices.

    Args:
      params: parameters, or their shapes.
      axes: the same tree of tuples of axis names, as a model's `parameter_axes` gives it.
      mesh: from `model_mesh`.

    Raises:
      ValueError: an axis is no multiple of the mesh axis that splits it.
    """

    def one(path: tuple, axes: Axes, leaf: Any) -> NamedSharding:
        check_divides(f"params{jax.tree_util.keystr(path)}", leaf.shape, axes, mesh)
        return NamedSharding(mesh, spec(*axes))

    return jax.tree_util.tree_map_with_path(one, axes, params, is_leaf=_is_axes)


def spread(sharding: NamedSharding, shape: tuple[int, ...]) -> NamedSharding:
    """The same, split further: over "data" and "sequence" too, along one axis that they divide; a whole, long one if there is."""
    mesh, axes = sharding.mesh, [*sharding.spec, *(None,) * (len(shape) - len(sharding.spec))]
    parts = mesh.shape[DATA] * mesh.shape[SEQUENCE]
    fitting = [i for i, part in enumerate(sharding.shard_shape(shape)) if part % parts == 0]
    if parts == 1 or not fitting:
        return sharding
    chosen = max(fitting, key=lambda i: (axes[i] is None, shape[i]))
    axes[chosen] = (DATA, SEQUENCE) if axes[chosen] is None else (axes[chosen], DATA, SEQUENCE)
    return NamedSharding(mesh, PartitionSpec(*axes))


def moment_shardings(opt_state: PyTree, params: PyTree, shardings: PyTree, mesh: Mesh | AbstractMesh) -> PyTree:
    """Where the state of an optimizer lies: every tree shaped like the parameters spread over all devices, the rest replicated.

    So each device updates its share of the moments and of the parameters, which are then gathered.

    Args:
      opt_state: of any optax transformation, or its shapes.
      params: the parameters, or their shapes.
      shardings: of the parameters, from `parameter_shardings`.
      mesh: of the shardings.

    Source: Rajbhandari et al. 2020 (ZeRO, arXiv:1910.02054), stage 1.
    """
    structure, shapes = jax.tree.structure(params), [leaf.shape for leaf in jax.tree.leaves(params)]
    everywhere = jax.tree.map(lambda sharding, leaf: spread(sharding, leaf.shape), shardings, params)

    def like_params(node: PyTree) -> bool:
        return jax.tree.structure(node) == structure and [leaf.shape for leaf in jax.tree.leaves(node)] == shapes

    def one(node: PyTree) -> PyTree:
        return everywhere if like_params(node) else NamedSharding(mesh, REPLICATED)

    return jax.tree.map(one, opt_state, is_leaf=like_params)
