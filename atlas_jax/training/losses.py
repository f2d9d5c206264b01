"""Cross-entropy over a large vocabulary without the logits of all tokens in memory at once, and its mean over a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from atlas_jax.distributed.mesh import DATA, SEQUENCE, TENSOR, ambient_model_mesh
from atlas_jax.distributed.sharding import check_divides, spec
from atlas_jax.nn import linear
from atlas_jax.nn.norms import sum_dtype

BLOCK = 4096  # tokens; at a vocabulary of 50,257 their float32 logits are 0.8 GB


def _plain(x: Float[Array, "n d"], weights: Float[Array, "d v"], targets: Int[Array, " n"]) -> Float[Array, " n"]:
    """All logits at once, in the dtype of x; sums over them in float32 at least."""
    logits = linear(x, weights.astype(x.dtype)).astype(sum_dtype(x.dtype))
    picked = jnp.take_along_axis(logits, targets[:, None], axis=-1)[:, 0]
    return jax.nn.logsumexp(logits, axis=-1) - picked


def _part_of_vocabulary(
    x: Float[Array, "n d"], weights: Float[Array, "d v"], targets: Int[Array, " n"], *, vocabulary: int
) -> Float[Array, " n"]:
    """The same from the device's columns of the weights; devices exchange three numbers a token.

    Source: Shoeybi et al. 2019 (Megatron-LM, arXiv:1909.08053), section 3.
    """
    logits = linear(x, weights.astype(x.dtype)).astype(sum_dtype(x.dtype))
    first = jax.lax.axis_index(TENSOR) * weights.shape[1]
    column = first + jnp.arange(weights.shape[1], dtype=jnp.int32)
    logits = jnp.where((column < vocabulary)[None], logits, -jnp.inf)
    peak = jax.lax.pmax(jax.lax.stop_gradient(jnp.max(logits, axis=-1)), TENSOR)
    total = jax.lax.psum(jnp.sum(jnp.exp(logits - peak[:, None]), axis=-1), TENSOR)
    place = targets.astype(jnp.int32) - first
    here = (place >= 0) & (place < weights.shape[1])
    picked = jnp.take_along_axis(logits, jnp.where(here, place, 0)[:, None], axis=-1)[:, 0]
    return jnp.log(total) + peak - jax.lax.psum(jnp.where(here, picked, 0), TENSOR)


def _by_blocks(
    losses: Callable[[Array, Array], Array], x: Float[Array, "b t d"], targets: Int[Array, "b t"], block: int
) -> Float[Array, "b t"]:
    """`losses(x [n, d], targets [n])` over blocks of tokens; the backward pass computes each block's logits again."""
    rows, wanted = x.reshape(-1, x.shape[-1]), targets.reshape(-1)
    count = len(rows)
    if count <= block:
        return losses(rows, wanted).reshape(targets.shape)
    missing = -count % block
    rows = jnp.pad(rows, ((0, missing), (0, 0))).reshape(-1, block, x.shape[-1])
    wanted = jnp.pad(wanted, (0, missing)).reshape(-1, block)
    found = jax.lax.map(lambda inputs: jax.checkpoint(losses)(*inputs), (rows, wanted))
    return found.reshape(-1)[:count].reshape(targets.shape)


def cross_entropy(
    x: Float[Array, "b t d"], weights: Float[Array, "d v"], targets: Int[Array, "b t"], *, block: int = BLOCK
) -> Float[Array, "b t"]:
    """-log softmax(x weights)[target] of every token, in nats.

    Exact: the same numbers as from all the logits, of which at most `block` x v exist at a time, in the backward pass too.
    Over an ambient model mesh the tokens are split by batch and time and the weights by vocabulary, whose size need not
    divide; no device then holds more than its columns of a block.

    Args:
      x: features, any float dtype: that of the product with the weights.
      weights: of the head, float32 (float64 with x); they are cast, and their gradient adds up uncast.
      targets: the token at each place.
      block: tokens per block of a device.

    Returns:
      Losses in float32, or float64 with x.

    Raises:
      ValueError: block < 1; over a mesh, batch or time are no multiple of the mesh axis that splits them.
    """
    if block < 1:
        raise ValueError(f"cross_entropy: block is {block}, expected at least 1 token")
    mesh = ambient_model_mesh()
    if mesh is None:
        return _by_blocks(lambda x, targets: _plain(x, weights, targets), x, targets, block)
    check_divides("targets", targets.shape, ("batch", "time"), mesh)
    vocabulary, parts = weights.shape[1], mesh.shape[TENSOR]
    weights = jnp.pad(weights, ((0, 0), (0, -vocabulary % parts)))
    losses = _plain if parts == 1 else partial(_part_of_vocabulary, vocabulary=vocabulary)

    def one_device(x: Array, weights: Array, targets: Array) -> Array:
        # Said once here, gradients are added up over devices once, not in every block.
        x = x if parts == 1 else jax.lax.pcast(x, TENSOR, to="varying")
        weights = jax.lax.pcast(weights, (DATA, SEQUENCE), to="varying")
        return _by_blocks(lambda x, targets: losses(x, weights, targets), x, targets, block)

    tokens, columns = spec("batch", "time"), spec(None, "vocabulary" if parts > 1 else None)
    return jax.shard_map(
        one_device, mesh=mesh, in_specs=(spec("batch", "time", None), columns, tokens), out_specs=tokens
    )(x, weights, targets)


def weighted_mean(losses: Float[Array, "b t"], batch: Mapping[str, Any]) -> Float[Array, ""]:
    """The mean of losses times the `weights` [b, t] of their batch; the plain mean where it has none.

    It is linear, so that parts of a batch, one after the other or on several devices, add up to the whole.
    """
    return jnp.mean(losses * batch["weights"].astype(losses.dtype) if "weights" in batch else losses)
