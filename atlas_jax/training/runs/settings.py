"""The settings of a run, and what each of them is for the model: its config, its optimizer, its schedule, its devices."""

from __future__ import annotations

import json
import math
import types
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import jax
import optax
import tyro
from jax.sharding import Mesh

from atlas_jax.distributed.mesh import model_mesh
from atlas_jax.models.atlas import AtlasConfig
from atlas_jax.models.registry import RegisteredModel, registered
from atlas_jax.training.muon import decayed_matrices, muon
from atlas_jax.training.optim import adamw, cosine, wsd
from atlas_jax.training.runs.stages import Stage, staged


class SettingsError(ValueError):
    """A setting cannot be; the message names it and what was expected."""


def _integers(given: list[str]) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in given[0].split(","))
    except ValueError as error:
        raise ValueError(f"is {given[0]!r}, expected whole numbers with commas between them") from error


Integers = Annotated[  # on the command line as 2,4,8
    tuple[int, ...],
    tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="N,N",
        instance_from_str=_integers,
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda value: [",".join(map(str, value))],
    ),
]


@dataclass(frozen=True)
class Settings:
    """What a run learns and from what."""

    model: str = "atlas"
    """Of the registry; `python -m atlas_jax.models` lists them with their presets."""
    preset: str = "micro"
    """Its size."""
    data: tuple[Path, ...] = ()
    """Text files, folders of them, or shards of tokens (.npy, .bin). Default: the source of Python's standard library."""
    held_out_data: Path | None = None
    """A file or folder to hold out."""
    held_out: float = 0.05
    """Share of the data to hold out where none is named."""
    steps: int = 1000
    """Optimizer steps, both stages together."""
    length: int | None = None
    """Tokens per sequence. Default: the preset's context."""
    batch: int = 8
    """Sequences per step, over all devices and parts."""
    needles: float = 0.0
    """Share of the training windows that are texts with needles to find: tokens that come again, and what followed them."""
    chunks: Integers = ()
    """Chunks of the local memories, one each."""
    chunks_from: Path | None = None
    """Those that were decided on for this model and device: what the command memories.chunk_sets wrote."""
    config: tuple[str, ...] = ()
    """Other fields of the model's config, as NAME=VALUE."""
    tokenizer: str = "bytes"
    """bytes, bpe (trained on the training part) or the path of a tokenizer.json."""
    vocabulary: int | None = None
    """Tokens of the encoding to train, or of shards without a tokenizer. Default: the preset's."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """Muon is for the matrices of layers; the rest learns by AdamW then too."""
    rate: float = 3e-4
    """Learning rate after the warm-up."""
    schedule: Literal["wsd", "cosine"] = "wsd"
    """Warm-up, stable, decay; or warm-up and cosine."""
    warmup: float = 0.02
    """Share of the steps."""
    decay: float = 0.2
    """Share of the steps; of wsd."""
    floor: float = 0.1
    """Share of the rate that is left at the end."""
    weight_decay: float = 0.1
    """Of matrices, times the rate."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    accumulation: int = 1
    """Parts of the batch, one after the other."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Of activations. Default: the preset's."""
    polarisation: float = 0.0
    """Largest weight of the loss that makes gates decide, of the first tenth of the steps; it falls to a hundredth. 0: none."""
    stage_two_chunks: Integers = ()
    """Chunks of a second stage: in turn where there is one local memory, else one for each. Default: no second stage."""
    stage_two_share: float = 0.05
    """Share of the steps that the second stage takes."""
    stage_two_rate: float = 0.3
    """Learning rate at its start, as a share of --rate."""
    seed: int = 0
    """Of parameters and order."""
    devices: int | None = None
    """How many to use. Default: all that divide a part of the batch; of a CPU each core is one."""
    evaluate_every: int = 100
    """Steps between measurements on what is held out."""
    evaluate_windows: int = 64
    """Sequences of it to measure on, evenly spread."""
    save_every: int = 500
    """Steps between checkpoints."""


# What may differ when a run goes on: it does not change what is learnt. Data is known by its content instead.
FREE = frozenset(("data", "held_out_data", "devices", "evaluate_every", "evaluate_windows", "save_every"))
# Options that fields of the config have of their own.
OWN = {"vocab_size": "--vocabulary", "context": "--length", "chunks": "--chunks alone", "dtype": "--dtype alone"}


def flag(name: str) -> str:
    """The setting's name on the command line."""
    return "--" + name.replace("_", "-")


def check(settings: Settings) -> None:
    """Refuses numbers out of their range.

    Raises:
      SettingsError: it names the setting.
    """
    ranges = (
        (("steps", "batch", "accumulation", "evaluate_every", "evaluate_windows", "save_every"), 1, None, "1 or more"),
        (("length", "vocabulary", "devices"), 1, None, "1 or more"),
        (("seed",), 0, None, "0 or more"),
        (("weight_decay", "polarisation"), 0, None, "0 or more"),
        (("warmup", "decay", "floor", "stage_two_rate", "needles"), 0, 1, "0 to 1"),
    )
    for names, least, most, expected in ranges:
        for name in names:
            value = getattr(settings, name)
            if value is not None and not (value >= least and (most is None or value <= most)):
                raise SettingsError(f"{flag(name)} is {value}, expected {expected}")
    for name in ("rate", "clip"):
        if not getattr(settings, name) > 0:
            raise SettingsError(f"{flag(name)} is {getattr(settings, name)}, expected above 0")
    if not 0 < settings.held_out <= 0.5:
        raise SettingsError(f"--held-out is {settings.held_out}, expected above 0 and at most 0.5")
    if settings.chunks and settings.chunks_from is not None:
        raise SettingsError("--chunks and --chunks-from are both given, expected one of them")
    if settings.warmup + settings.decay > 1:
        raise SettingsError(
            f"--warmup and --decay are {settings.warmup} and {settings.decay}, expected at most 1 together"
        )
    if settings.batch % settings.accumulation:
        raise SettingsError(
            f"--batch is {settings.batch}, expected a multiple of --accumulation {settings.accumulation}"
        )


def preset_of(settings: Settings) -> tuple[RegisteredModel, Any]:
    """The model and its config before any change.

    Raises:
      SettingsError: there is no such model or preset, the message lists those there are; or it cannot do what is asked for.
    """
    models = registered()
    if settings.model not in models:
        raise SettingsError(f"--model is {settings.model!r}, expected one of {', '.join(models)}")
    model = models[settings.model]
    if settings.preset not in model.PRESETS:
        raise SettingsError(
            f"--preset is {settings.preset!r}, expected one of {', '.join(model.PRESETS)} for --model {settings.model}"
        )
    preset = model.PRESETS[settings.preset]
    if settings.polarisation:
        require_atlas("--polarisation", settings, preset)
    return model, preset


def require_atlas(option: str, settings: Settings, config: Any) -> None:
    """Refuses an option that is about the memories of Atlas where the model is another.

    Raises:
      SettingsError: it names the option.
    """
    if not isinstance(config, AtlasConfig):
        raise SettingsError(f"{option}: --model {settings.model} has no memories with gates, expected atlas")


def configured(preset: Any, settings: Settings, *, vocabulary: int, length: int) -> Any:
    """The preset with what the settings change of it.

    Raises:
      SettingsError: the model's config has no such field, cannot have that value, or has another option for it.
    """
    own: dict[str, Any] = {"vocab_size": vocabulary, "context": length}
    if settings.chunks:
        own["chunks"] = settings.chunks
    if settings.dtype is not None:
        own["dtype"] = settings.dtype
    given = dict(_named(text) for text in settings.config)
    known = get_type_hints(type(preset))
    for name in (*given, *own):
        if name not in known:
            raise SettingsError(f"{type(preset).__name__} has no {name}, expected one of {', '.join(known)}")
    changes = {name: _value(name, text, known[name]) for name, text in given.items()}
    for name, text in given.items():
        if name in own:
            raise SettingsError(f"--config {name}={text}: expected {OWN[name]}, which says it")
    try:
        return replace(preset, **changes | own)
    except ValueError as error:
        raise SettingsError(str(error)) from error


def _named(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise SettingsError(f"--config {text}: expected NAME=VALUE")
    return name, value


def _value(name: str, text: str, kind: Any) -> Any:
    """What JSON makes of it, else a word; of the kind that the field is declared with."""
    try:
        value: Any = json.loads(text)
    except json.JSONDecodeError:
        value = text
    value = tuple(value) if isinstance(value, list) else value
    if not _is(value, kind):
        raise SettingsError(f"--config {name}={text}: expected {_words(kind)}")
    return float(value) if kind is float else value


def _is(value: Any, kind: Any) -> bool:
    """Whether a field may have it."""
    if isinstance(kind, types.UnionType):
        return any(_is(value, one) for one in get_args(kind))
    if get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(_is(one, get_args(kind)[0]) for one in value)
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if kind is float:
        return type(value) in (int, float) and math.isfinite(value)
    return type(value) is kind  # to isinstance True is an int


def _words(kind: Any) -> str:
    if isinstance(kind, types.UnionType):
        return " or ".join(_words(one) for one in get_args(kind))
    if get_origin(kind) is tuple:
        return f"[...] of which each is {_words(get_args(kind)[0])}"
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, get_args(kind)))}"
    numbers = {int: "a whole number", float: "a finite number", bool: "true or false", types.NoneType: "null"}
    return numbers.get(kind, "a word")


def mesh_of(settings: Settings) -> Mesh:
    """As many devices as there are, or as are asked for, each with an equal share of every part of the batch.

    Raises:
      SettingsError: there are fewer than asked for, or they do not divide it.
    """
    part, present, asked = settings.batch // settings.accumulation, len(jax.devices()), settings.devices
    if asked is None:
        return model_mesh(data=max(n for n in range(1, present + 1) if part % n == 0))
    if asked > present:
        raise SettingsError(f"--devices is {asked}, expected at most the {present} that there are")
    if part % asked:
        raise SettingsError(f"--devices is {asked}, expected a divisor of --batch / --accumulation = {part}")
    return model_mesh(data=asked)


def optimizer_of(settings: Settings) -> optax.GradientTransformation:
    """At unit learning rate, for `make_step`."""
    if settings.optimizer == "muon":
        return muon(weight_decay=settings.weight_decay, clip_norm=settings.clip)
    return adamw(b1=0.9, b2=0.95, weight_decay=settings.weight_decay, clip_norm=settings.clip, decayed=decayed_matrices)


def schedule_of(settings: Settings, stages: Sequence[Stage]) -> optax.Schedule:
    """Completed steps -> learning rate: the schedule asked for over stage one, then a line down over stage two."""
    steps, rate = stages[0].stop, settings.rate
    warmup = min(round(settings.warmup * steps), steps - 1)
    if settings.schedule == "cosine":
        first = cosine(rate, warmup=warmup, steps=steps, floor=settings.floor)
    else:
        decay = min(round(settings.decay * steps), steps - warmup)
        first = wsd(rate, warmup=warmup, stable=steps - warmup - decay, decay=decay, floor=settings.floor)
    return staged(first, stages, peak=rate * settings.stage_two_rate, floor=settings.floor)
