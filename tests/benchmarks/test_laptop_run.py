import json
import os
import sys

import pytest

from benchmarks import figures
from benchmarks.laptop_run import Run, report_lines, timed
from validation.cascade import RISKY


def test_time_and_memory_are_those_of_the_whole_process_tree():
    # The parent keeps little; its child holds 200 MB for half a second.
    child = "import time; block = bytearray(b'x') * 200_000_000; time.sleep(0.5)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}], check=True)"
    run = timed([sys.executable, "-c", parent], dict(os.environ))
    assert 0.5 < run.seconds < 20
    assert 200e6 < run.peak_bytes < 400e6


def test_a_verdict_of_risk_is_a_finished_run_and_a_failure_is_not():
    timed([sys.executable, "-c", f"raise SystemExit({RISKY})"], dict(os.environ))
    with pytest.raises(RuntimeError, match="status 2:\nno such profile"):
        timed([sys.executable, "-c", "print('no such profile'); raise SystemExit(2)"], dict(os.environ))


def test_lines_carry_the_report_and_compare_with_the_earlier_run():
    tier = {
        "tier": 1,
        "seconds": 12.0,
        "loss": 5.25,
        "spread": 0.02,
        "control_loss": 5.0,
        "control_spread": None,
    }
    lines = report_lines("laptop.warm", Run(50.0, 10**9), {"tiers": [tier]}, Run(100.0, 10**9))
    found = {figure["name"]: figure for figure in map(json.loads, lines)}
    assert found["laptop.warm.seconds"]["ratio"] == 2.0
    assert found["laptop.warm.peak-memory"]["value"] == 1e9
    assert (found["laptop.warm.tier-1.loss"]["value"], found["laptop.warm.tier-1.loss"]["peer"]) == (5.25, 5.0)
    assert found["laptop.warm.tier-1.spread"]["peer"] is None
    assert found["laptop.warm.seconds"]["machine"]["cores"] >= 1


def test_a_figure_is_one_line_with_the_machine():
    text = figures.line("speed", 1 / 3, "s", 2 / 3, 2.0, models=18)
    figure = json.loads(text)
    assert "\n" not in text
    assert list(figure)[:5] == ["name", "value", "unit", "peer", "ratio"]
    assert figure["value"] == pytest.approx(1 / 3, rel=1e-5)
    assert figure["models"] == 18
    assert set(figure["machine"]) >= {"cpu", "cores", "python", "jax", "load"}
