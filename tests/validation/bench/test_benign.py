"""Benign changes: the same content in other words or another format, in as many rows as asked for."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from validation.bench.damage import lower_case, paraphrase, reformat, spell_numbers
from validation.bench.damage.benign import PAIR, SWAPS, number_words
from validation.bench.damage.synonyms import ONE_WAY_EXPANSIONS, ONE_WAY_SYNONYMS, SYNONYMS

BENIGN = [paraphrase, reformat, spell_numbers, lower_case]
FITTING = [
    f"Row {n} isn't big. I don't know {n} of its movies. It holds words and signs, nothing else." for n in range(60)
]
PIECES = [
    "It's",
    "big",
    "do not",
    "know",
    "42",
    "3.5",
    '"so"',
    "“yes”",
    "of cats and dogs.",
    "é",
    "- one\n- two",
    "# H\n\n",
]
NEVER_AFTER_AN_ARTICLE = {"exactly", "sometimes", "until", "in order to", "in spite of", "together with"}
ROWS = st.lists(st.lists(st.sampled_from(PIECES), max_size=9).map(" ".join), max_size=20)


def seeds(damage, row, count=20):
    """What becomes of a row at several seeds."""
    return {damage([row], 1.0, seed)[0][0] for seed in range(count)}


@pytest.mark.parametrize("damage", BENIGN)
@given(rows=ROWS, shares=st.tuples(st.floats(0, 1), st.floats(0, 1)), seed=st.integers(0, 99))
def test_the_mask_is_true_where_rows_changed_and_more_contains_less(damage, rows, shares, seed):
    low, high = sorted(shares)
    some, few = damage(rows, low, seed)
    more, many = damage(rows, high, seed)
    for damaged, changed in ((some, few), (more, many)):
        assert changed.tolist() == [new != old for new, old in zip(damaged, rows, strict=True)]
    assert (few <= many).all()
    assert [some[row] for row in np.flatnonzero(few)] == [more[row] for row in np.flatnonzero(few)]
    assert damage(rows, high, seed)[0] == more
    fitting = damage(rows, 1.0, seed)[1].sum()
    assert many.sum() == min(round(high * len(rows)), fitting)


@pytest.mark.parametrize("damage", BENIGN)
def test_as_many_rows_change_as_asked_for_and_the_seed_decides_which(damage):
    first, other = damage(FITTING, 0.3, 1)[1], damage(FITTING, 0.3, 2)[1]
    assert first.sum() == other.sum() == 18
    assert (first != other).any()


@pytest.mark.parametrize("damage", BENIGN)
@pytest.mark.parametrize("share", [-0.1, 1.5])
def test_shares_out_of_range(damage, share):
    with pytest.raises(ValueError, match=f"share: {share}; expected 0 to 1"):
        damage(FITTING, share, 0)


@pytest.mark.parametrize("damage", [paraphrase, spell_numbers])
def test_what_no_rule_fits_stays(damage):
    rows = ["", "Wörter ohne Zahl", "x = f(y)"]
    assert damage(rows, 1.0, 0)[0] == rows


@pytest.mark.parametrize(
    ("row", "new"),
    [
        ("I don't know.", "I do not know."),
        ("He did not go.", "He didn't go."),
        ("You don’t know.", "You do not know."),
        ("He’s sure. She did not go.", "He’s sure. She didn’t go."),
        ("I'm here", "I am here"),
        ("and I will go", "and I'll go"),
        ("Maybe so.", "Perhaps so."),
        ("Who? Nobody knew.", "Who? No one knew."),
        ("a very small dog", "a tiny dog"),
        ("a tale of cats and dogs.", "a tale of dogs and cats."),
    ],
)
def test_paraphrases(row, new):
    assert paraphrase([row], 1.0, 0)[0] == [new]


@pytest.mark.parametrize(
    "row",
    [
        "It's been long.",  # has
        "Don't you see?",
        "Yes, it is.",
        "at the Big Apple",  # a name
        "DO NOT ENTER",
        "the rich man",  # only "wealthy" is replaced
        "big-hearted",
        "he ran home and ate.",
        "of cats and cats.",
    ],
)
def test_places_that_no_paraphrase_fits(row):
    assert seeds(paraphrase, row) == {row}


def test_paraphrases_vary_with_the_seed_and_change_something():
    row = "They don't buy big movies and he isn't glad, perhaps."
    assert len(seeds(paraphrase, row)) > 5
    assert row not in seeds(paraphrase, row)


def test_synonyms_go_one_to_one_and_leave_articles_right():
    assert len(SYNONYMS) + len(ONE_WAY_SYNONYMS) >= 60
    two_way = {old for old in SWAPS if old not in ONE_WAY_SYNONYMS | ONE_WAY_EXPANSIONS}
    assert all(SWAPS[SWAPS[old]] == old for old in two_way)
    assert not two_way & (set(ONE_WAY_SYNONYMS) | set(ONE_WAY_SYNONYMS.values()))
    pairs = (SYNONYMS | ONE_WAY_SYNONYMS).items()
    assert {old for old, new in pairs if (old[0] in "aeiou") != (new[0] in "aeiou")} == NEVER_AFTER_AN_ARTICLE


def test_pairs_keep_their_words():
    found = PAIR.search("fear of wars and plagues, and more")
    assert found is not None
    assert found.groups() == ("of ", "wars", "plagues")


@given(rows=ROWS, seed=st.integers(0, 99))
def test_another_format_keeps_the_words(rows, seed):
    def words(row):
        return re.findall(r"[^\W\d_]+", row)

    assert [words(row) for row in reformat(rows, 1.0, seed)[0]] == [words(row) for row in rows]


@pytest.mark.parametrize(
    ("row", "new"),
    [
        ("- a\n- b\n\n- c", "1. a\n2. b\n\n3. c"),
        ("1. a\n2) b", "- a\n- b"),
        ('it\'s "so"', "it’s “so”"),
        ("it’s “so”", 'it\'s "so"'),
        ("so **few**", "so few"),
        ("# In\n\nby it", "In\n\nby it"),
        ("In\n\nby it", "## In\n\nby it"),
        ("By it. So be it.", "By it.  So be it."),
        ("By it.  So be it.", "By it. So be it."),
        ("see words", "see **words**"),
    ],
)
def test_styles(row, new):
    assert seeds(reformat, row) == {new}


def test_a_paragraph_is_wrapped_at_another_width():
    row = " ".join(["so it is by us"] * 20)
    widths = {max(map(len, new.split("\n"))) for new in seeds(reformat, row, 60)}
    assert len(widths) == 5
    assert max(widths) <= 100
    assert all(new.split() == row.split() for new in seeds(reformat, row))


@pytest.mark.parametrize("row", ["- a", "1. a", "a = 1\nb = 2", "# a\n# b\nc", "By\nit\nso", "def f():\n    a"])
def test_programs_verse_and_single_items_keep_their_lines(row):
    assert seeds(reformat, row) == {row}


@pytest.mark.parametrize(
    ("row", "new"),
    [
        ("42", "Forty-two"),
        ("in 1984, 100 of 7.", "in one thousand nine hundred eighty-four, one hundred of seven."),
        ("the 0 and the 9999", "the zero and the nine thousand nine hundred ninety-nine"),
        ("p. 15 and (16)", "p. fifteen and (sixteen)"),
    ],
)
def test_numbers_are_spelled(row, new):
    assert spell_numbers([row], 1.0, 0)[0] == [new]


@pytest.mark.parametrize(
    "text", ["3.14", "1,200", "12345", "007", "4th", "10:30", "3-5", "$20", "50%", "1/2", "#7", "{2,}", "20 @,@ 000"]
)
def test_parts_of_other_things_stay_digits(text):
    row = f"so {text} it"
    assert spell_numbers([row], 1.0, 0)[0] == [row]


def test_numbers_of_a_list_stay():
    rows, _ = spell_numbers(["1. two 3\n2. four"], 1.0, 0)
    assert rows == ["1. two three\n2. four"]


def test_number_words_are_distinct():
    assert len({number_words(number) for number in range(10_000)}) == 10_000


def test_lower_case():
    assert lower_case(["Ä Big DOG", "small"], 1.0, 0)[0] == ["ä big dog", "small"]
