"""Building and labelling: nothing twice, nothing silently, and after an interruption as if there had been none."""

import json
from dataclasses import replace

import bench_world
import numpy as np
import pytest
from bench_world import keep_only

from validation.bench import labelling
from validation.bench.cases import HALF
from validation.bench.corpora import CORPORA, MissingCorpus
from validation.bench.corruptions import CORRUPTIONS, NotApplicable
from validation.bench.domain import lay_out
from validation.bench.labelling import QUICK, Desk, build, label
from validation.bench.labels import Controls, judge, loss_criteria
from validation.bench.outcomes import train_cases, train_controls
from validation.bench.recursion import Recursion
from validation.bench.table import Table

TEXT = "tiny text"
KEPT = ("resample", HALF, "templates", "duplicates")
CASES, OF_SERIES = (
    sum(len(c.strengths) * len(c.seeds) for c in map(CORRUPTIONS.__getitem__, KEPT) if kind in c.kinds)
    for kind in ("text", "series")
)
HALVES = len(CORRUPTIONS[HALF].seeds)


@pytest.fixture
def world(monkeypatch, small):
    """Two corpora and four corruptions; how many models each training had."""
    for kind in ("text", "series"):
        monkeypatch.setitem(CORPORA, f"tiny {kind}", bench_world.corpus(kind))
    keep_only(monkeypatch, *KEPT)
    return bench_world.train_at_once(monkeypatch)


@pytest.fixture
def desk(tmp_path, world):
    return new_desk(tmp_path)


def new_desk(folder):
    """A desk whose `said` is what it was told."""
    said = []
    found = Desk(Table(folder / "table"), folder / "chains", said.append)
    object.__setattr__(found, "said", said)
    return found


def reread(desk):
    """The same desk in another process."""
    found = Desk(Table(desk.table.folder), desk.chains, desk.say)
    object.__setattr__(found, "said", desk.said)
    return found


def lines(desk, name):
    path = desk.table.folder / f"{name}.jsonl"
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def without_seconds(desk):
    return [{**json.loads(line), "seconds": 0} for line in lines(desk, "labels")]


def change(monkeypatch, reader, name=TEXT):
    monkeypatch.setitem(CORPORA, name, replace(CORPORA[name], reader=reader))


def test_building_twice_adds_nothing(desk):
    build(desk, [TEXT, "tiny series"])
    before = lines(desk, "cases")
    assert len(before) == CASES + OF_SERIES
    assert desk.said == [
        said
        for name, count in ((TEXT, CASES), ("tiny series", OF_SERIES))
        for said in (f"building {name}: {count} cases", f"built {name}: {count} cases, {count} of them new")
    ]
    build(desk, [TEXT])
    build(reread(desk), [TEXT, "tiny series"])
    build(reread(desk), [TEXT], renew=True)
    assert lines(desk, "cases") == before
    assert all("0 of them new" in said for said in desk.said[5::2])
    assert len(desk.said) == 4 + 8
    assert desk.table.status() == {"clean": 0, "collapsing": 0, "grey": 0, "pending": CASES + OF_SERIES}


def test_the_table_says_what_a_case_is_and_holds_no_text(desk):
    build(desk, [TEXT])
    label(desk, [TEXT], at_once=1, limit=2)
    found = desk.table.cases.get("tiny text/templates/0.5/0")
    assert (found["corpus"], found["corruption"], found["strength"], found["seed"]) == (TEXT, "templates", 0.5, 0)
    assert (found["kind"], found["harmless"], found["half"]) == ("text", False, False)
    assert found["corpus_hash"] == bench_world.text_rows().fingerprint()
    assert found["bad"] == pytest.approx(found["rows"] / 2, abs=1)
    half = desk.table.cases.get("tiny text/resample, half the size/0.5/1")
    assert (half["half"], half["harmless"], half["bad"]) == (True, True, 0)
    written = "".join(line for name in ("cases", "controls", "labels") for line in lines(desk, name))
    for word in (*bench_world.NAMES, "sings", "important"):
        assert f" {word} " not in written
        assert f'"{word} ' not in written


def test_a_changed_corpus_is_named_and_nothing_is_made_or_labelled_of_it(desk, world, monkeypatch):
    build(desk, [TEXT])
    label(desk, [TEXT], at_once=1, limit=4)
    before = {name: lines(desk, name) for name in ("cases", "controls", "labels")}
    status = desk.table.status()
    trained = len(world)
    change(monkeypatch, lambda: bench_world.text_rows(seed=1))
    desk = reread(desk)
    desk.said.clear()
    build(desk, [TEXT])
    (changed,) = desk.said
    assert changed.startswith(f"changed: {TEXT} ")
    assert f"{CASES} cases" in changed
    assert "--renew" in changed
    label(desk, [TEXT], at_once=1)
    assert f"{CASES - 4} cases of {TEXT}" in desk.said[-1]
    assert "skipped" in desk.said[-1]
    assert {name: lines(desk, name) for name in before} == before
    assert desk.table.status() == status
    assert len(world) == trained


def test_renewing_takes_the_new_rows_and_drops_their_labels(desk, monkeypatch):
    build(desk, [TEXT])
    label(desk, [TEXT], at_once=1)
    assert desk.table.status()["pending"] == 0
    old = without_seconds(desk)
    change(monkeypatch, lambda: bench_world.text_rows(seed=1))
    build(desk, [TEXT], renew=True)
    assert desk.said[-1] == f"built {TEXT}: {CASES} cases, {CASES} of them new"
    for table in (desk.table, Table(desk.table.folder)):
        assert table.status() == {"clean": 0, "collapsing": 0, "grey": 0, "pending": CASES}
    label(desk, [TEXT], at_once=1)
    assert desk.table.status()["pending"] == 0
    assert without_seconds(desk)[:CASES] == old
    new = {line["id"]: line for line in without_seconds(desk)[CASES:]}
    assert all(new[line["id"]]["criteria"] != line["criteria"] for line in old)
    hashes = {json.loads(line)["corpus_hash"] for line in lines(desk, "controls")}
    assert hashes == {bench_world.text_rows(seed=seed).fingerprint() for seed in (0, 1)}


def test_a_change_of_held_out_rows_alone_is_a_change(desk, monkeypatch):
    """No case holds such a row, but labels were measured on them."""
    rows = bench_world.text_rows()
    before = lay_out(TEXT, rows, label="label")
    text, place = before.held_out.cells[3]
    other = next(name for name in bench_world.CLASSES if name != place)
    changed = replace(rows, cells=[(row[0], other) if row[0] == text else row for row in rows.cells])
    after = lay_out(TEXT, changed, label="label")
    assert (after.pool, after.trusted, after.tokens) == (before.pool, before.trusted, before.tokens)
    build(desk, [TEXT])
    label(desk, [TEXT], at_once=1, limit=3)
    change(monkeypatch, lambda: changed)
    desk.said.clear()
    build(desk, [TEXT])
    assert [said for said in desk.said if said.startswith(f"changed: {TEXT} ")]
    label(desk, [TEXT], at_once=1)
    assert len(lines(desk, "labels")) == 3
    build(desk, [TEXT], renew=True)
    assert desk.table.status()["pending"] == CASES
    label(desk, [TEXT], at_once=1)
    assert desk.table.status()["pending"] == 0
    controls = [desk.table.controls.get(name) for name in desk.table.controls.names()]
    assert {line["corpus_hash"] for line in controls} == {changed.fingerprint()}


def test_cases_that_were_renewed_are_labelled_and_others_are_not(desk, monkeypatch):
    build(desk, [TEXT])
    change(monkeypatch, lambda: bench_world.text_rows(seed=1))
    with monkeypatch.context() as only:
        keep_only(only, "templates")
        build(desk, [TEXT], renew=True)
    label(desk, [TEXT], at_once=1)
    assert {line["id"].split("/")[1] for line in without_seconds(desk)} == {"templates"}
    assert any("skipped" in said for said in desk.said)


@pytest.mark.parametrize(
    ("reader", "reason"),
    [
        (lambda: bench_world.text_rows().take(range(30)), "tokens in 30 rows, expected at least"),
        (lambda: (_ for _ in ()).throw(MissingCorpus("set ATLAS_DEV_DATA to its folder")), "set ATLAS_DEV_DATA"),
    ],
)
def test_a_corpus_that_is_too_small_or_missing_is_named_and_the_others_go_on(desk, monkeypatch, reader, reason):
    build(desk, [TEXT, "tiny series"])
    desk.said.clear()
    change(monkeypatch, reader)
    build(desk, [TEXT, "tiny series"])
    assert desk.said[0].startswith(f"skipped {TEXT}: ")
    assert reason in desk.said[0]
    assert desk.said[1:] == [
        f"building tiny series: {OF_SERIES} cases",
        f"built tiny series: {OF_SERIES} cases, 0 of them new",
    ]
    desk.said.clear()
    label(desk, [TEXT, "tiny series"], at_once=1)
    assert [said for said in desk.said if reason in said and TEXT in said]
    assert {line["id"].split("/")[0] for line in without_seconds(desk)} == {"tiny series"}
    assert desk.table.status()["pending"] == CASES


def test_a_case_that_cannot_be_made_is_named_and_the_others_are_built(desk, monkeypatch):
    tokens = lay_out(TEXT, bench_world.text_rows()).tokens
    monkeypatch.setattr("validation.bench.domain.FEWEST_TOKENS", tokens // 2 + 1)
    monkeypatch.setitem(CORRUPTIONS, "spell", replace(CORRUPTIONS["templates"], name="spell", make=not_applicable))
    build(desk, [TEXT])
    assert len(desk.table.cases.names()) == CASES - HALVES
    skipped = [said for said in desk.said if said.startswith("skipped")]
    assert len([said for said in skipped if "half a case" in said and TEXT in said]) == HALVES
    assert len([said for said in skipped if f"{TEXT}/spell/" in said and "no number" in said]) == 3


def not_applicable(material, strength, seed):
    raise NotApplicable("no number")


def test_labels_say_what_fired_and_by_how_much(desk, world):
    build(desk, [TEXT])
    label(desk, [TEXT], at_once=1)
    assert desk.said[2].startswith(f"training the controls of {TEXT}, ")
    assert len(desk.said) == 2 + 2 + CASES  # building, built, controls of two sizes, a line a case
    assert desk.table.status()["pending"] == 0
    for line in without_seconds(desk):
        case = desk.table.cases.get(line["id"])
        assert line["hash"] == case["hash"]
        first, tail = line["criteria"][:2]
        assert (first["name"], first["group"], tail["name"], tail["group"]) == ("C1", "all", "C2", "tail")
        assert all(len(criterion["values"]) == 3 for criterion in line["criteria"])
        fired = [sum(value > found["bar"] for value in found["values"]) >= 2 for found in line["criteria"]]
        assert len(line["fired"]) == sum(fired)
        assert (line["verdict"] == "collapsing") == any(fired)
        assert 0 <= line["doubt"] <= 1
    found = {line["id"]: line for line in without_seconds(desk)}
    assert found["tiny text/templates/0.5/0"]["verdict"] == "collapsing"
    harm = [np.mean(found[f"tiny text/templates/{share:g}/0"]["criteria"][0]["values"]) for share in (0.05, 0.2, 0.5)]
    assert harm == sorted(harm)
    assert any("tiny text/templates/0.5/0: collapsing (C1 +" in said for said in desk.said)


def test_controls_are_trained_once_for_each_size(desk, world):
    build(desk, [TEXT])
    label(desk, [TEXT], at_once=1, limit=3)
    label(reread(desk), [TEXT], at_once=1)
    controls = [json.loads(line) for line in lines(desk, "controls")]
    tokens = lay_out(TEXT, bench_world.text_rows()).tokens
    assert [line["id"] for line in controls] == [f"{TEXT}/{tokens}", f"{TEXT}/{tokens // 2}"]
    samples = len(controls[0]["losses"]["all"])
    assert len(world) == CASES + 2 * samples  # one program for each case and each sample of the controls


def test_a_limit_and_the_corpora_asked_for_are_kept(desk):
    build(desk, [TEXT, "tiny series"])
    label(desk, ["tiny series"], at_once=1, limit=2)
    assert [line["id"].split("/")[0] for line in without_seconds(desk)] == ["tiny series"] * 2
    label(desk, [TEXT], at_once=1, limit=1)
    assert desk.table.status()["pending"] == CASES + OF_SERIES - 3


def test_an_interrupted_run_goes_on_to_the_same_labels(tmp_path, world):
    whole = new_desk(tmp_path / "whole")
    build(whole, [TEXT])
    label(whole, [TEXT], at_once=1)
    desk = new_desk(tmp_path / "interrupted")
    build(desk, [TEXT])

    def stop(said):
        if len(lines(desk, "labels")) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        label(replace_say(desk, stop), [TEXT], at_once=1)
    before = lines(desk, "labels")
    assert len(before) == 2
    with (desk.table.folder / "labels.jsonl").open("a") as file:
        file.write('{"format": 1, "id": "tiny te')  # killed while it wrote
    again = reread(desk)
    label(again, [TEXT], at_once=1)
    assert lines(desk, "labels")[:2] == before
    assert without_seconds(desk) == without_seconds(whole)
    assert lines(desk, "cases") == lines(whole, "cases")
    assert len(lines(desk, "controls")) == len(lines(whole, "controls"))


def replace_say(desk, say):
    return Desk(desk.table, desk.chains, say)


def test_many_at_once_get_the_labels_of_one_at_a_time(tmp_path, world):
    found = []
    for at_once in (1, 4):
        desk = new_desk(tmp_path / str(at_once))
        build(desk, [TEXT])
        label(desk, [TEXT], at_once=at_once)
        found.append(without_seconds(desk))
    assert found[0] == found[1]
    assert max(world) == 4 * 3


def test_a_case_whose_making_has_changed_is_named_and_not_labelled(desk, monkeypatch):
    build(desk, [TEXT])
    monkeypatch.setitem(CORRUPTIONS, "templates", replace(CORRUPTIONS["templates"], make=CORRUPTIONS["resample"].make))
    label(desk, [TEXT], at_once=3)
    skipped = [said for said in desk.said if said.startswith("skipped")]
    assert {said.split(": ")[0] for said in skipped} == {f"skipped {TEXT}/templates/{s}/0" for s in (0.05, 0.2, 0.5)}
    assert [line["id"] for line in desk.table.pending()] == [f"{TEXT}/templates/{s}/0" for s in (0.05, 0.2, 0.5)]


def test_c3_is_measured_where_it_is_asked_for(desk, monkeypatch):
    measured = []

    def recurse(domain, params, seeds):
        measured.append(len(params))
        rise = 0.01 * len(measured)
        return Recursion(np.array([rise] * 3), np.array([1.0, 0.9, 0.8]))

    monkeypatch.setattr(labelling, "recurse", recurse)
    monkeypatch.setattr(labelling, "RECURSION_CORPORA", frozenset({TEXT}))
    monkeypatch.setattr(labelling, "RECURSION_CASES", frozenset({("templates", 0.5)}))
    build(desk, [TEXT])
    label(desk, [TEXT], at_once=1)
    with_c3 = [line["id"] for line in without_seconds(desk) if any(c["name"] == "C3" for c in line["criteria"])]
    assert with_c3 == [f"{TEXT}/templates/0.5/0"]
    controls = {line["id"]: line for line in map(json.loads, lines(desk, "controls"))}
    samples = [line for name, line in controls.items() if "slope" in line]
    assert [line["id"].split("/")[0] for line in samples] == [TEXT]
    assert np.shape(samples[0]["slope"]) == np.shape(samples[0]["retention"]) == np.shape(samples[0]["losses"]["all"])
    count = len(samples[0]["slope"])
    assert measured == [3] * (count + 1)
    (line,) = [line for line in without_seconds(desk) if line["id"] == with_c3[0]]
    rise, entropy = (c for c in line["criteria"] if c["name"] == "C3")
    assert rise["values"] == pytest.approx([0.01 * (count + 1) - 0.01 * (count + 1) / 2] * 3, abs=2e-4)
    assert entropy["values"] == pytest.approx([0.0] * 3, abs=2e-4)


@pytest.fixture(scope="session")
def quick_set(tmp_path_factory):
    """The quick set, built and labelled with the real models."""
    found = new_desk(tmp_path_factory.mktemp("quick"))
    build(found, [QUICK], quick=True)
    label(found, [QUICK], at_once=1)
    return found


@pytest.mark.slow
def test_labels_of_the_quick_set_are_those_that_are_known(quick_set):
    found = {line["id"].split("/", 1)[1]: line for line in without_seconds(quick_set)}
    assert 15 <= len(found) <= 30
    assert quick_set.table.status()["pending"] == 0
    clean = {name: line["verdict"] for name, line in found.items() if name.startswith("resample")}
    assert len(clean) == len(CORRUPTIONS["resample"].seeds) + HALVES >= 5
    assert "collapsing" not in clean.values()
    for name in ("duplicates/10/0", "templates/0.5/0", "shuffle words/0.5/0"):
        assert found[name]["verdict"] == "collapsing", found[name]
    harm = [np.mean(found[f"duplicates/{copies}/0"]["criteria"][0]["values"]) for copies in (2, 5, 10)]
    assert harm == sorted(harm)
    assert harm[2] > harm[0] + 0.05
    controls = {line["id"] for line in map(json.loads, lines(quick_set, "controls"))}
    assert len(controls) == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["duplicates/10/0", "resample/1/0"])
def test_fresh_seeds_give_the_same_label(quick_set, name):
    line = quick_set.table.cases.get(f"{QUICK}/{name}")
    domain = lay_out(QUICK, CORPORA[QUICK].reader(), label=CORPORA[QUICK].label)
    case = labelling.make(labelling.recipe_of(line), domain, quick_set.chains)
    seeds = (100, 101, 102)
    (outcome,) = train_cases(domain, [case.rows], seeds=seeds)
    controls = Controls(labelling.control_losses(train_controls(domain, seeds=seeds)))
    found = judge(loss_criteria(outcome.losses, controls))
    known = quick_set.table.label(line["id"])
    assert found.verdict == known["verdict"]
    harm = [found.criteria[0].mean, np.mean(known["criteria"][0]["values"])]
    assert np.diff(harm) == pytest.approx(0, abs=max(0.05, 0.1 * abs(harm[1])))
