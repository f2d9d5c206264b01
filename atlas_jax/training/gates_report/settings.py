"""What the report trains where nothing else is asked for, and how a run is made of the options."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from atlas_jax.training.gates_report.rehearsal import Plan
from atlas_jax.training.runs.settings import Integers, Settings


@dataclass(frozen=True)
class Defaults:
    """A small model that a CPU trains in minutes, and the numbers of the report itself.

    Attributes:
      preset: of the model atlas.
      config: what is changed of it; of another preset nothing is.
      length, batch: tokens of a sequence and sequences of a step; of another preset its context.
      rate, needles: learning rate, and share of the windows that are texts with needles.
      save_every, evaluate_every, evaluate_windows: as in `Settings`.
      stage_two_share: of the steps, in phase 4.
      timed: steps of each set of chunks whose median counts.
      rehearsal: of a rollback.
      texts: sequences that gradients, resets and decoding are looked at with.
    """

    preset: str = "micro-tnt"
    # A delta memory finds 98 % of needles after 1,000 steps; linear and deep ones by descent 17 and 13 % after 500, it 92 %.
    config: tuple[str, ...] = (
        "d_model=64",
        "feed_forward=128",
        "tied=false",
        "rule=delta",
        "network=linear",
        "rate=1.0",
        "chunks=[16,64]",
        "shard=128",
        "global_chunk=64",
    )
    length: int = 256
    batch: int = 8
    rate: float = 5e-3
    needles: float = 0.5
    save_every: int = 100
    evaluate_every: int = 100
    evaluate_windows: int = 64
    stage_two_share: float = 0.2
    timed: int = 5
    rehearsal: Plan = field(default_factory=Plan)
    texts: int = 2


DEFAULTS = Defaults()


@dataclass(frozen=True)
class Options:
    """Trains a model, runs the exit gates of a phase for real, and prints a line for each. Stopped, the same command goes on.

    Exit codes: 0 all gates passed, 1 one failed, 2 bad input or a full disk, 130 interrupted, 143 terminated.
    """

    steps: int = 1000
    """Optimizer steps of the run."""
    phase: Literal[2, 4] = 2
    """2: chunk sets, cost of probes, resets, training, needles, rollback, gradients.
    4: rollbacks, perplexity over chunks after a second stage, needles, decoding."""
    preset: str = DEFAULTS.preset
    """Of the model atlas. Default: a small one with changes that fit a CPU."""
    config: tuple[str, ...] = ()
    """Other fields of its config, as NAME=VALUE, beside those changes."""
    chunks: Integers = ()
    """Chunks of the local memories. Default: of phase 2 the set that is locked, else the preset's."""
    length: int | None = None
    """Tokens per sequence. Default: of the default preset 256, else its context."""
    batch: int | None = None
    """Sequences per step."""
    data: tuple[Path, ...] = ()
    """Text files or folders. Default: the source of Python's standard library."""
    out: Path | None = None
    """Folder of the report: gates.json, gates.html, the run and the measurements. Default: runs/gates-PHASE."""


def run_settings(options: Options, defaults: Defaults = DEFAULTS) -> Settings:
    """The settings of the run; its chunks may still be decided.

    Args:
      options: as given.
      defaults: of what is not.
    """
    usual = options.preset == defaults.preset
    changed = {
        name: text for name, text in (_named(text) for text in (*(defaults.config if usual else ()), *options.config))
    }
    if options.chunks and not any(_named(text)[0] == "chunks" for text in options.config):
        changed.pop("chunks", None)
    return Settings(
        model="atlas",
        preset=options.preset,
        config=tuple(changed.values()),
        chunks=options.chunks,
        data=options.data,
        steps=options.steps,
        length=options.length or (defaults.length if usual else None),
        batch=options.batch or defaults.batch,
        rate=defaults.rate,
        needles=defaults.needles,
        save_every=defaults.save_every,
        evaluate_every=defaults.evaluate_every,
        evaluate_windows=defaults.evaluate_windows,
    )


def with_chunks(settings: Settings, chunks: tuple[int, ...]) -> Settings:
    """The same run with those chunks, whatever was said of them among the other fields of its config.

    Args:
      settings: of the run.
      chunks: of its local memories.
    """
    others = tuple(text for text in settings.config if _named(text)[0] != "chunks")
    return replace(settings, chunks=chunks, config=others)


def _named(text: str) -> tuple[str, str]:
    """A later value of a field is the one that counts."""
    return text.partition("=")[0], text


def in_two_stages(settings: Settings, chunks: tuple[int, ...], sizes: tuple[int, ...], share: float) -> Settings:
    """The same run with a second stage: one local memory takes all sizes in turn, of several each takes half of its chunk.

    Args:
      settings: of the run.
      chunks: of its local memories.
      sizes: that one memory takes.
      share: of the steps.
    """
    second = sizes if len(chunks) == 1 else tuple(max(1, chunk // 2) for chunk in chunks)
    return replace(settings, stage_two_chunks=second, stage_two_share=share)
