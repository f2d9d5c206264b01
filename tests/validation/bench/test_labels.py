"""From losses to labels: the bars, two of three seeds, the grey band, and how sure a label is."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import ndtri

from validation.bench.labels import Controls, Criterion, control_losses, judge, loss_criteria, recursion_criteria
from validation.bench.outcomes import Outcome
from validation.bench.recursion import Recursion

EVEN = np.array([[2.0, 3.0, 4.0]] * 3)  # controls whose seeds differ and whose samples do not


def controls(sigma, names=("all", "tail"), level=3.0):
    """Losses of 3 samples by 3 seeds with a sample standard deviation of sigma and a mean of every seed of `level`."""
    return Controls(
        {name: level + sigma * np.sqrt(8 / 6) * np.array([[1.0, 1, 1], [0, 0, 0], [-1, -1, -1]]) for name in names}
    )


def losses(harm, names=("all", "tail"), level=3.0):
    """Of three seeds each, by group, where `harm` has them; no harm elsewhere."""
    return {name: level + np.array(harm.get(name, (0.0, 0.0, 0.0))) for name in names}


def verdict(harm, sigma, names=("all", "tail")):
    return judge(loss_criteria(losses(harm, names), controls(sigma, names)))


def test_harm_is_less_the_control_of_the_same_seed():
    spread = Controls({"all": EVEN, "tail": EVEN + 1})
    c1, c2 = loss_criteria({"all": np.array([2.1, 3.2, 4.3]), "tail": np.array([3.0, 4.0, 4.0])}, spread)
    np.testing.assert_allclose(c1.values, [0.1, 0.2, 0.3], atol=1e-12)
    np.testing.assert_allclose(c2.values, [0.0, 0.0, -1.0], atol=1e-12)
    assert (c1.name, c1.group, c2.name, c2.group) == ("C1", "all", "C2", "tail")
    assert c1.mean == pytest.approx(0.2)


@pytest.mark.parametrize(("sigma", "bar"), [(0.001, 0.05), (0.01, 0.05), (0.02, 0.06), (0.1, 0.3)])
def test_the_bar_is_three_sigma_or_a_twentieth_of_a_bit(sigma, bar):
    for criterion in loss_criteria(losses({}), controls(sigma)):
        assert criterion.sigma == pytest.approx(sigma)
        assert criterion.bar == pytest.approx(bar)


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_many_groups_together_alarm_no_more_often_than_one(groups):
    names = ("all", "tail", *(f"column {number}" for number in range(groups)))
    found = loss_criteria(losses({}, names), controls(0.1, names))
    one_sided = 0.001349898  # above three sigma of a normal distribution
    expected = -0.1 * ndtri(one_sided / groups)
    assert [criterion.bar for criterion in found[:2]] == pytest.approx([0.3, 0.3])
    assert [criterion.bar for criterion in found[2:]] == pytest.approx([expected] * groups, rel=1e-6)
    assert (expected > 0.3001) == (groups > 1)


@pytest.mark.parametrize(
    ("harm", "collapsing"),
    [((0.07, 0.07, 0.0), True), ((0.07, 0.0, 0.07), True), ((9.0, 0.049, 0.0), False), ((0.051,) * 3, True)],
)
def test_a_criterion_fires_in_two_of_three_seeds(harm, collapsing):
    found = verdict({"all": harm}, 0.01)
    assert (found.verdict == "collapsing") == collapsing
    assert found.fired == (["C1"] if collapsing else [])


@pytest.mark.parametrize(
    ("harm", "sigma", "expected"),
    [
        (-0.2, 0.02, "clean"),
        (0.0, 0.02, "clean"),
        (0.0199, 0.02, "clean"),
        (0.0201, 0.02, "grey"),
        (0.0599, 0.02, "grey"),
        (0.0601, 0.02, "collapsing"),
        (0.0499, 0.001, "grey"),  # far beyond three sigma, and still less than anybody minds
        (0.0501, 0.001, "collapsing"),
        (0.0009, 0.001, "clean"),
    ],
)
def test_the_grey_band_lies_between_sigma_and_the_bar(harm, sigma, expected):
    assert verdict({"all": (harm,) * 3}, sigma).verdict == expected


def test_the_tail_or_a_group_alone_makes_a_case_collapse():
    names = ("all", "tail", "column income", "region = sea")
    assert verdict({"tail": (0.2,) * 3}, 0.01, names).fired == ["C2 tail"]
    found = verdict({"region = sea": (0.2,) * 3, "column income": (0.2,) * 3}, 0.01, names)
    assert found.verdict == "collapsing"
    assert found.fired == ["C2 column income", "C2 region = sea"]
    assert [criterion.group for criterion in found.criteria] == list(names)
    assert verdict({"region = sea": (0.04,) * 3}, 0.01, names).verdict == "clean"


@given(
    values=st.tuples(*[st.floats(-1, 1)] * 6),
    more=st.tuples(*[st.floats(0, 1)] * 6),
    sigma=st.floats(0.001, 0.2),
)
def test_more_harm_is_never_judged_milder(values, more, sigma):
    order = ["clean", "grey", "collapsing"]
    before = verdict({"all": values[:3], "tail": values[3:]}, sigma)
    worse = [value + add for value, add in zip(values, more, strict=True)]
    after = verdict({"all": tuple(worse[:3]), "tail": tuple(worse[3:])}, sigma)
    assert order.index(after.verdict) >= order.index(before.verdict)
    assert set(before.fired) <= set(after.fired)


@given(
    harm=st.tuples(st.floats(-1, 1), st.floats(-1, 1)),
    apart=st.floats(0, 0.02),
    sigma=st.floats(0.001, 0.2),
)
def test_doubt_is_at_most_a_half_where_the_seeds_agree(harm, apart, sigma):
    """Seeds agree where their middle one lies at their mean."""
    found = verdict({name: (h - apart, h, h + apart) for name, h in zip(("all", "tail"), harm, strict=True)}, sigma)
    assert 0 <= found.doubt <= 0.5


@pytest.mark.parametrize("group", ["all", "tail"])
def test_doubt_is_largest_at_the_bar(group):
    """The bar is .06 here; a clean or grey case and a collapsing one are the surer the farther they are from it."""
    doubts = [verdict({group: (harm,) * 3}, 0.02).doubt for harm in (0.0, 0.03, 0.055, 0.065, 0.09, 0.15)]
    assert doubts[0] < doubts[1] < doubts[2] < 0.5
    assert 0.5 > doubts[3] > doubts[4] > doubts[5]
    assert doubts[5] < 1e-6


def test_doubt_comes_from_the_spread_of_the_seeds_and_of_the_controls():
    """At .04 below a bar of .05: 4 / sqrt(3) and 8 / sqrt(3) standard errors."""
    from_controls = verdict({"all": (0.01,) * 3, "tail": (-9.0,) * 3}, 0.01)
    assert from_controls.doubt == pytest.approx(2.133e-12, rel=0.01)
    wide = verdict({"all": (-0.01, 0.01, 0.03), "tail": (-9.0,) * 3}, 0.01)  # a standard deviation of .02
    assert wide.doubt == pytest.approx(0.000266, rel=0.01)


def test_c3_is_a_faster_rise_or_a_greater_loss_of_entropy_than_the_controls():
    rises, kept = (
        [[value + 0.001 * at for value in row] for at in (-1, 0, 1)] for row in ([0.3, 0.4, 0.5], [0.9, 0.8, 0.7])
    )
    known = Controls({}, np.array(rises), np.array(kept))
    sigma = np.std(rises, ddof=1)
    found = recursion_criteria(Recursion(np.array([0.3, 0.9, 1.5]), np.array([0.8, 0.8, 0.2])), known)
    loss, entropy = found
    assert (loss.name, loss.group, entropy.name, entropy.group) == ("C3", "loss", "C3", "entropy")
    np.testing.assert_allclose(loss.values, [0.0, 0.5, 1.0], atol=1e-12)
    np.testing.assert_allclose(entropy.values, [0.1, 0.0, 0.5], atol=1e-12)
    assert loss.bar == pytest.approx(3 * sigma)
    assert loss.fires
    assert entropy.fired == 1 + (entropy.bar < 0.1)
    calm = recursion_criteria(Recursion(np.array([0.3, 0.4, 0.5]), np.array([0.99, 0.99, 0.99])), known)
    assert not any(criterion.fires for criterion in calm)  # to keep more entropy than real rows do is no harm


def test_c3_alone_makes_a_case_collapse():
    calm = Criterion("C1", "all", (0.0, 0.0, 0.0), 0.01, 0.05)
    c3 = Criterion("C3", "loss", (0.2, 0.0, 0.3), 0.02, 0.06)
    assert judge((calm, c3)).verdict == "collapsing"
    assert judge((calm, c3)).fired == ["C3 loss"]


def test_controls_are_stacked_sample_by_sample():
    outcomes = [
        Outcome({"all": np.array([1.0, 2.0]) + at, "tail": np.array([5.0, 6.0]) * at}, None) for at in (0, 1, 2)
    ]
    stacked = control_losses(outcomes)
    np.testing.assert_array_equal(stacked["all"], [[1, 2], [2, 3], [3, 4]])
    np.testing.assert_array_equal(stacked["tail"], [[0, 0], [5, 6], [10, 12]])
