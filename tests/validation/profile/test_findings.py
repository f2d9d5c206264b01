"""Changes along the file, dependence, comparison and features: what was put in is found, where it was put."""

import math
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from validation.datasets import open_table
from validation.profile import compare, features, profile
from validation.profile.compare import LISTED
from validation.profile.dependence import correlation_ratio, cramers_v, pairs
from validation.profile.drift import changes, runs
from validation.profile.features import NAMES, TEXT_WORDS
from validation.profile.state import empty_profile

ROOT = Path(__file__).resolve().parents[3]


def profiled(columns, names=("f",), sample_rows=4_000):
    table = pa.table(columns) if isinstance(columns, dict) else columns
    source = {"path": "t", "format": "parquet", "kind": "tabular", "bytes": 0, "files": list(names)}
    one = empty_profile(source, table.schema, table.slice(0, 500).to_batches()[0], sample_rows=sample_rows)
    row = 0
    for batch in table.to_batches(max_chunksize=7_000):
        one.add(0, np.arange(row, row + batch.num_rows) + 1, batch)
        row += batch.num_rows
    return one


def noise(rows=40_000, seed=0):
    rng = np.random.default_rng(seed)
    words = np.array(["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta"])
    return {
        "x": rng.normal(size=rows),
        "y": rng.exponential(size=rows),
        "c": words[rng.choice(8, rows, p=[0.3, 0.2, 0.15, 0.1, 0.1, 0.05, 0.05, 0.05])],
        "s": np.array([" ".join(row) for row in words[rng.integers(0, 8, (rows, 6))]]),
    }


@pytest.mark.parametrize("seed", range(5))
def test_nothing_changes_in_noise_and_nothing_depends(seed):
    one = profiled(noise(seed=seed))
    assert changes(one) == []
    assert pairs(one) == []
    assert changes(profiled({"id": np.arange(40_000), "back": -np.arange(40_000)})) == []


INJECTED = {
    "mean": lambda d, here: d["x"].__setitem__(here, d["x"][here] + 1),
    "spread": lambda d, here: d["x"].__setitem__(here, d["x"][here] * 2),
    "values": lambda d, here: d["c"].__setitem__(here, "eta"),
    "words": lambda d, here: d["s"].__setitem__(here, "all of this is a template now"),
    "missing": lambda d, here: d["y"].__setitem__(here, np.nan),
}


@pytest.mark.parametrize("aspect", INJECTED)
def test_a_change_is_found_at_its_rows(aspect):
    data = noise()
    INJECTED[aspect](data, slice(22_000, 24_500))
    one = profiled(data)
    found = [change for change in changes(one) if change.aspect == aspect]
    assert len(found) == 1
    width = 1 << one.segments.shift
    assert abs(found[0].row - 22_001) <= width
    assert abs(found[0].last_row - 24_500) <= width
    column = {"mean": "x", "spread": "x", "values": "c", "words": "s", "missing": "y"}[aspect]
    assert found[0].column == column
    assert found[0].effect == pytest.approx({"mean": 1, "spread": 1}.get(aspect, found[0].effect), rel=0.15)


def test_a_slow_wave_is_no_sudden_change_but_a_shift_on_it_is():
    rng = np.random.default_rng(0)
    walk = np.cumsum(rng.normal(size=30_000))
    walk = (walk - walk.mean()) / walk.std() * 0.05 + rng.normal(size=30_000)
    assert [c for c in changes(profiled({"x": walk})) if c.effect > 0.3] == []
    walk[10_000:12_000] += 1.5
    found = changes(profiled({"x": walk}))[0]
    assert abs(found.row - 10_001) <= 128
    assert abs(found.last_row - 12_000) <= 128


def test_runs_are_the_best_partition():
    level = np.array([0, 0.1, -0.1, 5, 5.1, 4.9, 0, 0.1])[:, None]
    assert runs(level, np.full((8, 1), 10.0), 3.0).tolist() == [0, 3, 6]
    assert runs(level * 0.01, np.full((8, 1), 10.0), 3.0).tolist() == [0]


def test_dependence_of_every_kind_is_found_and_no_other():
    rng = np.random.default_rng(100)
    data = noise(8_000, 1)
    data["like x"] = data["x"] + rng.normal(size=8_000)
    data["square of y"] = (data["y"] - 1) ** 2 * np.where(rng.random(8_000) < 0.5, -1, 1)
    data["of c"] = np.where(rng.random(8_000) < 0.6, data["c"], "none")
    data["level by c"] = np.char.str_len(data["c"].astype(str)) + rng.normal(size=8_000)
    gone = rng.random(8_000) < 0.2
    data["m1"] = pa.array(rng.normal(size=8_000), mask=gone)
    data["m2"] = pa.array(rng.normal(size=8_000), mask=gone ^ (rng.random(8_000) < 0.05))
    found = pairs(profiled(data))
    names = {frozenset((pair.left, pair.right)): pair for pair in found}
    wanted = [
        ("x", "like x"),
        ("y", "square of y"),
        ("c", "of c"),
        ("c", "level by c"),
        ("of c", "level by c"),
        ("m1", "m2"),
    ]
    assert set(names) == {frozenset(pair) for pair in wanted}
    assert names[frozenset(("m1", "m2"))].measure == "missing together"
    assert names[frozenset(("x", "like x"))].measure == "rank correlation"
    assert names[frozenset(("y", "square of y"))].measure == "Cramér's V of deciles"
    assert names[frozenset(("x", "like x"))].spearman == pytest.approx(0.69, abs=0.03)
    assert abs(names[frozenset(("y", "square of y"))].spearman) < 0.1


def test_measures_of_association_are_those_of_scipy():
    rng = np.random.default_rng(0)
    a = rng.integers(0, 4, 3_000)
    b = np.where(rng.random(3_000) < 0.3, a, rng.integers(0, 5, 3_000))
    strength, p = cramers_v(a, b)
    table = np.histogram2d(a, b, [np.arange(5), np.arange(6)])[0]
    assert p == pytest.approx(stats.chi2_contingency(table, correction=False).pvalue)
    assert strength == pytest.approx(stats.contingency.association(table.astype(int)), abs=0.02)
    values = rng.normal(size=3_000) + 0.2 * a
    groups = [values[a == level] for level in range(4)]
    assert correlation_ratio(values, a)[1] == pytest.approx(stats.f_oneway(*groups).pvalue)
    assert correlation_ratio(rng.normal(size=3_000), a)[0] < 0.06


def test_a_sample_of_the_same_is_the_same():
    found = compare(profiled(noise(seed=0)), profiled(noise(seed=1)))
    assert not found.drifted
    assert found.overall.low < 0.52
    assert {column.status for column in found.columns} == {"same"}


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_times_of_different_units_are_compared_as_times(unit):
    rng = np.random.default_rng(0)
    days = pa.array(rng.integers(0, 300, 4_000) * 86_400_000 + 1_700_000_000_123, pa.timestamp("ms"))
    spans = pa.array(rng.integers(0, 9, 4_000) * 1_000, pa.duration("ms"))
    one = {"t": days, "d": spans, "x": rng.normal(size=4_000)}
    kept = "ms" if unit == "s" else unit
    other = one | {"t": days.cast(pa.timestamp(kept)), "d": spans.cast(pa.duration(unit))}
    found = compare(profiled(other), profiled(one))
    assert {column.name: column.effect for column in found.columns} == {"t": 0, "d": 0, "x": 0}
    assert not found.drifted


def test_days_are_compared_with_times_as_times():
    days = pa.array(np.arange(4_000) % 300, pa.int32()).cast(pa.date32())
    found = compare(profiled({"t": days}), profiled({"t": days.cast(pa.timestamp("us"))}))
    assert [column.effect for column in found.columns] == [0]


def test_a_reference_without_any_value_is_compared_too():
    nothing, values = {"x": pa.nulls(400, pa.float64())}, {"x": np.arange(400) * 0.37 % 1}
    same = compare(profiled(nothing), profiled(nothing))
    assert not same.drifted
    assert same.overall.auc == 0.5
    assert compare(profiled(values), profiled(nothing)).overall.separated
    assert compare(profiled(nothing), profiled(values)).overall.separated


@pytest.mark.parametrize(
    ("of_type", "values"),
    [
        (pa.binary(), [b"\xff", b"12", b""]),
        (pa.binary(2), [b"\xff\x00", b"12", b"ab"]),
        (pa.month_day_nano_interval(), [(1, 2, 3), (0, 0, 1), (0, 1, 0)]),
    ],
)
def test_values_that_are_no_numbers_are_compared_as_they_are(of_type, values):
    rng = np.random.default_rng(0)

    def table(shares):
        return {"b": pa.array([*(values[i] for i in rng.choice(3, 3_000, p=shares)), None], of_type)}

    reference = profiled(table([0.5, 0.3, 0.2]))
    same = compare(profiled(table([0.5, 0.3, 0.2])), reference).columns[0]
    assert (same.status, same.measure) == ("same", "total variation")
    changed = compare(profiled(table([0.2, 0.3, 0.5])), reference).columns[0]
    assert changed.status == "changed"
    assert changed.effect == pytest.approx(0.3, abs=0.05)
    other = profiled({"b": pa.array([bytes(7)] * 100, pa.binary(7))})
    assert compare(other, reference).columns[0].status == "not compared"


def test_what_changed_is_named():
    reference, data = noise(seed=0), noise(seed=1)
    data["x"] = data["x"] + 0.3
    data["c"] = np.where(data["c"] == "theta", "omega", data["c"])
    data["s"] = np.char.replace(data["s"], "beta", "something else")
    data["y"] = pa.array(data["y"], mask=np.random.default_rng(0).random(40_000) < 0.2)
    data["new"], reference["old"] = np.arange(40_000), np.arange(40_000)
    data["z"], reference["z"] = np.arange(40_000) % 7, np.array(["a", "b"] * 20_000)
    found = {column.name: column for column in compare(profiled(data), profiled(reference)).columns}
    status = {name: column.status for name, column in found.items()}
    expected = dict.fromkeys("xcsy", "changed") | {"new": "new", "old": "missing", "z": "type changed"}
    assert status == expected
    distance = stats.ks_2samp(
        profiled(data).sample["x"].to_numpy(), profiled(reference).sample["x"].to_numpy()
    ).statistic
    assert found["x"].effect == pytest.approx(distance)
    assert found["c"].new_values == ("omega",)
    assert found["c"].missing_values == ("theta",)
    assert "nulls 2" in found["y"].notes[0]


def test_all_new_and_vanished_categories_are_counted_though_few_are_listed():
    few, many = ["a", "b"] * 300, [f"c{i % 59}" for i in range(590)] + ["a"] * 10
    found = compare(profiled({"c": many}), profiled({"c": few})).columns[0]
    assert found.notes == ("59 new values", "1 value gone")
    assert len(found.new_values) == LISTED


def test_what_is_to_be_ignored_is_known_and_counts_for_nothing():
    number, other = np.arange(500.0), np.random.default_rng(0).normal(size=500)
    data, reference = profiled({"x": other, "new": number}), profiled({"x": other, "gone": number})
    assert compare(data, reference).drifted
    found = compare(data, reference, ignore=("gone", "new"))
    assert not found.drifted
    assert {one.name: one.status for one in found.columns} == {"x": "same", "new": "ignored", "gone": "ignored"}
    with pytest.raises(ValueError, match="neither t nor the reference has a column 'y'"):
        compare(data, reference, ignore=("y",))


def test_a_broken_joint_is_seen_where_no_column_changed():
    rng = np.random.default_rng(0)
    x = rng.normal(size=6_000)
    reference = profiled({"a": x, "b": x + 0.3 * rng.normal(size=6_000)})
    y = rng.normal(size=6_000)
    data = profiled({"a": y, "b": rng.permutation(y + 0.3 * rng.normal(size=6_000))})
    found = compare(data, reference)
    assert not found.changed
    assert found.overall.separated
    assert found.overall.auc > 0.75


def test_identifiers_and_dates_do_not_tell_tables_apart():
    times = pa.array(np.arange(4_000), pa.timestamp("s"))
    later = pa.array(np.arange(4_000) + 10**6, pa.timestamp("s"))
    rng = np.random.default_rng(0)
    sides = [
        profiled({"id": np.arange(4_000) + shift, "t": time, "v": rng.normal(size=4_000)})
        for shift, time in ((0, times), (10**6, later))
    ]
    found = compare(*sides)
    assert found.overall.left_out == ("id", "t")
    assert not found.overall.separated


@pytest.mark.slow
def test_a_table_and_its_synthetic_copy_are_told_apart_and_its_halves_are_not(tmp_path):
    folder = os.environ.get("ATLAS_DEV_DATA")
    if folder is None:
        pytest.skip("ATLAS_DEV_DATA is not set: the folder of development data sets")
    source = Path(folder) / "tab_adult_real_vs_ctabgan"
    head, *rows = (source / "real.csv").read_text().splitlines()
    halves = []
    for name, part in (("first", rows[::2]), ("second", rows[1::2])):
        (tmp_path / f"{name}.csv").write_text("\n".join([head, *part]) + "\n")
        halves.append(profile(open_table(tmp_path / f"{name}.csv")))
    real, copy = (profile(open_table(source / name)) for name in ("real.csv", "ctabgan_fake_0.csv"))
    apart, alike = compare(copy, real), compare(*halves)
    assert apart.overall.separated
    assert apart.overall.auc > 0.9
    assert len(apart.changed) > 5
    assert not alike.drifted


def test_features_have_their_names_everywhere_and_do_not_grow():
    numbers = {name: noise(40_000)[name] for name in "xyc"}
    small = features(profiled({name: values[:20_000] for name, values in numbers.items()}))
    large = features(profiled(numbers))
    text = features(profiled({"s": noise(40_000)["s"]}))
    assert tuple(small) == tuple(large) == tuple(text) == NAMES
    for name, value in small.items():
        assert large[name] == pytest.approx(value, rel=0.1, abs=0.05, nan_ok=True), name
    assert math.isnan(text["number_skewness"])
    assert math.isnan(small["text_unseen"])
    assert text["text_word_entropy"] == pytest.approx(3, abs=0.01)
    assert text["text_distinct_1"] == 8 / TEXT_WORDS
    assert text["text_repeated_8grams"] != text["text_repeated_8grams"]  # rows of six words have none
    assert text["text_bigram_conditional_entropy"] == pytest.approx(3, abs=0.01)


def test_every_feature_is_documented():
    page = (ROOT / "docs" / "profile.md").read_text(encoding="utf-8")
    assert [name for name in NAMES if f"`{name}`" not in page] == []
