"""The pre-screen: clean corpora go on, spoiled copies stop, and every figure is what a count by hand gives."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from validation import validate
from validation.bench.damage import duplicates
from validation.cascade import main
from validation.datasets import open_table
from validation.datasets.standard_library import standard_library_rows
from validation.demonstration import spoil
from validation.prescreen import PreScreenError, prescreen
from validation.profile import profile
from validation.signatures import Library, Outcome
from validation.signatures.measured import family_of, fingerprint, signature


@pytest.fixture(scope="module")
def rows():
    return standard_library_rows()[:4000]


def screened(folder, rows, library=None):
    return prescreen(profiled(folder, rows), library)


def profiled(folder, rows, name="data.jsonl"):
    path = folder / name
    path.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    return profile(open_table(path), workers=1)


def value(found, name):
    return next(one for one in found.findings if one.name == name).value


def test_a_clean_corpus_and_the_demonstrations_damaged_copy_go_on(rows, tmp_path):
    clean = screened(tmp_path, rows)
    assert clean.should_proceed
    assert clean.reasons == ()
    assert clean.risk < 20
    damaged = screened(tmp_path, spoil(rows, 20260)[0])
    assert damaged.should_proceed, "the demonstration is there to be trained on"
    assert damaged.risk > clean.risk


def test_copies_are_counted_and_stop_from_three_quarters_on(rows, tmp_path):
    for factor, stops in ((2, False), (5, True)):
        repeated = duplicates(rows, factor, 0)[0]
        found = screened(tmp_path, repeated)
        assert value(found, "copies") == pytest.approx(1 - len(set(repeated)) / len(repeated), abs=1e-6)
        assert found.should_proceed == (not stops)
    assert found.reasons[0] == "80% of the rows repeat an earlier one"
    assert found.recommendation.startswith("Remove the copies first: python -m validation.duplicates DATA --near")


def test_cut_rows(rows, tmp_path):
    cut = [row[:60] for row in rows]
    found = screened(tmp_path, cut)
    assert value(found, "cut rows") == np.mean([len(row) == 60 and row[-1].isalnum() for row in cut])
    assert not found.should_proceed
    assert "end inside a word at the greatest length" in found.reasons[0]
    assert value(screened(tmp_path, rows), "cut rows") < 0.01


def test_filler_and_one_row(rows, tmp_path):
    filled = [row if place % 4 == 0 else ["", "n/a", "...", "-"][place % 4] for place, row in enumerate(rows)]
    found = screened(tmp_path, filled)
    assert value(found, "no content") == pytest.approx(0.75, abs=0.01)
    assert not found.should_proceed
    same = [row if place % 3 == 0 else "The same review  again." for place, row in enumerate(rows)]
    found = screened(tmp_path, same)
    assert value(found, "one row") == pytest.approx(2 / 3, abs=0.01)
    assert not found.should_proceed


def test_templates_repeat_phrases(tmp_path):
    rng = np.random.default_rng(0)
    line = "dear customer we thank you for your order number {} and hope to see you again in our shop very soon indeed"
    found = screened(tmp_path, [line.format(n) for n in rng.integers(0, 10**6, 3000)])
    assert 0.4 < value(found, "repeated phrases") < 0.5
    assert value(found, "compression") > 10
    assert not found.should_proceed


def test_risk_never_falls_as_damage_grows(rows, tmp_path):
    risks = [
        screened(tmp_path, [row if place % 10 >= tenths else "n/a" for place, row in enumerate(rows)]).risk
        for tenths in range(0, 10, 3)
    ]
    assert risks == sorted(risks)
    assert risks[0] < 50 < risks[-1] <= 100


def test_too_little_text_and_tables_are_unknown(tmp_path):
    few = screened(tmp_path, ["one row", "one row", "one row"])
    assert (few.risk, few.should_proceed) == (None, True)
    assert few.recommendation == "Go on to training: nothing could be measured before it."
    path = tmp_path / "table.csv"
    path.write_text("a,b\n" + "1,2\n" * 500)
    table = prescreen(profile(open_table(path), workers=1))
    assert (table.risk, table.should_proceed) == (None, True), "few values repeat by their nature"
    json.dumps(table.as_dict(), allow_nan=False)


def test_a_sorted_file_drifts_which_is_told_and_stops_nothing(rows, tmp_path):
    found = screened(tmp_path, sorted(rows, key=len) * 2)
    drift = next(one for one in found.findings if one.name == "drift")
    assert drift.value > 0
    assert "shuffle before training" in drift.words
    assert found.should_proceed


def test_the_library_stops_what_is_like_its_collapsed_records(rows, tmp_path):
    """Signatures measured on generated cases: copies as harmful, samples as harmless, of two made-up sources."""
    rng = np.random.default_rng(0)
    library = Library()
    for number in range(44):
        part = [rows[place] for place in rng.choice(len(rows), 400, replace=False)]
        bad = number % 2 == 1
        part = duplicates(part, 3, number)[0] if bad else part
        made = signature(
            profiled(tmp_path, part),
            family="duplication" if bad else "healthy",
            source=f"source {number // 2 % 2}",
            measured_by="this test",
            outcome=Outcome("collapse" if bad else "no collapse", 0.5 if bad else 0.0, "made for the test"),
        )
        library = library.add(made)
    assert len(library.records) == 44
    fresh = [rows[place] for place in rng.choice(len(rows), 400, replace=False)]
    good, bad = screened(tmp_path, fresh, library), screened(tmp_path, duplicates(fresh, 3, 99)[0], library)
    assert good.probability < 0.3
    assert good.should_proceed
    assert bad.probability > 0.8
    assert bad.risk == pytest.approx(max(100 * bad.probability, 0))
    assert not bad.should_proceed
    assert bad.reasons[-1].startswith("like datasets that collapsed models: probability")
    assert bad.matches[0]["family"] == "duplication"
    assert bad.matches[0]["provenance"]["measured_by"] == "this test"
    json.dumps(bad.as_dict(), allow_nan=False)


def test_a_fingerprint_is_of_the_content_alone(rows, tmp_path):
    one = fingerprint(profiled(tmp_path, rows[:500]))
    assert fingerprint(profiled(tmp_path, rows[:500][::-1], "other.jsonl")) == one
    assert fingerprint(profiled(tmp_path, rows[:499])) != one


@pytest.mark.parametrize(
    ("corruption", "family"),
    [("duplicates", "duplication"), ("resample, half the size", "healthy"), ("random words", "unclassified")],
)
def test_families_of_the_benchmark(corruption, family):
    assert family_of(corruption) == family


def test_a_stopped_dataset_is_not_trained_and_says_how_to(rows, tmp_path, capsys):
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps({"text": row}) + "\n" for row in duplicates(rows, 8, 0)[0]))
    out = tmp_path / "out"
    assert main([str(path), "--out", str(out)]) == 3
    told = " ".join(capsys.readouterr().err.split())
    assert "not trained: the pre-screen puts the risk at" in told
    assert "of the rows repeat an earlier one" in told
    assert "To train on it all the same: --force" in told
    assert [file.name for file in out.iterdir()] == ["prescreen.json"]
    assert json.loads((out / "prescreen.json").read_text())["should_proceed"] is False
    with pytest.raises(PreScreenError) as caught:
        validate(path)
    assert not caught.value.prescreen.should_proceed


def test_a_library_that_is_not_there_is_bad_input(rows, tmp_path, capsys):
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows[:200]))
    assert main([str(path), "--out", str(tmp_path / "out"), "--signatures", str(tmp_path / "none.json")]) == 2
    assert "none.json: no such file; expected a library of signatures" in " ".join(capsys.readouterr().err.split())


CLEAN = (
    *("text_movie_reviews/movie_reviews.jsonl", "text_wikitext2/valid.txt", "text_wikitext2/test.txt"),
    *("text_plato_republic/republic.txt", "text_tinyshakespeare/input.txt", "text_state_union/state_union.jsonl"),
    *("text_genesis_multilingual/english-kjv.txt", "hm_alpaca_5000/alpaca_5000.json"),
    *("tab_seaborn/titanic.csv", "tab_seaborn/diamonds.csv", "ts_etth1/ETTh1.csv"),
)


@pytest.mark.slow
@pytest.mark.parametrize("name", CLEAN)
def test_no_clean_dataset_is_stopped(name):
    folder = os.environ.get("ATLAS_DEV_DATA")
    if folder is None:
        pytest.skip("ATLAS_DEV_DATA is not set: the folder of development data sets")
    found = prescreen(profile(open_table(Path(folder) / name), workers=1))
    assert found.should_proceed
    assert found.risk is None or found.risk < 20
