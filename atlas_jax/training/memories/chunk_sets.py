"""Which local chunks a hierarchy of memories trains with: measured on the machine at hand, decided by a rule, kept in a file.

Three sets of chunks are timed in whole training steps. The fastest that fits is locked, if it trains at least 5 times as many
tokens a second as chunks of 8 alone; else the protocol says stop, because a hierarchy that is no faster is not worth having.

    python -m atlas_jax.training.memories.chunk_sets --config shard=128 --length 256 --out chunk_sets.json

measures and decides; training takes the chunks from that file by --chunks-from.

"C = 8 alone" is one memory with chunks of 8 and neither shards nor a global memory (Titans at a fine chunk): the model
that the hierarchy is there to be faster than. A hierarchy with one local memory of chunk 8 would be no measure: every set does
more work than that.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import tyro
from rich.console import Console

from atlas_jax.data import ByteTokenizer
from atlas_jax.distributed.mesh import compilation_cache
from atlas_jax.models.atlas import AtlasConfig
from atlas_jax.training.machine import machine
from atlas_jax.training.memories.training_speed import DoesNotFitError, TrainingSpeed
from atlas_jax.training.runs.settings import Settings, SettingsError, check, configured, preset_of
from atlas_jax.training.whole_file import write_whole

SETS = {"A": (8, 16, 32, 64), "B": (16, 32, 64, 128), "C": (8, 32, 64)}
BASELINE = "C = 8"
LEAST_RATIO = 5.0

Measure = Callable[[AtlasConfig], float]  # tokens a second of training; raises DoesNotFitError


class ChunkSetError(RuntimeError):
    """There is no decision to train by: none was locked, it is of another model or machine, or its file cannot be read."""


class Row(NamedTuple):
    """A line of the throughput table.

    Attributes:
      name: "C = 8", "A", "B" or "C".
      chunks: of the local memories, in tokens.
      tokens_per_second: of training; None where it does not fit.
      ratio: in those of the baseline; None where either is not known.
      reason: why it does not fit, or is not measured as its chunks or shards do not fit the sequence; None where it does.
    """

    name: str
    chunks: tuple[int, ...]
    tokens_per_second: float | None
    ratio: float | None
    reason: str | None


@dataclass(frozen=True)
class Decision:
    """What was measured, on what, and what follows.

    Attributes:
      chosen: name of the set that is locked; None: stop.
      chunks: of that set, else None.
      verdict: the decision in words.
      rows: the table, the baseline first.
      least_ratio: that the rule asks for.
      model: all fields of the config but the chunks that were chosen among.
      measured: batch, length and what else the measurement was made with.
      machine: hardware and versions.
      time: seconds since 1970 when it was made.
    """

    chosen: str | None
    chunks: tuple[int, ...] | None
    verdict: str
    rows: tuple[Row, ...]
    least_ratio: float
    model: dict[str, Any]
    measured: dict[str, Any]
    machine: dict[str, Any]
    time: float


def baseline_config(config: AtlasConfig) -> AtlasConfig:
    """The same model with one memory of chunks of 8 in every layer, that goes through the whole sequence."""
    return replace(config, chunks=(8,), shard=None, global_chunk=None, projection=None)


def unfit(config: AtlasConfig, chunks: tuple[int, ...], length: int) -> str | None:
    """Why there is nothing to time of these chunks: in training no chunk would be full, or nothing would ever be reset.

    Args:
      config: of the hierarchy; its own chunks are not looked at.
      chunks: of its local memories.
      length: of a sequence, tokens.

    Returns:
      The reason; None where there is none.
    """
    try:
        shard = replace(config, chunks=chunks).shard
    except ValueError as error:  # a shard that is no multiple of a chunk
        return str(error)
    if max(chunks) > length:
        return f"not measured: the chunk {max(chunks)} is longer than a sequence, {length}"
    if shard is not None and shard > length / 2:
        return f"not measured: shards are {shard} tokens and a sequence {length}, so that no second shard is ever trained on"
    return None


def require_a_set(config: AtlasConfig, length: int) -> None:
    """Refuses what no set of chunks can be measured for.

    Args:
      config: of the hierarchy.
      length: of a sequence, tokens.

    Raises:
      ChunkSetError: none of A, B and C fits; it names numbers with which all do.
    """
    reasons = [unfit(config, chunks, length) for chunks in SETS.values()]
    if None in reasons:
        return
    shard = max(max(chunks) for chunks in SETS.values())
    told = "; ".join(f"{name}: {reason}" for name, reason in zip(SETS, reasons, strict=True))
    divides = "" if config.global_chunk is None or shard % config.global_chunk == 0 else f" global_chunk={shard}"
    raise ChunkSetError(
        f"no set of chunks fits ({told}); choose --config shard={shard}{divides} --length {max(length, 2 * shard)}"
    )


def decide(
    config: AtlasConfig,
    measure: Measure,
    *,
    length: int | None = None,
    sets: dict[str, tuple[int, ...]] | None = None,
    least_ratio: float = LEAST_RATIO,
    measured: dict[str, Any] | None = None,
) -> Decision:
    """Measures the baseline and every set, and applies the rule.

    Args:
      config: of the hierarchy; its own chunks are not looked at.
      measure: tokens a second of training a config, `TrainingSpeed` or another; it raises DoesNotFitError.
      length: of the sequences that it measures with, tokens; None: the config's context.
      sets: chunks by name; None: A, B and C.
      least_ratio: of the chosen set, in tokens a second of the baseline.
      measured: what is to be kept about the measurement.

    Returns:
      The decision; with `chosen` None where no set fits, none is fast enough, or the baseline does not fit. Sets that are `unfit`
      are not measured.
    """
    baseline = _row(BASELINE, (8,), baseline_config(config), measure, None)
    rows = [baseline]
    for name, chunks in (SETS if sets is None else sets).items():
        reason = unfit(config, chunks, length or config.context)
        if reason is not None:
            rows.append(Row(name, chunks, None, None, reason))
            continue
        rows.append(_row(name, chunks, replace(config, chunks=chunks), measure, baseline.tokens_per_second))
    chosen, verdict = _verdict(rows, least_ratio)
    return Decision(
        chosen=None if chosen is None else chosen.name,
        chunks=None if chosen is None else chosen.chunks,
        verdict=verdict,
        rows=tuple(rows),
        least_ratio=least_ratio,
        model=_model(config),
        measured=measured or {},
        machine=machine(),
        time=time.time(),
    )


def _row(name: str, chunks: tuple[int, ...], config: AtlasConfig, measure: Measure, baseline: float | None) -> Row:
    try:
        speed = measure(config)
    except DoesNotFitError as error:
        return Row(name, chunks, None, None, str(error))
    ratio = 1.0 if name == BASELINE else None if baseline is None else speed / baseline
    return Row(name, chunks, speed, ratio, None)


def _verdict(rows: list[Row], least_ratio: float) -> tuple[Row | None, str]:
    baseline, *others = rows
    if baseline.tokens_per_second is None:
        return None, f"stop: {BASELINE} does not fit, so that there is nothing to compare with: {baseline.reason}"
    fitting = [row for row in others if row.tokens_per_second is not None]
    if not fitting:
        return None, "stop: no set fits"
    fastest = max(fitting, key=lambda row: row.ratio or 0.0)
    told = (
        f"set {fastest.name} {list(fastest.chunks)} trains {fastest.ratio:.2f} times the tokens a second of {BASELINE}"
    )
    if (fastest.ratio or 0.0) < least_ratio:
        return None, f"stop: the fastest, {told}, expected at least {least_ratio:g} times"
    return fastest, f"locked: {told}"


def locked_chunks(decision: Decision) -> tuple[int, ...]:
    """The chunks that were decided on.

    Raises:
      ChunkSetError: the decision is to stop, or was made on another kind of device than the one at hand.
    """
    if decision.chunks is None:
        raise ChunkSetError(f"the decision on chunks is to {decision.verdict}; expected one that locks a set")
    there, here = decision.machine.get("device"), jax.devices()[0].device_kind
    if there != here:
        raise ChunkSetError(
            f"the decision on chunks is of another machine: {there!r} there, {here!r} here; measure again"
        )
    return decision.chunks


def locked(config: AtlasConfig, decision: Decision) -> AtlasConfig:
    """The hierarchy with the chunks that were decided on.

    Args:
      config: of the model that the decision was made for, with any chunks.
      decision: of that model.

    Raises:
      ChunkSetError: as `locked_chunks`, or the decision is of another model.
    """
    chunks = locked_chunks(decision)
    differing = [name for name, value in _model(config).items() if decision.model.get(name) != value]
    if differing:
        told = ", ".join(
            f"{name} {decision.model.get(name)!r} there, {getattr(config, name)!r} here" for name in differing
        )
        raise ChunkSetError(f"the decision on chunks is of another model: {told}; measure again")
    return replace(config, chunks=chunks)


def write_decision(decision: Decision, path: str | os.PathLike[str]) -> None:
    """As JSON, whole or not at all; folders are made."""
    content = asdict(decision) | {"rows": [row._asdict() for row in decision.rows]}
    write_whole(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def read_decision(path: str | os.PathLike[str]) -> Decision:
    """What `write_decision` wrote.

    Raises:
      ChunkSetError: there is no such file, or it holds something else.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        content["rows"] = tuple(Row(**{**row, "chunks": tuple(row["chunks"])}) for row in content["rows"])
        chunks = content["chunks"]
        return Decision(**{**content, "chunks": None if chunks is None else tuple(chunks)})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ChunkSetError(f"{path}: expected a decision on chunks, as `write_decision` writes it: {error}") from error


def table(decision: Decision) -> str:
    """The throughput table and the verdict, in lines."""
    lines = [f"{'set':<6} {'chunks':<20} {'tokens/s':>12} {'ratio':>7}"]
    for row in decision.rows:
        speed = "-" if row.tokens_per_second is None else f"{row.tokens_per_second:,.0f}"
        ratio = "-" if row.ratio is None else f"{row.ratio:.2f}"
        about = "" if row.reason is None else f"  {row.reason}"
        lines.append(f"{row.name:<6} {', '.join(map(str, row.chunks)):<20} {speed:>12} {ratio:>7}{about}")
    return "\n".join([*lines, decision.verdict])


def _model(config: AtlasConfig) -> dict[str, Any]:
    """The config as JSON would give it back, without the lengths that another call of the same model may change."""
    return {name: value for name, value in asdict(config).items() if name not in {"chunks", "tile"}}


@dataclass(frozen=True)
class Options:
    """Measures which chunks the local memories of a model should train with, and writes the decision down.

    Exit codes: 0 a set is locked, 1 the verdict is to stop, 2 bad input.
    """

    preset: str = "micro-tnt"
    """Of the model atlas."""
    config: tuple[str, ...] = ()
    """Other fields of its config, as NAME=VALUE; its chunks are not looked at. A set fits only if its chunks divide the shard,
    of which a sequence has to hold two."""
    length: int | None = None
    """Tokens per sequence. Default: the preset's context."""
    batch: int = 8
    """Sequences per step, on one device."""
    vocabulary: int = ByteTokenizer().vocab_size
    """Tokens that the model knows. Default: as many as with bytes."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Of activations. Default: the preset's."""
    out: Path = Path("chunk_sets.json")
    """Where to write the decision, for --chunks-from of the training command."""


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    prog = "python -m atlas_jax.training.memories.chunk_sets"
    options = tyro.cli(Options, prog=prog, args=arguments)
    compilation_cache()
    names = {name: getattr(options, name) for name in ("preset", "config", "length", "batch", "vocabulary", "dtype")}
    settings = Settings(**names)
    errors = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    out = Console(soft_wrap=True, highlight=False, markup=False)
    try:
        check(settings)
        _, preset = preset_of(settings)
        length = options.length or preset.context
        config = configured(preset, settings, vocabulary=options.vocabulary, length=length)
        require_a_set(config, length)
        speed = TrainingSpeed(options.batch, length)
        found = decide(config, speed, length=length, measured=speed._asdict())
        out.print(table(found))  # before it is written: minutes of measuring are not lost on a full disk
        write_decision(found, options.out)
    except KeyboardInterrupt:
        errors.print("\nInterrupted.")
        return 130
    except (SettingsError, ChunkSetError, OSError) as error:
        errors.print(f"error: {error}")
        return 2
    return 0 if found.chunks is not None else 1


if __name__ == "__main__":
    sys.exit(main())
