"""`python -m validation.signatures` as its user runs it."""

import json
import shutil

import pytest

from validation.datasets import open_table
from validation.profile import profile, save
from validation.signatures.__main__ import main


@pytest.fixture
def world(tmp_path, monkeypatch, clean_profiles):
    monkeypatch.setenv("ATLAS_SIGNATURE_KEY", "k" * 40)
    monkeypatch.setenv("ATLAS_SIGNATURES", str(tmp_path / "library.json"))
    for name in ("a", "b"):
        shutil.copytree(clean_profiles / name, tmp_path / name)
    return tmp_path


@pytest.fixture(scope="module")
def clean_profiles(tmp_path_factory):
    folder = tmp_path_factory.mktemp("profiles")
    for name, last in (("a", "x"), ("b", "y")):
        data = folder / f"{name}.csv"
        data.write_text("n,name\n" + "".join(f"{n},{last}{n % 7}\n" for n in range(300)))
        save(profile(open_table(data), workers=1), folder / name, {})
    return folder


def run(capsys, *arguments, code=0):
    found = main([str(argument) for argument in arguments])
    told = capsys.readouterr()
    assert found == code, told
    return told.err if code else told.out


def add(capsys, profile, verdict="unknown", family="unclassified"):
    return run(capsys, "add", profile, "--source", "made", "--by", "me", "--verdict", verdict, "--family", family)


def test_from_nothing_to_a_match(world, capsys):
    assert "no records" in run(capsys, "list")
    assert "1 records, 0 before" in add(capsys, world / "a", "collapse", "duplication")
    assert "2 records, 1 before" in add(capsys, world / "b", "no collapse", "healthy")
    lines = run(capsys, "match", world / "a").splitlines()
    assert lines[0].startswith("uncalibrated: expected 20 records of each outcome, there are 1 that collapsed and 1")
    assert "similarity 1.00" in lines[1]
    assert "duplication  collapse  made  300 rows" in lines[1]
    told = [json.loads(line) for line in run(capsys, "list", "--json").splitlines()]
    assert {one["outcome"]["verdict"] for one in told} == {"collapse", "no collapse"}
    assert "2 records, every tag fits" in run(capsys, "verify")
    assert "1 records, 2 before" in run(capsys, "remove", told[0]["provenance"]["fingerprint"][:10])


def test_a_record_that_gives_way_is_named(world, capsys):
    add(capsys, world / "a", "collapse", "duplication")
    told = add(capsys, world / "a", "unknown")
    assert "kept duplication, collapse of " in told
    assert ", not unclassified, unknown of " in told
    assert "1 records, 1 before" in told


def test_export_import_and_merge(world, capsys):
    add(capsys, world / "a", "collapse")
    add(capsys, world / "b")
    run(capsys, "export", world / "bad.json", "--verdict", "collapse")
    run(capsys, "export", world / "rest.json", "--verdict", "unknown")
    for order in (("bad", "rest"), ("rest", "bad")):
        run(capsys, "merge", world / f"{order[0]}-first.json", *(world / f"{name}.json" for name in order))
    assert (world / "bad-first.json").read_bytes() == (world / "rest-first.json").read_bytes()
    (world / "library.json").unlink()
    assert "1 records, 0 before" in run(capsys, "import", world / "bad.json")
    assert "1 records, 1 before" in run(capsys, "import", world / "bad.json")
    assert "is there already, expected a new file" in run(capsys, "export", world / "bad.json", code=2)


def test_records_of_another_key_come_in_with_that_key_alone(world, capsys, monkeypatch):
    add(capsys, world / "a")
    run(capsys, "export", world / "theirs.json")
    (world / "library.json").unlink()
    run(capsys, "new-key", world / "mine")
    assert "its tag does not fit" in run(capsys, "import", world / "theirs.json", "--key", world / "mine", code=2)
    (world / "theirs").write_text("k" * 40)
    (world / "theirs").chmod(0o600)
    monkeypatch.delenv("ATLAS_SIGNATURE_KEY")
    run(capsys, "import", world / "theirs.json", "--key", world / "mine", "--other-key", world / "theirs")
    assert "1 records, every tag fits" in run(capsys, "verify", "--key", world / "mine")


def test_tampering_is_named_and_nothing_is_overwritten(world, capsys):
    add(capsys, world / "a", "no collapse")
    path = world / "library.json"
    forged = path.read_text().replace("no collapse", "collapse")
    path.write_text(forged)
    for command in (["verify"], ["list"], ["match", world / "a"], ["remove", "a"]):
        error = run(capsys, *command, code=2)
        assert "record 1" in error
        assert "its tag does not fit: changed, or signed with another key" in error
    assert path.read_text() == forged


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["add", "{a}", "--source", "s", "--by", "me", "--family", "odd"], "--family is 'odd', expected one of drift"),
        (
            ["add", "{a}", "--source", "s", "--by", "me", "--verdict", "bad"],
            "--verdict is 'bad', expected one of collapse",
        ),
        (["match", "{none}"], "no profile; expected a folder with profile.json"),
        (["remove", "abc"], "'abc': 0 records have a fingerprint that begins so"),
        (["import", "{none}"], "no such file; expected a library"),
        (["list", "--library", "{none}"], "no such file; expected a library"),
        (["verify", "--library", "{none}"], "no such file; expected a library"),
        (["match", "{a}", "--library", "{none}"], "no such file; expected a library"),
        (["match", "{a}", "--most", "-1"], "--most is -1, expected 0 or more"),
        (["export", "{none}", "--family", "odd"], "--family is 'odd', expected one of drift"),
        (["export", "{none}", "--verdict", "bad"], "--verdict is 'bad', expected one of collapse"),
        (["bench", "no/such/case/0"], "'no/such/case/0' is no case and no corpus of the benchmark"),
    ],
)
def test_mistakes_are_one_line(world, capsys, arguments, message):
    places = {"a": world / "a", "none": world / "none"}
    error = run(capsys, *(argument.format(**places) for argument in arguments), code=2)
    assert message in error
    assert len(error.strip().splitlines()) == 1


@pytest.mark.slow
def test_a_case_of_the_benchmark_becomes_a_signature(world, capsys):
    from validation.bench.corpora import CORPORA
    from validation.bench.table import DEFAULT, Table

    cases = [line["id"] for _, line in Table(DEFAULT).cases.items()]
    generated = [case for case in cases if case.split("/")[0] in CORPORA and "/duplicates/" in case]
    told = run(capsys, "bench", generated[-1])
    assert "1 records, 0 before" in told or "skipped" in told
    if "1 records" in told:
        line = run(capsys, "list")
        assert "duplication" in line
        assert "CollapseBench: " in line
