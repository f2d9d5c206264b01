"""A text dataset in memory, ready to train on: rows, tokens, and the groups of rows that must stay together."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped, UInt64

from atlas_jax.data import Packed, Tokenizer, pack
from validation.datasets import Dataset
from validation.diversity.statistics import Diversity, TextStatistics

# Rows of one group are dealt out in pieces of this many: a group stays whole within a subsample, so that a subsample
# repeats itself as the whole does, yet a group of a thousand copies is spread over all of them.
LARGEST_PIECE = 16


@dataclass(frozen=True)
class Corpus:
    """The rows that are kept for training, n of them.

    Attributes:
      texts: rendered rows.
      row: number of each row in its file, see `validation.datasets`.
      file: index of its file.
      trained_from: character where the part that is trained on begins (a response after its prompt).
      statistics: of the whole dataset, also of rows that were not kept.
      rows_read: rows of the whole dataset.
      skipped: bad rows that were skipped: (file, row, reason).
      fingerprint: SHA-256 over all rows kept.
      neighbours: whether rows that follow each other belong together (lines or paragraphs of a text file).
    """

    texts: list[str]
    row: Int[np.ndarray, " n"]
    file: Int[np.ndarray, " n"]
    trained_from: Int[np.ndarray, " n"]
    statistics: Diversity
    rows_read: int
    skipped: list[tuple[str, int, str]]
    fingerprint: str
    neighbours: bool


def read_corpus(dataset: Dataset, text_bytes: int, on_rows: Callable[[int], None] = lambda rows: None) -> Corpus:
    """Reads a dataset once: statistics of everything, text of what fits into `text_bytes`.

    What is kept of larger data is chosen by the hash of the text, so all copies of a row stay or go together.
    """
    share = min(1.0, text_bytes / max(1, dataset.metadata.bytes))
    statistics, digest = TextStatistics(), hashlib.sha256()
    texts: list[str] = []
    parts: list[np.ndarray] = []
    rows_read = 0
    for batch in dataset.stream():
        chunk = batch.column("text").to_pylist()
        statistics.update(chunk)
        rows_read += len(chunk)
        places = np.stack([batch.column(name).to_numpy().astype(np.int64) for name in ("row", "file", "trained_from")])
        kept = np.ones(len(chunk), bool) if share == 1.0 else np.array([_hash_share(text) < share for text in chunk])
        chosen = [text for text, keep in zip(chunk, kept, strict=True) if keep]
        for text in chosen:
            digest.update(len(text).to_bytes(8, "little") + text.encode("utf-8", "surrogatepass"))
        texts += chosen
        parts.append(places[:, kept])
        on_rows(rows_read)
    row, file, trained_from = np.concatenate(parts, axis=1) if parts else np.zeros((3, 0), np.int64)
    return Corpus(
        texts=texts,
        row=row,
        file=file,
        trained_from=trained_from,
        statistics=statistics.result(),
        rows_read=rows_read,
        skipped=list(dataset.skipped),
        fingerprint=digest.hexdigest(),
        neighbours=dataset.metadata.text_kind != "records",
    )


def _hash_share(text: str) -> float:
    return (
        int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little") / 2**64
    )


@dataclass(frozen=True)
class TokenRows:
    """The rows of a corpus as tokens.

    Attributes:
      documents: tokens of each row.
      prompt: per row, how many of its first tokens belong to the prompt (not measured on).
      sizes: tokens of each row, its end-of-text included.
    """

    documents: list[np.ndarray]
    prompt: Int[np.ndarray, " n"]
    sizes: Int[np.ndarray, " n"]


def tokenize(texts: Sequence[str], trained_from: Int[np.ndarray, " n"], tokenizer: Tokenizer) -> TokenRows:
    """Tokens of every row; prompt and response are encoded apart, so that the border falls between two tokens."""
    prompts = tokenizer.encode_batch([text[:start] for text, start in zip(texts, trained_from, strict=True)])
    responses = tokenizer.encode_batch([text[start:] for text, start in zip(texts, trained_from, strict=True)])
    documents = [np.concatenate(pair) for pair in zip(prompts, responses, strict=True)]
    return TokenRows(
        documents,
        np.array([len(p) for p in prompts], np.int64),
        np.array([len(d) + 1 for d in documents], np.int64),
    )


def deal(groups: Int[np.ndarray, " n"], seed: int) -> Float[np.ndarray, " n"]:
    """A place in [0, 1) for every row, random but equal for the rows of one piece of a group.

    Args:
      groups: group of each row (near-duplicate component).
      seed: of the order.

    Returns:
      Places; a subsample is an interval of them, so copies of a row fall into the same subsample, up to `LARGEST_PIECE`.
    """
    order = np.argsort(groups, kind="stable")
    ordered = groups[order]
    first = np.r_[True, ordered[1:] != ordered[:-1]]
    rank = np.arange(len(groups)) - np.maximum.accumulate(np.where(first, np.arange(len(groups)), 0))
    piece = np.cumsum(first | (rank % LARGEST_PIECE == 0)) - 1
    places = np.random.default_rng([seed, 0]).random(piece[-1] + 1 if len(piece) else 0)
    out = np.empty(len(groups))
    out[order] = places[piece]
    return out


@dataclass(frozen=True)
class Circle:
    """Rows in the order of their places, as a circle of tokens that subsamples are arcs of.

    Attributes:
      order: rows (indices into the corpus) by place.
      ends: cumulative tokens along `order`.
    """

    order: Int[np.ndarray, " k"]
    ends: Int[np.ndarray, " k"]

    @property
    def tokens(self) -> int:
        """Tokens of the whole circle."""
        return int(self.ends[-1]) if len(self.ends) else 0

    def arc(self, start: float, tokens: int) -> Int[np.ndarray, " m"]:
        """Rows from share `start` of the circle on, until `tokens` are reached; round again where it is too short."""
        begin = int(np.searchsorted(self.ends, start * self.tokens))
        sizes = np.diff(self.ends, prepend=0)
        rounds = int(np.ceil(tokens / self.tokens)) + 1
        walk = np.resize(np.roll(np.arange(len(self.order)), -begin), rounds * len(self.order))
        needed = int(np.searchsorted(np.cumsum(sizes[walk]), tokens)) + 1
        return self.order[walk[:needed]]


def circle(rows: Int[np.ndarray, " k"], places: Float[np.ndarray, " n"], sizes: Int[np.ndarray, " n"]) -> Circle:
    """The circle of some rows of a corpus; all their pieces stay together, in the order of `places`."""
    order = rows[np.argsort(places[rows], kind="stable")]
    return Circle(order, np.cumsum(sizes[order]))


def windows(tokens: TokenRows, rows: Int[np.ndarray, " m"], *, length: int, eos: int, count: int, seed: int) -> Packed:
    """`count` training windows of the given rows, shuffled row by row, so that copies do not lie side by side."""
    shuffled = np.random.default_rng([seed, 1]).permutation(rows)
    packed = pack([tokens.documents[r] for r in shuffled], length=length, eos=eos, row_ids=shuffled)
    return Packed(packed.tokens[:count], packed.rows[:count])


def by_target(values: Shaped[np.ndarray, " stream"], packed: Packed) -> Shaped[np.ndarray, "n t"]:
    """Per-token values of packed rows, laid out as the targets of their windows; zero on padding."""
    n, width = packed.tokens.shape
    padded = np.zeros(n * (width - 1) + 1, values.dtype)
    padded[: len(values)] = values[: len(padded)]
    return np.lib.stride_tricks.sliding_window_view(padded, width)[:: width - 1, 1:].copy()


@dataclass(frozen=True)
class Words:
    """Where each word of some rows stands; a word is a run of tokens between non-alphanumeric borders.

    Words, not tokens, because a byte-pair encoding spells rare words out of common tokens.

    Attributes:
      hashes: of the distinct words, sorted.
      word: for every occurrence, the index of its word.
      row: for every occurrence, the row it stands in.
      borders: does a token begin (end) with something other than a letter or digit.
    """

    hashes: UInt64[np.ndarray, " distinct"]
    word: Int[np.ndarray, " words"]
    row: Int[np.ndarray, " words"]
    borders: Bool[np.ndarray, "2 vocab"]

    def frequency(self, stream: Int[np.ndarray, " t"], rows: Bool[np.ndarray, " n"]) -> Int[np.ndarray, " t"]:
        """For every token of a stream, how often the word that it belongs to occurs in the given rows."""
        counts = np.bincount(self.word[rows[self.row]], minlength=len(self.hashes))
        hashes, word = _word_hashes(stream, self.borders)
        place = np.minimum(np.searchsorted(self.hashes, hashes), len(self.hashes) - 1)
        return np.where(self.hashes[place] == hashes, counts[place], 0)[word]


def find_words(tokens: TokenRows, rows: Int[np.ndarray, " m"], tokenizer: Tokenizer) -> Words:
    """The words of some rows."""
    pieces = [tokenizer.decode([token]) or " " for token in range(tokenizer.vocab_size)]
    borders = np.array([[not p[0].isalnum() for p in pieces], [not p[-1].isalnum() for p in pieces]])
    stream = token_stream(tokens, rows, tokenizer.eos)
    hashes, word = _word_hashes(stream, borders)
    first = np.flatnonzero(np.diff(word, prepend=-1))
    distinct, index = np.unique(hashes, return_inverse=True)
    return Words(distinct, index, np.repeat(rows, tokens.sizes[rows])[first], borders)


def token_stream(tokens: TokenRows, rows: Int[np.ndarray, " m"], eos: int) -> Int[np.ndarray, " t"]:
    """The rows one after the other, each with its end of text, as `pack` lays them out."""
    return np.concatenate([part for r in rows for part in (tokens.documents[r], np.array([eos], np.int32))])


def _word_hashes(
    stream: Int[np.ndarray, " t"], borders: Bool[np.ndarray, "2 vocab"]
) -> tuple[UInt64[np.ndarray, " words"], Int[np.ndarray, " t"]]:
    """A 64-bit hash of every word in the stream, and for every token the index of its word."""
    starts = borders[0][stream] | np.r_[True, borders[1][stream[:-1]]]
    word = np.cumsum(starts) - 1
    first = np.flatnonzero(starts)
    place = np.arange(len(stream)) - first[word]
    salts = np.random.default_rng(0).integers(1, 2**63, (64,), dtype=np.uint64) | np.uint64(1)
    terms = (stream.astype(np.uint64) + np.uint64(1)) * salts[place % 64]
    return np.add.reduceat(terms, first), word
