"""A whole laptop run as a user starts it, once with an empty cache and once more: wall time, peak memory, tiers.

Run: `python -m benchmarks.laptop_run [DATA]`.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import tyro

from benchmarks import figures
from validation.cascade import PASS, RISKY
from validation.datasets.standard_library import write_standard_library

POLL_SECONDS = 0.05


class Run(NamedTuple):
    """A finished command: wall seconds, and the largest sum of resident memory over its processes, in bytes.

    The sum is polled, so a peak shorter than POLL_SECONDS may be missed. The kernel's own record of finished children is
    no better: it counts one process, not the tree, and starts from the memory of the process that forked it.
    """

    seconds: float
    peak_bytes: int


def timed(command: list[str], environment: dict[str, str]) -> Run:
    """Runs a command to its end.

    Raises:
      RuntimeError: it failed; its output is in the message.
    """
    with tempfile.TemporaryFile() as output:
        started, peak = time.perf_counter(), 0
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
        while process.poll() is None:
            peak = max(peak, _tree_bytes(process.pid))
            time.sleep(POLL_SECONDS)
        seconds = time.perf_counter() - started
        if process.returncode not in (PASS, RISKY):
            output.seek(0)
            text = output.read().decode(errors="replace")
            raise RuntimeError(f"{' '.join(command)} ended with status {process.returncode}:\n{text[-4000:]}")
    return Run(seconds, peak)


def _tree_bytes(root: int) -> int:
    """Resident memory of a process and all its descendants; pages that they share count once for each."""
    children, resident = defaultdict(list), {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name, in parentheses, may hold anything: fields are counted from behind it.
            fields = entry.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):  # it ended meanwhile
            continue
        pid = int(entry.parent.name)
        children[int(fields[1])].append(pid)
        resident[pid] = int(fields[21]) * resource.getpagesize()
    total, waiting = 0, [root]
    while waiting:
        pid = waiting.pop()
        total += resident.get(pid, 0)
        waiting += children[pid]
    return total


def report_lines(name: str, run: Run, report: dict[str, Any], earlier: Run | None) -> list[str]:
    """The figures of one run; ratios are an earlier run's seconds to this one's."""
    peer = earlier.seconds if earlier else None
    ratio = earlier.seconds / run.seconds if earlier else None
    lines = [
        figures.line(f"{name}.seconds", run.seconds, "s", peer, ratio),
        figures.line(f"{name}.peak-memory", float(run.peak_bytes), "bytes"),
    ]
    for tier in report["tiers"]:
        start = f"{name}.tier-{tier['tier']}"
        lines += [
            figures.line(f"{start}.seconds", tier["seconds"], "s"),
            figures.line(f"{start}.loss", tier["loss"], "bits per token", tier["control_loss"]),
            figures.line(f"{start}.spread", tier["spread"], "bits per token", tier["control_spread"]),
        ]
    return lines


def main(data: Path | None = None, /, reference: Path | None = None, profile: str = "laptop") -> None:
    """Prints the figures of a cold and a warm run as JSON lines.

    Args:
      data: text to judge; default the documentation inside Python's standard library.
      reference: trusted text to judge it against.
      profile: size of the run.
    """
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        path = data or root / "standard-library.jsonl"
        if data is None:
            write_standard_library(path)
        environment, earlier = {**os.environ, "ATLAS_CACHE": str(root / "cache")}, None
        for label in ("cold", "warm"):
            out = root / label
            command = [sys.executable, "-m", "validation.cascade", str(path), "--profile", profile, "--out", str(out)]
            command += ["--reference", str(reference)] if reference else []
            run = timed(command, environment)
            report = json.loads((out / "report.json").read_text(encoding="utf-8"))
            print("\n".join(report_lines(f"{profile}.{label}", run, report, earlier)), flush=True)
            earlier = run


if __name__ == "__main__":
    tyro.cli(main)
