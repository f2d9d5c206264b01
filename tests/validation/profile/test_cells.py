"""Hashes of cells of every type, and which strings are text."""

import datetime
import decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from validation.profile.cells import cell_keys, kind_of, leaf_arrays, leaves, looks_like_text, number_keys, of_keys

TYPES = {
    "int": (pa.int64(), st.integers(-3, 3)),
    "small": (pa.uint8(), st.integers(0, 3)),
    "float": (pa.float64(), st.sampled_from([0.0, 1.5, -2.0, 1e300, float("inf")])),
    "bool": (pa.bool_(), st.booleans()),
    "string": (pa.string(), st.sampled_from(["", "a", "b", "ab", "é"])),
    "view": (pa.string_view(), st.sampled_from(["", "a", "a string that is longer than twelve bytes"])),
    "binary": (pa.binary(), st.binary(max_size=2)),
    "date": (pa.date32(), st.dates(datetime.date(2020, 1, 1), datetime.date(2020, 1, 4))),
    "timestamp": (pa.timestamp("us", "UTC"), st.sampled_from([datetime.datetime(2020, 1, d) for d in (1, 2)])),
    "decimal": (pa.decimal128(9, 2), st.sampled_from([decimal.Decimal("1.50"), decimal.Decimal("2.00")])),
    "wide decimal": (
        pa.decimal128(38, 2),
        st.sampled_from([decimal.Decimal(f"12345678901234567890.1{n}") for n in range(3)]),
    ),
    "list": (pa.list_(pa.int64()), st.lists(st.integers(0, 2), max_size=2)),
    "large list": (pa.large_list(pa.string()), st.lists(st.sampled_from(["", "a", "aa"]), max_size=2)),
    "struct": (
        pa.struct([("x", pa.int64()), ("y", pa.string())]),
        st.fixed_dictionaries({"x": st.none() | st.integers(0, 2), "y": st.sampled_from("ab")}),
    ),
    "fixed": (pa.list_(pa.int64(), 2), st.lists(st.integers(0, 2), min_size=2, max_size=2)),
    "map": (
        pa.map_(pa.string(), pa.int64()),
        st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 1)), max_size=2),
    ),
    "dictionary": (pa.dictionary(pa.int32(), pa.string()), st.sampled_from(["", "a", "b"])),
    "null": (pa.null(), st.none()),
}


@pytest.mark.parametrize("name", TYPES)
@given(data=st.data())
def test_keys_are_equal_exactly_where_cells_are(name, data):
    of_type, values = TYPES[name]
    cells = data.draw(st.lists(st.none() | values, max_size=12))
    start = data.draw(st.integers(0, len(cells)))
    array = pa.array(cells, of_type)[start:]
    keys = cell_keys(array).tolist()
    texts = [repr(cell) for cell in array.to_pylist()]
    assert len(keys) == len(texts)
    assert len(set(zip(keys, texts, strict=True))) == len(set(keys)) == len(set(texts))


def test_keys_are_the_same_in_every_encoding():
    plain = pa.array(["a", None, "b"] * 50)
    expected = cell_keys(plain).tolist()
    for other in (pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())):
        assert cell_keys(plain.cast(other)).tolist() == expected
    assert cell_keys(plain[:3]).tolist() == expected[:3]  # too few rows to look for repeated values


def test_zeros_are_one_value_and_so_are_nans():
    signalling = np.array([0x7FF0000000000001], np.uint64).view(np.float64)
    keys = number_keys(np.concatenate([[0.0, -0.0, np.nan, -np.nan], signalling]))
    assert keys[0] == keys[1]
    assert keys[2] == keys[3] == keys[4]


@given(values=st.lists(st.floats(allow_nan=False)) | st.lists(st.integers(-(2**63), 2**63 - 1)))
def test_numbers_come_back_from_their_keys(values):
    array = np.array(values, np.float64 if values and isinstance(values[0], float) else np.int64)
    assert of_keys(number_keys(array), array.dtype).tolist() == array.tolist()


def test_leaves_of_nested_columns():
    inner = pa.struct([("b", pa.int64()), ("c", pa.struct([("d", pa.list_(pa.string()))]))])
    array = pa.array([{"b": 1, "c": {"d": ["x"]}}, None, {"b": None, "c": None}], inner)
    schema = pa.schema([("a", inner), ("e", pa.string())])
    assert [name for name, _ in leaves(schema)] == ["a.b", "a.c.d[]", "e"]
    assert [leaf.to_pylist() for leaf in leaf_arrays(array)] == [[1, None, None], [["x"], None, None]]


def test_kinds():
    kinds = {
        pa.int8(): "number", pa.float16(): "number", pa.decimal256(40, 2): "number", pa.time32("s"): "number",
        pa.duration("us"): "number", pa.timestamp("ns", "UTC"): "date", pa.date64(): "date", pa.bool_(): "boolean",
        pa.string_view(): "category", pa.dictionary(pa.int8(), pa.string()): "category", pa.list_(pa.int8()): "list",
        pa.binary(): "other", pa.null(): "other", pa.map_(pa.string(), pa.string()): "other",
    }  # fmt: skip
    assert {of_type: kind_of(of_type) for of_type in kinds} == kinds


def test_sentences_are_text_and_names_are_not():
    assert looks_like_text(pa.array([f"this is sentence number {i} of many" for i in range(50)]))
    assert looks_like_text(pa.array([f"这是一个很长的中文句子没有空格{i}" for i in range(50)]))
    assert not looks_like_text(pa.array([f"Jane Doe {i}" for i in range(50)]))
    assert not looks_like_text(pa.array(["one of few long category names"] * 50))
    assert not looks_like_text(pa.array([f"8b1a9953-c461-1296-a827-abf8c4780{i:03}" for i in range(50)]))
    assert not looks_like_text(pa.array([None, ""], pa.string()))
