"""Texts as bytes: normalised and hashed as their Python strings would be."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from validation.diversity.row_hashes import hash_rows
from validation.diversity.texts import Texts, hash_spans, hash_texts, normalise, normalise_strings, normalised

ROWS = st.lists(st.one_of(st.text(max_size=12), st.text("aAbB \t\n\x1f\x85é", max_size=30), st.none()), max_size=12)
KINDS = (pa.string(), pa.large_string(), pa.string_view())


def strings(texts):
    data = texts.data.tobytes()
    return [data[a:b].decode() for a, b in zip(texts.offsets[:-1], texts.offsets[1:], strict=True)]


@given(rows=ROWS, kind=st.sampled_from(KINDS), skipped=st.integers(0, 3))
def test_arrays_are_normalised_as_strings_are(rows, kind, skipped):
    array = pa.array(rows, kind).slice(skipped)
    expected = [normalised(row or "") for row in rows[skipped:]]
    assert strings(normalise(array)) == expected
    assert strings(normalise_strings([row or "" for row in rows[skipped:]])) == expected


@given(rows=st.lists(st.binary(max_size=40), max_size=20))
def test_spans_have_one_hash_exactly_where_they_are_equal(rows):
    joined = pa.array(rows, pa.large_binary())
    texts = normalise_strings([row.hex() for row in rows])
    both = hash_texts(texts)
    for lane in both:
        assert len(set(lane.tolist())) == len(set(joined.to_pylist()))
    assert not set(both[0].tolist()) & set(both[1].tolist())
    apart = [hash_spans(*one(texts, row), lanes=2)[:, 0].tolist() for row in range(len(rows))]
    assert apart == both.T.tolist(), "a hash does not depend on the rows beside it"


def one(texts, row):
    part = texts.take(pa.array([row]).to_numpy())
    return part.data, part.offsets[:-1], part.lengths()


def test_taken_rows_are_those_rows():
    texts = normalise_strings(["one", "", "three 3", "é"])
    assert strings(texts.take(pa.array([3, 0, 0, 1]).to_numpy())) == ["é", "one", "one", ""]
    assert isinstance(texts, Texts)


VALUES = st.fixed_dictionaries(
    {
        "text": st.none() | st.text("aB \n", max_size=3),
        "whole": st.none() | st.integers(-2, 2),
        "real": st.none() | st.sampled_from([0.0, -0.0, 1.5, float("nan")]),
        "flag": st.none() | st.booleans(),
        "list": st.none() | st.lists(st.integers(0, 1), max_size=2),
    }
)
SCHEMA = pa.schema(
    {"text": "string", "whole": "int32", "real": "float32", "flag": "bool"} | {"list": pa.list_(pa.int64())}
)


def key(row):
    text = None if row["text"] is None else normalised(row["text"])
    real = "nan" if row["real"] is not None and row["real"] != row["real"] else row["real"]
    return (text, row["whole"], real, row["flag"], None if row["list"] is None else tuple(row["list"]))


@given(rows=st.lists(VALUES, min_size=1, max_size=20), cut=st.integers(0, 20))
def test_rows_have_one_hash_exactly_where_their_values_are_equal(rows, cut):
    batch = pa.RecordBatch.from_pylist(rows, schema=SCHEMA)
    lanes, empty = hash_rows(batch)
    hashes = lanes.T.tolist()
    keys = [key(row) for row in rows]
    for i, mine in enumerate(keys):
        assert [hashes[i] == other for other in hashes] == [mine == other for other in keys]
    assert empty.tolist() == [set(mine[1:]) == {None} and not mine[0] for mine in keys]
    parts = [hash_rows(part)[0] for part in (batch.slice(0, cut), batch.slice(cut)) if part.num_rows]
    assert [row for part in parts for row in part.T.tolist()] == hashes, "the same in every batch"


def test_columns_of_few_values_and_dictionaries_hash_as_their_values():
    values = ["Yes", "no", None, " ", "maybe"] * 600
    plain = pa.RecordBatch.from_pydict({"a": pa.array(values)})
    coded = pa.RecordBatch.from_pydict({"a": pa.array(values).dictionary_encode()})
    short = pa.RecordBatch.from_pydict({"a": pa.array(values[:10])})
    assert (hash_rows(plain)[0] == hash_rows(coded)[0]).all()
    assert (hash_rows(plain)[0][:, :10] == hash_rows(short)[0]).all()
    assert hash_rows(coded)[1].tolist() == [value is None or value == " " for value in values]


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary(2), pa.binary_view()])
def test_bytes_are_equal_only_where_every_byte_is(kind):
    values = [b"AB", b"ab", b"a ", b" a", b"\xff\x00", None, b"AB", b"\x00\x00"]
    batch = pa.record_batch({"b": pa.array(values, kind)})
    lanes, empty = hash_rows(batch)
    assert (hash_rows(batch.slice(2))[0] == lanes[:, 2:]).all()
    assert [lane.tolist().index(value) for lane in lanes for value in lane] == [0, 1, 2, 3, 4, 5, 0, 7] * 2
    assert empty.tolist() == [value is None for value in values]


def test_intervals_of_the_calendar_are_equal_where_their_parts_are():
    values = [(1, 2, 3), (0, 0, 1), None, (1, 2, 3)]
    lanes, _ = hash_rows(pa.record_batch({"m": pa.array(values, pa.month_day_nano_interval())}))
    assert [lane.tolist().index(value) for lane in lanes for value in lane] == [0, 1, 2, 0] * 2
