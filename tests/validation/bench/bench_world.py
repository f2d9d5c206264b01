"""A small world to benchmark: three corpora that a test makes by itself, and the sizes that fit them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np

from validation.bench import domain, outcomes
from validation.bench.corpora import Corpus
from validation.bench.corruptions import CORRUPTIONS
from validation.bench.domain import Domain, lay_out
from validation.bench.rows import Kind, Rows

# What the real sizes come to here: cases of about 3,000 tokens.
SIZES = {"FEWEST_TOKENS": 512, "FEWEST_ROWS": 8, "GROUP_TOKENS": 60, "STEPS": 20}
CLASSES = ("sea", "hill", "town", "field")
THINGS = {
    "sea": ("boats", "nets", "shells", "waves", "sails", "ropes"),
    "hill": ("goats", "rocks", "pines", "paths", "caves", "huts"),
    "town": ("carts", "bells", "walls", "clocks", "lamps", "roofs"),
    "field": ("crops", "barns", "mills", "geese", "fences", "ploughs"),
}
NAMES = tuple(
    onset + vowel + coda for onset in ("B", "D", "K", "M", "R", "T") for vowel in "aeiou" for coda in ("n", "rl", "st")
)
HABITS = (
    "It isn't far.",
    "They don't know why.",
    "It is a big place.",
    "Nobody wants to help them.",
    "I'm always glad.",
)
TABLE = ("age", "income", "region", "owner")
WIDTH = 12  # steps of a series' window


def text_rows(count: int = 500, seed: int = 0) -> Rows:
    """Two sentences about somebody and a place, with the place as the class; names are Zipf distributed."""
    rng = np.random.default_rng([1, seed])
    cells: dict[tuple[str, str], None] = {}
    while len(cells) < count:
        place = str(rng.choice(CLASSES))
        one, two = rng.choice(THINGS[place], 2, replace=False)
        name = NAMES[int(len(NAMES) ** rng.random()) - 1]
        number = int(rng.integers(2, 40))
        habit = HABITS[rng.integers(len(HABITS))]
        cells[f"{name} has {number} {one} by the {place}, and sings about {one} and {two}. {habit}", place] = None
    return Rows("text", ("text", "label"), list(cells))


def table_rows(count: int = 900, seed: int = 0) -> Rows:
    """Four columns of which each tells about the others."""
    rng = np.random.default_rng([2, seed])
    cells: dict[tuple[str, ...], None] = {}
    while len(cells) < count:
        age = int(rng.integers(18, 90))
        income = 10 * age + int(rng.integers(0, 60))
        region = CLASSES[min(3, age // 24)] if rng.random() < 0.9 else str(rng.choice(CLASSES))
        owner = "yes" if income + rng.normal(0, 60) > 550 else "no"
        cells[str(age), str(income), region, owner] = None
    return Rows("table", TABLE, list(cells))


def series_rows(count: int = 700, seed: int = 0) -> Rows:
    """Windows of noisy waves between 0 and 99."""
    rng = np.random.default_rng([3, seed])
    time = np.arange(WIDTH)
    level, phase = rng.uniform(20, 80, (count, 1)), rng.uniform(0, 2 * np.pi, (count, 1))
    waves = level + 15 * np.sin(phase + 0.9 * time[None]) + rng.normal(0, 2, (count, WIDTH))
    windows = np.rint(waves).clip(0, 99).astype(int)
    return Rows("series", tuple(map(str, time)), [tuple(map(str, window)) for window in windows.tolist()])


READERS: dict[Kind, Callable[[], Rows]] = {"text": text_rows, "table": table_rows, "series": series_rows}
LABELS: dict[Kind, str | None] = {"text": "label", "table": "region", "series": None}


def corpus(kind: Kind, name: str | None = None) -> Corpus:
    """One of the three as the catalogue would hold it, "tiny text" by name."""
    return Corpus(name or f"tiny {kind}", kind, "made by the test", "generated", READERS[kind], LABELS[kind])


@cache
def tiny(kind: Kind) -> Domain:
    """That corpus laid out; to be called under the sizes of this world, see the fixture `small`."""
    assert SIZES["FEWEST_TOKENS"] == domain.FEWEST_TOKENS
    return lay_out(f"tiny {kind}", READERS[kind](), label=LABELS[kind])


def keep_only(monkeypatch, *names: str) -> None:
    """For one test there are no corruptions but these."""
    for name in [name for name in CORRUPTIONS if name not in names]:
        monkeypatch.delitem(CORRUPTIONS, name)


def unigram_models(windows, seeds) -> np.ndarray:
    """Stands in for training: what every token would cost, in bits, under counts and a seed's own noise, [e, vocab]."""
    counts = np.stack([np.bincount(own.reshape(-1), minlength=domain.VOCABULARY) + 0.1 for own in windows])
    bits = np.log2(counts.sum(axis=1, keepdims=True) / counts)
    return bits + np.stack([np.random.default_rng(seed).normal(0, 0.02) for seed in seeds])[:, None]


def unigram_bits(params: np.ndarray, windows: np.ndarray) -> np.ndarray:
    """Stands in for measuring: the loss of every target, [e, n, t]."""
    return params[:, windows[:, 1:]]


def train_at_once(monkeypatch) -> list[int]:
    """Label models become counts of tokens for a test; the list grows by the number of models with every training."""
    trained: list[int] = []

    def train(trainee, windows, seeds, *, steps):
        trained.append(len(seeds))
        return unigram_models(windows, seeds)

    monkeypatch.setattr(outcomes, "train", train)
    monkeypatch.setattr(outcomes, "measure", lambda trainee, params, windows: unigram_bits(params, windows))
    return trained
