"""A measurement in a process of its own, with the memory of it and of all that it starts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

EVERY = 0.05  # seconds between two looks at the memory


class Cost(NamedTuple):
    """What a task took.

    Attributes:
      seconds: of the work alone, without starting Python and importing.
      whole: seconds of the process from start to end.
      memory: most bytes that the process and its children held at once, shared pages counted once.
      found: what the task says of its result.
    """

    seconds: float
    whole: float
    memory: int
    found: dict[str, Any]


class TaskError(RuntimeError):
    """A task that did not end well: its last line on standard error."""


def run(task: str, *, peers: Path | None = None, timeout: float = 3600.0, **given: Any) -> Cost:
    """Runs a task of `benchmarks.datasets.tasks`.

    Args:
      task: its name.
      peers: a folder with packages for it.
      timeout: seconds.
      given: its arguments.

    Raises:
      TaskError: it failed, or took too long.
    """
    environment = dict(os.environ)
    if peers is not None:
        environment["PYTHONPATH"] = os.pathsep.join([str(peers.resolve()), environment.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "benchmarks.datasets.tasks", task, json.dumps(given, default=str)]
    began, memory = time.perf_counter(), 0
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=errors)
        try:
            while process.poll() is None:
                memory = max(memory, sum(_resident(one) for one in _tree(process.pid)))
                if time.perf_counter() - began > timeout:
                    raise TaskError(f"{task}: more than {timeout:.0f} s")
                time.sleep(EVERY)
        finally:
            process.kill()
            process.wait()
        out.seek(0)
        errors.seek(0)
        lines = out.read().splitlines()
        if process.returncode or not lines:
            raise TaskError(f"{task}: {(errors.read().strip().splitlines() or ['no result'])[-1]}")
    found = json.loads(lines[-1])
    return Cost(found.pop("seconds"), time.perf_counter() - began, memory, found)


def _tree(root: int) -> list[int]:
    """A process and all its descendants."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parents[int(folder.name)] = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except OSError:
                continue  # it has ended
    found = [root]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found


def _resident(process: int) -> int:
    """Bytes a process holds, its share of what is shared."""
    try:
        text = Path(f"/proc/{process}/smaps_rollup").read_text()
    except OSError:
        return 0  # it has ended
    return next((int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("Pss:")), 0)
