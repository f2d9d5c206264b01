"""`python -m atlas_jax.training.gates_report`: the exit gates of a phase, run for real."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import tyro
from rich.console import Console

from atlas_jax.distributed.mesh import compilation_cache, use_host_devices
from atlas_jax.training.checkpoint import CheckpointError
from atlas_jax.training.gates_report.gate import summary
from atlas_jax.training.gates_report.page import write_page
from atlas_jax.training.gates_report.report import JSON, PAGE, Report, Screen, phase_four, phase_two, write_json
from atlas_jax.training.gates_report.settings import DEFAULTS, Defaults, Options
from atlas_jax.training.interrupts import INTERRUPTED, TERMINATED, Interrupts
from atlas_jax.training.memories.chunk_sets import ChunkSetError
from atlas_jax.training.needles.interval import IntervalError
from atlas_jax.training.runs.progress import Display
from atlas_jax.training.runs.settings import SettingsError
from atlas_jax.training.runs.text_data import DataError
from atlas_jax.training.telemetry import LogError

PASSED, FAILED, BAD_INPUT = 0, 1, 2
COMMAND = "python -m atlas_jax.training.gates_report"


def _report(options: Options, out: Path, errors: Console, interrupts: Interrupts, defaults: Defaults) -> Report:
    def say(text: str) -> None:
        errors.print(text)

    screen = Screen(lambda steps: Display(steps, errors), say, interrupts)
    phase = phase_two if options.phase == 2 else phase_four
    with interrupts:
        report = phase(options, out, screen, defaults)
    write_json(report, out / JSON)
    write_page(report, out / PAGE)
    return report


def main(arguments: list[str] | None = None, defaults: Defaults = DEFAULTS) -> int:
    """Runs the command line and returns its exit code.

    Args:
      arguments: without the command; None: those of the process.
      defaults: of what is not given.
    """
    given = sys.argv[1:] if arguments is None else arguments
    options = tyro.cli(Options, prog=COMMAND, args=given)
    console, errors = (Console(stderr=to, soft_wrap=True, highlight=False, markup=False) for to in (False, True))
    out = options.out or Path(f"runs/gates-{options.phase}")
    compilation_cache()
    use_host_devices()
    interrupts = Interrupts()
    try:
        report = _report(options, out, errors, interrupts, defaults)
    except KeyboardInterrupt:
        heard = interrupts.heard or INTERRUPTED
        what = "Terminated" if heard == TERMINATED else "Interrupted"
        errors.print(f"\n{what}. Go on with: {COMMAND} {shlex.join(given)}")
        return 128 + heard
    except (SettingsError, DataError, CheckpointError, LogError, IntervalError, ChunkSetError, OSError) as error:
        errors.print(f"error: {error}")
        return BAD_INPUT
    for gate in report.gates:
        console.print(gate.line())
    console.print(f"phase {report.phase}: {summary(report.gates)}")
    errors.print(f"written: {out / JSON}, {out / PAGE}")
    return PASSED if all(gate.passed for gate in report.gates) else FAILED


if __name__ == "__main__":
    sys.exit(main())
