"""Recall in the context: multi-query associative recall and induction heads, accuracy of the registered models.

    python -m benchmarks.recall_tasks --tune

Equal parameters, examples, order and trainer for all models. Each is trained on a mixture of difficulties and measured on
each one alone, on examples of its own. With `--tune` the learning rate of each model is chosen on examples of a third kind.
Interrupted, it goes on from the lines in `--results`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from jaxtyping import Float, Int, PyTree

from atlas_jax.distributed.mesh import compilation_cache, use_host_devices
from atlas_jax.models import registered
from benchmarks.quality.recall import TASKS, examples_of, levels
from benchmarks.quality.records import Records, best_rate, spread
from benchmarks.quality.trials import PEER, Contestant, contestants, measure, train

TRAINING, VALIDATION, TEST = 0, 1, 2  # seeds of the examples
TUNING_SEED = 1000
STARTING_RATE = 0.01
UNIT = "share of recalls right"


@dataclass(frozen=True)
class Options:
    """Trains and measures; prints figures and appends them to a file."""

    tasks: tuple[str, ...] = tuple(TASKS)
    """What to learn."""
    models: tuple[str, ...] = ()
    """Registered models; all of them that have the first preset, if none is named."""
    presets: tuple[str, ...] = ("micro-32",)
    """Sizes."""
    seeds: int = 3
    """Models of each kind; seed decides parameters and order of batches."""
    steps: int = 3000
    """Optimizer steps."""
    batch: int = 32
    """Examples per step; none is seen twice."""
    length: int = 64
    """Tokens per example, and the models' context."""
    vocab_size: int = 64
    """Tokens."""
    tests: int = 512
    """Examples measured per difficulty."""
    tune: bool = False
    """Choose learning rates, at all steps; else the last ones chosen, else the starting one."""
    results: Path = Path("benchmarks/results/recall_tasks.jsonl")
    """Lines are appended here, and those here already are not measured again."""


@dataclass(frozen=True)
class Field:
    """One task, ready to compare models on: its examples, and what makes two lines comparable."""

    task: str
    options: Options
    records: Records
    training: Int[np.ndarray, "n 2 t"]
    validation: dict[int, Int[np.ndarray, "m 2 t"]]
    test: dict[int, Int[np.ndarray, "m 2 t"]]
    about: dict[str, Any]


def open_field(task: str, options: Options, records: Records) -> Field:
    """Draws the examples of a task: a mixture of its difficulties to train on, each alone to measure."""
    hardness, sizes = levels(task, options.length), (options.length, options.vocab_size)
    each = -(-options.steps * options.batch // len(hardness))
    mixture = np.concatenate([examples_of(task, each, level, *sizes, seed=TRAINING) for level in hardness])
    validation, test = (
        {level: examples_of(task, options.tests, level, *sizes, seed=seed) for level in hardness}
        for seed in (VALIDATION, TEST)
    )
    about = {"task": task, "length": options.length, "batch": options.batch, "vocab_size": options.vocab_size}
    return Field(task, options, records, mixture, validation, test, {**about, "steps": options.steps})


def accuracies(
    contestant: Contestant, params: PyTree, tests: dict[int, Int[np.ndarray, "m 2 t"]]
) -> dict[int, Float[np.ndarray, " e"]]:
    """Share of each model's recalls that are right, per difficulty."""
    found = {}
    for level, examples in tests.items():
        _, hits = measure(contestant, params, examples)
        found[level] = hits.sum(axis=(1, 2)) / np.sum(examples[:, 1] >= 0)
    return found


def tune(field: Field, contestant: Contestant) -> None:
    """Finds the learning rate of the highest validation accuracy, mean over the difficulties, and records it."""
    options = field.options
    key = {"model": contestant.name, "preset": contestant.preset, **field.about}
    name = f"recall.{field.task}.{contestant.name}.{contestant.preset}.tuning"

    def loss_at(rates: list[float]) -> Sequence[float]:
        new = [rate for rate in rates if not field.records.find(name=name, rate=rate, **key)]
        if new:
            seeds = [TUNING_SEED] * len(new)
            trained = train(
                contestant, field.training, seeds=seeds, rates=new, steps=options.steps, batch=options.batch
            )
            right = np.mean(list(accuracies(contestant, trained.params, field.validation).values()), axis=0)
            for rate, value in zip(new, right.tolist(), strict=True):
                field.records.add(name, value, UNIT, part="validation", rate=rate, **key)
        return [1 - field.records.find(name=name, rate=rate, **key)["value"] for rate in rates]  # pyright: ignore[reportOptionalSubscript]

    rate, losses = best_rate(loss_at, STARTING_RATE)
    chosen = {
        "part": "validation",
        "chosen": rate,
        "at_an_end": rate in (min(losses), max(losses)),
        "tried": len(losses),
    }
    field.records.add(f"{name}.chosen", 1 - losses[rate], UNIT, **chosen, **key)


def chosen_rate(field: Field, contestant: Contestant) -> tuple[float, bool]:
    """The learning rate last chosen for these models on this task, and that it was; else where a search would begin."""
    name = f"recall.{field.task}.{contestant.name}.{contestant.preset}.tuning.chosen"
    found = field.records.find(name=name, **field.about)
    return (found["chosen"], True) if found else (STARTING_RATE, False)


def run(field: Field, contestant: Contestant) -> dict[int, list[float]]:
    """Trains and measures the seeds that are not recorded yet; accuracy of all of them per difficulty."""
    options, (rate, tuned) = field.options, chosen_rate(field, contestant)
    name = f"recall.{field.task}.{contestant.name}.{contestant.preset}"
    key = {"model": contestant.name, "preset": contestant.preset, "rate": rate, **field.about}

    def recorded(level: int, seed: int) -> dict[str, Any] | None:
        return field.records.find(name=f"{name}.{level}.seed-{seed}", **key)

    new = [seed for seed in range(options.seeds) if not all(recorded(level, seed) for level in field.test)]
    if new:
        rates = [rate] * len(new)
        trained = train(contestant, field.training, seeds=new, rates=rates, steps=options.steps, batch=options.batch)
        seconds = trained.seconds / len(new)
        more = {"part": "test", "tuned": tuned, "parameters": contestant.parameters, "seconds": seconds}
        for level, right in accuracies(contestant, trained.params, field.test).items():
            for seed, value in zip(new, right.tolist(), strict=True):
                field.records.add(f"{name}.{level}.seed-{seed}", value, UNIT, level=level, seed=seed, **more, **key)
    return {
        level: [found["value"] for seed in range(options.seeds) if (found := recorded(level, seed))]
        for level in field.test
    }


def main() -> None:
    """Compares the models on one task after the other."""
    options = tyro.cli(Options, description=__doc__)
    use_host_devices()
    compilation_cache()
    names = options.models or [name for name, model in registered().items() if options.presets[0] in model.PRESETS]
    found = contestants(names, options.presets, vocab_size=options.vocab_size, length=options.length)
    records = Records(options.results)
    for task in options.tasks:
        field = open_field(task, options, records)
        results: dict[tuple[str, str], dict[int, list[float]]] = {}
        for contestant in found:
            if options.tune:
                tune(field, contestant)
            results[contestant.name, contestant.preset] = run(field, contestant)
        for contestant in found:
            peer = results.get((PEER, contestant.preset))
            for level, values in results[contestant.name, contestant.preset].items():
                theirs = None if peer is None else float(np.mean(peer[level]))
                more = {
                    "spread": spread(values),
                    "level": level,
                    "seeds": len(values),
                    "model": contestant.name,
                    "preset": contestant.preset,
                    "parameters": contestant.parameters,
                    "rate": chosen_rate(field, contestant)[0],
                }
                name = f"recall.{task}.{contestant.name}.{contestant.preset}.{level}"
                records.add(name, float(np.mean(values)), UNIT, theirs, part="test", **more, **field.about)


if __name__ == "__main__":
    main()
