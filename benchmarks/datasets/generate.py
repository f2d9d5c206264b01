"""Generated tables and texts of any number of rows, written as Parquet without ever being held whole."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

GROUP_ROWS = 250_000
"""Rows of a row group; the same rows come out for a seed whatever the number of rows."""

SHARES = np.array([0.55, 0.27, 0.145, 0.03, 0.005])  # of rows that belong together; the last are a rare pattern
AMOUNT, SCORE = np.array([3.0, 5.0, 1.0, 6.5, 9.0]), np.array([0.0, 8.0, -7.0, 15.0, 30.0])
OUTLIERS = 0.0003
REGIONS = np.array(
    [f"region-{name}" for name in ["north", "south", "east", "west", "centre", "coast", "hills", "lakes"]]
)
PRODUCTS = np.array([f"product {number:04d}" for number in range(2_000)])
WORDS, COMMON = 20_000, 1.2  # words of the language, and how fast they get rarer (Zipf's exponent)


def mixed_rows(rows: int, *, copies: float = 0.0, seed: int = 0) -> Iterator[pa.Table]:
    """Six columns: a key, a time, two measurements in five groups, two categories; one table a row group.

    Args:
      rows: of all tables.
      copies: share of rows that repeat an earlier one of their row group exactly.
      seed: of everything.
    """
    for start in range(0, rows, GROUP_ROWS):
        rng = np.random.default_rng([seed, start])
        group = rng.choice(len(SHARES), GROUP_ROWS, p=SHARES)
        score = rng.normal(SCORE[group], 1.0)
        score[rng.random(GROUP_ROWS) < OUTLIERS] += 500.0
        table = pa.table(
            {
                "customer": rng.integers(0, 1 << 48, GROUP_ROWS),
                "time": pa.array(
                    1_700_000_000_000_000 + (start + np.arange(GROUP_ROWS)) * 10_000_000, pa.timestamp("us")
                ),
                "amount": np.exp(rng.normal(AMOUNT[group], 0.6)),
                "score": score,
                "region": pa.array(REGIONS[(group + rng.geometric(0.7, GROUP_ROWS) - 1) % len(REGIONS)]),
                "product": pa.array(PRODUCTS[np.minimum(rng.zipf(1.5, GROUP_ROWS) - 1, len(PRODUCTS) - 1)]),
            }
        )
        if copies:
            table = table.take(pa.array(_earlier(rng, GROUP_ROWS, copies)))
        yield table.slice(0, min(GROUP_ROWS, rows - start))


def text_rows(rows: int, *, words: int = 12, alike: float = 0.1, seed: int = 0) -> Iterator[pa.Table]:
    """One column of texts whose words are as frequent as in language; one table a row group.

    Args:
      rows: of all tables.
      words: of each text, about six bytes each.
      alike: share of texts that repeat an earlier one of their row group with one word changed: the first or last word
        as often as any other, so that similarities lie on both sides of 0.8.
      seed: of everything.
    """
    letters = np.random.default_rng(7).integers(97, 123, (WORDS, 9), np.uint8).view("S9").ravel()
    lengths = np.random.default_rng(8).integers(2, 10, WORDS)
    vocabulary = pa.array([word[:length].decode() for word, length in zip(letters, lengths, strict=True)])
    for start in range(0, rows, GROUP_ROWS):
        rng = np.random.default_rng([seed, start, 1])
        drawn = (np.minimum(rng.zipf(COMMON, (GROUP_ROWS, words)), WORDS) * 7_919 + start) % WORDS
        often = rng.random(drawn.shape) < 0.5  # else every text would be of the same few words
        drawn = np.where(often, drawn, rng.integers(0, WORDS, drawn.shape))
        of = _earlier(rng, GROUP_ROWS, alike)
        copied = np.flatnonzero(of != np.arange(GROUP_ROWS))
        drawn = drawn[of]
        ends = rng.choice([0, words - 1], len(copied))
        place = np.where(rng.random(len(copied)) < 0.5, ends, rng.integers(0, words, len(copied)))
        drawn[copied, place] = rng.integers(0, WORDS, len(copied))
        columns = [vocabulary.take(pa.array(column)) for column in drawn.T]
        table = pa.table({"text": pc.call_function("binary_join_element_wise", [*columns, pa.scalar(" ")])})
        yield table.slice(0, min(GROUP_ROWS, rows - start))


def _earlier(rng: np.random.Generator, rows: int, share: float) -> np.ndarray:
    """For each row itself, or for a share of them the number of an earlier one."""
    own = np.arange(rows)
    return np.where(rng.random(rows) < share, (rng.random(rows) * own).astype(np.int64), own)


def write(path: Path, tables: Iterator[pa.Table]) -> int:
    """Writes tables as row groups of one Parquet file and returns its bytes."""
    first = next(tables)
    with pq.ParquetWriter(path, first.schema) as writer:
        writer.write_table(first)
        for table in tables:
            writer.write_table(table)
    return path.stat().st_size
