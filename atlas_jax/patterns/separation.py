"""How far the two sides are apart, with intervals: of evidence that a pattern does not have of itself (`nearest.left_out`).

Sources: AUROC as the probability that a bad one has more evidence than a good one (Mann and Whitney 1947; Hanley and McNeil
1982); its interval is method 5 of Newcombe 2006 (Confidence intervals for an effect size measure based on the Mann-Whitney
statistic, part 2), which, unlike DeLong's, does not shrink to a point at AUROC 1. d' with the mean of both variances (Green and
Swets 1966); its interval, for unequal variances, after Bonett 2008 (Confidence intervals for standardized linear contrasts).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

Z95 = 1.959964
HALVINGS = 30


class Separation(NamedTuple):
    """Figures with their 95 % intervals; all NaN where a side has fewer than two."""

    auroc: Float[Array, ""]  # 0.5: the sides cannot be told apart; 2 * auroc - 1 is 0 there and 1 when they are apart
    auroc_interval: Float[Array, " 2"]
    d_prime: Float[Array, ""]  # difference of means in standard deviations; infinite where neither side varies
    d_prime_interval: Float[Array, " 2"]


def separation(evidence: Float[Array, "2 n"], counted: Bool[Array, "2 n"]) -> Separation:
    """Separation of good (first row) and bad (second row).

    Evidence of patterns that lie near one another is not independent, which the intervals do not know: for patterns from a few
    templates or sources they are too narrow. Of independent normal evidence they held the truth in 93 to 98 % of 4,000 draws.

    Args:
      evidence: of both sides.
      counted: which count.

    Returns:
      AUROC and d' of bad over good, negative d' where they are the wrong way round.
    """
    weights = counted.astype(evidence.dtype)
    good, bad = jnp.sum(weights, axis=-1)
    enough = (good >= 2) & (bad >= 2)
    auroc = _auroc(evidence, weights)
    d_prime, d_error = _d_prime(evidence, weights)
    half = Z95 * d_error
    figures = Separation(auroc, _newcombe(auroc, good, bad), d_prime, jnp.stack([d_prime - half, d_prime + half]))
    return jax.tree.map(lambda figure: jnp.where(enough, figure, jnp.nan), figures)


def _auroc(evidence: Float[Array, "2 n"], weights: Float[Array, "2 n"]) -> Float[Array, ""]:
    difference = evidence[1][:, None] - evidence[0][None]
    wins = (1 + jnp.sign(difference)) / 2
    pairs = weights[1][:, None] * weights[0][None]
    return jnp.sum(pairs * wins) / jnp.sum(pairs)


def _newcombe(auroc: Float[Array, ""], good: Float[Array, ""], bad: Float[Array, ""]) -> Float[Array, " 2"]:
    """The values whose own standard error puts the observed one at z of them, by bisection."""
    extra = (good + bad) / 2 - 1

    def outside(a: Float[Array, ""]) -> Bool[Array, ""]:
        variance = a * (1 - a) * (1 + extra * (1 - a) / (2 - a) + extra * a / (1 + a)) / (good * bad)
        return jnp.square(a - auroc) > Z95**2 * variance

    def halve(_: Int[Array, ""], ends: Float[Array, "2 2"]) -> Float[Array, "2 2"]:
        """Each bound is between a value outside (first column) and the figure itself."""
        far, near = ends[:, 0], ends[:, 1]
        middle = (far + near) / 2
        out = jax.vmap(outside)(middle)
        return jnp.stack([jnp.where(out, middle, far), jnp.where(out, near, middle)], axis=-1)

    ends = jnp.stack([jnp.array([0.0, 1.0]), jnp.stack([auroc, auroc])], axis=-1)
    return jax.lax.fori_loop(0, HALVINGS, halve, ends)[:, 1]


def _d_prime(evidence: Float[Array, "2 n"], weights: Float[Array, "2 n"]) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """d' and its standard error."""
    freedom = jnp.sum(weights, axis=-1) - 1
    mean = jnp.sum(weights * evidence, axis=-1) / (freedom + 1)
    variance = jnp.sum(weights * jnp.square(evidence - mean[:, None]), axis=-1) / freedom
    pooled = jnp.mean(variance)
    d = (mean[1] - mean[0]) / jnp.sqrt(pooled)
    of_spread = jnp.square(d) / 8 * jnp.sum(jnp.square(variance) / freedom) / jnp.square(pooled)
    return d, jnp.sqrt(of_spread + jnp.sum(variance / freedom) / pooled)
