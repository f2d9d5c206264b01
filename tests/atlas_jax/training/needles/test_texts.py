"""Texts with needles: where they are hidden, what is repeated to learn from, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas_jax.training.needles.texts import (
    KINDS,
    Alphabet,
    NeedleError,
    NeedleTask,
    alphabet,
    hide,
    kinds_in,
    practice,
)

STREAM = np.random.default_rng(0).integers(1, 61, 3000)


def hidden(task, stream, known, length):
    """Texts by seed and depth."""
    return lambda seed, depth: hide(task, stream, known, np.random.default_rng(seed), length=length, depth=depth)


MARK = 90
KNOWN = Alphabet(MARK, np.arange(61, 85, dtype=np.int32))


def test_the_rarest_token_is_the_mark_and_the_commonest_are_symbols():
    stream = np.repeat(np.array([7, 3, 5, 9], np.uint16), [4, 1, 9, 2])
    assert alphabet(stream).mark == 3
    np.testing.assert_array_equal(alphabet(stream).symbols, [5, 7, 9])
    many = alphabet(np.repeat(np.arange(50), np.arange(50) + 1))
    assert many.mark == 0
    np.testing.assert_array_equal(many.symbols, np.arange(49, 17, -1))
    with pytest.raises(NeedleError, match="the stream has 2 different tokens, expected at least 3"):
        alphabet(stream // 8)


def test_a_needle_lies_at_its_depth_in_a_stretch_of_the_stream():
    task = NeedleTask(examples=5, key=2, value=2, distractors=0)
    texts = hidden(task, STREAM, KNOWN, 40)
    for depth in (0.0, 0.3, 1.0):
        place = round(depth * task.hay(40))
        for text, answer in zip(*texts(1, depth), strict=True):
            body, question = text[:-4], text[-4:]
            needle = body[place : place + 5]
            assert needle[0] == MARK
            np.testing.assert_array_equal(needle[:4], question)
            np.testing.assert_array_equal(needle[3:], answer)
            assert len(set(needle)) == 5
            hay = np.delete(body, range(place, place + 5))
            stretches = np.lib.stride_tricks.sliding_window_view(STREAM, len(hay))
            assert np.any(np.all(stretches == hay, axis=1))


def test_other_needles_lie_beside_it_whole_and_texts_follow_from_the_seed():
    hay = np.zeros(200, np.int32)
    texts = hidden(NeedleTask(examples=16, key=2, value=1, distractors=2), hay, KNOWN, 30)
    found = texts(2, 0.5)
    for text, (answer,) in zip(*found, strict=True):
        body, question = text[:-3], text[-3:]
        (start,) = (i for i in range(len(body)) if np.array_equal(body[i : i + 3], question))
        assert body[start + 3] == answer
        symbols = body[(body > 0) & (body != MARK)]
        assert len(set(symbols)) == len(symbols) == 9
        assert (body == MARK).sum() == 3
        assert all(np.all(body[i + 1 : i + 4] > 0) for i in np.flatnonzero(body == MARK))
    np.testing.assert_array_equal(found.tokens, texts(2, 0.5).tokens)
    assert not np.array_equal(found.tokens, texts(3, 0.5).tokens)


@given(st.integers(20, 300), st.integers(4, 32), st.integers(0, 9), st.sampled_from([(1, 1), (2, 1), (2, 2)]))
def test_every_needle_of_a_text_to_learn_from_comes_again_and_its_value_is_asked_for(length, symbols, seed, sizes):
    """The hay is 0; a reader that keeps every value by its key knows all answers, and nothing else is asked for."""
    key, value = sizes
    size, known = 1 + key + value, Alphabet(MARK, np.arange(1, symbols + 1, dtype=np.int32))
    try:
        kinds = kinds_in(length, known, key + value)
    except NeedleError:
        assert symbols < 2 * (key + value) or 0.6 * length < 4 * size
        return
    tokens, answers = practice(np.zeros(length, np.uint16), known, np.random.default_rng(seed), key=key, value=value)
    assert (tokens.shape, tokens.dtype, answers.shape) == ((length,), np.int32, (length,))
    starts = np.flatnonzero(tokens == MARK)
    assert len(starts) == int(0.6 * length) // size
    seen = {}
    asked = np.zeros(length, bool)
    for start in starts:
        question, said = tuple(tokens[start + 1 : start + 1 + key]), tokens[start + 1 + key : start + size]
        assert (said > 0).all(), "a needle is torn"
        if question in seen:
            np.testing.assert_array_equal(said, seen[question])
            asked[start + 1 + key : start + size] = True
        seen[question] = said
    np.testing.assert_array_equal(answers, asked)
    assert len(seen) in kinds
    used = [token for question, said in seen.items() for token in (*question, *said)]
    assert len(set(used)) == len(used), "two needles share a symbol"
    assert asked.sum() == value * (len(starts) - len(seen)) >= value * len(seen)


def test_texts_to_learn_from_have_few_needles_and_many():
    known = Alphabet(MARK, np.arange(1, 33, dtype=np.int32))
    assert kinds_in(300, known) == KINDS
    texts = [practice(np.zeros(300, int), known, np.random.default_rng(seed)).tokens for seed in range(60)]
    kinds = [len({tuple(text[i : i + 3]) for i in np.flatnonzero(text == MARK)}) for text in texts]
    assert set(kinds) == set(KINDS)
    assert kinds_in(60, known) == (2, 4)
    assert kinds_in(300, Alphabet(MARK, known.symbols[:9])) == (2, 4)


def test_hay_stays_in_its_order_and_needles_lie_everywhere():
    hay = np.arange(1000, 1200)
    places = np.zeros(200)
    for seed in range(200):
        text = practice(hay, KNOWN, np.random.default_rng(seed)).tokens
        kept = text[text >= 1000]
        np.testing.assert_array_equal(kept, hay[: len(kept)])
        places += text < 1000
    assert places.min() > 0
    assert abs(places[:100].sum() / places.sum() - 0.5) < 0.03
    first, same, other = (practice(hay, KNOWN, np.random.default_rng(seed)).tokens for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, same)
    assert not np.array_equal(first, other)


def test_texts_that_can_hold_no_needles_are_refused():
    rng, few = np.random.default_rng(0), Alphabet(MARK, np.arange(3, dtype=np.int32))
    with pytest.raises(NeedleError, match=r"a text has 19 tokens and .* 24 symbols, expected at least 20 and 4"):
        practice(np.zeros(19, int), KNOWN, rng)
    with pytest.raises(NeedleError, match=r"a text has 90 tokens and .* 3 symbols, expected at least 20 and 4"):
        practice(np.zeros(90, int), few, rng)
    with pytest.raises(NeedleError, match="there are 3 symbols, expected at least 8 for 4 needles"):
        hide(NeedleTask(), STREAM, few, rng, length=64, depth=0.5)
    with pytest.raises(NeedleError, match="the stream has 20 tokens, expected at least the 50 of one haystack"):
        hide(NeedleTask(), STREAM[:20], KNOWN, rng, length=64, depth=0.5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"key": 0}, "NeedleTask.key is 0, expected at least 1"),
        ({"distractors": -1}, "NeedleTask.distractors is -1"),
        ({"depths": (0.5, 1.5)}, "NeedleTask.depths holds 1.5"),
        ({"depths": ()}, "NeedleTask.depths is"),
        ({"lengths": (64, 32)}, "rising"),
        ({"lengths": (14,)}, "NeedleTask.lengths holds 14, expected at least 15"),
        ({"reach": 1}, "NeedleTask.reach is 1, expected at least the 2 tokens"),
    ],
)
def test_tasks_that_make_no_sense_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        NeedleTask(**changes)
