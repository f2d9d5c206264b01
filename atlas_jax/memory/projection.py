"""Q-K projection: queries are mapped into the span of the keys that the memory has seen, trained persistent keys included.

The state holds M = sum k k^T and norm_sum = sum |k|**2 over the persistent keys and over all keys since the shard began. A
query reads after its own token's key was added:

- "norm_sum", the project's own rule: q' = M_t q_t / norm_sum_t. The denominator shrinks q' as a shard fills.
- "per_key": every key, the persistent ones too, counts as k / |k|, and q' = M_t q_t = P_t q_t with P_t = sum k k^T / |k|**2.
  A key shorter than 1e-12 counts as it is, that is for nothing: the gradient by it would be beyond float32.

M is no projector, so |q'| may be far from |q| (7.9 for unit vectors at t = 64, width 16): the caller RMS-normalises q'. Whether
keys are summed since the chunk or since the shard began is the caller's choice too: by which state it hands to the next chunk.

Source: Li et al. 2025 (TNT, arXiv:2511.07343), equations 7 and 15. Deviations: the denominator norm_sum, and persistent keys,
that are in the sums from the start and after every reset, so that norm_sum > 0 before the first token.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from atlas_jax.memory.checks import check_array

PERSISTENT_KEYS = 64
NORMALISATIONS = ("norm_sum", "per_key")
SHORTEST = 1e-12


class ProjectionState(NamedTuple):
    """Sums over keys k as they count: as they are for "norm_sum", k / |k| for "per_key"; float32, or float64 in oracles."""

    m: Float[Array, "*n k k2"]  # sum of k k^T
    norm_sum: Float[Array, "*n"]  # sum of |k|**2, the trace of m


def init_persistent_keys(
    key: Key[Array, ""], heads: int, width: int, count: int = PERSISTENT_KEYS
) -> Float[Array, "h p k"]:
    """Normal persistent keys of length about 1, float32 parameters: M_persistent is trained through them.

    Args:
      key: of the random numbers.
      heads: number of heads.
      width: of a key.
      count: keys a head.

    Returns:
      [heads, count, width].
    """
    return jax.random.normal(key, (heads, count, width)) * width**-0.5


def persistent_state(keys: Float[Array, "h p k"], batch: int, normalisation: str = "norm_sum") -> ProjectionState:
    """The state at the start of every shard: numerator and denominator of the persistent keys alone.

    It is the state before the first token, and the one every reset goes back to.

    Args:
      keys: persistent keys, parameters.
      batch: number of sequences.
      normalisation: "norm_sum" or "per_key".

    Returns:
      M_persistent [b, h, k, k] and norm_persistent [b, h] in the dtype of keys, the same for all sequences.

    Raises:
      ValueError: an unknown normalisation, or no keys.
    """
    if keys.shape[-2] == 0:
        raise ValueError("keys holds 0 persistent keys, expected at least 1: norm_persistent must be > 0")
    counted = _counted(keys, normalisation, keys.dtype)
    m, norm_sum = jnp.einsum("hpk,hpl->hkl", counted, counted), jnp.sum(jnp.square(counted), axis=(-2, -1))
    return ProjectionState(*(jnp.broadcast_to(x[None], (batch, *x.shape)) for x in (m, norm_sum)))


def reset(state: ProjectionState, persistent: ProjectionState, boundary: Bool[Array, "*b"]) -> ProjectionState:
    """The state with numerator and denominator both back at the persistent ones where a shard begins.

    No gradient passes a boundary to the earlier state; the persistent keys get one from every shard.

    Args:
      state: as the last token left it.
      persistent: what `persistent_state` gives.
      boundary: whether the next token is the first of a shard; a scalar, or one for each of the leading axes of the state.

    Returns:
      The state before the next token.
    """

    def choose(old: Array, new: Array) -> Array:
        return jnp.where(boundary.reshape(boundary.shape + (1,) * (old.ndim - boundary.ndim)), new, old)

    return jax.tree.map(choose, state, persistent)


def project_chunk(
    state: ProjectionState,
    q: Float[Array, "*n c k"],
    k: Float[Array, "*n c k"],
    normalisation: str = "norm_sum",
) -> tuple[Float[Array, "*n c k"], ProjectionState]:
    """Projected queries of a chunk, all tokens at once: M_t q_t = M_carry q_t + [tril(Q K^T) K]_t, exactly.

    No k x k matrix a token is made; 4 c k + 4 k**2 FLOPs a token with the state's update.

    Args:
      state: before the chunk's first token.
      q: queries, of any length of vector.
      k: keys, in the dtype of q. bfloat16 goes into the products as such; sums are in the dtype of the state.
      normalisation: that of the state.

    Returns:
      q' in the dtype of q, and the state after the chunk.

    Raises:
      ValueError: an unknown normalisation, or keys or state do not fit q.
    """
    _check_fits(state, q.shape[:-2], q.shape[-1])
    check_array("k", k, q.shape, q.dtype)
    sums = state.m.dtype
    keys = _counted(k, normalisation, sums)
    scores = jnp.tril(jnp.einsum("...tk,...sk->...ts", q, keys, preferred_element_type=sums)).astype(q.dtype)
    carried = jnp.einsum("...tk,...kl->...tl", q, state.m.astype(q.dtype), preferred_element_type=sums)
    projected = carried + jnp.einsum("...ts,...sk->...tk", scores, keys, preferred_element_type=sums)
    norm_sums = state.norm_sum[..., None] + jnp.cumsum(_square_norm(keys, sums), axis=-1)
    m = state.m + jnp.einsum("...sk,...sl->...kl", keys, keys, preferred_element_type=sums)
    if normalisation == "norm_sum":
        projected = projected / norm_sums[..., None]
    return projected.astype(q.dtype), ProjectionState(m, norm_sums[..., -1])


def unit(q: Float[Array, "*n k"], epsilon: float = 1e-12) -> Float[Array, "*n k"]:
    """q' / |q'|: RMS-normalised to the length that keys have; what is shorter than sqrt(epsilon) shrinks to 0."""
    sums = jnp.dtype(jnp.float64 if q.dtype == jnp.float64 else jnp.float32)
    square = _square_norm(q, sums)[..., None]
    return (q.astype(sums) * jax.lax.rsqrt(square + epsilon)).astype(q.dtype)


def _counted(keys: Float[Array, "*n k"], normalisation: str, sums: jnp.dtype) -> Float[Array, "*n k"]:
    """The keys as the sums count them, lengths taken in the dtype `sums`; a zero key counts for nothing in both forms."""
    if normalisation not in NORMALISATIONS:
        raise ValueError(f"normalisation is {normalisation!r}, expected one of {', '.join(NORMALISATIONS)}")
    if normalisation == "norm_sum":
        return keys
    square = _square_norm(keys, sums)[..., None]
    inverse = jax.lax.rsqrt(jnp.where(square > SHORTEST**2, square, jnp.ones_like(square)))
    return (keys.astype(sums) * inverse).astype(keys.dtype)


def _square_norm(keys: Float[Array, "*n k"], dtype: jnp.dtype) -> Float[Array, "*n"]:
    return jnp.sum(jnp.square(keys.astype(dtype)), axis=-1)


def _check_fits(state: ProjectionState, leading: tuple[int, ...], width: int) -> None:
    """Raises ValueError where the state is not of the batch, heads and width of the queries."""
    expected = ((*leading, width, width), leading)
    for name, part, shape in zip(state._fields, state, expected, strict=True):
        if part.shape != shape:
            raise ValueError(f"state.{name} has shape {part.shape}, expected {shape}: of the batch and width of q")
