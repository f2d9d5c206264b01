"""How many rows each stratum gives."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

RARE, SMALL = 0.01, 0.05
OVERSAMPLED = 3.0
OUTLIER_SHARE = 0.001
"""Share of all rows that are kept for being the farthest from their clusters."""
MOST_OUTLIERS = 0.2
"""Of the sample."""
FEWEST = 4  # rows of a stratum, so that its spread can be told


def oversampling(share: Float[np.ndarray, " strata"]) -> Float[np.ndarray, " strata"]:
    """How many times as often as usual rows are drawn: 3 below 1 % of the rows, falling to 1 at 5 %.

    Args:
      share: of all rows that a stratum's cluster or label has.
    """
    falling = OVERSAMPLED * (RARE / np.clip(share, RARE, SMALL)) ** (np.log(OVERSAMPLED) / np.log(SMALL / RARE))
    return np.maximum(falling, 1.0)


def outliers_kept(rows: int, wanted: int) -> int:
    """Outliers in a sample of `wanted` of `rows`: 0.1 % of all rows, rounded up, at most a fifth of the sample."""
    return min(int(np.ceil(OUTLIER_SHARE * rows)), int(MOST_OUTLIERS * wanted))


def allocate(
    sizes: Int[np.ndarray, " strata"],
    available: Int[np.ndarray, " strata"],
    factors: Float[np.ndarray, " strata"],
    wanted: int,
) -> Int[np.ndarray, " strata"]:
    """Rows to draw from each stratum: in proportion to size × factor, four at least, no more than there are.

    Args:
      sizes: rows of each stratum.
      available: rows of it that can be drawn, at most its size.
      factors: how many times as often as usual its rows are drawn.
      wanted: rows to draw in all.

    Returns:
      Rows of each stratum; they add up to `wanted`, or to all that are available.

    Raises:
      ValueError: fewer rows are wanted than there are strata.
    """
    if wanted < np.count_nonzero(available):
        raise ValueError(f"wanted: {wanted}; expected at least a row for each of {np.count_nonzero(available)} strata")
    if wanted >= available.sum():
        return available.copy()
    floor = np.minimum(available, FEWEST if wanted >= FEWEST * np.count_nonzero(available) else 1)
    want = sizes * factors

    def at(rate: float) -> Float[np.ndarray, " strata"]:
        return np.clip(rate * want, floor, available)

    low, high = 0.0, float(np.max(available / np.maximum(want, 1e-300)))
    for _ in range(200):  # the rows grow with the rate: halve the interval until floats end
        middle = (low + high) / 2
        low, high = (middle, high) if at(middle).sum() < wanted else (low, middle)
    exact = at(high)
    rows = np.floor(exact + 1e-9).astype(np.int64)
    short = wanted - int(rows.sum())
    order = np.argsort(-(exact - rows), kind="stable")
    order = order[rows[order] < available[order]]
    rows[order[:short]] += 1
    return rows
