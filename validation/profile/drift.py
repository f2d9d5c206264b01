"""Where a table changes along its files: runs of rows whose mean, spread, values or nulls differ from the rest.

Every column's segments are cut into runs of equal level by the least penalised squares; noise is what segments of their
size must show, or what neighbouring segments do show where that is more, so that slow waves raise no alarm by
themselves. A run is a change if it differs from the longest run by an effect that matters, however certain it is.

Source: Jackson et al., "An algorithm for optimal partitioning of data on an interval" (2005).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from validation.profile.column import Column
from validation.profile.segments import Segments, Sums
from validation.profile.state import Profile

LEAST_EFFECT = {"mean": 0.2, "length": 0.2, "spread": 0.4, "values": 0.05, "words": 0.05, "missing": 0.02}
"""Smallest difference that is a change: standard deviations, log2 of the spread, total variation, share of rows."""
CERTAINTY = 14.0
"""Logarithm of the odds, before the numbers of segments and columns, against a cut where nothing changes."""
LEAST_SEGMENTS = 8


class Change(NamedTuple):
    """Rows that differ from most others.

    Attributes:
      column: its name.
      aspect: "mean", "spread", "values" (which ones, how often), "missing", "length" or "words" (of text).
      file, row: index of the file and number of the first row.
      last_file, last_row: of the last one; true to the width of a segment.
      effect: size where it is largest, in the unit of `LEAST_EFFECT`.
      here, elsewhere: the level there and in the longest run of all, where it is a number; else nan.
    """

    column: str
    aspect: str
    file: int
    row: int
    last_file: int
    last_row: int
    effect: float
    here: float
    elsewhere: float


def changes(profile: Profile) -> list[Change]:
    """All changes, the largest (in multiples of the least effect) first."""
    segments = profile.segments.settled()
    found = []
    if len(segments.place) >= LEAST_SEGMENTS:
        for column, all_sums in zip(profile.columns, segments.columns, strict=True):
            texts = column.text is not None
            sums = all_sums
            if _numbers_rows(column):
                sums = all_sums._replace(moments=np.zeros_like(all_sums.moments))
            found += _column_changes(segments, sums, column.leaf.name, texts, len(profile.columns))
    return sorted(found, key=lambda change: -change.effect / LEAST_EFFECT[change.aspect])


def _numbers_rows(column: Column) -> bool:
    """Whether numbers only count on, as identifiers do; that they differ from place to place says nothing."""
    if column.numbers is None:
        return False
    up, down, equal = (int(steps) for steps in column.numbers.counts[4:])
    return max(up, down) >= 0.99 * max(up + down + equal, 1)


class _Signal(NamedTuple):
    """A level of each segment (s, d), its sampling variance, and what an effect is measured in."""

    aspect: str
    level: Float[np.ndarray, "s d"]
    variance: Float[np.ndarray, "s d"]


def _column_changes(segments: Segments, sums: Sums, name: str, texts: bool, columns: int) -> list[Change]:
    found = []
    for signal in _signals(segments, sums, texts):
        usable = np.isfinite(signal.level).all(axis=1) & np.isfinite(signal.variance).all(axis=1)
        places = np.flatnonzero(usable)
        if places.size < LEAST_SEGMENTS or not np.ptp(signal.level[places], axis=0).any():
            continue
        level, weight = signal.level[places], 1 / _noise(signal.level[places], signal.variance[places])
        cuts = runs(level, weight, CERTAINTY + 2 * math.log(places.size) + math.log(columns))
        found += _differing(segments, signal.aspect, level, segments.rows[places, 0], places, cuts, name)
    return found


def _signals(segments: Segments, sums: Sums, texts: bool) -> list[_Signal]:
    rows = segments.rows[:, 0].astype(np.float64)
    count, mean, second = sums.moments.T
    signals = [_shares("missing", sums.missing[:, None], rows)]
    if sums.bins.any():
        signals.append(_shares("words" if texts else "values", sums.bins, sums.bins.sum(axis=1)))
    if count.sum() > 1:
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            centre = float((count * mean).sum() / count.sum())
            within = math.sqrt(max(float(second.sum() / count.sum()), 0.0))
            whole = math.hypot(within, math.sqrt(float((count * (mean - centre) ** 2).sum() / count.sum())))
            if whole > 0 and math.isfinite(whole):
                level = np.where(count > 0, (mean - centre) / whole, np.nan)
                variance = (within / whole) ** 2 / count + 1e-12
                signals.append(_Signal("length" if texts else "mean", level[:, None], variance[:, None]))
            if within > 0 and math.isfinite(within):
                # The logarithm of an estimated spread varies by 1 / (2 n) in normal data, in units of log2 twice that.
                spread = np.where((count > 2) & (second > 0), np.log2(np.sqrt(second / count) / within), np.nan)
                if not texts:
                    signals.append(_Signal("spread", spread[:, None], (1.04 / count)[:, None]))
    return signals


def _shares(aspect: str, counts: Float[np.ndarray, "s d"], total: Float[np.ndarray, " s"]) -> _Signal:
    with np.errstate(invalid="ignore", divide="ignore"):
        level = counts / total[:, None]
        usual = counts.sum(axis=0) / total.sum()
        # One more of each, so that a bin hardly used has a variance; halves of a change then stand out less.
        usual = (usual * total.sum() + 1) / (total.sum() + 2)
        return _Signal(aspect, level, usual * (1 - usual) / total[:, None])


def _noise(level: Float[np.ndarray, "s d"], variance: Float[np.ndarray, "s d"]) -> Float[np.ndarray, "s d"]:
    """Variance of a level: what sampling gives, and what neighbours show beyond it."""
    squares = np.diff(level, axis=0) ** 2 / 2
    seen = np.median(squares, axis=0) / 0.4549  # the median of a squared normal number of variance one
    return variance + np.maximum(seen - np.median(variance, axis=0), 0)


def runs(level: Float[np.ndarray, "s d"], weight: Float[np.ndarray, "s d"], certainty: float) -> Int[np.ndarray, " r"]:
    """Where runs of equal level begin, the first 0: the cut of the least squares, each cut costing a penalty.

    Args:
      level: of each segment.
      weight: one over its variance.
      certainty: logarithm of the odds that a cut must overcome.

    Returns:
      first segment of each run.
    """
    count, dimensions = level.shape
    penalty = dimensions + 2 * math.sqrt(dimensions * certainty) + 2 * certainty  # a bound of the chi-square tail
    sums = [np.concatenate([np.zeros((1, dimensions)), np.cumsum(weight * level**power, axis=0)]) for power in range(3)]
    best, origin = np.full(count + 1, np.inf), np.zeros(count + 1, np.int64)
    best[0] = -penalty
    for end in range(1, count + 1):
        mass, first, second = (total[end] - total[:end] for total in sums)
        cost = (second - first**2 / mass).sum(axis=1)
        total = best[:end] + cost + penalty
        origin[end] = np.argmin(total)
        best[end] = total[origin[end]]
    starts = [int(origin[count])]
    while starts[-1]:
        starts.append(int(origin[starts[-1]]))
    return np.array(starts[::-1])


def _differing(
    segments: Segments,
    aspect: str,
    level: Float[np.ndarray, "s d"],
    rows: Int[np.ndarray, " s"],
    places: Int[np.ndarray, " s"],
    cuts: Int[np.ndarray, " r"],
    name: str,
) -> list[Change]:
    if cuts.size < 2:
        return []
    mass = np.add.reduceat(rows, cuts)
    means = np.add.reduceat(level * rows[:, None], cuts, axis=0) / mass[:, None]
    usual = means[mass.argmax()]
    ends = np.append(cuts[1:], len(places))
    apart = means - usual
    sizes = np.abs(apart).sum(axis=1) / 2 if aspect in ("values", "words") else np.abs(apart[:, 0])
    found = []
    for first, last in _neighbours(apart, sizes >= LEAST_EFFECT[aspect]):
        start, end = places[cuts[first]], places[ends[last] - 1]
        run = first + int(sizes[first : last + 1].argmax())
        single = level.shape[1] == 1
        found.append(
            Change(
                name,
                aspect,
                int(segments.place[start, 0] << segments.files_shift),
                int(segments.rows[start, 1]),
                int(segments.place[end, 0] << segments.files_shift),
                int(segments.rows[end, 2]),
                float(sizes[run]),
                float(means[run, 0]) if single else math.nan,
                float(usual[0]) if single else math.nan,
            )
        )
    return found


def _neighbours(apart: Float[np.ndarray, "r d"], differs: Bool[np.ndarray, " r"]) -> list[tuple[int, int]]:
    """First and last of runs side by side that differ in the same direction; they are one change."""
    groups: list[tuple[int, int]] = []
    for run in np.flatnonzero(differs).tolist():
        beside = bool(groups) and groups[-1][1] == run - 1
        if beside and float((apart[run] * apart[run - 1]).sum()) > 0:
            groups[-1] = (groups[-1][0], run)
        else:
            groups.append((run, run))
    return groups
