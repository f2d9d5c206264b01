"""JSON, JSON Lines, CSV, TSV and Parquet: the row that is named really is the row."""

import csv
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from validation.datasets import DatasetError, open_dataset

TEXTS = st.lists(
    st.one_of(st.text(max_size=12), st.sampled_from(['"', ",", "\t", "\r", "a\nb", '"a"\n"', "\0"])), min_size=1
)
same_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def kept(text):
    return text if text.strip() else ""


def expected(texts):
    return [(0, row, kept(text), 0) for row, text in enumerate(texts, start=1)]


@same_folder
@given(texts=TEXTS, blanks=st.lists(st.sampled_from(["", " ", "\t"]), max_size=4), escaped=st.booleans())
def test_json_lines_number_rows_by_line(tmp_path, read, texts, blanks, escaped):
    path = tmp_path / "data.jsonl"
    gap = "\n".join(blanks) + "\n" if blanks else ""
    lines = [json.dumps({"text": text}, ensure_ascii=escaped) for text in texts]
    path.write_bytes((gap + "".join(line + "\n" + gap for line in lines)).encode())
    file = path.read_text(encoding="utf-8").split("\n")
    rows = read(path)
    assert [text for _, _, text, _ in rows] == [kept(text) for text in texts]
    assert [kept(json.loads(file[row - 1])["text"]) for _, row, _, _ in rows] == [kept(text) for text in texts]


@same_folder
@given(texts=TEXTS, wrapped=st.booleans(), bare=st.booleans())
def test_json_numbers_rows_by_element(tmp_path, read, texts, wrapped, bare):
    path = tmp_path / "data.json"
    array = texts if bare and not wrapped else [{"text": text, "id": 1} for text in texts]
    path.write_text(json.dumps({"version": 1, "names": ["a"], "data": array} if wrapped else array), encoding="utf-8")
    assert read(path) == expected(texts)


@same_folder
@given(texts=TEXTS, mark=st.sampled_from(["\n", "\r\n"]))
@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_delimited_numbers_rows_by_record(tmp_path, read, suffix, texts, mark):
    path = tmp_path / f"data.{suffix}"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(
            file, delimiter="," if suffix == "csv" else "\t", lineterminator=mark, quoting=csv.QUOTE_ALL
        )
        writer.writerows([("id", "text"), *((str(row), text) for row, text in enumerate(texts))])
    assert read(path) == expected(texts)


@same_folder
@given(texts=TEXTS)
@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_parquet_numbers_rows_by_record(tmp_path, read, texts, kind):
    path = tmp_path / "data.parquet"
    table = pa.table({"id": range(len(texts)), "text": pa.array([*texts[:-1], None]).cast(kind)})
    pq.write_table(table, path, row_group_size=2)
    assert read(path) == expected([*texts[:-1], ""])


@same_folder
@given(good=st.lists(st.booleans(), min_size=1, max_size=30), chunk_rows=st.integers(1, 7))
@pytest.mark.parametrize("suffix", ["jsonl", "csv", "json"])
def test_skipped_rows_are_counted_and_the_others_keep_their_numbers(tmp_path, suffix, good, chunk_rows):
    good = [*good, True]
    lines = {
        "jsonl": ['{"text": "t%d"}' if fine else '{"text": %d' for fine in good],
        "csv": ["t%d,1" if fine else "t%d" for fine in good],
        "json": ['{"text": "t%d"}' if fine else '{"text": %d}' for fine in good],
    }[suffix]
    lines = [line % row for row, line in enumerate(lines, start=1)]
    text = {"csv": "text,id\n" + "\n".join(lines), "json": "[" + ",".join(lines) + "]"}.get(suffix, "\n".join(lines))
    path = tmp_path / f"data.{suffix}"
    path.write_text(text, encoding="utf-8")
    bad = [row for row, fine in enumerate(good, start=1) if not fine]

    dataset = open_dataset(path, skip_bad_rows=True)
    for _ in range(2):
        batches = list(dataset.stream(chunk_rows))
        rows = [row for batch in batches for row in batch.to_pylist()]
        assert [(row["row"], row["text"]) for row in rows] == [(n, f"t{n}") for n, fine in enumerate(good, 1) if fine]
        assert [(file, row) for file, row, _ in dataset.skipped] == [(path.name, row) for row in bad]
    assert {batch.num_rows for batch in batches[:-1]} <= {chunk_rows}
    if bad:
        with pytest.raises(DatasetError, match=rf"data\.{suffix}: row {bad[0]}: "):
            list(open_dataset(path).stream())


def test_unquoted_tsv_keeps_its_quotes_and_rows(tmp_path, read):
    path = tmp_path / "data.tsv"
    path.write_text('text\tlabel\n"Stop" he said\t1\n"open\t2\nshut"\t3\n', encoding="utf-8")
    assert [text for _, _, text, _ in read(path)] == ['"Stop" he said', '"open', 'shut"']


def test_csv_field_longer_than_the_default_limit(tmp_path, read):
    buffer = io.StringIO()
    csv.writer(buffer).writerows([["text"], ["x, " * 100_000]])
    path = tmp_path / "data.csv"
    path.write_text(buffer.getvalue(), encoding="utf-8")
    assert len(read(path)[0][2]) == 300_000


def test_parquet_reads_only_the_columns_of_its_schema(tmp_path, read, monkeypatch):
    path = tmp_path / "data.parquet"
    pq.write_table(pa.table({"text": ["a"], "embedding": [[0.5] * 8]}), path)
    asked = []
    original = pq.ParquetFile.iter_batches
    monkeypatch.setattr(
        pq.ParquetFile,
        "iter_batches",
        lambda *args, columns, **kw: asked.append(columns) or original(*args, columns=columns, **kw),
    )
    assert read(path) == [(0, 1, "a", 0)]
    assert asked == [["text"]]
