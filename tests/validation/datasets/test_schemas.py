"""Schemas: recognised from columns, rendered plainly, trained from the response on."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.validation.datasets.table_files import write
from validation.datasets import DatasetError, open_dataset, open_table

TURNS = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "Bye"},
]
SHARED = [{"from": "system", "value": "Be brief."}, {"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yo"}]

CASES = {
    "instruction": (
        {"instruction": "Add", "input": "1 2", "output": "3"},
        ("instruction", "input", "output"),
        "Add\n\n1 2\n\n3",
        "3",
    ),
    "instruction with an empty input": (
        {"Prompt": "Add", "input": "", "completion": "3", "text": "all of it"},
        ("Prompt", "input", "completion"),
        "Add\n\n3",
        "3",
    ),
    "instruction without context": ({"question": "Q", "answer": "A"}, ("question", "answer"), "Q\n\nA", "A"),
    "instruction without response": ({"question": "Q", "answer": None}, ("question", "answer"), "Q", ""),
    "chat": (
        {"id": "x", "messages": TURNS},
        ("messages",),
        "user: Hi\n\nassistant: Hello\n\nuser: Bye",
        "Hello\n\nuser: Bye",
    ),
    "chat, shared form": (
        {"conversations": SHARED},
        ("conversations",),
        "system: Be brief.\n\nhuman: Hi\n\ngpt: Yo",
        "Yo",
    ),
    "chat without a respondent": (
        {"conversation": [{"role": "Ann", "content": "Hi"}]},
        ("conversation",),
        "Ann: Hi",
        "Ann: Hi",
    ),
    "preference": ({"prompt": "P", "chosen": "C", "rejected": "R"}, ("prompt", "chosen"), "P\n\nC", "C"),
    "preference of conversations": (
        {"prompt": "Hi", "chosen": TURNS[:2], "rejected": TURNS[:1]},
        ("prompt", "chosen"),
        "user: Hi\n\nassistant: Hello",
        "Hello",
    ),
    "plain by name": ({"title": "T", "content": "C"}, ("content",), "C", "C"),
    "plain by being the only text": ({"id": 3, "review": "R"}, ("review",), "R", "R"),
}


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
@pytest.mark.parametrize("case", CASES)
def test_recognised_and_rendered(tmp_path, read, case, suffix):
    row, fields, text, trained = CASES[case]
    path = tmp_path / f"data.{suffix}"
    if suffix == "jsonl":
        path.write_text(json.dumps(row), encoding="utf-8")
    else:
        pq.write_table(pa.Table.from_pylist([row], _strings_for_null(row)), path)
    metadata = open_dataset(path).metadata
    assert (metadata.schema, metadata.fields) == (case.split()[0].rstrip(","), fields)
    assert metadata.columns == tuple(row)
    assert read(path) == [(0, 1, text, len(text) - len(trained))]


FLAT = ("csv", "tsv", "csv.gz", "xlsx", "h5")
"""Formats whose cells hold no lists: conversations stand in them as JSON."""


@pytest.mark.parametrize("suffix", [*FLAT, "json", "jsonl.zst", "arrow", "arrows", "feather"])
@pytest.mark.parametrize("case", CASES)
def test_every_format_gives_the_same_text(tmp_path, read, case, suffix):
    row, fields, text, trained = CASES[case]
    if suffix in FLAT:
        row = {name: json.dumps(value) if isinstance(value, list) else value for name, value in row.items()}
        row = {name: "" if value is None else value for name, value in row.items()}
    path = tmp_path / f"data.{suffix}"
    write(pa.Table.from_pylist([row], _strings_for_null(row)), path)
    metadata = open_dataset(path).metadata
    assert (metadata.schema, metadata.fields) == (case.split()[0].rstrip(","), fields)
    assert metadata.columns == tuple(row)
    assert read(path) == [(0, 1, text, len(text) - len(trained))]
    assert open_table(path).metadata.kind == ("tabular" if case == "plain by being the only text" else "text")


@pytest.mark.parametrize("suffix", FLAT)
def test_conversation_that_is_no_json_is_a_bad_row(tmp_path, suffix):
    path = tmp_path / f"data.{suffix}"
    write(pa.table({"id": [1, 2], "messages": [json.dumps(TURNS), "[broken"]}), path)
    with pytest.raises(DatasetError, match=r"row 2: 'messages' holds string, expected a list of messages"):
        list(open_dataset(path).stream())


def _strings_for_null(row):
    schema = pa.Table.from_pylist([row]).schema
    return pa.schema([(field.name, pa.string() if pa.types.is_null(field.type) else field.type) for field in schema])


def test_text_column_wins_over_the_schema(tmp_path, read):
    path = tmp_path / "data.csv"
    path.write_text("instruction,output,note\nAdd,3,why\n", encoding="utf-8")
    assert read(path, text_column="note") == [(0, 1, "why", 0)]
    assert open_dataset(path, text_column="note").metadata.schema == "plain"


def test_csv_column_of_numbers_is_no_text(tmp_path, read):
    path = tmp_path / "data.csv"
    path.write_text("id,review\n1,good\n2.5e3,\n", encoding="utf-8")
    assert [text for _, _, text, _ in read(path)] == ["good", ""]


def test_optional_field_may_be_missing_from_rows_and_files(tmp_path, read):
    for name, row in {
        "a": {"instruction": "I", "output": "O"},
        "b": {"instruction": "I", "input": "X", "output": "O"},
    }.items():
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row), encoding="utf-8")
    assert [text for _, _, text, _ in read(tmp_path)] == ["I\n\nO", "I\n\nX\n\nO"]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"text": 3}, "'text' holds number, expected text"),
        ({"text": ["a"]}, "'text' holds array"),
        ({"text": True}, "'text' holds true or false"),
        ({"body": "b"}, "no field 'text'"),
        (7, "expected a JSON object or string, found number"),
        ({"text": "\ud800"}, "surrogate"),
    ],
)
def test_values_that_are_no_text_are_bad_rows(tmp_path, read, row, reason):
    path = tmp_path / "data.jsonl"
    path.write_text('{"text": "fine"}\n' + json.dumps(row), encoding="utf-8")
    with pytest.raises(DatasetError, match=f"row 2: .*{reason}"):
        read(path)
    dataset = open_dataset(path, skip_bad_rows=True)
    assert [batch.num_rows for batch in dataset.stream()] == [1]
    assert [(row, reason in why) for _, row, why in dataset.skipped] == [(2, True)]


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ("hello", "holds string, expected a list"),
        ([3], "message that is number"),
        ([{"role": "user"}], "without 'content'"),
    ],
)
def test_messages_that_are_none_are_bad_rows(tmp_path, read, messages, reason):
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps({"messages": TURNS}) + "\n" + json.dumps({"messages": messages}), encoding="utf-8")
    with pytest.raises(DatasetError, match=f"row 2: .*{reason}"):
        read(path)


def test_of_many_columns_the_first_are_named(tmp_path):
    path = tmp_path / "data.csv"
    path.write_text(",".join(f"c{n}" for n in range(1000)) + "\n" + ",".join("a" for _ in range(1000)) + "\n")
    with pytest.raises(DatasetError, match=r"columns: c0, (c\d+, ){18}c19 and 980 more; name one with --text-column"):
        open_dataset(path)


def test_unknown_columns_ask_for_the_text_column(tmp_path):
    path = tmp_path / "data.csv"
    path.write_text("goal,target\na,b\n", encoding="utf-8")
    with pytest.raises(DatasetError, match=r"columns: goal, target; name one with --text-column"):
        open_dataset(path)
    with pytest.raises(DatasetError, match=r"no column 'gaol'; columns: goal, target; did you mean 'goal'\?"):
        open_dataset(path, text_column="gaol")
