"""`python -m atlas_jax.training`: trains any registered model on text, from a folder in which it goes on where it stopped."""

from __future__ import annotations

import json
import shlex
import sys
from contextlib import ExitStack
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, Literal

import tyro
from rich.console import Console

from atlas_jax.distributed.mesh import compilation_cache, use_host_devices
from atlas_jax.training.checkpoint import CheckpointError
from atlas_jax.training.interrupts import INTERRUPTED, TERMINATED, Interrupts
from atlas_jax.training.loop import Hook, NonFiniteError
from atlas_jax.training.memories.chunk_sets import ChunkSetError
from atlas_jax.training.memories.gate_watch import GateCollapseError, GateLimits, RunWatch
from atlas_jax.training.needles.interval import IntervalError
from atlas_jax.training.needles.probe import NeedleHook
from atlas_jax.training.recovery.recovery import Recovery, RecoveryError, loop_with_recovery
from atlas_jax.training.recovery.rollback import write_rollbacks
from atlas_jax.training.runs.execution import Drive, execute
from atlas_jax.training.runs.probes import draw_needles, probing_of
from atlas_jax.training.runs.progress import Display
from atlas_jax.training.runs.run import HELD_OUT, KEPT, Run, resolve
from atlas_jax.training.runs.settings import Settings, SettingsError, preset_of, require_atlas
from atlas_jax.training.runs.tensorboard import Board
from atlas_jax.training.runs.text_data import DataError
from atlas_jax.training.telemetry import LogError

DONE, DIVERGED, BAD_INPUT = 0, 1, 2
COMMAND = "python -m atlas_jax.training"
CHECKED, HEALTHY = 50, 200  # steps whose losses are read together, and without a fault until a checkpoint is healthy
ROLLBACKS = "rollbacks.jsonl"
FOUND = 0.8  # of the needles, in a run that trains on such texts


@dataclass(frozen=True)
class Options(Settings):
    """Trains a model on text. Stopped at any moment, the same command goes on.

    A loss that leaves its course, and numbers that are not finite, take it back to the last healthy checkpoint.
    Exit codes: 0 trained to the last step, 1 diverged or gates that died, 2 bad input or a full
    disk, 130 interrupted, 143 terminated.
    """

    out: Path = Path("runs/atlas")
    """Folder of the run: its settings, tokenizer and checkpoints, and as JSON lines metrics, held_out, events, rollbacks."""
    recovery: Literal["skip", "slow", "none"] = "skip"
    """After going back: pass over the batches in between, or take them again at half the rate.
    None: never go back, and stop only at numbers that are not finite."""
    probe_every: int | None = None
    """Steps between two looks for needles in texts; the last step is one too. 0: never.
    Default: measured when the run begins, to take less than a hundredth of the time, and kept in probe_interval.json."""
    watch_gates: bool = False
    """End a run whose gates have died: they are the same for all tokens, or do not spread from step 100 to 500
    (10 % and 50 % of a run shorter than 1000)."""
    plot: bool = False
    """Draw the run as run.png in that folder, and where needles were found as needles.png."""
    tensorboard: bool = False
    """Write it for TensorBoard too, in its folder tensorboard; needs the package tensorboardX."""


def _describe(run: Run) -> str:
    tokens, devices = run.tokens, run.mesh.size
    of = {"file": "by file", "position": "by position", "folder": "as named"}[run.parted]
    return (
        f"{run.settings.model} {run.settings.preset} · {run.parameters:,} parameters · {tokens.train_tokens:,} tokens to train "
        f"on, {tokens.held_out_tokens:,} held out {of}, {tokens.vocabulary:,} kinds · {devices} "
        f"device{'s' if devices > 1 else ''} · {run.folder}"
    )


def _drive(options: Options) -> Drive | None:
    """How the steps are gone through; None: as `execute` does."""
    if options.recovery == "none":
        return None
    every = options.save_every
    return partial(
        loop_with_recovery,
        recovery=Recovery(
            response=options.recovery,
            save_every=every,
            check_every=min(CHECKED, every),
            healthy_after=min(HEALTHY, (KEPT - 1) * every),
        ),
    )


def _watch(options: Options) -> RunWatch:
    require_atlas("--watch-gates", options, preset_of(options)[1])
    try:
        return RunWatch(options.out, GateLimits.within(options.steps))
    except ValueError as error:
        raise SettingsError(f"--watch-gates: {error}") from error


def _train(options: Options, errors: Console, interrupts: Interrupts) -> None:
    """Everything between the options and the last line."""
    if options.probe_every is not None and options.probe_every < 0:
        raise SettingsError(f"--probe-every is {options.probe_every}, expected 0 or more")
    settings = Settings(**{field.name: getattr(options, field.name) for field in fields(Settings)})
    with ExitStack() as opened:
        boards = [opened.enter_context(Board(options.out / "tensorboard"))] if options.tensorboard else []
        watches = [opened.enter_context(_watch(options))] if options.watch_gates else []
        run = resolve(settings, options.out)
        display = opened.enter_context(Display(settings.steps, errors))
        opened.enter_context(interrupts)
        display.say(_describe(run))
        probing = None if options.probe_every == 0 else probing_of(run, options.probe_every, display.say)

        def through(log: Hook) -> Hook:
            if probing is None:
                return log
            bound = FOUND if settings.needles > 0 else 0.0  # who does not train on needles expects none to be found
            return opened.enter_context(NeedleHook(*probing, log, bound=bound, last=settings.steps))

        def restored(step: int, extra: dict[str, Any]) -> None:
            write_rollbacks(options.out / ROLLBACKS, extra)
            for watch in watches:
                watch.restored(step)

        execute(
            run,
            hooks=[display],
            sinks=[display.row, *boards, *(watch.row for watch in watches)],
            through=through,
            drive=_drive(options),
            restored=restored,
            interrupted=lambda: interrupts() or any(watch.collapsed() for watch in watches),
        )


def _summary(folder: Path) -> str:
    last = json.loads((folder / HELD_OUT).read_text(encoding="utf-8").splitlines()[-1])
    bits = f", {last['bits_per_byte']:.4f} bits per byte" if "bits_per_byte" in last else ""
    return f"step {last['step']:,}: held-out loss {last['loss']:.4f} nats a token{bits}"


def _plot(folder: Path) -> str:
    from atlas_jax.training.runs.run_plot import draw

    drawn = [draw(folder), draw_needles(folder)]
    return f"drawn: {', '.join(str(path) for path in drawn if path is not None)}"


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    options = tyro.cli(Options, prog=COMMAND, args=given, config=(tyro.conf.FlagCreatePairsOff,))
    out, errors = (Console(stderr=to, soft_wrap=True, highlight=False, markup=False) for to in (False, True))
    compilation_cache()
    use_host_devices(options.devices)
    interrupts = Interrupts()
    try:
        _train(options, errors, interrupts)
        out.print(_summary(options.out))
        if options.plot:
            out.print(_plot(options.out))
    except KeyboardInterrupt:
        heard = interrupts.heard or INTERRUPTED
        what = "Terminated" if heard == TERMINATED else "Interrupted"
        errors.print(f"\n{what}. Go on with: {COMMAND} {shlex.join(given)}")
        return 128 + heard
    except (NonFiniteError, RecoveryError, GateCollapseError) as error:
        errors.print(f"error: {error}")
        return DIVERGED
    except (
        SettingsError,
        DataError,
        CheckpointError,
        LogError,
        IntervalError,
        ChunkSetError,
        ImportError,
        OSError,
    ) as error:
        errors.print(f"error: {error}")
        return BAD_INPUT
    return DONE


if __name__ == "__main__":
    sys.exit(main())
