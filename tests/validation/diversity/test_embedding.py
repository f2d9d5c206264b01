"""Rows as points: alike where values are, the same for every cut into batches, defined for every type of column."""

import datetime
import decimal
import re
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from validation.diversity.embedding import CategoryColumn, Embedding, NumberColumn, TextColumn, compressed
from validation.diversity.word_vectors import LONGEST_BYTES, PIECE_BYTES, text_bytes, word_counts, word_hashes

DAY = datetime.date(2024, 5, 1)
ROWS = 60
COLUMNS = {
    "int": pa.array([*range(ROWS - 1), None], pa.int8()),
    "unsigned": pa.array([2**64 - 1 - (i << 20) for i in range(ROWS)], pa.uint64()),
    "float": pa.array([float("nan"), float("inf"), -float("inf"), None, *(i / 7 for i in range(ROWS - 4))]),
    "half": pa.array(np.arange(ROWS).astype(np.float16)),
    "decimal": pa.array([decimal.Decimal(i) / 100 for i in range(ROWS)], pa.decimal128(12, 2)),
    "date": pa.array([DAY + datetime.timedelta(i) for i in range(ROWS)]),
    "time": pa.array([datetime.time(i % 24, i) for i in range(ROWS)], pa.time32("s")),
    "stamp": pa.array([datetime.datetime(2024, 1, 1 + i % 28, tzinfo=datetime.UTC) for i in range(ROWS)]),
    "duration": pa.array([datetime.timedelta(seconds=i) for i in range(ROWS)]),
    "bool": pa.array([i % 3 == 0 for i in range(ROWS)]),
    "category": pa.array([None if i == 5 else "abc"[i % 3] for i in range(ROWS)]),
    "dictionary": pa.array(["xyz"[i % 3] for i in range(ROWS)]).dictionary_encode(),
    "view": pa.array(["uv"[i % 2] for i in range(ROWS)], pa.string_view()),
    "binary": pa.array([b"\xff\x00" if i % 2 else b"ok" for i in range(ROWS)]),
    "text": pa.array(["" if i == 3 else f"row {i} tells of the number {i * i} and more" for i in range(ROWS)]),
    "list": pa.array([[i % 2, None] for i in range(ROWS)]),
    "struct": pa.array([{"role": "user", "content": f"question {i} about many other things"} for i in range(ROWS)]),
    "key": pa.array([f"id-{i}" for i in range(ROWS)]),
    "null": pa.nulls(ROWS),
    "constant": pa.array(["same"] * ROWS),
    "interval": pa.array([pa.MonthDayNano([i % 2, 0, 0]) for i in range(ROWS)]),
}


def batch_of(**columns):
    return pa.RecordBatch.from_pydict(columns)


@pytest.mark.parametrize("name", COLUMNS)
def test_every_type_of_column_is_embedded_or_left_out_with_a_reason(name):
    batch = batch_of(other=pa.array(range(ROWS)), **{name: COLUMNS[name]})
    embedding = Embedding.fit(batch)
    points = embedding.embed(batch)
    assert points.shape == (ROWS, embedding.width)
    assert points.dtype == np.float32
    assert np.isfinite(points).all()
    assert np.array_equal(points * 1024, np.rint(points * 1024))
    left_out = dict(embedding.left_out)
    assert (name in left_out) == (name in {"key", "null", "constant"})
    if name not in left_out:
        changed = batch.set_column(1, name, pa.concat_arrays([COLUMNS[name][1:], COLUMNS[name][:1]]))
        assert not np.array_equal(embedding.embed(changed), points)


def test_points_do_not_depend_on_batches_or_on_other_columns():
    whole = batch_of(**COLUMNS)
    embedding = Embedding.fit(whole, seed=3)
    assert embedding.width == 64  # projected
    points = embedding.embed(whole)
    cut = [embedding.embed(whole.slice(start, 7)) for start in range(0, ROWS, 7)]
    assert np.array_equal(np.concatenate(cut), points)
    assert np.array_equal(embedding.embed(whole.select(embedding.names)), points)
    assert not np.array_equal(Embedding.fit(whole, seed=4).embed(whole), points)


def test_the_same_in_another_process():
    program = (
        "import pyarrow as pa, numpy as np; from validation.diversity.embedding import Embedding;"
        "b = pa.RecordBatch.from_pydict({'t': ['a b c', 'b c d', 'x y z'], 'c': ['u', 'u', 'v'], 'n': [1, 2, 9]});"
        "print((Embedding.fit(b, seed=1).embed(b) * 1024).astype(int).tolist())"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    batch = batch_of(t=["a b c", "b c d", "x y z"], c=["u", "u", "v"], n=[1, 2, 9])
    embedding = Embedding.fit(batch, seed=1)
    assert [type(column) for column in embedding.columns] == [TextColumn, CategoryColumn, NumberColumn]
    assert found.strip() == str((embedding.embed(batch) * 1024).astype(int).tolist())


def test_numbers_are_deviations_and_outliers_stay_farthest():
    values = np.random.default_rng(0).normal(50, 3, 4_000)
    column = Embedding.fit(batch_of(x=values)).columns[0]
    assert isinstance(column, NumberColumn)
    assert column.center == pytest.approx(50, abs=0.2)
    assert column.scale == pytest.approx(3, rel=0.05)
    rising = compressed(np.array([-1e308, -1e9, -5.0, -4.0, 0.0, 4.0, 5.0, 1e9, 1e308, np.inf]), 0.0, 1.0)
    assert np.all(np.diff(rising)[:-1] > 0)
    assert rising[3:6].tolist() == [-4.0, 0.0, 4.0]
    assert abs(rising).max() < 1_000


def test_a_column_of_mostly_one_number_is_scaled_by_what_differs():
    column = Embedding.fit(batch_of(x=[0.0] * 97 + [100.0, 200.0, 300.0])).columns[0]
    assert isinstance(column, NumberColumn)
    assert 10 < column.scale < 300


def test_null_is_told_from_the_median_where_the_sample_had_any():
    points = Embedding.fit(batch := batch_of(x=[1.0, 2.0, 3.0, None])).embed(batch)
    assert points[1].tolist() == [0.0, 0.0]
    assert points[3].tolist() == [0.0, 1.0]
    unseen = Embedding.fit(batch_of(x=[1.0, 2.0, 3.0])).embed(batch)
    assert unseen[3].tolist() == [0.0]


def test_categories_lie_apart_and_texts_of_one_subject_together():
    about = {
        "ships": "the old ship sailed over the wide sea to a harbour and the sailors sang of storms and waves",
        "food": "boil the fresh pasta in salted water then add tomato garlic basil and a spoon of olive oil",
    }
    rng = np.random.default_rng(0)
    subjects = np.repeat(list(about), 100)
    texts = [" ".join(rng.permutation(about[subject].split())[:8]) for subject in subjects]
    batch = batch_of(text=texts, kind=[f"k{i % 12}" for i in range(200)])
    points = Embedding.fit(batch).embed(batch)
    text, kind = points[:, :32], points[:, 32:]
    likeness = text @ text.T
    assert likeness[:100, :100].mean() > likeness[:100, 100:].mean() + 0.2
    distinct = np.unique(kind, axis=0)
    assert len(distinct) == 12
    assert np.linalg.norm(distinct, axis=1) == pytest.approx(1, abs=0.01)


def reference_words(text):
    words = re.findall(rb"(?:[0-9A-Za-z]|[\x80-\xff])+", text.encode()[:LONGEST_BYTES])
    return [w.lower()[i : i + PIECE_BYTES] for w in words for i in range(0, len(w), PIECE_BYTES)]


@given(texts=st.lists(st.one_of(st.none(), st.text("aB1 -é今", max_size=40), st.just("ab " * 300)), max_size=8))
def test_words_are_those_of_a_regular_expression(texts):
    array = pa.array(["padding", *texts], pa.large_string())[1:]
    hashes, starts = word_hashes(*text_bytes(array))
    words = [reference_words(text or "") for text in texts]
    assert np.diff(starts).tolist() == [len(row) for row in words]
    by_name = {}
    for name, value in zip((word for row in words for word in row), hashes.tolist(), strict=True):
        assert by_name.setdefault(name, value) == value
    assert len(set(by_name.values())) == len(by_name)
    counts = word_counts(array)
    assert counts.sum(axis=1).tolist() == [len(row) for row in words]


def test_keys_are_embedded_where_there_is_nothing_else():
    embedding = Embedding.fit(batch_of(key=[f"id-{i}" for i in range(50)]))
    assert [type(column) for column in embedding.columns] == [TextColumn]


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (batch_of(x=pa.array([], pa.int64())), "sample: no rows"),
        (batch_of(x=[1, 1], y=pa.nulls(2)), r"no column tells rows apart: x \(one value\), y \(no values\)"),
    ],
)
def test_samples_without_rows_or_differences_are_refused(batch, message):
    with pytest.raises(ValueError, match=message):
        Embedding.fit(batch)


def test_excluded_columns_are_not_read():
    embedding = Embedding.fit(batch_of(x=[1, 2, 3], y=[1, 2, 3]), exclude=["y"])
    assert embedding.names == ["x"]
    assert embedding.left_out == (("y", "excluded"),)
