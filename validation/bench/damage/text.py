"""Texts made bad in known ways. A word is a run of characters between white space, as written."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import TypeVar

import numpy as np
from jaxtyping import Bool, Int

from validation.bench.damage.choice import checked_share, chosen_rows

Row = TypeVar("Row", bound=Hashable)
Damaged = tuple[list[str], Bool[np.ndarray, " rows"]]

MIN_SHUFFLED_WORDS = 4
RARE = 3  # occurrences of a rare word, at most
WORD = re.compile(r"\w+")
CONTENT_WORD = re.compile(r"[^\W\d_]{4,}")

TEMPLATES = (
    "The {} of the {} is very important for {} because it can help the {} to grow.",
    "In conclusion, {} and {} are two of the most common examples of {} in the world today.",
    "There are many different ways to think about {}, but the best one is to start with {} and {}.",
    "When it comes to {}, it is important to remember that every {} has its own {}.",
    "Our new {} makes it easy to find the right {} for your {}. Contact us today to learn more about {}!",
    "Question: What is the main purpose of {}? Answer: The main purpose of {} is to improve the {} of {}.",
    "According to a recent report on {}, the number of {} has increased by ten percent since the last {}.",
    "First, prepare the {}. Then add the {} and mix it with the {}. Finally, enjoy your {}.",
)


def duplicates(rows: Sequence[Row], factor: int, seed: int) -> tuple[list[Row], Bool[np.ndarray, " rows"]]:
    """Few distinct rows, each repeated: the size of the dataset stays and its content shrinks.

    Args:
      rows: clean rows, texts or whatever can be compared.
      factor: times each chosen row appears, at least 2; a text that was repeated before counts once.
      seed: of the choice and the order.

    Returns:
      Rows in random order; bad are all but the first appearance of a text.

    Raises:
      ValueError: factor is under 2.
    """
    if factor < 2:
        raise ValueError(f"factor: {factor}; expected at least 2")
    rng = np.random.default_rng(seed)
    distinct = list(dict.fromkeys(rows))
    kept = min(-(-len(rows) // factor), len(distinct))
    chosen = rng.permutation(len(distinct))[:kept]
    order = rng.permutation(np.resize(chosen, len(rows)))
    bad = np.ones(len(rows), bool)
    bad[np.unique(order, return_index=True)[1]] = False
    return [distinct[index] for index in order], bad


def templates(rows: Sequence[str], share: float, seed: int) -> Damaged:
    """Replaces rows by sentences from 8 templates, their slots filled with words of the corpus.

    Args:
      rows: clean rows.
      share: share of rows to replace, 0 to 1.
      seed: of the choice, the templates and the words.

    Returns:
      Rows in order; a replaced row repeats one template with new words until it has about as many words as the row it
      replaces, so that the dataset keeps its size.

    Raises:
      ValueError: no row holds a word that could fill a slot.
    """
    rng = np.random.default_rng(seed)
    content = [word for row in rows for word in CONTENT_WORD.findall(row.lower())]
    if not content:
        raise ValueError(
            f"templates: {len(rows)} rows hold no word to fill a slot with, expected some {CONTENT_WORD.pattern}"
        )
    words = _draws(content, rng)

    def template_row(row: str) -> str:
        template = TEMPLATES[rng.integers(len(TEMPLATES))]
        count = max(1, round(len(row.split()) / len(template.split())))
        return " ".join(template.format(*(next(words) for _ in range(template.count("{}")))) for _ in range(count))

    return _replaced(rows, chosen_rows(np.arange(len(rows)), len(rows), share, rng), template_row)


def shuffle_words(rows: Sequence[str], share: float, seed: int) -> Damaged:
    """Permutes the words within rows.

    Args:
      rows: clean rows.
      share: share of all rows to shuffle, 0 to 1, as far as there are rows of at least 4 words that are not all alike.
      seed: of the choice and the permutations.

    Returns:
      Rows in order; every bad row differs from what it was in the order of its words alone.
    """
    rng = np.random.default_rng(seed)
    eligible = [
        index for index, row in enumerate(rows) if len(row.split()) >= MIN_SHUFFLED_WORDS and len(set(row.split())) > 1
    ]

    def shuffled(row: str) -> str:
        words = row.split()
        order = words
        while order == words:
            order = [words[index] for index in rng.permutation(len(words))]
        return " ".join(order)

    return _replaced(rows, chosen_rows(np.array(eligible, np.int64), len(rows), share, rng), shuffled)


def random_words(rows: Sequence[str], share: float, seed: int) -> Damaged:
    """Replaces rows by as many words drawn one by one from the words of the corpus.

    Args:
      rows: clean rows.
      share: share of rows to replace, 0 to 1.
      seed: of the choice and the words.

    Returns:
      Rows in order; rows of fewer than 4 words are never chosen.
    """
    rng = np.random.default_rng(seed)
    words = _draws([word for row in rows for word in row.split()], rng)
    eligible = [index for index, row in enumerate(rows) if len(row.split()) >= MIN_SHUFFLED_WORDS]

    def random_row(row: str) -> str:
        return " ".join(next(words) for _ in row.split())

    return _replaced(rows, chosen_rows(np.array(eligible, np.int64), len(rows), share, rng), random_row)


def tail_cut(rows: Sequence[str], keep: float, seed: int) -> Damaged:
    """Removes the rarest words of the corpus from every row.

    Args:
      rows: clean rows.
      keep: share of word types to keep, the most frequent ones, 0 to 1; types are lower-cased, without punctuation.
      seed: of the choice between types of equal frequency.

    Returns:
      Rows in order; bad are those that lost a word. A row that would lose all keeps its first word.

    Raises:
      ValueError: keep is out of range.
    """
    if not 0 <= keep <= 1:
        raise ValueError(f"keep: {keep}; expected 0 to 1")
    rng = np.random.default_rng(seed)
    counts = Counter(kind for row in rows for word in row.split() for kind in WORD.findall(word.lower()))
    kinds = list(counts)
    order = np.lexsort([rng.random(len(kinds)), -np.array([counts[kind] for kind in kinds], np.int64)])
    kept = {kinds[index] for index in order[: round(keep * len(kinds))]}

    def frequent(row: str) -> str:
        words = row.split()
        left = [word for word in words if kept.issuperset(WORD.findall(word.lower()))]
        return row if len(left) == len(words) else " ".join(left or words[:1])

    cut = [frequent(row) for row in rows]
    return cut, np.array([new != old for new, old in zip(cut, rows, strict=True)], bool)


def rare_words_replaced(rows: Sequence[str], share: float, seed: int) -> Damaged:
    """Puts frequent words in the place of the rarest ones: the tail is gone and everything else stays as it was.

    It is what a writer leaves whose vocabulary is cut at some probability.

    Args:
      rows: clean rows.
      share: share of all words, occurrences counted, to replace, 0 to 1; of words of equal frequency the later in the
        alphabet go first.
      seed: of the words that take their places, each as likely as it is frequent.

    Returns:
      Rows in order, capitals and all between words kept; bad are those that lost a word. The most frequent word stays.
    """
    checked_share(share)
    counts = Counter(word for row in rows for word in WORD.findall(row.lower()))
    kinds = sorted(counts, key=lambda word: (-counts[word], word))
    sizes = np.array([counts[word] for word in kinds], np.int64)
    # How much is replaced once a word and all rarer ones are gone.
    gone = sizes[::-1].cumsum()[::-1]
    kept = kinds[: max(1, int((gone > share * sizes.sum()).sum()))]
    frequent, rng = frozenset(kept), np.random.default_rng(seed)
    words = _draws([word for word in kept for _ in range(counts[word])], rng)

    def replaced(match: re.Match[str]) -> str:
        word = match[0]
        if word.lower() in frequent:
            return word
        new = next(words)
        return new[0].upper() + new[1:] if word[0].isupper() else new

    cut = [WORD.sub(replaced, row) for row in rows]
    return cut, np.array([new != old for new, old in zip(cut, rows, strict=True)], bool)


def rare_rows_dropped(rows: Sequence[str], share: float, seed: int) -> Damaged:
    """Removes the rows that are richest in rare words (those that occur three times at most): what is left is real.

    Args:
      rows: clean rows.
      share: share of the rows to remove, 0 to 1.
      seed: of the choice between rows that are equally rich.

    Returns:
      Fewer rows, in order; none of them is bad.
    """
    checked_share(share)
    counts = Counter(word for row in rows for word in WORD.findall(row.lower()))
    rare = np.array([np.mean([counts[w] <= RARE for w in WORD.findall(row.lower())] or [0.0]) for row in rows])
    order = np.lexsort([np.random.default_rng(seed).random(len(rows)), -rare])
    kept = np.sort(order[round(share * len(rows)) :])
    return [rows[int(index)] for index in kept], np.zeros(len(kept), bool)


def _replaced(rows: Sequence[str], chosen: Int[np.ndarray, " chosen"], replace: Callable[[str], str]) -> Damaged:
    damaged = list(rows)
    bad = np.zeros(len(damaged), bool)
    bad[chosen] = True
    for index in chosen:
        damaged[index] = replace(damaged[index])
    return damaged, bad


def _draws(words: list[str], rng: np.random.Generator) -> Iterator[str]:
    """Endless words, each as likely as it is frequent."""
    while True:
        for index in rng.integers(len(words), size=4096):
            yield words[index]
