"""The criteria, on losses made to pass or to fail them."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from validation.criteria import (
    KINDS,
    LEAST_HARM,
    SIGMAS,
    Pairs,
    bar,
    better_rate,
    detectable_against_reference,
    detectable_alone,
    equal_groups,
    harm,
    judge,
    lost_tokens,
    pooled_spread,
    removal,
    scaling_gain,
    score,
    token_cost,
    unknown,
)
from validation.scaling import Law
from validation.tiers import TierResult

LAW = Law(3.0, 60.0, 0.34, 50.0, 0.28, 0.0)


def _lost(share):
    return lost_tokens("Duplicates", "?", "copies", share, share / 2, token_cost(LAW, 1_000_000, 300_000), 0.01)


def test_fifty_points_lie_exactly_at_the_bar():
    assert score(1.0) == 50.0
    assert score(0.0) == score(-3.0) == 0.0
    assert score(math.inf) == 100.0


@given(st.floats(0, 1e6), st.floats(0, 1e6))
def test_points_grow_with_harm(one, other):
    low, high = sorted((one, other))
    assert 0 <= score(low) <= score(high) <= 100


def test_spread_is_within_groups_and_not_between_them():
    groups = [np.array([1.0, 3.0]), np.array([11.0, 13.0, 12.0])]
    assert pooled_spread(groups) == pytest.approx(math.sqrt((2 + 2) / 3))
    assert pooled_spread([group + 100 * i for i, group in enumerate(groups)]) == pytest.approx(pooled_spread(groups))
    with pytest.raises(ValueError, match="a group of at least two"):
        pooled_spread([np.array([1.0]), np.array([2.0])])


def pairs_with(excess, noise=0.01):
    """Two tiers of pairs whose controls spread by `noise`, the second with the given excess."""
    seeds = np.array([0.0, 1.0, -1.0, 0.5, -0.5])
    small = Pairs(6.0 + noise * np.roll(seeds, 1), 6.0 + noise * seeds)
    control = 5.5 + noise * np.array([-1.0, 0.0, 1.0])
    return [small, Pairs(control + np.array(excess), control)]


@pytest.mark.parametrize(
    ("excess", "passed"),
    [
        ([0.0, 0.0, 0.0], True),
        ([0.2, 0.2, 0.2], False),
        ([0.0, 0.2, 0.2], False),  # two of three
        ([0.0, 0.0, 5.0], True),  # one of three
        ([-1.0, -1.0, -1.0], True),  # better than the control is no harm
    ],
)
def test_harm_is_an_excess_in_two_of_three_pairs(excess, passed):
    found = harm("C1 harm", "?", pairs_with(excess))
    assert found.passed is passed
    assert (found.score <= 50) is passed
    assert found.threshold == LEAST_HARM
    assert found.value == pytest.approx(np.median(excess))
    assert found.interval[0] <= found.value <= found.interval[1]


@given(st.lists(st.floats(-0.3, 0.3), min_size=3, max_size=3))
def test_above_the_bar_means_above_it_in_at_least_two_of_three(excess):
    found = harm("C1 harm", "?", pairs_with(excess))
    judged = pairs_with(excess)[1].excess
    assert found.passed is (int((judged > found.threshold).sum()) < 2)


def test_the_bar_rises_with_the_spread_of_seeds():
    loud = harm("C1 harm", "?", pairs_with([0.2, 0.2, 0.2], noise=0.2))
    assert loud.threshold == pytest.approx(SIGMAS * pooled_spread([p.control for p in pairs_with([0] * 3, noise=0.2)]))
    assert loud.passed
    assert bar(0.0) == LEAST_HARM


def test_four_of_five_runs_see_the_minimum_detectable_harm():
    rng = np.random.default_rng(0)
    pairs = pairs_with([0.01, -0.02, 0.015], noise=0.05)
    detectable, note = detectable_against_reference(pairs)
    limit = bar(pooled_spread([p.control for p in pairs]))
    excess = detectable + pooled_spread([p.excess for p in pairs]) * rng.normal(size=(20_000, 3))
    power = float(((excess > limit).sum(axis=1) >= 2).mean())
    assert abs(power - 0.8) < 0.03
    assert detectable > limit
    assert f"{detectable:.3f} bits per token" in note


def test_the_same_without_a_reference():
    rng = np.random.default_rng(0)
    spread, pairs = 0.04, 5
    detectable, note = detectable_alone(spread, pairs)
    before, after = (spread * rng.normal(size=(20_000, pairs)) for _ in range(2))
    power = float(((detectable + before - after).mean(axis=1) > bar(spread)).mean())
    assert abs(power - 0.8) < 0.03
    assert "Without a reference" in note


def test_duplication_costs_more_the_more_is_repeated():
    costs = [_lost(1 - share) for share in (1.0, 0.9, 0.6, 0.3, 0.1)]
    assert costs[0].value == 0
    assert costs[0].score == 0
    assert costs[0].passed
    assert (np.diff([c.value for c in costs]) > 0).all()
    assert (np.diff([c.score for c in costs]) > 0).all()
    assert not costs[-1].passed
    assert "10.0%" in costs[1].note


def falling(last_gain, runs=3, spread=0.0):
    base = np.array([7.0, 6.6, 6.2, 6.2 - last_gain])
    return base + spread * np.arange(runs)[:, None]


def test_scaling_alone_asks_for_more_than_noise():
    assert scaling_gain(falling(0.2), None, 0.02).passed
    assert not scaling_gain(falling(0.03), None, 0.02).passed
    at_bar = scaling_gain(falling(0.06), None, 0.02)
    assert at_bar.score == pytest.approx(50)
    assert scaling_gain(falling(-0.1), None, 0.02).score == 100


def test_scaling_against_a_control_is_the_excess_one_doubling_on():
    control = falling(0.3)  # level with all others at half of the data: what it gained less, it will lack twice
    points = [scaling_gain(falling(gain), control, 0.02) for gain in (0.3, 0.285, 0.275, 0.25, 0.15)]
    np.testing.assert_allclose([p.value for p in points], [0.0, 0.03, 0.05, 0.1, 0.3], atol=1e-9)
    assert [p.passed for p in points] == [True, True, True, False, False]
    assert points[2].score == pytest.approx(50)
    assert (np.diff([p.score for p in points]) > 0).all()
    assert points[0].control == pytest.approx(0.3)


def test_data_that_was_ahead_and_is_level_has_not_fallen_behind():
    control, ahead = falling(0.3), falling(0.3)
    ahead[:, -2] -= 0.1  # it knew earlier what the control knew at the end
    ahead[:, -1] -= 0.09
    assert scaling_gain(ahead, control, 0.02).passed
    behind = falling(0.3)
    behind[:, -1] += 0.04  # under the bar of C1, and falling back
    assert not scaling_gain(behind, control, 0.02).passed


def test_a_run_too_short_to_tell_saturation_says_so():
    found = scaling_gain(falling(0.2), falling(0.55), 0.02)
    assert found.score is None
    assert "still falls by 0.55 per doubling" in found.note


def test_removal_that_helps_counts_against_the_data():
    assert removal(None, 0.01).score is None
    assert removal(np.array([0.0, 0.01, -0.01]), 0.01).passed
    helped = removal(np.array([0.3, 0.31, 0.29]), 0.01)
    assert not helped.passed
    assert helped.score == pytest.approx(score(0.3 / LEAST_HARM))
    assert helped.interval[0] > 0.28


def test_the_worst_measured_dimension_decides():
    nothing = [
        unknown("C3 recursion", "?", "bits", "not measured"),
        harm("C1 harm", "?", pairs_with([0.0, 0.0, 0.0])),
        _lost(0.05),
    ]
    verdict = judge(nothing, 50.0, 0.1, "note", "trusted.txt")
    assert verdict.passed
    assert verdict.risk == nothing[2].score
    assert verdict.type is None
    assert "Closest to its bar: Duplicates" in verdict.summary
    assert "against trusted.txt" in verdict.summary

    worse = [*nothing, harm("C2 tail", "?", pairs_with([0.4, 0.4, 0.4])), harm("C1 harm", "?", pairs_with([0.1] * 3))]
    verdict = judge(worse, 50.0, 0.1, "note", None)
    assert not verdict.passed
    assert not verdict.calibrated
    assert verdict.risk == worse[3].score
    assert verdict.type == KINDS["C2 tail"]
    assert "Also above the bar: C1 harm" in verdict.summary
    assert judge(worse, 95.0, 0.1, "note", None).passed


def test_an_unknown_dimension_never_decides():
    known = [_lost(0.05)]
    holes = [unknown(name, "?", "bits", "why") for name in ("C1 harm", "C2 tail", "C3 recursion", "C4 coverage")]
    assert judge([*holes, *known], 50.0, 0.1, "", None) == judge(known, 50.0, 0.1, "", None)


def test_losses_are_grouped_by_rate():
    loss = np.array([[7.0, 7.0, 7.0, last] for last in (5.0, 5.2, 4.0, 4.4)])
    ones = np.ones(4)
    result = TierResult(loss, loss, ones, loss, ones, np.zeros(4, np.int64), {}, 0.0)
    rates = [1.0, 1.0, 0.5, 0.5]
    np.testing.assert_array_equal(better_rate(result, rates), [False, False, True, True])
    assert [group.tolist() for group in equal_groups(result, rates)] == [[4.0, 4.4], [5.0, 5.2]]
    np.testing.assert_array_equal(better_rate(replace(result, loss=-loss), rates), [True, True, False, False])
