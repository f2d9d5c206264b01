"""Corpora: every one on this machine keeps the rules of rows, and is the same in another process."""

import functools
import json
import os
import re
import subprocess
import sys

import pytest

from validation.bench.corpora import CORPORA, MissingCorpus, everywhere, read

PRINT_FINGERPRINTS = """
import json
from validation.bench.corpora import CORPORA, MissingCorpus, read
found = {}
for name in CORPORA:
    try:
        found[name] = read(name).fingerprint()
    except MissingCorpus:
        found[name] = None
print(json.dumps(found))
"""
DEVELOPMENT = [name for name, corpus in CORPORA.items() if corpus.source == "development data"]


@functools.cache
def rows_of(name):
    return read(name)


def available(name):
    """The rows, read once; without its files the test is skipped."""
    try:
        return rows_of(name)
    except MissingCorpus as missing:
        if CORPORA[name].source in ("running Python", "generated"):
            raise
        pytest.skip(f"{name}: {missing}")


def test_there_are_as_many_corpora_as_the_benchmark_needs():
    kinds = [corpus.kind for corpus in CORPORA.values()]
    assert kinds.count("text") >= 8
    assert kinds.count("table") >= 8
    assert kinds.count("series") >= 4
    anywhere = [corpus.kind for name, corpus in CORPORA.items() if name not in DEVELOPMENT]
    assert anywhere.count("text") >= 8
    assert len(anywhere) - anywhere.count("text") >= 8


@pytest.mark.parametrize("name", CORPORA)
def test_rows_keep_their_rules(name):
    corpus, rows = CORPORA[name], available(name)
    assert corpus.name == name
    assert corpus.licence
    assert rows.kind == corpus.kind
    assert len(set(rows.cells)) == len(rows)
    for row in rows.cells:
        assert len(row) == len(rows.columns)
        assert all(cell and "\t" not in cell and "\r" not in cell for cell in row)
        assert row[0].strip()
    if corpus.kind == "text":
        assert rows.columns == (("text",) if corpus.label is None else ("text", "label"))
        assert all(len(row[0]) <= 600 and row[0] == row[0].rstrip() for row in rows.cells)
        assert len({row[0] for row in rows.cells}) == len(rows)
        assert 350_000 <= sum(len(text.encode()) + 1 for text in rows.texts()) <= 2_050_000
    else:
        assert not any("\n" in cell for row in rows.cells for cell in row)


@pytest.mark.parametrize("name", [name for name, corpus in CORPORA.items() if corpus.kind == "table"])
def test_tables_are_narrow_enough_and_their_numbers_short(name):
    rows = available(name)
    assert 1000 <= len(rows) <= 12_000
    assert 8 <= len(rows.columns) <= 16
    assert CORPORA[name].label in rows.columns
    for cell in {cell for row in rows.cells for cell in row}:
        if re.fullmatch(r"-?\d+(\.\d+)?", cell):
            assert len(cell.replace(".", "").strip("-0")) <= 4, cell


@pytest.mark.parametrize("name", [name for name, corpus in CORPORA.items() if corpus.kind == "series"])
def test_series_are_windows_of_32_levels(name):
    rows = available(name)
    assert rows.columns == tuple(map(str, range(32)))
    assert len(rows) >= 1500
    values = {cell for row in rows.cells for cell in row}
    assert values <= {str(level) for level in range(100)}
    assert len(values) > 50


@pytest.mark.parametrize("name", [name for name, corpus in CORPORA.items() if corpus.label])
def test_a_label_has_classes_that_repeat(name):
    rows = available(name)
    labels = [row[rows.columns.index(CORPORA[name].label)] for row in rows.cells]
    assert 2 <= len(set(labels)) <= 40
    assert len(labels) > 20 * len(set(labels))


@pytest.mark.slow
def test_a_process_with_other_hashes_of_strings_reads_the_same_rows():
    environment = {**os.environ, "PYTHONHASHSEED": "77"}
    command = [sys.executable, "-c", PRINT_FINGERPRINTS]
    theirs = json.loads(subprocess.run(command, env=environment, check=True, capture_output=True, timeout=300).stdout)
    assert list(theirs) == list(CORPORA)
    for name, fingerprint in theirs.items():
        if fingerprint is not None:
            assert rows_of(name).fingerprint() == fingerprint, name


@pytest.mark.parametrize("name", [name for name, corpus in CORPORA.items() if corpus.source == "generated"])
def test_generated_rows_are_the_same_again(name):
    assert read(name).fingerprint() == rows_of(name).fingerprint()


def test_an_unknown_name_lists_those_there_are():
    with pytest.raises(ValueError, match=r"'wikitext'; expected one of wikitext-2, .*mackey-glass"):
        read("wikitext")


@pytest.mark.parametrize("name", DEVELOPMENT)
def test_without_the_development_data_the_variable_is_named(name, monkeypatch, tmp_path):
    monkeypatch.delenv("ATLAS_DEV_DATA", raising=False)
    with pytest.raises(MissingCorpus, match="ATLAS_DEV_DATA is not set"):
        read(name)
    monkeypatch.setenv("ATLAS_DEV_DATA", str(tmp_path))
    with pytest.raises(
        FileNotFoundError, match=f"{re.escape(str(tmp_path))}/.*: no such file; expected ATLAS_DEV_DATA"
    ):
        read(name)


@pytest.mark.parametrize("name", ["man-pages", "system-notes", "system-changes"])
def test_a_system_without_documentation_is_named(name, monkeypatch, tmp_path):
    monkeypatch.setattr(everywhere, "MANUALS", tmp_path)
    monkeypatch.setattr(everywhere, "DOCUMENTS", tmp_path)
    with pytest.raises(MissingCorpus, match=f"{re.escape(str(tmp_path))}: no such files"):
        read(name)
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "README").write_text("Read me.")
    if name == "system-notes":
        with pytest.raises(MissingCorpus, match="8 bytes of text; expected 350000"):
            read(name)


def test_a_package_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(everywhere, "PACKAGES", ("no_such_package_at_all",))
    for name in ("package-code", "package-documentation", "installed-files"):
        with pytest.raises(MissingCorpus, match="no_such_package_at_all is not installed"):
            read(name)


def test_what_is_not_of_the_corpus_is_left_out():
    republic = "\n".join(available("plato-republic").texts())
    assert "BOOK I" in republic
    assert "*** START" not in republic
    assert "gutenberg.org" not in republic
    human = [row[0] for row in available("xsum-squad-human").cells]
    assert len({text[:80] for text in human}) > 0.99 * len(human)
    assert {row[1] for row in available("movie-reviews").cells} == {"pos", "neg"}
    swedish = "".join(row[0] for row in available("genesis").cells if row[1] == "swedish")
    assert "jorden var öde och tom" in swedish


def test_columns_of_a_table_are_those_of_its_source():
    taxis = available("taxis")
    first = dict(zip(taxis.columns, taxis.cells[0], strict=True))
    assert (first["day"], first["hour"], first["minutes"], first["fare"]) == ("Sat", "20", "6", "7")
    adult = available("adult")
    assert adult.columns[-1] == "income"
    assert adult.cells[0] == ("25", "4", "1", "4", "7", "3", "2", "1", "0", "0", "40", "39", "0")


def test_properties_of_a_character():
    rows = available("unicode-table")
    records = [dict(zip(rows.columns, row, strict=True)) for row in rows.cells]
    seven = next(record for record in records if record["numeric"] == "7" and record["block"] == "0xx")
    assert (seven["category"], seven["words"], seven["first"], seven["last"]) == ("Nd", "2", "DIGIT", "SEVEN")
    assert any(record["decomposition"] == "canonical" and record["category"] == "Lu" for record in records)


def test_documentation_and_code_are_what_they_are_called():
    documentation = "\n".join(row[0] for row in available("standard-library-documentation").cells)
    code = "\n".join(row[0] for row in available("standard-library-code").cells)
    assert documentation.count("\n    def ") * 20 < code.count("\n    def ")
    assert "    return " in code
    assert '"""' not in documentation[:10_000]
