"""A case as files: what other tools read is what the case is, and the held-out rows stay at home."""

import csv
import json

import pytest
from bench_world import keep_only, tiny

from validation.bench.cases import Recipe, make
from validation.bench.export import export
from validation.datasets import open_dataset

pytestmark = pytest.mark.usefixtures("small")


def written(path):
    if path.suffix == ".jsonl":
        return [tuple(json.loads(line).values()) for line in path.read_text(encoding="utf-8").splitlines()]
    with path.open(encoding="utf-8", newline="") as file:
        return [tuple(row) for row in csv.reader(file)][1:]


@pytest.mark.parametrize(
    ("kind", "corruption", "suffix"), [("text", "shuffle words", ".jsonl"), ("table", "random cells", ".csv")]
)
def test_files_hold_data_reference_and_bad_rows(tmp_path, kind, corruption, suffix):
    domain = tiny(kind)
    case = make(Recipe(domain.name, corruption, 0.2, 0), domain, tmp_path)
    data, reference, bad = export(case, domain, tmp_path / "case")
    assert {data.suffix, reference.suffix} == {suffix}
    assert written(data) == case.rows.cells
    assert written(reference) == domain.trusted.cells
    assert not set(domain.held_out.cells) & {*written(data), *written(reference)}
    numbers = json.loads(bad.read_text(encoding="utf-8"))
    assert 0 < len(numbers) < len(case.rows)
    clean = set(domain.pool.cells)
    assert all((case.rows.cells[number] in clean) != (number in numbers) for number in range(len(case.rows)))


def test_the_cascade_can_read_what_is_written(tmp_path, monkeypatch):
    keep_only(monkeypatch, "duplicates")
    domain = tiny("text")
    case = make(Recipe(domain.name, "duplicates", 2.0, 0), domain, tmp_path)
    data, *_ = export(case, domain, tmp_path / "case")
    batches = list(open_dataset(str(data), text_column="text").stream())
    assert [text for batch in batches for text in batch.column("text").to_pylist()] == [c[0] for c in case.rows.cells]
