"""Whole runs: the command line as a process that is killed and goes on, and the same as one call."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_world import TINY, markov_rows

from atlas_jax.distributed.mesh import cache_directory
from validation import validate
from validation.bench.damage import shuffle_words, templates
from validation.datasets.standard_library import standard_library_rows
from validation.profiles import PROFILES

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).with_name("cascade_program.py")
ROOT = Path(__file__).parents[2]
PATIENCE = 300.0  # seconds that a run may take before something is wrong


def write(path, rows):
    path.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    return path


def environment(folder):
    """A cache of its own for controls, with the compiled programs of the machine's cache."""
    cache = folder / "cache"
    if not cache.exists():
        cache.mkdir(parents=True)
        compiled = cache_directory() / "xla"
        compiled.mkdir(parents=True, exist_ok=True)
        (cache / "xla").symlink_to(compiled)
    return {**os.environ, "ATLAS_CACHE": str(cache)}


def start(folder, *arguments):
    return subprocess.Popen(
        [sys.executable, PROGRAM, *map(str, arguments), "--profile", "quick", "--out", str(folder / "out")],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(folder),
    )


def finish(process):
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode in (0, 3), output
    return output


def report_in(folder):
    return json.loads((folder / "out" / "report.json").read_text())


def numbers(report):
    """All that a run measured, without times."""
    kept = {
        name: report[name] for name in ("verdict", "dimensions", "flagged_rows", "flagged_counts", "recommendations")
    }
    prediction = {k: v for k, v in report["scaling"]["prediction"].items() if k not in ("written", "digest")}
    kept["scaling"] = {**report["scaling"], "prediction": prediction}
    kept["tiers"] = [{k: v for k, v in tier.items() if k != "seconds"} for tier in report["tiers"]]
    return kept


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A reference, and data of which one row in four repeats another."""
    folder = tmp_path_factory.mktemp("files")
    rows = markov_rows(1500, 50)
    return [write(folder / "data.jsonl", [*rows[:600], *rows[:200]]), write(folder / "reference.jsonl", rows[700:])]


@pytest.fixture(scope="module")
def undisturbed(files, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    data, reference = files
    finish(start(folder, data, "--reference", reference))
    return report_in(folder)


def wait_for(stage, process):
    deadline = time.monotonic() + PATIENCE
    while not stage.exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, f"{stage} never began"
        time.sleep(0.005)


def test_killed_in_every_tier_and_resumed_to_the_same_numbers(files, undisturbed, tmp_path):
    data, reference = files
    length = {f"tier-{tier['tier']}": tier["seconds"] for tier in undisturbed["tiers"]}
    resume = []
    for stage in ("tier-1", "tier-2", "controls-2", "tier-3", "removal"):
        process = start(tmp_path, data, "--reference", reference, *resume)
        wait_for(tmp_path / "out" / "state" / stage, process)
        time.sleep(random.SystemRandom().uniform(0, 0.9 * length.get(stage, 1.0)))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL, f"the run had ended before it was killed in {stage}"
        assert not (tmp_path / "out" / "report.json").exists()
        resume = ["--resume"]
    finish(start(tmp_path, data, "--reference", reference, "--resume"))
    assert numbers(report_in(tmp_path)) == numbers(undisturbed)
    assert not (tmp_path / "out" / "state").exists()


def test_interrupted_it_says_how_to_go_on(files, undisturbed, tmp_path):
    data, reference = files
    process = start(tmp_path, data, "--reference", reference)
    wait_for(tmp_path / "out" / "state" / "controls-1", process)
    time.sleep(random.SystemRandom().uniform(0, 1))
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, output
    assert "Traceback" not in output
    line = output.splitlines()[-1]
    assert line.startswith("Interrupted. Go on with: python -m validation.cascade ")
    command = shlex.split(line.removeprefix("Interrupted. Go on with: "))
    assert command[-1] == "--resume"
    goes_on = subprocess.run(
        [sys.executable, PROGRAM, *command[3:]],
        capture_output=True,
        text=True,
        env=environment(tmp_path),
        timeout=PATIENCE,
        check=False,
    )
    assert goes_on.returncode in (0, 3), goes_on.stderr
    assert numbers(report_in(tmp_path)) == numbers(undisturbed)


def test_the_undisturbed_run_finds_the_copies(undisturbed):
    assert undisturbed["flagged_counts"]["exact duplicate"] == 200
    rows = {row["row"] for row in undisturbed["flagged_rows"] if row["issue"] == "exact duplicate"}
    assert rows <= set(range(601, 801))
    assert [tier["control_loss"] is not None for tier in undisturbed["tiers"]] == [True, True, False]
    roles = [[model["role"] for model in tier["models"]].count("control") for tier in undisturbed["tiers"]]
    assert roles == [5, 3, 0]


def check_contract(report):
    for name in [
        "schema_version",
        "verdict",
        "dimensions",
        "tiers",
        "scaling",
        "flagged_rows",
        "recommendations",
        "data",
        "environment",
        "config",
    ]:
        assert name in report
    verdict = report["verdict"]
    assert 0 <= verdict["risk"] <= 100
    assert verdict["passed"] is (verdict["risk"] <= verdict["fail_above"])
    assert verdict["calibrated"] is False
    assert (verdict["type"] is None) is verdict["passed"]
    assert verdict["minimum_detectable_harm"] > 0
    assert verdict["risk"] == max(d["score"] for d in report["dimensions"] if d["score"] is not None)
    data_models = [[m for m in tier["models"] if m["role"] == "data"] for tier in report["tiers"]]
    assert [len(models) for models in data_models] == [10, 5, 3]
    assert [tier["tier"] for tier in report["tiers"]] == [1, 2, 3]
    for model in (model for models in data_models for model in models):
        losses = [checkpoint["loss"] for checkpoint in model["checkpoints"]]
        assert len(losses) == 4
        assert losses[-1] == model["loss"] < losses[0]
    assert len({model["learning_rate"] for model in data_models[0]}) == 2
    prediction = report["scaling"]["prediction"]
    assert prediction["digest"] == hashlib.sha256(prediction["written"].encode()).hexdigest()
    assert f"{prediction['predicted']:.4f} bits per token" in prediction["written"]
    assert prediction["error"] == pytest.approx(prediction["actual"] - prediction["predicted"])
    assert prediction["actual"] == report["tiers"][2]["loss"]
    for row in report["flagged_rows"]:
        assert row["row"] >= 1
        assert {"issue", "score", "file", "detail", "text"} <= set(row)
    assert report["environment"]["peak_memory"] > 1 << 26


def test_the_real_command_on_the_standard_library(tmp_path):
    rows = random.Random(0).sample(standard_library_rows(), 1600)
    data, reference = write(tmp_path / "data.jsonl", rows[:800]), write(tmp_path / "reference.jsonl", rows[800:])
    out = tmp_path / "out"
    arguments = [data, "--reference", reference, "--profile", "quick", "--out", out]
    done = subprocess.run(
        [sys.executable, "-m", "validation.cascade", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment(tmp_path),
        timeout=600,
        check=False,
    )
    report = report_in(tmp_path)
    assert done.returncode == (0 if report["verdict"]["passed"] else 3), done.stderr
    assert "Warning" not in done.stderr
    check_contract(report)
    # A random half of a corpus against the other half.
    assert report["verdict"]["passed"], report["verdict"]["summary"]
    assert sorted(path.name for path in out.iterdir()) == ["flagged_rows.jsonl", "report.html", "report.json"]
    assert "http" not in (out / "report.html").read_text().split("<body")[0].replace("http-equiv", "")


class Silent:
    """Counts what a run tells."""

    def __init__(self):
        self.stages, self.labels, self.shares = [], set(), {}

    def stage(self, name):
        self.stages.append(name)

    def plan(self, units):
        assert units > 0

    def training(self, label, models, share, units, loss):
        assert self.shares.get((label, models), 0) <= share <= 1
        self.shares[label, models] = share

    def finished(self, text):
        assert text


@pytest.fixture
def tiny(monkeypatch, cache):
    monkeypatch.setitem(PROFILES, "quick", TINY)
    return cache


def test_one_call_against_a_reference_and_its_damaged_copy(files, tiny, tmp_path):
    rows, (_, reference) = markov_rows(700, 51), files
    clean = write(tmp_path / "clean.jsonl", rows)
    bad = write(tmp_path / "bad.jsonl", [*templates(rows[:350], 1.0, 0)[0], *shuffle_words(rows[350:], 1.0, 0)[0]])
    told = Silent()
    good = validate(clean, reference=reference, profile="quick", progress=told)
    worse = validate(bad, reference=reference, profile="quick", out=tmp_path / "out", progress=Silent())
    check_contract(json.loads(good.to_json()))
    check_contract(json.loads(worse.to_json()))
    assert told.stages == ["pre-screen", "reading", "statistics, duplicates and tokens", "scoring rows"]
    assert {share for (label, _), share in told.shares.items() if label.startswith("tier")} == {1.0}
    assert worse.verdict.risk > good.verdict.risk + 10
    assert not worse.verdict.passed
    harm = {d.name: d.value for d in worse.dimensions}
    assert harm["C1 harm"] > {d.name: d.value for d in good.dimensions}["C1 harm"] + 0.1
    assert len(list((tiny / "controls").iterdir())) == 2  # two tiers of controls, trained once for both runs


def test_one_call_without_a_reference(tiny, tmp_path):
    rows = markov_rows(700, 52)
    data = write(tmp_path / "data.jsonl", [*rows, *rows[:100]])
    report = validate(data, profile="quick", progress=Silent(), fail_above=100.0)
    check_contract(json.loads(report.to_json()))
    unknown = {d.name for d in report.dimensions if d.score is None}
    assert {"C1 harm", "C2 tail"} <= unknown
    assert report.verdict.passed
    assert "without a reference" in report.verdict.summary
    assert any("--reference" in (r.command or "") for r in report.recommendations)
    assert report.flagged_counts["exact duplicate"] == 100


def test_rows_too_short_to_score_are_judged_all_the_same(tiny, tmp_path):
    rows = [" ".join(row.split()[:5]) for row in markov_rows(4000, 53)]
    report = validate(write(tmp_path / "short.jsonl", rows), profile="quick", progress=Silent())
    check_contract(json.loads(report.to_json()))
