"""Time series that forecasts and anomaly scores are measured on."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

MONTH = 30 * 24  # hours, as the protocol counts them
PROBATION = 0.15  # of a series, from its start: what a detector may learn from, before anything is scored


class Split(NamedTuple):
    """A series of c channels in three parts, in standard deviations of the training part.

    The second and the third start `look_back` time steps early, so that their first window foretells their first value.
    """

    train: Float[np.ndarray, "t c"]
    validation: Float[np.ndarray, "t2 c"]
    test: Float[np.ndarray, "t3 c"]


def read_etth1(data: Path, look_back: int) -> Split:
    """ETTh1, seven hourly channels: 12 months to train on, 4 to tune on, 4 to report on.

    Raises:
      FileNotFoundError: the file is not there.

    Source: Zhou et al. 2021, Informer, arXiv:2012.07436; the split that all papers after it use.
    """
    with (data / "ts_etth1" / "ETTh1.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))[1:]
    values = np.array([[float(value) for value in row[1:]] for row in rows])
    train = values[: 12 * MONTH]
    values = ((values - train.mean(axis=0)) / train.std(axis=0)).astype(np.float32)
    first, second, end = 12 * MONTH, 16 * MONTH, 20 * MONTH
    return Split(values[:first], values[first - look_back : second], values[second - look_back : end])


class Labelled(NamedTuple):
    """A series with its anomalies.

    Attributes:
      name: folder and file.
      values: as they were measured.
      anomalous: where a labelled window lies.
      windows: how many of them there are.
      start: the first time step that is scored.
    """

    name: str
    values: Float[np.ndarray, " t"]
    anomalous: Bool[np.ndarray, " t"]
    windows: int
    start: int


def read_nab(data: Path) -> list[Labelled]:
    """The labelled series of the Numenta Anomaly Benchmark in a folder, those without an anomaly too.

    Raises:
      FileNotFoundError: the labels or one of the series are not there.

    Source: Lavin and Ahmad 2015, arXiv:1510.03336; windows and probationary share are theirs.
    """
    folder, found = data / "ts_nab", []
    labels: dict[str, list[list[str]]] = json.loads((folder / "windows.json").read_text(encoding="utf-8"))
    for name, windows in sorted(labels.items()):
        with (folder / name).open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        times, values = [row["timestamp"] for row in rows], np.array([float(row["value"]) for row in rows])
        anomalous = np.zeros(len(rows), bool)
        for first, last in windows:
            anomalous |= np.array([first[: len(time)] <= time <= last[: len(time)] for time in times])
        found.append(Labelled(name, values, anomalous, len(windows), int(PROBATION * len(rows))))
    return found
