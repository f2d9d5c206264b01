"""What a run is: settings resolved to a model, data and stages, and a folder in which it goes on from where it stopped."""

from __future__ import annotations

import contextlib
import fcntl
import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import optax
from jax.sharding import Mesh

from atlas_jax.data import load_tokenizer
from atlas_jax.models.registry import RegisteredModel
from atlas_jax.training.checkpoint import Checkpointer, CheckpointError
from atlas_jax.training.loop import BatchSource
from atlas_jax.training.memories.chunk_sets import locked, locked_chunks, read_decision
from atlas_jax.training.runs.programs import state_shapes
from atlas_jax.training.runs.settings import (
    FREE,
    Settings,
    SettingsError,
    check,
    configured,
    flag,
    mesh_of,
    optimizer_of,
    preset_of,
    schedule_of,
)
from atlas_jax.training.runs.stages import Stage, two_stages
from atlas_jax.training.runs.text_data import DataError, Split, Tokens, encode, read
from atlas_jax.training.runs.windows import WindowBatches
from atlas_jax.training.state import TrainState
from atlas_jax.training.whole_file import write_whole

CONFIG, TOKENIZER, METRICS = "config.json", "tokenizer.json", "metrics.jsonl"
HELD_OUT, EVENTS, CHECKPOINTS = "held_out.jsonl", "events.jsonl", "checkpoints"
LOCK = ".lock"
KEPT = 5  # checkpoints


class Run(NamedTuple):
    """A run, resolved.

    Attributes:
      settings: as given; chunks that were to be taken from a file are in `chunks`.
      folder: where all of it is written.
      model, config: of the registry; at the first stage's chunks.
      parameters: how many.
      tokens: what it trains on and is measured on.
      batches: of the first, by position, texts with needles among them.
      parted: how the two were parted, "file", "position" or "folder".
      stages: one or two.
      schedule, optimizer: of all steps.
      mesh: of the devices used.
      shapes: of its state, to restore checkpoints into.
    """

    settings: Settings
    folder: Path
    model: RegisteredModel
    config: Any
    parameters: int
    tokens: Tokens
    batches: BatchSource
    parted: str
    stages: tuple[Stage, ...]
    schedule: optax.Schedule
    optimizer: optax.GradientTransformation
    mesh: Mesh
    shapes: TrainState


def resolve(settings: Settings, folder: Path) -> Run:
    """Everything that the settings name, checked, and the folder's record of it written; nothing is compiled yet.

    Args:
      settings: of the run.
      folder: a new one, or that of the same run, which then goes on.

    Raises:
      SettingsError: a setting cannot be, the folder holds a run of other settings or data, or its disk is too small.
      DataError: the data cannot be trained on.
      ChunkSetError: no chunks can be taken from the file that is to say them.
    """
    check(settings)
    preset_of(settings)
    mesh_of(settings)
    decision = None if settings.chunks_from is None else read_decision(settings.chunks_from)
    if decision is not None:
        settings = replace(settings, chunks=locked_chunks(decision), chunks_from=None)
    split = read(settings.data, settings.held_out, settings.held_out_data)
    record = {"settings": _plain(asdict(settings)), "data": split.fingerprint}
    goes_on = _same_run(folder, record)
    run = _resolved(settings, folder, split, goes_on=goes_on)
    if decision is not None:
        locked(run.config, decision)  # refuses one of another model
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(
            f"{folder}: the folder of the run cannot be made ({error.strerror}), expected one that can be written"
        ) from error
    _check_disk(folder, run.shapes)
    if not goes_on:
        if run.tokens.tokenizer is not None:
            run.tokens.tokenizer.save(folder / TOKENIZER)
        write_whole(folder / CONFIG, json.dumps(record | {"config": asdict(run.config)}, indent=1) + "\n")
    return run


def reopen(folder: Path) -> Run:
    """The run that a folder holds, to read its checkpoints and its data on one device; nothing is written.

    Args:
      folder: of `resolve`. Data is looked for where it was given: paths that are not absolute begin at the working directory.

    Raises:
      SettingsError: the folder holds no run, or one of other settings than there are.
      DataError: its data is gone or has changed.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise SettingsError(f"{folder}: holds no run, expected the --out of one, with its {CONFIG}")
    record = _record(path)
    settings = replace(_settings(path, record["settings"]), devices=1)
    check(settings)
    try:
        split = read(settings.data, settings.held_out, settings.held_out_data)
    except DataError as error:
        raise DataError(f"{folder}: the data of its run cannot be read: {error}") from error
    if split.fingerprint != record["data"]:
        told = ", ".join(map(str, settings.data)) or "the source of Python's standard library"
        raise DataError(f"{folder}: {told} is other data than its run was trained on, expected the same")
    return _resolved(settings, folder, split, goes_on=True)


def last_state(run: Run) -> TrainState:
    """The state in the newest checkpoint of a run that can be read.

    Raises:
      CheckpointError: there is none, or it is that of another model or optimizer.
    """
    with Checkpointer(run.folder / CHECKPOINTS, keep=KEPT) as checkpoints:
        found = checkpoints.restore(run.shapes)
    if found is None:
        raise CheckpointError(f"{run.folder / CHECKPOINTS}: no checkpoint, expected that of a run that was trained")
    return found[0]


def _resolved(settings: Settings, folder: Path, split: Split, *, goes_on: bool) -> Run:
    """The run; of one that goes on its tokenizer is read and not made."""
    model, preset = preset_of(settings)
    mesh = mesh_of(settings)
    length = settings.length or preset.context
    tokenizer = settings.tokenizer
    try:
        if goes_on and (folder / TOKENIZER).exists():
            tokenizer = load_tokenizer(folder / TOKENIZER)
        tokens = encode(split, length=length, tokenizer=tokenizer, vocabulary=settings.vocabulary or preset.vocab_size)
        config = configured(preset, settings, vocabulary=tokens.vocabulary, length=length)
        stages = two_stages(
            config, steps=settings.steps, sizes=settings.stage_two_chunks, share=settings.stage_two_share
        )
        batches = WindowBatches(tokens.train, settings.batch, settings.seed, needles=settings.needles)
    except (SettingsError, DataError):
        raise
    except ValueError as error:  # of a tokenizer, chunks or needles, which name themselves
        raise SettingsError(str(error)) from error
    optimizer = optimizer_of(settings)
    shapes = state_shapes(model, config, optimizer, mesh)
    return Run(
        settings=settings,
        folder=folder,
        model=model,
        config=config,
        parameters=sum(leaf.size for leaf in jax.tree.leaves(shapes.params)),
        tokens=tokens,
        batches=batches,
        parted=split.by,
        stages=stages,
        schedule=schedule_of(settings, stages),
        optimizer=optimizer,
        mesh=mesh,
        shapes=shapes,
    )


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Holds the folder of a run for this process: two that trained in it would take each other's checkpoints for remains.

    Args:
      folder: that exists; the lock ends with the process, however it ends.

    Raises:
      SettingsError: another process holds it.
    """
    with (folder / LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SettingsError(f"{folder}: another process trains in it, expected one at a time") from error
        yield


def _same_run(folder: Path, record: dict[str, Any]) -> bool:
    """Whether the folder holds this run already; refuses one that holds another."""
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise SettingsError(f"{folder}: {existing} is a file, expected a folder")
    path = folder / CONFIG
    if not path.exists():
        return False
    before = _record(path)
    settings = before["settings"]
    differing = [
        f"{flag(name)} was {settings.get(name)} and is {value}"
        for name, value in record["settings"].items()
        if name not in FREE and settings.get(name) != value
    ]
    if before["data"] != record["data"]:
        differing.append("the data is another")
    if differing:
        raise SettingsError(
            f"{folder}: holds another run ({'; '.join(differing)}), expected a new folder or the same settings"
        )
    return True


def _record(path: Path) -> dict[str, Any]:
    """What `resolve` wrote of a run: its "settings" and the fingerprint of its "data" among it."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {**found, "settings": dict(found["settings"]), "data": str(found["data"])}
    except (KeyError, TypeError, ValueError) as error:
        raise SettingsError(f"{path}: is no record of a run ({error!r}), expected what this command writes") from error


def _settings(path: Path, plain: dict[str, Any]) -> Settings:
    """Those of a record, as they were given."""
    known = {field.name for field in fields(Settings)}
    foreign = ", ".join(sorted(flag(name) for name in plain if name not in known))
    if foreign:
        raise SettingsError(f"{path}: has {foreign}, expected settings that there are: it is of another version")
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in plain.items()}
    values["data"] = tuple(Path(name) for name in values.get("data", ()))
    if values.get("held_out_data") is not None:
        values["held_out_data"] = Path(values["held_out_data"])
    return Settings(**values)


def _plain(value: Any) -> Any:
    """As JSON gives it back."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _check_disk(folder: Path, shapes: TrainState) -> None:
    """Refuses a disk that the checkpoints will not fit on."""
    one = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves((shapes.params, shapes.opt_state)))
    there = len(list(folder.glob(f"{CHECKPOINTS}/[0-9]*")))
    needed, free = one * max(KEPT + 1 - there, 1), shutil.disk_usage(folder).free
    if free < needed:
        raise SettingsError(
            f"{folder}: {free / 1e9:.2f} GB are free on its disk, expected {needed / 1e9:.2f} for {KEPT} checkpoints of "
            f"{one / 1e9:.2f} each and the one being written"
        )
