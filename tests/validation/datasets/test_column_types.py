"""Types learned from values: the narrowest that holds all of them, and rows that do not fit told by number."""

import csv
import datetime
import json
import math

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.validation.datasets.table_files import rows_of
from validation.datasets import DatasetError, open_table
from validation.datasets.values import MIXED, infer_type, settle, value_array, widen

same_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def table_of(path, text, **options):
    path.write_bytes(text.encode())
    return open_table(path, **options)


def column(table):
    return [values[0] for _, _, values in rows_of(table.stream())]


FIELDS = {
    "integers": (["1", "-20", "0", ""], pa.int64(), [1, -20, 0, None]),
    "numbers": (["1", "2.5", "1e3", "NA", "inf"], pa.float64(), [1.0, 2.5, 1000.0, None, math.inf]),
    "codes with leading zeros": (["007", "012"], pa.string(), ["007", "012"]),
    "integers beyond 64 bits": (["1", "99999999999999999999"], pa.string(), ["1", "99999999999999999999"]),
    "truth": (["true", "False", ""], pa.bool_(), [True, False, None]),
    "dates": (["2024-02-29", ""], pa.date32(), [datetime.date(2024, 2, 29), None]),
    "no date": (["2023-02-29"], pa.string(), ["2023-02-29"]),
    "times": (["2024-01-01 10:00", "2024-01-01T10:00:01.5"], pa.timestamp("us"), None),
    "fine times": (["2024-01-01 10:00:00.123456789"], pa.timestamp("ns"), None),
    "times with zones": (["2024-01-01T10:00:00Z", "2024-01-01T12:00:00+02:00"], pa.timestamp("us", "UTC"), None),
    "times with and without zones": (["2024-01-01T10:00:00Z", "2024-01-01T10:00:00"], pa.string(), None),
    "signs that are not read": (["+3", "1"], pa.string(), ["+3", "1"]),
    "words": (["a", "", "NA"], pa.string(), ["a", "", "NA"]),
    "nothing": (["", ""], pa.string(), ["", ""]),
    "a number and a word": (["1", "x"], pa.string(), ["1", "x"]),
}


@pytest.mark.parametrize("case", FIELDS)
def test_types_of_fields(tmp_path, case):
    fields, kind, values = FIELDS[case]
    table = table_of(tmp_path / "a.csv", "x,y\n" + "".join(f"{field},1\n" for field in fields))
    assert table.schema.field("x").type == kind
    if kind == pa.timestamp("ns"):  # finer than Python's own times
        assert [chunk.data.column(0).cast(pa.string()).to_pylist() for chunk in table.stream()] == [fields]
        return
    found = column(table)
    if values is not None:
        assert found == values
    elif pa.types.is_string(kind):
        assert found == fields
    elif kind.tz:
        assert found[0] == found[1] == datetime.datetime(2024, 1, 1, 10, tzinfo=datetime.UTC)


@same_folder
@given(
    rows=st.lists(
        st.tuples(
            st.integers(-(2**63), 2**63 - 1),
            st.floats(allow_nan=False, allow_infinity=False),
            st.booleans(),
            st.dates(datetime.date(1900, 1, 1)),
            st.datetimes(datetime.datetime(1900, 1, 1), datetime.datetime(2200, 1, 1)),
            st.text(st.characters(exclude_categories=["Cs"]), min_size=1).map(lambda text: f"t{text}"),
        ),
        min_size=1,
    )
)
def test_what_is_written_is_read(tmp_path, rows):
    path = tmp_path / "a.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_ALL)
        writer.writerow("abcdef")
        writer.writerows(rows)
    table = open_table(path)
    assert [values for _, _, values in rows_of(table.stream())] == rows
    path = tmp_path / "a.jsonl"
    plain = [(*row[:3], str(row[3]), str(row[4]), row[5]) for row in rows]
    path.write_text("\n".join(json.dumps(dict(zip("abcdef", row, strict=True))) for row in plain), encoding="utf-8")
    assert [values for _, _, values in rows_of(open_table(path).stream())] == plain


def test_types_of_json_values(tmp_path):
    cases = {
        "[1, null, 2.5]": (pa.float64(), [1.0, None, 2.5]),
        "[1, 18446744073709551616]": (pa.decimal128(38, 0), [1, 18446744073709551616]),
        "[true, null]": (pa.bool_(), [True, None]),
        '[1, "a", null, true, {"b": 1}]': (MIXED, ["1", "a", None, "true", '{"b": 1}']),
        '[{"a": 1}, {"b": [1, 2.5]}]': (
            pa.struct([("a", pa.int64()), ("b", pa.list_(pa.float64()))]),
            [{"a": 1, "b": None}, {"a": None, "b": [1.0, 2.5]}],
        ),
        "[[], [[1]]]": (pa.list_(pa.list_(pa.int64())), [[], [[1]]]),
        "[null, null]": (MIXED, [None, None]),
    }
    for text, (kind, values) in cases.items():
        rows = "\n".join(json.dumps({"x": value}) for value in json.loads(text))
        table = table_of(tmp_path / "a.jsonl", rows)
        assert table.schema.field("x").type == kind, text
        assert column(table) == values, text


@pytest.mark.parametrize(
    ("later", "reason"),
    [
        ('{"n": "three"}', r"'n' holds 'three', expected a 64-bit integer"),
        ('{"n": 2.5}', r"'n' holds 2\.5, expected a 64-bit integer"),
        ('{"n": true}', r"'n' holds True, expected a 64-bit integer"),
        ('{"s": 3}', r"'s' holds 3, expected text"),
        ('{"s": "\\ud800"}', r"'s' half of a surrogate pair"),
        ('{"o": {"a": 1, "b": 2}}', r"'o' holds the key 'b', which the rows that types were learned from do not have"),
        ('{"o": [1]}', r"'o' holds \[1\], expected struct<a: int64>"),
        ('{"new": 1}', r"unknown column 'new'; the rows that columns were learned from do not have it"),
        ('{"n": NaN}', "not JSON that can be read: NaN is no JSON number"),
        ('{"n": 1} x', "not JSON: Extra data at column 10"),
    ],
)
def test_later_values_that_do_not_fit_are_bad_rows(tmp_path, monkeypatch, later, reason):
    monkeypatch.setattr("validation.datasets.table.FIRST_ROWS", 1)
    first = '{"n": 1, "s": "a", "o": {"a": 1}}'
    lines = f"{first}\n{first}\n\n{later}\n{first}\n"
    table = table_of(tmp_path / "a.jsonl", lines, sample_rows=2)
    with pytest.raises(DatasetError, match=rf"a\.jsonl: row 4: {reason}"):
        list(table.stream())
    lenient = open_table(tmp_path / "a.jsonl", sample_rows=2, skip_bad_rows=True)
    assert [row for _, row, _ in rows_of(lenient.stream())] == [1, 2, 5]
    assert [row for _, row, _ in lenient.skipped] == [4]


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats(allow_nan=False) | st.text(max_size=3),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
        max_leaves=12,
    ).map(lambda value: [value, None])
    | st.lists(st.none() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=2), max_size=5)
)
def test_the_learned_type_holds_every_value_it_was_learned_from(values):
    kind = settle(infer_type(values))
    array, wrong = value_array(values, kind)
    surrogates = {place: reason for place, reason in wrong.items() if "surrogate" not in reason}
    assert not surrogates
    assert len(array) == len(values)
    assert array.type == kind


@given(
    *[st.sampled_from([pa.null(), pa.int64(), pa.float64(), pa.string(), pa.list_(pa.int64()), pa.bool_(), MIXED])] * 3
)
def test_widening_has_no_order(a, b, c):
    assert widen(a, b) == widen(b, a)
    assert widen(a, widen(b, c)) == widen(widen(a, b), c)
    assert widen(a, a) == a


def test_typed_formats_keep_zones_decimals_and_nesting(tmp_path):
    path = tmp_path / "a.parquet"
    table = pa.table(
        {
            "when": pa.array([0, None], pa.timestamp("ms", "Europe/Berlin")),
            "price": pa.array(["1.20", "3.45"]).cast(pa.decimal128(9, 2)),
            "nested": [{"a": [1, 2]}, {"a": None}],
            "word": pa.array(["a", "b"]).dictionary_encode(),
            "raw": [b"\xff", None],
        }
    )
    pq.write_table(table, path)
    found = open_table(path)
    assert found.schema.equals(table.schema)
    assert pa.Table.from_batches([chunk.data for chunk in found.stream(1)]).to_pylist() == table.to_pylist()


def test_excel_cells(tmp_path):
    path = tmp_path / "a.xlsx"
    book = openpyxl.Workbook()
    for row in (
        ["A title", None, None, None],
        ["id", "share", "when", "mixed"],
        [1, 0.5, datetime.datetime(2024, 1, 1, 10), "a"],
        [None, None, None, None],
        [2, 2, datetime.datetime(2024, 1, 2), 3],
    ):
        book.active.append(row)
    book.create_sheet("second").append(["x"])
    book.save(path)
    table = open_table(path)
    assert [str(kind) for _, kind in table.metadata.columns] == ["int64", "double", "timestamp[us]", "large_string"]
    assert rows_of(table.stream()) == [
        (0, 1, (1, 0.5, datetime.datetime(2024, 1, 1, 10), "a")),
        (0, 3, (2, 2.0, datetime.datetime(2024, 1, 2), "3")),
    ]
    assert table.metadata.notes == (
        "a.xlsx: sheet 'Sheet' is read, not 'second'",
        "a.xlsx: row 2 of the sheet is the header; rows above it are not read",
    )
    with pytest.raises(DatasetError, match="no sheet 'third'; sheets: Sheet, second"):
        open_table(path, sheet="third")
    with pytest.raises(DatasetError, match="no rows"):
        open_table(path, sheet="second")


LATE = {
    "a code among integers": ("12", "007", "'007', expected a 64-bit integer"),
    "a hexadecimal among integers": ("12", "0x1F", "'0x1F', expected a 64-bit integer"),
    "a code among numbers": ("1.5", "007", "'007', expected a number"),
    "an identifier among numbers": ("1.5", "9007199254740993", "'9007199254740993', expected a number"),
    "a long identifier among numbers": ("1.5", "1" * 400, "expected a number"),
    "a number among truths": ("true", "1", "'1', expected true or false"),
}


@pytest.mark.parametrize("case", LATE)
def test_a_late_field_that_a_cast_would_change_is_a_bad_row(tmp_path, case):
    usual, late, reason = LATE[case]
    text = "x,y\n" + f"{usual},a\n" * 250 + f"{late},b\n{usual},c\n"
    with pytest.raises(DatasetError, match=f"row 251: 'x' holds .*{reason}"):
        list(table_of(tmp_path / "a.csv", text, sample_rows=200).stream())
    table = open_table(tmp_path / "a.csv", sample_rows=200, skip_bad_rows=True)
    assert [row for _, row, _ in rows_of(table.stream())][-2:] == [250, 252]


@pytest.mark.parametrize("other", ["1.5", "NaN", "1" * 5_000])
def test_identifiers_beside_numbers_keep_their_digits(tmp_path, other):
    table = table_of(tmp_path / "a.csv", f"x,y\n9007199254740993,a\n{other},b\n")
    assert column(table) == ["9007199254740993", other]


@pytest.mark.parametrize("exact", ["9007199254740992", "10000000000000000"])
def test_long_integers_that_a_float_holds_stay_numbers(tmp_path, exact):
    assert column(table_of(tmp_path / "a.csv", f"x,y\n{exact},a\n1.5,b\n")) == [float(exact), 1.5]


def test_integers_that_a_float_does_not_hold_are_never_rounded(tmp_path):
    path = tmp_path / "a.jsonl"
    table = table_of(path, f'{{"x": {2**53 + 1}}}\n{{"x": 1.5}}\n{{"x": 2}}\n')
    assert column(table) == ["9007199254740993", "1.5", "2"]
    table = table_of(path, '{"x": 1.5}\n' * 250 + f'{{"x": {2**53 + 1}}}\n', sample_rows=200)
    with pytest.raises(
        DatasetError, match="row 251: 'x' holds 9007199254740993, expected a number that a 64-bit float"
    ):
        list(table.stream())


def test_a_late_key_without_a_name_is_not_lost(tmp_path):
    table = table_of(tmp_path / "a.jsonl", '{"x": {"a": 1}}\n' * 250 + '{"x": {"a": 1, "": 5}}\n', sample_rows=200)
    with pytest.raises(DatasetError, match="row 251: 'x' holds the key ''"):
        list(table.stream())


def test_objects_without_a_field_make_no_table(tmp_path):
    with pytest.raises(DatasetError, match=r"a\.jsonl: no columns; expected at least one"):
        table_of(tmp_path / "a.jsonl", "{}\n{}\n")


HEADERS = {
    "an index without a name": ([[None, "name", "city"], ["r1", "Bob", "Rome"]], ["column 1", "name", "city"]),
    "numbers for names": ([["name", 2019, 2020], ["r1", "x", "y"]], ["name", "2019", "2020"]),
    "titles above": ([["Title", None, None], [None] * 3, ["a", "b", "c"], ["r1", "x", "y"]], ["a", "b", "c"]),
}


@pytest.mark.parametrize("case", HEADERS)
def test_excel_headers_above_rows_of_text(tmp_path, case):
    rows, names = HEADERS[case]
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)
    book.save(tmp_path / "a.xlsx")
    table = open_table(tmp_path / "a.xlsx")
    assert table.schema.names == names
    assert [values for _, _, values in rows_of(table.stream())] == [tuple(rows[-1])]


def test_an_excel_header_with_a_name_twice_is_no_title(tmp_path):
    book = openpyxl.Workbook()
    for row in (["a", "a", "b"], ["x", "y", "z"]):
        book.active.append(row)
    book.save(tmp_path / "a.xlsx")
    with pytest.raises(DatasetError, match="the header names the column 'a' more than once"):
        open_table(tmp_path / "a.xlsx")
