"""The nearest patterns of each side, and what they say of a vector.

Evidence is the contrast of the distances to the k-th nearest good and the k-th nearest bad pattern,

    (r_good - r_bad) / (r_good + r_bad) = tanh(ln(r_good / r_bad) / 2),

from -1 (k good patterns are hit) to 1 (k bad ones are), the same in every unit of length, and near 0 far from all patterns. The
density of a side is about k / (n volume r**d), so that ln(r_good / r_bad) is the logarithm of the likelihood ratio over the
dimension of the data, but for a constant: `calibration` finds both.

Source: Loftsgaarden and Quesenberry 1965, A nonparametric estimate of a multivariate density function.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from atlas_jax.patterns.calibration import Calibration, probability
from atlas_jax.patterns.memory import BAD, EMPTY, GOOD, LONGEST, Matches, PatternConfig, PatternState, check_fits


class Score(NamedTuple):
    """What the memory says of a vector, and from which patterns."""

    probability: Float[
        Array, ""
    ]  # calibrated, that it is bad; the prior where not `known`; NaN for a vector beyond measure
    evidence: Float[Array, ""]  # from -1, good, to 1, bad
    distances: Float[Array, " 2"]  # to the k-th nearest, good and bad; infinite for an empty side
    known: Bool[Array, ""]  # both sides hold patterns
    matches: Matches


def score(config: PatternConfig, state: PatternState, calibration: Calibration, vector: Float[Array, " d"]) -> Score:
    """The calibrated probability that a vector is bad; changes nothing: hand `matches` to `touch`, and later to `credit`.

    For many vectors, `jax.vmap` over the last argument.

    Args:
      config: static.
      state: of that configuration.
      calibration: fitted to vectors that are not in the memory; `calibration.unfitted()` before there are any.
      vector: as `projections.project` gives it.

    Returns:
      The score; of a vector that holds NaN or is longer than 1e18, since jit knows no errors, NaN, and no pattern matches it.

    Raises:
      ValueError: the shape of the vector or the state is not the configuration's.
    """
    matches = nearest(config, state, vector)
    distances = kth_distances(matches.distances)
    evidence, known = contrast(distances)
    bad = jnp.where(known, probability(calibration, evidence), calibration.prior)
    return Score(jnp.where(_measurable(vector), bad, jnp.nan), evidence, distances, known, matches)


def nearest(config: PatternConfig, state: PatternState, vector: Float[Array, " d"]) -> Matches:
    """The `config.neighbours` nearest patterns of each side, and which of them vote.

    Differences are taken before squares, so that an equal vector is at distance 0 exactly.
    """
    check_fits(config, state, vector)
    return _closest(config, state, _squared_distances(state, vector))


def left_out(config: PatternConfig, state: PatternState) -> tuple[Float[Array, "2 n"], Bool[Array, "2 n"]]:
    """Evidence of every pattern against all others: what `separation` and its trend are taken from.

    A stored pattern scored by the whole memory would be at distance 0 of itself.

    Returns:
      Evidence, and whether there is any: the slot is full, and both sides are not empty without it.
    """
    check_fits(config, state, state.vectors)
    slots = jnp.arange(config.capacity)

    def one(place: tuple[Int[Array, ""], Int[Array, ""]]) -> tuple[Float[Array, ""], Bool[Array, ""]]:
        side, slot = place
        squared = _squared_distances(state, state.vectors[side, slot]).at[side, slot].set(jnp.inf)
        evidence, known = contrast(kth_distances(_closest(config, state, squared).distances))
        return evidence, known & (state.labels[side, slot] > EMPTY)

    sides, slots = (jnp.ravel(x) for x in jnp.meshgrid(jnp.arange(2), slots, indexing="ij"))
    evidence, known = jax.lax.map(one, (sides, slots), batch_size=8)
    return evidence.reshape(2, -1), known.reshape(2, -1)


def kth_distances(distances: Float[Array, "2 k"]) -> Float[Array, " 2"]:
    """To the last of the nearest patterns, or, where a side has fewer, to that many of either; infinite for an empty side."""
    there = jnp.sum(jnp.isfinite(distances), axis=-1)
    return jnp.where(there > 0, distances[:, jnp.maximum(jnp.min(there), 1) - 1], jnp.inf)


def contrast(distances: Float[Array, " 2"]) -> tuple[Float[Array, ""], Bool[Array, ""]]:
    """Evidence of two distances, 0 between two hits or without a side, and whether both sides are there."""
    known = jnp.all(jnp.isfinite(distances))
    good, bad = jnp.where(known, distances, 1.0)
    total = good + bad
    return (good - bad) / jnp.where(total > 0, total, 1.0), known


def _squared_distances(state: PatternState, vector: Float[Array, " d"]) -> Float[Array, "2 n"]:
    squared = jnp.sum(jnp.square(state.vectors - vector[None, None]), axis=-1)
    return jnp.where((state.labels > EMPTY) & _measurable(vector), squared, jnp.inf)


def _measurable(vector: Float[Array, " d"]) -> Bool[Array, ""]:
    return jnp.linalg.norm(vector) < LONGEST  # false for NaN


def _closest(config: PatternConfig, state: PatternState, squared: Float[Array, "2 n"]) -> Matches:
    negative, slots = jax.lax.top_k(-squared, config.neighbours)
    distances = jnp.sqrt(-negative)
    _, first = jax.lax.top_k(negative.reshape(-1), config.neighbours)
    voted = jnp.zeros(negative.size, bool).at[first].set(True).reshape(2, -1) & jnp.isfinite(distances)
    labels = jnp.stack([state.labels[side, slots[side]] for side in (GOOD, BAD)])
    return Matches(slots.astype(jnp.int32), jnp.where(jnp.isfinite(distances), labels, EMPTY), distances, voted)
