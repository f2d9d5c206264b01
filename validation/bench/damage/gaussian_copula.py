"""A Gaussian copula of a table whose columns are numbers and categories: fitted, and sampled.

A column is a sequence of levels 0, 1, ... in an order; it is read as a normal variable cut into intervals with the
frequencies of the levels. The latent correlations are those that give back the correlations seen between the levels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from scipy.special import ndtr, ndtri

HERMITE_TERMS = 40
CORRELATIONS = np.linspace(-0.99, 0.99, 199)
FAR = 8.0  # Beyond it the normal density is under 1e-14.
ORDER_SWEEPS = 3

Levels = Int[np.ndarray, " n"]


def order_categories(columns: Sequence[Levels], categorical: Sequence[bool]) -> list[Levels]:
    """Renumbers the levels of categories so that one dimension carries as much of their dependence as it can.

    The order is that along the leading direction in which the means of the other columns' scores differ between the
    levels (one-dimensional correspondence analysis), found column by column in a few sweeps.

    Args:
      columns: levels, every number from 0 to the highest in use.
      categorical: which columns have no order of their own.

    Returns:
      Columns as given, with the levels of categories renumbered.
    """
    ordered = list(columns)
    scores = np.stack([_scores(levels) for levels in ordered], axis=1)
    for _ in range(ORDER_SWEEPS):
        for column, levels in enumerate(ordered):
            others = np.delete(scores, column, axis=1)
            if not categorical[column] or not others.shape[1]:
                continue
            counts = np.bincount(levels)
            sums = np.zeros((len(counts), others.shape[1]))
            np.add.at(sums, levels, others)
            weighted = sums / np.sqrt(counts)[:, None]
            place = np.linalg.svd(weighted, full_matrices=False)[0][:, 0] / np.sqrt(counts)
            # The sign of a singular vector is the solver's choice; the same rows on every machine need one of ours.
            place = place if place[0] <= place[-1] else -place
            ordered[column] = np.argsort(np.argsort(place, kind="stable"), kind="stable")[levels]
            scores[:, column] = _scores(ordered[column])
    return ordered


def latent_correlation(columns: Sequence[Levels]) -> Float[np.ndarray, "d d"]:
    """Correlations of the normal variables behind the levels.

    Args:
      columns: levels in order, every number from 0 to the highest in use.

    Returns:
      A correlation matrix, positive semi-definite.

    Source: the polychoric correlation by its Hermite series (Lancaster, Biometrika 1957): for X, Y normal with
    correlation ρ, E f(X) g(Y) = Σ_k ρ^k f_k g_k with f_k, g_k the coefficients in normalised Hermite polynomials.
    """
    scores = np.stack([_scores(levels) for levels in columns], axis=1)
    seen = scores.T @ scores / len(scores)
    series = np.stack([_hermite_coefficients(levels) for levels in columns])
    powers = CORRELATIONS[:, None] ** np.arange(1, HERMITE_TERMS + 1)
    latent = np.eye(len(columns))
    for a in range(len(columns)):
        for b in range(a):
            expected = np.maximum.accumulate(powers @ (series[a] * series[b]))
            # A constant column has no correlation to find.
            latent[a, b] = latent[b, a] = np.interp(seen[a, b], expected, CORRELATIONS) if expected[-1] > 1e-9 else 0.0
    values, vectors = np.linalg.eigh(latent)
    possible = (vectors * values.clip(1e-6)) @ vectors.T
    scale = np.sqrt(np.diag(possible))
    return possible / np.outer(scale, scale)


def sample_ranks(
    correlation: Float[np.ndarray, "d d"], count: int, rng: np.random.Generator
) -> Float[np.ndarray, "count d"]:
    """Draws rows of the copula: uniform in every column, 0 to 1.

    Args:
      correlation: of the latent normal variables.
      count: of rows.
      rng: the same draws for every correlation.
    """
    values, vectors = np.linalg.eigh(correlation)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    return ndtr(rng.normal(size=(count, len(correlation))) @ root)


def _cuts(levels: Levels) -> Float[np.ndarray, " cuts"]:
    """Where the normal variable is cut into the levels, both ends included."""
    shares = np.cumsum(np.bincount(levels)) / len(levels)
    return np.concatenate([[-FAR], ndtri(shares[:-1]), [FAR]])


def _level_scores(levels: Levels) -> Float[np.ndarray, " levels"]:
    """Mean of the normal variable within each level."""
    density = _density(_cuts(levels))
    return (density[:-1] - density[1:]) * len(levels) / np.bincount(levels)


def _scores(levels: Levels) -> Float[np.ndarray, " n"]:
    return _level_scores(levels)[levels]


def _hermite_coefficients(levels: Levels) -> Float[np.ndarray, " terms"]:
    """Coefficients 1, 2, ... of the step function that gives every level its score."""
    cuts = _cuts(levels)
    density, scores = _density(cuts), _level_scores(levels)
    before, polynomial = np.zeros_like(cuts), np.ones_like(cuts)
    coefficients = np.empty(HERMITE_TERMS)
    for k in range(1, HERMITE_TERMS + 1):
        edge = polynomial * density / np.sqrt(k)
        coefficients[k - 1] = scores @ (edge[:-1] - edge[1:])
        before, polynomial = polynomial, (cuts * polynomial - np.sqrt(k - 1) * before) / np.sqrt(k)
    return coefficients


def _density(points: Float[np.ndarray, " points"]) -> Float[np.ndarray, " points"]:
    return np.exp(-(points**2) / 2) / np.sqrt(2 * np.pi)
