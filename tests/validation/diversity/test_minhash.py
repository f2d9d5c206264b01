"""Values against their definition, and what they estimate against the laws they should follow."""

import math

import numpy as np
import pytest

from validation.diversity import minhash
from validation.diversity.hash_counts import mixed
from validation.diversity.minhash import SKETCHED, bands, least_products, may_agree, signatures
from validation.diversity.shingles import FlatShingles
from validation.diversity.texts import normalise_strings


def flat_of(rows):
    hashes = np.concatenate([mixed(np.array(row, np.uint64)) for row in rows])
    return FlatShingles(hashes, np.append(0, np.cumsum([len(row) for row in rows])))


@pytest.mark.parametrize("most", [3, 30, 2000])
def test_values_are_the_least_products_of_each_row(most, monkeypatch):
    monkeypatch.setattr(minhash, "_CACHED", 1 << 9)
    rng = np.random.default_rng(most)
    flat = flat_of([rng.integers(0, 1 << 40, size) for size in rng.integers(1, most + 1, 60)])
    found = least_products(flat, 7, seed=5)
    multipliers = [int(value) | 1 for value in np.random.SeedSequence(5).generate_state(7)]
    for row, values in enumerate(found.tolist()):
        hashes = [int(value) >> 32 for value in flat.hashes[flat.offsets[row] : flat.offsets[row + 1]]]
        assert values == [min(one * multiplier % 2**32 for one in hashes) for multiplier in multipliers]


@pytest.mark.parametrize("shared", [8, 64, 800])
def test_values_agree_as_often_and_as_independently_as_minhash_promises(shared):
    """Pairs of rows of similarity 0.8: their agreeing values are binomial, in mean and in variance."""
    pairs, count, more = 1500, 80, shared // 8
    numbers = np.arange(pairs * (shared + 2 * more)).reshape(pairs, -1)
    left, right = numbers[:, : shared + more], np.delete(numbers, np.s_[shared : shared + more], axis=1)
    ours, theirs = (least_products(flat_of(rows), count, seed=1) for rows in (left, right))
    agree = (ours == theirs).sum(axis=1)
    assert agree.mean() == pytest.approx(0.8 * count, abs=5 * math.sqrt(count * 0.16 / pairs))
    assert agree.var() == pytest.approx(count * 0.16, rel=0.2)


def test_a_sketch_turns_unlike_rows_away_and_keeps_like_ones():
    rng = np.random.default_rng(0)
    words = np.array([f"w{number}" for number in range(4000)])
    drawn = rng.choice(words, (400, 24))
    changed = drawn.copy()
    changed[:, 0] = "other"
    texts = normalise_strings([" ".join(row) for row in np.concatenate([drawn, changed])])
    kept = signatures(texts, 0.8, seed=0)
    assert kept.sketches.shape == (800, SKETCHED // 8)
    assert kept.keys.shape == (bands(0.8)[0], 800)
    rows = np.arange(400)
    assert may_agree(kept.sketches, rows, rows + 400, 0.8).mean() > 0.99, "similarity 0.9"
    assert not may_agree(kept.sketches, rows, np.roll(rows, 1), 0.8).any()
    assert (kept.keys[:, :400] == kept.keys[:, 400:]).any(axis=0).mean() > 0.99
