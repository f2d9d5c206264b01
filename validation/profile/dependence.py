"""Which columns depend on each other, from the sample of rows; a pair counts only if chance cannot explain it.

Two numbers: Spearman's and Pearson's correlation, and Cramér's V of their deciles, which sees what is not monotone.
A number and a category: the correlation ratio of the ranks. Two categories: Cramér's V, corrected for its bias.
Nulls: the correlation of being missing. All tests together are corrected by Benjamini and Hochberg's procedure.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from validation.profile.cells import as_floats
from validation.profile.state import Profile

LEVEL = 0.01
"""Share of false pairs among those reported."""
LEAST_STRENGTH = 0.1
MOST_COLUMNS = 60
MOST_LEVELS = 50
_BANDS = 10
_LEAST_ROWS = 30


class Pair(NamedTuple):
    """Two columns that depend on each other.

    Attributes:
      left, right: names.
      measure: what the strength is: "rank correlation" (without its sign), "Cramér's V of deciles", "correlation ratio",
        "Cramér's V" or "missing together".
      strength: 0 to 1.
      spearman, pearson: with sign, of two numbers; else nan.
      p: probability under independence, corrected for all pairs.
      rows: rows of the sample where both are there.
    """

    left: str
    right: str
    measure: str
    strength: float
    spearman: float
    pearson: float
    p: float
    rows: int


class _Side(NamedTuple):
    name: str
    numeric: bool
    values: np.ndarray  # numbers, or codes of categories
    valid: Bool[np.ndarray, " rows"]


def pairs(profile: Profile) -> list[Pair]:
    """Pairs of columns that really depend on each other, strongest first; of at most 60 columns."""
    from scipy import stats

    sides = _sides(profile)
    tested = [one for left, right in itertools.combinations(sides, 2) if (one := _pair(left, right)) is not None]
    missing = [side for side in sides if 0 < side.valid.sum() < side.valid.size]
    tested += [_missing(left, right) for left, right in itertools.combinations(missing, 2)]
    if not tested:
        return []
    corrected = stats.false_discovery_control([pair.p for pair in tested])
    real = [pair._replace(p=float(p)) for pair, p in zip(tested, corrected, strict=True)]
    real = [pair for pair in real if pair.p <= LEVEL and pair.strength >= LEAST_STRENGTH]
    return sorted(real, key=lambda pair: (-pair.strength, pair.left, pair.right))


def _sides(profile: Profile) -> list[_Side]:
    sample = profile.sample
    sides = []
    for column in profile.columns:
        name, kind = column.leaf.name, column.leaf.kind
        if kind in ("other", "text", "date") or sample.schema.get_field_index(name) < 0:
            continue
        array = sample.column(name).combine_chunks()
        valid = array.is_valid().to_numpy(zero_copy_only=False)
        if kind in ("number", "list"):
            values = as_floats(array)
            valid = valid & np.isfinite(values)
        else:
            codes = array.dictionary_encode()
            if not 1 < len(codes.dictionary) <= MOST_LEVELS:
                continue
            values = codes.indices.fill_null(0).to_numpy()
        if valid.sum() >= _LEAST_ROWS and _varies(values[valid]):
            sides.append(_Side(name, kind in ("number", "list"), values, valid))
        if len(sides) == MOST_COLUMNS:
            break
    return sides


def _varies(values: np.ndarray) -> bool:
    return bool(values.min() < values.max())


def _pair(left: _Side, right: _Side) -> Pair | None:
    from scipy import stats

    both = left.valid & right.valid
    a, b = left.values[both], right.values[both]
    rows = int(both.sum())
    if rows < _LEAST_ROWS or not _varies(a) or not _varies(b):
        return None
    nan = float("nan")
    if left.numeric and right.numeric:
        spearman, p_rank = (float(np.asarray(one)) for one in stats.spearmanr(a, b))
        with np.errstate(over="ignore", invalid="ignore"):
            pearson = float(np.corrcoef(a, b)[0, 1])
        association, p_bands = cramers_v(_bands(a), _bands(b))
        strength = max(abs(float(spearman)), association)
        p = min(1.0, 2 * min(float(p_rank), p_bands))
        measure = "rank correlation" if abs(float(spearman)) >= association else "Cramér's V of deciles"
        return Pair(left.name, right.name, measure, strength, float(spearman), pearson, p, rows)
    if left.numeric or right.numeric:
        numbers, codes = (a, b) if left.numeric else (b, a)
        ratio, p = correlation_ratio(stats.rankdata(numbers), codes)
        return Pair(left.name, right.name, "correlation ratio", ratio, nan, nan, p, rows)
    association, p = cramers_v(a, b)
    return Pair(left.name, right.name, "Cramér's V", association, nan, nan, p, rows)


def _missing(left: _Side, right: _Side) -> Pair:
    from scipy import stats

    nan, rows = float("nan"), left.valid.size
    phi = float(np.corrcoef(left.valid, right.valid)[0, 1])
    p = float(stats.chi2.sf(phi**2 * rows, 1))
    return Pair(left.name, right.name, "missing together", abs(phi), nan, phi, p, rows)


def _bands(values: Float[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """Each number's decile; equal numbers stay together."""
    edges = np.unique(np.quantile(values, np.linspace(0, 1, _BANDS + 1)[1:-1]))
    return np.searchsorted(edges, values, side="right")


def cramers_v(a: Int[np.ndarray, " n"], b: Int[np.ndarray, " n"]) -> tuple[float, float]:
    """Strength of the association of two categories, without the bias of small samples, and its p-value.

    Source: Bergsma, "A bias-correction for Cramér's V and Tschuprow's T" (2013).
    """
    from scipy import stats

    a, b = (np.unique(codes, return_inverse=True)[1] for codes in (a, b))
    rows, columns, n = int(a.max()) + 1, int(b.max()) + 1, a.size
    if min(rows, columns) < 2:
        return 0.0, 1.0
    table = np.bincount(a * columns + b, minlength=rows * columns).reshape(rows, columns).astype(np.float64)
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / n
    statistic = float(((table - expected) ** 2 / expected).sum())
    freedom = (rows - 1) * (columns - 1)
    left, right = rows - (rows - 1) ** 2 / (n - 1), columns - (columns - 1) ** 2 / (n - 1)
    unbiased = max(0.0, statistic / n - freedom / (n - 1))
    strength = (unbiased / max(min(left, right) - 1, 1e-12)) ** 0.5
    return min(1.0, strength), float(stats.chi2.sf(statistic, freedom))


def correlation_ratio(values: Float[np.ndarray, " n"], codes: Int[np.ndarray, " n"]) -> tuple[float, float]:
    """How much of the variance of numbers lies between categories (square root, corrected), and the F test of it."""
    from scipy import stats

    codes = np.unique(codes, return_inverse=True)[1]
    groups, n = int(codes.max()) + 1, values.size
    total = float(((values - values.mean()) ** 2).sum())
    if groups < 2 or n <= groups or total == 0:
        return 0.0, 1.0
    count = np.bincount(codes)
    means = np.bincount(codes, weights=values) / count
    between = float((count * (means - values.mean()) ** 2).sum())
    within = max(total - between, 1e-300)
    f = between / (groups - 1) / (within / (n - groups))
    unbiased = 1 - (1 - between / total) * (n - 1) / (n - groups)
    return max(0.0, unbiased) ** 0.5, float(stats.f.sf(f, groups - 1, n - groups))
