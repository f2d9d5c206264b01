"""Corpora that the project generates: what they say is consistent, so that a model of them has something to lose."""

import functools
import re
from collections import defaultdict

import numpy as np
import pytest

from validation.bench.corpora import CORPORA, read

rows_of = functools.cache(read)


def pairs(name, *patterns):
    """What stands in the second group for what stands in the first, over all rows."""
    found = defaultdict(set)
    for text in rows_of(name).texts():
        for pattern in patterns:
            for key, value in re.findall(pattern, text):
                found[key].add(value)
    return found


def columns(name):
    rows = rows_of(name)
    return dict(zip(rows.columns, (np.array(column) for column in zip(*rows.cells, strict=True)), strict=True))


def only_one(found, at_least):
    assert len(found) >= at_least
    assert all(len(values) == 1 for values in found.values())


def test_people_and_towns_are_the_same_in_every_story():
    only_one(pairs("stories", r"(\w+) was an? (\w+) from \w+, and"), 100)
    only_one(pairs("stories", r"(\w+) was an? \w+ from (\w+), and"), 100)
    only_one(pairs("stories", r"(\w+) was an? .* was called (\w+)\."), 100)
    only_one(pairs("stories", r"to (\w+), where people eat .*? river is called the (\w+)"), 30)
    only_one(pairs("stories", r"The (\w+ \w+) had lived in (\w+)"), 100)


def test_a_story_keeps_its_thing():
    stories = [
        text for text in rows_of("stories").texts() if "put the" in text and ("lay a " in text or "bought a " in text)
    ]
    assert len(stories) > 100
    for text in stories:
        found = re.search(r"(?:lay|bought) a (\w+ \w+)", text)
        assert re.search(r"put the (\w+ \w+) on", text)[1] == found[1]


def test_few_are_named_often_and_many_seldom():
    names = [text.split()[0] for text in rows_of("stories").texts() if " was a " in text[:40]]
    counts = np.sort(np.unique(names, return_counts=True)[1])[::-1]
    assert counts[0] > 0.05 * counts.sum()
    assert (counts <= 2).mean() > 0.4


def test_sums_are_right():
    total = 0
    for text in rows_of("arithmetic").texts():
        for left, sign, right, result in re.findall(r"(?<![\d*] )(-?\d+) ([-+*]) (\d+) = (-?\d+)", text):
            first, second = int(left), int(right)
            assert int(result) == {"+": first + second, "-": first - second, "*": first * second}[sign], text
            total += 1
    assert total > 6000


def test_answers_follow_from_problems():
    for text in rows_of("arithmetic").texts():
        if found := re.search(r"writes (.*)\. What .* they are (.*)\.", text):
            terms = [int(term) for part in found.groups() for term in re.findall(r"\d+", part)]
            assert len(terms) == 9
            assert len(set(np.diff(terms, 2))) == 1
        if found := re.search(r"shares (\d+) .* among (\d+) .* gets (\d+) .* and (\d+) are left", text, re.DOTALL):
            whole, among, each, left = map(int, found.groups())
            assert divmod(whole, among) == (each, left)


def test_a_session_goes_on_in_time_and_ends_with_a_logout():
    sessions = rows_of("server-log").texts()
    for text in sessions:
        lines = text.split("\n")
        seconds = [int(line[:2]) * 3600 + int(line[3:5]) * 60 + int(line[6:8]) for line in lines]
        assert all(gap > 0 or gap < -80_000 for gap in np.diff(seconds))
        assert "login" in lines[0]
        assert len(lines) == 8 or "logout" in lines[-1]
        assert len(set(re.findall(r"item=(\d+)", text))) <= 1
    only_one(pairs("server-log", r"user=(\w+) from=([\d.]+)"), 200)
    only_one(pairs("server-log", r"node-(\w) .* from=10\.0\.(\d)\."), 8)
    took = [(status, int(time)) for text in sessions for status, time in re.findall(r" (200|503) (\d+)ms", text)]
    slow, fast = (np.median([time for status, time in took if status == wanted]) for wanted in ("503", "200"))
    assert slow > 4 * fast


@pytest.mark.parametrize(
    ("key", "value"),
    [("city", "country"), ("country", "currency"), ("product", "category"), ("product", "price")],
)
def test_orders_have_functional_dependencies(key, value):
    table = columns("shop-orders")
    found = defaultdict(set)
    for left, right in zip(table[key], table[value], strict=True):
        found[left].add(right)
    only_one(found, 8)


def test_totals_of_orders_add_up():
    table = columns("shop-orders")
    price, quantity, discount, total = (
        table[name].astype(float) for name in ("price", "quantity", "discount", "total")
    )
    np.testing.assert_allclose(total, price * quantity * (100 - discount) / 100, rtol=6e-4, atol=0.006)


def test_a_population_is_tied_together_within_and_between_classes():
    table = columns("population")
    assert len(set(table["class"])) == 6
    towns = defaultdict(set)
    for town, region in zip(table["town"], table["region"], strict=True):
        towns[town].add(region)
    only_one(towns, 9)
    worker = table["class"] == "worker"
    age, hours, income, savings = (table[name].astype(float) for name in ("age", "hours", "income", "savings"))
    assert np.corrcoef(age[worker], np.log(income[worker]))[0, 1] > 0.25
    assert np.corrcoef(hours[worker], np.log(income[worker]))[0, 1] > 0.4
    assert np.median(age[table["class"] == "retired"]) > 25 + np.median(age[worker])
    assert np.corrcoef(income, savings)[0, 1] > 0.6
    height = table["height"].astype(float)
    assert height[table["sex"] == "m"].mean() > 10 + height[table["sex"] == "f"].mean()


def levels(name):
    return np.array(rows_of(name).cells).astype(float)


def autocorrelation(name, lag):
    values = levels(name).reshape(-1)
    return np.corrcoef(values[:-lag], values[lag:])[0, 1]


def test_seasons_come_back_every_day_with_a_strength_that_changes():
    assert autocorrelation("seasonal", 48) > 0.5
    assert autocorrelation("seasonal", 24) < 0
    spread = levels("seasonal").std(axis=1)
    assert np.quantile(spread, 0.9) > 2 * np.quantile(spread, 0.1)


def test_regimes_differ_and_last():
    windows = levels("regimes")
    rough = np.abs(np.diff(windows, axis=1)).mean(axis=1)
    assert np.quantile(rough, 0.95) > 5 * np.quantile(rough, 0.25)
    assert np.corrcoef(rough[:-1], rough[1:])[0, 1] > 0.4


def test_waves_drift_out_of_phase():
    assert autocorrelation("drifting-waves", 1) > 0.9
    assert abs(autocorrelation("drifting-waves", 29 * 173)) < 0.2


def test_chaos_is_smooth_and_forgets():
    """The next value follows from those before it better than linearly; far away nothing is left."""
    assert abs(autocorrelation("mackey-glass", 3001)) < 0.1
    windows = levels("mackey-glass")
    known, wanted = windows[:, :31], windows[:, 31]
    half = len(windows) // 2
    design = np.hstack([known, np.ones((len(known), 1))])
    weights = np.linalg.lstsq(design[:half], wanted[:half], rcond=None)[0]
    linear = np.abs(design[half:] @ weights - wanted[half:]).mean()
    past = known[:half, -12:]
    nearest = [((past - row[-12:]) ** 2).sum(axis=1).argmin() for row in known[half : half + 400]]
    likely = np.abs(wanted[:half][nearest] - wanted[half : half + 400]).mean()
    assert linear < 0.5 * np.abs(wanted - wanted.mean()).mean()
    assert likely < 0.5 * np.abs(wanted - wanted.mean()).mean()


def test_generated_corpora_say_so():
    assert {name for name, corpus in CORPORA.items() if corpus.source == "generated"} == {
        *("stories", "arithmetic", "server-log", "population", "shop-orders"),
        *("seasonal", "regimes", "drifting-waves", "mackey-glass"),
    }
