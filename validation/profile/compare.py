"""A profile against a reference: what changed in each column, and whether rows as a whole can be told apart.

Every column is tested on the samples of rows; p-values are corrected together by Benjamini and Hochberg's procedure.
A difference counts if it is certain, larger than what random halves of the reference differ by, and no trifle.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from jaxtyping import Float

from validation.profile.cells import as_floats, cell_keys
from validation.profile.column import Column
from validation.profile.figures import NAN
from validation.profile.state import Profile
from validation.profile.two_sample import TwoSample, text_features, two_sample

LEVEL = 0.01
LEAST_EFFECT = 0.03
SPLITS = 20
PERMUTATIONS = 499
LISTED = 20

Status = Literal["same", "changed", "new", "missing", "type changed", "not compared", "ignored"]


@dataclass(frozen=True)
class ColumnComparison:
    """One column in both tables.

    Attributes:
      name: the column.
      kind: what it holds in the data (in the reference, where the data lacks it).
      status: "same" or "changed"; "new" and "missing" where only the data or only the reference has it.
      measure: "KS distance" of numbers, dates and lengths, "total variation" of the words of text and of all other values.
      effect: 0 (equal) to 1 (nothing in common).
      chance: largest effect between random halves of the reference.
      p: probability of such a difference between samples of one table, corrected for all columns.
      null_share, reference_null_share: share of nulls.
      new_values, missing_values: categories that only one side has, the most frequent first, `LISTED` at most; notes count all.
      notes: what else is different.
    """

    name: str
    kind: str
    status: Status
    measure: str = ""
    effect: float = NAN
    chance: float = NAN
    p: float = NAN
    null_share: float = NAN
    reference_null_share: float = NAN
    new_values: tuple[str, ...] = ()
    missing_values: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """A table against its reference.

    Attributes:
      path, reference: what was compared.
      rows, reference_rows: rows of each.
      columns: all columns of both.
      overall: the classifier's answer.
      features: named figures of both, as (data, reference).
    """

    path: str
    reference: str
    rows: int
    reference_rows: int
    columns: tuple[ColumnComparison, ...]
    overall: TwoSample
    features: dict[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def changed(self) -> tuple[ColumnComparison, ...]:
        """Columns that are not the same."""
        return tuple(column for column in self.columns if column.status not in ("same", "not compared", "ignored"))

    @property
    def drifted(self) -> bool:
        """Whether any column changed, or rows can be told apart."""
        return bool(self.changed) or self.overall.separated

    def as_dict(self) -> dict[str, Any]:
        """All of it, as JSON can hold it."""
        return asdict(self) | {"overall": self.overall._asdict(), "drifted": self.drifted}


def compare(data: Profile, reference: Profile, seed: int = 0, ignore: Collection[str] = ()) -> Comparison:
    """Compares a table with a reference by their profiles alone.

    Args:
      data: the table in question.
      reference: what it should be like.
      seed: decides the halves and permutations.
      ignore: columns that may differ, such as dates and numbers that go on from one delivery to the next.

    Raises:
      ValueError: neither has a column that is to be ignored.
    """
    from scipy import stats

    from validation.profile.features import features

    theirs = {column.leaf.name: column for column in reference.columns}
    names = {column.leaf.name for column in data.columns}
    for name in ignore:
        if name not in names | theirs.keys():
            raise ValueError(f"ignore: neither {data.source['path']} nor the reference has a column {name!r}")
    found = [
        ColumnComparison(column.leaf.name, column.leaf.kind, "ignored")
        if column.leaf.name in ignore
        else _column(data, reference, column, theirs[column.leaf.name], seed)
        if column.leaf.name in theirs
        else ColumnComparison(column.leaf.name, column.leaf.kind, "new")
        for column in data.columns
    ]
    gone = [(name, column.leaf.kind) for name, column in theirs.items() if name not in names]
    found += [ColumnComparison(name, kind, "ignored" if name in ignore else "missing") for name, kind in gone]
    tested = [place for place, one in enumerate(found) if np.isfinite(one.p)]
    if tested:
        for place, p in zip(tested, stats.false_discovery_control([found[i].p for i in tested]), strict=True):
            found[place] = _judged(replace(found[place], p=float(p)))
    mine, other = features(data), features(reference)
    return Comparison(
        data.source["path"],
        reference.source["path"],
        data.rows,
        reference.rows,
        tuple(found),
        two_sample(data, reference, seed, ignore),
        {name: (mine[name], other[name]) for name in mine},
    )


def _judged(one: ColumnComparison) -> ColumnComparison:
    if one.status != "same":
        return one
    certain = one.p <= LEVEL and one.effect >= LEAST_EFFECT and one.effect > one.chance
    return replace(one, status="changed") if certain else one


def _column(data: Profile, reference: Profile, mine: Column, other: Column, seed: int) -> ColumnComparison:
    name, kind = mine.leaf.name, mine.leaf.kind
    nulls, their_nulls = (c.nulls / max(c.rows, 1) for c in (mine, other))
    strings = ("category", "text")
    same_kind = kind == other.leaf.kind or (kind in strings and other.leaf.kind in strings)
    one = ColumnComparison(name, kind, "same", null_share=nulls, reference_null_share=their_nulls)
    if not same_kind:
        words = f"{other.leaf.type} ({other.leaf.kind}) in the reference, {mine.leaf.type} ({kind}) here"
        return replace(one, status="type changed", notes=(words,))
    arrays = [
        side.sample.column(name).combine_chunks() for side in (data, reference) if name in side.sample.schema.names
    ]
    if len(arrays) < 2 or min(len(array) for array in arrays) < 2:
        return replace(one, status="not compared", notes=("values of this type are not sampled",))
    if kind == "other" and arrays[0].type != arrays[1].type:
        return replace(
            one, status="not compared", notes=(f"{other.leaf.type} in the reference, {mine.leaf.type} here",)
        )
    one = replace(one, **_measured(arrays[0], arrays[1], kind, seed))
    if kind in ("category", "boolean"):
        one = _categories(one, mine, other)
    return _with_nulls(one, arrays, mine.leaf.zone, other.leaf.zone)


def _with_nulls(one: ColumnComparison, arrays: list[pa.Array], zone: str, their_zone: str) -> ColumnComparison:
    """A change in nulls is a change, too: the smaller p-value of two, doubled."""
    from scipy import stats

    here, there = (array.null_count for array in arrays)
    notes = [f"time zone {zone or 'none'}, {their_zone or 'none'} in the reference"] if zone != their_zone else []
    if here + there and here + there < len(arrays[0]) + len(arrays[1]):
        table = np.array([[here, len(arrays[0]) - here], [there, len(arrays[1]) - there]])
        p = float(np.asarray(stats.fisher_exact(table)[1]))
        apart = abs(one.null_share - one.reference_null_share)
        if p * 2 <= LEVEL and apart >= LEAST_EFFECT:
            notes.append(f"nulls {one.null_share:.1%}, {one.reference_null_share:.1%} in the reference")
        if not np.isfinite(one.p) or (p < one.p and apart > one.effect):
            one = replace(one, measure="share of nulls", effect=apart, chance=0.0, p=min(1.0, 2 * p))
        else:
            one = replace(one, p=min(1.0, 2 * one.p))
    return replace(one, notes=(*one.notes, *notes))


def _measured(mine: pa.Array, other: pa.Array, kind: str, seed: int) -> dict[str, Any]:
    """Effect, chance and p-value of one column from the two samples."""

    mine, other = mine.drop_null(), other.drop_null()
    if len(mine) < 2 or len(other) < 2:
        return {}
    rng = np.random.default_rng(seed)
    if kind == "text":
        return _words(text_features(mine), text_features(other), rng)
    if kind in ("category", "boolean", "other"):
        kept = [side if kind == "other" else side.cast("large_string") for side in (mine, other)]
        codes = np.unique(np.concatenate([cell_keys(side) for side in kept]), return_inverse=True)[1]
        a, b = codes[: len(mine)], codes[len(mine) :]
        levels = int(codes.max()) + 1

        def variation(x: np.ndarray, y: np.ndarray) -> float:
            shares = [np.bincount(side, minlength=levels) / side.size for side in (x, y)]
            return float(np.abs(shares[0] - shares[1]).sum() / 2)

        p = _chi_square(np.stack([np.bincount(side, minlength=levels) for side in (a, b)]))
        return {"measure": "total variation", "effect": variation(a, b), "chance": _halves(b, variation, rng), "p": p}
    a, b = (_numbers(side) for side in (mine, other))
    if min(a.size, b.size) < 2:
        return {}
    effect, p = _kolmogorov_smirnov(a, b)
    chance = _halves(b, lambda x, y: float(_distance(x, y)), rng)
    return {"measure": "KS distance", "effect": effect, "chance": chance, "p": p}


def _numbers(array: pa.Array) -> Float[np.ndarray, " n"]:
    values = as_floats(array)
    return values[np.isfinite(values)]


def _kolmogorov_smirnov(a: Float[np.ndarray, " n"], b: Float[np.ndarray, " m"]) -> tuple[float, float]:
    """Distance and p-value; the asymptotic one is quick at any size, and ties make it err on the safe side."""
    from scipy import stats

    statistic, p = (float(np.asarray(one)) for one in stats.ks_2samp(a, b, method="asymp"))
    return statistic, p


def _distance(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " m"]) -> float:
    both = np.concatenate([x, y])
    x, y = np.sort(x), np.sort(y)
    return float(np.abs(np.searchsorted(x, both, "right") / x.size - np.searchsorted(y, both, "right") / y.size).max())


def _halves(values: np.ndarray, effect: Callable[[np.ndarray, np.ndarray], float], rng: np.random.Generator) -> float:
    """Largest effect between random halves of the reference."""
    largest = 0.0
    for _ in range(SPLITS):
        order = rng.permutation(len(values))
        middle = len(values) // 2
        largest = max(largest, effect(values[order[:middle]], values[order[middle:]]))
    return largest


def _chi_square(table: np.ndarray) -> float:
    """p-value of equal shares; categories of fewer than ten rows are put together."""
    from scipy import stats

    rare = table.sum(axis=0) < 10
    pooled = np.concatenate([table[:, ~rare], table[:, rare].sum(axis=1, keepdims=True)], axis=1)
    pooled = pooled[:, pooled.sum(axis=0) > 0]
    return float(np.asarray(stats.chi2_contingency(pooled)[1])) if pooled.shape[1] > 1 else 1.0


def _words(a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "m d"], rng: np.random.Generator) -> dict[str, Any]:
    """Total variation of the words of text, by permuting whole rows.

    Where no permutation reaches the effect, p is the tail of the Pearson III distribution of their moments: counted, it
    could not be small enough to outlast the correction for other columns.

    Source: Winkler et al., "Faster permutation inference in brain imaging" (2016), section "Gamma approximation".
    """
    from scipy import stats

    rows = np.concatenate([a, b])[:, :-2]

    def variation(x: np.ndarray, y: np.ndarray) -> float:
        return float(np.abs(x.mean(axis=0) - y.mean(axis=0)).sum() / 2)

    effect, total = variation(a[:, :-2], b[:, :-2]), rows.sum(axis=0)
    permuted = np.empty(PERMUTATIONS)
    for turn in range(PERMUTATIONS):
        chosen = rows[rng.permutation(len(rows))[: len(a)]].sum(axis=0)
        permuted[turn] = np.abs(chosen / len(a) - (total - chosen) / len(b)).sum() / 2
    least = int((permuted >= effect).sum())
    p = (1 + least) / (1 + PERMUTATIONS)
    if not least and np.ptp(permuted) > 0:
        tail = stats.pearson3.sf(effect, stats.skew(permuted), permuted.mean(), permuted.std(ddof=1))
        p = min(p, float(tail))
    of_lengths, p_of_lengths = _kolmogorov_smirnov(a[:, -2], b[:, -2])
    notes = (f"KS distance of lengths {of_lengths:.3f}",) if p_of_lengths <= LEVEL else ()
    if p_of_lengths < p and of_lengths > effect:
        chance = _halves(b[:, -2], _distance, rng)
        effect, p, measure = of_lengths, p_of_lengths, "KS distance of lengths"
    else:
        chance, measure = _halves(b[:, :-2], variation, rng), "total variation of words"
    return {"measure": measure, "effect": effect, "chance": chance, "p": min(1.0, 2 * p), "notes": notes}


def _categories(one: ColumnComparison, mine: Column, other: Column) -> ColumnComparison:
    """New and missing categories, where all are known by name."""
    if mine.names is None or other.names is None:
        return one
    sides = []
    for has, lacks in ((mine, other), (other, mine)):
        assert has.names is not None
        assert lacks.names is not None
        keys, counts, _ = has.values.kept()
        order = np.argsort(-counts, kind="stable")
        names = [has.names[int(key)] for key in keys[order] if int(key) not in lacks.names and int(key) in has.names]
        sides.append(names)
    new, missing = sides
    told = ((len(new), "new value", "new values"), (len(missing), "value gone", "values gone"))
    notes = tuple(f"{count:,} {single if count == 1 else plural}" for count, single, plural in told if count)
    listed = {"new_values": tuple(new[:LISTED]), "missing_values": tuple(missing[:LISTED])}
    return replace(one, **listed, notes=(*one.notes, *notes))
