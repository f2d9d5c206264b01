"""The Atlas model on sequences that lie on several devices: each has a part of the batch and a part of the time.

Parameters are on all devices. What looks back over the cut between two slices of time gets what it needs in one of three ways:

- a local memory begins anew with every shard, and a slice is a whole number of shards: nothing is needed;
- the short convolution and the attention window need the end of the neighbour's slice, sent at once (`halo`);
- a memory that goes on over shards, and all of memory as context, need the state after the neighbour's slice: devices take turns,
  one piece of the batch after the other (`wavefront`, which says how much of the time they idle). All else of a layer, local
  memories, attention and feed-forward included, runs on all devices at the same time.

Source: TNT (arXiv:2511.07343) section 4, for shards that make a memory independent of all earlier ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh
from jaxtyping import Array, Float, Int, PyTree

from atlas_jax.distributed.halo import of_last_device, tokens_before, window_before
from atlas_jax.distributed.mesh import DATA, SEQUENCE
from atlas_jax.distributed.sharding import REPLICATED, check_divides, spec, stacked_state_specs
from atlas_jax.distributed.wavefront import in_turn
from atlas_jax.models import atlas
from atlas_jax.models.atlas import AtlasConfig, AtlasState
from atlas_jax.models.checks import check_state, check_tokens
from atlas_jax.nn.attention import Window
from atlas_jax.nn.memory import CONVOLUTION
from atlas_jax.nn.neighbours import Learn

Apply = Callable[..., tuple[Float[Array, "b t v"], AtlasState]]


@dataclass(frozen=True)
class OverDevices:
    """`nn.neighbours.Neighbours` of a device on the mesh axis "sequence", inside a `jax.shard_map`."""

    def inputs_before(self, x: Array, count: int, given: Array | None) -> Array:
        """The end of the left neighbour's inputs."""
        return tokens_before(x, count, SEQUENCE, given)

    def window_before(self, key: Array, value: Array, window: int, given: Window | None) -> Window:
        """The end of the left neighbour's keys and values."""
        return window_before(key, value, window, SEQUENCE, given)

    def go_on(self, learn: Learn, xs: PyTree, given: PyTree, shard: int | None) -> tuple[PyTree, PyTree]:
        """After the left neighbour; at once where slices are whole shards, and no given state can stand within one."""
        if shard is not None and given is None:
            return learn(xs, None)
        return in_turn(learn, xs, given, SEQUENCE)


def sharded_apply(config: AtlasConfig, mesh: Mesh | AbstractMesh) -> Apply:
    """`atlas.apply` over the "data" and "sequence" axes of a mesh; equal to one device's but for rounding, gradients too.

    The function takes (params, tokens [b, t], state or None) and gives the logits, split as the tokens are, and the state after
    the last token, the same on all devices of the axis "sequence": one device, or this function, goes on from it. Jit it. The
    gradients of parameters are added up over devices once. Where a sequence begins, `state=None`, local memories run at once;
    after a given state, which may stand within a shard, they take turns as all others do.

    Args:
      config: of the model.
      mesh: from `model_mesh` or `abstract_model_mesh`, with tensor = 1.

    Raises:
      ValueError: the mesh has other axes; or, when the function is traced, batch or time do not divide, a slice is no whole
        number of shards or shorter than what a layer looks back, or tokens or state are not the model's.
    """
    _check_mesh(mesh)

    def one_device(params: PyTree, tokens: Array | np.ndarray, state: AtlasState | None) -> tuple[Array, AtlasState]:
        logits, after = atlas.apply(config, params, tokens, state, neighbours=OverDevices())
        return logits, jax.tree.map(lambda x: of_last_device(x, SEQUENCE), after)

    def apply(
        params: PyTree, tokens: Int[Array | np.ndarray, "b t"], state: AtlasState | None = None
    ) -> tuple[Float[Array, "b t v"], AtlasState]:
        check_tokens(config, tokens)
        shapes = jax.eval_shape(lambda: atlas.init_state(config, tokens.shape[0]))
        check_state(shapes, state)
        check_divides("tokens", tokens.shape, ("batch", "time"), mesh)
        _check_slice(config, tokens.shape[1] // mesh.shape[SEQUENCE])
        states, split = stacked_state_specs(shapes), spec("batch", "time")
        # Unchecked: what is the same on all devices and what is not, memories do not say of the zeros that they begin with.
        return jax.shard_map(
            one_device,
            mesh=mesh,
            in_specs=(REPLICATED, split, REPLICATED if state is None else states),
            out_specs=(split, states),
            check_vma=False,
        )(params, tokens, state)

    return apply


def _check_mesh(mesh: Mesh | AbstractMesh) -> None:
    """Refuses a mesh that is not of batch and time alone."""
    for name in (DATA, SEQUENCE):
        if name not in mesh.axis_names:
            raise ValueError(
                f"sharded_apply: mesh has axes {mesh.axis_names}, expected {DATA!r} and {SEQUENCE!r} among them"
            )
    for name, size in mesh.shape.items():
        if name not in {DATA, SEQUENCE} and size > 1:
            raise ValueError(f"sharded_apply: the mesh's {name} is {size}, expected 1: only batch and time are split")


def _check_slice(config: AtlasConfig, length: int) -> None:
    """Refuses a slice of time that is no whole number of shards, or shorter than what its right neighbour looks back."""
    if config.shard is not None and length % config.shard:
        raise ValueError(
            f"AtlasConfig.shard is {config.shard}, expected a divisor of the {length} tokens that each device has, so that local "
            "memories need nothing of another"
        )
    if config.block == "context":
        return
    looks_back = {"the short convolution": CONVOLUTION}
    if config.block != "memory":
        looks_back["AtlasConfig.window"] = config.window
    for name, width in looks_back.items():
        if width - 1 > length:
            raise ValueError(
                f"{name} is {width} tokens, expected at most {length + 1} where each device has {length}, as it looks back on "
                "one neighbour; split the sequence over fewer devices"
            )
