"""The table: three files that grow a line at a time and survive a run that was killed."""

import json
import os

import pytest

from validation.bench.table import FORMAT, Table, TableError


def case(name, hashed="h"):
    return {"id": name, "hash": hashed, "corpus": "c"}


def label(name, verdict="clean", hashed="h"):
    return {"id": name, "hash": hashed, "verdict": verdict}


def written(folder, name="cases"):
    return (folder / f"{name}.jsonl").read_text(encoding="utf-8")


def test_what_was_added_is_there_after_reloading(tmp_path):
    table = Table(tmp_path / "deep" / "table")
    assert table.status() == {"clean": 0, "collapsing": 0, "grey": 0, "pending": 0}
    assert not (tmp_path / "deep").exists()
    table.cases.add(case("a/ü"))
    table.controls.add({"id": "a/1000", "losses": {"all": [[1.0, 2.0]]}})
    table.labels.add(label("a/ü", "grey"))
    for found in (table, Table(table.folder)):
        assert found.cases.names() == ["a/ü"]
        assert found.cases.get("a/ü")["corpus"] == "c"
        assert found.cases.get("b") is None
        assert found.controls.get("a/1000")["losses"] == {"all": [[1.0, 2.0]]}
        assert found.label("a/ü")["verdict"] == "grey"
        assert dict(found.labels.items())["a/ü"]["hash"] == "h"
    assert sorted(path.name for path in table.folder.iterdir()) == ["cases.jsonl", "controls.jsonl", "labels.jsonl"]
    assert json.loads(written(table.folder, "labels")) == {"format": FORMAT, **label("a/ü", "grey")}


def test_every_line_is_on_disk_when_add_returns(tmp_path):
    table = Table(tmp_path)
    for number in range(3):
        table.cases.add(case(f"{number}"))
        assert len(written(tmp_path).splitlines()) == number + 1


def test_the_last_line_of_a_name_counts_and_keeps_its_place(tmp_path):
    table = Table(tmp_path)
    for line in (case("a"), case("b"), case("a", "new")):
        table.cases.add(line)
    for found in (table, Table(tmp_path)):
        assert found.cases.names() == ["a", "b"]
        assert found.cases.get("a")["hash"] == "new"
    assert len(written(tmp_path).splitlines()) == 3  # nothing is rewritten


@pytest.mark.parametrize("half", ['{"format": 1, "id": "c", "ha', "{", '{"format": 1, "id": "b"}', "{ü"])
def test_half_a_line_at_the_end_is_dropped_and_the_file_repaired(tmp_path, half):
    table = Table(tmp_path)
    table.cases.add(case("a"))
    before = written(tmp_path)
    with (tmp_path / "cases.jsonl").open("ab") as file:
        file.write(half.encode())
    again = Table(tmp_path)
    assert again.cases.names() == ["a"]
    again.cases.add(case("b"))
    again.cases.add(case("c"))
    lines = written(tmp_path).splitlines(keepends=True)
    assert lines[0] == before
    assert [json.loads(line)["id"] for line in lines] == ["a", "b", "c"]
    assert Table(tmp_path).cases.names() == ["a", "b", "c"]


def test_reading_alone_repairs_nothing(tmp_path):
    """`status` beside a run that is writing must not cut what that run writes."""
    path = tmp_path / "cases.jsonl"
    path.write_text('{"format": 1, "id": "a", "hash": "h"}\n{"format"', encoding="utf-8")
    before = (path.read_bytes(), os.stat(path).st_mtime_ns)
    assert Table(tmp_path).status()["pending"] == 1
    assert (path.read_bytes(), os.stat(path).st_mtime_ns) == before


@pytest.mark.parametrize("broken", ["{nonsense", "[1, 2]", '"text"', '{"format": 1}', '{"id": "x"}', "", "null", "7"])
@pytest.mark.parametrize("name", ["cases", "controls", "labels"])
def test_a_broken_line_is_named_by_file_and_number(tmp_path, name, broken):
    whole = json.dumps({"format": FORMAT, **case("a")})
    path = tmp_path / f"{name}.jsonl"
    path.write_text("\n".join([whole, broken, whole, ""]), encoding="utf-8")
    with pytest.raises(TableError, match=r"line 2") as caught:
        Table(tmp_path)
    assert str(path) in str(caught.value)


def test_a_label_of_other_rows_does_not_count(tmp_path):
    table = Table(tmp_path)
    for line in (case("a"), case("b"), case("c"), case("d")):
        table.cases.add(line)
    table.labels.add(label("a", "clean"))
    table.labels.add(label("b", "clean", hashed="other"))
    table.labels.add(label("x", "clean"))  # no such case any more
    for found in (table, Table(tmp_path)):
        assert found.label("a")["verdict"] == "clean"
        assert found.label("b") is None
        assert found.label("x") is None
        assert [line["id"] for line in found.pending()] == ["b", "c", "d"]
        assert found.status() == {"clean": 1, "collapsing": 0, "grey": 0, "pending": 3}
    table.cases.add(case("a", "new"))
    assert table.label("a") is None
    table.labels.add(label("a", "collapsing", hashed="new"))
    assert table.label("a")["verdict"] == "collapsing"


def test_the_status_counts_verdicts(tmp_path):
    table = Table(tmp_path)
    for number, verdict in enumerate(["clean", "grey", "collapsing", "collapsing", None]):
        table.cases.add(case(f"{number}"))
        if verdict:
            table.labels.add(label(f"{number}", verdict))
    assert table.status() == {"clean": 1, "collapsing": 2, "grey": 1, "pending": 1}


def test_lines_of_another_format_do_not_count(tmp_path):
    lines = [{"format": FORMAT, **case("a")}, {"format": FORMAT + 1, **case("b")}, {"format": FORMAT - 1, **case("c")}]
    (tmp_path / "cases.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    assert Table(tmp_path).cases.names() == ["a"]
