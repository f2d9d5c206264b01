"""What is read off a table: every number against one worked out by hand or by another route."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from validation.bench import summary
from validation.bench.labels import Criterion, judge
from validation.bench.table import Table
from validation.bench.trends import monotone

SPREAD = (-0.004, 0.0, 0.004)  # of the seeds


class Bench:
    """A table in memory and on disk that tests fill case by case."""

    def __init__(self, folder):
        self.table = Table(folder)

    def case(self, corpus, corruption, strength, harm=None, tail=None, *, seed=0, kind="text", harmless=False, **more):
        """Adds a case; one with harm gets the label that its criteria deserve."""
        half, seconds, groups = more.pop("half", False), more.pop("seconds", 4.0), more.pop("groups", {})
        name = f"{corpus}/{corruption}/{strength:g}/{seed}"
        recipe = {"corpus": corpus, "corruption": corruption, "strength": strength, "seed": seed}
        self.table.cases.add({"id": name, **recipe, "kind": kind, "harmless": harmless, "hash": "h", "half": half})
        if harm is not None:
            measured = {("C1", "all"): harm, ("C2", "tail"): harm if tail is None else tail, **groups}
            criteria = [_criterion(*key, mean, **more) for key, mean in measured.items()]
            self.label(name, judge(tuple(criteria)), seconds)
        return name

    def label(self, name, judgement, seconds=4.0, hashed="h"):
        criteria = [{**vars(c), "values": list(c.values)} for c in judgement.criteria]
        line = {"verdict": judgement.verdict, "doubt": judgement.doubt, "fired": judgement.fired, "seconds": seconds}
        self.table.labels.add({"id": name, "hash": hashed, "criteria": criteria, **line})

    def control(self, corpus, tokens, losses, seconds=10.0):
        line = {"tokens": tokens, "losses": {"all": losses}, "seconds": seconds}
        self.table.controls.add({"id": f"{corpus}/{tokens}", **line})


def _criterion(name, group, mean, sigma=0.01, bar=0.05):
    return Criterion(name, group, tuple(mean + own for own in SPREAD), sigma, bar)


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


def levels(harms):
    return [(harm.corruption, harm.strength) for harm in harms]


def test_a_corpus_is_one_observation_however_many_cases_it_has(bench):
    for seed, harm in enumerate((0.1, 0.2, 0.3)):
        bench.case("a", "duplicates", 5, harm, seed=seed)
    bench.case("b", "duplicates", 5, 0.6)
    bench.case("c", "duplicates", 5, -0.02)
    (found,) = summary.harm_by_strength(bench.table)
    assert found.by_corpus == pytest.approx({"a": 0.2, "b": 0.6, "c": -0.02})
    assert found.mean == pytest.approx(0.26)
    expected = stats.ttest_1samp([0.2, 0.6, -0.02], 0).confidence_interval(0.95)
    assert found.interval == pytest.approx((expected.low, expected.high))
    assert (found.cases, found.verdicts) == (5, Counter(collapsing=4, clean=1))
    assert found.share("collapsing") == pytest.approx(0.8)


def test_two_corpora_give_no_interval(bench):
    for corpus in "ab":
        bench.case(corpus, "duplicates", 5, 0.5)
    (found,) = summary.harm_by_strength(bench.table)
    assert found.interval is None


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ({"clean": 3, "grey": 2}, "clean"),
        ({"clean": 2, "collapsing": 2}, "collapsing"),
        ({"clean": 1, "grey": 1}, "grey"),
    ],
)
def test_of_equally_common_labels_the_worst_counts(verdicts, expected):
    assert summary.commonest(Counter(verdicts)) == expected


def test_strengths_stand_together_and_the_worst_corruption_first(bench):
    for corruption, strength, harm in (("x", 2.0, 0.1), ("y", 1.0, 0.3), ("x", 1.0, 0.9), ("z", 1.0, 0.4)):
        bench.case("a", corruption, strength, harm)
    assert levels(summary.harm_by_strength(bench.table)) == [("x", 1.0), ("x", 2.0), ("z", 1.0), ("y", 1.0)]


def test_harm_of_one_kind_leaves_the_others_out(bench):
    bench.case("a", "duplicates", 5, 0.2)
    bench.case("b", "duplicates", 5, 0.8, kind="series")
    assert summary.harm_by_strength(bench.table, "series")[0].mean == pytest.approx(0.8)
    assert summary.harm_by_strength(bench.table)[0].mean == pytest.approx(0.5)
    assert summary.harm_by_strength(bench.table, "table") == []
    assert summary.harm_by_corpus(bench.table, "text").corpora == ["a"]


def test_the_matrix_holds_every_harm_once_and_nothing_else(bench):
    bench.case("b", "duplicates", 5, 0.8)
    bench.case("a", "duplicates", 2, 0.1)
    bench.case("a", "duplicates", 5, 0.3)
    bench.case("a", "duplicates", 5, 0.0, seed=1)
    found = summary.harm_by_corpus(bench.table)
    assert (found.corpora, found.columns) == (["a", "b"], [("duplicates", 2.0), ("duplicates", 5.0)])
    np.testing.assert_allclose(found.harm, [[0.1, 0.15], [np.nan, 0.8]])
    assert found.verdicts == [["collapsing", "collapsing"], ["", "collapsing"]]


def test_labels_of_other_rows_do_not_count(bench):
    name = bench.case("a", "duplicates", 5)
    bench.label(name, judge((_criterion("C1", "all", 0.9),)), hashed="old")
    assert summary.labelled(bench.table) == []
    assert summary.counts(bench.table, "corpus") == {"a": Counter(pending=1)}
    assert summary.times(bench.table) is None


def trend(bench, name="duplicates", measure="C1"):
    (found,) = [t for t in monotone(bench.table) if (t.corruption, t.measure) == (name, measure)]
    return found


def fill(bench, harms, corruption="duplicates"):
    """Rows of harms by corpus, columns by strength 1, 2, ..."""
    for corpus, row in enumerate(harms):
        for strength, harm in enumerate(row, start=1):
            bench.case(f"c{corpus}", corruption, strength, harm)


def test_harm_that_grows_everywhere_rises(bench):
    fill(bench, [[0.01 * c, 0.1 + 0.01 * c, 0.5 + 0.02 * c] for c in range(5)])
    found = trend(bench)
    assert (found.outcome, found.falls, found.corpora, found.never_falls) == ("rises", [], 5, 1.0)
    assert found.spearman == pytest.approx(1.0)
    assert found.means == pytest.approx({1.0: 0.02, 2.0: 0.12, 3.0: 0.54})


def test_a_fall_in_all_corpora_is_named_with_its_strengths(bench):
    fill(bench, [[0.1 * c, 0.1 * c + 0.6, 0.1 * c + 0.4 + 0.01 * c] for c in range(6)])
    found = trend(bench)
    assert found.outcome == "falls"
    ((weaker, stronger, change, p),) = found.falls
    assert (weaker, stronger) == (2.0, 3.0)
    assert change == pytest.approx(-0.175)
    expected = stats.ttest_1samp([-0.2 + 0.01 * c for c in range(6)], 0, alternative="less").pvalue
    assert p == pytest.approx(expected, rel=1e-6)
    assert found.never_falls == 0.0


def test_a_fall_of_some_corpora_only_is_not_a_fall(bench):
    fill(bench, [[0.1, 0.3], [0.1, 0.5], [0.1, 0.2], [0.4, 0.1]])
    found = trend(bench)
    assert (found.outcome, found.falls) == ("no fall", [])
    assert found.never_falls == pytest.approx(0.75)
    assert found.spearman == pytest.approx(0.5)


def test_a_small_fall_of_one_corpus_is_within_its_errors(bench):
    fill(bench, [[0.100, 0.095], [0.1, 0.4], [0.1, 0.4]])
    assert trend(bench).never_falls == 1.0


def test_harm_that_stays_neither_falls_nor_rises_and_correlates_with_nothing(bench):
    fill(bench, [[0.1, 0.1, 0.1]] * 4)
    found = trend(bench)
    assert (found.outcome, found.spearman, found.never_falls) == ("no fall", 0.0, 1.0)


def test_only_corpora_with_all_strengths_are_compared(bench):
    fill(bench, [[0.1, 0.2], [0.2, 0.4]])
    bench.case("other", "duplicates", 2, 9.0)
    assert trend(bench).corpora == 2
    assert trend(bench).means == pytest.approx({1.0: 0.15, 2.0: 0.3})


def test_one_corpus_or_none_in_common_is_too_few(bench):
    fill(bench, [[0.5, 0.1]])
    bench.case("a", "templates", 0.1, 0.1)
    bench.case("b", "templates", 0.5, 0.3)
    bench.case("a", "resample", 1.0, 0.0, harmless=True)
    assert [(t.corruption, t.corpora, t.outcome, t.falls) for t in monotone(bench.table)] == [
        ("duplicates", 1, "too few corpora", []),
        ("templates", 0, "too few corpora", []),
    ]


def test_a_tail_cut_and_label_noise_are_also_followed_where_they_strike(bench):
    for corpus in "abc":
        for strength, tail in ((0.5, 0.4), (0.8, 2.0)):
            bench.case(corpus, "tail cut", strength, 0.1, tail + ord(corpus) / 1e3)
            groups = {("C2", "column price"): 0.0, ("C2", "column cut"): tail}
            bench.case(corpus, "label noise", strength, 0.0, 0.01, groups=groups)
    assert trend(bench, "tail cut").outcome == "no fall"
    assert trend(bench, "tail cut", "C2 tail").outcome == "rises"
    assert trend(bench, "label noise").outcome == "no fall"
    assert trend(bench, "label noise", "C2 worst group").means == pytest.approx({0.5: 0.4, 0.8: 2.0})


HARMS = st.lists(
    st.lists(st.floats(-0.1, 5).map(lambda x: round(x, 3)), min_size=3, max_size=3), min_size=2, max_size=6
)


@given(harms=HARMS)
def test_sorted_harms_never_fall(harms, tmp_path_factory):
    bench = Bench(tmp_path_factory.mktemp("table"))
    fill(bench, [sorted(row) for row in harms])
    found = trend(bench)
    assert found.falls == []
    assert found.never_falls == 1.0
    assert found.spearman >= 0


def test_surprises_are_counted_and_the_strongest_stand_first(bench):
    for seed in range(3):
        bench.case("a", "resample", 1.0, 0.0, seed=seed, harmless=True)
    bad = bench.case("b", "resample", 1.0, 0.0, tail=0.5, harmless=True)
    worse = bench.case("b", "paraphrase", 1.0, 0.9, harmless=True)
    for corpus in "abc":
        bench.case(corpus, "duplicates", 2, 0.0)
        bench.case(corpus, "duplicates", 10, 0.002 if corpus == "a" else 0.9)
        bench.case(corpus, "templates", 0.05, 0.03)  # grey
    harmless, damaged = summary.surprises(bench.table)
    assert [(s.corruption, s.surprising, s.cases, s.examples) for s in harmless] == [
        ("paraphrase", 1, 1, [worse]),
        ("resample", 1, 4, [bad]),
    ]
    assert harmless[0].fired == Counter({"C1": 1, "C2 tail": 1})
    assert harmless[1].fired == Counter({"C2 tail": 1})
    assert [(s.corruption, s.strength, s.surprising, s.cases) for s in damaged] == [
        ("duplicates", 10.0, 1, 3),
        ("duplicates", 2.0, 3, 3),
    ]
    assert damaged[0].harm == pytest.approx(0.002)
    assert len(damaged[1].examples) == 2


def test_of_surprising_cases_the_clearest_is_the_example(bench):
    for number, tail in enumerate((0.2, 0.9, 0.4)):
        bench.case("a", "resample", 1.0, 0.0, tail=tail, seed=number, harmless=True)
    (found,), _ = summary.surprises(bench.table)
    assert found.examples == ["a/resample/1/1", "a/resample/1/2"]
    assert found.clearest == ("C2 tail", pytest.approx(18.0))


def test_a_corruption_of_no_strength_is_a_surprise_like_another(bench):
    bench.case("a", "copula", 0.0, 0.0, kind="table")
    (only,) = summary.surprises(bench.table).damaged
    assert (only.corruption, only.strength) == ("copula", 0.0)


def test_the_tail_stands_beside_the_mean(bench):
    name = bench.case("a", "tail cut", 0.95, 0.2, tail=2.4)
    (found,) = summary.tail_against_mean(bench.table)
    assert found == (name, "tail cut", 0.95, "collapsing", pytest.approx(0.2), pytest.approx(2.4))


def test_what_fires_is_counted_by_criterion_not_by_group(bench):
    bench.case("a", "x", 1, 0.9, tail=0.0)
    bench.case("a", "x", 2, 0.0, tail=0.9)
    bench.case("a", "x", 3, 0.9, groups={("C2", "column a"): 0.9, ("C3", "loss"): 0.9, ("C3", "entropy"): 0.0})
    bench.case("a", "x", 4, 0.0, groups={("C3", "loss"): 0.9, ("C3", "entropy"): 0.8})
    bench.case("a", "x", 5, 0.0)
    assert summary.criteria_fired(bench.table) == Counter({"C1": 1, "C2": 1, "C1 + C2 + C3": 1, "C3": 1})
    assert summary.recursion(bench.table) == {
        "loss": Counter(measured=2, fired=2),
        "entropy": Counter(measured=2, fired=1),
    }


def test_labels_near_a_bar_are_doubtful(bench):
    bench.case("a", "x", 1, 0.9)
    bench.case("a", "x", 2, 0.0)
    bench.case("a", "x", 3, 0.048)
    bench.case("a", "x", 4, 0.052)
    assert summary.doubtful(bench.table) == Counter(grey=1, collapsing=1)


def test_cases_are_counted_by_kind_and_corpus(bench):
    bench.case("a", "x", 1, 0.9)
    bench.case("a", "x", 2)
    bench.case("b", "x", 1, 0.0, kind="table")
    assert summary.counts(bench.table, "kind") == {"text": Counter(collapsing=1, pending=1), "table": Counter(clean=1)}
    assert summary.counts(bench.table, "corpus")["b"] == Counter(clean=1)


def test_time_is_that_of_labels_and_controls(bench):
    for number in range(11):
        bench.case("a", "x", number, 0.0, seconds=float(number))
    bench.control("a", 1000, [[1.0]], seconds=18.0)
    found = summary.times(bench.table)
    assert found == pytest.approx((5.0, 9.0, 55 / 3600, 18 / 3600))


def test_spread_and_bar_are_those_that_full_cases_were_judged_by(bench):
    bench.case("a", "x", 1, 0.0, sigma=0.03, bar=0.09)
    bench.case("a", "y", 1, 0.0, sigma=0.05, bar=0.15, half=True)
    bench.case("b", "y", 1, 0.0, half=True)
    for corpus, tokens in (("a", 2000), ("a", 1000), ("b", 1000)):
        bench.control(corpus, tokens, [[5.0, 5.1, 5.2]] * (2 if tokens == 2000 else 1))
    assert summary.spreads(bench.table) == {"a": (2000, 6, 0.03, 0.09)}


def test_no_alarm_in_73_cases_leaves_five_percent():
    """The figure of the design, by Wilson's formula for no hit: z² / (n + z²)."""
    z = stats.norm.isf(0.025)
    assert summary.wilson(0, 73) == pytest.approx((0.0, z**2 / (73 + z**2)))
    assert summary.wilson(0, 73)[1] < 0.0501


def test_an_empty_table_has_nothing_to_say(bench):
    table = bench.table
    assert summary.harm_by_strength(table) == monotone(table) == summary.tail_against_mean(table) == []
    assert summary.harm_by_corpus(table).harm.size == 0
    assert summary.surprises(table) == ([], [])
    assert summary.times(table) is None
    assert summary.counts(table, "kind") == summary.spreads(table) == summary.recursion(table) == {}
    assert not summary.criteria_fired(table)
    assert not summary.doubtful(table)
