"""A small language to train on, and a run small enough for a test: nothing here comes from elsewhere."""

from __future__ import annotations

import hashlib
import json

import numpy as np

from atlas_jax.data import ByteTokenizer
from spectral.resonance import ResonanceConfig
from validation.corpus import Corpus, circle, deal, tokenize
from validation.diversity.statistics import TextStatistics
from validation.prepare import Side
from validation.profiles import Profile, TierPlan

SYLLABLES = ("ba", "ke", "li", "mo", "nu", "ra", "se", "ti", "vo", "zu")

TINY = Profile(
    name="quick",
    tiers=(
        TierPlan(ResonanceConfig(d_model=8, layers=1, heads=2), learning_rate=0.03, models=(5, 5), controls=5),
        TierPlan(ResonanceConfig(d_model=12, layers=1, heads=2), learning_rate=0.02, models=(3, 2), controls=3),
        TierPlan(ResonanceConfig(d_model=16, layers=1, heads=2), learning_rate=0.01, models=(2, 1), controls=0),
    ),
    steps=80,
    segment=2,
    length=32,
    vocab_size=300,
    held_out_windows=32,
    score_tokens=20_000,
    text_bytes=1 << 20,
)


def markov_rows(count: int, seed: int, language: int = 0, words: int = 20) -> list[str]:
    """Rows of made-up words, Zipf distributed, each word followed by one of three others most of the time."""
    grammar = np.random.default_rng([language, 7])
    vocabulary = ["".join(grammar.choice(SYLLABLES, grammar.integers(1, 4))) for _ in range(200)]
    weights = 1 / np.arange(1, 201)
    weights /= weights.sum()
    follows = grammar.choice(200, (200, 3), p=weights)
    rng = np.random.default_rng([language, seed])
    rows = []
    for _ in range(count):
        word, row = int(rng.choice(200, p=weights)), []
        for _ in range(int(rng.integers(words // 2, words * 3 // 2))):
            row.append(vocabulary[word])
            word = int(follows[word, rng.integers(3)]) if rng.random() < 0.8 else int(rng.choice(200, p=weights))
        rows.append(" ".join(row))
    return rows


def corpus_of(texts: list[str], *, trained_from: list[int] | None = None, neighbours: bool = False) -> Corpus:
    """A corpus as `read_corpus` would have read it from a file of these rows."""
    statistics = TextStatistics()
    statistics.update(texts)
    return Corpus(
        texts=texts,
        row=np.arange(1, len(texts) + 1),
        file=np.zeros(len(texts), np.int64),
        trained_from=np.array(trained_from or [0] * len(texts), np.int64),
        statistics=statistics.result(),
        rows_read=len(texts),
        skipped=[],
        fingerprint=hashlib.sha256(json.dumps(texts).encode()).hexdigest(),
        neighbours=neighbours,
    )


def side_of(texts: list[str]) -> Side:
    """A side that may train on all of its rows, in bytes."""
    corpus = corpus_of(texts)
    tokens = tokenize(texts, corpus.trained_from, ByteTokenizer())
    rows = np.arange(len(texts))
    return Side(corpus, tokens, circle(rows, deal(rows, 0), tokens.sizes))
