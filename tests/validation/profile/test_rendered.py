"""The rendered text of instruction, chat and preference data against what `open_dataset` gives row by row."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.validation.datasets.development_data import development_data
from validation.datasets import open_dataset, open_table
from validation.datasets.schemas import BadValue, structured
from validation.diversity import TextStatistics
from validation.profile import compare, features, load, profile, save
from validation.profile.__main__ import main
from validation.profile.column import NGRAMS
from validation.profile.rendered import render, rendered_schema

TEXT = st.sampled_from(["", " ", "\n", "\x1c", "\u3000", "yes", "two words", "Zoë\n\nagain", "\u200b"])
MAYBE = st.none() | TEXT
TURN = pa.struct([("from", pa.string()), ("value", pa.string()), ("role", pa.large_string()), ("weight", pa.int8())])
TURNS = st.lists(st.fixed_dictionaries({"from": MAYBE, "value": MAYBE, "role": MAYBE}) | st.none(), max_size=4)
TABLES = {
    "instruction": ({"instruction": pa.string(), "Input": pa.string_view(), "output": pa.large_string()}, MAYBE),
    "instruction by dictionary": ({"question": pa.dictionary(pa.int8(), pa.string()), "answer": pa.string()}, MAYBE),
    "chat": ({"id": pa.string(), "conversations": pa.list_(TURN)}, st.none() | TURNS),
    "chat, large": ({"messages": pa.large_list(TURN)}, st.none() | TURNS),
    "chat of turns whose role is a number": (
        {"messages": pa.list_(pa.struct([("role", pa.int64()), ("content", pa.string())]))},
        st.lists(st.fixed_dictionaries({"role": st.none() | st.just(3), "content": TEXT}), max_size=2),
    ),
    "chat of turns without content": (
        {"messages": pa.list_(pa.struct([("role", pa.string())]))},
        st.lists(st.fixed_dictionaries({"role": TEXT}), max_size=2),
    ),
    "chat of full turns": (
        {"messages": pa.list_(TURN)},
        st.lists(st.fixed_dictionaries({"role": st.just("user"), "value": TEXT}), max_size=4),
    ),
    "preference": ({"prompt": pa.string(), "chosen": pa.string(), "rejected": pa.string()}, MAYBE),
    "preference of conversations": ({"chosen": pa.list_(TURN), "rejected": pa.list_(TURN)}, st.none() | TURNS),
}


def by_row(schema, data):
    """Rows as `Dataset.stream` renders them."""
    texts = []
    for row in data.select(list(schema.fields)).to_pylist():
        try:
            text = schema.render(row)[0]
        except BadValue:
            texts.append(None)
        else:
            texts.append("" if text.isspace() else text)
    return texts


@pytest.mark.parametrize("case", TABLES)
@given(data=st.data())
def test_arrow_renders_what_the_reader_renders(case, data):
    columns, values = TABLES[case]
    rows = data.draw(st.integers(0, 6))
    arrays = [
        pa.array(data.draw(st.lists(MAYBE if of == pa.string() else values, min_size=rows, max_size=rows)), of)
        for of in columns.values()
    ]
    start = data.draw(st.integers(0, rows))
    batch = pa.record_batch(arrays, names=list(columns)).slice(start)
    kinds = {name: "list" if pa.types.is_nested(of) else "string" for name, of in columns.items()}
    schema = structured(kinds)
    assert schema.name == case.split()[0].rstrip(",")
    assert render(schema, batch).to_pylist() == by_row(schema, batch)


def conversations(rows, seed=0):
    rng = np.random.default_rng(seed)
    words = np.array([f"word{place}" for place in range(60)])
    return [
        [
            {"role": role, "content": " ".join(rng.choice(words, 5))}
            for _ in range(rng.integers(1, 4))
            for role in ("user", "assistant")
        ]
        for _ in range(rows)
    ]


def written(folder, suffix, chats):
    path = folder / f"chats.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.table({"id": range(len(chats)), "messages": chats}), path, row_group_size=70)
    else:
        texts = (json.dumps({"id": place, "messages": chat}) for place, chat in enumerate(chats))
        path.write_text("\n".join(texts), encoding="utf-8")
    return path


def equal_to_the_dataset(found, path):
    """Whether the rendered column has the figures of the rows that `open_dataset` gives."""
    expected = TextStatistics(NGRAMS)
    rows = {}
    for batch in open_dataset(path).stream():
        expected.update(batch.column("text"))
        rows |= dict(zip(batch.column("row").to_pylist(), batch.column("text").to_pylist(), strict=True))
    # As text, in which nan equals nan.
    assert repr(found.rendered.text.result()) == repr(expected.result())
    sample = found.sample
    assert sample.num_rows == min(len(rows), 10_000)
    kept = zip(sample["(row)"].to_pylist(), sample[found.rendered.leaf.name].to_pylist(), strict=True)
    assert all(rows[row][:4096] == text for row, text in kept)
    return expected.result()


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_chats_have_the_figures_of_their_text(tmp_path, suffix):
    path = written(tmp_path, suffix, conversations(300))
    found = profile(open_table(path))
    equal_to_the_dataset(found, path)
    assert [column.leaf.name for column in found.columns] == ["(chat)", "id", "messages[]"]
    assert found.sample.column_names == ["(file)", "(row)", "(chat)", "id", "messages[]"]
    figures = features(found)
    assert (figures["text_column_share"], figures["text_duplicate_share"]) == (0, 0)
    assert figures["text_length_log2_median"] > 5


def test_conversations_kept_as_json_are_rendered(tmp_path):
    path = tmp_path / "chats.csv"
    chats = conversations(40)
    quoted = ['"' + json.dumps(chat).replace('"', '""') + '"' for chat in chats]
    path.write_text("id,messages\n" + "\n".join(f"{place},{chat}" for place, chat in enumerate(quoted)))
    equal_to_the_dataset(profile(open_table(path)), path)


def test_alpaca_has_the_figures_of_its_text():
    path = development_data("hm_alpaca_5000") / "alpaca_5000.json"
    found = profile(open_table(path))
    assert found.rendered.leaf.name == "(instruction)"
    assert equal_to_the_dataset(found, path).rows == 5_000


def test_rendered_text_is_saved_merged_and_compared(tmp_path, capsys):
    chats = conversations(400)
    paths = []
    for name, part in (("a", chats[:150]), ("b", chats[150:])):
        (tmp_path / name).mkdir()
        paths.append(written(tmp_path / name, "parquet", part))
    left, right = (profile(open_table(path)) for path in paths)
    save(left, tmp_path / "p", {})
    left = load(tmp_path / "p")
    whole = profile(open_table(written(tmp_path, "parquet", chats)))
    merged = left.merge(right)
    assert repr(merged.rendered.text.result()) == repr(whole.rendered.text.result())
    assert merged.whole_rows.total == whole.whole_rows.total
    shouted = [[{**turn, "content": "now other words " * 3} for turn in chat] for chat in chats]
    changed = compare(profile(open_table(written(tmp_path, "jsonl", shouted))), whole)
    assert [one.name for one in changed.changed] == ["(chat)"]
    assert main([str(paths[0]), "--out", str(tmp_path / "out")]) == 0
    assert "150 rows of 2 columns" in capsys.readouterr().out
    assert "(chat)" in (tmp_path / "out" / "profile.html").read_text()
    other = tmp_path / "plain.parquet"
    pq.write_table(pa.table({"id": range(9), "messages": [[1]] * 9}), other)
    with pytest.raises(ValueError, match=r"only the first has '\(chat\)'"):
        left.merge(profile(open_table(other)))


def test_rows_that_cannot_be_rendered_are_nulls_and_tables_without_any_have_no_such_column(tmp_path):
    path = tmp_path / "chats.jsonl"
    rows = [[{"role": "user", "content": "Hi"}], [None], None]
    path.write_text("\n".join(json.dumps({"messages": row}) for row in rows))
    found = profile(open_table(path))
    assert (found.rendered.nulls, found.rendered.text.empty_rows) == (1, 2)
    survey = pa.record_batch({"question": ["How many?"] * 3, "answer": [1, 2, 3]})
    assert rendered_schema(survey.schema, survey) is None
    assert profile(open_table(path, kind="tabular")).rendered is None


def test_a_column_of_the_name_of_one_that_is_added_is_renamed(tmp_path):
    table = pa.table(
        {"prompt": ["Ask me"] * 60, "response": ["Tell me"] * 60, "(instruction)": range(60), "row": list("ab") * 30}
    )
    pq.write_table(table.append_column("(row)", [list("cd") * 30]), tmp_path / "t.parquet")
    found = profile(open_table(tmp_path / "t.parquet"))
    names = ["(instruction)", "prompt", "response", "(instruction) (2)", "row", "(row) (2)"]
    assert [column.leaf.name for column in found.columns] == names
    assert found.sample.column_names == ["(file)", "(row)", *names]
    assert not compare(found, found).drifted
