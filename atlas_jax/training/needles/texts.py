"""Texts with needles in them: to probe with, and to learn from.

A needle is a mark, a key and the value that follows it, hidden in a stretch of the stream that the model trains on. Where mark
and key come once more, the model must go on with the value. A text of a probe (`hide`) asks for one needle, at its end; a text
to learn from (`practice`) repeats 2 to 16 of them, and only their values are learnt from.

Each of these choices was needed by small models to learn it at all within a thousand steps, one run each (delta rule, two layers
of 64 channels, 2,048 tokens a step, half of the texts to learn from): without a mark, with keys of three tokens, with a hundred
kinds of tokens, with 16 needles in every text or with all tokens learnt from, accuracy stayed at chance for 500 steps or came
late (4 % instead of 89 %).

Source: Kamradt 2023 (needle in a haystack) on tokens; with several needles, the multi-key form of RULER (Hsieh et al. 2024,
arXiv:2404.06654).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int, Integer

KEY, VALUE = 1, 1  # tokens of a needle beside its mark: what is practised is what is probed
SYMBOLS = 32  # kinds of tokens that keys and values are made of, at most
KINDS = (
    2,
    4,
    8,
    16,
)  # different needles of a text to learn from: few are learnt from at once, many make keys necessary
NEEDLE_SHARE = 0.6  # of such a text


class NeedleError(ValueError):
    """No text with needles can be made of what was given; the message says what is missing."""


class Alphabet(NamedTuple):
    """Tokens that needles are made of, none that no model was trained on.

    Attributes:
      mark: stands before every key, and tells it from hay.
      symbols: of keys and values.
    """

    mark: int
    symbols: Int[np.ndarray, " k"]


@dataclass(frozen=True)
class NeedleTask:
    """What is hidden where.

    Attributes:
      lengths: tokens of a text, question included, rising; beyond the model's context the state is carried.
      depths: of the needle that is asked for, shares of the hay before the question: 0 the start, 1 right before the question.
      examples: texts of each length and depth.
      key, value: tokens of each needle beside its mark.
      distractors: other needles, anywhere in the hay. Without them the mark alone would be the answer's place.
      reach: last tokens that the model without memory has read. None: its `window` where the config has one, else its context.

    Raises:
      ValueError: a number is too small, a depth is no share, lengths do not rise, or one leaves no hay.
    """

    lengths: tuple[int, ...] = (64, 128, 256)
    depths: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    examples: int = 16
    key: int = KEY
    value: int = VALUE
    distractors: int = 3
    reach: int | None = None

    def __post_init__(self) -> None:
        for name, least in (("examples", 1), ("key", 1), ("value", 1), ("distractors", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"NeedleTask.{name} is {getattr(self, name)}, expected at least {least}")
        if self.reach is not None and self.reach < self.asked:
            raise ValueError(
                f"NeedleTask.reach is {self.reach}, expected at least the {self.asked} tokens of a question"
            )
        if not self.lengths or list(self.lengths) != sorted(set(self.lengths)):
            raise ValueError(f"NeedleTask.lengths is {self.lengths}, expected at least one, rising")
        if not self.depths:
            raise ValueError("NeedleTask.depths is (), expected at least one")
        for depth in self.depths:
            if not 0 <= depth <= 1:
                raise ValueError(f"NeedleTask.depths holds {depth}, expected shares from 0 to 1")
        for length in self.lengths:
            if length < self.shortest:
                raise ValueError(f"NeedleTask.lengths holds {length}, expected at least {self.shortest}")

    @property
    def needles(self) -> int:
        """In a text."""
        return 1 + self.distractors

    @property
    def asked(self) -> int:
        """Tokens of a question: mark, key, and the value but its last token, which is only answered."""
        return self.key + self.value

    @property
    def shortest(self) -> int:
        """Tokens of a text with one token of hay."""
        return 1 - self.hay(0)

    def hay(self, length: int) -> int:
        """Tokens of the stream in a text."""
        return length - self.needles * (1 + self.key + self.value) - self.asked


class Needles(NamedTuple):
    """Texts that end with a question, and the right answers to it."""

    tokens: Int[np.ndarray, "b t"]
    answers: Int[np.ndarray, "b v"]


class Practice(NamedTuple):
    """A text to learn from, and which of its tokens a reader of the text before them can know."""

    tokens: Int[np.ndarray, " t"]
    answers: Bool[np.ndarray, " t"]


def alphabet(stream: Integer[np.ndarray, "*n"]) -> Alphabet:
    """The rarest token of a stream as the mark, and the commonest others as symbols.

    Args:
      stream: of what models train on.

    Raises:
      NeedleError: it has fewer than three different tokens.
    """
    kinds, counts = np.unique(stream, return_counts=True)
    if len(kinds) < 3:
        raise NeedleError(f"needles: the stream has {len(kinds)} different tokens, expected at least 3")
    by_number = kinds[np.argsort(counts, kind="stable")].astype(np.int32)
    return Alphabet(int(by_number[0]), by_number[1:][::-1][:SYMBOLS].copy())


def hide(
    task: NeedleTask,
    stream: Integer[np.ndarray, " s"],
    known: Alphabet,
    rng: np.random.Generator,
    *,
    length: int,
    depth: float,
) -> Needles:
    """Texts that end with the mark and key of one of their needles.

    Args:
      task: of what; its lengths and depths are not used.
      stream: tokens, at least the hay of one text; each text takes a random stretch, and of a mapped file nothing else is read.
      known: what needles are made of; all symbols of a text's needles are different.
      rng: of the random numbers; equal ones give equal texts.
      length: tokens of a text.
      depth: of the needle that is asked for.

    Raises:
      NeedleError: the stream is too short or the alphabet too small.
    """
    hay = task.hay(length)
    if len(stream) < hay:
        raise NeedleError(f"needles: the stream has {len(stream)} tokens, expected at least the {hay} of one haystack")
    tokens = np.empty((task.examples, length), np.int32)
    answers = np.empty((task.examples, task.value), np.int32)
    for text, answer in zip(tokens, answers, strict=True):
        start = rng.integers(len(stream) - hay + 1)
        hidden = _needles(known, rng, task.needles, task.key + task.value)
        gaps = rng.integers(hay + 1, size=task.needles)
        gaps[0] = round(depth * hay)
        text[: -task.asked] = _put_in(stream[start : start + hay].astype(np.int32), hidden, gaps)
        text[-task.asked :] = hidden[0, :-1]
        answer[:] = hidden[0, 1 + task.key :]
    return Needles(tokens, answers)


def kinds_in(length: int, known: Alphabet, size: int = KEY + VALUE) -> tuple[int, ...]:
    """How many different needles a text to learn from may have, each of them at least twice.

    Args:
      length: tokens of the text.
      known: what needles are made of.
      size: tokens of a needle beside its mark.

    Raises:
      NeedleError: not even two fit, or can be made.
    """
    times, possible = int(NEEDLE_SHARE * length) // (1 + size), len(known.symbols) // size
    found = tuple(kinds for kinds in KINDS if 2 * kinds <= times and kinds <= possible)
    if not found:
        raise NeedleError(
            f"needles: a text has {length} tokens and needles can be made of {len(known.symbols)} symbols, expected at least "
            f"{int(np.ceil(2 * KINDS[0] * (1 + size) / NEEDLE_SHARE))} and {KINDS[0] * size}, to repeat {KINDS[0]} needles"
        )
    return found


def practice(
    text: Integer[np.ndarray, " t"],
    known: Alphabet,
    rng: np.random.Generator,
    *,
    key: int = KEY,
    value: int = VALUE,
) -> Practice:
    """A text to learn needles from: some come again and again, and wherever one does its value is asked for.

    Args:
      text: the hay, whose end makes room for the needles.
      known: what needles are made of; all symbols of a text's needles are different.
      rng: of the random numbers; equal ones give equal texts.
      key, value: tokens of each needle beside its mark.

    Returns:
      As many tokens, int32, of which .6 are needles at random places and the rest hay in its order; answers are the values of
      needles that came before.

    Raises:
      NeedleError: as `kinds_in`.
    """
    size = key + value
    kinds = int(rng.choice(kinds_in(len(text), known, size)))
    times = int(NEEDLE_SHARE * len(text)) // (1 + size)
    which = rng.permutation(np.arange(times) % kinds)
    hidden = _needles(known, rng, kinds, size)[which]
    again = np.ones(times, bool)
    again[np.unique(which, return_index=True)[1]] = False
    asked = again[:, None] & (np.arange(1 + size) > key)
    hay = len(text) - hidden.size
    gaps = np.sort(rng.integers(hay + 1, size=times))  # in the order in which they come again
    return Practice(
        _put_in(text[:hay].astype(np.int32), hidden, gaps),
        _put_in(np.zeros(hay, bool), asked, gaps),
    )


def _needles(known: Alphabet, rng: np.random.Generator, count: int, size: int) -> Int[np.ndarray, "n size_plus_1"]:
    """Different ones, no symbol twice, each behind its mark."""
    if len(known.symbols) < count * size:
        raise NeedleError(
            f"needles: there are {len(known.symbols)} symbols, expected at least {count * size} for {count} needles"
        )
    symbols = rng.choice(known.symbols, (count, size), replace=False)
    return np.concatenate([np.full((count, 1), known.mark, np.int32), symbols], axis=1)


def _put_in(hay: np.ndarray, needles: np.ndarray, gaps: Int[np.ndarray, " n"]) -> np.ndarray:
    """Each needle [n, size], whole, before the item of hay [h] at its gap; those of one gap one after the other."""
    return np.insert(hay, np.repeat(gaps, needles.shape[1]), needles.ravel())
