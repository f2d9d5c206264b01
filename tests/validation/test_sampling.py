"""Stratified samples: the same for a seed however they are read, unbiased by their weights, verified, never half-written."""

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from validation.datasets import DatasetError, open_table
from validation.profile import profile, save
from validation.sampling import first_look, look_of, passes, stratified_sample
from validation.sampling.__main__ import BAD_INPUT, INTERRUPTED, PASS, main
from validation.sampling.allocation import allocate, outliers_kept, oversampling
from validation.sampling.checks import Sums, verify
from validation.sampling.draw import choose, set_aside, thresholds
from validation.sampling.priority import as_threshold, priorities
from validation.sampling.strata import make_strata

ROWS, RARE_SHARE = 12_000, 0.005
OUTLIERS = [17, 4_001, 9_999]  # rows counted from 0


def mixed(rows=ROWS, seed=0):
    """Three groups far apart, the last rare; planted outliers; nulls."""
    rng = np.random.default_rng(seed)
    group = rng.choice(3, rows, p=[0.6, 0.4 - RARE_SHARE, RARE_SHARE])
    value = np.array([0.0, 20.0, 60.0])[group] + rng.normal(size=rows)
    value[[row for row in OUTLIERS if row < rows]] = 1e6
    return pa.table(
        {
            "value": pa.array(value, mask=rng.random(rows) < 0.01),
            "amount": np.exp(rng.normal(group, 0.5)),
            "kind": np.array(["a", "b", "c"])[group],
            "label": np.array(["yes", "no"])[(rng.random(rows) < 0.03).astype(int)],
            "group": group,
        }
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The same rows as two files of several row groups."""
    folder = tmp_path_factory.mktemp("mixed")
    table = mixed()
    pq.write_table(table.slice(0, 7_000), folder / "one.parquet", row_group_size=1_700)
    pq.write_table(table.slice(7_000), folder / "two.parquet", row_group_size=5_000)
    return folder


@pytest.fixture(scope="module")
def drawn(folder):
    """A sample of 600 of them."""
    out = folder.parent / "drawn.parquet"
    return stratified_sample(open_table(folder), 600, out, seed=5), pq.read_table(out)


def test_rows_are_those_of_the_files_and_weights_add_up(drawn):
    sample, rows = drawn
    whole = mixed()
    assert sample.rows == rows.num_rows == 600
    assert sample.total == ROWS
    assert sum(rows["weight"].to_pylist()) == pytest.approx(ROWS)
    place = rows["row"].to_numpy() - 1 + 7_000 * rows["file"].to_numpy()
    assert np.all(np.diff(place) > 0)
    assert rows.drop_columns(list(sample.columns)).equals(whole.take(place).combine_chunks())
    assert sum(stratum["rows"] for stratum in sample.strata) + sample.outliers == ROWS
    for stratum in sample.strata:
        weights = rows.filter((rows["stratum"].to_numpy() == stratum["stratum"]) & ~rows["outlier"].to_numpy())[
            "weight"
        ]
        assert weights.unique().to_pylist() == [stratum["rows"] / stratum["drawn"]]
        assert len(weights) == stratum["drawn"]


def test_outliers_are_kept_with_weight_one(drawn):
    sample, rows = drawn
    kept = rows.filter(rows["outlier"])
    assert sample.outliers == kept.num_rows == 12  # 0.1 % of 12,000
    place = kept["row"].to_numpy() - 1 + 7_000 * kept["file"].to_numpy()
    assert set(OUTLIERS) - {row for row in OUTLIERS if mixed()["value"][row].as_py() is None} <= set(place.tolist())
    assert set(kept["weight"].to_pylist()) == {1.0}


def test_rare_rows_are_drawn_three_times_as_often(drawn):
    sample, _ = drawn
    by_size = sorted(sample.strata, key=lambda stratum: stratum["rows"])
    assert by_size[0]["rows"] < 0.01 * ROWS
    assert by_size[-1]["weight"] / by_size[0]["weight"] == pytest.approx(3, rel=0.1)
    assert by_size[-1]["weight"] / by_size[-2]["weight"] == pytest.approx(1, rel=0.02)


@pytest.mark.parametrize(("workers", "chunk"), [(1, 65_536), (2, 999), (3, 61)])
def test_the_sample_does_not_depend_on_chunks_or_workers(folder, drawn, tmp_path, monkeypatch, workers, chunk):
    monkeypatch.setattr(passes, "CHUNK_ROWS", chunk)
    again = stratified_sample(open_table(folder), 600, tmp_path / "again.parquet", seed=5, workers=workers)
    sample, rows = drawn
    assert pq.read_table(again.path).equals(rows)
    assert again.strata == sample.strata
    for ours, theirs in zip(again.verification.checks, sample.verification.checks, strict=True):
        assert ours[:2] == theirs[:2]
        assert ours.difference == pytest.approx(theirs.difference, abs=1e-9)


def test_nor_on_row_groups_but_on_the_seed(folder, drawn, tmp_path):
    table = mixed()
    (tmp_path / "data").mkdir()
    pq.write_table(table.slice(0, 7_000), tmp_path / "data" / "one.parquet", row_group_size=300)
    pq.write_table(table.slice(7_000), tmp_path / "data" / "two.parquet")
    sample, rows = drawn
    again = stratified_sample(open_table(tmp_path / "data"), 600, tmp_path / "again.parquet", seed=5)
    assert pq.read_table(again.path).equals(rows)
    other = stratified_sample(open_table(folder), 600, tmp_path / "other.parquet", seed=6)
    shared = set(zip(*(rows[name].to_pylist() for name in ("file", "row")), strict=True)) & set(
        zip(*(pq.read_table(other.path)[name].to_pylist() for name in ("file", "row")), strict=True)
    )
    assert len(shared) < 150
    assert sample.rows == other.rows


def test_weighted_means_are_unbiased_over_seeds(tmp_path):
    """Horvitz-Thompson means over 80 draws: within four standard errors, and their spread below that of even draws."""
    rows, wanted, draws = 4_000, 300, 80
    whole = mixed(rows, seed=3)
    pq.write_table(whole, tmp_path / "data.parquet")
    table = open_table(tmp_path / "data.parquet")
    look = first_look(table)
    strata = make_strata(look.sample, most=wanted // 4)
    limits = thresholds(strata, look, wanted)
    columns = {"amount": whole["amount"].to_numpy(), "rare": (whole["group"].to_numpy() == 2).astype(float)}
    found = {name: [] for name in columns}
    for seed in range(draws):
        sums = Sums.of(strata.embedding, look.sample)
        parts, _ = set_aside(table, strata, limits, sums, tmp_path, seed=seed, workers=1, progress=None)
        drawn = choose(parts, strata, limits, wanted)
        keys = pa.Table.from_batches([batch for part in parts for batch in part.keys])
        place = keys[" row"].to_numpy()[drawn.chosen] - 1
        weight = drawn.weight[drawn.chosen]
        assert weight.sum() == pytest.approx(rows)
        assert len(weight) == wanted
        for name, values in columns.items():
            found[name].append((weight * values[place]).sum() / rows)
    for name, values in columns.items():
        error = np.std(found[name], ddof=1) / np.sqrt(draws)
        assert abs(np.mean(found[name]) - values.mean()) < 4 * error, name
        assert np.std(found[name], ddof=1) < 1.1 * values.std() / np.sqrt(wanted), name


def test_labels_are_strata_and_rare_ones_are_drawn_more_often(folder, tmp_path):
    sample = stratified_sample(open_table(folder), 600, tmp_path / "out.parquet", label="label")
    rows = pq.read_table(sample.path)
    assert {stratum["label"] for stratum in sample.strata} >= {"yes", "no"}
    share = np.mean(rows["label"].to_numpy(zero_copy_only=False) == "no")
    assert 0.035 < share < 0.09  # 3 % of the rows
    weighted = rows["weight"].to_numpy()[rows["label"].to_numpy(zero_copy_only=False) == "no"].sum() / ROWS
    assert weighted == pytest.approx(np.mean(np.array(mixed()["label"].to_pylist()) == "no"), abs=0.01)


def test_texts_are_split_by_length(tmp_path):
    rng = np.random.default_rng(0)
    words = np.array([f"w{i}" for i in range(300)])
    texts = [" ".join(rng.choice(words, n)) for n in rng.integers(3, 80, 2_000)]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    sample = stratified_sample(open_table(tmp_path / "data.jsonl"), 200, tmp_path / "out.parquet")
    rows = pq.read_table(sample.path)
    assert {stratum["bytes"].split("-")[0] for stratum in sample.strata} >= {""}
    assert len({stratum["bytes"] for stratum in sample.strata}) == 4
    (check,) = sample.verification.checks
    assert check.columns == ("bytes of text",)
    lengths, weight = np.array([len(text) for text in texts]), rows["weight"].to_numpy()
    drawn_lengths = lengths[rows["row"].to_numpy() - 1]
    ours = np.array([weight[drawn_lengths <= value].sum() for value in np.unique(lengths)]) / weight.sum()
    theirs = np.array([(lengths <= value).mean() for value in np.unique(lengths)])
    assert check.difference == pytest.approx(np.abs(ours - theirs).max(), abs=0.01)
    assert rows["text"].to_pylist() == [texts[row - 1] for row in rows["row"].to_pylist()]


def test_a_small_table_is_taken_whole(tmp_path):
    pq.write_table(mixed(50), tmp_path / "data.parquet")
    sample = stratified_sample(open_table(tmp_path / "data.parquet"), 80, tmp_path / "out.parquet")
    rows = pq.read_table(sample.path)
    assert rows.num_rows == 50
    assert set(rows["weight"].to_pylist()) == {1.0}
    assert sample.verification.held
    assert max(check.difference for check in sample.verification.checks) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("rows", [1, 2, 3, 7])
def test_a_few_rows_stand_for_all(folder, tmp_path, rows):
    sample = stratified_sample(open_table(folder), rows, tmp_path / "out.parquet")
    weights = pq.read_table(sample.path)["weight"].to_pylist()
    assert len(weights) == rows
    assert sum(weights) == pytest.approx(ROWS)


def test_columns_named_like_the_samples_own(tmp_path):
    table = mixed(200).rename_columns(["row", "weight", "kind", "label", "group"])
    pq.write_table(table, tmp_path / "data.parquet")
    sample = stratified_sample(open_table(tmp_path / "data.parquet"), 50, tmp_path / "out.parquet")
    assert sample.columns[:3] == ("sample_file", "sample_row", "sample_weight")
    assert pq.read_table(sample.path).column_names == [*sample.columns, *table.column_names]


def test_first_look_is_the_rows_of_smallest_priority(folder, monkeypatch):
    monkeypatch.setattr(sys.modules["validation.sampling.first_look"], "MOST_ROWS", 1_500)
    table = open_table(folder)
    look = first_look(table, seed=2, workers=2)
    number = np.concatenate(
        [priorities(file, np.arange(1, n + 1), "first look", 2) for file, n in enumerate([7_000, 5_000])]
    )
    assert look.rows == ROWS
    assert look.sample.equals(mixed().take(np.argsort(number)[:1_500]).combine_chunks())


def test_priorities_are_uniform_and_independent():
    rows = np.arange(1, 20_001)
    base = priorities(0, rows, "draw", 0)
    assert np.array_equal(priorities(0, rows[500:700], "draw", 0), base[500:700])
    uniform = base / 2.0**64
    assert scipy.stats.kstest(uniform, "uniform").pvalue > 0.01
    assert abs(np.corrcoef(uniform[1:], uniform[:-1])[0, 1]) < 0.03
    for other in (priorities(1, rows, "draw", 0), priorities(0, rows, "draw", 1), priorities(0, rows, "first look", 0)):
        assert abs(np.corrcoef(uniform, other / 2.0**64)[0, 1]) < 0.03
    assert (base <= as_threshold(0.25)).mean() == pytest.approx(0.25, abs=0.02)
    assert (base <= as_threshold(1.0)).all()


@given(
    strata=st.lists(st.tuples(st.integers(0, 5_000), st.floats(1, 3), st.floats(0, 1)), min_size=1, max_size=8),
    wanted=st.integers(1, 8_000),
)
@settings(max_examples=60)
def test_allocation_adds_up_and_keeps_its_bounds(strata, wanted):
    sizes = np.array([size for size, _, _ in strata])
    factors = np.array([factor for _, factor, _ in strata])
    available = np.array([int(np.ceil(size * share)) for size, _, share in strata])
    if wanted < np.count_nonzero(available):
        with pytest.raises(ValueError, match="expected at least a row for each"):
            allocate(sizes, available, factors, wanted)
        return
    rows = allocate(sizes, available, factors, wanted)
    assert rows.sum() == min(wanted, available.sum())
    assert np.all(rows <= available)
    assert np.all(rows[available > 0] >= 1)
    free = (rows < available) & (rows > 4)
    want = (sizes * factors)[free]
    if free.any():  # at one rate, but for rounding
        low, high = ((rows[free] - 1) / want).max(), ((rows[free] + 1) / want).min()
        assert low <= high


def test_oversampling_falls_from_three_to_one():
    assert oversampling(np.array([0.0001, 0.01, 0.05, 0.5])).tolist() == pytest.approx([3, 3, 1, 1])
    assert np.all(np.diff(oversampling(np.linspace(0.005, 0.1, 50))) <= 0)
    assert outliers_kept(100_000, 1_000_000) == 100
    assert outliers_kept(10**8, 1_000) == 200


@pytest.fixture(scope="module")
def compared():
    """Sums over a whole, and a way to sum a weighted part of it."""
    whole = mixed(3_000, seed=1)
    strata = make_strata(whole)
    sums = Sums.of(strata.embedding, whole)

    def add(into, rows, weight=None):
        batch = rows.combine_chunks().to_batches()[0]
        into.add(batch, strata.embedding.coordinates(batch), weight)
        return into

    add(sums, whole)

    def verified(place, weight):
        return verify(sums, add(sums.empty(sums.moments()), whole.take(place), weight))

    return whole, strata, verified


def test_checks_are_those_of_their_definitions(compared):
    whole, strata, verified = compared
    rng = np.random.default_rng(0)
    place, weight = rng.choice(3_000, 400, replace=False), rng.uniform(1, 15, 400)
    found = {(check.kind, check.columns): check for check in verified(place, weight).checks}
    columns = {column.name: column for column in strata.embedding.columns}
    amount = whole["amount"].to_numpy()
    values = np.unique(amount)
    ours = np.array([weight[amount[place] <= value].sum() for value in values]) / weight.sum()
    theirs = np.searchsorted(np.sort(amount), values, side="right") / 3_000
    assert found["distribution", ("amount",)].difference == pytest.approx(np.abs(ours - theirs).max(), abs=0.005)
    scaled = [
        np.clip((whole[name].to_numpy() - columns[name].center) / columns[name].scale, -4, 4)
        for name in ("amount", "group")
    ]
    check = found["correlation", ("amount", "group")]
    assert check.full == pytest.approx(np.corrcoef(scaled)[0, 1], abs=1e-4)  # coordinates are rounded to 1/1024
    covariance = np.cov([x[place] for x in scaled], aweights=weight)
    expected = covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1])
    assert check.sample == pytest.approx(expected, abs=1e-4)
    kinds = whole["kind"].to_numpy(zero_copy_only=False)
    share = [weight[kinds[place] == kind].sum() for kind in "abc"]
    assert found["entropy", ("kind",)].sample == pytest.approx(scipy.stats.entropy(share, base=2))


def test_random_samples_hold_and_skewed_ones_do_not(compared):
    whole, _, verified = compared
    rng = np.random.default_rng(1)
    held = [verified(rng.choice(3_000, 500, replace=False), np.full(500, 6.0)).held for _ in range(40)]
    assert np.mean(held) >= 0.95
    smallest = np.argsort(whole["amount"].to_numpy())[:2_000]
    skewed = verified(rng.choice(smallest, 500, replace=False), np.full(500, 6.0))
    assert not skewed.held
    worst = skewed.worst("distribution")
    assert worst is not None
    assert not worst.held
    only_a = np.flatnonzero(whole["kind"].to_numpy(zero_copy_only=False) == "a")[:500]
    entropy = verified(only_a, np.full(500, 6.0)).worst("entropy")
    assert entropy is not None
    assert not entropy.held


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": 0}, "rows: 0; expected at least 1"),
        ({"label": "lable"}, "label: no column 'lable'; expected one of value"),
        ({"out": "missing/out.parquet"}, "missing is not a folder"),
    ],
)
def test_wrong_requests_are_named(folder, tmp_path, change, message):
    request = {"rows": 10, "out": "out.parquet", "label": None} | change
    with pytest.raises(ValueError, match=message):
        stratified_sample(open_table(folder), request["rows"], tmp_path / request["out"], label=request["label"])
    assert not list(tmp_path.iterdir())


def test_the_command_writes_a_sample_and_what_it_is(folder, tmp_path, capsys):
    out = tmp_path / "out.parquet"
    before = signal.getsignal(signal.SIGTERM)
    assert main([str(folder), "--rows", "500", "--out", str(out)]) == PASS
    assert signal.getsignal(signal.SIGTERM) is before
    shown = capsys.readouterr()
    assert "500 of 12,000 rows" in shown.out
    assert "12,000 of 12,000 rows" in shown.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.json", "out.parquet"]
    about = json.loads((tmp_path / "out.json").read_text())
    assert about["files"] == ["one.parquet", "two.parquet"]
    assert about["verification"]["held"]
    assert about["verification"]["confidence"] == 0.99


def test_the_command_names_bad_input(folder, tmp_path, capsys):
    broken = tmp_path / "broken.parquet"
    broken.write_bytes((folder / "one.parquet").read_bytes()[:5_000])
    out = tmp_path / "out.parquet"
    for data, message in ((broken, "broken.parquet"), (tmp_path / "nothing", "nothing")):
        assert main([str(data), "--rows", "5", "--out", str(out)]) == BAD_INPUT
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert message in error
        assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["broken.parquet"]


def test_a_row_that_breaks_in_the_second_pass_leaves_nothing(folder, tmp_path, monkeypatch):
    def broken(*arguments):
        raise DatasetError("one.parquet: row 3: torn")

    monkeypatch.setattr("validation.sampling.draw.priorities", broken)
    with pytest.raises(DatasetError, match="torn"):
        stratified_sample(open_table(folder), 100, tmp_path / "out.parquet")
    assert not list(tmp_path.iterdir())


def start(folder, out, *before):
    command = [sys.executable, "-m", "validation.sampling", str(folder), "--rows", "5000", "--out", str(out)]
    return subprocess.Popen([*before, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_full_disk_leaves_nothing(folder, tmp_path):
    process = start(folder, tmp_path / "out.parquet", "sh", "-c", 'ulimit -f 40 && exec "$@"', "sh")
    _, error = process.communicate(timeout=120)
    assert process.returncode == BAD_INPUT
    assert "error: " in error
    assert "Traceback" not in error
    assert not list(tmp_path.iterdir())


def test_an_interrupt_leaves_nothing(folder, tmp_path):
    (tmp_path / "out").mkdir()
    big = tmp_path / "big.csv"
    with big.open("w") as file:
        file.write("a,b\n")
        file.writelines(f"{i},{i * 7 % 1000}\n" for i in range(3_000_000))
    process = start(big, tmp_path / "out" / "out.parquet")
    until = time.monotonic() + 60
    while not list((tmp_path / "out").iterdir()) and time.monotonic() < until:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == INTERRUPTED
    assert "Interrupted; nothing was written" in error
    assert "Traceback" not in error
    assert not list((tmp_path / "out").iterdir())


def test_bad_rows_can_be_left_out(tmp_path):
    lines = [json.dumps({"x": i, "y": i % 5}) for i in range(400)]
    lines[100] = "{broken"
    (tmp_path / "data.jsonl").write_text("\n".join(lines) + "\n")
    with pytest.raises(DatasetError, match="101"):
        stratified_sample(open_table(tmp_path / "data.jsonl"), 50, tmp_path / "out.parquet")
    sample = stratified_sample(open_table(tmp_path / "data.jsonl", skip_bad_rows=True), 50, tmp_path / "out.parquet")
    assert (sample.total, sample.skipped) == (399, 1)
    rows = pq.read_table(sample.path)
    assert rows["x"].to_pylist() == [row - 1 for row in rows["row"].to_pylist()]


def test_a_table_of_bad_rows_only_is_named(folder, tmp_path, monkeypatch):
    table = open_table(folder)
    monkeypatch.setattr(type(table), "stream", lambda *arguments, **options: iter(()))
    with pytest.raises(DatasetError, match="no rows that can be read"):
        stratified_sample(table, 5, tmp_path / "out.parquet")
    assert not list(tmp_path.iterdir())


def test_a_profile_saves_the_first_pass(folder, tmp_path, capsys):
    table = open_table(folder)
    found = profile(table)
    look = look_of(found, table)
    assert look.rows == ROWS
    assert look.sample.column_names == table.schema.names
    save(found, tmp_path / "profile", {})
    command = [
        str(folder),
        "--rows",
        "500",
        "--out",
        str(tmp_path / "out.parquet"),
        "--profile",
        str(tmp_path / "profile"),
    ]
    assert main(command) == PASS
    assert "first pass" not in capsys.readouterr().err
    direct = stratified_sample(table, 500, tmp_path / "direct.parquet", look=look)
    assert pq.read_table(tmp_path / "out.parquet").equals(pq.read_table(direct.path))
    pq.write_table(mixed(300), tmp_path / "other.parquet")
    with pytest.raises(ValueError, match="profile is of"):
        look_of(found, open_table(tmp_path / "other.parquet"))


def test_a_look_taken_before_saves_the_first_pass(folder, drawn, tmp_path, monkeypatch):
    look = first_look(open_table(folder), seed=5)
    monkeypatch.setattr("validation.sampling.stratified.first_look", None)
    stages = []
    again = stratified_sample(
        open_table(folder), 600, tmp_path / "o.parquet", seed=5, look=look, progress=lambda *told: stages.append(told)
    )
    assert pq.read_table(again.path).equals(drawn[1])
    assert {stage for stage, _, _ in stages} == {"second pass"}
    assert stages[-1][1:] == (ROWS, ROWS)
