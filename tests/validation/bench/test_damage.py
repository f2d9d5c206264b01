"""Damage: as much as asked for, of the kind asked for, in the rows named, and the same for the same seed."""

import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from validation.bench.damage import (
    TEMPLATES,
    duplicates,
    random_words,
    rare_rows_dropped,
    rare_words_replaced,
    shuffle_words,
    tail_cut,
    templates,
)

CLEAN = [f"row {n} holds the word w{n} and the word v{n % 7}, nothing else." for n in range(100)]
WORDS = st.lists(st.sampled_from(["the", "cat", "sat", "on", "Mat.", "é"]), max_size=9).map(" ".join)
ROWS = st.lists(WORDS, max_size=30)
SHARE = st.floats(0, 1)


@pytest.mark.parametrize("damage", [templates, shuffle_words, random_words, tail_cut])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_rows_are_bad_exactly_where_they_changed(damage, share):
    rows, bad = damage(CLEAN, share, 0)
    assert len(rows) == len(bad) == len(CLEAN)
    assert bad.tolist() == [new != old for new, old in zip(rows, CLEAN, strict=True)]
    if damage is not tail_cut:
        assert bad.sum() == round(share * len(CLEAN))


@pytest.mark.parametrize("damage", [templates, shuffle_words, random_words, tail_cut, duplicates])
def test_the_seed_decides(damage):
    amount = 3 if damage is duplicates else 0.5
    first, again, other = damage(CLEAN, amount, 1), damage(CLEAN, amount, 1), damage(CLEAN, amount, 2)
    assert first[0] == again[0]
    assert (first[1] == again[1]).all()
    assert first[0] != other[0]


@given(rows=ROWS, factor=st.integers(2, 5), seed=st.integers(0, 9))
def test_duplicates_keep_the_size_and_mark_all_but_the_first(rows, factor, seed):
    repeated, bad = duplicates(rows, factor, seed)
    assert len(repeated) == len(rows)
    assert set(repeated) <= set(rows)
    assert bad.tolist() == [row in repeated[:place] for place, row in enumerate(repeated)]
    if len(set(rows)) == len(rows):
        assert len(set(repeated)) == -(-len(rows) // factor)
        assert max(Counter(repeated).values(), default=0) <= factor


def test_duplicates_are_shuffled():
    repeated, bad = duplicates(CLEAN, 5, 0)
    assert sorted(Counter(repeated).values()) == [5] * 20
    assert np.flatnonzero(bad)[0] < 50 < np.flatnonzero(~bad)[-1] + 40


@given(rows=ROWS, share=SHARE, seed=st.integers(0, 9))
def test_shuffled_rows_keep_their_words_and_short_rows_their_order(rows, share, seed):
    shuffled, bad = shuffle_words(rows, share, seed)
    fit = sum(len(row.split()) >= 4 and len(set(row.split())) > 1 for row in rows)
    assert bad.sum() == min(round(share * len(rows)), fit)
    for old, new, is_bad in zip(rows, shuffled, bad, strict=True):
        assert (old != new) == is_bad
        assert Counter(old.split()) == Counter(new.split())
        assert len(old.split()) >= 4 or old == new


@given(rows=ROWS, share=SHARE, seed=st.integers(0, 9))
def test_random_rows_draw_the_corpus_own_words(rows, share, seed):
    drawn, bad = random_words(rows, share, seed)
    vocabulary = {word for row in rows for word in row.split()}
    for old, new, is_bad in zip(rows, drawn, bad, strict=True):
        assert len(new.split()) == len(old.split())
        assert vocabulary.issuperset(new.split())
        assert old == new or is_bad
        assert len(old.split()) >= 4 or not is_bad


def test_random_words_are_as_frequent_as_in_the_corpus():
    rows = ["common common common rare"] * 2000
    drawn = Counter(" ".join(random_words(rows, 1.0, 0)[0]).split())
    assert drawn["common"] / drawn.total() == pytest.approx(0.75, abs=0.02)


def test_template_rows_are_sentences_of_templates_as_long_as_what_they_replace():
    clean = [f"{row} " * size for size, row in enumerate(CLEAN, start=1)]
    rows, bad = templates(clean, 1.0, 0)
    openings = {template.split("{}")[0] for template in TEMPLATES}
    used = {opening for row in rows for opening in openings if opening and row.startswith(opening)}
    assert bad.all()
    assert used == openings
    words = {"holds", "word", "nothing", "else"}
    fixed = {word for template in TEMPLATES for word in template.split()}
    assert {word.strip(".,?!") for row in rows for word in row.split()} <= words | {w.strip(".,?!") for w in fixed}
    sizes = [(len(old.split()), len(new.split())) for old, new in zip(clean, rows, strict=True)]
    assert all(abs(old - new) <= 12 for old, new in sizes)


@given(rows=ROWS, keep=SHARE, seed=st.integers(0, 9))
def test_tail_cut_keeps_frequent_words_in_order(rows, keep, seed):
    cut, bad = tail_cut(rows, keep, seed)
    for old, new, is_bad in zip(rows, cut, bad, strict=True):
        assert (old != new) == is_bad
        remaining = iter(old.split())
        assert all(word in remaining for word in new.split())
        assert bool(old.split()) == bool(new.split())
    types = {word.strip(".").lower() for row in rows for word in row.split()}
    left = {word.strip(".").lower() for row in cut if len(row.split()) > 1 for word in row.split()}
    assert len(left) <= round(keep * len(types))
    assert keep < 1 or cut == rows


def test_tail_cut_takes_the_rarest_types():
    rows = ["the cat, the dog and The rare", "the cat and the odd"]
    cut, bad = tail_cut(rows, 0.5, 0)
    assert cut == ["the cat, the and The", "the cat and the"]
    assert bad.all()


def words(rows):
    return Counter(word for row in rows for word in re.findall(r"\w+", row.lower()))


@given(rows=ROWS, share=SHARE, seed=st.integers(0, 9))
def test_rare_words_give_way_to_frequent_ones_and_nothing_else_changes(rows, share, seed):
    cut, bad = rare_words_replaced(rows, share, seed)
    assert bad.tolist() == [new != old for new, old in zip(cut, rows, strict=True)]
    for old, new in zip(rows, cut, strict=True):
        assert re.sub(r"\w+", "w", old) == re.sub(r"\w+", "w", new)
    before, after = words(rows), words(cut)
    gone = before.keys() - after.keys()
    assert after.keys() <= before.keys()
    assert sum(before[word] for word in gone) <= share * sum(before.values())
    assert not gone or max(before[word] for word in gone) <= min(before[word] for word in after)
    assert share > 0 or cut == rows


def test_rare_words_replaced_keeps_capitals_and_takes_as_much_as_it_may():
    rows = ["a a a a b b.\nQuark", "a b; Zebra a a"]
    cut, bad = rare_words_replaced(rows, 0.2, 0)
    assert bad.tolist() == [True, True]
    assert words(cut).keys() == {"a", "b"}
    assert re.fullmatch(r"a a a a b b\.\n[AB]", cut[0])
    assert rare_words_replaced(rows, 0.1, 0)[1].tolist() == [False, True]  # of two equally rare words the later one


def test_rows_rich_in_rare_words_go_first():
    rows = [f"the cat sat on the mat {'unique' + chr(97 + n) if n % 4 == 0 else 'and the cat'}" for n in range(20)]
    left, bad = rare_rows_dropped(rows, 0.25, 0)
    assert left == [row for n, row in enumerate(rows) if n % 4]
    assert not bad.any()
    assert len(rare_rows_dropped(rows, 0.5, 0)[0]) == 10


@pytest.mark.parametrize(
    ("damage", "amount", "reason"),
    [
        (duplicates, 1, "factor: 1; expected at least 2"),
        (templates, 1.5, "share: 1.5; expected 0 to 1"),
        (shuffle_words, -0.1, "share: -0.1"),
        (tail_cut, 2.0, "keep: 2.0"),
        (rare_words_replaced, 1.5, "share: 1.5"),
        (rare_rows_dropped, -1.0, "share: -1.0"),
    ],
)
def test_amounts_out_of_range(damage, amount, reason):
    with pytest.raises(ValueError, match=reason):
        damage(CLEAN, amount, 0)
