"""Many small models of one shape trained by one compiled program: variants side by side, then one after the other.

On CPUs each device runs its share of the variants in turn (`lax.map`): a model of this size fits the cache, and a
`vmap` over variants would not. On accelerators the share runs as one `vmap`, unless a model fills one by itself. Where the
devices outnumber the variants that divide them, each variant's batch is split and the gradients are averaged.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.sharding import AbstractMesh, Mesh
from jaxtyping import Array, Float, Int, PyTree

from atlas_jax.distributed.mesh import BATCH
from atlas_jax.distributed.sharding import BY_BATCH, BY_VARIANT, VARIANT_STEP_BATCH, VARIANT_WINDOW
from atlas_jax.training.state import TrainState

Segment = Callable[[TrainState, Any, Any], tuple[TrainState, Float[Array, "e s"]]]


def mean_over_batch_devices(tree: PyTree) -> PyTree:
    """Mean over the mesh's batch axis as one all-reduce of one flat vector: many small ones cost more than the sum."""
    flat, restore = ravel_pytree(tree)
    return restore(jax.lax.pmean(flat, BATCH))


def _each_variant(function: Callable[..., Any], mesh: Mesh | AbstractMesh, in_turn: bool | None) -> Callable[..., Any]:
    if in_turn is None:
        in_turn = mesh.abstract_mesh.abstract_device.platform == "cpu"
    return (lambda *args: jax.lax.map(lambda a: function(*a), args)) if in_turn else jax.vmap(function)


def initial_states(init: Callable[[Array], TrainState], seeds: Int[Any, " e"], mesh: Mesh) -> TrainState:
    """The stacked first states of all variants, `init(key(seed))` each, laid out over the mesh."""
    sharding = jax.sharding.NamedSharding(mesh, BY_VARIANT)

    # One after the other: random numbers of all variants at once take twice as long to compile (2.4 s against 1.2 s).
    def all_variants(seeds: Array) -> TrainState:
        return jax.lax.map(lambda seed: init(jax.random.key(seed)), seeds)

    return jax.jit(all_variants, out_shardings=sharding)(jnp.asarray(seeds))


def make_segment(step: Callable[..., Any], mesh: Mesh | AbstractMesh, *, in_turn: bool | None = None) -> Segment:
    """Compiles `step` into a program that moves every variant on by the same number of steps.

    Args:
      step: from `make_step`; give it `reduce_gradients=mean_over_batch_devices`.
      mesh: from `variant_mesh`; an abstract one, which must name its device, is enough to trace and lower.
      in_turn: whether a device runs its variants one after the other; None is on CPUs.

    Returns:
      `segment(states, batches, rates) -> (states, losses)`, jitted, the states donated: states stacked [e, ...]; batches
      a pytree of [e, s, b, ...], what each variant's steps read; rates float32 [e, s]; losses float32 [e, s] in the unit
      of the loss function.
    """

    def local(states: TrainState, batches: PyTree, rates: Array) -> tuple[TrainState, Array]:
        def one_variant(state: TrainState, batches: PyTree, rate: Array) -> tuple[TrainState, Array]:
            def body(state: TrainState, inputs: tuple[PyTree, Array]) -> tuple[TrainState, Array]:
                state, metrics = step(state, *inputs)
                return state, metrics["loss"]

            return jax.lax.scan(body, state, (batches, rate))

        return _each_variant(one_variant, mesh, in_turn)(states, batches, rates)

    sharded = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(BY_VARIANT, VARIANT_STEP_BATCH, BY_VARIANT),
        out_specs=(BY_VARIANT, BY_VARIANT),
        check_vma=False,  # the averaged gradients are equal on all batch devices; the check cannot see through ravel
    )
    return jax.jit(sharded, donate_argnums=0)


def make_evaluation(
    measure: Callable[[PyTree, Any], PyTree], mesh: Mesh | AbstractMesh, *, batch: int, in_turn: bool | None = None
) -> Callable[[PyTree, Any], PyTree]:
    """Compiles `measure(params, windows [b, t + 1]) -> pytree of [b, ...]` over all variants and windows.

    The windows are split over the mesh's batch axis and go through in groups of `batch`, so that memory stays small;
    `in_turn` as for `make_segment`.

    Returns:
      `evaluate(params, windows [n, t + 1]) -> pytree of [e, n, ...]`; n must be a multiple of batch x batch devices.
    """

    def local(params: PyTree, windows: Array) -> PyTree:
        groups = windows.reshape(-1, batch, windows.shape[-1])

        def one_variant(params: PyTree) -> PyTree:
            out = jax.lax.map(partial(measure, params), groups)
            return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), out)

        return _each_variant(one_variant, mesh, in_turn)(params)

    return jax.jit(
        jax.shard_map(
            local,
            mesh=mesh,
            in_specs=(BY_VARIANT, BY_BATCH),
            out_specs=VARIANT_WINDOW,
            check_vma=False,
        )
    )
