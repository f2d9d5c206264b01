"""Counting by hash: exact while it fits, unbiased beyond."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from validation.diversity.hash_counts import HashCounts, SampledCounts, entropy, hash_ngrams, hash_words, mixed

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
    table, whole = SampledCounts(4_000), HashCounts()
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
    exact, sampled = SampledCounts(1 << 20), SampledCounts(4_000)
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
