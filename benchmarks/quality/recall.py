"""Examples whose answers stand in the context: multi-query associative recall, and induction over repeated tokens.

An example is int32 [2, t]: inputs, and the token that is right after each of them, -1 where none is asked for.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Int

GAP_POWER = 0.01  # of the distances between a pair and its query, as in the paper


def associative_recall(count: int, pairs: int, length: int, vocab_size: int, *, seed: int) -> Int[np.ndarray, "n 2 t"]:
    """Pairs of key and value, then every key once more, far and near; asked for is its value.

    Keys are the tokens below vocab_size / 2, values the others. Queries stand at even distances after the pairs, the
    distance drawn from the power law of the paper. Between the queries stand random values, so that nothing gives a key
    a second value; in the paper those fillers are random tokens of both kinds, of a vocabulary 32 times as large.

    Raises:
      ValueError: pairs and queries do not fit the length, or keys the vocabulary.

    Source: Arora et al. 2023, Zoology, arXiv:2312.04927, section 4.
    """
    if 4 * pairs > length:
        raise ValueError(f"associative_recall: pairs is {pairs}, expected at most length / 4 = {length // 4}")
    half = vocab_size // 2
    if pairs > half:
        raise ValueError(f"associative_recall: pairs is {pairs}, expected at most vocab_size / 2 = {half}")
    rng = np.random.default_rng((seed, pairs))
    keys = rng.permuted(np.tile(np.arange(half), (count, 1)), axis=1)[:, :pairs]
    values = half + rng.permuted(np.tile(np.arange(vocab_size - half), (count, 1)), axis=1)[:, :pairs]
    inputs = rng.integers(half, vocab_size, (count, length))
    inputs[:, : 2 * pairs : 2], inputs[:, 1 : 2 * pairs : 2] = keys, values
    slots = (length - 2 * pairs) // 2
    weight = np.arange(1, slots + 1) ** (GAP_POWER - 1)
    # The k largest of log weight + Gumbel noise are k draws without replacement.
    places = np.argsort(-np.log(weight) - rng.gumbel(size=(count, slots)), axis=1)[:, :pairs]
    at = 2 * pairs + 2 * places
    targets = np.full((count, length), -1)
    np.put_along_axis(inputs, at, keys, axis=1)
    np.put_along_axis(targets, at, values, axis=1)
    return np.stack([inputs, targets], axis=1).astype(np.int32)


def induction(count: int, period: int, length: int, vocab_size: int, *, seed: int) -> Int[np.ndarray, "n 2 t"]:
    """A stretch of distinct random tokens, over and over; asked for is the next token wherever the last one was seen before.

    The stretch is between 3/4 of `period` and `period` long, so that no fixed distance gives the answer, and only one
    repetition is asked for: the further ones could be copied from nearer by.

    Raises:
      ValueError: two stretches do not fit the length, or one the vocabulary.

    Source: Olsson et al. 2022, arXiv:2209.11895, the repeated random tokens that define an induction head.
    """
    if 2 * period > length:
        raise ValueError(f"induction: period is {period}, expected at most length / 2 = {length // 2}")
    if period > vocab_size:
        raise ValueError(f"induction: period is {period}, expected at most vocab_size = {vocab_size}")
    rng = np.random.default_rng((seed, period))
    stretch = rng.permuted(np.tile(np.arange(vocab_size), (count, 1)), axis=1)[:, :period]
    lengths = rng.integers(-(-3 * period // 4), period + 1, (count, 1))
    tokens = np.take_along_axis(stretch, np.arange(length + 1)[None, :] % lengths, axis=1)
    place = np.arange(length)[None, :]
    asked = (place >= lengths) & (place < 2 * lengths)
    return np.stack([tokens[:, :-1], np.where(asked, tokens[:, 1:], -1)], axis=1).astype(np.int32)


Generator = Callable[..., Int[np.ndarray, "n 2 t"]]

# The generator of each task, and its difficulties as divisors of the length: pairs, or the longest stretch.
TASKS: dict[str, tuple[Generator, tuple[int, ...]]] = {
    "associative": (associative_recall, (32, 16, 8, 4)),
    "induction": (induction, (16, 8, 4, 2)),
}


def levels(task: str, length: int) -> list[int]:
    """Difficulties of a task at a length, easy ones first.

    Raises:
      ValueError: there is no such task, or the length is too short to hold its easiest examples.
    """
    if task not in TASKS:
        raise ValueError(f"task is {task!r}, expected one of {', '.join(TASKS)}")
    divisors = TASKS[task][1]
    if length < divisors[0]:
        raise ValueError(f"length of {task} is {length}, expected at least {divisors[0]}")
    return [length // divisor for divisor in divisors]


def examples_of(
    task: str, count: int, level: int, length: int, vocab_size: int, *, seed: int
) -> Int[np.ndarray, "n 2 t"]:
    """Examples of one difficulty; equal arguments give equal examples."""
    return TASKS[task][0](count, level, length, vocab_size, seed=seed)
