"""Held-out bits per byte of the registered models at equal parameters, tokens, batches and trainer. One JSON line a figure.

    python -m benchmarks.text_quality --tune

The byte-pair encoding is trained on the training part; with `--tune` each model's learning rate is chosen on the validation
part, at half the steps; what is reported is measured on the test part, which decides nothing. Corpora: wikitext-2 and
tinyshakespeare from a folder of data sets, and the standard library's code and documentation. Interrupted, it goes on from
the lines in `--results`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from jaxtyping import Float, Int, PyTree

from atlas_jax.distributed.mesh import compilation_cache, use_host_devices
from atlas_jax.models import registered
from benchmarks.quality.corpora import CORPORA, Encoded, available_corpora, count_bytes, encode
from benchmarks.quality.records import Records, best_rate, spread
from benchmarks.quality.trials import PEER, Contestant, contestants, measure, parameters_agree, train

TUNING_SEED = 1000
EQUAL = 0.02  # share by which "equal" parameters may differ
UNIT = "bits per byte"


@dataclass(frozen=True)
class Options:
    """Trains and measures; prints figures and appends them to a file."""

    corpora: tuple[str, ...] = CORPORA
    """What to train on."""
    models: tuple[str, ...] = ()
    """Registered models; all of them that have the first preset, if none is named."""
    presets: tuple[str, ...] = ("micro-32", "micro-128", "micro-208")
    """Sizes."""
    seeds: int = 3
    """Models of each kind; seed decides parameters and order of batches."""
    steps: int = 640
    """Optimizer steps."""
    batch: int = 4
    """Windows per step."""
    length: int = 128
    """Tokens per window, and the models' context."""
    vocab_size: int = 1024
    """Of the byte-pair encoding."""
    windows: int = 1024
    """Windows of validation and test text, at most."""
    tune: bool = False
    """Choose learning rates on the validation part; else the last ones chosen, else the starting ones."""
    tune_steps: int | None = None
    """Steps of a tuning run; half of `steps` if not given."""
    data: Path | None = None
    """Folder of data sets; the environment variable ATLAS_DEV_DATA if not given."""
    results: Path = Path("benchmarks/results/text_quality.jsonl")
    """Lines are appended here, and those here already are not measured again."""


@dataclass(frozen=True)
class Field:
    """One corpus, ready to compare models on.

    Attributes:
      corpus: its name.
      encoded: windows of its parts.
      about: what a line must say of it, and what makes two lines comparable.
      options: of the run.
      records: lines so far.
    """

    corpus: str
    encoded: Encoded
    about: dict[str, Any]
    options: Options
    records: Records


def open_fields(options: Options, records: Records) -> Iterator[Field]:
    """Reads and encodes one corpus after the other; says which are missing."""
    for name, corpus in available_corpora(options.corpora, options.data):
        encoded = encode(corpus, vocab_size=options.vocab_size, length=options.length, windows=options.windows)
        about = {
            "corpus": name,
            "fingerprint": corpus.fingerprint(),
            "length": options.length,
            "batch": options.batch,
            "vocab_size": options.vocab_size,
            "windows": options.windows,
        }
        yield Field(name, encoded, about, options, records)


def bits_per_byte(
    contestant: Contestant, params: PyTree, encoded: Encoded, windows: Int[np.ndarray, "n 2 t"]
) -> Float[np.ndarray, " e"]:
    """Bits that each model needs for the counted targets, over the bytes they stand for.

    A model that knows less than the uniform distribution has diverged and counts as that distribution.
    """
    bits, _ = measure(contestant, params, windows)
    uniform = np.log2(contestant.config.vocab_size) * np.sum(windows[:, 1] >= 0)
    total = bits.sum(axis=(1, 2), dtype=np.float64)
    return np.where(total < uniform, total, uniform) / count_bytes(encoded.tokenizer, windows)


def starting_rate(contestant: Contestant) -> float:
    """Where the search for a learning rate begins: 0.03 at width 32, 0.016 at width 208."""
    return float(f"{0.03 * (32 / contestant.config.d_model) ** 0.35:.3g}")


def tune(field: Field, contestant: Contestant) -> None:
    """Finds the learning rate with the lowest validation loss and records it; rates already recorded are not tried again."""
    options = field.options
    steps = options.tune_steps or options.steps // 2
    key = {"model": contestant.name, "preset": contestant.preset, "steps": steps, **field.about}
    name = f"text-quality.{field.corpus}.{contestant.name}.{contestant.preset}.tuning"

    def loss_at(rates: list[float]) -> Sequence[float]:
        new = [rate for rate in rates if not field.records.find(name=name, rate=rate, **key)]
        if new:
            seeds = [TUNING_SEED] * len(new)
            trained = train(contestant, field.encoded.train, seeds=seeds, rates=new, steps=steps, batch=options.batch)
            losses = bits_per_byte(contestant, trained.params, field.encoded, field.encoded.validation)
            for rate, loss in zip(new, losses.tolist(), strict=True):
                field.records.add(name, loss, UNIT, part="validation", rate=rate, **key)
        return [field.records.find(name=name, rate=rate, **key)["value"] for rate in rates]  # pyright: ignore[reportOptionalSubscript]

    rate, losses = best_rate(loss_at, starting_rate(contestant))
    at_an_end = rate in (min(losses), max(losses))
    chosen = {"part": "validation", "chosen": rate, "at_an_end": at_an_end, "tried": len(losses)}
    field.records.add(f"{name}.chosen", losses[rate], UNIT, **chosen, **key)


def chosen_rate(field: Field, contestant: Contestant) -> tuple[float, bool]:
    """The learning rate last chosen for these models on this corpus, and that it was; else where a search would begin."""
    name = f"text-quality.{field.corpus}.{contestant.name}.{contestant.preset}.tuning.chosen"
    found = field.records.find(name=name, **field.about)
    return (found["chosen"], True) if found else (starting_rate(contestant), False)


def run(field: Field, contestant: Contestant) -> list[float]:
    """Trains and measures the seeds that are not recorded yet; test results of all of them."""
    options = field.options
    rate, tuned = chosen_rate(field, contestant)
    name = f"text-quality.{field.corpus}.{contestant.name}.{contestant.preset}"
    key = {"model": contestant.name, "preset": contestant.preset, "steps": options.steps, "rate": rate, **field.about}

    def recorded(seed: int) -> dict[str, Any] | None:
        return field.records.find(name=f"{name}.seed-{seed}", **key)

    new = [seed for seed in range(options.seeds) if not recorded(seed)]
    if new:
        trained = train(
            contestant,
            field.encoded.train,
            seeds=new,
            rates=[rate] * len(new),
            steps=options.steps,
            batch=options.batch,
        )
        validation, test = (
            bits_per_byte(contestant, trained.params, field.encoded, windows)
            for windows in (field.encoded.validation, field.encoded.test)
        )
        more = {
            "part": "test",
            "tuned": tuned,
            "parameters": contestant.parameters,
            "tokens": options.steps * options.batch * options.length,
            "seconds": trained.seconds / len(new),
        }
        for index, seed in enumerate(new):
            kept = {"seed": seed, "validation": float(validation[index]), **more, **key}
            field.records.add(f"{name}.seed-{seed}", float(test[index]), UNIT, **kept)
    return [found["value"] for found in map(recorded, range(options.seeds)) if found]


def summarise(field: Field, contestant: Contestant, values: list[float], peer: list[float] | None) -> None:
    """One line of a model on a corpus: mean and spread over the seeds, beside the transformer's."""
    mean, theirs = float(np.mean(values)), None if peer is None else float(np.mean(peer))
    more = {
        "spread": spread(values),
        "above_peer": None if theirs is None else mean / theirs - 1,
        "seeds": len(values),
        "model": contestant.name,
        "preset": contestant.preset,
        "parameters": contestant.parameters,
        "steps": field.options.steps,
        "rate": chosen_rate(field, contestant)[0],
    }
    name = f"text-quality.{field.corpus}.{contestant.name}.{contestant.preset}"
    field.records.add(name, mean, UNIT, theirs, part="test", **more, **field.about)


def main() -> None:
    """Compares the models on one corpus after the other."""
    options = tyro.cli(Options, description=__doc__)
    use_host_devices()
    compilation_cache()
    names = options.models or [name for name, model in registered().items() if options.presets[0] in model.PRESETS]
    found = contestants(names, options.presets, vocab_size=options.vocab_size, length=options.length)
    parameters_agree(found, EQUAL)
    for field in open_fields(options, Records(options.results)):
        results: dict[tuple[str, str], list[float]] = {}
        for contestant in found:
            if options.tune:
                tune(field, contestant)
            results[contestant.name, contestant.preset] = run(field, contestant)
        for contestant in found:
            values = results[contestant.name, contestant.preset]
            summarise(field, contestant, values, results.get((PEER, contestant.preset)))


if __name__ == "__main__":
    main()
