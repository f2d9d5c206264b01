"""Statistics against their definitions, written out without tricks."""

import dataclasses
import math
import re
import time
import zlib
from collections import Counter
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from validation.bench.damage import duplicates, shuffle_words, tail_cut, templates
from validation.diversity import TextStatistics
from validation.diversity.statistics import COMPRESSION_BYTES, QUANTILES

ROWS = st.lists(
    st.lists(st.sampled_from(["a", "B", "b", "Cat", "é", "dog,", "...", "  "]), max_size=14).map(" ".join), max_size=12
)


def measured(rows, parts=1):
    statistics = TextStatistics()
    for start in range(parts):
        statistics.update(rows[len(rows) * start // parts : len(rows) * (start + 1) // parts])
    return statistics.result()


def ratio(part, whole):
    return part / whole if whole else math.nan


def bits(counts):
    total = sum(counts)
    return -sum(c / total * math.log2(c / total) for c in counts) if total else math.nan


def by_definition(rows):
    words = [re.findall(r"\w+", row.lower()) for row in rows]
    tokens = Counter(word for row in words for word in row)
    pairs = Counter(pair for row in words for pair in pairwise(row))
    before = Counter(first for (first, _), count in pairs.items() for _ in range(count))
    runs = [tuple(row[i : i + 8]) for row in words for i in range(len(row) - 7)]
    joined = "".join(row + "\n" for row in rows).encode()
    lengths = sorted(len(row.encode()) for row in rows)
    conditional = -sum(count / pairs.total() * math.log2(count / before[first]) for (first, _), count in pairs.items())
    return {
        "rows": len(rows),
        "empty_rows": sum(not row.strip() for row in rows),
        "bytes": sum(lengths),
        "characters": sum(map(len, rows)),
        "words": tokens.total(),
        "distinct_words": len(tokens),
        "word_entropy": bits(tokens.values()),
        "bigram_conditional_entropy": conditional if pairs else math.nan,
        "good_turing_unseen": ratio(sum(count == 1 for count in tokens.values()), tokens.total()),
        "zipf_slope": math.nan,
        "tail_share": 0.0 if tokens else math.nan,
        "distinct_2": ratio(len(pairs), pairs.total()),
        "distinct_2_words": tokens.total(),
        "repeated_8grams": 1 - ratio(len(set(runs)), len(runs)),
        "compression_ratio": ratio(len(joined), len(zlib.compress(joined, 6))) if joined else math.nan,
        "compression_bytes": len(joined),
        "length_quantiles": tuple(
            lengths[max(0, math.ceil(q * len(rows) / 100) - 1)] if rows else 0 for q in QUANTILES
        ),
    }


def agree(found, expected):
    for name, value in dataclasses.asdict(expected).items():
        assert getattr(found, name) == pytest.approx(value, abs=1e-9, nan_ok=True), name


@given(rows=ROWS, parts=st.integers(1, 4))
def test_statistics_are_their_definitions_however_rows_are_batched(rows, parts):
    found = dataclasses.asdict(measured(rows, parts))
    expected = by_definition(rows)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-9, nan_ok=True), name


def test_blocks_of_a_large_batch_change_nothing(clean_rows, monkeypatch):
    rows = clean_rows[:1500]
    whole = measured(rows)
    monkeypatch.setattr("validation.diversity.statistics.BLOCK_BYTES", 10_000)
    assert measured(rows) == whole


@given(rows=ROWS, parts=st.integers(1, 4))
def test_arrow_arrays_and_their_slices_are_as_good_as_strings(rows, parts):
    array = pa.array(["x", None, *rows, "y"], pa.string())[1:-1]
    statistics = TextStatistics()
    for start in range(parts):
        first, last = len(array) * start // parts, len(array) * (start + 1) // parts
        statistics.update(array[first:last])
    agree(statistics.result(), measured(["", *rows]))


@given(rows=ROWS, cut=st.integers(0, 12))
def test_merged_halves_are_the_whole(rows, cut):
    left, right = TextStatistics(), TextStatistics()
    left.update(rows[:cut])
    right.update(rows[cut:])
    before = right.result()
    left.merge(TextStatistics.of_state(right.state()))
    agree(left.result(), measured(rows))
    agree(right.result(), before)


def test_merged_halves_are_the_whole_at_the_fixed_lengths(clean_rows):
    left, right = TextStatistics(), TextStatistics()
    left.update(clean_rows[:1000])
    right.update(clean_rows[1000:6000])
    left.merge(right)
    whole = measured(clean_rows[:6000])
    agree(left.result(), whole)
    assert left.distinct(3) == measured_statistics(clean_rows[:6000]).distinct(3)


def test_sampled_tables_do_not_depend_on_batches_and_merge_without_bias(clean_rows):
    tables = []
    for parts in (1, 7):
        statistics = TextStatistics(ngram_limit=30_000, flush=20_000)
        for start in range(parts):
            statistics.update(clean_rows[len(clean_rows) * start // parts : len(clean_rows) * (start + 1) // parts])
        tables.append(statistics.result())
    assert tables[0] == tables[1]
    halves = [TextStatistics(ngram_limit=30_000, flush=20_000) for _ in range(2)]
    halves[0].update(clean_rows[: len(clean_rows) // 2])
    halves[1].update(clean_rows[len(clean_rows) // 2 :])
    halves[0].merge(halves[1])
    merged, exact = halves[0].result(), measured(clean_rows)
    assert halves[0].bigrams.share < 1
    assert merged.words == exact.words
    assert merged.bigram_conditional_entropy == pytest.approx(exact.bigram_conditional_entropy, abs=0.15)
    assert merged.repeated_8grams == pytest.approx(exact.repeated_8grams, abs=0.01)


def test_a_sampled_table_of_words_keeps_its_figures(clean_rows):
    exact, small = measured(clean_rows), TextStatistics(ngram_limit=4_000)
    small.update(clean_rows)
    near = small.result()
    assert small.words.share < 1
    assert near.distinct_words == pytest.approx(exact.distinct_words, rel=0.1)
    assert near.word_entropy == pytest.approx(exact.word_entropy, abs=0.05)
    assert near.good_turing_unseen == pytest.approx(exact.good_turing_unseen, rel=0.15)
    assert near.zipf_slope == pytest.approx(exact.zipf_slope, abs=0.1)
    assert near.tail_share == pytest.approx(exact.tail_share, abs=0.02)


def measured_statistics(rows):
    statistics = TextStatistics()
    statistics.update(rows)
    return statistics


def test_figures_at_a_fixed_length_look_at_the_beginning_only(clean_rows):
    more, most = measured(clean_rows[:5000]), measured(clean_rows)
    assert more.distinct_2_words == most.distinct_2_words == 50_000
    assert more.compression_bytes == most.compression_bytes == COMPRESSION_BYTES
    assert (more.distinct_2, more.compression_ratio) == (most.distinct_2, most.compression_ratio)
    seen, pairs = 0, []
    for row in clean_rows:
        words = re.findall(r"\w+", row.lower())[: 50_000 - seen]
        seen += len(words)
        pairs += pairwise(words)
    assert most.distinct_2 == len(set(pairs)) / len(pairs)


def test_zipf_slope_and_tail_of_a_known_law():
    counts = [round(200_000 / rank) for rank in range(1, 3001)]
    rows = [" ".join([f"w{rank}"] * count) for rank, count in enumerate(counts, start=1)]
    result = measured(rows)
    assert result.zipf_slope == pytest.approx(-1, abs=0.005)
    assert result.tail_share == pytest.approx(sum(counts[1000:]) / sum(counts))


def test_damage_moves_the_figures_that_are_for_it(clean_rows):
    rows = clean_rows[:3000]
    clean = measured(rows)
    assert -2 < clean.zipf_slope < -0.8
    repeated = [measured(duplicates(rows, factor, 0)[0]).repeated_8grams for factor in (2, 5, 10)]
    assert clean.repeated_8grams + 0.3 < repeated[0] < repeated[1] < repeated[2]
    templated = [measured(templates(rows, share, 0)[0]).bigram_conditional_entropy for share in (0.2, 0.5, 0.9)]
    assert clean.bigram_conditional_entropy > templated[0] > templated[1] > templated[2]
    shuffled = [measured(shuffle_words(rows, share, 0)[0]).distinct_2 for share in (0.2, 0.5, 0.9)]
    assert clean.distinct_2 < shuffled[0] < shuffled[1] < shuffled[2]
    cut = [measured(tail_cut(rows, keep, 0)[0]) for keep in (0.8, 0.4, 0.1)]
    assert clean.good_turing_unseen / 2 > cut[0].good_turing_unseen > cut[1].good_turing_unseen
    assert clean.word_entropy > cut[0].word_entropy > cut[1].word_entropy > cut[2].word_entropy


def test_speed(clean_rows):
    rows = clean_rows * 3
    start = time.process_time()
    size = measured(rows).bytes
    # 8 MB a second of processor time, which waiting does not count in; the bar leaves room for type checks.
    assert size / (time.process_time() - start) > 1.5e6


def test_a_sampled_table_of_ngrams_stays_near(clean_rows):
    exact = measured(clean_rows)
    small = TextStatistics(ngram_limit=30_000)
    small.update(clean_rows)
    near = small.result()
    assert near.bigram_conditional_entropy == pytest.approx(exact.bigram_conditional_entropy, abs=0.1)
    assert near.repeated_8grams == pytest.approx(exact.repeated_8grams, abs=0.01)
    assert np.isclose(near.word_entropy, exact.word_entropy, atol=0)
