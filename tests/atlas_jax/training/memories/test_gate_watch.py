"""The watch on gates: what ends a run and what does not, by made-up figures; and runs that are really ended."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest

from atlas_jax.training.memories.gate_watch import (
    GateCollapseError,
    GateLimits,
    GateWatch,
    RunWatch,
    report_gates,
    watch_gates,
)


def watched(*seen, watch=None, limits=None):
    """The watch after (step, variance, share polarised), and what it found."""
    watch, findings = watch or GateWatch(), []
    for step, variance, share in seen:
        metrics = {
            "gate_variance": np.float32(variance),
            "gate_std": np.float32(variance**0.5),
            "gate_polarised": share,
        }
        watch, found = watch_gates(limits or GateLimits(), watch, step, metrics)
        findings += found
    return watch, findings


def test_a_healthy_run_passes_and_says_what_was_found():
    """Figures of measured runs. Where gates have spread at the first look, as with polarisation, growth is not asked."""
    _, findings = watched((1, 0.0003, 0.26), (100, 0.0918, 0.89), (500, 0.1202, 1.0), (1000, 0.1217, 1.0))
    assert [(found.step, found.passed, found.fatal) for found in findings] == [
        (100, True, False), (500, True, False), (1000, True, False),
    ]  # fmt: skip
    report_gates(findings)
    assert "only where gates vary by less than 0.1" in findings[1].text
    _, findings = watched((1, 0.0004, 0.26), (100, 0.0012, 0.3), (500, 0.0035, 0.34), (1000, 0.0075, 0.37))
    assert [(found.step, found.passed, found.fatal) for found in findings] == [
        (100, False, False), (500, True, False), (1000, True, False),
    ]  # fmt: skip
    report_gates(findings)


def test_gates_that_do_not_spread_end_the_run():
    _, findings = watched((100, 0.002, 0.3), (500, 0.0029, 0.3))
    assert findings[-1].fatal
    with pytest.raises(
        GateCollapseError, match=r"step 500: gate variance is 0.00290, expected at least 1.5 times the 0.00200"
    ):
        report_gates(findings)


@pytest.mark.parametrize("variance", [0.00009, float("nan")])
def test_gates_that_are_all_the_same_end_the_run_after_the_first_look(variance):
    assert watched((99, variance, 1.0))[1] == []
    _, findings = watched((100, 0.1, 0.9), (101, variance, 1.0))
    with pytest.raises(GateCollapseError, match=r"step 101: gates vary by .*, expected at least 0.01"):
        report_gates(findings)


def test_few_polarised_gates_are_logged_and_end_nothing(caplog):
    _, findings = watched((100, 0.002, 0.3), (500, 0.01, 0.1), (1000, 0.01, 0.19))
    with caplog.at_level(logging.INFO):
        report_gates(findings)
    levels = [(record.levelname, record.message.split(":")[0]) for record in caplog.records]
    assert levels == [("WARNING", "step 100"), ("INFO", "step 500"), ("WARNING", "step 1000")]
    assert "19% of gates are polarised, expected at least 20%" in caplog.text


def test_a_look_now_and_then_sees_what_was_due_since_the_last_one():
    watch, findings = watched((90, 0.001, 0.2), (140, 0.002, 0.3), (510, 0.0025, 0.3))
    assert watch.variance == pytest.approx(0.002)
    assert [(found.step, found.fatal) for found in findings] == [(140, False), (510, True)]


def test_a_rollback_before_the_first_look_records_anew():
    watch, _ = watched((100, 0.002, 0.3), (120, 0.002, 0.3))
    watch, _ = watched((91, 0.002, 0.3), (100, 0.004, 0.3), watch=watch)
    assert watch.variance == pytest.approx(0.004)


def test_a_watch_that_began_late_says_so_and_ends_nothing():
    _, findings = watched((500, 0.002, 0.5), watch=GateWatch(step=300))
    assert not findings[0].passed
    assert not findings[0].fatal
    assert "the watch began later" in findings[0].text


def test_a_watch_survives_json():
    watch, _ = watched((100, 0.002, 0.3))
    assert GateWatch(**json.loads(json.dumps(watch._asdict()))) == watch


def test_limits_out_of_order_are_refused():
    with pytest.raises(ValueError, match="GateLimits: steps 600, 500, 1000, expected each above the last"):
        GateLimits(first=600)


def test_a_short_run_is_asked_at_shares_of_it():
    assert GateLimits.within(1000) == GateLimits.within(5000) == GateLimits(100, 500, 1000)
    assert GateLimits.within(60) == GateLimits(6, 30, 60)
    assert GateLimits.within(10) == GateLimits(1, 5, 10)
    with pytest.raises(ValueError, match=r"GateLimits\.within: 9 steps, expected at least 10"):
        GateLimits.within(9)


def figures(step, variance):
    """A row of a log."""
    return {"step": step, "gate_variance": variance, "gate_std": variance and variance**0.5, "gate_polarised": 0.5}


def fed(watch, folder, *rows):
    """The watch after rows that are written and then told, as a run does."""
    folder.mkdir(exist_ok=True)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows))
    for row in rows:
        watch.row(row)


def events(folder):
    return [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]


def watched_run(folder, *groups, ends):
    """A run of 60 steps that is told groups of rows and then ends so; whether the watch wanted it to stop after each."""
    wanted = []
    with RunWatch(folder, GateLimits.within(60)) as watch:
        for group in groups:
            fed(watch, folder, *group)
            wanted.append(watch.collapsed())
        raise ends(wanted)


def test_dead_gates_stop_a_run_as_an_interrupt_does_and_are_noted_once(tmp_path):
    alive = [figures(5, 1e-6), {"step": 5, "held_out_loss": 2.0}, figures(6, 0.02)]
    with pytest.raises(MemoryError, match=r"\[False\]"):
        watched_run(tmp_path / "alive", alive, ends=MemoryError)
    dead = [figures(7, 1e-6), figures(8, 1e-6), figures(9, 1e-6)]
    with pytest.raises(GateCollapseError, match=r"^step 7: gates vary by 0\.0010 [^;]*; the gates have collapsed"):
        watched_run(tmp_path / "dead", alive, dead, ends=KeyboardInterrupt)
    noted = [(row["step"], row["event"], row["passed"], row["fatal"]) for row in events(tmp_path / "dead")]
    assert noted == [(6, "gates", False, False), (7, "gates", False, True)]


def test_other_errors_and_the_interrupts_of_living_gates_pass_through(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        watched_run(tmp_path, [figures(6, 0.02)], ends=KeyboardInterrupt)
    with pytest.raises(MemoryError, match=r"\[True\]"):
        watched_run(tmp_path, [figures(7, 1e-6)], ends=MemoryError)


def test_taken_up_again_it_knows_what_the_log_says(tmp_path):
    """The variance of step 6 is compared with at step 30, by a process that has not seen step 6."""
    limits = GateLimits.within(60)
    fed(RunWatch(tmp_path, limits), tmp_path, figures(5, 0.001), figures(6, 0.002), figures(20, 0.002))
    watch = RunWatch(tmp_path, limits)
    watch.restored(20)
    fed(watch, tmp_path, figures(30, 0.0029))
    assert watch.collapsed()
    assert "expected at least 1.5 times the 0.00200 of step 6" in events(tmp_path)[-1]["text"]
    with pytest.raises(GateCollapseError, match="step 30: gate variance"):
        RunWatch(tmp_path, limits).restored(30)


def test_a_rollback_takes_back_what_was_seen_after_it(tmp_path):
    """Gates that died in an abandoned course have not died; numbers that are not finite are no variation."""
    watch = RunWatch(tmp_path, GateLimits.within(60))
    fed(watch, tmp_path, figures(6, 0.002))
    kept = (tmp_path / "metrics.jsonl").read_text()
    fed(watch, tmp_path, figures(7, None))
    assert watch.collapsed()
    (tmp_path / "metrics.jsonl").write_text(kept)
    watch.restored(6)
    assert not watch.collapsed()
    fed(watch, tmp_path, figures(7, 0.002), figures(30, 0.004))
    assert not watch.collapsed()
    watch.restored(0)
    fed(watch, tmp_path, figures(6, 0.004), figures(30, 0.004))
    assert watch.collapsed(), "the variance of step 6 is that of the new course"
