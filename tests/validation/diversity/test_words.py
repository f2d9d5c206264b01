"""Words of bytes against Python's own regular expressions, and hashes against equality."""

import re

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from validation.diversity import words as module
from validation.diversity.words import span_hashes, text_buffers, word_hashes

TEXTS = st.lists(
    st.text(alphabet=st.one_of(st.characters(codec="utf-8"), st.sampled_from("aB_ 9é\n.漢😀")), max_size=20)
)


def by_regex(rows):
    # One character at a time, as the module's: Σ has two lower cases, İ none of one character.
    folded = ["".join("i" if c == "İ" else c.lower().replace("ς", "σ") for c in row) for row in rows]
    return [re.findall(r"\w+", row) for row in folded]


@given(rows=TEXTS)
def test_words_are_those_of_a_regular_expression(rows):
    hashes, lengths = word_hashes(*text_buffers(rows))
    expected = by_regex(rows)
    assert lengths.tolist() == [len(row) for row in expected]
    flat = [word for row in expected for word in row]
    assert len(set(zip(hashes.tolist(), flat, strict=True))) == len(set(hashes.tolist())) == len(set(flat))


@given(rows=TEXTS, seed=st.integers(0, 5))
def test_tiles_change_nothing(rows, seed):
    whole = word_hashes(*text_buffers(rows)), span_hashes(*text_buffers(rows))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "TILE", 24 + seed)  # no word of the test is longer
        module._powers.cache_clear()
        small = word_hashes(*text_buffers(rows)), span_hashes(*text_buffers(rows))
    module._powers.cache_clear()
    for left, right in zip((*whole[0], whole[1]), (*small[0], small[1]), strict=True):
        np.testing.assert_array_equal(left, right)


def test_a_tile_ends_behind_a_separator_of_several_bytes(monkeypatch):
    rows = ["一二三、四五六七八。九十百千"]
    whole = word_hashes(*text_buffers(rows))[0].tolist()
    monkeypatch.setattr(module, "TILE", 24)
    module._powers.cache_clear()
    assert word_hashes(*text_buffers(rows))[0].tolist() == whole
    module._powers.cache_clear()


@given(rows=TEXTS)
def test_hashes_of_rows_are_equal_exactly_where_rows_are(rows):
    hashes = span_hashes(*text_buffers(rows)).tolist()
    assert len(set(zip(hashes, rows, strict=True))) == len(set(hashes)) == len(set(rows))
    assert span_hashes(*text_buffers(pa.array(["x", *rows], pa.string_view())[1:])).tolist() == hashes


def test_zero_bytes_are_bytes():
    rows = ["", "\0", "\0\0", "a", "a\0", "\0a"]
    assert len(set(span_hashes(*text_buffers(rows)).tolist())) == len(rows)


def test_a_word_of_many_tiles_is_cut_and_ends():
    hashes, lengths = word_hashes(*text_buffers(["x" * (3 * module.TILE + 1) + " end"]))
    assert lengths.tolist() == [5] == [hashes.size]
