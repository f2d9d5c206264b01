"""report.json, the writing of both files, wording of numbers, and the notebook view."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import types

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_example import NASTY, example, without_measurements

from validation.report import SCHEMA_VERSION, Report, Verdict, notebook, show, wording, write_report


def test_json_round_trips_with_the_keys_of_the_contract(tmp_path):
    report = dataclasses.replace(example(), companions=[without_measurements(example("clean.jsonl", 0.0))])
    path, _ = write_report(report, tmp_path / "new" / "folder")
    read = json.loads(path.read_text(encoding="utf-8"))
    assert list(read) == [field.name for field in dataclasses.fields(Report)]
    assert list(read["verdict"]) == [field.name for field in dataclasses.fields(Verdict)]
    assert read["schema_version"] == SCHEMA_VERSION
    assert read["dimensions"][2]["value"] is None
    # A file name or a row that is no UTF-8 comes back as it was.
    assert [row["text"] for row in read["flagged_rows"][: len(NASTY)]] == NASTY
    assert read["companions"][0]["data"]["path"] == "/data/clean.jsonl"
    assert read["tiers"][0]["models"][0]["loss"] == report.tiers[0].models[0].loss


def test_files_are_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    write_report(without_measurements(example()), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(before) == {"report.json", "report.html"}

    def fails(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError, match="disk full"):
        write_report(without_measurements(example("other.jsonl", 0.0)), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_page_written_is_the_page_rendered(tmp_path):
    _, page = write_report(example(), tmp_path)
    text = page.read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>")
    assert text.rstrip().endswith("</html>")
    assert "damaged.jsonl" in text


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_number_keeps_its_size(value):
    text = wording.number(value)
    if not math.isfinite(value):
        assert text == "not measured"
    else:
        assert float(text.replace(",", "")) == pytest.approx(value, rel=0.06, abs=1e-300)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.041, "0.041"),
        (21.0, "21"),
        (1234.5, "1,234"),
        (3e-5, "3.00e-05"),
        (-0.31, "-0.310"),
        (2**63, "9,223,372,036,854,775,808"),
        (-1.7e308, "-1.70000e+308"),
    ],
)
def test_number(value, text):
    assert wording.number(value) == text


@given(st.text(st.characters()))
def test_visible_text_encodes_and_commands_nothing(text):
    shown = wording.one_line(text)
    shown.encode("utf-8")
    assert not any(character < " " or character in "\x7f\u202a\u202e\u2066\u2028" for character in shown)


def test_bar_says_its_direction():
    report = example()
    bars = {dimension.name: wording.bar(dimension) for dimension in report.dimensions}
    assert bars["C1 harm"] == "at most 0.050"
    assert bars["Diversity"] == "at least 0.500"
    assert bars["C3 recursion"] == "0.050"


@pytest.mark.parametrize(
    ("value", "text"), [(49.7, "49.7"), (50.0, "50"), (50.4, "50.4"), (51.2, "51"), (None, "unknown")]
)
def test_risk_beside_the_bar_is_not_rounded_onto_it(value, text):
    assert wording.risk_points(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(999, "999"), (999_600, "1M"), (3_210_987, "3.21M"), (1000, "1k"), (410_000, "410k")]
)
def test_compact(value, text):
    assert wording.compact(value) == text


def test_show_prints_outside_a_notebook(capsys):
    show(example())
    assert "FAIL" in capsys.readouterr().out


def test_show_displays_a_sandboxed_frame_in_a_notebook(monkeypatch, capsys):
    import IPython
    import IPython.display

    displayed, report = [], without_measurements(example())
    monkeypatch.setattr(IPython, "get_ipython", lambda: types.SimpleNamespace(kernel=object()))
    monkeypatch.setattr(IPython.display, "display", displayed.append)
    show(report)
    (fragment,) = displayed
    assert capsys.readouterr().out == ""
    assert fragment.data == notebook.frame(report)
    assert 'sandbox="allow-scripts"' in fragment.data
    assert "height:900px" in fragment.data
    # The page ends up in one attribute: nothing in it may close that attribute.
    assert fragment.data.split('srcdoc="')[1].count('"') == 1
