"""The two checks of the labels: they repeat what was labelled, with other seeds or for longer, and go on where they stopped."""

import json
import sys
from dataclasses import replace

import bench_world
import pytest
from bench_world import keep_only

from benchmarks import label_checks
from validation.bench.corpora import CORPORA
from validation.bench.labelling import Desk, build, label
from validation.bench.table import Table

TEXT = "tiny text"


@pytest.fixture
def table(tmp_path, monkeypatch, small):
    """One corpus of which everything is labelled."""
    monkeypatch.setitem(CORPORA, TEXT, bench_world.corpus("text"))
    keep_only(monkeypatch, "templates")
    monkeypatch.setenv("ATLAS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(label_checks, "compilation_cache", lambda: None)
    desk = Desk(Table(tmp_path / "table"), tmp_path / "cache" / "bench", lambda line: None)
    build(desk, [TEXT])
    label(desk, [TEXT], at_once=1)
    return tmp_path / "table"


def run(monkeypatch, table, *arguments):
    out = table.parent / "checks.jsonl"
    monkeypatch.setattr(sys, "argv", ["label_checks", *arguments, "--table", str(table), "--out", str(out)])
    label_checks.main()
    return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]


def test_a_repetition_with_the_same_seeds_gives_the_same_labels_and_with_others_other_numbers(table, monkeypatch):
    trained = []
    again = label_checks.again

    def recorded(whole, lines, seeds, longer):
        trained.append((len(lines), seeds, longer))
        return again(whole, lines, seeds, longer)

    monkeypatch.setattr(label_checks, "again", recorded)
    other = run(monkeypatch, table, "again", "--cases", "3")
    assert [line["name"] for line in other] == ["label.again"] * 3 + ["label.again.agreement"]
    assert trained == [(3, (101, 102, 103), 1)]
    assert len({line["case"] for line in other[:3]}) == 3
    clear = [line for line in other[:3] if "grey" not in (line["first"], line["second"])]
    assert other[3]["outside_grey"] == len(clear)
    assert other[3]["value"] == pytest.approx(sum(x["first"] == x["second"] for x in clear) / max(1, len(clear)))

    monkeypatch.setattr(label_checks, "OTHER_SEEDS", (0, 1, 2))
    (table.parent / "checks.jsonl").unlink()
    same = run(monkeypatch, table, "again", "--cases", "3")
    for line in same[:3]:
        assert line["value"] == pytest.approx(line["first_harm"], abs=1e-3)
        assert line["first"] == line["second"]
    assert any(abs(line["value"] - line["first_harm"]) > 1e-3 for line in other[:3])

    trained.clear()
    run(monkeypatch, table, "again", "--cases", "3")
    assert trained == []  # all three stand there already


def test_longer_training_is_four_times_as_long(table, monkeypatch):
    steps = []
    train = label_checks.train_cases

    def recorded(domain, cases, *, seeds):
        steps.append(domain.steps)
        return train(replace(domain, steps=20), cases, seeds=seeds)

    monkeypatch.setattr(label_checks, "train_cases", recorded)
    monkeypatch.setattr(
        label_checks,
        "train_controls",
        lambda domain, *, seeds: [
            steps.append(domain.steps) or c
            for c in train(replace(domain, steps=20), [domain.trusted, domain.pool], seeds=seeds)
        ],
    )
    found = run(monkeypatch, table, "longer", "--cases", "2", "--corpora", "1")
    assert steps == [80] * 4
    assert [line["name"] for line in found] == ["label.longer"] * 2 + ["label.longer.agreement"]
