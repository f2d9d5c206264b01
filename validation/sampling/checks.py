"""Does the sample stand for the whole? Its weighted figures against the exact ones of the full pass."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Float

from validation.diversity.embedding import (
    LINEAR,
    CategoryColumn,
    Embedding,
    NumberColumn,
    TextColumn,
    as_codes,
    as_strings,
)
from validation.diversity.word_vectors import byte_lengths

CONFIDENCE = 0.99
"""Of all bounds together."""
BINS, BINS_A_DEVIATION = 1 << 13, 256  # the middle one at the median; the first holds null
MOST_NAMES = 1_000
"""Values of a category that are counted each, the most frequent of the first look; others count as one."""


class Check(NamedTuple):
    """One figure of the sample against the whole.

    Attributes:
      kind: "distribution" (Kolmogorov-Smirnov distance), "correlation" (difference) or "entropy" (difference, bits).
      columns: the column, or the pair of them.
      full, sample: the figure of the whole and the weighted one of the sample; nan for distributions, where only the
        distance is one.
      difference: between them, absolute.
      bound: what chance alone stays below with the confidence stated, for all checks together.
    """

    kind: str
    columns: tuple[str, ...]
    full: float
    sample: float
    difference: float
    bound: float

    @property
    def held(self) -> bool:
        """Whether the sample is as close as a random one must be."""
        return bool(self.difference <= self.bound)


class Verification(NamedTuple):
    """All checks.

    Attributes:
      checks: in the order of kinds and columns.
      confidence: that chance alone breaks none of them.
      effective_rows: rows of an unweighted random sample that would be as exact (Kish).
      margin: with the same confidence, the weighted distribution of any one column, checked or not, is off by at most
        this share of the rows at every value.
    """

    checks: tuple[Check, ...]
    confidence: float
    effective_rows: float
    margin: float

    @property
    def held(self) -> bool:
        """Whether every check held."""
        return all(check.held for check in self.checks)

    def worst(self, kind: str) -> Check | None:
        """The check of a kind with the largest difference over its bound; None without any."""
        found = [check for check in self.checks if check.kind == kind]
        return max(found, key=lambda check: check.difference / max(check.bound, 1e-300), default=None)

    def as_json(self) -> dict[str, Any]:
        """Everything, as JSON can hold it."""
        checks = [{**check._asdict(), "columns": list(check.columns), "held": check.held} for check in self.checks]
        for check in checks:
            check |= {name: None for name in ("full", "sample") if math.isnan(check[name])}
        return {**self._asdict(), "checks": checks, "held": self.held}


class Scale(NamedTuple):
    """Mean and standard deviation of each number over the whole."""

    mean: Float[np.ndarray, " numbers"]
    deviation: Float[np.ndarray, " numbers"]


@dataclass
class Sums:
    """Sums that the checks follow from, over the whole or over a weighted sample; made by `Sums.of`.

    Numbers are counted as the embedding scales and compresses them, which changes no order; null counts apart in the
    distribution and as the median in the correlation, where what lies beyond four deviations counts as four: a handful of
    rows would decide a correlation, which no sample can then hold.

    Attributes:
      numbers: number columns, each with the place of its coordinate in the embedding.
      texts: text columns, whose lengths are counted.
      names: categories and their values that are counted each.
      scale: of the whole, for sums over a sample; None for those over the whole.
      weight, squares: sum of the weights, and of their squares.
      histogram: weight by bin of each number, then of each text's length.
      total: weighted sum of each number.
      powers: weighted sums of x y, x² y² and x³ y of each pair, of scaled numbers where a scale is given.
      counts: weight by value of each category; then all others, and null.
    """

    numbers: tuple[tuple[NumberColumn, int], ...]
    texts: tuple[str, ...]
    names: dict[str, dict[str, int]]
    scale: Scale | None = None
    weight: float = 0.0
    squares: float = 0.0
    histogram: Float[np.ndarray, "numbers+texts bins"] = field(init=False)
    total: Float[np.ndarray, " numbers"] = field(init=False)
    powers: Float[np.ndarray, "three numbers numbers"] = field(init=False)
    counts: dict[str, Float[np.ndarray, " names_and_two"]] = field(init=False)

    def __post_init__(self) -> None:
        count = len(self.numbers)
        self.histogram = np.zeros((count + len(self.texts), BINS))
        self.total, self.powers = np.zeros(count), np.zeros((3, count, count))
        self.counts = {name: np.zeros(len(known) + 2) for name, known in self.names.items()}

    @classmethod
    def of(cls, embedding: Embedding, sample: pa.Table) -> Sums:
        """Empty sums for the columns of an embedding; a first look names the categories' values."""
        numbers, names, at = [], {}, 0
        for column in embedding.columns:
            if isinstance(column, NumberColumn):
                numbers.append((column, at))
            if isinstance(column, CategoryColumn):
                codes, known = as_codes(sample.column(column.name).combine_chunks())
                order = np.argsort(-np.bincount(codes, minlength=len(known))[:-1], kind="stable")[:MOST_NAMES]
                names[column.name] = {str(known[i]): place for place, i in enumerate(order)}
            at += column.width
        texts = tuple(column.name for column in embedding.columns if isinstance(column, TextColumn))
        return cls(tuple(numbers), texts, names)

    def empty(self, scale: Scale | None = None) -> Sums:
        """The same sums, nothing counted."""
        return Sums(self.numbers, self.texts, self.names, scale)

    def add(
        self,
        batch: pa.RecordBatch,
        coordinates: Float[np.ndarray, "rows full"],
        weight: Float[np.ndarray, " rows"] | None = None,
    ) -> None:
        """Counts rows, each once or by its weight.

        Args:
          batch: rows, with the embedding's columns.
          coordinates: theirs, as `Embedding.coordinates` gives them.
          weight: theirs; None counts each once.
        """
        self.weight += batch.num_rows if weight is None else float(weight.sum())
        self.squares += batch.num_rows if weight is None else float((weight**2).sum())
        for place, (column, at) in enumerate(self.numbers):
            bins = coordinates[:, at] * np.float32(BINS_A_DEVIATION) + np.float32(BINS / 2)
            bins = np.clip(bins, 1, BINS - 1, out=bins).astype(np.int64)
            if column.nulls:
                bins[coordinates[:, at + 1] > 0] = 0
            self.histogram[place] += np.bincount(bins, weight, BINS)
        for place, name in enumerate(self.texts, start=len(self.numbers)):
            lengths = np.log2(1 + byte_lengths(as_strings(batch.column(name))))
            self.histogram[place] += np.bincount((lengths * BINS_A_DEVIATION).astype(np.int64), weight, BINS)[:BINS]
        if len(self.numbers):
            points = coordinates[:, [at for _, at in self.numbers]].astype(np.float64)
            np.clip(points, -LINEAR, LINEAR, out=points)
            self._add_powers(points, np.ones(1) if weight is None else weight[:, None])
        for name, known in self.names.items():
            codes, found = as_codes(batch.column(name))
            places = np.array([*(known.get(str(one), len(known)) for one in found[:-1]), len(known) + 1])
            by_code = np.bincount(codes, weight, len(found))
            self.counts[name] += np.bincount(places, by_code, len(known) + 2)

    def _add_powers(self, x: Float[np.ndarray, "rows numbers"], weight: Float[np.ndarray, ...]) -> None:
        if self.scale is not None:
            x = (x - self.scale.mean) / self.scale.deviation
        self.total += (x * weight).sum(axis=0)
        self.powers[0] += (x * weight).T @ x
        if self.scale is not None:
            self.powers[1] += (x**2 * weight).T @ x**2
            self.powers[2] += (x**3 * weight).T @ x

    def merge(self, other: Sums) -> None:
        """Adds the sums of further rows."""
        self.weight += other.weight
        self.squares += other.squares
        self.histogram += other.histogram
        self.total += other.total
        self.powers += other.powers
        for name, counts in other.counts.items():
            self.counts[name] += counts

    def moments(self) -> Scale:
        """Mean and standard deviation of each number; 1 where it does not vary."""
        mean = self.total / self.weight
        variance = np.diag(self.powers[0]) / self.weight - mean**2
        return Scale(mean, np.sqrt(np.where(variance > 1e-12, variance, 1.0)))


def verify(whole: Sums, sample: Sums) -> Verification:
    """Compares a weighted sample, counted with the scale of the whole, with the whole.

    The bounds are those of a simple random sample of as many effective rows, (sum of weights)² / sum of their squares: the
    Dvoretzky-Kiefer-Wolfowitz inequality for distributions, the delta method for correlations and entropies, and
    Bonferroni's correction over all checks.
    """
    effective = sample.weight**2 / sample.squares
    pairs = len(whole.numbers) * (len(whole.numbers) - 1) // 2
    alpha = (1 - CONFIDENCE) / max(1, len(whole.histogram) + pairs + len(whole.names))
    farthest = NormalDist().inv_cdf(1 - alpha / 2) / math.sqrt(effective)
    checks = _distributions(whole, sample, math.sqrt(math.log(2 / alpha) / (2 * effective)))
    checks += _correlations(whole, sample, farthest) + _entropies(whole, sample, farthest, effective)
    margin = min(1.0, math.sqrt(math.log(2 / (1 - CONFIDENCE)) / (2 * effective)))
    return Verification(tuple(checks), CONFIDENCE, effective, margin)


def _distributions(whole: Sums, sample: Sums, bound: float) -> list[Check]:
    """Kolmogorov-Smirnov distances."""
    ours, theirs = (np.cumsum(one.histogram, axis=1) / one.weight for one in (sample, whole))
    names = [column.name for column, _ in whole.numbers] + [f"bytes of {name}" for name in whole.texts]
    return [
        Check("distribution", (name,), math.nan, math.nan, float(distance), bound)
        for name, distance in zip(names, np.abs(ours - theirs).max(axis=1, initial=0), strict=True)
    ]


def _correlations(whole: Sums, sample: Sums, farthest: float) -> list[Check]:
    """Differences of correlations; the bound is by the variance of a correlation's influence function."""
    scale = whole.moments()
    exact = (whole.powers[0] / whole.weight - np.outer(scale.mean, scale.mean)) / np.outer(*[scale.deviation] * 2)
    product, squared, cubed = sample.powers / sample.weight
    mean = sample.total / sample.weight
    covariance = product - np.outer(mean, mean)
    deviation = np.sqrt(np.maximum(np.diag(covariance), 1e-12))
    found = covariance / np.outer(deviation, deviation)
    fourth = np.diag(squared)
    # of x y - r (x² + y²) / 2, squared
    influence = squared - exact * (cubed + cubed.T) + exact**2 / 4 * (fourth[:, None] + fourth[None] + 2 * squared)
    difference = np.abs(exact - found)
    bounds = farthest * np.sqrt(np.maximum(influence, 0)) + 2 * farthest**2
    return [
        Check("correlation", (b.name, a.name), *map(float, (exact[i, j], found[i, j], difference[i, j], bounds[i, j])))
        for i, (a, _) in enumerate(whole.numbers)
        for j, (b, _) in enumerate(whole.numbers[:i])
    ]


def _entropies(whole: Sums, sample: Sums, farthest: float, effective: float) -> list[Check]:
    """Differences of entropies in bits; the bound has the bias of counting few rows in it."""
    checks = []
    for name, counts in whole.counts.items():
        ours, theirs = sample.counts[name] / sample.weight, counts / whole.weight
        exact, found = (float(-(one * np.log2(np.maximum(one, 1e-300))).sum()) + 0.0 for one in (theirs, ours))
        told = -np.log2(np.maximum(theirs, 1e-300))
        spread = math.sqrt(max(0.0, float((theirs * told**2).sum()) - exact**2))
        bias = (np.count_nonzero(theirs) - 1) / (2 * effective * math.log(2))
        bound = farthest * spread + bias + 2 * farthest**2
        checks.append(Check("entropy", (name,), exact, found, abs(exact - found), float(bound)))
    return checks
