"""Tables and series of the development data, whose folder the environment variable ATLAS_DEV_DATA names."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from datetime import datetime

import numpy as np
from jaxtyping import Float

from validation.bench.corpora.corpus import Corpus, series_rows, table_rows
from validation.bench.corpora.development import data_file
from validation.bench.rows import Rows


def _records(path: str) -> Iterator[dict[str, str]]:
    with data_file(path).open(encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file)


def _columns(path: str, names: str) -> Rows:
    """Some columns of a table, in this order."""
    columns = names.split()
    return table_rows(columns, ([record[column] for column in columns] for record in _records(path)))


def _adult() -> Rows:
    """Without the census weight, which is a number of a record."""
    return _columns(
        "tab_adult_real_vs_ctabgan/real.csv",
        "age workclass education marital-status occupation relationship race gender capital-gain capital-loss"
        " hours-per-week native-country income",
    )


def _diamonds() -> Rows:
    return _columns("tab_seaborn/diamonds.csv", "carat cut color clarity depth table price x y z")


def _taxis() -> Rows:
    """Times as day of the week, hour, and minutes of the ride."""
    kept = ("passengers", "distance", "fare", "tip", "tolls", "total", "color", "payment")
    kept += ("pickup_zone", "dropoff_zone", "pickup_borough", "dropoff_borough")

    def records() -> Iterator[list[object]]:
        for record in _records("tab_seaborn/taxis.csv"):
            start, end = (datetime.fromisoformat(record[time]) for time in ("pickup", "dropoff"))
            minutes = round((end - start).total_seconds() / 60)
            yield [start.strftime("%a"), start.hour, minutes, *(record[column] for column in kept)]

    return table_rows(("day", "hour", "minutes", *kept), records())


def _beers() -> Rows:
    return _columns("bad_raha_beers/clean.csv", "beer-name style ounces abv ibu brewery-name city state")


def _hospital() -> Rows:
    """Without numbers of records, telephones, and columns that are alike in all records."""
    return _columns(
        "bad_raha_hospital/clean.csv",
        "HospitalName Address1 City State CountyName HospitalOwner EmergencyService Condition MeasureCode MeasureName"
        " Score Sample",
    )


def _floats(path: str, column: str) -> Float[np.ndarray, " t"]:
    return np.array([float(record[column]) for record in _records(path)])


def _etth1() -> Rows:
    """Load and oil temperature of a transformer, hourly: one channel after another."""
    channels = ("HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT")
    return series_rows(_floats("ts_etth1/ETTh1.csv", channel) for channel in channels)


def _cloud() -> Rows:
    """Use of servers every five minutes: one after another."""
    folder = data_file("ts_nab/windows.json").parent
    paths = sorted((folder / "realAWSCloudwatch").glob("*.csv"))
    return series_rows(_floats(str(path.relative_to(folder.parent)), "value") for path in paths)


def _table(name: str, licence: str, reader: Callable[[], Rows], label: str) -> Corpus:
    return Corpus(name, "table", licence, "development data", reader, label)


CORPORA: tuple[Corpus, ...] = (
    _table("adult", "CC BY 4.0 (UCI Adult)", _adult, "income"),
    _table("diamonds", "none stated (seaborn-data)", _diamonds, "cut"),
    _table("taxis", "NYC TLC open data (seaborn-data)", _taxis, "payment"),
    _table("beers", "Apache-2.0 (Raha)", _beers, "ounces"),
    _table("hospital", "Apache-2.0 (Raha)", _hospital, "Condition"),
    Corpus("etth1", "series", "CC BY-ND 4.0 (ETT)", "development data", _etth1),
    Corpus("nab-aws", "series", "MIT (Numenta Anomaly Benchmark)", "development data", _cloud),
)
