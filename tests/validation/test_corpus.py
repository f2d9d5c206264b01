"""Rows to subsamples and tokens, against plain loops."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_world import markov_rows

from atlas_jax.data import ByteTokenizer, pack, train_bpe
from validation.corpus import (
    LARGEST_PIECE,
    Circle,
    by_target,
    circle,
    deal,
    find_words,
    read_corpus,
    tokenize,
    windows,
)
from validation.datasets import open_dataset

GROUPS = st.lists(st.integers(0, 12), min_size=1, max_size=120).map(
    # A group is named by its first row, as near-duplicate components are.
    lambda names: np.array([names.index(name) for name in names], np.int64)
)


@given(GROUPS, st.integers(0, 1000))
def test_copies_are_dealt_together_in_pieces(groups, seed):
    places = deal(groups, seed)
    assert ((places >= 0) & (places < 1)).all()
    np.testing.assert_array_equal(places, deal(groups, seed))
    members = Counter(places.tolist())
    assert max(members.values()) <= LARGEST_PIECE
    for group in np.unique(groups):
        size = int((groups == group).sum())
        assert len(set(places[groups == group])) == -(-size // LARGEST_PIECE)
        assert not set(places[groups == group]) & set(places[groups != group])


def test_places_depend_on_the_seed_and_spread_over_the_circle():
    groups = np.arange(2000)
    places = deal(groups, 0)
    assert abs(np.corrcoef(places, deal(groups, 1))[0, 1]) < 0.1
    assert np.histogram(places, 10, (0, 1))[0].min() > 150


@pytest.fixture
def hundred_rows():
    sizes = np.random.default_rng(0).integers(3, 30, 100)
    return circle(np.arange(100), deal(np.arange(100), 0), sizes), sizes


def test_arcs_reach_the_tokens_and_no_further(hundred_rows):
    whole, sizes = hundred_rows
    for start in (0.0, 0.25, 0.5, 0.99):
        rows = whole.arc(start, 200)
        assert sizes[rows].sum() >= 200
        assert sizes[rows[:-1]].sum() < 200


def test_arcs_that_fit_side_by_side_share_no_row(hundred_rows):
    whole, _ = hundred_rows
    room = whole.tokens // 10 - 30  # less the longest row, which may straddle the border
    arcs = [whole.arc(i / 10, room) for i in range(10)]
    together = np.concatenate(arcs)
    assert len(np.unique(together)) == len(together)


def test_an_arc_goes_round_where_the_circle_ends(hundred_rows):
    whole, sizes = hundred_rows
    rows = whole.arc(0.9, whole.tokens // 2)
    first = int(np.flatnonzero(rows == whole.order[0])[0])
    np.testing.assert_array_equal(rows[:first], whole.order[-first:])
    np.testing.assert_array_equal(rows[first:], whole.order[: len(rows) - first])
    again = whole.arc(0.3, 3 * whole.tokens)
    assert sizes[again].sum() >= 3 * whole.tokens
    assert set(Counter(again.tolist()).values()) <= {3, 4}


def test_three_judges_of_ten_leave_every_row_to_someone():
    sizes = np.random.default_rng(1).integers(3, 30, 400)
    whole = circle(np.arange(400), deal(np.arange(400), 0), sizes)
    trained = [set(whole.arc(start, whole.tokens // 2).tolist()) for start in (0.0, 0.3, 0.6)]
    assert not set.intersection(*trained)


def test_a_circle_holds_only_the_rows_it_was_given():
    sizes = np.full(10, 5)
    some = circle(np.array([2, 5, 7]), np.linspace(1, 0, 10, endpoint=False), sizes)
    np.testing.assert_array_equal(some.order, [7, 5, 2])
    np.testing.assert_array_equal(some.ends, [5, 10, 15])
    assert Circle(np.zeros(0, np.int64), np.zeros(0, np.int64)).tokens == 0


def test_windows_hold_whole_rows_in_shuffled_order():
    tokenizer = ByteTokenizer()
    texts = [chr(97 + i) * (5 + i) for i in range(12)]
    tokens = tokenize(texts, np.zeros(12, np.int64), tokenizer)
    asked = {"length": 8, "eos": tokenizer.eos, "count": 9}
    packed = windows(tokens, np.arange(12), **asked, seed=3)
    assert packed.tokens.shape == (9, 9)
    stream = [*packed.tokens[0, :1].tolist(), *packed.tokens[:, 1:].reshape(-1).tolist()]
    documents = tokenizer.decode([t if t != tokenizer.eos else 10 for t in stream]).split("\n")
    assert set(documents[:-1]) <= set(texts)
    assert texts[: len(documents) - 1] != documents[:-1]
    np.testing.assert_array_equal(packed.tokens, windows(tokens, np.arange(12), **asked, seed=3).tokens)
    assert (packed.tokens != windows(tokens, np.arange(12), **asked, seed=4).tokens).any()


@given(st.lists(st.integers(0, 9), min_size=1, max_size=12), st.integers(1, 9), st.integers(1, 4))
def test_values_by_target_follow_a_plain_loop(sizes, length, keep):
    documents = [np.full(size, 5, np.int32) for size in sizes]
    if sum(sizes) + len(sizes) < 2:
        return
    packed = pack(documents, length=length, eos=0, row_ids=range(len(sizes)))
    packed = packed._replace(tokens=packed.tokens[:keep], rows=packed.rows[:keep])
    values = np.arange(1, sum(sizes) + len(sizes) + 1)
    expected = np.zeros((len(packed.tokens), length), np.int64)
    for window in range(len(packed.tokens)):
        for place in range(length):
            position = window * length + place + 1  # the first token of the stream is nobody's target
            expected[window, place] = values[position] if position < len(values) else 0
    found = by_target(values, packed)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(found > 0, packed.rows[:, 1:] >= 0)


def plain_words(text):
    return re.findall(r"[A-Za-z0-9]+|[^A-Za-z0-9]", text)


@given(
    st.lists(st.tuples(st.text("ab1 ,\n", max_size=20), st.booleans()), min_size=1, max_size=6),
    st.text("ab1 ,\n", min_size=1, max_size=20),
)
def test_word_counts_follow_a_plain_splitter(rows, asked):
    tokenizer = ByteTokenizer()
    texts, counted = [text for text, _ in rows], np.array([chosen for _, chosen in rows])
    known = np.arange(len(texts))[::-1]
    words = find_words(tokenize(texts, np.zeros(len(texts), np.int64), tokenizer), known, tokenizer)
    counts = Counter(word for text, chosen in rows if chosen for word in plain_words(text))
    expected = [counts[word] for word in plain_words(asked) for _ in word]
    np.testing.assert_array_equal(words.frequency(tokenizer.encode_batch([asked])[0], counted), expected)


def test_a_rare_word_spelled_of_common_tokens_is_rare():
    texts = [" the cat and the dog and the bird"] * 50 + [" the catdog"]
    tokenizer = train_bpe(texts[:50], 300)
    words = find_words(tokenize(texts, np.zeros(51, np.int64), tokenizer), np.arange(51), tokenizer)
    asked = tokenizer.encode_batch([" the catdog"])[0]
    assert len(asked) > 2
    found = words.frequency(asked, np.ones(51, bool))
    assert found[0] == 3 * 50 + 1
    assert (found[1:] == 1).all()
    assert (words.frequency(asked, np.arange(51) < 50)[1:] == 0).all()


def test_the_border_of_a_prompt_falls_between_two_tokens():
    text = "Question\n\nAnswer answer answer"
    tokenizer = train_bpe([text] * 20, 290)
    tokens = tokenize([text, "Answer"], np.array([10, 0]), tokenizer)
    prompt = int(tokens.prompt[0])
    assert tokenizer.decode(tokens.documents[0][:prompt]) == "Question\n\n"
    assert tokenizer.decode(tokens.documents[0][prompt:]) == "Answer answer answer"
    assert tokens.prompt[1] == 0
    np.testing.assert_array_equal(tokens.sizes, [len(d) + 1 for d in tokens.documents])


def test_reading_keeps_rows_with_their_numbers_and_all_copies_or_none(tmp_path):
    rows = markov_rows(300, 0) * 2
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"text": rows}), path, compression="none")
    whole = read_corpus(open_dataset(path), 1 << 30)
    assert whole.texts == rows
    np.testing.assert_array_equal(whole.row, np.arange(1, 601))
    assert not whole.neighbours

    told = []
    part = read_corpus(open_dataset(path), path.stat().st_size // 3, told.append)
    assert told == [600]
    assert part.rows_read == 600
    assert 100 < len(part.texts) < 300
    assert part.texts == [rows[row - 1] for row in part.row]
    assert set(Counter(part.texts).values()) == {2}
    assert repr(part.statistics) == repr(whole.statistics)  # not ==: a NaN differs from itself
    assert part.fingerprint != whole.fingerprint == read_corpus(open_dataset(path), 1 << 30).fingerprint
