"""Blocks that Arrow splits give what the row-by-row reader gives: values, row numbers, bad rows and errors."""

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from validation.datasets import DatasetError, delimited, open_table
from validation.datasets.plain_blocks import split

FIELDS = st.sampled_from(["", "1", "-7", "0.5", "007", "NA", "é", " x ", "2024-01-31", "\ufeff", "\x00", "\u2028"])
ODD = st.sampled_from(['"a,b"', '"a\nb"', '"a""b"', 'a"b', '"', "a\rb", '"a"b'])
ENDS = st.sampled_from(["\n", "\n", "\n", "\r\n", "\n\n", "\r\n\r\n", "\r\r\n"])


def rows(columns: int):
    some = st.lists(st.one_of(FIELDS, FIELDS, FIELDS, ODD), min_size=columns - (columns > 1), max_size=columns + 1)
    whole = st.lists(FIELDS, min_size=columns, max_size=columns)
    return st.one_of(whole, whole, whole, some)


@st.composite
def tables(draw, mark: str):
    columns = draw(st.integers(1, 3))
    text = draw(st.sampled_from(["", "\ufeff"])) + mark.join("abc"[:columns]) + draw(ENDS)
    for row in draw(st.lists(rows(columns), max_size=12)):
        text += mark.join(row) + draw(ENDS)
    return text.encode() + draw(st.sampled_from([b"", b"1", b"\xff\n", b"\n"]))


def found(path, monkeypatch, block: int | None) -> object:
    """What a file holds, or what is said of it; read row by row where no size of a block is given."""
    with monkeypatch.context() as patch:
        patch.setattr(delimited, "BLOCK_BYTES", block or 1)
        if block is None:
            patch.setattr(delimited, "split", lambda *_: None)
        try:
            table = open_table(path, skip_bad_rows=True, sample_rows=2)
            chunks = list(table.stream(chunk_rows=5))
        except DatasetError as error:
            return str(error)
    return [(chunk.row.tolist(), chunk.data.to_pylist()) for chunk in chunks], sorted(table.skipped)


@pytest.mark.parametrize(("name", "mark"), [("a.csv", ","), ("a.tsv", "\t")])
@settings(max_examples=30, deadline=None)
@given(data=st.data(), block=st.sampled_from([1, 7, 30, 4096]))
def test_blocks_and_rows_agree(tmp_path_factory, name, mark, data, block):
    path = tmp_path_factory.mktemp("blocks") / name
    path.write_bytes(data.draw(tables(mark)))
    with pytest.MonkeyPatch.context() as monkeypatch:
        assert found(path, monkeypatch, block) == found(path, monkeypatch, None)


@pytest.mark.parametrize(
    "block", [b"1,2\n3\n", b'"1",2\n', b"1,2\r3,4\n", b"1,\x002\n", b"\xef\xbb\xbf1,2\n", b"\xff,2\n"]
)
def test_blocks_that_are_not_plain(block):
    assert split(block, ["a", "b"], ["b"], ",", quoted=True) is None


def test_plain_block():
    columns = split(b"1,x\r\n\n2, y'\n", ["a", "b"], ["b", "a"], ",", quoted=True)
    assert columns is not None
    assert [column.to_pylist() for column in columns] == [["x", " y'"], ["1", "2"]]
    assert split(b"\n\r\n", ["a", "b"], ["b"], ",", quoted=True) == [pa.array([], pa.string())]
    assert split(b'1,"x\n', ["a", "b"], ["b"], ",", quoted=False) == [pa.array(['"x'])]


def test_most_rows_of_a_file_with_some_quotes_are_split_by_blocks(tmp_path, monkeypatch):
    path = tmp_path / "a.csv"
    lines = ["a,b"] + [f"{i},x" for i in range(5000)]
    lines[2500] = '2499,"x"'
    path.write_text("\n".join(lines))
    monkeypatch.setattr(delimited, "BLOCK_BYTES", 4096)
    table, taken = open_table(path), []
    one_by_one = delimited.Delimited._good

    def counted(*given):
        for row in one_by_one(*given):
            taken.append(row)
            yield row

    monkeypatch.setattr(delimited.Delimited, "_good", counted)
    assert [row for chunk in table.stream() for row in chunk.row.tolist()] == list(range(1, 5001))
    assert 0 < len(taken) < 1500
