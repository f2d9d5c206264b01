"""What memories are good for: text, recall, induction, state tracking, needles, and MAD's tasks, for two line-ups of models.

    python -m benchmarks.memory_quality --tune
    python -m benchmarks.memory_quality --tune --lineup ablation

One line-up is kinds of Atlas against transformers, the other Atlas without each of its parts. All models of a task have equal
parameters, examples, order, trainer and, but for the transformer that sees everything and the ablation, about equal bytes of
state; every line states them. Each is trained on examples of one seed and measured on those of another, at
longer lengths too where the task has some. With `--tune` the learning rate is the one of `--rates` that is best on examples of
a third seed. Memories track states at chunks of 1 and 64. Interrupted, it goes on from the lines in `--results`. The peer of
every line is the transformer that sees everything, or the whole Atlas. `benchmarks.memory_table` makes tables of the lines.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro
from jaxtyping import Float, Int, PyTree

from atlas_jax.distributed.mesh import compilation_cache, use_host_devices
from benchmarks.quality.lineup import EVERYTHING, LINEUPS, PEERS, lineup, state_bytes
from benchmarks.quality.memory_tasks import TASKS, TEST, TRAINING, VALIDATION, Task, open_task
from benchmarks.quality.records import Records, spread
from benchmarks.quality.trials import Contestant, measure, parameters_agree, train

TUNING_SEED = 1000
STARTING_RATE = 0.01
EQUAL = 0.02  # share by which "equal" parameters may differ
UNIT, TEXT_UNIT = "share of answers right", "bits per byte"


@dataclass(frozen=True)
class Options:
    """Trains and measures; prints figures and appends them to a file."""

    tasks: tuple[str, ...] = tuple(TASKS)
    """What to learn."""
    lineup: Literal["kinds", "ablation"] = "kinds"
    """What learns: kinds of models, or Atlas without each of its parts."""
    models: tuple[str, ...] = ()
    """Of the line-up; all of it if none is named."""
    seeds: int = 3
    """Models of each kind; seed decides parameters and order of batches."""
    steps: int = 768
    """Optimizer steps."""
    batch: int = 16
    """Examples per step; none is seen twice, but for texts."""
    length: int = 64
    """Tokens per training example."""
    tests: int = 256
    """Examples measured per level."""
    tune: bool = False
    """Choose learning rates; else the last ones chosen, else the starting one."""
    rates: tuple[float, ...] = (0.003, 0.01, 0.03)
    """Learning rates to choose from; as many as seeds are trained by the same compiled program."""
    tune_steps: int = 192
    """Steps of a tuning run."""
    inner_rate: float | None = None
    """The largest rate at which memories learn, for all of them but "delta"; those of the line-up if not given."""
    rates_of: str | None = None
    """A task whose chosen learning rates are taken for all others; each task's own if not given."""
    quick: bool = False
    """A few steps of a few models, to see that it works; in a file of their own."""
    results: Path = Path("benchmarks/results/memory_quality.jsonl")
    """Lines are appended here, and those here already are not measured again."""


def quick(options: Options) -> Options:
    """The same on a small scale: three tasks and three models, if none are named."""
    fresh = Options()
    return replace(
        options,
        tasks=("mqar", "parity", "compress") if options.tasks == fresh.tasks else options.tasks,
        models=options.models or ("titans", "window", EVERYTHING),
        seeds=2,
        steps=4,
        tune_steps=4,
        batch=4,
        length=64,
        tests=16,
        results=options.results.with_stem(f"{options.results.stem}_quick"),
    )


@dataclass(frozen=True)
class Field:
    """One task, ready to compare models on.

    Attributes:
      name: of the task.
      task: what it is.
      options: of the run.
      records: lines so far.
      training: examples.
      about: what a line must say of it, and what makes two lines comparable.
    """

    name: str
    task: Task
    options: Options
    records: Records
    training: Int[np.ndarray, "n 2 t"]
    about: dict[str, Any]


def open_field(name: str, options: Options, records: Records) -> Field:
    """Draws the examples to train on."""
    task = open_task(name, options.length)
    training = task.training(options.steps * options.batch, TRAINING)
    about = {"task": name, "length": training.shape[-1], "longest": task.longest, "vocab_size": task.vocab_size}
    about |= {"batch": options.batch, "steps": options.steps, "tests": options.tests, **task.about}
    return Field(name, task, options, records, training, about)


def open_fields(options: Options, records: Records) -> Iterator[Field]:
    """One task after the other; says which are skipped, as their text is not there."""
    for name in options.tasks:
        try:
            field = open_field(name, options, records)
        except FileNotFoundError as missing:
            print(f"skipped {name}: {missing}; set ATLAS_DEV_DATA", file=sys.stderr, flush=True)
        else:
            yield field


def _name(field: Field, contestant: Contestant) -> str:
    return f"memory.{field.name}.{contestant.name}.{contestant.preset}"


def _key(field: Field, contestant: Contestant) -> dict[str, Any]:
    inner = {"inner_rate": getattr(contestant.config, "rate", None)}
    return {"model": contestant.name, "preset": contestant.preset, **inner, **field.about}


def known(
    contestant: Contestant, params: PyTree, tests: dict[str, Int[np.ndarray, "n 2 t"]]
) -> dict[str, Float[np.ndarray, "s e"]]:
    """What each model knows, per level: share of answers right, share of examples all right, and bits an answer costs, in rows.

    Levels of one length are measured by one program. A model that knows less than the uniform distribution has diverged and
    counts as that distribution.
    """
    found, uniform = {}, np.log2(contestant.config.vocab_size)
    for length in {examples.shape[-1] for examples in tests.values()}:
        alike = {level: examples for level, examples in tests.items() if examples.shape[-1] == length}
        bits, hits = measure(contestant, params, np.concatenate(list(alike.values())))
        ends = np.cumsum([len(examples) for examples in alike.values()])[:-1]
        parts = (np.split(values, ends, axis=1) for values in (bits, hits))
        for level, level_bits, level_hits in zip(alike, *parts, strict=True):
            asked = alike[level][:, 1] >= 0
            cost = level_bits.sum(axis=(1, 2), dtype=np.float64) / asked.sum()
            whole = np.all(level_hits | ~asked[None], axis=2).mean(axis=1)
            right = level_hits.sum(axis=(1, 2)) / asked.sum()
            found[level] = np.stack([right, whole, np.where(cost < uniform, cost, uniform)])
    return found


def tune(field: Field, contestant: Contestant) -> None:
    """Finds the learning rate of the fewest bits on the validation examples, mean over the levels, and records it."""
    options, task, rates = field.options, field.task, list(field.options.rates)
    key = {**_key(field, contestant), "tune_steps": options.tune_steps, "rates": rates}
    name = f"{_name(field, contestant)}.tuning"
    if field.records.find(name=name, **key):
        return
    seeds = [TUNING_SEED] * len(rates)
    trained = train(contestant, field.training, seeds=seeds, rates=rates, steps=options.tune_steps, batch=options.batch)
    tests = {level: task.levels[level](options.tests, VALIDATION) for level in task.tuned}
    bits = np.mean([found[2] for found in known(contestant, trained.params, tests).values()], axis=0)
    best = int(np.argmin(bits))
    found = {"chosen": rates[best], "at_an_end": best in (0, len(rates) - 1), "tried": bits.tolist()}
    field.records.add(name, float(bits[best]), "bits per answer", part="validation", **found, **key)


def chosen_rate(field: Field, contestant: Contestant) -> tuple[float, bool]:
    """The learning rate last chosen for this model on this task, or on that of `rates_of`, and that it was chosen.

    Else where a search would begin.
    """
    key = _key(field, contestant)
    if field.options.rates_of is not None:
        key = {name: key[name] for name in ("model", "preset", "inner_rate")}
    task = field.options.rates_of or field.name
    found = field.records.find(name=f"memory.{task}.{contestant.name}.{contestant.preset}.tuning", **key)
    return (found["chosen"], True) if found else (STARTING_RATE, False)


def about_model(field: Field, contestant: Contestant) -> dict[str, Any]:
    """What is equal between models, or said to differ."""
    return {
        "parameters": contestant.parameters,
        "tokens": field.options.steps * field.options.batch * field.about["length"],
        "state_bytes": state_bytes(contestant),
        "d_model": contestant.config.d_model,
        "feed_forward": contestant.config.feed_forward,
    }


def unit(task: Task) -> str:
    """What a task is measured in."""
    return UNIT if task.answer_bytes is None else TEXT_UNIT


def run(field: Field, contestant: Contestant) -> dict[str, list[float]]:
    """Trains and measures the seeds that are not recorded yet; figures of all of them, per level."""
    options, (rate, tuned) = field.options, chosen_rate(field, contestant)
    name, key = _name(field, contestant), {**_key(field, contestant), "rate": rate}

    def recorded(level: str, seed: int) -> dict[str, Any] | None:
        return field.records.find(name=f"{name}.{level}.seed-{seed}", **key)

    new = [seed for seed in range(options.seeds) if not all(recorded(level, seed) for level in field.task.levels)]
    if new:
        rates = [rate] * len(new)
        trained = train(contestant, field.training, seeds=new, rates=rates, steps=options.steps, batch=options.batch)
        more = {"part": "test", "tuned": tuned, "seconds": trained.seconds / len(new), **about_model(field, contestant)}
        tests = {level: make(options.tests, TEST) for level, make in field.task.levels.items()}
        for level, found in known(contestant, trained.params, tests).items():
            count = field.task.answer_bytes
            answers_a_byte = None if count is None else float(np.sum(tests[level][:, 1] >= 0) / count(tests[level]))
            for seed, (right, whole, bits) in zip(new, found.T.tolist(), strict=True):
                kept = {"level": level, "seed": seed, "right": right, "whole_examples": whole, "bits": bits}
                value = right if answers_a_byte is None else bits * answers_a_byte
                field.records.add(f"{name}.{level}.seed-{seed}", value, unit(field.task), **kept, **more, **key)
    return {
        level: [found["value"] for seed in range(options.seeds) if (found := recorded(level, seed))]
        for level in field.task.levels
    }


def summarise(
    field: Field, contestant: Contestant, results: dict[str, list[float]], peer: dict[str, list[float]]
) -> None:
    """A line for every level: mean and spread over the seeds, beside the peer's."""
    rate, tuned = chosen_rate(field, contestant)
    more = {"rate": rate, "tuned": tuned, **about_model(field, contestant), **_key(field, contestant)}
    for level, values in results.items():
        mean, kept = float(np.mean(values)), {"spread": spread(values), "seeds": len(values), "level": level, **more}
        # Nothing is a ratio to no answer right.
        theirs = float(np.mean(peer[level])) if level in peer and mean > 0 else None
        field.records.add(f"{_name(field, contestant)}.{level}", mean, unit(field.task), theirs, part="test", **kept)


def main() -> None:
    """Compares the models on one task after the other."""
    options = tyro.cli(Options, description=__doc__)
    options = quick(options) if options.quick else options
    use_host_devices()
    compilation_cache()
    names = options.models or tuple(LINEUPS[options.lineup])
    for field in open_fields(options, Records(options.results)):
        task, results = field.task, []
        found = lineup(
            names,
            vocab_size=task.vocab_size,
            longest=task.longest,
            chunks=task.chunks,
            decoder=task.decoder,
            inner_rate=options.inner_rate,
        )
        parameters_agree([contestant._replace(preset="any") for contestant in found], EQUAL)
        for contestant in found:
            if options.tune and options.rates_of in (None, field.name):
                tune(field, contestant)
            results.append(run(field, contestant))
        peer = results[0] if found[0].name in PEERS else {}
        for contestant, figures in zip(found, results, strict=True):
            summarise(field, contestant, figures, peer)


if __name__ == "__main__":
    main()
