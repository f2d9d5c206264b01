"""The embedded demonstration's damage: known, repeatable, and as large as it says."""

import numpy as np

from validation.datasets import open_dataset
from validation.demonstration import spoil, write_rows


def _rows(count):
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcdefghij"), 6)) for _ in range(300)]
    return [" ".join(rng.choice(words, 12)) + f" end{i}" for i in range(count)]


def test_three_fifths_are_spoiled_and_the_rest_untouched():
    rows = _rows(100)
    damaged, bad = spoil(rows, 1)
    assert len(damaged) == len(bad) == 100
    assert bad.sum() == 16 + 20 + 20  # four of five copies, all templates, all shuffled rows
    assert all(row in rows for row, spoiled in zip(damaged, bad, strict=True) if not spoiled)
    again, bad_again = spoil(rows, 1)
    assert again == damaged
    assert (bad_again == bad).all()


def test_rows_survive_the_way_through_a_file(tmp_path):
    rows = ["plain", 'quote " and \\ and \n newline', "Ünï \u2028 odd"]
    write_rows(tmp_path / "rows.jsonl", rows)
    (batch,) = open_dataset(tmp_path / "rows.jsonl").stream()
    assert batch.column("text").to_pylist() == rows
    assert [p.name for p in tmp_path.iterdir()] == ["rows.jsonl"]
