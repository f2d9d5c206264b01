"""What changes along a file: sums over runs of rows that grow coarser as rows come, and merge exactly.

A segment is the rows of one file whose number, less one, begins with the same bits. While there are more than `LIMIT`
segments their width doubles; once each file is one segment, neighbouring files are put together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Num, UInt64

LIMIT = 256
FINEST = 6
"""Base-two logarithm of the least rows of a segment."""
BINS = 16
_WAITING = 4 * LIMIT


class Sums(NamedTuple):
    """One column over s segments.

    Attributes:
      moments: (s, 3) count, mean and sum of squared distances of numbers, or of the lengths of text.
      bins: (s, BINS) values, or words of text, by the first bits of their hash.
      missing: (s,) nulls and numbers that are not finite.
    """

    moments: Float[np.ndarray, "s 3"]
    bins: Float[np.ndarray, "s bins"]
    missing: Float[np.ndarray, " s"]


def no_sums(segments: int) -> Sums:
    """Sums of a column that is not followed along the file."""
    return Sums(np.zeros((segments, 3)), np.zeros((segments, BINS)), np.zeros(segments))


def moments_by(
    segment: Int[np.ndarray, " n"], values: Num[np.ndarray, " n"], segments: int
) -> Float[np.ndarray, "s 3"]:
    """Moments of numbers by their segment."""
    count = np.bincount(segment, minlength=segments).astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        mean = np.bincount(segment, weights=values, minlength=segments) / np.maximum(count, 1)
        away = values - mean[segment]
        return np.stack([count, mean, np.bincount(segment, weights=away * away, minlength=segments)], axis=1)


def bins_by(
    segment: Int[np.ndarray, " n"], keys: UInt64[np.ndarray, " n"], segments: int
) -> Float[np.ndarray, "s bins"]:
    """How many hashes fall into each bin, by their segment."""
    bins = (keys >> np.uint64(60)).astype(np.int64)
    flat = np.bincount(segment * BINS + bins, minlength=segments * BINS)
    return flat.reshape(segments, BINS).astype(np.float64)


class Segments:
    """Sums of all columns by segment.

    Attributes:
      shift: base-two logarithm of the rows of a segment.
      files_shift: base-two logarithm of the files of a segment.
      place: (s, 2) file and number of each segment, both in units of segments.
      rows: (s, 3) rows read, first and last of them; over several files these are rows of the first and last file.
      columns: sums of each column.
    """

    def __init__(self, columns: int) -> None:
        self.shift = FINEST
        self.files_shift = 0
        self.place = np.empty((0, 2), np.int64)
        self.rows = np.empty((0, 3), np.int64)
        self.columns = [no_sums(0) for _ in range(columns)]
        self._waiting: list[tuple[np.ndarray, np.ndarray, list[Sums]]] = []

    def split(self, row: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        """Number of the segment within the chunk, for each of its rows, which belong to one file and are in order."""
        blocks = (row - 1) >> self.shift
        return np.cumsum(np.diff(blocks, prepend=blocks[:1]) != 0)

    def add(self, file: int, row: Int[np.ndarray, " n"], segment: Int[np.ndarray, " n"], columns: list[Sums]) -> None:
        """Adds the sums of a chunk over what `split` made of its rows."""
        starts = np.flatnonzero(np.diff(segment, prepend=-1))
        ends = np.append(starts[1:], row.size) - 1
        blocks = (row[starts] - 1) >> self.shift
        place = np.stack([np.full(starts.size, file >> self.files_shift), blocks], axis=1)
        if self.files_shift:
            place[:, 1] = 0
        self._waiting.append((place, np.stack([ends - starts + 1, row[starts], row[ends]], axis=1), columns))
        if sum(part[0].shape[0] for part in self._waiting) > _WAITING:
            self._settle()

    def settled(self) -> Segments:
        """These, with everything that was added in its segment."""
        if self._waiting:
            self._settle()
        return self

    def merge(self, other: Segments, files: int) -> None:
        """Adds segments of rows that come after these; `files` is added to the other's file indices."""
        self.settled()
        other.settled()
        while self.shift < other.shift:
            self._coarsen_rows()
        while self.files_shift < other.files_shift:
            self._coarsen_files()
        place = other.place.copy()
        place[:, 1] >>= self.shift - other.shift
        place[:, 0] = ((place[:, 0] << other.files_shift) + files) >> self.files_shift
        if self.files_shift:
            place[:, 1] = 0
        self._waiting.append((place, other.rows, other.columns))
        self._settle()

    def _coarsen_rows(self) -> None:
        self.shift += 1
        self.place = self.place >> [0, 1]

    def _coarsen_files(self) -> None:
        self.files_shift += 1
        self.place = np.stack([self.place[:, 0] >> 1, np.zeros_like(self.place[:, 1])], axis=1)

    def _settle(self) -> None:
        parts = [(self.place, self.rows, self.columns), *self._waiting]
        self._waiting = []
        self.place = np.concatenate([part[0] for part in parts])
        while len(np.unique(self.place, axis=0)) > LIMIT:
            if self.place[:, 1].any():
                self._coarsen_rows()
            else:
                self._coarsen_files()
        order = np.lexsort(self.place.T[::-1])
        self.place = self.place[order]
        starts = np.flatnonzero(np.concatenate([[True], np.any(np.diff(self.place, axis=0) != 0, axis=1)]))
        rows = np.concatenate([part[1] for part in parts])[order]
        last = np.append(starts[1:], len(order)) - 1
        self.rows = np.stack([np.add.reduceat(rows[:, 0], starts), rows[starts, 1], rows[last, 2]], axis=1)
        self.place = self.place[starts]
        self.columns = [
            _grouped([part[2][column] for part in parts], order, starts) for column in range(len(self.columns))
        ]

    def state(self) -> dict[str, np.ndarray]:
        """All of it as arrays."""
        self.settled()
        return {
            "shifts": np.array([self.shift, self.files_shift]),
            "place": self.place,
            "rows": self.rows,
            "moments": np.stack([column.moments for column in self.columns]),
            "bins": np.stack([column.bins for column in self.columns]),
            "missing": np.stack([column.missing for column in self.columns]),
        }

    @classmethod
    def of_state(cls, state: Mapping[str, np.ndarray]) -> Segments:
        """The segments that `state` was taken from."""
        one = cls(0)
        one.shift, one.files_shift = (int(shift) for shift in state["shifts"])
        one.place, one.rows = state["place"], state["rows"]
        one.columns = [Sums(*c) for c in zip(state["moments"], state["bins"], state["missing"], strict=True)]
        return one


def _grouped(parts: Sequence[Sums], order: Int[np.ndarray, " n"], starts: Int[np.ndarray, " s"]) -> Sums:
    """Sums of runs of segments; `order` brings segments of a run together, `starts` says where runs begin."""
    moments, bins, missing = (np.concatenate([part[i] for part in parts])[order] for i in range(3))
    count = np.add.reduceat(moments[:, 0], starts)
    with np.errstate(over="ignore", invalid="ignore"):
        mean = np.add.reduceat(moments[:, 0] * moments[:, 1], starts) / np.maximum(count, 1)
        away = moments[:, 1] - np.repeat(mean, np.diff(starts, append=len(order)))
        second = np.add.reduceat(moments[:, 2] + moments[:, 0] * away * away, starts)
    return Sums(
        np.stack([count, mean, second], axis=1), np.add.reduceat(bins, starts, axis=0), np.add.reduceat(missing, starts)
    )
