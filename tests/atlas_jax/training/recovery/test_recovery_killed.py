"""Killed twenty times while it saves, a run with rollbacks ends where an undisturbed one does, to the bit."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("recovery_program.py")
KILLS = 20


def start(folder, *at_ease_after):
    folder.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, PROGRAM, folder, *map(str, at_ease_after)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def left(folder):
    """All that a run leaves but the times."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    metrics = [{name: value for name, value in row.items() if name != "time"} for row in rows]
    kept = sorted(path.name for path in (folder / "checkpoints").iterdir())
    healthy = sorted(path.parent.name for path in (folder / "checkpoints").glob("*/healthy"))
    return (folder / "params.bin").read_bytes(), metrics, (folder / "rollbacks.jsonl").read_text(), kept, healthy


def kill_while_saving(child, saves, pause):
    """Kills it a moment after it has begun its n-th save; what it had said by then of saving and restoring."""
    lines = []
    for line in child.stdout:
        lines.append(line)
        saves -= line.startswith("saving")
        if saves == 0:
            time.sleep(pause)
            child.send_signal(signal.SIGKILL)
            break
    lines += child.communicate()[0].splitlines()
    assert child.returncode == -signal.SIGKILL, "".join(lines)
    return [
        (line.split()[0], int(line.split()[1])) for line in lines if line.startswith(("saving", "saved", "restored"))
    ]


@pytest.mark.slow
def test_twenty_kills_while_saving_lose_nothing_that_was_acknowledged(tmp_path):
    undisturbed = start(tmp_path / "undisturbed")
    output, _ = undisturbed.communicate()
    assert undisturbed.returncode == 0, output
    rollbacks = [json.loads(line) for line in (tmp_path / "undisturbed" / "rollbacks.jsonl").read_text().splitlines()]
    assert len(rollbacks) == 2, rollbacks

    chosen, acknowledged, inside = random.Random(0), 0, 0
    for kill in range(KILLS):
        saves = chosen.randrange(2, 7)
        said = kill_while_saving(start(tmp_path / "killed", saves), saves, chosen.uniform(0, 0.03))
        assert kill == 0 or said[0][0] == "restored", said
        for rollback in rollbacks:  # what a rollback abandons is not lost
            if rollback["restored"] < acknowledged <= rollback["fired"]:
                acknowledged = rollback["restored"]
        found = said[0][1]
        assert found >= acknowledged, f"kill {kill}: {acknowledged} was acknowledged, {found} restored"
        acknowledged = [step for what, step in said if what != "saving"][-1]
        inside += said[-1][0] == "saving"
    assert inside >= KILLS // 4, f"only {inside} of the kills came while a save was not yet acknowledged"

    last = start(tmp_path / "killed")
    output, _ = last.communicate()
    assert last.returncode == 0, output
    assert left(tmp_path / "killed") == left(tmp_path / "undisturbed")
