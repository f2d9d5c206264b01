"""A run killed at a random step and started again ends where an undisturbed one does, to the bit."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).with_name("resume_program.py")


def start(folder, pause):
    folder.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, PROGRAM, folder, str(pause)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def metrics(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{name: value for name, value in json.loads(line).items() if name != "time"} for line in lines]


def test_killed_and_resumed_equals_undisturbed(tmp_path):
    undisturbed = start(tmp_path / "undisturbed", 0)
    output, _ = undisturbed.communicate()
    assert undisturbed.returncode == 0, output

    at = random.SystemRandom().randrange(12, 55)
    killed = start(tmp_path / "killed", 0.01)
    for line in killed.stdout:
        if line.strip() == str(at):
            killed.send_signal(signal.SIGKILL)
            break
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "killed" / "params.bin").exists()

    resumed = start(tmp_path / "killed", 0)
    output, _ = resumed.communicate()
    assert resumed.returncode == 0, output
    assert output.split()[0] != "1", f"killed at step {at}: nothing was resumed"

    assert (tmp_path / "killed" / "params.bin").read_bytes() == (tmp_path / "undisturbed" / "params.bin").read_bytes()
    assert metrics(tmp_path / "killed") == metrics(tmp_path / "undisturbed")
    assert metrics(tmp_path / "killed")[-1]["loss"] < 0.8 * metrics(tmp_path / "killed")[0]["loss"]
