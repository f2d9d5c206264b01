"""Decisions about rows: as few false ones as promised, and the planted ones found."""

from __future__ import annotations

import numpy as np
import pytest

from validation.outliers import conformal, low_group, no_signal, robust_high, share_without_signal


def test_conformal_keeps_its_false_discovery_rate_and_finds_a_shift():
    rng = np.random.default_rng(0)
    shares, powers = [], []
    for _ in range(200):
        null = rng.normal(size=1000)
        scores = np.r_[rng.normal(size=450), rng.normal(5, 1, size=50)]
        flagged = conformal(scores, null, 0.1)
        shares.append(flagged[:450].sum() / max(1, flagged.sum()))
        powers.append(flagged[450:].mean())
    assert np.mean(shares) < 0.1 + 2 * np.std(shares) / np.sqrt(200)
    assert np.mean(powers) > 0.9


def test_conformal_flags_hardly_anything_where_there_is_nothing():
    rng = np.random.default_rng(1)
    runs = [conformal(rng.normal(size=500), rng.normal(size=1000), 0.05).any() for _ in range(200)]
    assert np.mean(runs) < 0.05 + 2 * np.sqrt(0.05 * 0.95 / 200)


def test_conformal_flags_from_the_top():
    rng = np.random.default_rng(2)
    scores = np.r_[rng.normal(size=300), rng.normal(4, 1, 60)]
    flagged = conformal(scores, rng.normal(size=2000), 0.05)
    assert scores[flagged].min() > scores[~flagged].max()
    assert not conformal(scores[:3], np.zeros(0), 0.05).any()
    assert conformal(np.zeros(0), scores, 0.05).shape == (0,)


def test_robust_high_finds_a_planted_tail_and_little_else():
    rng = np.random.default_rng(3)
    scores = np.r_[rng.normal(5, 0.5, 2000), rng.normal(9, 0.5, 300)]
    flagged = robust_high(scores)
    assert flagged[2000:].mean() > 0.95
    assert flagged[:2000].mean() < 0.002
    assert robust_high(np.zeros(0)).shape == (0,)
    assert not robust_high(np.full(50, 3.0)).any()


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5])
def test_the_lower_of_two_groups(share):
    rng = np.random.default_rng(4)
    low = int(2000 * share)
    scores = np.r_[rng.normal(2, 0.4, low), rng.normal(5, 0.5, 2000 - low)]
    flagged = low_group(scores)
    assert flagged[:low].mean() > 0.97
    assert flagged[low:].mean() < 0.01


def test_one_group_has_no_lower_one():
    rng = np.random.default_rng(5)
    for scores in (rng.normal(5, 1, 2000), rng.gamma(4, 1, 2000), rng.laplace(5, 1, 2000), np.full(2000, 3.0)):
        assert not low_group(scores).any()
    assert not low_group(np.r_[np.zeros(10), np.ones(9)]).any()  # too few to say
    assert low_group(np.zeros(0)).shape == (0,)


@pytest.mark.parametrize(
    ("share", "with_good", "recall"),
    # Without good rows to compare with, the estimate gives away one row in fifty: a small share is left alone.
    [(0.1, True, 0.9), (0.3, True, 0.95), (0.1, False, 0.0), (0.3, False, 0.5), (0.5, False, 0.8)],
)
def test_rows_without_signal_are_found_precisely(share, with_good, recall):
    rng = np.random.default_rng(6)
    bad = int(4000 * share)
    z = np.r_[rng.normal(size=bad), rng.normal(6, 1.5, 4000 - bad)]
    good = rng.normal(6, 1.5, 4000) if with_good else None
    flagged = no_signal(z, rng.normal(size=4000), good, 0.9)
    assert flagged[:bad].mean() >= recall
    assert flagged[bad:].sum() <= 0.1 * flagged.sum()


@pytest.mark.parametrize("with_good", [True, False])
def test_rows_with_signal_are_left_alone(with_good):
    rng = np.random.default_rng(7)
    z = rng.normal(4, 1.5, 4000)
    good = rng.normal(4, 1.5, 4000) if with_good else None
    assert no_signal(z, rng.normal(size=4000), good, 0.9).mean() < 0.005


def test_no_signal_of_nothing():
    some = np.arange(5.0)
    assert no_signal(np.zeros(0), some, some, 0.9).shape == (0,)
    assert not no_signal(some, np.zeros(0), None, 0.9).any()
    assert no_signal(np.zeros(5), np.arange(10.0), np.zeros(0), 0.9).shape == (5,)


@pytest.mark.parametrize("share", [0.0, 0.05, 0.2, 0.6, 1.0])
@pytest.mark.parametrize("with_good", [True, False])
def test_the_share_without_signal_counts_rows_that_cannot_be_told_one_by_one(share, with_good):
    rng = np.random.default_rng(7)
    bad = int(6000 * share)
    tokens = rng.integers(20, 200, 6000)
    good = lambda n: rng.normal(2.33, 1.0, n)  # noqa: E731 - one in a hundred below zero
    z = np.r_[rng.normal(size=bad), good(6000 - bad)]
    known = (good(6000), rng.integers(20, 200, 6000)) if with_good else None
    found = share_without_signal(z, tokens, known)
    assert found == pytest.approx(tokens[:bad].sum() / tokens.sum(), abs=0.03)


def test_the_share_without_signal_at_its_edges():
    assert share_without_signal(np.zeros(0), np.zeros(0, int), None) == 0.0
    assert share_without_signal(np.ones(50), np.ones(50, int), None) == 0.0
    # Tokens count, not rows: one long row without signal outweighs the rest.
    z, tokens = np.r_[np.ones(10), -1.0], np.r_[np.ones(10, int), 90]
    assert share_without_signal(z, tokens, (np.ones(10), np.ones(10, int))) == 1.0
