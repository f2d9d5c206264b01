"""`python -m atlas_jax.training`: trains any registered model on text, from a folder in which it goes on where it stopped."""

from __future__ import annotations

import json
import shlex
import sys
from contextlib import ExitStack
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Literal

import tyro
from rich.console import Console

from atlas_jax.distributed.mesh import compilation_cache, use_host_devices
from atlas_jax.training.checkpoint import CheckpointError
from atlas_jax.training.loop import NonFiniteError
from atlas_jax.training.recovery.recovery import Recovery, RecoveryError, loop_with_recovery
from atlas_jax.training.recovery.rollback import write_rollbacks
from atlas_jax.training.runs.execution import Drive, execute
from atlas_jax.training.runs.progress import Display, Interrupts
from atlas_jax.training.runs.run import HELD_OUT, KEPT, Run, resolve
from atlas_jax.training.runs.settings import Settings, SettingsError
from atlas_jax.training.runs.tensorboard import Board
from atlas_jax.training.runs.text_data import DataError

DONE, DIVERGED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130
COMMAND = "python -m atlas_jax.training"
CHECKED, HEALTHY = 50, 200  # steps whose losses are read together, and without a fault until a checkpoint is healthy
ROLLBACKS = "rollbacks.jsonl"


@dataclass(frozen=True)
class Options(Settings):
    """Trains a model on text. Stopped at any moment, the same command goes on.

    A loss that leaves its course, and numbers that are not finite, take it back to the last healthy checkpoint.
    Exit codes: 0 trained to the last step, 1 diverged, 2 bad input, 130 interrupted.
    """

    out: Path = Path("runs/atlas")
    """Folder of the run: its settings, tokenizer and checkpoints, and as JSON lines metrics, held_out, events, rollbacks."""
    recovery: Literal["skip", "slow", "none"] = "skip"
    """After going back: pass over the batches in between, or take them again at half the rate. None: stop at the fault."""
    plot: bool = False
    """Draw the run as run.png in that folder."""
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


def _train(options: Options, errors: Console) -> None:
    """Everything between the options and the last line."""
    settings = Settings(**{field.name: getattr(options, field.name) for field in fields(Settings)})
    with ExitStack() as opened:
        boards = [opened.enter_context(Board(options.out / "tensorboard"))] if options.tensorboard else []
        run = resolve(settings, options.out)
        display, interrupts = opened.enter_context(Display(settings.steps, errors)), opened.enter_context(Interrupts())
        display.say(_describe(run))
        execute(
            run,
            hooks=[display],
            sinks=[display.row, *boards],
            drive=_drive(options),
            restored=lambda step, extra: write_rollbacks(options.out / ROLLBACKS, extra),
            interrupted=interrupts,
        )


def _summary(folder: Path) -> str:
    last = json.loads((folder / HELD_OUT).read_text(encoding="utf-8").splitlines()[-1])
    bits = f", {last['bits_per_byte']:.4f} bits per byte" if "bits_per_byte" in last else ""
    return f"step {last['step']:,}: held-out loss {last['loss']:.4f} nats a token{bits}"


def _plot(folder: Path) -> str:
    from atlas_jax.training.runs.run_plot import draw

    return f"drawn: {draw(folder)}"


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    options = tyro.cli(Options, prog=COMMAND, args=given, config=(tyro.conf.FlagCreatePairsOff,))
    errors = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    compilation_cache()
    use_host_devices(options.devices)
    try:
        _train(options, errors)
    except KeyboardInterrupt:
        errors.print(f"\nInterrupted. Go on with: {COMMAND} {shlex.join(given)}")
        return INTERRUPTED
    except (NonFiniteError, RecoveryError) as error:
        errors.print(f"error: {error}")
        return DIVERGED
    except (SettingsError, DataError, CheckpointError, ImportError, OSError) as error:
        errors.print(f"error: {error}")
        return BAD_INPUT
    out = Console(soft_wrap=True, highlight=False, markup=False)
    out.print(_summary(options.out))
    if options.plot:
        out.print(_plot(options.out))
    return DONE


if __name__ == "__main__":
    sys.exit(main())
