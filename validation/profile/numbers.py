"""Exact accumulators of a column of numbers or dates: moments, extremes, and steps from row to row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, Num

from validation.diversity.hash_counts import SampledCounts, mixed

STEP_LIMIT = 1 << 12


class Moments(NamedTuple):
    """Count, mean and sums of powers of the distance from it."""

    count: float  # pyright: ignore[reportIncompatibleMethodOverride]
    mean: float
    second: float
    third: float
    fourth: float


def moments_of(values: Float[np.ndarray, " n"]) -> Moments:
    """Moments of finite numbers, by two passes over them."""
    if not values.size:
        return Moments(0.0, 0.0, 0.0, 0.0, 0.0)
    with np.errstate(over="ignore", invalid="ignore"):
        mean = float(values.mean())
        away = values - mean
        squares = away * away
        # No dot products: BLAS would start threads for them, and sums of pairs are more exact.
        third, fourth = float((squares * away).sum()), float((squares * squares).sum())
        return Moments(float(values.size), mean, float(squares.sum()), third, fourth)


def united(a: Moments, b: Moments) -> Moments:
    """Moments of two sets of numbers together.

    Source: Pébay, "Formulas for robust, one-pass parallel computation of covariances and arbitrary-order statistical
    moments" (2008), equations 1.1 to 1.6; the second order is that of Chan, Golub and LeVeque (1979).
    """
    n = a.count + b.count
    if a.count == 0 or b.count == 0:
        return a if b.count == 0 else b
    delta, both = b.mean - a.mean, a.count * b.count
    return Moments(
        n,
        a.mean + delta * b.count / n,
        a.second + b.second + delta**2 * both / n,
        a.third
        + b.third
        + delta**3 * both * (a.count - b.count) / n**2
        + 3 * delta * (a.count * b.second - b.count * a.second) / n,
        a.fourth
        + b.fourth
        + delta**4 * both * (a.count**2 - both + b.count**2) / n**3
        + 6 * delta**2 * (a.count**2 * b.second + b.count**2 * a.second) / n**2
        + 4 * delta * (a.count * b.third - b.count * a.third) / n,
    )


class Numbers:
    """What is known of the numbers of a column, row after row.

    A step leads from a finite number to the next one in the same file; nulls and non-finite numbers lie outside.

    Attributes:
      moments: of the finite numbers.
      extremes: smallest and largest finite number, in the column's own dtype; empty without any.
      counts: nan, +inf, -inf, zeros, steps up, steps down, steps to an equal number.
      squared_steps: sum of squared steps.
      steps: how often each step occurred, for dates.
      largest: the largest step of dates, with file and row it leads to; (0, -1, 0) without any.
      ends: file, row of the first and of the last number; empty without any.
      values: those numbers.
    """

    def __init__(self, dtype: np.dtype[Any], dates: bool = False) -> None:
        self.dtype = np.dtype(dtype)
        self.dates = dates
        self.moments = moments_of(np.empty(0))
        self.extremes = np.empty(0, self.dtype)
        self.counts = np.zeros(7, np.int64)
        self.squared_steps = 0.0
        self.steps = SampledCounts(STEP_LIMIT)
        self.largest = np.array([0, -1, 0], np.int64)
        self.ends = np.empty((0, 2), np.int64)
        self.values = np.empty(0, self.dtype)

    def add(self, values: Num[np.ndarray, " n"], file: int, row: Int[np.ndarray, " n"]) -> None:
        """Adds numbers of one file, in order.

        Args:
          values: the numbers that are not null.
          file: index of their file.
          row: row of each.
        """
        values = values.astype(self.dtype, copy=False)
        if self.dtype.kind == "f":
            finite = np.isfinite(values)
            if not finite.all():
                odd = values[~finite]
                self.counts[:3] += [np.isnan(odd).sum(), (odd == np.inf).sum(), (odd == -np.inf).sum()]
                values, row = values[finite], row[finite]
        if not values.size:
            return
        self.moments = united(self.moments, moments_of(values.astype(np.float64, copy=False)))
        self.extremes = _extremes(self.extremes, values)
        self.counts[3] += values.size - np.count_nonzero(values)
        before = self.values[-1:] if self.ends.size and self.ends[1, 0] == file else values[:0]
        self._add_steps(np.concatenate([before, values]), file, row[1 - before.size :])
        here = np.array([[file, row[0]], [file, row[-1]]])
        self.values = np.array([self.values[0] if self.values.size else values[0], values[-1]], self.dtype)
        self.ends = np.stack([self.ends[0] if self.ends.size else here[0], here[1]])

    def _add_steps(self, values: Num[np.ndarray, " n"], file: int, row: Int[np.ndarray, " m"]) -> None:
        exact = self.dates
        with np.errstate(over="ignore"):  # from one end of the floating point numbers to the other
            steps = np.diff(values if exact else values.astype(np.float64, copy=False))
        if not steps.size:
            return
        up, down = int((steps > 0).sum()), int((steps < 0).sum())
        self.counts[4:] += [up, down, steps.size - up - down]
        with np.errstate(over="ignore"):
            floats = steps.astype(np.float64, copy=False)
            self.squared_steps += float((floats * floats).sum())
        if self.dates:
            self.steps.add(mixed(steps.view(np.uint64)))
            place = int(steps.argmax())
            if self.largest[1] < 0 or steps[place] > self.largest[0]:
                self.largest = np.array([steps[place], file, row[place]], np.int64)

    def merge(self, other: Numbers, files: int) -> None:
        """Adds the numbers of rows that come after these.

        Args:
          other: their state, left as it is.
          files: what to add to the other's file indices.
        """
        theirs = other.ends + np.array([files, 0]) if other.ends.size else other.ends
        if self.ends.size and theirs.size and self.ends[1, 0] == theirs[0, 0]:
            self._add_steps(np.concatenate([self.values[-1:], other.values[:1]]), int(theirs[0, 0]), theirs[0, 1:])
        self.moments = united(self.moments, other.moments)
        self.extremes = _extremes(self.extremes, other.extremes)
        self.counts = self.counts + other.counts
        self.squared_steps += other.squared_steps
        self.steps.merge(other.steps)
        if other.largest[1] >= 0 and (self.largest[1] < 0 or other.largest[0] > self.largest[0]):
            self.largest = other.largest + np.array([0, files, 0])
        if theirs.size:
            first = (self.ends[0], self.values[0]) if self.ends.size else (theirs[0], other.values[0])
            self.ends = np.stack([first[0], theirs[1]])
            self.values = np.array([first[1], other.values[1]], self.dtype)

    def state(self) -> dict[str, np.ndarray]:
        """All of it as arrays."""
        return {
            "moments": np.array(self.moments),
            "extremes": self.extremes,
            "counts": self.counts,
            "squared_steps": np.array(self.squared_steps),
            "largest": self.largest,
            "ends": self.ends,
            "values": self.values,
            **{f"steps/{name}": array for name, array in (self.steps.state() if self.dates else {}).items()},
        }

    @classmethod
    def of_state(cls, state: Mapping[str, np.ndarray]) -> Numbers:
        """The numbers that `state` was taken from."""
        one = cls(state["extremes"].dtype, "steps/numbers" in state)
        one.moments = Moments(*(float(value) for value in state["moments"]))
        one.squared_steps = float(state["squared_steps"])
        for name in ("extremes", "largest", "ends", "values"):
            setattr(one, name, state[name])
        one.counts = state["counts"].copy()
        if one.dates:
            one.steps = SampledCounts.of_state({key[6:]: a for key, a in state.items() if key.startswith("steps/")})
        return one


def _extremes(extremes: Num[np.ndarray, " k"], values: Num[np.ndarray, " n"]) -> Num[np.ndarray, " j"]:
    if not values.size:
        return extremes
    both = np.concatenate([extremes, np.array([values.min(), values.max()], extremes.dtype)])
    return np.array([both.min(), both.max()], extremes.dtype)
