"""Files made to do harm: memory stays bounded, nothing outside a file is opened, and one line says what is wrong."""

import gzip
import json
import struct
import subprocess
import sys
import zipfile

import h5py
import numpy as np
import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from validation.datasets import DatasetError, open_dataset, open_table

MEASURE = """
import resource, sys
from validation.datasets import DatasetError, open_table
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    rows = sum(len(chunk.row) for chunk in open_table(sys.argv[1]).stream())
except DatasetError as error:
    rows = str(error).replace(" ", "_")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, rows)
"""


def read_in_a_child(path):
    """MiB that reading a file takes in a process of its own, and its rows or error."""
    command = [sys.executable, "-W", "error", "-c", MEASURE, str(path)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    kib, rows = found.stdout.split()
    return int(kib) / 1024, rows.replace("_", " ")


def test_parquet_of_kilobytes_with_hundreds_of_megabytes(tmp_path):
    path = tmp_path / "a.parquet"
    zeros = pa.table({"x": np.zeros(2_000_000, np.int64), "y": np.zeros(2_000_000)})
    with pq.ParquetWriter(path, zeros.schema, compression="zstd", use_dictionary=False) as writer:
        for _ in range(12):
            writer.write_table(zeros)
    assert path.stat().st_size < 1_000_000
    mebibytes, rows = read_in_a_child(path)
    assert rows == "24000000"
    assert mebibytes < 300


def test_parquet_with_one_long_value_in_every_row(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"x": pa.DictionaryArray.from_arrays(np.zeros(20_000, np.int32), ["x" * 65_536])}), path)
    with pq.ParquetFile(path) as file:
        assert file.metadata.num_rows * 65_536 > 1_300_000_000
    mebibytes, rows = read_in_a_child(path)
    assert rows == "20000"
    assert mebibytes < 400


def test_parquet_page_that_is_damaged_is_told_with_the_row_before_it(tmp_path):
    path = tmp_path / "a.parquet"
    table = pa.table({"x": np.random.default_rng(0).normal(size=4_000)})
    pq.write_table(
        table, path, row_group_size=1_000, write_page_checksum=True, use_dictionary=False, compression="none"
    )
    with pq.ParquetFile(path) as file:
        place = file.metadata.row_group(2).column(0).data_page_offset
    content = bytearray(path.read_bytes())
    content[place + 4_000] ^= 1
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=r"a\.parquet: after row 2000: .*CRC"):
        for _ in open_table(path).stream(1_000):
            pass


def test_a_line_of_a_gibibyte(tmp_path):
    for suffix in ("jsonl", "csv", "txt"):
        path = tmp_path / f"a.{suffix}"
        with path.open("wb") as file:
            file.write(b'{"text": "a"}\n' if suffix == "jsonl" else b"text\na\n")
            file.truncate(1 << 30)
        mebibytes, error = read_in_a_child(path)
        assert "the line that begins at byte" in error, error
        assert "is longer than 64 MiB; expected shorter lines" in error
        assert mebibytes < 400


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "txt"])
def test_a_gzip_bomb_ends_at_the_longest_line(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr("validation.datasets.lines.MAX_ROW_BYTES", 1 << 20)
    path = tmp_path / f"a.{suffix}.gz"
    path.write_bytes(gzip.compress(b"[1]\n\n" if suffix != "csv" else b"text\n1\n") + gzip.compress(b"x" * (2 << 20)))
    with pytest.raises(DatasetError, match=r"row \d: .* is longer than 1 MiB"):
        list(open_table(path, skip_bad_rows=True).stream())


def test_a_quote_that_is_never_closed_does_not_take_the_whole_file(tmp_path, monkeypatch):
    monkeypatch.setattr("validation.datasets.delimited.MAX_ROW_BYTES", 1 << 16)
    path = tmp_path / "a.csv"
    path.write_text('text,id\na,1\n"b,2\n' + "c,3\n" * 50_000, encoding="utf-8")
    with pytest.raises(DatasetError, match=r"row 2: broken quoting: field larger than field limit"):
        list(open_table(path).stream())


def test_json_documents_have_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr("validation.datasets.json_array.MAX_DOCUMENT_BYTES", 1 << 20)
    path = tmp_path / "a.json"
    path.write_text("[" + '{"x": 1},' * 200_000 + '{"x": 1}]', encoding="utf-8")
    with pytest.raises(DatasetError, match=r"of more than 1 MiB is not read; expected JSON Lines"):
        open_table(path)


def test_cut_compression_names_the_place(tmp_path):
    rows = b"".join(json.dumps({"x": number}).encode() + b"\n" for number in range(50_000))
    for name, content in {
        "a.jsonl.gz": gzip.compress(rows),
        "b.jsonl.zst": bytes(pa.Codec("zstd").compress(rows)),
    }.items():
        path = tmp_path / name
        path.write_bytes(content[: len(content) // 2])
        with pytest.raises(DatasetError, match=r"(gzip|zstd) data damaged or cut after byte \d+ of its content"):
            for _ in open_table(path).stream():
                pass


def workbook(path, sheet=None, **parts):
    """A small workbook in which some parts are replaced."""
    book = openpyxl.Workbook()
    book.active.append(["x"])
    book.active.append([1])
    book.save(path)
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    content |= parts
    if sheet is not None:
        content["xl/worksheets/sheet1.xml"] = sheet
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return content["xl/worksheets/sheet1.xml"]


def test_workbook_bombs(tmp_path):
    path = tmp_path / "a.xlsx"
    sheet = workbook(path)
    workbook(path, sheet.replace(b"</worksheet>", b" " * (100 << 20) + b"</worksheet>"))
    with pytest.raises(DatasetError, match=r"would unpack from \d+ to \d+ bytes or more"):
        open_table(path)
    workbook(path, sheet.replace(b'r="A2"', b'r="XFD1048576"').replace(b'<row r="2"', b'<row r="1048576"'))
    with pytest.raises(DatasetError, match="spans 1048576 rows × 16384 columns with 4 entries"):
        open_table(path)
    workbook(path)
    content = path.read_bytes()
    size = struct.pack("<I", len(sheet))
    at = content.rindex(b"PK\x01\x02", 0, content.rindex(b"xl/worksheets/sheet1.xml"))
    assert content[at + 24 : at + 28] == size
    path.write_bytes(content[: at + 24] + struct.pack("<I", 10) + content[at + 28 :])
    with pytest.raises(DatasetError, match="holds more than the 10 bytes it claims"):
        open_table(path)
    path.write_bytes(content[: at + 20] + struct.pack("<I", 1 << 30) + content[at + 24 :])
    with pytest.raises(DatasetError, match=r"overlap|damaged"):
        open_table(path)


def test_archives_that_are_no_workbook(tmp_path):
    path = tmp_path / "a.xlsx"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data.csv", "a,b\n1,2\n")
    with pytest.raises(DatasetError, match=r"a ZIP archive that holds data\.csv; expected an \.xlsx workbook"):
        open_table(path)
    workbook(path, b"<not xml")
    with pytest.raises(DatasetError, match=r"a\.xlsx: "):
        open_table(path)


@pytest.fixture
def secret(tmp_path):
    """A file that no dataset may reach."""
    path = tmp_path / "secret.h5"
    with h5py.File(path, "w") as file:
        file["x"] = np.arange(5)
    (tmp_path / "secret.bin").write_bytes(np.arange(5).tobytes())
    return path


def test_hdf5_never_leaves_its_file(tmp_path, secret):
    def external_link(file):
        file["x"] = h5py.ExternalLink(str(secret), "/x")

    def soft_link(file):
        file["way"] = h5py.ExternalLink(str(secret), "/")
        file["a"] = h5py.SoftLink("/way/x")

    def external_storage(file):
        file.create_dataset("x", (5,), "i8", external=[(str(tmp_path / "secret.bin"), 0, 40)])

    def virtual(file):
        layout = h5py.VirtualLayout((5,), "i8")
        layout[:] = h5py.VirtualSource(str(secret), "x", (5,))
        file.create_virtual_dataset("x", layout)

    cases = {
        external_link: "'x' is a link to another file; external links are not followed",
        soft_link: "'a' is a soft link; links are not followed",
        external_storage: "'x' keeps its values in other files; expected values in this file",
        virtual: "'x' is a virtual dataset of other files; expected values in this file",
    }
    for make, reason in cases.items():
        path = tmp_path / f"{make.__name__}.h5"
        with h5py.File(path, "w") as file:
            make(file)
        for view in (open_table, open_dataset):
            with pytest.raises(DatasetError, match=reason):
                view(path)


def test_hdf5_claims(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("x", (10**12,), "i8", chunks=(1000,))
    with pytest.raises(DatasetError, match="'x' claims 8000000000000 bytes of values and stores 0"):
        open_table(path)
    with h5py.File(path, "w") as file:
        file.create_dataset("x", (4 * 10**7,), "i8", chunks=(4 * 10**7,), compression="gzip")[:10] = 1
    with pytest.raises(DatasetError, match="blocks of 320000000 bytes"):
        open_table(path)
    with h5py.File(path, "w") as file:
        file["loop"] = file["/"]
        file["x"] = np.arange(3)
        file["again"] = file["x"]
    assert len(open_table(path).schema) == 1
    with h5py.File(path, "w") as file:
        file["x"] = np.zeros(3, np.complex128)
    with pytest.raises(DatasetError, match="'x' holds complex128; expected integers, floats, booleans or strings"):
        open_table(path)


def test_hdf5_string_that_claims_more_than_the_file_has(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["x"] = ["one", "two", "three"]
        place = file["x"].id.get_offset()
    content = bytearray(path.read_bytes())
    assert content[place : place + 4] == struct.pack("<I", 3)
    content[place : place + 4] = struct.pack("<I", 2**31)
    path.write_bytes(content)
    with pytest.raises(DatasetError, match="'x' claims 2147483656 bytes of values from row 1 on"):
        open_table(path)


def test_hdf5_heap_on_which_its_library_never_returns(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["x"] = ["one", "two", "three"]
    content = bytearray(path.read_bytes())
    heap = content.index(b"GCOL\x01\0\0\0")
    content[heap + 16 : heap + 32] = bytes(16)  # an object without a number that takes no bytes
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=f"not a whole HDF5 file: the heap of strings at byte {heap} is damaged"):
        open_table(path)


def test_arrow_offsets_that_leave_the_file(tmp_path):
    path = tmp_path / "a.arrow"
    batch = pa.record_batch({"x": ["aa", "bb", "cc"]})
    with pa.ipc.new_file(path, batch.schema) as writer:
        writer.write_batch(batch)
    content = path.read_bytes()
    offsets = struct.pack("<4i", 0, 2, 4, 6)
    assert content.count(offsets) == 1
    path.write_bytes(content.replace(offsets, struct.pack("<4i", 0, 2**30, -5, 6)))
    with pytest.raises(DatasetError, match="not whole Arrow data"):
        list(open_table(path).stream())
