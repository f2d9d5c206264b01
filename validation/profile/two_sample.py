"""Whether a classifier can tell the rows of two samples apart, and how well it should if they were the same.

Gradient-boosted trees are trained to say from which sample a row comes. The area under the ROC curve on rows left out
of training is 0.5 where nothing tells them apart. Halves of one sample, judged in the same way, say how far from 0.5
it lies by chance.

Source: Lopez-Paz and Oquab, "Revisiting classifier two-sample tests" (2017); interval of DeLong et al. (1988).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float

from validation.diversity.words import text_buffers, word_hashes
from validation.profile.cells import as_floats
from validation.profile.column import Column
from validation.profile.state import Profile

ROWS = 4_000
"""Most rows of each sample that are used."""
FOLDS = 3
HALVES = 3
"""Times the reference is split against itself."""
WORD_BINS = 64
_LEVELS = 30
_LEAST_ROWS = 50
_MARGIN = 0.02


class TwoSample(NamedTuple):
    """How well rows of two samples can be told apart.

    Attributes:
      auc: area under the ROC curve on rows not trained on; nan where there are too few rows.
      low, high: its 95 % interval.
      halves: the same for halves of the reference; what chance gives.
      separated: whether the interval lies above 0.52 and above the halves.
      rows: rows used of each sample.
      used: columns used; dates, identifiers and columns that only one side has tell nothing about the rest.
      left_out: columns not used.
    """

    auc: float
    low: float
    high: float
    halves: tuple[float, ...]
    separated: bool
    rows: int
    used: tuple[str, ...]
    left_out: tuple[str, ...]


def two_sample(data: Profile, reference: Profile, seed: int = 0, ignore: Collection[str] = ()) -> TwoSample:
    """Compares the samples of two profiles by the columns they share but for those to ignore."""
    names = [c.leaf.name for c in data.columns]
    theirs = {c.leaf.name: c for c in reference.columns}
    used = [
        (column, theirs[column.leaf.name])
        for column in data.columns
        if column.leaf.name in theirs.keys() - ignore and _tells(column) and _tells(theirs[column.leaf.name])
    ]
    used = [(mine, other) for mine, other in used if _alike(mine, other)]
    chosen = tuple(mine.leaf.name for mine, _ in used)
    left_out = tuple(name for name in names if name not in chosen)
    rows = min(data.sample.num_rows, reference.sample.num_rows, ROWS)
    if rows < _LEAST_ROWS or not used:
        nan = float("nan")
        return TwoSample(nan, nan, nan, (), False, rows, chosen, left_out)
    samples = [one.sample.slice(0, ROWS).select(list(chosen)) for one in (data, reference)]
    first = samples[0].num_rows
    together = pa.concat_tables(samples, promote_options="permissive")
    features, categorical = _features(together, [mine for mine, _ in used])
    labels = np.arange(len(features)) < first
    auc, low, high = _auc(features, labels, categorical, seed)
    own = features[first:]
    halves = []
    for split in range(HALVES):
        half = np.random.default_rng([seed, split]).permutation(len(own)) < len(own) // 2
        halves.append(_auc(own, half, categorical, seed)[0])
    separated = low > 0.5 + _MARGIN and low > max(halves)
    return TwoSample(auc, low, high, tuple(halves), separated, rows, chosen, left_out)


def _tells(column: Column) -> bool:
    """Whether a column says something about rows beside their place: no date, no identifier."""
    if column.leaf.kind in ("date", "other"):
        return False
    distinct = column.values.distinct() / max(column.values.total, 1)
    if column.leaf.kind == "category":
        return distinct < 0.5
    if column.numbers is not None and distinct > 0.95 and column.numbers.dtype.kind in "iu":
        up, down, equal = column.numbers.counts[4:]
        return bool(up < 0.99 * max(up + down + equal, 1))
    return True


def _alike(mine: Column, other: Column) -> bool:
    strings = ("category", "text")
    return mine.leaf.kind == other.leaf.kind or (mine.leaf.kind in strings and other.leaf.kind in strings)


def _features(table: pa.Table, columns: list[Column]) -> tuple[Float[np.ndarray, "n d"], list[int]]:
    """One row of numbers for each row, nan where nothing is, and which of them are categories."""
    features: list[np.ndarray] = []
    categorical = []
    for chunks, column in zip(table.columns, columns, strict=True):
        array = chunks.combine_chunks()
        if column.leaf.kind == "text":
            features += list(text_features(array).T)
        elif column.leaf.kind in ("category", "boolean"):
            categorical.append(len(features))
            features.append(_codes(array))
        else:
            features.append(as_floats(array))
    return np.clip(np.stack(features, axis=1), -1e300, 1e300), categorical


def _codes(array: pa.Array) -> Float[np.ndarray, " n"]:
    """Categories as numbers, the most frequent first; all rare ones are one, nulls are nan."""
    counts = array.drop_null().value_counts()
    values, frequency = counts.field(0), counts.field(1).to_numpy()
    order = np.lexsort((np.argsort(np.argsort(values.cast("string").to_pylist())), -frequency))[:_LEVELS]
    places = pc.call_function("index_in", [array], pc.SetLookupOptions(values.take(pa.array(order))))
    codes = places.fill_null(_LEVELS).to_numpy(zero_copy_only=False).astype(np.float64)
    codes[array.is_null().to_numpy(zero_copy_only=False)] = np.nan
    return codes


def text_features(array: pa.Array) -> Float[np.ndarray, "n d"]:
    """The share of a row's words in each of `WORD_BINS` bins of hashes, and its length (log of characters and words)."""
    words, lengths = word_hashes(*text_buffers(array))
    row = np.repeat(np.arange(len(array)), lengths)
    bins = (words % np.uint64(WORD_BINS)).astype(np.int64)
    counts = np.bincount(row * WORD_BINS + bins, minlength=len(array) * WORD_BINS).reshape(len(array), WORD_BINS)
    sizes = np.diff(text_buffers(array)[1])
    shares = counts / np.maximum(lengths, 1)[:, None]
    return np.concatenate([shares, np.log1p(sizes)[:, None], np.log1p(lengths)[:, None]], axis=1)


def _auc(
    features: Float[np.ndarray, "n d"], labels: Bool[np.ndarray, " n"], categorical: list[int], seed: int
) -> tuple[float, float, float]:
    """Area under the ROC curve of rows left out of training, with its 95 % interval."""
    from scipy import stats
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.model_selection import StratifiedKFold
    from threadpoolctl import threadpool_limits

    positive, negative = np.zeros(len(labels)), np.zeros(len(labels))
    scores = np.zeros(len(labels))
    usable = [place for place in range(features.shape[1]) if not np.isnan(features[:, place]).all()]
    if not usable:
        return 0.5, 0.5, 0.5  # no value at all to tell rows apart by
    features, categorical = features[:, usable], [usable.index(place) for place in categorical if place in usable]
    model = HistGradientBoostingClassifier(max_iter=60, learning_rate=0.1, max_leaf_nodes=15, random_state=seed)
    model.set_params(categorical_features=categorical or None)
    with threadpool_limits(
        1
    ):  # thousands of rows are too few to share, and busy cores make threads wait for each other
        for train, test in StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(features, labels):
            model.fit(features[train], labels[train])
            # Models of different folds are on different scales, so areas are taken within folds.
            scores[test] = model.decision_function(features[test])
            _placements(scores, labels, test, positive, negative)
    above, below = positive[labels], negative[~labels]
    auc = float(above.mean())
    error = float(np.sqrt(above.var(ddof=1) / above.size + below.var(ddof=1) / below.size))
    reach = float(stats.norm.ppf(0.975)) * error
    return auc, auc - reach, auc + reach


def _placements(
    scores: Float[np.ndarray, " n"],
    labels: Bool[np.ndarray, " n"],
    test: np.ndarray,
    positive: Float[np.ndarray, " n"],
    negative: Float[np.ndarray, " n"],
) -> None:
    """For each row of a fold, the share of the other class's rows that its score is on the right side of."""
    here = scores[test]
    ones, zeros = np.sort(here[labels[test]]), np.sort(here[~labels[test]])
    for target, others, sign in ((positive, zeros, 1), (negative, ones, -1)):
        below = (np.searchsorted(others, here, "left") + np.searchsorted(others, here, "right")) / 2 / others.size
        target[test] = below if sign == 1 else 1 - below
