"""How documents, records, series and manual pages become rows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from validation.bench.corpora.corpus import LINES, chunks, evenly, labelled_rows, series_rows, table_rows, text_rows
from validation.bench.corpora.everywhere import docstrings
from validation.bench.corpora.manual import plain_text


@given(st.lists(st.sampled_from(["word", "End.", "\n", "\n\n", " ", "x" * 150, 'said."']), max_size=200).map(" ".join))
def test_pieces_hold_all_of_a_document_and_none_is_long(document):
    pieces = list(chunks(document))
    assert "".join("".join(pieces).split()) == "".join(document.split())
    assert all(len(piece) <= 600 for piece in pieces)
    if len(document) <= 600:
        assert len(pieces) == 1


def test_pieces_end_where_a_paragraph_does_else_a_sentence_else_a_line():
    paragraph, sentence, line = "a" * 299 + "\n\n", "b " * 199 + "b. ", "c" * 349 + "\n"
    assert next(chunks(paragraph + sentence + "d" * 900)) == "a" * 299
    assert next(chunks(line + sentence[300:] + "d" * 900)) == line + sentence[300:].strip()
    assert next(chunks(line + sentence[300:] + "d" * 900, LINES)) == line.strip()
    assert next(chunks("d" * 900)) == "d" * 600


def test_no_piece_of_a_long_document_is_short():
    lengths = [len(piece) for size in range(601, 1900, 7) for piece in chunks("a bc. " * (size // 6))]
    assert min(lengths) >= 195


def test_code_keeps_its_indentation():
    function = "    def f(self):\n        return 1\n"
    for piece in chunks("\n\n" + function * 40, LINES):
        assert piece.startswith("    ")
        assert piece == piece.rstrip()


def test_texts_are_distinct_and_hold_no_tabs():
    rows = text_rows(["one\ttwo\r\nthree", "  \n", "again", "one two\n\nthree", "again"])
    assert rows.cells == [("one two\n\nthree",), ("again",)]
    assert labelled_rows([("same", "first"), ("same", "second")]).cells == [("same", "first")]


def test_a_large_text_is_taken_evenly():
    rows = text_rows(f"{number:05d} " + "é" * 250 for number in range(8000))
    numbers = [int(text[:5]) for text in rows.texts()]
    assert 1_950_000 < sum(len(text.encode()) + 1 for text in rows.texts()) <= 2_000_000
    assert numbers[0] == 0
    assert numbers[-1] >= 7997
    assert set(np.diff(numbers)) <= {2, 3}


@given(st.integers(0, 50), st.integers(1, 60))
def test_evenly_spaced_items_keep_their_order(count, most):
    chosen = evenly(range(count), most)
    assert len(chosen) == min(count, most)
    gaps = np.diff(chosen)
    assert len(gaps) == 0 or (gaps.min() >= 1 and gaps.max() - gaps.min() <= 1)


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        ("18823", "18820"), ("0.123456", "0.1235"), (7.0, "7"), ("-0.50", "-0.5"), ("", "?"), ("  a\n b\t", "a b"),
        ("1e3", "1000"), ("12-34", "12-34"), (None, "None"), ("007x", "007x"),
    ],
)  # fmt: skip
def test_cells_of_a_table(value, cell):
    assert table_rows(["a", "b"], [("x", value)]).cells == [("x", cell)]


def test_a_table_has_distinct_records_and_is_taken_evenly():
    assert table_rows(["n"], [("1",), ("1.0",), ("2",)]).cells == [("1",), ("2",)]
    names = table_rows(["n"], ((f"r{number}",) for number in range(36_000))).cells
    assert len(names) == 12_000
    assert names[:2] == [("r0",), ("r3",)]


def test_series_are_scaled_each_by_itself_and_cut_into_windows():
    rising = np.arange(1000.0)
    rows = series_rows([rising, 5 * rising[::-1] - 3])
    assert len(rows) == 2 * 31
    low, high = np.quantile(rising, [0.005, 0.995])
    levels = [int(cell) for row in rows.cells[:31] for cell in row]
    expected = np.clip((rising[:992] - low) / (high - low) * 99, 0, 99)
    np.testing.assert_allclose(levels, expected, atol=0.5)
    assert rows.cells[31][0] == "99"
    assert levels[0] == 0


def test_windows_that_repeat_are_dropped():
    assert len(series_rows([np.tile(np.arange(16.0), 20)])) == 1


def test_docstrings_of_a_module():
    long = "What this is for, said at such a length that nobody could overlook it, not even in a hurry."
    source = (
        f'"""{long} 1"""\nclass A:\n    """Short."""\n    def f(self):\n        """{long} 2"""\nx = """{long} 3"""\n'
    )
    assert list(docstrings(source.encode())) == [f"{long} 1", f"{long} 2"]


def test_a_manual_page_in_plain_text():
    page = r""".\" a comment
.TH CAT 1 "May 2024" "GNU"
.de XX
.B hidden
..
.SH NAME
cat \- print \fIfiles\fR
.SH "SEE ALSO"
.BR tac (1),
.B "two words" more\&.
.PP
It\(aqs \f(CWplain\fP. \*(lqYes\*(rq\" remark
.ad l
"""
    assert plain_text(page) == "NAME\ncat - print files\n\nSEE ALSO\ntac(1),\ntwo words more.\n\nIt's plain. “Yes”"
