"""Statistical decisions about rows: which scores are too extreme for their null distribution."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Bool, Float, Int

ROBUST_SIGMAS = 4.0  # without a reference: distance from the median, in robust standard deviations
GOOD_BELOW = 0.01  # without a reference: share of good rows that score below the middle of pure noise
SEPARATION = 4.0  # Ashman's D above which two groups of rows count as two; the halves of a uniform spread have 3.5


def conformal(
    scores: Float[np.ndarray, " n"], null: Float[np.ndarray, " m"], false_discoveries: float
) -> Bool[np.ndarray, " n"]:
    """Scores too large for the null, at a false discovery rate.

    Args:
      scores: of the rows in question.
      null: of rows known to be good.
      false_discoveries: expected share of good rows among those flagged.

    Source: conformal p-values (Bates et al. 2023, arXiv:2104.08279) under Benjamini and Hochberg's procedure (1995).
    """
    if not len(scores) or not len(null):
        return np.zeros(len(scores), bool)
    above = len(null) - np.searchsorted(np.sort(null), scores, side="left")
    p = (1 + above) / (1 + len(null))
    order = np.sort(p)
    allowed = np.flatnonzero(order <= false_discoveries * np.arange(1, len(p) + 1) / len(p))
    return p <= order[allowed[-1]] if len(allowed) else np.zeros(len(scores), bool)


def robust_high(scores: Float[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    """Scores far above the rest; the scale comes from the lower half, which a bad upper tail cannot widen."""
    if not len(scores):
        return np.zeros(0, bool)
    centre = np.median(scores)
    spread = centre - np.quantile(scores, 0.1587)
    return scores > centre + ROBUST_SIGMAS * max(float(spread), 1e-9)


def low_group(scores: Float[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    """The lower of two groups, where the scores fall into two that stand well apart; nobody otherwise.

    The cut minimises the variance within groups (Otsu 1979); the groups count as two when Ashman's D (1994) exceeds 4.
    """
    ordered = np.sort(scores)
    n = len(ordered)
    if n < 20:
        return np.zeros(n, bool)
    below = np.arange(1, n)
    sums, squares = np.cumsum(ordered), np.cumsum(ordered**2)
    low = squares[:-1] - sums[:-1] ** 2 / below
    high = (squares[-1] - squares[:-1]) - (sums[-1] - sums[:-1]) ** 2 / (n - below)
    cut = int(np.argmin(low + high)) + 1
    if cut < 3 or n - cut < 3:
        return np.zeros(n, bool)
    left, right = ordered[:cut], ordered[cut:]
    apart = math.sqrt(2.0) * (right.mean() - left.mean()) / math.sqrt(left.var() + right.var() + 1e-12)
    return scores < ordered[cut] if apart > SEPARATION else np.zeros(n, bool)


def no_signal(
    z: Float[np.ndarray, " n"], null: Float[np.ndarray, " k"], good: Float[np.ndarray, " m"] | None, precision: float
) -> Bool[np.ndarray, " n"]:
    """Rows whose score is as small as pure noise makes it, while good rows score higher.

    Args:
      z: score of each row.
      null: scores of rows that certainly have no signal.
      good: scores of rows known to be good; None where there are none.
      precision: wanted share of rows without signal among those flagged.

    The largest cut is taken at which the flagged rows are, by estimate, precise enough. With good rows known, those expected
    below the cut are counted as false; without, rows without signal are estimated as twice those below the null's median
    minus the one in a hundred that good rows put there.
    """
    if not len(z) or not len(null):
        return np.zeros(len(z), bool)
    cuts, middle = np.quantile(null, np.linspace(0.05, 0.995, 190)), np.median(null)
    found = np.array([(z < cut).mean() for cut in cuts])
    if good is not None and len(good):
        # A rate seen k times may well be that of k + 2 sqrt(k) + 1: a small excess is no finding.
        seen = np.array([(good < cut).sum() for cut in cuts])
        false = (seen + 2 * np.sqrt(seen) + 1) / len(good)
        estimate = 1 - false / np.maximum(found, 1e-12)
    else:
        without = max(0.0, 2 * (float((z < middle).mean()) - GOOD_BELOW))
        estimate = without * np.array([(null < cut).mean() for cut in cuts]) / np.maximum(found, 1e-12)
    enough = np.flatnonzero(estimate >= precision)
    return z < cuts[enough[-1]] if len(enough) else np.zeros(len(z), bool)


def share_without_signal(
    z: Float[np.ndarray, " n"],
    weights: Int[np.ndarray, " n"],
    good: tuple[Float[np.ndarray, " m"], Int[np.ndarray, " m"]] | None,
) -> float:
    """Share of the weight that lies in rows without signal, also of those that cannot be told one by one.

    Half of all rows without signal score below zero, because pure noise is the difference of two equal draws; of good rows
    hardly any do. So share = (below - good below) / (1/2 - good below).

    Args:
      z: score of each row.
      weights: tokens of each row.
      good: the same of rows known to be good; None where there are none: one in a hundred is taken to score below zero.
    """
    if not len(z):
        return 0.0
    below = np.average(z < 0, weights=weights)
    good_below = GOOD_BELOW if good is None or not len(good[0]) else np.average(good[0] < 0, weights=good[1])
    return float(np.clip((below - good_below) / max(0.5 - good_below, 0.1), 0.0, 1.0))
