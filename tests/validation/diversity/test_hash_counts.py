"""Counting by hash: exact while it fits, unbiased beyond."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from validation.diversity.hash_counts import (
    FrequentKeys,
    HashCounts,
    SampledCounts,
    counted,
    entropy,
    hash_ngrams,
    hash_words,
    mixed,
    unmixed,
)

KEYS = st.lists(st.integers(0, 20), max_size=40)


@given(batches=st.lists(KEYS, max_size=5))
def test_counts_are_those_of_a_dictionary(batches):
    table, sampled = HashCounts(), SampledCounts(1000)
    for batch in batches:
        table.add(np.array(batch, np.uint64))
        sampled.add(np.array(batch, np.uint64))
    expected = Counter(key for batch in batches for key in batch)
    for exact in (table, sampled.sampled):
        assert dict(zip(exact.keys.tolist(), exact.counts.tolist(), strict=True)) == expected
    assert table.total == sampled.total == expected.total()
    assert sampled.share == 1


def test_sampled_counts_stay_in_bounds_exact_for_kept_keys_and_unbiased():
    rng = np.random.default_rng(0)
    keys = mixed(rng.zipf(1.3, 400_000).astype(np.uint64) % np.uint64(1 << 40))
    table, whole = SampledCounts(4_000, flush=40_000), HashCounts()
    whole.add(keys)
    for batch in np.split(keys, 10):
        table.add(batch)
        assert table.frequent.keys.size + table.sampled.keys.size <= 4_000
    everything = dict(zip(whole.keys, whole.counts, strict=True))
    assert table.share < 0.1
    assert 100 < table.frequent.keys.size <= 1_000
    for part in (table.frequent, table.sampled):
        assert all(everything[key] == count for key, count in zip(part.keys, part.counts, strict=True))
    assert table.frequent.holds(whole.keys[[whole.counts.argmax()]]).all()
    assert table.repeats() == pytest.approx((whole.counts - 1).sum(), rel=0.01)
    assert table.entropy() == pytest.approx(entropy(whole.counts, whole.total), abs=0.1)


def test_sampled_entropy_of_many_even_keys():
    keys = mixed(np.random.default_rng(1).integers(0, 50_000, 200_000).astype(np.uint64))
    exact, sampled = SampledCounts(1 << 20), SampledCounts(4_000, flush=50_000)
    exact.add(keys)
    sampled.add(keys)
    assert exact.share == 1
    assert sampled.share < 0.1
    assert sampled.entropy() == pytest.approx(exact.entropy(), rel=0.05)


def test_entropy_of_known_distributions():
    assert entropy(np.array([4, 4, 4, 4]), 16) == 2.0
    assert entropy(np.array([7]), 7) == 0.0
    assert np.isnan(entropy(np.array([], np.int64), 0))


@given(rows=st.lists(st.lists(st.sampled_from("abc"), max_size=12)), n=st.integers(1, 8))
def test_ngrams_are_equal_exactly_where_their_words_are(rows, n):
    words = hash_words((word for row in rows for word in row), {})
    hashes = hash_ngrams(words, np.array([len(row) for row in rows], np.int64), n).tolist()
    ngrams = [tuple(row[start : start + n]) for row in rows for start in range(len(row) - n + 1)]
    assert len(hashes) == len(ngrams)
    assert len(set(zip(hashes, ngrams, strict=True))) == len(set(hashes)) == len(set(ngrams))


def test_word_hashes_are_the_same_in_every_process():
    assert hash_words(["atlas", "é"], {}).tolist() == [14243449182172508127, 3394012004367669963]


def contents(table):
    keys, counts, _ = table.kept()
    return dict(zip(keys.tolist(), counts.tolist(), strict=True)), table.total, table.share


@given(batches=st.lists(KEYS, max_size=6), cut=st.integers(0, 6))
def test_merged_tables_are_the_table_of_everything(batches, cut):
    sides = [SampledCounts(1000, flush=16, frequent=50) for _ in range(3)]
    for place, batch in enumerate(batches):
        keys = mixed(np.array(batch, np.uint64))
        sides[place >= cut].add(keys)
        sides[2].add(keys)
    again = SampledCounts.of_state(sides[1].state())
    sides[0].merge(again)
    assert contents(sides[0]) == contents(sides[2])
    expected = Counter(key for batch in batches for key in batch)
    tops = dict(zip(unmixed(sides[0].top.keys).tolist(), sides[0].top.counts.tolist(), strict=True))
    assert tops == expected
    assert sides[0].top.error == 0
    assert sides[0].distinct() == len(expected)
    assert sides[0].singletons() == sum(count == 1 for count in expected.values())
    assert contents(again) == contents(sides[1])


@given(cuts=st.lists(st.integers(0, 5_000), max_size=5), seed=st.integers(0, 3))
def test_a_full_table_does_not_depend_on_batches(cuts, seed):
    keys = mixed(np.random.default_rng(seed).zipf(1.2, 5_000).astype(np.uint64))
    whole, parts = SampledCounts(200, flush=300, frequent=10), SampledCounts(200, flush=300, frequent=10)
    whole.add(keys)
    for part in np.split(keys, sorted(cuts)):
        parts.add(part)
    assert contents(whole) == contents(parts)
    assert whole.share < 1
    for name, array in whole.state().items():
        np.testing.assert_array_equal(array, parts.state()[name])


def test_merging_full_tables_keeps_exact_counts_and_is_unbiased():
    rng = np.random.default_rng(3)
    keys = mixed(rng.zipf(1.3, 400_000).astype(np.uint64) % np.uint64(1 << 40))
    everything = dict(zip(*(array.tolist() for array in counted(keys)), strict=True))
    parts = []
    for part in np.split(keys, 8):
        table = SampledCounts(4_000, flush=10_000)
        table.add(part)
        parts.append(table)
    merged = parts[0]
    for part in parts[1:]:
        merged.merge(part)
    held, total, share = contents(merged)
    assert total == keys.size
    assert share < 0.2
    assert len(held) <= 4_000
    assert all(everything[key] == count for key, count in held.items())
    assert merged.frequent.keys.size > 100
    assert merged.distinct() == pytest.approx(len(everything), rel=0.08)
    assert merged.singletons() == pytest.approx(sum(c == 1 for c in everything.values()), rel=0.1)
    assert merged.entropy() == pytest.approx(entropy(np.array(list(everything.values())), total), abs=0.1)


def test_a_table_never_full_knows_the_counts_of_anothers_frequent_keys():
    full, small = SampledCounts(100, flush=500), SampledCounts(100, flush=500)
    keys = mixed(np.random.default_rng(0).zipf(1.3, 5_000).astype(np.uint64))
    full.add(keys)
    small.add(mixed(np.array([1, 1, 2, 3], np.uint64)))
    frequent = set(full.frequent.keys.tolist())
    for left, right in ((full, small), (small, full)):
        table = SampledCounts.of_state(left.state())
        table.merge(right)
        assert set(table.frequent.keys.tolist()) == frequent
        expected = Counter(keys.tolist()) + Counter(mixed(np.array([1, 1, 2, 3], np.uint64)).tolist())
        assert all(expected[key] == count for key, count in contents(table)[0].items())


@given(seed=st.integers(0, 50), limit=st.integers(1, 30), parts=st.integers(1, 4))
def test_frequent_keys_keep_their_bound(seed, limit, parts):
    keys = np.random.default_rng(seed).zipf(1.5, 2_000).astype(np.uint64)
    tables = []
    for part in np.array_split(keys, parts):
        table = FrequentKeys(limit)
        for batch in np.array_split(part, 5):
            table.add_counted(*counted(batch))
        tables.append(table)
    merged = tables[0]
    for table in tables[1:]:
        merged.merge(table)
    assert merged.keys.size <= limit
    assert merged.error * (limit + 1) <= keys.size
    held = dict(zip(merged.keys.tolist(), merged.counts.tolist(), strict=True))
    for key, count in Counter(keys.tolist()).items():
        assert held.get(key, 0) <= count <= held.get(key, 0) + merged.error


@given(values=st.lists(st.integers(0, 2**64 - 1)))
def test_unmixed_takes_mixed_back(values):
    keys = np.array(values, np.uint64)
    np.testing.assert_array_equal(unmixed(mixed(keys)), keys)
