"""Opening: files, folders and patterns, and one clear line for everything that cannot be read."""

import os
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.validation.datasets.development_data import development_data
from validation.datasets import DatasetError, open_dataset

TEXT_ERRORS = {
    "data.txt": [(" \n\n", "only blank lines")],
    "data.jsonl": [
        ("\n", "no rows"),
        ("{broken", "row 1: not JSON: .* at column 2"),
        ("[" * 100_000, "row 1: not JSON that can be read"),
    ],
    "data.json": [
        ('[{"text": "a"},\n {"text" "b"}]', "line 2, column 10"),
        ('{"text": "a"}\n3', r"line 2, column 1; .*\.jsonl"),
        ('{"a": [{"x": 1}], "b": [{"x": 1}]}', "exactly one list of objects; found .*: a, b"),
        ('{"a": ["x"]}', "found an object with lists of objects: none"),
        ("3", "found number"),
        ("[]", "no rows"),
        ("[1, 2]", "row 1: expected a JSON object or string, found number"),
        ("1" * 5000, "not JSON that can be read"),
    ],
    "data.csv": [
        ("\n\n", "only blank lines"),
        ("text,label\n", "a header but no rows"),
        ("text,label\na\n", "row 1: 1 fields; the header has 2"),
        ('text,label\na,1\nb,2,3\n"c,4\n', "row 2: 3 fields"),
        ('text,label\na,1\n"c,4\n', "row 2: broken quoting"),
        ('"text\n', "header"),
        ("text;label\na;1\n", "separated by ';'; expected ','"),
        ("text,text\na,1\n", "'text' more than once"),
    ],
    "data.parquet": [("PAR1 and no more", "not a whole Parquet file")],
    "data.pdf": [("x", r"unknown suffix '\.pdf'; known: \.txt, \.jsonl")],
}


@pytest.mark.parametrize(("name", "text", "reason"), [(n, *case) for n, cases in TEXT_ERRORS.items() for case in cases])
def test_bad_files_are_named_in_one_line(tmp_path, name, text, reason):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DatasetError, match=reason) as caught:
        list(open_dataset(path).stream())
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_missing_and_empty_places(tmp_path):
    (tmp_path / "reviews.csv").write_bytes(b"")
    cases = {
        "review.csv": r"did you mean 'reviews\.csv'\?",
        "reviews.csv": r"empty file \(0 bytes\)",
        "nowhere/a.csv": "folder .* does not exist",
        "*.jsonl": "no data files",
    }
    for name, reason in cases.items():
        with pytest.raises(DatasetError, match=reason):
            open_dataset(tmp_path / name)
    (tmp_path / "reviews.csv").unlink()
    (tmp_path / "README.md").write_text("about", encoding="utf-8")
    with pytest.raises(DatasetError, match="no data files; known suffixes"):
        open_dataset(tmp_path)


def test_cut_parquet(tmp_path):
    path = tmp_path / "data.parquet"
    pq.write_table(pa.table({"text": ["word " * 50] * 1000}), path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-30])
    with pytest.raises(DatasetError, match="not a whole Parquet file"):
        open_dataset(path)
    path.write_bytes(whole[:4] + b"\xff" * 60 + whole[64:])
    with pytest.raises(DatasetError, match=r"data\.parquet: "):
        list(open_dataset(path).stream())
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), path)
    with pytest.raises(DatasetError, match="no rows"):
        open_dataset(path)


def test_parquet_string_that_is_not_utf8(tmp_path):
    path = tmp_path / "data.parquet"
    raw = pa.array([b"fine", b"\xff"]).view(pa.string())
    pq.write_table(pa.table({"text": raw}), path)
    with pytest.raises(DatasetError, match="not UTF-8"):
        list(open_dataset(path).stream())


@pytest.fixture
def shards(tmp_path):
    for name in ("b.txt", "a.txt", "sub/c.txt", ".hidden.txt", ".git/d.txt", "README.txt", "LICENSE", "notes.md"):
        path = tmp_path / "shards" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"one of {name}\n\ntwo\n", encoding="utf-8")
    return tmp_path / "shards"


def test_folder_and_pattern_read_sorted_shards(shards, read):
    metadata = open_dataset(shards).metadata
    assert metadata.files == ("a.txt", "b.txt", os.path.join("sub", "c.txt"))
    assert metadata.bytes == sum((shards / name).stat().st_size for name in metadata.files)
    assert [(file, row) for file, row, _, _ in read(shards)] == [(0, 1), (0, 3), (1, 1), (1, 3), (2, 1), (2, 3)]
    assert open_dataset(f"{shards}/**/*.txt").metadata.files == metadata.files
    assert open_dataset(shards / "[ab].*").metadata.files == ("a.txt", "b.txt")
    assert open_dataset(shards / "b.txt").metadata.files == ("b.txt",)


def test_files_of_one_dataset_agree(shards):
    (shards / "b.csv").write_text("text\nx\n", encoding="utf-8")
    with pytest.raises(DatasetError, match=r"a\.txt is text and .*b\.csv is csv"):
        open_dataset(shards)
    (shards / "c.csv").write_text("instruction,output\nx,y\n", encoding="utf-8")
    with pytest.raises(DatasetError, match=r"b\.csv holds plain \(text\) and .*c\.csv holds instruction"):
        open_dataset(shards / "*.csv")


def test_stream_refuses_empty_batches_and_datasets_without_a_good_row(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text('{"text": 1}\n', encoding="utf-8")
    with pytest.raises(DatasetError, match=r"every row is bad; the first is row 1 of data\.jsonl: 'text' holds number"):
        list(open_dataset(path, skip_bad_rows=True).stream())
    with pytest.raises(ValueError, match="chunk_rows: 0; expected at least 1"):
        open_dataset(path).stream(0)
    (tmp_path / "a.txt").write_text("a", encoding="utf-8")
    with pytest.raises(DatasetError, match="plain text has no columns"):
        open_dataset(tmp_path / "a.txt", text_column="text")


def test_reviews_of_8_mb_load_quickly(read):
    path = development_data("text_movie_reviews/movie_reviews.jsonl")
    start = time.process_time()
    assert len(read(path)) == 2000
    assert time.process_time() - start < 3  # processor time; about 0.06 s


@pytest.mark.parametrize("path", ["fmt_parquet_testing/bad_data", "fmt_parquet_testing/data", "fmt_json_test_suite"])
def test_conformance_files_load_or_are_refused(path):
    """Files made to break readers: no crash, no error but ours."""
    files = [file for file in development_data(path).iterdir() if file.suffix in (".json", ".parquet")]
    opened, messages = 0, []
    for file in files:
        try:
            opened += sum(batch.num_rows for batch in open_dataset(file, skip_bad_rows=True).stream()) > 0
        except DatasetError as error:
            messages.append(str(error))
    assert opened + len(messages) == len(files)
    assert not any("\n" in message for message in messages)
    assert opened or "bad" in path
