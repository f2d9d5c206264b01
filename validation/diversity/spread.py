"""How many directions rows really use: effective rank and Vendi score, from sums that batches add up to."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float


class Moments(NamedTuple):
    """Sums over points that both figures follow from; state in, state out.

    Attributes:
      rows: number of points.
      total: sum of the points, float64 [width].
      products: sum of each point's products with itself, float64 [width, width].
      directions: the same of points of length 1, with a further coordinate that is 1 for points at 0.
    """

    rows: int
    total: Float[np.ndarray, " width"]
    products: Float[np.ndarray, "width width"]
    directions: Float[np.ndarray, "width+1 width+1"]

    def merge(self, other: Moments) -> Moments:
        """Moments of both sets of points."""
        return Moments(
            self.rows + other.rows,
            self.total + other.total,
            self.products + other.products,
            self.directions + other.directions,
        )


def moments(points: Float[np.ndarray, "rows width"]) -> Moments:
    """Moments of points; width × width numbers, however many rows."""
    values = points.astype(np.float64)
    sizes = np.linalg.norm(values, axis=1)
    ones = np.zeros((len(values), values.shape[1] + 1))
    ones[:, :-1] = values / np.where(sizes > 0, sizes, 1)[:, None]
    ones[sizes == 0, -1] = 1
    return Moments(len(values), values.sum(axis=0), values.T @ values, ones.T @ ones)


def effective_rank(sums: Moments) -> float:
    """Number of directions that the rows vary in: e to the entropy of the covariance's eigenvalues, as shares of their sum.

    1 where all rows lie on a line, the width where they spread evenly; 0 where they coincide, nan without rows.

    Source: Roy and Vetterli, "The effective rank" (EUSIPCO 2007), with eigenvalues of the covariance, which are squared
    singular values of the centered points, in place of singular values.
    """
    if sums.rows == 0:
        return float("nan")
    mean = sums.total / sums.rows
    return _exp_entropy(np.linalg.eigvalsh(sums.products / sums.rows - np.outer(mean, mean)))


def vendi_score(sums: Moments) -> float:
    """Effective number of different rows by their directions: 1 where all are alike; nan without rows.

    The kernel is the cosine of two points; its n × n matrix, divided by n, has the same eigenvalues above 0 as the
    width × width one used here, so the score is exact and at most the width plus 1. Points at 0 are alike to each other
    and unlike all others.

    Source: Friedman and Dieng, "The Vendi Score" (TMLR 2023), definition 3.1, by their section on the dual.
    """
    return float("nan") if sums.rows == 0 else _exp_entropy(np.linalg.eigvalsh(sums.directions / sums.rows))


def _exp_entropy(eigenvalues: Float[np.ndarray, " width"]) -> float:
    largest = float(eigenvalues.max(initial=0.0))
    kept = eigenvalues[eigenvalues > 1e-12 * largest] if largest > 1e-12 else np.empty(0)
    if not len(kept):
        return 0.0
    shares = kept / kept.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))
