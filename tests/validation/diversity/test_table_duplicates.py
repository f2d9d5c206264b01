"""Duplicates on disk are those found in memory, whatever the memory, the chunks, and how often the search is interrupted."""

import errno
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from validation.diversity import find_duplicates, table_duplicates
from validation.diversity import workspace as workspace_module
from validation.diversity.duplicate_rows import components as found_rows
from validation.diversity.table_duplicates import DuplicateSearch, find_table_duplicates
from validation.diversity.workspace import Workspace, WorkspaceError

NEAR = DuplicateSearch(near=True, memory_bytes=1 << 26)


def chunks_of(texts, size):
    return lambda: (
        (
            0 if start < 300 else 1,
            np.arange(start + 1, start + 1 + len(part)),
            pa.RecordBatch.from_pydict({"text": part}),
        )
        for start in range(0, len(texts), size)
        for part in [texts[start : start + size]]
    )


@pytest.fixture(scope="module")
def texts(clean_rows):
    """Rows, some empty, some copied, some with a word changed."""
    rng = np.random.default_rng(0)
    rows = [row for row in clean_rows[:600] if row.split()] + ["", " \n"]
    for row in rng.integers(0, 500, 150):
        words = rows[row].split()
        if len(words) > 20:
            words[3] = "changed"
        rows.append(" ".join(words))
    rows += [row.upper() for row in rows[:50]]
    return [rows[place] for place in rng.permutation(len(rows))]


def search_in(folder, texts, search=NEAR, chunk=100, facts=None):
    workspace = Workspace(folder, search.facts() | (facts or {}))
    found = find_table_duplicates(chunks_of(texts, chunk), search, workspace)
    rows = [row for batch in found_rows(("a", "b"), search, workspace) for row in batch.to_pylist()]
    return found, rows


@pytest.mark.parametrize(("chunk", "piece"), [(50, 1 << 20), (300, 5_000), (300, 1)])
def test_they_are_those_found_in_memory(texts, tmp_path, monkeypatch, chunk, piece):
    monkeypatch.setattr(table_duplicates, "PIECE_BYTES", piece)
    found, rows = search_in(tmp_path / "work", texts, chunk=chunk)
    expected = find_duplicates(texts)
    members = {row["row"] - 1: row for row in rows}
    groups = expected.group[expected.near_of >= 0]
    assert set(members) == set(np.flatnonzero(np.isin(expected.group, groups)).tolist())
    for place, row in members.items():
        assert row["component"] == expected.group[place]
        assert row["file"] == ("a" if place // chunk * chunk < 300 else "b")
        kind = "exact" if expected.exact_of[place] >= 0 else "near" if expected.near_of[place] >= 0 else "first"
        assert row["kind"] == kind
        of = expected.exact_of[place] if kind == "exact" else expected.near_of[place]
        assert row["of_row"] == (None if kind == "first" else of + 1)
        assert row["similarity"] == pytest.approx(1.0 if kind == "first" else expected.similarity[place])
    assert [row["component"] for row in rows] == sorted(row["component"] for row in rows)
    assert found.rows == len(texts)
    assert found.empty == expected.empty.sum() == 2
    assert found.copies == (expected.exact_of >= 0).sum()
    assert found.near == ((expected.near_of >= 0) & (expected.exact_of < 0)).sum() > 40
    assert found.components == len(set(groups.tolist()))


def test_exact_search_of_a_table_names_injected_rows_and_no_others(tmp_path):
    rng = np.random.default_rng(1)
    numbers, names = rng.normal(size=3000), rng.choice(["red", "green"], 3000)
    numbers[[77, 1500, 2999]], names[[77, 1500, 2999]] = numbers[5], names[5]
    numbers[78] = numbers[5]
    names[78] = "blue"
    batch = pa.RecordBatch.from_pydict({"x": numbers, "name": names})
    search = DuplicateSearch(memory_bytes=1 << 26)
    workspace = Workspace(tmp_path / "work", search.facts())
    found = find_table_duplicates(lambda: [(0, np.arange(1, 3001), batch)], search, workspace)
    rows = [row for part in found_rows(("t",), search, workspace) for row in part.to_pylist()]
    assert (found.copies, found.near, found.components) == (3, 0, 1)
    assert [(row["row"], row["kind"], row["of_row"]) for row in rows] == [
        (6, "first", None),
        (78, "exact", 6),
        (1501, "exact", 6),
        (3000, "exact", 6),
    ]


class Stop(Exception):
    """An interrupt at a known place."""


@pytest.mark.parametrize(("stage", "count"), [("signatures", 2), ("near duplicates", 3), ("exact copies", 1)])
def test_an_interrupted_search_goes_on_to_the_same_result(texts, tmp_path, monkeypatch, stage, count):
    monkeypatch.setattr(workspace_module, "NOTED_SECONDS", 0.0)
    monkeypatch.setattr("validation.diversity.texts.BLOCK_BYTES", 20_000)
    whole = search_in(tmp_path / "whole", texts)
    told = []

    def stop(name, done, all_of_it):
        told.append(name)
        if told.count(stage) == count:
            raise Stop

    folder = tmp_path / "work"
    with pytest.raises(Stop):
        find_table_duplicates(chunks_of(texts, 100), NEAR, Workspace(folder, NEAR.facts()), stop)
    kept = json.loads((folder / "run.json").read_text())["done"]
    assert "read" in kept

    def unread():
        raise AssertionError("what was read is not read again")

    workspace = Workspace(folder, NEAR.facts())
    assert find_table_duplicates(unread, NEAR, workspace) == whole[0]
    assert [row for b in found_rows(("a", "b"), NEAR, workspace) for row in b.to_pylist()] == whole[1]


def test_arrays_of_another_search_are_not_used(texts, tmp_path):
    search_in(tmp_path / "work", texts[:200])
    found, _ = search_in(tmp_path / "work", texts[:100], facts={"bytes": 1})
    assert found.rows == 100


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("dear")
    with pytest.raises(WorkspaceError, match="holds other files; expected an empty folder"):
        Workspace(tmp_path, {})
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("search", [DuplicateSearch(memory_bytes=1 << 26), NEAR])
def test_a_full_disk_is_one_line_and_what_was_done_stays(texts, tmp_path, monkeypatch, search):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(
        WorkspaceError, match=r"work: no space left on the disk of the working folder, 0 MB more are needed"
    ):
        search_in(tmp_path / "work", texts, search)
    monkeypatch.undo()
    assert search_in(tmp_path / "work", texts, search)[0].rows == len(texts)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full: the device on which every write fails")
def test_a_disk_that_is_full_while_reading_is_one_line_too(texts, tmp_path, monkeypatch):
    monkeypatch.setattr(Workspace, "append", lambda self, name: Path("/dev/full").open("wb"))  # noqa: SIM115  # the program closes it
    with pytest.raises(WorkspaceError, match="no space left on the disk of the working folder; choose another"):
        search_in(tmp_path / "work", texts)


def test_nothing_is_left_of_a_discarded_folder(texts, tmp_path):
    search_in(tmp_path / "work", texts)
    Workspace(tmp_path / "work", NEAR.facts()).discard()
    assert not (tmp_path / "work").exists()


def test_elements_here_and_there_are_those_of_the_array(tmp_path, monkeypatch):
    monkeypatch.setattr(workspace_module, "FAULT_BYTES", 1 << 20)
    released = []
    monkeypatch.setattr(Workspace, "release", lambda self: released.append(1))
    workspace = Workspace(tmp_path, {})
    array = workspace.create("pairs", np.int64, (5000, 2))
    array[:] = np.arange(10_000).reshape(5000, 2)
    rows = np.random.default_rng(0).integers(0, 5000, (2, 1500))
    assert (workspace.take(array, rows, 500 << 20) == array[rows]).all()
    assert len(released) == 6, "3000 elements, 500 of them at a time"
    assert workspace.take(array, rows[:, :0], 1).shape == (2, 0, 2)


@pytest.mark.parametrize(("field", "value"), [("threshold", 0.0), ("memory_bytes", 1000), ("workers", 0)])
def test_a_search_out_of_range_is_refused(field, value):
    with pytest.raises(ValueError, match=field):
        DuplicateSearch(**{field: value})
