"""Files made to test readers: valid ones give the values of the reference reader, the others one clear error."""

import datetime
import json

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xlrd

from tests.validation.datasets.development_data import development_data
from validation.datasets import DatasetError, open_table


def read(path, **options):
    table = open_table(path, **options)
    return pa.Table.from_batches([chunk.data for chunk in table.stream(17)], table.schema)


def refusal(path, **options):
    """The one line that a file is refused with."""
    with pytest.raises(DatasetError) as caught:
        read(path, **options)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert len(message) < 600
    return message


REFUSED_PARQUET = {
    "column_chunk_key_value_metadata.parquet": "no rows",
    "datapage_v1-corrupt-checksum.parquet": "CRC checksum",
    "rle-dict-uncompressed-corrupt-checksum.parquet": "CRC checksum",
    "incorrect_map_schema.parquet": "Map keys",
    "large_string_map.brotli.parquet": "claims 2147483827 bytes for 2 rows; expected at most 64 MiB a row",
}


def same_values(ours, theirs):
    if isinstance(theirs.type, pa.BaseExtensionType):
        theirs = pa.chunked_array([chunk.storage for chunk in theirs.chunks], theirs.type.storage_type)
    assert ours.type == theirs.type
    if ours.combine_chunks().equals(theirs.combine_chunks()):
        return True
    text = pa.string()
    return ours.cast(text).equals(theirs.cast(text))  # NaN is NaN


def test_parquet_files():
    folder = development_data("fmt_parquet_testing")
    valid = 0
    for path in sorted([*folder.glob("data/**/*.parquet"), *folder.glob("shredded_variant/*.parquet")]):
        if path.name in REFUSED_PARQUET:
            assert REFUSED_PARQUET[path.name] in refusal(path)
            continue
        ours, theirs = read(path), pq.read_table(path)
        assert ours.column_names == theirs.column_names
        assert ours.num_rows == theirs.num_rows
        for name in ours.column_names:
            assert same_values(ours[name], theirs[name]), (path.name, name)
        valid += 1
    assert valid > 190


def test_parquet_files_that_cannot_be_read():
    folder = development_data("fmt_parquet_testing")
    broken, encrypted = list(folder.glob("bad_data/*.parquet")), list(folder.glob("data/**/*.encrypted"))
    assert len(broken) == 8
    assert len(encrypted) == 13
    for path in broken:
        if path.name == "ARROW-GH-43605.parquet":  # a dictionary of one value with no index bits, which is readable
            assert read(path).equals(pq.read_table(path))
        else:
            assert "not a whole Parquet file" in refusal(path)
    for path in encrypted:
        assert "encrypted Parquet; expected a file that needs no key" in refusal(path)


def test_csv_spectrum():
    folder = development_data("fmt_csv_spectrum")
    paths = sorted(folder.glob("csvs/*.csv"))
    assert len(paths) == 12
    for path in paths:
        text = (folder / "json" / f"{path.stem}.json").read_text(encoding="utf-8")
        if b"\r" not in path.read_bytes():  # this copy of the suite has lost the carriage returns of the `_crlf` files
            text = text.replace(r"\r\n", r"\n")
        expected = json.loads(text)
        ours = [
            {name: "" if value is None else str(value) for name, value in row.items()} for row in read(path).to_pylist()
        ]
        if isinstance(expected, dict):  # location_coordinates: the columns and some rows
            assert len(ours) == len(path.read_text(encoding="utf-8").splitlines()) - 1
        else:
            assert ours == expected, path.name


def test_json_test_suite():
    """`y_` must parse, `n_` must not; a value that is no row is refused for being none, not for its syntax."""
    folder = development_data("fmt_json_test_suite")
    seen = {"y": 0, "n": 0, "i": 0}
    for path in sorted(folder.glob("[yni]_*.json")):
        seen[path.name[0]] += 1
        if path.name[0] == "n":
            message = refusal(path)
            assert any(word in message for word in ("not JSON", "not UTF-8", "empty file", "expected an array")), (
                message
            )
            assert "found" not in message, message
        elif path.name[0] == "y":
            document = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(document, list) and document and all(isinstance(row, dict) for row in document):
                assert read(path).to_pylist() == document
            else:
                assert "not JSON" not in refusal_or_rows(path)
        else:
            refusal_or_rows(path)
    assert seen == {"y": 95, "n": 188, "i": 35}


@pytest.mark.parametrize("wrapped", ['[{"value": %s}]', '{"value": %s}'])
def test_json_test_suite_as_values(tmp_path, wrapped):
    """The same files as the value of a row, in an array and on a line of its own."""
    path = tmp_path / ("data.json" if wrapped.startswith("[") else "data.jsonl")
    for case in sorted(development_data("fmt_json_test_suite").glob("[yn]_*.json")):
        content = case.read_bytes()
        if b"\n" in content and path.suffix == ".jsonl":
            continue
        path.write_bytes(wrapped.encode() % content)
        if case.name.startswith("n_"):
            refusal(path)
        else:
            expected = json.loads(content)
            found = read(path).to_pylist()[0]["value"]
            mixed = isinstance(found, str) and not isinstance(expected, str)
            assert (json.loads(found) if mixed else found) == filled(expected, found) or mixed, case.name


def filled(expected, found):
    """Columns have every key of a nested row, and strings where a list mixes types."""
    if isinstance(expected, list) and isinstance(found, list):
        return [
            one if isinstance(one, str) or not isinstance(other, str) else json.dumps(one)
            for one, other in zip(expected, found, strict=True)
        ]
    return expected


def refusal_or_rows(path):
    try:
        read(path)
    except DatasetError as error:
        return str(error)
    return "rows"


def cells(path, name):
    """A sheet as the reference reader gives it, without margins, None where a cell is empty."""
    if path.suffix == ".xlsx":
        rows = [list(row) for row in openpyxl.load_workbook(path, data_only=True)[name].iter_rows(values_only=True)]
    else:
        book = xlrd.open_workbook(path)
        sheet = book.sheet_by_name(name)
        rows = [[xls_value(book, cell) for cell in sheet.row(place)] for place in range(sheet.nrows)]
    used = [place for place, column in enumerate(zip(*rows, strict=True)) if any(cell is not None for cell in column)]
    return [[row[place] for place in used] for row in rows]


def xls_value(book, cell):
    if cell.ctype in (xlrd.XL_CELL_EMPTY, xlrd.XL_CELL_BLANK) or cell.value == "":
        return None
    if cell.ctype == xlrd.XL_CELL_DATE:
        return datetime.datetime(*xlrd.xldate_as_tuple(cell.value, book.datemode))
    return bool(cell.value) if cell.ctype == xlrd.XL_CELL_BOOLEAN else cell.value


def plain(value):
    """A value as text, whatever the type of its column."""
    if isinstance(value, datetime.datetime) and value.time() == datetime.time(0):
        return str(value.date())
    if isinstance(value, bool):
        return str(value).lower()
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def test_excel_workbooks():
    compared = 0
    for path in sorted(development_data("fmt_readxl_extdata").glob("*.xls*")):
        book = openpyxl.load_workbook(path, read_only=True) if path.suffix == ".xlsx" else xlrd.open_workbook(path)
        for name in book.sheetnames if path.suffix == ".xlsx" else book.sheet_names():
            table = open_table(path, sheet=name)
            chunks = list(table.stream())
            expected = cells(path, name)
            above = next(place for place, row in enumerate(expected) if table.schema.names[-1] == row[-1])
            rows = {row - above: values for row, values in enumerate(expected) if row > above}
            found = {int(r): list(v.values()) for c in chunks for r, v in zip(c.row, c.data.to_pylist(), strict=True)}
            assert list(found) == [row for row, values in rows.items() if any(value is not None for value in values)]
            for row, values in found.items():
                assert [plain(value) for value in values] == [plain(value) for value in rows[row]], (
                    path.name,
                    name,
                    row,
                )
            compared += 1
    assert compared >= 16
