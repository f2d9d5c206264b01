"""The figures of a column, from what was gathered of it. A figure that cannot be measured is nan."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int

from validation.diversity.hash_counts import SampledCounts, unmixed
from validation.profile.cells import cell_keys, seconds, string_keys
from validation.profile.column import Column
from validation.profile.state import Profile

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
RARE = 0.01
"""A value is rare that less than this share of the rows holds."""
FAR_OUT = 3.0
"""An outlier lies more than this many interquartile ranges outside the quartiles (Tukey's outer fence)."""
CATEGORY_VALUES = 50
SHOWN_VALUES = 20
NAN = float("nan")


class Distribution(NamedTuple):
    """Numbers of a column in order, and how many rows each stands for.

    Attributes:
      values: distinct numbers, ascending.
      mass: rows.
      exact: whether these are all rows; else ranks are wrong by about 1 / √(len(values)).
    """

    values: Float[np.ndarray, " n"]
    mass: Float[np.ndarray, " n"]
    exact: bool

    def quantile(self, share: float) -> float:
        """Smallest number that at least this share of the rows does not exceed."""
        if not self.values.size:
            return NAN
        below = np.cumsum(self.mass)
        place = np.searchsorted(below, share * below[-1] * (1 - 1e-12))
        return float(self.values[min(int(place), self.values.size - 1)])


class TopValue(NamedTuple):
    """A frequent value: what it is, how often it was counted, and by how much the count may be too low."""

    value: str | float | int | bool
    count: int  # pyright: ignore[reportIncompatibleMethodOverride]
    error: int


def distribution(profile: Profile, column: Column) -> Distribution:
    """The numbers of a column, lengths of lists, or sizes of text in bytes."""
    if column.text is not None:
        lengths = column.text.lengths
        return Distribution(lengths.keys.astype(np.float64), lengths.counts.astype(np.float64), True)
    if column.numbers is None:
        return Distribution(np.empty(0), np.empty(0), True)
    if column.leaf.kind == "list":
        known = profile.sample.column(column.leaf.name).drop_null().to_numpy()
        values, counts = np.unique(known, return_counts=True)
        exact = profile.rows == profile.sample.num_rows
        return Distribution(values.astype(np.float64), counts * profile.rows / max(profile.sample.num_rows, 1), exact)
    keys, counts, weights = column.values.kept()
    values = column.numbers_of(keys).astype(np.float64)
    finite = np.isfinite(values)
    values, mass = values[finite], (counts * weights)[finite]
    order = np.argsort(values, kind="stable")
    return Distribution(values[order], mass[order], column.values.share == 1)


def column_figures(profile: Profile, column: Column) -> dict[str, Any]:
    """All figures of a column by name, as JSON can hold them."""
    figures: dict[str, Any] = {
        "name": column.leaf.name,
        "type": column.leaf.type,
        "kind": column.leaf.kind,
        "rows": column.rows,
        "null_share": _share(column.nulls, column.rows),
        "values": value_figures(column.values),
        "top": [value._asdict() for value in top_values(profile, column)],
    }
    if column.numbers is not None:
        figures["numbers"] = number_figures(column, distribution(profile, column))
    if column.leaf.kind == "date":
        figures["dates"] = date_figures(column)
    if column.text is not None:
        text = column.text
        figures["text"] = vars(text.result()) | {"distinct_1": text.distinct(1), "distinct_3": text.distinct(3)}
    return figures


def value_figures(values: SampledCounts) -> dict[str, Any]:
    """How values are spread, whatever they are.

    Returns:
      distinct: number of distinct values, with `distinct_error` (one standard deviation, 0 where exact).
      entropy: bits; evenness: entropy / log2(distinct), 1 where all are equally frequent.
      gini: of the counts; 0 where all values are equally frequent.
      unseen: Good-Turing estimate of the probability that the next value is one not seen yet.
      rare_share: share of the rows whose value less than 1 % of the rows hold.
      repeated_share: share of the rows whose value came before.
    """
    distinct = values.distinct()
    entropy = values.entropy()
    sampled = values.sampled.keys.size
    return {
        "distinct": round(distinct),
        "distinct_error": 0.0
        if values.share == 1
        else sampled / values.share * math.sqrt((1 - values.share) / sampled),
        "entropy": entropy,
        "evenness": entropy / math.log2(distinct) if distinct > 1 else NAN,
        "gini": gini(*values.kept()[1:]),
        "unseen": _share(values.singletons(), values.total),
        "rare_share": rare_share(values),
        "repeated_share": max(0.0, 1 - distinct / values.total) if values.total else NAN,
    }


def gini(counts: Int[np.ndarray, " n"], weights: Float[np.ndarray, " n"]) -> float:
    """Gini coefficient of counts, each of which stands for `weights` values: 1 - 2 x area below the Lorenz curve."""
    if not counts.size:
        return NAN
    order = np.argsort(counts)
    people, mass = weights[order], (counts * weights)[order]
    wealth = np.concatenate([[0.0], np.cumsum(mass)])
    return float(1 - (people * (wealth[1:] + wealth[:-1])).sum() / (people.sum() * wealth[-1]))


def rare_share(values: SampledCounts) -> float:
    """Share of the rows whose value is held by less than `RARE` of them."""
    if not values.total:
        return NAN
    _, counts, weights = values.kept()
    rare = counts < RARE * values.total
    return min(1.0, float((counts * weights)[rare].sum()) / values.total)


def top_values(profile: Profile, column: Column, most: int = SHOWN_VALUES) -> list[TopValue]:
    """The most frequent values; of strings too many to name, those that the sample of rows names."""
    if column.values.share == 1:
        (keys, numbers, _), error = column.values.kept(), 0
    else:
        top = column.values.top
        keys, numbers, error = top.keys, top.counts, top.error
    order = np.lexsort((keys, -numbers))
    names = _names(profile, column)
    found = []
    for place in order[: 4 * most]:
        if len(found) == most or (error and numbers[place] <= error):
            break
        key = int(keys[place])
        if column.numbers is not None and column.leaf.kind != "list":
            value = column.numbers_of(keys[place : place + 1])[0].item()
            # JSON has no number for these.
            value = value if math.isfinite(value) else str(value)
            found.append(TopValue(value, int(numbers[place]), error))
        elif key in names:
            found.append(TopValue(names[key], int(numbers[place]), error))
    return found


def _names(profile: Profile, column: Column) -> dict[int, str]:
    if column.names is not None:
        return column.names
    if column.leaf.kind == "boolean":
        return {int(key): name for key, name in zip(_BOOLEANS, ("false", "true"), strict=True)}
    if column.leaf.kind not in ("category", "text"):
        return {}
    strings = profile.sample.column(column.leaf.name).drop_null().combine_chunks().unique()
    return dict(zip(string_keys(strings)[0].tolist(), strings.to_pylist(), strict=True))


def number_figures(column: Column, spread: Distribution) -> dict[str, Any]:
    """Moments, extremes, quantiles and steps of numbers (of lists: their lengths)."""
    numbers = column.numbers
    assert numbers is not None
    count, mean, second, third, fourth = numbers.moments
    variance = second / count if count else NAN
    quantiles = {f"{share:g}": spread.quantile(share) for share in QUANTILES}
    up, down, equal = (int(steps) for steps in numbers.counts[4:])
    steps = up + down + equal
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        root = np.sqrt(np.float64(variance))
        skewness = float(np.float64(third) / count / root**3) if variance > 0 else NAN
        kurtosis = float(np.float64(fourth) / count / np.float64(variance) ** 2) - 3 if variance > 0 else NAN
        neighbours = 1 - numbers.squared_steps / steps / (2 * variance) if steps and variance > 0 else NAN
    return {
        "count": int(count),
        "nan": int(numbers.counts[0]),
        "infinite": int(numbers.counts[1] + numbers.counts[2]),
        "zero_share": _share(int(numbers.counts[3]), count),
        "min": numbers.extremes[0].item() if count else NAN,
        "max": numbers.extremes[1].item() if count else NAN,
        "mean": mean if count else NAN,
        "standard_deviation": math.sqrt(second / (count - 1)) if count > 1 else NAN,
        "skewness": skewness,
        "excess_kurtosis": kurtosis,
        "quantiles": quantiles,
        "quantile_rank_error": 0.0 if spread.exact else 1 / math.sqrt(spread.values.size),
        "outlier_share": outlier_share(spread),
        "rising_share": _share(up, steps),
        "falling_share": _share(down, steps),
        "autocorrelation": neighbours,
        "few_integers": _few_integers(column),
    }


def outlier_share(spread: Distribution) -> float:
    """Share of the rows far outside the quartiles; where those are equal, outside the 5 and 95 % points instead."""
    if not spread.values.size:
        return NAN
    low, high = spread.quantile(0.25), spread.quantile(0.75)
    if high == low:
        low, high = spread.quantile(0.05), spread.quantile(0.95)
    reach = FAR_OUT * (high - low)
    outside = (spread.values < low - reach) | (spread.values > high + reach)
    return float(spread.mass[outside].sum() / spread.mass.sum())


def _few_integers(column: Column) -> bool:
    """Whether a column of integers is a category in disguise: few values, and each of many rows."""
    numbers = column.numbers
    assert numbers is not None
    distinct = column.values.distinct()
    integers = numbers.dtype.kind in "iu" and column.leaf.kind == "number"
    return integers and distinct <= CATEGORY_VALUES and distinct * 20 <= column.values.total


def date_figures(column: Column) -> dict[str, Any]:
    """Range, order and gaps of dates.

    Returns:
      first, last: earliest and latest, as ISO 8601.
      zone: time zone, empty without one.
      sorted_share: share of the steps from row to row that do not go back.
      usual_step: most frequent step forward, seconds; usual_step_share: how many steps forward have it.
      gaps: steps of more than 1.5 usual steps, where at least half of all steps are usual; nan elsewhere.
      largest_step: seconds, with the file and row it leads to.
    """
    numbers = column.numbers
    assert numbers is not None
    unit = seconds(column.leaf.type)
    keys, counts, weights = numbers.steps.kept()
    steps, mass = unmixed(keys).view(np.int64), counts * weights
    forward = steps > 0
    up, down, equal = (int(number) for number in numbers.counts[4:])
    usual, usual_mass = (0, 0.0)
    if forward.any():
        place = int(np.argmax(np.where(forward, mass, 0)))
        usual, usual_mass = int(steps[place]), float(mass[place])
    regular = usual > 0 and usual_mass * 2 >= up + down + equal
    return {
        "first": iso_time(numbers.extremes[0].item(), column.leaf.type) if numbers.extremes.size else None,
        "last": iso_time(numbers.extremes[1].item(), column.leaf.type) if numbers.extremes.size else None,
        "zone": column.leaf.zone,
        "sorted_share": 1 - _share(down, up + down + equal),
        "usual_step": usual * unit if usual else NAN,
        "usual_step_share": _share(usual_mass, up),
        "gaps": float(mass[steps > 1.5 * usual].sum()) if regular else NAN,
        "largest_step": float(numbers.largest[0] * unit) if numbers.largest[1] >= 0 else NAN,
        "largest_step_file": int(numbers.largest[1]),
        "largest_step_row": int(numbers.largest[2]),
    }


def iso_time(value: int, of_type: str) -> str:
    """A date of an Arrow type as ISO 8601, in UTC ("Z") where it has a zone; the number itself beyond the calendar."""
    zone = "Z" if ", tz=" in of_type else ""
    unit = "D" if of_type.startswith("date32") else "ms" if of_type.startswith("date64") else _unit(of_type)
    try:
        return str(np.array(int(value), np.int64).astype(f"datetime64[{unit}]")) + zone
    except (OverflowError, ValueError):
        return str(value)


def _unit(of_type: str) -> str:
    return next((unit for unit in ("ns", "us", "ms") if f"[{unit}" in of_type), "s")


def table_figures(profile: Profile) -> dict[str, Any]:
    """Figures of whole rows."""
    rows = profile.whole_rows
    return {
        "rows": profile.rows,
        "columns": len(profile.read),
        "duplicate_row_share": max(0.0, 1 - rows.distinct() / rows.total) if rows.total else NAN,
        "duplicate_rows_exact": rows.share == 1,
        "skipped_rows": profile.skipped,
    }


def _share(part: int | float, whole: int | float) -> float:
    return part / whole if whole else NAN


_BOOLEANS = cell_keys(pa.array([False, True])).tolist()
