"""Rows without content: named with a reason, and clean text left alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from validation.diversity import is_low_information, low_information_scores, reasons

CASES = {
    "": "empty",
    " \n\t": "empty",
    "N/A": "placeholder",
    " null. ": "placeholder",
    "[deleted]": "placeholder",
    "aaaa": "one character repeated",
    "----------": "one character repeated",
    "ha ha, HA!": "one word repeated",
    "-": "no letters",
    "12.5, 13 / 99": "no letters",
    "?!": "no letters",
    "buy now! " * 60: "repetitive: compresses 23 times",
}


@pytest.mark.parametrize("text", CASES)
def test_rows_with_nothing_in_them(text):
    assert reasons([text]) == [CASES[text]]
    assert low_information_scores([text])[0] >= 0.875


@pytest.mark.parametrize(
    "text", ["No.", "Yes, no", "ha ha", "Null results are common.", "x = 1", "今天", "Ω 3", "buy now! " * 6]
)
def test_short_rows_with_something_in_them(text):
    assert reasons([text]) == [None]
    assert low_information_scores([text])[0] < 0.875


@given(texts=st.lists(st.one_of(st.text(max_size=20), st.text("ab ", min_size=200, max_size=400))))
def test_rows_are_flagged_exactly_from_the_documented_score_on(texts):
    flagged = is_low_information(texts)
    scores = low_information_scores(texts)
    assert (flagged == (scores >= 0.875)).all()
    assert flagged.tolist() == [reason is not None for reason in reasons(texts)]
    assert scores.min(initial=0) >= 0
    assert scores.max(initial=0) <= 1


def test_score_rises_with_repetition(clean_rows):
    words = " ".join(clean_rows[:50]).split()[:200]
    scores = low_information_scores([" ".join((words[:distinct] * 200)[:200]) for distinct in (200, 100, 40, 10, 2)])
    assert (np.diff(scores) > 0).all()


def test_clean_text_is_left_alone(clean_rows):
    assert is_low_information(clean_rows).mean() < 0.001
    assert low_information_scores(clean_rows).max() < 0.875
