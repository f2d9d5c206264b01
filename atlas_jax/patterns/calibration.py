"""From evidence to a probability that can be taken at its word, and how far it can be.

Fitted to outcomes of vectors that are *not* in the memory: those that are lie at distance 0 of themselves and would make any
memory look certain. The figures are to be taken on a third set.

Source: Platt 1999, Probabilistic outputs for support vector machines, with the smoothed targets of its section 2.2; Newton's
method after Lin, Lin and Weng 2007, A note on Platt's probabilistic outputs. Isotonic regression had the higher Brier score on
all of 9 tasks with 50 to 1,000 outcomes; its calibration error was the lower one on 1 of them only.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

NEWTON_STEPS = 25
STEP_SIZES = 12  # 1, 1/2, ... 2**-11: the best of them is taken


class Calibration(NamedTuple):
    """P(bad) = 1 / (1 + exp(-(slope * evidence + intercept)))."""

    slope: Float[Array, ""]
    intercept: Float[Array, ""]
    prior: Float[Array, ""]  # share of bad outcomes, smoothed: what is said without evidence


class Reliability(NamedTuple):
    """How far probabilities are right, on outcomes that nothing was fitted to."""

    brier: Float[Array, ""]  # mean of (probability - outcome)**2
    skill: Float[Array, ""]  # 1 - brier / brier of the set's own share of bad outcomes; 0: no better than that
    error: Float[Array, ""]  # expected calibration error over bins of equal count
    predicted: Float[Array, " bins"]  # mean probability of each bin, from the lowest up; NaN for an empty one
    observed: Float[Array, " bins"]  # share of bad outcomes in it


def unfitted() -> Calibration:
    """Before there are outcomes: the evidence itself, from 0.5 - 0.38 to 0.5 + 0.38; no probability yet."""
    return Calibration(jnp.float32(2.0), jnp.float32(0.0), jnp.float32(0.5))


def probability(calibration: Calibration, evidence: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """The calibrated probability of bad."""
    return jax.nn.sigmoid(calibration.slope * evidence + calibration.intercept)


def fit(evidence: Float[Array, " n"], bad: Bool[Array, " m"], counted: Bool[Array, " w"] | None = None) -> Calibration:
    """Platt's sigmoid of greatest likelihood; without outcomes of both kinds, or different evidence, a constant.

    Args:
      evidence: `Score.evidence` of vectors that are not in the memory.
      bad: what they turned out to be.
      counted: which count, so that a buffer of fixed size compiles once; all by default.

    Returns:
      The calibration.

    Raises:
      ValueError: the arrays differ in length.
    """
    weights = _weights(evidence, bad, counted)
    n_bad = jnp.sum(jnp.where(bad, weights, 0.0))
    n_good = jnp.sum(weights) - n_bad
    targets = jnp.where(bad, (n_bad + 1) / (n_bad + 2), 1 / (n_good + 2))
    total = jnp.maximum(n_bad + n_good, 1)
    centre = jnp.sum(weights * evidence) / total
    spread = jnp.sqrt(jnp.sum(weights * jnp.square(evidence - centre)) / total)
    informative = (spread > 1e-6) & (n_bad > 0) & (n_good > 0)
    spread = jnp.where(informative, spread, 1.0)
    features = jnp.stack([jnp.where(informative, (evidence - centre) / spread, 0.0), jnp.ones_like(evidence)], axis=-1)

    def improve(_: Int[Array, ""], w: Float[Array, " 2"]) -> Float[Array, " 2"]:
        return _newton(w, features, targets, weights)

    slope, level = jax.lax.fori_loop(0, NEWTON_STEPS, improve, jnp.zeros(2))
    slope = jnp.where(informative, slope / spread, 0.0)
    return Calibration(slope, level - slope * centre, (n_bad + 1) / (n_bad + n_good + 2))


def reliability(
    probabilities: Float[Array, " n"],
    bad: Bool[Array, " m"],
    counted: Bool[Array, " w"] | None = None,
    *,
    bins: int = 10,
) -> Reliability:
    """Brier score, its skill, and the expected calibration error of probabilities.

    Args:
      probabilities: of bad.
      bad: what came of it.
      counted: which count; all by default.
      bins: of equal count, static; of equal probabilities the first given comes first.

    Returns:
      The figures. Chance alone makes the error about sqrt(2 p (1 - p) bins / (pi n)): 0.04 for 1,000 outcomes at p = 1/2.

    Raises:
      ValueError: the arrays differ in length.

    Source: Brier 1950; Naeini, Cooper and Hauskrecht 2015 (Obtaining well calibrated probabilities), with bins of equal count
    after Nguyen and O'Connor 2015.
    """
    weights = _weights(probabilities, bad, counted)
    total = jnp.sum(weights)
    outcomes = bad.astype(probabilities.dtype)
    brier = jnp.sum(weights * jnp.square(probabilities - outcomes)) / total
    share = jnp.sum(weights * outcomes) / total
    order = jnp.argsort(jnp.where(weights > 0, probabilities, jnp.inf), stable=True)
    rank = jnp.zeros_like(order).at[order].set(jnp.arange(order.size, dtype=order.dtype))
    bin_of = jnp.clip((rank * bins // jnp.maximum(total, 1).astype(rank.dtype)), 0, bins - 1)

    def sums(values: Float[Array, " n"]) -> Float[Array, " bins"]:
        return jax.ops.segment_sum(weights * values, bin_of, bins)

    count, predicted, observed = sums(jnp.ones_like(outcomes)), sums(probabilities), sums(outcomes)
    error = jnp.sum(jnp.abs(predicted - observed)) / total
    return Reliability(brier, 1 - brier / (share * (1 - share)), error, predicted / count, observed / count)


def _newton(
    w: Float[Array, " 2"], features: Float[Array, "n 2"], targets: Float[Array, " n"], weights: Float[Array, " n"]
) -> Float[Array, " 2"]:
    """One step of the best of several lengths: the likelihood never falls."""

    def loss(w: Float[Array, " 2"]) -> Float[Array, ""]:
        logits = jnp.sum(features * w[None], axis=-1)
        return jnp.sum(weights * (jax.nn.softplus(logits) - targets * logits))

    p = jax.nn.sigmoid(jnp.sum(features * w[None], axis=-1))
    gradient = jnp.sum((weights * (p - targets))[:, None] * features, axis=0)
    curvature = jnp.sum((weights * p * (1 - p))[:, None, None] * features[:, :, None] * features[:, None, :], axis=0)
    step = jnp.linalg.solve(curvature + 1e-6 * jnp.eye(2), gradient)
    sizes = jnp.append(2.0 ** -jnp.arange(STEP_SIZES, dtype=jnp.float32), 0.0)
    candidates = w[None] - sizes[:, None] * step[None]
    return candidates[jnp.argmin(jax.vmap(loss)(candidates))]


def _weights(values: Array, bad: Array, counted: Array | None) -> Float[Array, " n"]:
    counted = jnp.ones(values.shape, bool) if counted is None else counted
    for name, array in (("bad", bad), ("counted", counted)):
        if array.shape != values.shape:
            raise ValueError(f"{name} has shape {array.shape}, expected {values.shape}: one for each value")
    return counted.astype(jnp.float32)
