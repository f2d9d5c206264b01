"""Rows of equal keys and components of rows, against dictionaries and a plain union-find, in as little memory as you like."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from validation.diversity import components, workspace
from validation.diversity.components import buckets, find_copies, join, join_band, roots
from validation.diversity.hash_counts import mixed


def lanes_of(values):
    keys = mixed(np.array(values, np.uint64))
    return keys, mixed(keys + np.uint64(1))


def copies(values, wanted, memory):
    first = np.empty(len(values), np.int64)
    count = find_copies(lanes_of(values), wanted, first, memory)
    assert count == (first != np.arange(len(values))).sum()
    return first.tolist()


def expected_copies(values, wanted):
    seen = {}
    return [
        seen.setdefault(value, row) if want else row
        for row, (value, want) in enumerate(zip(values, wanted, strict=True))
    ]


@given(rows=st.lists(st.tuples(st.integers(0, 6), st.booleans()), max_size=60))
def test_copies_are_those_of_a_dictionary(rows):
    values, wanted = [value for value, _ in rows], np.array([want for _, want in rows], bool)
    assert copies(values, wanted, 1 << 20) == expected_copies(values, wanted)


@pytest.mark.parametrize("repeated", [0.0, 0.5, 0.99])
def test_memory_changes_nothing_not_even_with_one_value_in_half_of_the_rows(repeated, monkeypatch):
    rng = np.random.default_rng(0)
    values = np.where(rng.random(30_000) < repeated, 7, rng.integers(0, 20_000, 30_000)).tolist()
    wanted = rng.random(30_000) < 0.9
    monkeypatch.setattr(components, "READ_ROWS", 1 << 10)
    assert copies(values, wanted, 1) == copies(values, wanted, 1 << 30) == expected_copies(values, wanted)


def test_equal_low_halves_alone_are_no_copies():
    first = np.empty(3, np.int64)
    same = np.full(3, 5, np.uint64)
    assert find_copies((same, np.array([1, 2, 1], np.uint64)), np.ones(3, bool), first, 1 << 20) == 1
    assert first.tolist() == [0, 1, 0]


def test_a_piece_is_as_small_as_memory_asks(monkeypatch):
    monkeypatch.setattr(components, "READ_ROWS", 1 << 10)
    keys = mixed(np.arange(40_000, dtype=np.uint64) // np.uint64(4))
    pieces = [rows for _, rows in buckets(keys, 24 * 5_000)]
    assert len(pieces) > 5
    assert max(map(len, pieces)) < 8_000
    assert sorted(np.concatenate(pieces).tolist()) == list(range(40_000))


@given(pairs=st.lists(st.lists(st.tuples(st.integers(0, 15), st.integers(0, 15)), max_size=6), max_size=6))
def test_components_are_those_of_a_plain_union_find(pairs):
    parent, plain = np.arange(16), list(range(16))
    for batch in pairs:
        join(parent, np.array([a for a, _ in batch], np.int64), np.array([b for _, b in batch], np.int64))
        for a, b in batch:
            low, high = sorted((plain[a], plain[b]))
            plain = [low if group == high else group for group in plain]
    assert roots(parent, np.arange(16)).tolist() == plain


def test_a_bucket_is_told_apart_by_what_is_alike():
    parent = np.arange(12)
    kinds = np.array([0, 1, 2, 0, 1, 2, 0, 1, 2, 9, 9, 9])
    keys = mixed(np.array([1] * 9 + [2] * 3, np.uint64))
    compared, alike = join_band(parent, keys, lambda left, right: kinds[left] == kinds[right], 1 << 20)
    assert roots(parent, np.arange(12)).tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 2, 9, 9, 9]
    assert (compared, alike) == (8 + 5 + 2 + 2, 2 + 2 + 2 + 2)


def test_too_many_rows_are_refused():
    class Many:
        size = 1 << 32

        def __getitem__(self, part, /):
            raise AssertionError(part)

    with pytest.raises(ValueError, match="4,294,967,296 rows; expected fewer than 4,294,967,296"):
        list(buckets(Many(), 1 << 20))


@pytest.mark.parametrize("memory", [1, 1 << 30])
def test_little_memory_joins_the_same_rows(memory, monkeypatch):
    monkeypatch.setattr(workspace, "FAULT_BYTES", 1 << 20)
    rng = np.random.default_rng(0)
    kinds = rng.integers(0, 3, 6000)
    keys = rng.integers(0, 1500, 6000)
    parent, asked = np.arange(6000), []

    def similar(left, right):
        asked.append(left.size)
        return kinds[left] == kinds[right]

    join_band(parent, mixed(keys.astype(np.uint64)), similar, memory)
    first = {}
    expected = [first.setdefault(pair, row) for row, pair in enumerate(zip(keys.tolist(), kinds.tolist(), strict=True))]
    assert roots(parent, np.arange(6000)).tolist() == expected
    assert max(asked) < 300 if memory == 1 else max(asked) > 3000
