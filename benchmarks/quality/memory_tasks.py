"""What memories are compared on: examples to train on, and levels of difficulty, length and depth to measure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Int

from benchmarks.quality import mad, needle, state_tracking
from benchmarks.quality.corpora import count_bytes, encode, read_corpus
from benchmarks.quality.data import data_folder
from benchmarks.quality.lineup import CHUNK
from benchmarks.quality.recall import examples_of, levels

TRAINING, VALIDATION, TEST = 0, 1, 2  # parts, and seeds of their examples
TIMES = (1, 2, 4)  # lengths measured, in lengths of training, where a longer example is the same task
DEPTHS = (10, 50, 90)  # of needles, percent
CORPUS = "library-documentation"  # the haystack, which comes with Python
SYMBOLS = 32  # that the tasks without text have, so that one compiled program does for most of them
CORPUS_TOKENS = 512  # of the byte-pair encoding of haystack and texts
TEXTS = ("wikitext-2", "tinyshakespeare", "library-documentation")

Make = Callable[[int, int], Int[np.ndarray, "n 2 t"]]  # (count, part) to examples


@dataclass(frozen=True)
class Task:
    """One task at one length.

    Attributes:
      vocab_size: tokens that the models need.
      longest: tokens of the longest example of all levels.
      training: examples to train on, all of one length.
      levels: examples of each level, by its name.
      tuned: levels that choose a learning rate: those like the training.
      chunks: of the memories that are compared.
      decoder: whether answers are read off the last token.
      answer_bytes: bytes of text that the answers of some examples stand for; None where they are no text, and the share of
        answers that are right says more than what they cost.
      about: what a line must say besides.
    """

    vocab_size: int
    longest: int
    training: Make
    levels: dict[str, Make]
    tuned: tuple[str, ...]
    chunks: tuple[int, ...] = (CHUNK,)
    decoder: bool = False
    answer_bytes: Callable[[Int[np.ndarray, "n 2 t"]], int] | None = None
    about: dict[str, Any] = field(default_factory=dict)


def _mixed(vocab_size: int, length: int, found: dict[str, Make], **more: Any) -> Task:
    """All levels are trained on, in equal parts."""

    def training(count: int, part: int) -> Int[np.ndarray, "n 2 t"]:
        each = -(-count // len(found))
        return np.concatenate([make(each, part) for make in found.values()])

    return Task(vocab_size, length, training, found, tuple(found), **more)


def _recall(task: str, word: str, length: int) -> Task:
    vocab_size = max(SYMBOLS, length // 2)  # as many as the hardest level needs

    def one(level: int) -> Make:
        return lambda count, part: examples_of(task, count, level, length, vocab_size, seed=part)

    return _mixed(vocab_size, length, {f"{word}-{level}": one(level) for level in levels(task, length)})


def _state_tracking(make: Callable[..., Int[np.ndarray, "n 2 t"]], vocab_size: int, length: int) -> Task:
    """Trained at one length, every state asked for; what comes at a chunk's end and what within it is another thing."""

    def one(length: int) -> Make:
        return lambda count, part: make(count, length, seed=part)

    found = {f"length-{times * length}": one(times * length) for times in TIMES}
    return Task(vocab_size, max(TIMES) * length, one(length), found, (f"length-{length}",), chunks=(1, 64))


def _needle(length: int) -> Task:
    """Trained with needles anywhere in texts of one length, all of them asked for; one is asked for in what is measured."""
    corpus = read_corpus(CORPUS, None)
    encoded = encode(corpus, vocab_size=CORPUS_TOKENS, length=128, windows=10_000)
    hay = [part[:, 0].ravel() for part in (encoded.train, encoded.validation, encoded.test)]

    def one(length: int, depth: float) -> Make:
        return lambda count, part: needle.needles(hay[part], count, length, depth, CORPUS_TOKENS, seed=part)

    found = {
        f"length-{times * length}.depth-{depth}": one(times * length, depth / 100)
        for times in TIMES
        for depth in DEPTHS
    }

    def training(count: int, part: int) -> Int[np.ndarray, "n 2 t"]:
        return needle.needles(hay[part], count, length, None, CORPUS_TOKENS, seed=part, questions=4)

    tuned = tuple(name for name in found if name.startswith(f"length-{length}."))
    about = {"haystack": CORPUS, "fingerprint": corpus.fingerprint()}
    return Task(CORPUS_TOKENS + 1, max(TIMES) * length, training, found, tuned, about=about)


def _text(name: str, length: int) -> Task:
    """Language: trained on windows of the training part, which come round again where there are more steps than windows."""
    corpus = read_corpus(name, data_folder(None))
    parts = encode(corpus, vocab_size=CORPUS_TOKENS, length=length, windows=10_000)
    windows = (parts.train, parts.validation, parts.test)

    def held_out(count: int, part: int) -> Int[np.ndarray, "n 2 t"]:
        found = windows[part]
        return found[np.linspace(0, len(found) - 1, min(count, len(found))).astype(int)]

    return Task(
        CORPUS_TOKENS,
        length,
        lambda count, part: windows[part],
        {"held-out": held_out},
        ("held-out",),
        answer_bytes=partial(count_bytes, parts.tokenizer),
        about={"fingerprint": corpus.fingerprint()},
    )


def _memorise(length: int) -> Task:
    facts = 128

    def make(count: int, part: int) -> Int[np.ndarray, "n 2 t"]:
        return mad.memorisation(count, facts, length, seed=part)

    return _mixed(2 * facts + 1, length, {f"facts-{facts}": make})


def _compress(length: int) -> Task:
    symbols, short = 16, length // 4  # 32 at a length of 128, as in the paper

    def make(count: int, part: int) -> Int[np.ndarray, "n 2 t"]:
        return mad.compression(count, symbols, short, seed=part)

    return _mixed(symbols + 1, short, {f"length-{short}": make}, decoder=True)


def _copy(length: int) -> Task:
    symbols = SYMBOLS - mad.NOISE - 1

    def one(copied: int) -> Make:
        return lambda count, part: mad.selective_copying(count, copied, length, symbols, seed=part)

    found = {f"copied-{length // divisor}": one(length // divisor) for divisor in (16, 8, 4)}
    return _mixed(symbols + mad.NOISE + 1, length, found)


def _fuzzy(length: int) -> Task:
    vocab_size = SYMBOLS

    def one(widest: int) -> Make:
        return lambda count, part: mad.fuzzy_recall(count, widest, length, vocab_size, seed=part)

    return _mixed(vocab_size, length, {f"widest-{widest}": one(widest) for widest in (1, 2, 3)})


def _dense_recall(length: int) -> Task:
    """Recall in the context of MAD: keys and values of one token, and every key that was seen before is asked for."""
    vocab_size = SYMBOLS

    def one(pairs: int) -> Make:
        return lambda count, part: mad.fuzzy_recall(count, 1, length, vocab_size, seed=part, pairs=pairs)

    return _mixed(vocab_size, length, {f"pairs-{pairs}": one(pairs) for pairs in (2, 4, 8, 16)})


TASKS: dict[str, Callable[[int], Task]] = {
    "mqar": partial(_recall, "associative", "pairs"),
    "recall": _dense_recall,
    "induction": partial(_recall, "induction", "period"),
    "parity": partial(_state_tracking, state_tracking.parity, state_tracking.PARITY_TOKENS),
    "s5": partial(_state_tracking, state_tracking.s5, state_tracking.S5_TOKENS),
    "needle": _needle,
    "memorise": _memorise,
    "compress": _compress,
    "copy": _copy,
    "fuzzy": _fuzzy,
    **{f"text-{name}": partial(_text, name) for name in TEXTS},
}


def open_task(name: str, length: int) -> Task:
    """A task, its examples drawn when they are asked for.

    Args:
      name: of `TASKS`.
      length: tokens of a training example; compression takes a quarter of it.

    Raises:
      FileNotFoundError: a text is not there, see `data_folder`.
      ValueError: there is no such task, or the length is too short for it.
    """
    if name not in TASKS:
        raise ValueError(f"task is {name!r}, expected one of {', '.join(TASKS)}")
    return TASKS[name](length)
