"""Tables of every format: the same values, the same row numbers, whatever is asked for."""

import os
import pickle

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.validation.datasets.table_files import LINES, NAMES, TABLE, WRITERS, rows_of, write
from validation.datasets import DatasetError, open_dataset, open_table
from validation.datasets.chunks import resized

SUFFIXES = [*WRITERS, *(f"{kind}.{compression}" for kind in ("csv", "json", "jsonl") for compression in ("gz", "zst"))]
same_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=8)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("formats")
    for suffix in SUFFIXES:
        write(TABLE, folder / f"data.{suffix}")
    return folder


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_format_gives_the_values_and_types_that_were_written(files, suffix):
    table = open_table(files / f"data.{suffix}")
    kind = suffix.partition(".")[0]
    assert table.metadata.format == NAMES.get(kind, kind)
    assert table.metadata.compression == {"gz": "gzip", "zst": "zstd"}.get(suffix.partition(".")[2], "")
    assert table.metadata.columns == tuple((field.name, field.type) for field in TABLE.schema)
    assert table.schema.equals(TABLE.schema)
    expected = [(0, row, tuple(values.values())) for row, values in zip(range(1, 251), TABLE.to_pylist(), strict=True)]
    assert rows_of(table.stream()) == expected
    assert rows_of(table.stream()) == expected, "again from the beginning"


@same_folder
@given(data=st.data(), chunk_rows=st.integers(1, 300))
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_chunks_columns_and_resuming_do_not_change_rows(files, suffix, data, chunk_rows):
    columns = data.draw(st.lists(st.sampled_from(TABLE.column_names), unique=True, min_size=1))
    after = data.draw(st.integers(0, 251))
    table = open_table(files / f"data.{suffix}")
    chunks = list(table.stream(chunk_rows, columns=columns))
    assert all(chunk.data.schema.equals(pa.schema([TABLE.schema.field(name) for name in columns])) for chunk in chunks)
    assert all(chunk.row.dtype == np.int64 for chunk in chunks)
    assert [len(chunk.row) for chunk in chunks[:-1]] == [chunk_rows] * (len(chunks) - 1) or len(table.parts()) > 1
    expected = [(0, row, tuple(values.values())) for row, values in enumerate(TABLE.select(columns).to_pylist(), 1)]
    assert rows_of(chunks) == expected
    assert rows_of(table.stream(chunk_rows, columns=columns, after=(0, after))) == expected[after:]


def test_a_column_of_no_table_is_refused(files):
    table = open_table(files / "data.csv")
    with pytest.raises(ValueError, match="columns: no column 'nome'; columns: id, size, good, name"):
        table.stream(columns=["nome"])
    with pytest.raises(ValueError, match="chunk_rows: 0; expected at least 1"):
        table.stream(0)
    with pytest.raises(ValueError, match="sample_rows: 0; expected at least 1"):
        open_table(files / "data.csv", sample_rows=0)


def test_metadata_says_what_is_exact_and_what_is_estimated(tmp_path):
    table = pa.concat_tables([TABLE] * 100)
    for suffix in ("csv", "jsonl", "jsonl.gz", "csv.zst", "parquet", "arrow", "arrows", "h5"):
        write(table, path := tmp_path / f"data.{suffix}")
        found = open_table(path, sample_rows=1000).metadata
        exact = suffix in ("parquet", "arrow", "h5")
        assert found.rows_exact == exact
        assert found.rows == table.num_rows if exact else 0.8 < found.rows / table.num_rows < 1.25, suffix
        assert 0.7 < found.memory_bytes / table.nbytes < 1.5
        assert found.bytes == path.stat().st_size
        path.unlink()


def test_parts_in_any_order_and_in_another_process_give_the_same_rows(tmp_path):
    write(TABLE, tmp_path / "a.parquet")
    write(TABLE.slice(0, 20), tmp_path / "b.parquet")
    table = open_table(tmp_path)
    whole = rows_of(table.stream(7))
    parts = table.parts()
    assert [(part.file, part.rows) for part in parts] == [(0, 250), (1, 20)]
    sent, sent_parts = pickle.loads(pickle.dumps((table, parts)))  # noqa: S301 - our own bytes
    assert sorted(rows_of(sent.stream(7, parts=sent_parts[::-1]))) == whole
    assert rows_of(table.stream(parts=parts[1:])) == [row for row in whole if row[0] == 1]
    assert rows_of(table.stream(after=(0, 240))) == [row for row in whole if row[:2] > (0, 240)]
    assert rows_of(table.stream(after=(1, 19))) == whole[-1:]


def test_row_groups_become_parts(tmp_path, monkeypatch):
    monkeypatch.setattr("validation.datasets.parquet.SPAN_ROWS", 100)
    write(TABLE, tmp_path / "a.parquet")  # groups of 90, 90 and 70 rows
    table = open_table(tmp_path)
    assert [(part.span.row, part.rows) for part in table.parts()] == [(1, 180), (181, 70)]
    whole = rows_of(table.stream())
    assert [row for _, row, _ in whole] == list(range(1, 251))
    assert rows_of(table.stream(parts=table.parts()[1:])) == whole[180:]
    assert rows_of(table.stream(50, after=(0, 200))) == whole[200:]


def test_shards_widen_to_one_schema(tmp_path):
    pq.write_table(pa.table({"x": pa.array([1], pa.int32()), "y": ["a"]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"x": pa.array([2.5]), "z": [True]}), tmp_path / "b.parquet")
    table = open_table(tmp_path)
    assert table.schema.equals(pa.schema([("x", pa.float64()), ("y", pa.string()), ("z", pa.bool_())]))
    assert rows_of(table.stream()) == [(0, 1, (1.0, "a", None)), (1, 1, (2.5, None, True))]
    for name, text in {"a.csv": "x,y\n1,2\n", "b.csv": "y,x\na,2.5\n"}.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert rows_of(open_table(tmp_path / "*.csv").stream()) == [(0, 1, (1.0, "2")), (1, 1, (2.5, "a"))]


def test_shards_that_do_not_belong_together_are_refused(tmp_path):
    pq.write_table(pa.table({"x": [1]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"x": ["a"]}), tmp_path / "b.parquet")
    with pytest.raises(DatasetError, match=r"b\.parquet: the column 'x' is string, and int64 in the files before"):
        open_table(tmp_path)
    pq.write_table(pa.table({"y": [1]}), tmp_path / "b.parquet")
    with pytest.raises(DatasetError, match=r"a\.parquet has the columns x and .*b\.parquet has y"):
        open_table(tmp_path)


def test_an_empty_shard_is_no_obstacle_and_an_empty_table_is(tmp_path):
    for name, rows in (("a", 0), ("b", 5)):
        pq.write_table(TABLE.slice(0, rows), tmp_path / f"{name}.parquet")
    assert [row[:2] for row in rows_of(open_table(tmp_path).stream())] == [(1, row) for row in range(1, 6)]
    with pytest.raises(DatasetError, match=r"a\.parquet: no rows; expected at least one"):
        open_table(tmp_path / "a.parquet")


@pytest.mark.parametrize("suffix", ["parquet", "arrow", "h5", "xlsx", "feather", "arrows", "csv.gz", "jsonl.zst"])
@pytest.mark.parametrize("name", ["data.csv", "data.jsonl", "data", "data.bin", "data.parquet"])
def test_content_counts_and_not_the_name(files, tmp_path, suffix, name):
    path = tmp_path / name
    path.write_bytes((files / f"data.{suffix}").read_bytes())
    kind = suffix.partition(".")[0]
    if kind in LINES and name in ("data.parquet", f"data.{'csv' if kind == 'jsonl' else 'jsonl'}"):
        with pytest.raises(DatasetError, match=r"data\.\w+: "):
            list(open_table(path).stream())
    else:
        assert len(rows_of(open_table(path).stream())) == 250


def test_names_that_promise_another_format(tmp_path):
    cases = {
        "a.parquet": (b"id,name\n1,a\n", r"named \.parquet but not a whole Parquet file: begins with b'id,name"),
        "a.xlsx": (b"<html></html>", r"named \.xlsx but not a whole Excel file"),
        "a.zip": (b"PK\x03\x04 and no more", "damaged ZIP archive"),
        "a.csv": (b"BZh91AY", "compressed with bzip2; expected gzip, zstd or no compression"),
        "b.csv": ("id,name\n1,a\n".encode("utf-16"), "byte 0 .*UTF-16"),
    }
    for name, (content, reason) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DatasetError, match=reason):
            open_table(tmp_path / name)


def test_json_is_told_from_json_lines_by_its_structure(tmp_path):
    (tmp_path / "a.json").write_text('{"x": 1}\n{"x": 2}\n', encoding="utf-8")
    (tmp_path / "b.jsonl").write_text('[\n {"x": 1},\n {"x": 2}]', encoding="utf-8")
    assert open_table(tmp_path / "a.json").metadata.format == "jsonl"
    assert open_table(tmp_path / "b.jsonl").metadata.format == "json"
    assert [values for _, _, values in rows_of(open_table(tmp_path / "b.jsonl").stream())] == [(1,), (2,)]


def test_duplicate_column_names_are_refused(tmp_path):
    twice = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["x", "x"])
    for suffix in ("parquet", "arrow", "arrows"):
        WRITERS[suffix](twice, tmp_path / f"a.{suffix}")
        with pytest.raises(DatasetError, match="'x' exists more than once"):
            open_table(tmp_path / f"a.{suffix}")
    (tmp_path / "a.csv").write_text("x,x\n1,2\n", encoding="utf-8")
    with pytest.raises(DatasetError, match="'x' more than once"):
        open_table(tmp_path / "a.csv")


def test_bad_rows_are_counted_and_the_others_keep_their_numbers(tmp_path, monkeypatch):
    lines = ["x,y", *(f"{row},{row / 2}" for row in range(1, 41))]
    lines[7], lines[20], lines[33] = "7", "twenty,10", "33,many"
    (tmp_path / "a.csv").write_text("\n".join(lines), encoding="utf-8")
    monkeypatch.setattr("validation.datasets.table.FIRST_ROWS", 10)
    table = open_table(tmp_path / "a.csv", skip_bad_rows=True, sample_rows=10)
    rows = [row for _, row, _ in rows_of(table.stream(6))]
    reasons = {row: reason for _, row, reason in table.skipped}
    assert reasons == {
        7: "1 fields; the header has 2",
        20: "'x' holds 'twenty', expected a 64-bit integer",
        33: "'y' holds 'many', expected a number",
    }
    assert rows == [row for row in range(1, 41) if row not in reasons]
    assert [row for _, row, _ in rows_of(table.stream(6, columns=["y"]))] == [
        r for r in range(1, 41) if r not in (7, 33)
    ]
    with pytest.raises(DatasetError, match=r"a\.csv: row 7: 1 fields"):
        list(open_table(tmp_path / "a.csv", sample_rows=10).stream())


def test_text_rows_are_lines_or_paragraphs(tmp_path):
    (tmp_path / "a.txt").write_text("one\nmore\n\ntwo\n", encoding="utf-8")
    table = open_table(tmp_path / "a.txt")
    assert table.metadata.kind == "text"
    assert table.schema.equals(pa.schema([("text", pa.string())]))
    assert rows_of(table.stream()) == [(0, 1, ("one\nmore",)), (0, 4, ("two",))]


def test_kinds(tmp_path):
    cases = {
        "time series": "date,load\n2024-01-01,3\n2024-01-02,4\n",
        "tabular": "date,load\n2024-01-02,3\n2024-01-01,4\n",
        "text": "id,review\n1,this was a very long film about nothing\n2,that one was much shorter and quite good\n",
    }
    for kind, text in cases.items():
        (tmp_path / "a.csv").write_text(text, encoding="utf-8")
        assert open_table(tmp_path / "a.csv").metadata.kind == kind
        assert open_table(tmp_path / "a.csv", kind="tabular").metadata.kind == "tabular"
    (tmp_path / "b.csv").write_text("instruction,output\na,b\n", encoding="utf-8")
    assert open_table(tmp_path / "b.csv").metadata.kind == "text"
    (tmp_path / "c.csv").write_text("Month,Passengers\n1949-01,112\n1949-02,118\n", encoding="utf-8")
    assert open_table(tmp_path / "c.csv").metadata.kind == "time series"


def test_hdf5_tables_matrices_and_lengths(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        rows = np.zeros(3, [("id", ">i4"), ("tag", "S4"), ("pair", "f4", (2,))])
        rows["id"], rows["tag"], rows["pair"] = [1, 2, 3], [b"a", b"\xff", b"c"], [[0, 1], [2, 3], [4, 5]]
        file["group/table"] = rows
        file["other"] = np.arange(7)
    table = open_table(path, skip_bad_rows=True)
    assert rows_of(table.stream()) == [(0, 1, (1, "a", [0.0, 1.0])), (0, 3, (3, "c", [4.0, 5.0]))]
    assert table.metadata.notes == ("a.h5: not read: other",)
    assert table.skipped[0][:2] == ("a.h5", 2)
    with h5py.File(path, "w") as file:
        file["x"] = np.arange(6, dtype="i2").reshape(3, 2)
    assert rows_of(open_table(path).stream(columns=["x_1"])) == [(0, 1, (1,)), (0, 2, (3,)), (0, 3, (5,))]
    with h5py.File(path, "w") as file:
        file["x"], file["y"] = [1, 2], [1, 2, 3]
    with pytest.raises(DatasetError, match="different lengths: x has 2, y has 3"):
        open_table(path)


def test_resizing_neither_loses_nor_copies(files):
    batch = TABLE.to_batches()[0]
    from validation.datasets.base import Piece

    pieces = [Piece(np.arange(0, 10), batch.slice(0, 10)), Piece(np.arange(10, 20), batch.slice(10, 10))]
    assert [len(piece.row) for piece in resized(iter(pieces), 7)] == [7, 7, 6]
    same = next(resized(iter(pieces), 10))
    assert same.data.column(1).buffers()[1].address == batch.column(1).buffers()[1].address


@pytest.mark.parametrize("suffix", ["h5", "parquet", "csv", "jsonl"])
def test_a_file_that_lacks_every_column_asked_for_gives_nulls(tmp_path, suffix):
    for name, other in (("1", "b"), ("2", "c")):
        write(pa.table({"a": [1.0, 2.0, 3.0], other: [4.0, 5.0, 6.0]}), tmp_path / f"{name}.{suffix}")
    found = rows_of(open_table(tmp_path).stream(columns=["c"]))
    assert found == [(0, 1, (None,)), (0, 2, (None,)), (0, 3, (None,)), (1, 1, (4.0,)), (1, 2, (5.0,)), (1, 3, (6.0,))]


def test_what_is_no_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(DatasetError, match=r"pipe\.csv: a pipe or device; expected a file or folder"):
        open_table(tmp_path / "pipe.csv")
    with pytest.raises(DatasetError, match="/dev/zero: a pipe or device"):
        open_table("/dev/zero")
    with pytest.raises(DatasetError, match="x: cannot be looked at: File name too long"):
        open_table(tmp_path / ("x" * 300))
    with pytest.raises(DatasetError, match="no path given"):
        open_table("")


def test_a_folder_that_cannot_be_read_is_not_passed_over(tmp_path, monkeypatch):
    (tmp_path / "closed").mkdir()
    for place in (tmp_path, tmp_path / "closed"):
        (place / "a.csv").write_text("x,y\n1,2\n", encoding="utf-8")
    assert len(open_table(tmp_path).metadata.files) == 2
    look = os.scandir

    def refuse(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return look(path)

    monkeypatch.setattr(os, "scandir", refuse)  # as for a user without the right; root may read everything
    with pytest.raises(DatasetError, match=r"closed: cannot be looked at: Permission denied"):
        open_table(tmp_path)


@pytest.mark.parametrize("uri", ["ftp://me:hidden@host/a.csv", "ftp://me:hidden@host/a*.csv", "none://h/a?key=hidden"])
def test_keys_in_a_uri_that_cannot_be_opened_are_not_shown(uri):
    with pytest.raises(DatasetError, match="not a place that can be opened") as found:
        open_table(uri)
    assert "hidden" not in str(found.value)


def test_a_column_cannot_write_lines_into_an_error(tmp_path):
    path = tmp_path / "data.csv"
    path.write_text('a,"b\nERROR: all is lost\x1b[31m"\n1,2\n')
    with pytest.raises(DatasetError) as found:
        open_dataset(path, text_column="c")
    assert str(found.value).isprintable()
    assert "b\\nERROR" in str(found.value)
