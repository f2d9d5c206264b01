"""Named figures that do not grow with the table: what a library of signatures compares datasets by.

Every profile has all of them; one that cannot be measured is nan. Figures of columns are means over the columns they
can be measured on. Text is measured on a fixed number of words of the sample of rows, since entropy, unseen words and
distinct pairs all depend on how much was read.
"""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Iterable

import numpy as np
import pyarrow as pa

from validation.diversity.hash_counts import HashCounts, entropy, hash_ngrams
from validation.diversity.words import text_buffers, word_hashes
from validation.profile.column import Column
from validation.profile.dependence import pairs
from validation.profile.drift import changes
from validation.profile.figures import NAN, date_figures, distribution, number_figures, value_figures
from validation.profile.geometry import spread
from validation.profile.state import Profile

TEXT_WORDS = 20_000
TEXT_BYTES = 100_000

NAMES = (
    "duplicate_row_share",
    "null_share",
    "number_column_share",
    "category_column_share",
    "text_column_share",
    "date_column_share",
    "value_evenness",
    "value_rare_share",
    "value_unseen",
    "value_repeated_share",
    "category_evenness",
    "category_gini",
    "category_rare_share",
    "number_outlier_share",
    "number_zero_share",
    "number_non_finite_share",
    "number_skewness",
    "number_kurtosis",
    "number_autocorrelation",
    "number_repeated_share",
    "number_few_integers_share",
    "dependence_mean",
    "dependence_max",
    "dependent_pair_share",
    "drift_mean",
    "drift_spread",
    "drift_values",
    "drift_missing",
    "drift_length",
    "drift_words",
    "row_effective_rank_share",
    "row_vendi_share",
    "date_sorted_share",
    "date_gap_share",
    "date_usual_step_share",
    "text_duplicate_share",
    "text_empty_share",
    "text_length_log2_median",
    "text_length_log2_spread",
    "text_word_entropy",
    "text_bigram_conditional_entropy",
    "text_unseen",
    "text_distinct_1",
    "text_distinct_2",
    "text_distinct_3",
    "text_repeated_8grams",
    "text_zipf_slope",
    "text_tail_share",
    "text_compression_ratio",
)
"""All names, in order; their meaning is in docs/profile.md."""


def features(profile: Profile) -> dict[str, float]:
    """The figures of `NAMES`."""
    found = dict.fromkeys(NAMES, NAN)
    found |= _tables(profile)
    found |= _numbers(profile)
    found |= _dependence(profile)
    found |= _rows(profile)
    found |= _dates(profile)
    found |= _texts(profile)
    assert tuple(found) == NAMES
    return {name: float(value) for name, value in found.items()}


def main_text(profile: Profile) -> Column | None:
    """The rendered text, else the column of text with the most bytes."""
    if profile.rendered is not None:
        return profile.rendered
    texts = [column for column in profile.columns if column.text is not None]
    return max(texts, key=lambda column: column.text.bytes if column.text else 0, default=None)


def _mean(values: Iterable[float]) -> float:
    known = [value for value in values if math.isfinite(value)]
    return sum(known) / len(known) if known else NAN


def _tables(profile: Profile) -> dict[str, float]:
    columns = profile.read
    kinds = [column.leaf.kind for column in columns]
    values = [value_figures(c.values) for c in columns if c.leaf.kind not in ("date", "text", "other")]
    categories = [value_figures(c.values) for c in columns if c.leaf.kind in ("category", "boolean")]
    rows = profile.whole_rows
    return {
        "duplicate_row_share": max(0.0, 1 - rows.distinct() / rows.total) if rows.total else NAN,
        "null_share": _mean(c.nulls / c.rows for c in columns if c.rows),
        "number_column_share": kinds.count("number") / len(kinds) if kinds else NAN,
        "category_column_share": (kinds.count("category") + kinds.count("boolean")) / len(kinds) if kinds else NAN,
        "text_column_share": kinds.count("text") / len(kinds) if kinds else NAN,
        "date_column_share": kinds.count("date") / len(kinds) if kinds else NAN,
        "value_evenness": _mean(v["evenness"] for v in values),
        "value_rare_share": _mean(v["rare_share"] for v in values),
        "value_unseen": _mean(v["unseen"] for v in values),
        "value_repeated_share": _mean(v["repeated_share"] for v in values),
        "category_evenness": _mean(v["evenness"] for v in categories),
        "category_gini": _mean(v["gini"] for v in categories),
        "category_rare_share": _mean(v["rare_share"] for v in categories),
    }


def _numbers(profile: Profile) -> dict[str, float]:
    columns = [c for c in profile.columns if c.leaf.kind == "number" and c.numbers is not None and c.values.total]
    figures = [number_figures(column, distribution(profile, column)) for column in columns]
    return {
        "number_outlier_share": _mean(f["outlier_share"] for f in figures),
        "number_zero_share": _mean(f["zero_share"] for f in figures),
        "number_non_finite_share": _mean(
            (f["nan"] + f["infinite"]) / c.values.total for f, c in zip(figures, columns, strict=True)
        ),
        # A logarithm, since one wild column would be all there is to see.
        "number_skewness": _mean(math.asinh(abs(f["skewness"])) for f in figures),
        "number_kurtosis": _mean(math.asinh(f["excess_kurtosis"]) for f in figures),
        "number_autocorrelation": _mean(f["autocorrelation"] for f in figures),
        "number_repeated_share": _mean(value_figures(c.values)["repeated_share"] for c in columns),
        "number_few_integers_share": _mean(float(f["few_integers"]) for f in figures),
    }


def _dependence(profile: Profile) -> dict[str, float]:
    found = [pair for pair in pairs(profile) if pair.measure != "missing together"]
    usable = sum(column.leaf.kind in ("number", "category", "boolean", "list") for column in profile.columns)
    possible = usable * (usable - 1) / 2
    strongest: dict[str, float] = {
        f"drift_{aspect}": 0.0 if len(profile.segments.settled().place) >= 8 else NAN
        for aspect in ("mean", "spread", "values", "missing", "length", "words")
    }
    for change in changes(profile):
        strongest[f"drift_{change.aspect}"] = max(strongest[f"drift_{change.aspect}"], change.effect)
    return {
        "dependence_mean": sum(pair.strength for pair in found) / possible if possible else NAN,
        "dependence_max": max((pair.strength for pair in found), default=0.0) if possible else NAN,
        "dependent_pair_share": len(found) / possible if possible else NAN,
        **strongest,
    }


def _rows(profile: Profile) -> dict[str, float]:
    found = spread(profile)
    return {
        "row_effective_rank_share": found.effective_rank / found.width if found.width else NAN,
        "row_vendi_share": found.vendi_score / (found.width + 1),
    }


def _dates(profile: Profile) -> dict[str, float]:
    figures = [date_figures(c) for c in profile.columns if c.leaf.kind == "date" and c.values.total > 1]
    steps = [
        sum(int(n) for n in c.numbers.counts[4:])
        for c in profile.columns
        if c.numbers is not None and c.leaf.kind == "date" and c.values.total > 1
    ]
    return {
        "date_sorted_share": _mean(f["sorted_share"] for f in figures),
        "date_gap_share": _mean(f["gaps"] / max(n, 1) for f, n in zip(figures, steps, strict=True)),
        "date_usual_step_share": _mean(f["usual_step_share"] for f in figures),
    }


def _texts(profile: Profile) -> dict[str, float]:
    column = main_text(profile)
    if column is None or column.text is None:
        return {}
    values = column.values
    lengths = distribution(profile, column)
    low, middle, high = (math.log2(max(lengths.quantile(share), 1)) for share in (0.25, 0.5, 0.75))
    found = {
        "text_duplicate_share": max(0.0, 1 - values.distinct() / values.total) if values.total else NAN,
        "text_empty_share": column.text.empty_rows / max(column.text.lengths.total, 1),
        "text_length_log2_median": middle,
        "text_length_log2_spread": high - low,
    }
    if column.leaf.name in profile.sample.schema.names:
        found |= text_figures(profile.sample.column(column.leaf.name).combine_chunks())
    return found


def text_figures(texts: pa.Array) -> dict[str, float]:
    """Figures of the first `TEXT_WORDS` words and `TEXT_BYTES` bytes of some rows; nan where there are fewer."""
    data, offsets = text_buffers(texts)
    words, lengths = word_hashes(data, offsets)
    text = b"\n".join(data[a:b].tobytes() for a, b in itertools.pairwise(offsets))[:TEXT_BYTES]
    ratio = len(text) / len(zlib.compress(text, 6)) if len(text) == TEXT_BYTES else NAN
    if words.size < TEXT_WORDS:
        return {"text_compression_ratio": ratio}
    lengths = np.diff(np.minimum(np.cumsum(lengths), TEXT_WORDS), prepend=0)
    words = words[:TEXT_WORDS]
    tables = {n: _counted(hash_ngrams(words, lengths, n)) for n in (1, 2, 3, 8)}
    last = np.zeros(words.size, bool)
    last[np.cumsum(lengths)[lengths > 0] - 1] = True
    contexts = _counted(words[~last])
    ranked = np.sort(tables[1].counts)[::-1]
    enough = ranked[99:2000]
    slope = NAN
    if enough.size >= 100:
        slope = float(np.polyfit(np.log(np.arange(100, 100 + enough.size)), np.log(enough), 1)[0])
    return {
        "text_word_entropy": entropy(tables[1].counts, TEXT_WORDS),
        "text_bigram_conditional_entropy": entropy(tables[2].counts, tables[2].total)
        - entropy(contexts.counts, contexts.total),
        "text_unseen": float((ranked == 1).sum()) / TEXT_WORDS,
        **{f"text_distinct_{n}": tables[n].keys.size / tables[n].total if tables[n].total else NAN for n in (1, 2, 3)},
        "text_repeated_8grams": 1 - tables[8].keys.size / tables[8].total if tables[8].total else NAN,
        "text_zipf_slope": slope,
        "text_tail_share": float(ranked[1000:].sum()) / TEXT_WORDS,
        "text_compression_ratio": ratio,
    }


def _counted(keys: np.ndarray) -> HashCounts:
    table = HashCounts()
    table.add(keys)
    return table
