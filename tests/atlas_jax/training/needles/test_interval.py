"""The interval of probes: arithmetic, measurement, and the file of the decision."""

from __future__ import annotations

import json
import time

import pytest

from atlas_jax.training.needles.interval import (
    IntervalError,
    choose_interval,
    measure_interval,
    overhead,
    read_interval,
    seconds_of,
    write_interval,
)


@pytest.mark.parametrize(
    ("probe", "chosen"),
    [(5.0, 500), (5.06, 1000), (10.0, 1000), (10.2, 2000), (20.0, 2000), (20.3, None)],
)
def test_the_shortest_that_costs_less_than_a_hundredth(probe, chosen):
    decision = choose_interval(1.0, probe)
    assert decision.chosen == chosen
    assert overhead(decision.interval, step_seconds=1.0, probe_seconds=probe) < 0.01
    assert decision.overheads[1000] == pytest.approx(probe / (1000 + probe))


def test_none_fits_and_the_one_that_would_is_named():
    decision = choose_interval(0.1, 30.0)
    assert decision.chosen is None
    assert decision.interval == decision.fitting == 29701  # 30 / (n / 10 + 30) < 1 / 100
    assert overhead(29700, step_seconds=0.1, probe_seconds=30.0) == pytest.approx(0.01)
    assert "none of 500, 1000, 2000 steps is below 1.00%" in decision.verdict
    assert "every 29701 steps would be" in decision.verdict


def test_candidates_and_bound_are_the_callers():
    assert choose_interval(1.0, 5.0, candidates=(100, 20), most=0.3).chosen == 20
    for wrong in (
        {"step_seconds": 0.0},
        {"probe_seconds": -1.0},
        {"candidates": ()},
        {"candidates": (0,)},
        {"most": 0.0},
    ):
        with pytest.raises(ValueError, match="expected positive numbers"):
            choose_interval(**{"step_seconds": 1.0, "probe_seconds": 1.0, **wrong})


def paused(*seconds):
    """A step or probe that takes so long at each call."""
    pauses = iter(seconds)
    return lambda: time.sleep(next(pauses))


def test_the_first_call_does_not_count():
    found = seconds_of(paused(0.3, 0.01, 0.2, 0.01), repeats=3)
    assert [round(seconds, 1) for seconds in found] == [0, 0.2, 0]


def test_the_fastest_step_counts_and_the_probe_in_the_middle():
    """As on a machine that others use: neither slow steps nor one slow probe make probes look cheap or dear."""
    decision = measure_interval(paused(0, 0.2, 0.02, 0.2), paused(0, 0.1, 0.1, 0.5), repeats=3)
    assert 0.02 <= decision.step_seconds < 0.1
    assert 0.1 <= decision.probe_seconds < 0.3


def test_a_measured_decision_comes_back_from_its_file(tmp_path):
    decision = measure_interval(lambda: time.sleep(0.002), lambda: time.sleep(0.03), repeats=2, candidates=(10, 5000))
    assert decision.chosen == 5000
    assert {"platform", "device", "cpu", "jax", "python"} <= set(decision.machine)
    path = tmp_path / "run" / "probe_interval.json"
    write_interval(decision, path)
    assert read_interval(path) == decision
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert json.loads(path.read_text())["overheads"].keys() == {"10", "5000"}


@pytest.mark.parametrize("content", [None, "", "[]", "{}", '{"overheads": {"a": 1}}', '{"overheads": [1]}'])
def test_a_file_that_holds_something_else_is_named(tmp_path, content):
    path = tmp_path / "decision.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(IntervalError, match=r"decision.json: expected a decision"):
        read_interval(path)


@pytest.mark.parametrize(("name", "value"), [("chosen", "x"), ("chosen", True), ("chosen", 0), ("fitting", None)])
def test_an_interval_that_is_no_number_of_steps_is_named(tmp_path, name, value):
    path = tmp_path / "decision.json"
    write_interval(choose_interval(0.1, 0.1), path)
    path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))
    with pytest.raises(
        IntervalError, match=rf"decision.json: expected a decision.*{name} is {value!r}, expected a number"
    ):
        read_interval(path)


def test_a_file_that_is_no_text_is_named(tmp_path):
    (tmp_path / "decision.json").write_bytes(b"\xff\xfe")
    with pytest.raises(IntervalError, match=r"decision.json: expected a decision"):
        read_interval(tmp_path / "decision.json")
