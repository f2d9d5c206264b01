"""A profile of a table: any chunking and any halves give the same, what is saved is what is loaded, DuckDB agrees."""

import datetime
import decimal
import math

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from validation.datasets import DatasetError, open_table
from validation.profile import Profile, load, profile, save
from validation.profile.figures import (
    column_figures,
    date_figures,
    distribution,
    gini,
    outlier_share,
    rare_share,
    table_figures,
    top_values,
)
from validation.profile.state import empty_profile

SOURCE = {"path": "t", "format": "parquet", "kind": "tabular", "bytes": 0}


def mixed_table(rows, seed=0):
    rng = np.random.default_rng(seed)
    nulls = rng.random(rows) < 0.1
    words = np.array(["red", "green", "blue", "a rare one"])
    start = datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)
    return pa.table(
        {
            "x": pa.array(rng.lognormal(size=rows), mask=nulls),
            "k": pa.array(np.minimum(rng.geometric(0.4, rows), 9).astype(np.int32)),
            "c": pa.array(words[rng.choice(4, rows, p=[0.5, 0.3, 0.195, 0.005])], mask=rng.random(rows) < 0.05),
            "b": pa.array(rng.random(rows) < 0.25),
            "t": pa.array([start + datetime.timedelta(hours=i) for i in range(rows)], pa.timestamp("ms", "UTC")),
            "s": pa.array([f"Row {i} tells of {words[i % 3]} things, {i * 7 % 11} of them." for i in range(rows)]),
            "l": pa.array([list(range(i % 4)) for i in range(rows)]),
            "n": pa.array([{"u": i % 5, "v": None if i % 2 else "w"} for i in range(rows)]),
        }
    )


def profiled(tables, chunk=10_000, names=None, seed=0):
    names = names or [f"f{place}" for place in range(len(tables))]
    first = tables[0].slice(0, 500).combine_chunks().to_batches()[0]
    one = empty_profile(SOURCE | {"files": names}, tables[0].schema, first, seed=seed, sample_rows=300)
    for file, table in enumerate(tables):
        row = 0
        for batch in table.combine_chunks().to_batches(max_chunksize=chunk):
            one.add(file, np.arange(row, row + batch.num_rows) + 1, batch)
            row += batch.num_rows
    return one


def same(left, right, but=()):
    """Whether two profiles hold the same: exact parts exactly, sums of floats to rounding."""
    words, arrays, sample = left.state()
    other_words, other_arrays, other_sample = right.state()
    assert {**words, "source": {}} == {**other_words, "source": {}}
    assert sample.equals(other_sample)
    assert arrays.keys() == other_arrays.keys()
    for name, array in arrays.items():
        if name.endswith(tuple(but)):
            continue
        if name.endswith("numbers/moments") and array[2] > 0:  # the third may be nothing but rounding
            unit = (array[2] / array[0]) ** (np.arange(5) / 2) * array[0]
            np.testing.assert_allclose(array[1:] / unit[1:], other_arrays[name][1:] / unit[1:], rtol=1e-9, atol=1e-9)
            continue
        np.testing.assert_allclose(
            array.astype(np.float64), other_arrays[name].astype(np.float64), rtol=1e-9, atol=1e-9, err_msg=name
        )


@settings(max_examples=4)
@given(chunk=st.integers(1, 1500))
def test_chunks_change_nothing(chunk):
    table = mixed_table(1500)
    same(profiled([table]), profiled([table], max(chunk, 40)))


@settings(max_examples=4)
@given(cut=st.integers(1, 1199))
def test_two_halves_merged_are_the_whole(cut):
    table = mixed_table(1200)
    halves = [table.slice(0, cut), table.slice(cut)]
    left, right = profiled(halves[:1], names=["f0"]), profiled(halves[1:], names=["f1"])
    before = [left.state(), right.state()]
    merged = left.merge(right)
    # Of 1,200 distinct values, lists of 1,024 keep what their bound allows.
    same(merged, profiled(halves), but=("values/top_keys", "values/top_counts", "values/top_numbers"))
    assert merged.files == ("f0", "f1")
    for one, (words, arrays, sample) in zip((left, right), before, strict=True):
        assert one.state()[0] == words
        assert one.sample.equals(sample)
        for name, array in arrays.items():
            np.testing.assert_array_equal(one.state()[1][name], array)


def test_what_is_saved_is_loaded(tmp_path):
    one = profiled([mixed_table(700)])
    save(one, tmp_path / "p", {"table": table_figures(one)})
    save(one, tmp_path / "p", {"table": table_figures(one)})  # replaces its predecessor
    again = load(tmp_path / "p")
    same(one, again)
    same(one.merge(one), again.merge(again))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p"]


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda p: (p / "profile.json").unlink(), "no profile; expected a folder with profile.json"),
        (lambda p: (p / "profile.json").write_text("{"), "not JSON"),
        (lambda p: (p / "profile.json").write_text('{"a": 1}'), "not a profile; expected schema"),
        (
            lambda p: (p / "profile.json").write_text('{"schema": "validation.profile", "schema_version": 99}'),
            "version 99",
        ),
        (lambda p: (p / "arrays.npz").write_bytes(b"PK nothing"), "a damaged profile"),
        (lambda p: (p / "arrays.npz").write_bytes((p / "arrays.npz").read_bytes()[:900]), "a damaged profile"),
        (lambda p: (p / "sample.arrow").write_bytes(b"ARROW1"), "a damaged profile"),
        (lambda p: (p / "sample.arrow").unlink(), "a damaged profile"),
    ],
)
def test_a_damaged_profile_is_one_line(tmp_path, damage, says):
    save(profiled([mixed_table(200)]), tmp_path / "p", {})
    damage(tmp_path / "p")
    with pytest.raises(DatasetError, match=says) as error:
        load(tmp_path / "p")
    assert "\n" not in str(error.value)


def test_a_folder_with_something_else_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(DatasetError, match="not empty, and no profile"):
        save(profiled([mixed_table(50)]), tmp_path, {})
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_profiles_of_different_columns_are_not_merged():
    one = profiled([mixed_table(50)])
    other = profiled([mixed_table(50).rename_columns(["x", "k", "c", "b", "t", "s", "l", "m"])])
    with pytest.raises(ValueError, match=r"only the first has 'n\.u'"):
        one.merge(other)
    floats = mixed_table(50)
    floats = floats.set_column(1, "k", floats["k"].cast("double"))
    with pytest.raises(ValueError, match="column 'k' is int32"):
        one.merge(profiled([floats]))


def test_figures_are_those_of_duckdb():
    data = mixed_table(5_000)
    one = profiled([data], 777)
    found = {column.leaf.name: column_figures(one, column) for column in one.columns}
    for name in ("x", "k", "c", "b", "s"):  # a time with a zone would ask DuckDB for pytz
        query = f"select count({name}), count(distinct {name}), entropy({name}), min({name}), max({name}) from data"
        count, distinct, bits, low, high = duckdb.sql(query).fetchall()[0]
        assert found[name]["null_share"] == pytest.approx(1 - count / 5_000)
        assert found[name]["values"]["distinct"] == distinct
        assert found[name]["values"]["entropy"] == pytest.approx(bits)
        if name in "xk":
            assert (found[name]["numbers"]["min"], found[name]["numbers"]["max"]) == (low, high)
    for name in ("x", "k"):
        numbers = found[name]["numbers"]
        shares = "[0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99]"
        query = f"select avg({name}), stddev_samp({name}), quantile_disc({name}, {shares}) from data"
        mean, deviation, quantiles = duckdb.sql(query).fetchall()[0]
        assert numbers["mean"] == pytest.approx(mean)
        assert numbers["standard_deviation"] == pytest.approx(deviation)
        assert list(numbers["quantiles"].values()) == quantiles
    values = data["x"].drop_null().to_numpy()
    assert found["x"]["numbers"]["skewness"] == pytest.approx(stats.skew(values))
    assert found["x"]["numbers"]["excess_kurtosis"] == pytest.approx(stats.kurtosis(values))
    assert found["x"]["numbers"]["zero_share"] == 0
    low, high = np.quantile(values, [0.25, 0.75], method="inverted_cdf")
    reach = 3 * (high - low)
    outside = ((values < low - reach) | (values > high + reach)).mean()
    assert found["x"]["numbers"]["outlier_share"] == pytest.approx(outside)
    assert found["k"]["numbers"]["few_integers"]
    assert not found["x"]["numbers"]["few_integers"]
    tops = duckdb.sql("select c, count(*) n from data where c is not null group by c order by n desc").fetchall()
    assert [(top["value"], top["count"]) for top in found["c"]["top"]] == tops
    assert {top["value"]: top["error"] for top in found["b"]["top"]} == {"false": 0, "true": 0}
    assert found["l[]"]["numbers"]["mean"] == pytest.approx(1.5)
    assert found["n.u"]["values"]["distinct"] == 5
    assert found["n.v"]["null_share"] == 0.5
    assert found["s"]["kind"] == "text"
    assert (
        found["s"]["text"]["words"]
        == duckdb.sql("select sum(len(regexp_extract_all(s, '\\w+'))) from data").fetchall()[0][0]
    )


def test_lorenz_and_rare_values():
    counts = np.array([1, 1, 2, 96])
    wealth = np.concatenate([[0], np.cumsum(counts)]) / 100
    assert gini(counts, np.ones(4)) == pytest.approx(1 - 2 * np.trapezoid(wealth, dx=1 / 4))
    assert gini(np.array([5, 5]), np.ones(2)) == 0
    table = pa.table({"v": ["common"] * 997 + ["a", "b", "b"]})
    column = profiled([table]).columns[0]
    assert rare_share(column.values) == 0.003
    assert column_figures(profiled([table]), column)["values"]["unseen"] == 0.001


def test_duplicate_rows_are_counted():
    table = mixed_table(500)
    doubled = pa.concat_tables([table, table.slice(0, 100)])
    assert table_figures(profiled([doubled]))["duplicate_row_share"] == pytest.approx(100 / 600)
    assert table_figures(profiled([table]))["duplicate_row_share"] == 0


def test_whole_rows_differ_where_wide_decimals_do():
    close = [decimal.Decimal(f"12345678901234567890.1{n % 2}") for n in range(10)]
    one = profiled([pa.table({"d": pa.array(close, pa.decimal128(30, 2))})])
    assert table_figures(one)["duplicate_row_share"] == pytest.approx(0.8)
    assert column_figures(one, one.columns[0])["numbers"]["mean"] == pytest.approx(12345678901234567890.15)


def test_dates_with_a_zone_are_told_in_utc():
    moment = datetime.datetime(2024, 1, 1, tzinfo=datetime.timezone(datetime.timedelta(hours=5, minutes=30)))
    for zone, first in (("Asia/Kolkata", "2023-12-31T18:30:00Z"), (None, "2024-01-01T00:00:00")):
        day = moment if zone else moment.replace(tzinfo=None)
        one = profiled([pa.table({"t": pa.array([day] * 3, pa.timestamp("s", zone))})])
        assert date_figures(one.columns[0])["first"] == first


def test_frequent_values_that_are_no_numbers_can_be_told_apart():
    values = [math.nan] * 3 + [math.inf] * 2 + [-math.inf, -0.0, 0.0, 0.0, 0.0]
    one = profiled([pa.table({"v": values})])
    assert [(top.value, top.count) for top in top_values(one, one.columns[0])] == [
        (0.0, 4),
        ("nan", 3),
        ("inf", 2),
        ("-inf", 1),
    ]


def test_many_values_are_sampled_within_their_error_and_the_frequent_one_is_found():
    rng = np.random.default_rng(0)
    rows = 400_000
    values = np.where(rng.random(rows) < 0.3, 7.0, rng.normal(size=rows))
    one = profiled([pa.table({"v": values})], 50_000)
    column = one.columns[0]
    assert column.values.share < 1
    figures = column_figures(one, column)
    distinct = np.unique(values).size
    assert abs(figures["values"]["distinct"] - distinct) < 4 * figures["values"]["distinct_error"]
    top = top_values(one, column)[0]
    assert top.value == 7.0
    assert top.count <= (values == 7).sum() <= top.count + top.error
    spread = distribution(one, column)
    for share in (0.05, 0.25, 0.5, 0.75):
        assert (values <= spread.quantile(share)).mean() == pytest.approx(share, abs=0.01) or spread.quantile(
            share
        ) == 7
    assert outlier_share(spread) == pytest.approx(0, abs=1e-3)


def test_gaps_order_and_zone_of_dates():
    hours = np.arange(1000)
    hours[600:] += 5
    hours[800] = 0
    times = pa.array(hours * 3_600_000, pa.timestamp("ms", "Europe/Berlin"))
    one = profiled([pa.table({"t": times})], 170)
    figures = date_figures(one.columns[0])
    assert figures["zone"] == "Europe/Berlin"
    assert figures["usual_step"] == 3600
    assert figures["gaps"] == 2  # the one of 5 hours, and the way back from the wrong one
    assert figures["sorted_share"] == pytest.approx(1 - 1 / 999)
    assert figures["largest_step_row"] == 802
    assert figures["first"].startswith("1970-01-01T00:00")


def test_empty_and_null_columns():
    table = pa.table(
        {"a": pa.nulls(20), "b": pa.array([None] * 20, pa.float64()), "c": pa.array([""] * 20), "d": [math.nan] * 20}
    )
    one = profiled([table], 7)
    figures = [column_figures(one, column) for column in one.columns]
    assert [figure["null_share"] for figure in figures] == [1, 1, 0, 0]
    assert figures[2]["top"] == [{"value": "", "count": 20, "error": 0}]
    assert figures[3]["numbers"]["nan"] == 20
    assert math.isnan(figures[1]["numbers"]["mean"])


def write(folder, table, files=2, group=400):
    folder.mkdir()
    rows = table.num_rows // files
    for file in range(files):
        pq.write_table(table.slice(file * rows, rows), folder / f"part-{file}.parquet", row_group_size=group)
    return folder


def test_a_table_is_read_by_its_parts_and_bad_rows_are_counted(tmp_path):
    found = profile(open_table(write(tmp_path / "d", mixed_table(2_000))), workers=1)
    assert found.rows == 2_000
    assert found.files == ("part-0.parquet", "part-1.parquet")
    seen = []
    profile(open_table(tmp_path / "d"), workers=1, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (2_000, 2_000)
    (tmp_path / "bad.jsonl").write_text('{"a": 1}\n' * 30 + "{broken\n" + '{"a": 2}\n')
    with pytest.raises(DatasetError, match="31"):
        profile(open_table(tmp_path / "bad.jsonl"))
    kept = profile(open_table(tmp_path / "bad.jsonl", skip_bad_rows=True))
    assert (kept.rows, kept.skipped, kept.bad_rows[0][1]) == (31, 1, 31)
    with pytest.raises(ValueError, match="workers: 0; expected at least 1"):
        profile(open_table(tmp_path / "d"), workers=0)


@pytest.mark.slow
def test_any_number_of_processes_gives_the_same(tmp_path):
    table = open_table(write(tmp_path / "d", mixed_table(4_000), files=5))
    alone, together = profile(table, workers=1), profile(table, workers=2)
    same(alone, together)
    words, arrays, _ = alone.state()
    for name, array in together.state()[1].items():
        np.testing.assert_array_equal(array, arrays[name])
    (tmp_path / "bad").mkdir()
    for name in "ab":
        (tmp_path / "bad" / f"{name}.jsonl").write_text('{"a": 1}\n' * 3 + "{broken\n")
    with pytest.raises(DatasetError, match=r"a\.jsonl"):
        profile(open_table(tmp_path / "bad"), workers=2)
    assert isinstance(Profile.of_state(words, arrays, alone.sample), Profile)
