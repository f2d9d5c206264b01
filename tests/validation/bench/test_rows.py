"""Rows become the text that models read and come back from what models write; a fingerprint knows every cell."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from validation.bench.rows import Rows, parse

CELL = st.text(st.characters(blacklist_characters="\t", blacklist_categories=["Cs"]), min_size=1, max_size=12)
VALUE = st.integers(0, 99).map(str)


@st.composite
def records(draw):
    """Kind, columns and cells of rows as corpora give them: no tab in a cell, and none that is blank."""
    kind = draw(st.sampled_from(["text", "table", "series"]))
    width = draw(st.integers(2, 4)) if kind != "text" else draw(st.integers(1, 2))
    cell = VALUE if kind == "series" else CELL.filter(str.strip)
    columns = ("text", "label")[:width] if kind == "text" else tuple(f"c{number}" for number in range(width))
    return kind, columns, draw(st.lists(st.tuples(*[cell] * width), max_size=6))


@given(record=records())
def test_rows_come_back_from_their_texts(record):
    rows = Rows(*record)
    texts = rows.texts()
    assert len(texts) == len(rows) == len(rows.cells)
    assert parse(rows.kind, rows.columns, texts) == rows


def test_texts_are_what_models_read():
    assert Rows("text", ("text",), [("A b.\nC",), ("d",)]).texts() == ["A b.\nC", "d"]
    assert Rows("text", ("text", "label"), [("A b.", "good")]).texts() == ["A b.\tgood"]
    assert Rows("table", ("age", "owner"), [("7", "?")]).texts() == ["7\t?"]
    assert Rows("series", ("0", "1", "2"), [("7", "0", "99")]).texts() == ["7 0 99"]


@given(values=st.lists(VALUE, max_size=30), width=st.integers(1, 5), cuts=st.lists(st.integers(0, 30), max_size=4))
def test_a_series_is_cut_anew_wherever_its_texts_ended(values, width, cuts):
    places = [0, *sorted(min(cut, len(values)) for cut in cuts), len(values)]
    texts = [" ".join(values[start:stop]) for start, stop in pairwise(places)]
    columns = tuple(map(str, range(width)))
    whole = [tuple(values[start : start + width]) for start in range(0, len(values) - width + 1, width)]
    assert parse("series", columns, texts) == Rows("series", columns, whole)


def test_what_is_no_value_of_a_series_is_left_out():
    found = parse("series", ("0", "1"), ["1 100 -2 x 3.5 ² 2", "", "3  4 5"])
    assert found.cells == [("1", "2"), ("3", "4")]


def test_malformed_records_are_dropped():
    table = parse("table", ("age", "owner", "town"), ["1\tyes\tA", "2\tno", "", "3\tno\tB\tmore", "4\t\tC", " \tno\tD"])
    assert table.cells == [("1", "yes", "A"), ("4", "", "C")]
    assert parse("text", ("text",), ["one", "", " \n", "tab\tinside"]).cells == [("one",), ("tab\tinside",)]
    assert parse("text", ("text", "label"), ["one\tgood", "two", "\tbad"]).cells == [("one", "good")]


@given(record=records(), data=st.data())
def test_the_fingerprint_changes_with_any_cell_and_any_column(record, data):
    rows = Rows(*record)
    assume(len(rows))
    row = data.draw(st.integers(0, len(rows) - 1))
    column = data.draw(st.integers(0, len(rows.columns) - 1))
    changed = list(rows.cells[row])
    changed[column] += data.draw(st.sampled_from(["x", "0", " "]))
    other = replace(rows, cells=[*rows.cells[:row], tuple(changed), *rows.cells[row + 1 :]])
    names = (*rows.columns[:column], rows.columns[column] + "'", *rows.columns[column + 1 :])
    found = [
        rows,
        other,
        replace(rows, columns=names),
        rows.take([*range(len(rows)), 0]),
        rows.take(range(1, len(rows))),
    ]
    assert len({each.fingerprint() for each in found}) == len(found)
    assert replace(rows, cells=list(rows.cells)).fingerprint() == rows.fingerprint()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Rows("table", ("a", "b"), [("ab", "c")]), Rows("table", ("a", "b"), [("a", "bc")])),
        (Rows("table", ("a", "b"), [("1", "2"), ("3", "4")]), Rows("table", ("a", "b"), [("3", "4"), ("1", "2")])),
        (Rows("table", ("a", "b"), [("1", "2")]), Rows("series", ("a", "b"), [("1", "2")])),
        (Rows("table", ("a", "b"), [("1", "2"), ("3", "4")]), Rows("table", tuple("abcd"), [("1", "2", "3", "4")])),
        (Rows("table", ("a,b",), [("1",)]), Rows("table", ("a", "b"), [("1", "2")])),
    ],
)
def test_equal_characters_in_other_places_have_another_fingerprint(one, other):
    assert one.fingerprint() != other.fingerprint()


def test_rows_are_taken_in_the_order_asked_for():
    rows = Rows("table", ("a", "b"), [("1", "2"), ("3", "4"), ("5", "6")])
    assert rows.take([2, 0, 2]) == Rows("table", ("a", "b"), [("5", "6"), ("1", "2"), ("5", "6")])
