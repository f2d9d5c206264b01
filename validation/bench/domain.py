"""A corpus laid out for the benchmark: what is held out, what is trusted, what cases are made of, and all of it as tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Int

from atlas_jax.data import Tokenizer, pack, train_bpe
from validation.bench.rows import SEPARATOR, Rows
from validation.bench.training import LENGTH, TOKENS_A_STEP
from validation.corpus import TokenRows, find_words, token_stream

VOCABULARY = 1024
HELD_OUT_TOKENS = 192 * LENGTH
HELD_OUT_SHARE = 0.1  # of the corpus, at most
TOKENS = 240 * TOKENS_A_STEP  # of a case: 122,880
FEWEST_TOKENS = 24 * TOKENS_A_STEP
# Samples of few rows differ by more than the controls' four samples show: with 221 rows of a table of 43 hospitals, one
# of four resamples lacked three of them and was labelled collapsing.
FEWEST_ROWS = 256
STEPS = 240  # of a label model: one pass over a case, more over a smaller one, as do its controls
TAIL_SHARE = 0.1  # the rarest decile
GROUP_TOKENS = 400  # held-out targets that a group needs to be judged by itself
MOST_CLASSES = 8


class TooSmall(ValueError):
    """A corpus does not hold enough text for a case."""


class NotApplicable(ValueError):
    """A corruption can hardly be applied to the rows of a corpus."""


@dataclass(frozen=True)
class HeldOut:
    """Held-out windows and what their targets are.

    Attributes:
      windows: int32, 128 predicted tokens each.
      counted: targets that are no padding.
      groups: by name, the targets that are judged by themselves: "tail" is the rarest decile of words; then the columns of a
        table and the classes of its rows.
    """

    windows: Int[np.ndarray, "n t1"]
    counted: Bool[np.ndarray, "n t"]
    groups: dict[str, Bool[np.ndarray, "n t"]]


@dataclass(frozen=True)
class Domain:
    """One corpus in three parts of random rows, so that each is a sample of the same distribution.

    Attributes:
      name: of the corpus.
      fingerprint: of its rows.
      label: column that is the class of a row, if any.
      held_out: what label models are measured on; neither they nor a detector ever read it.
      trusted: real rows that no case holds: the reference of a detector; controls are trained on them and on the pool.
      pool: what cases are made of.
      tokenizer: byte-pair encoding trained on the trusted part.
      tokens: of a case.
      steps: optimizer steps of a label model.
    """

    name: str
    fingerprint: str
    label: str | None
    held_out: Rows
    trusted: Rows
    pool: Rows
    tokenizer: Tokenizer
    tokens: int
    steps: int

    def halved(self) -> Domain:
        """The same with cases of half the size, which models read twice as often.

        Raises:
          TooSmall: such a case would hold too little.
        """
        if self.tokens < 2 * FEWEST_TOKENS:
            raise TooSmall(
                f"half a case of {self.name}: {self.tokens // 2:,} tokens, expected at least {FEWEST_TOKENS:,}"
            )
        _check_rows(f"half a case of {self.name}", self.tokens // 2, self._pool_sizes)
        return replace(self, tokens=self.tokens // 2)

    def encode(self, rows: Rows) -> list[Int[np.ndarray, " t"]]:
        """int32 tokens of every row, cell by cell, so that no token spans two cells."""
        return [np.concatenate(cells) for cells in encode_cells(rows, self.tokenizer)]

    def sizes(self, rows: Rows) -> Int[np.ndarray, " n"]:
        """Tokens of every row, its end included."""
        return self._pool_sizes if rows is self.pool else self._count(rows)

    @cached_property
    def _pool_sizes(self) -> Int[np.ndarray, " n"]:
        """Counted once: every case begins with a draw from the pool."""
        return self._count(self.pool)

    def _count(self, rows: Rows) -> Int[np.ndarray, " n"]:
        return np.array([len(document) + 1 for document in self.encode(rows)], np.int64)

    def windows(self, rows: Rows) -> Int[np.ndarray, "n t1"]:
        """Training windows of the rows in random order, as many tokens as a case holds at most."""
        order = np.random.default_rng(1).permutation(len(rows))
        documents = self.encode(rows)
        packed = pack([documents[row] for row in order], length=LENGTH, eos=self.tokenizer.eos, row_ids=order)
        whole = max(1, (packed.rows[:, 1:] >= 0).all(axis=1).sum())
        return np.array(packed.tokens[: min(whole, self.tokens // LENGTH)])

    def draw(self, rows: Rows, tokens: int, seed: int | Sequence[int]) -> Rows:
        """Random rows of about so many tokens, all where there are no more."""
        order = np.random.default_rng(seed).permutation(len(rows))
        sizes = self.sizes(rows)[order]
        return rows.take([int(row) for row in order[: int(np.searchsorted(np.cumsum(sizes), tokens)) + 1]])

    @cached_property
    def measured(self) -> HeldOut:
        """The held-out part as windows, with the groups of its targets."""
        cells = encode_cells(self.held_out, self.tokenizer)
        packed = pack(
            [np.concatenate(row) for row in cells],
            length=LENGTH,
            eos=self.tokenizer.eos,
            row_ids=np.arange(len(cells)),
        )
        # The end of a row belongs to no cell: it is foretold too easily.
        column = np.concatenate([np.repeat([*range(len(row)), -1], [*map(len, row), 1]) for row in cells])
        counted = packed.rows[:, 1:] >= 0
        columns = _laid_out(column, counted, fill=-1)
        groups = {"tail": self._tail(counted), **self._columns(columns), **self._classes(packed.rows[:, 1:])}
        return HeldOut(np.array(packed.tokens), counted, groups)

    def _tail(self, counted: Bool[np.ndarray, "n t"]) -> Bool[np.ndarray, "n t"]:
        """Targets in the rarest decile of words, as often as they stand in all rows that models may be trained on."""
        every = [rows for part in (self.held_out, self.trusted, self.pool) for rows in self.encode(part)]
        sizes = np.array([len(document) + 1 for document in every], np.int64)
        tokens = TokenRows(every, np.zeros(len(every), np.int64), sizes)
        ours = np.arange(len(self.held_out))
        words = find_words(tokens, np.arange(len(ours), len(every)), self.tokenizer)
        stream = token_stream(tokens, ours, self.tokenizer.eos)
        frequency = _laid_out(words.frequency(stream, np.ones(len(every), bool)), counted, fill=-1)
        rarest = np.quantile(frequency[counted], TAIL_SHARE, method="inverted_cdf")
        return counted & (frequency <= rarest)

    def _columns(self, columns: Int[np.ndarray, "n t"]) -> dict[str, Bool[np.ndarray, "n t"]]:
        """Every column of a table; of labelled text the label alone, since the text is nearly all there is."""
        names = self.held_out.columns
        if self.held_out.kind == "series" or len(names) == 1:
            return {}
        masks = {f"column {name}": columns == index for index, name in enumerate(names) if name != "text"}
        return {name: mask for name, mask in masks.items() if mask.sum() >= GROUP_TOKENS}

    def _classes(self, rows: Int[np.ndarray, "n t"]) -> dict[str, Bool[np.ndarray, "n t"]]:
        """The rows of every class, where the classes are few."""
        if self.label is None:
            return {}
        column = self.held_out.columns.index(self.label)
        of_row = np.array([cells[column] for cells in self.held_out.cells])
        names = sorted(set(of_row.tolist()))
        if len(names) > MOST_CLASSES:
            return {}
        masks = {f"{self.label} = {name}": (rows >= 0) & (of_row[np.maximum(rows, 0)] == name) for name in names}
        return {name: mask for name, mask in masks.items() if mask.sum() >= GROUP_TOKENS}


def encode_cells(rows: Rows, tokenizer: Tokenizer) -> list[list[Int[np.ndarray, " t"]]]:
    """int32 tokens of every cell of every row; a cell but the first begins with its separator."""
    separator, width = SEPARATOR[rows.kind], len(rows.columns)
    texts = [separator + cell if column else cell for cells in rows.cells for column, cell in enumerate(cells)]
    encoded = tokenizer.encode_batch(texts)
    return [encoded[start : start + width] for start in range(0, len(encoded), width)]


def _laid_out(
    values: Int[np.ndarray, " stream"], counted: Bool[np.ndarray, "n t"], fill: int
) -> Int[np.ndarray, "n t"]:
    """Values of the tokens of a stream at the targets of its windows: every token but the first is a target, in order."""
    out = np.full(counted.shape, fill, np.int64)
    out[counted] = values[1:]
    return out


def lay_out(name: str, rows: Rows, *, label: str | None = None, tokens: int = TOKENS) -> Domain:
    """Deals the rows of a corpus to the three parts.

    Args:
      name: of the corpus.
      rows: all of it.
      label: column that is the class of a row, if any.
      tokens: of a case, where the corpus holds that much: a case is at most half of the pool, so that two resamples differ.

    Raises:
      TooSmall: it holds too little for a case.
    """
    needed = round(FEWEST_TOKENS * 4 / (1 - HELD_OUT_SHARE))
    if not len(rows):
        raise TooSmall(f"corpus {name}: 0 tokens in 0 rows, expected at least {needed:,}")
    order = np.random.default_rng(0).permutation(len(rows))
    shuffled = rows.take([int(row) for row in order])
    # A first encoding tells how many tokens there are; the one that counts never sees the held-out part.
    sizes = _sizes(shuffled, train_bpe(shuffled.texts(), VOCABULARY))
    ends = np.cumsum(sizes)
    held = int(np.searchsorted(ends, min(HELD_OUT_TOKENS, HELD_OUT_SHARE * ends[-1]))) + 1
    middle = int(np.searchsorted(ends, (ends[-1] + ends[held]) / 2)) if held < len(ends) else held
    held_out, trusted, pool = (
        shuffled.take(range(start, stop)) for start, stop in ((0, held), (held, middle), (middle, len(rows)))
    )
    tokens = min(tokens, int(sizes[middle:].sum()) // 2)
    if tokens < FEWEST_TOKENS:
        needed = round(FEWEST_TOKENS * 4 / (1 - HELD_OUT_SHARE))
        raise TooSmall(f"corpus {name}: {int(ends[-1]):,} tokens in {len(rows):,} rows, expected at least {needed:,}")
    _check_rows(f"a case of {name}", tokens, sizes[middle:])
    tokenizer = train_bpe(trusted.texts(), VOCABULARY)
    return Domain(name, rows.fingerprint(), label, held_out, trusted, pool, tokenizer, tokens, STEPS)


def _check_rows(what: str, tokens: int, pool: Int[np.ndarray, " n"]) -> None:
    """Refuses cases of too few rows, each of about the mean size of the pool's."""
    rows = round(tokens / pool.mean())
    if rows < FEWEST_ROWS:
        raise TooSmall(f"{what}: about {rows:,} rows, expected at least {FEWEST_ROWS:,}")


def _sizes(rows: Rows, tokenizer: Tokenizer) -> Int[np.ndarray, " n"]:
    return np.array([sum(map(len, cells)) + 1 for cells in encode_cells(rows, tokenizer)], np.int64)
