"""Moments, steps, segments and row samples against brute force; what is merged is what one pass gives."""

import itertools

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from validation.profile.numbers import Numbers
from validation.profile.sample import RowSample, row_priorities
from validation.profile.segments import LIMIT, Segments, Sums, bins_by, moments_by, no_sums

FLOATS = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60)
CUTS = st.lists(st.integers(0, 60), max_size=4)


def gathered(values, cuts, merge, dtype="float64", dates=False):
    parts = np.split(np.array(values, dtype), sorted(min(cut, len(values)) for cut in cuts))
    one, row = Numbers(np.dtype(dtype), dates), 1
    for part in parts:
        here = np.arange(row, row + len(part))
        if merge:
            other = Numbers(np.dtype(dtype), dates)
            other.add(part, 0, here)
            one.merge(Numbers.of_state(other.state()), 0)
        else:
            one.add(part, 0, here)
        row += len(part)
    return one


@given(values=FLOATS, cuts=CUTS, merge=st.booleans())
def test_moments_are_those_of_scipy_however_they_are_gathered(values, cuts, merge):
    found = gathered(values, cuts, merge).moments
    array = np.array(values)
    scale = max(np.abs(array).max(), 1e-3)
    assert found.count == array.size
    assert found.mean == pytest.approx(array.mean(), abs=1e-9 * scale)
    for power, value in ((2, found.second), (3, found.third), (4, found.fourth)):
        expected = ((array - array.mean()) ** power).sum()
        assert value == pytest.approx(expected, rel=1e-6, abs=1e-9 * scale**power * array.size)


@given(values=FLOATS, cuts=CUTS, merge=st.booleans())
def test_steps_and_extremes(values, cuts, merge):
    found = gathered(values, cuts, merge)
    steps = np.diff(np.array(values))
    assert found.extremes.tolist() == [min(values), max(values)]
    assert found.counts[3:].tolist() == [values.count(0), *((steps > 0).sum(), (steps < 0).sum(), (steps == 0).sum())]
    assert found.squared_steps == pytest.approx((steps**2).sum())


def test_what_is_not_finite_is_counted_apart():
    one = gathered([1.0, np.nan, np.inf, -np.inf, np.nan, 3.0], [2], False)
    assert one.counts[:3].tolist() == [2, 1, 1]
    assert one.moments.mean == 2
    assert one.counts[4:].tolist() == [1, 0, 0]


@given(values=st.lists(st.integers(-(10**12), 10**12), min_size=1, max_size=50), cuts=CUTS, merge=st.booleans())
def test_steps_of_dates_and_the_largest_of_them(values, cuts, merge):
    found = gathered(values, cuts, merge, "int64", dates=True)
    steps = np.diff(np.array(values))
    assert found.steps.total == steps.size
    assert found.steps.distinct() == np.unique(steps).size
    if steps.size:
        assert found.largest.tolist() == [steps.max(), 0, steps.argmax() + 2]


def test_steps_do_not_lead_from_file_to_file():
    one, other = Numbers(np.dtype("int64"), True), Numbers(np.dtype("int64"), True)
    one.add(np.array([1, 2]), 0, np.array([1, 2]))
    other.add(np.array([50, 51]), 0, np.array([1, 2]))
    one.merge(other, 1)
    assert one.counts[4:].tolist() == [2, 0, 0]
    assert one.ends.tolist() == [[0, 1], [1, 2]]


def test_integers_beyond_what_floats_hold_keep_their_extremes():
    one = gathered([2**63, 2**64 - 1, 2**63 + 1], [1], True, "uint64")
    assert one.extremes.tolist() == [2**63, 2**64 - 1]


def segments_of(lengths, cuts, chunk=97):
    """Segments of files of the given lengths, in parts cut at some rows, each part in chunks."""
    merged = Segments(2)
    for file, length in enumerate(lengths):
        places = np.unique([0, length, *(cut % (length + 1) for cut in cuts)])
        for start, end in itertools.pairwise(places.tolist()):
            part = Segments(2)
            for first in range(start, end, chunk):
                row = np.arange(first, min(first + chunk, end)) + 1
                segment = part.split(row)
                values, count = np.sin(row + file), int(segment[-1]) + 1
                keys = (row.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)) ^ np.uint64(file)
                missing = np.bincount(segment, weights=row % 7 == 0, minlength=count)
                sums = Sums(moments_by(segment, values, count), bins_by(segment, keys, count), missing)
                part.add(file, row, segment, [sums, no_sums(count)])
            merged.merge(Segments.of_state(part.state()), 0)
    return merged


@given(
    lengths=st.lists(st.integers(1, 30_000), min_size=1, max_size=3),
    cuts=st.lists(st.integers(0, 30_000), max_size=3),
)
def test_segments_do_not_depend_on_parts_and_chunks(lengths, cuts):
    whole, parts = segments_of(lengths, [], 1_000_000).state(), segments_of(lengths, cuts, 5_003).state()
    assert len(whole["place"]) <= LIMIT
    for name, array in whole.items():
        np.testing.assert_allclose(parts[name], array, rtol=1e-9, atol=1e-9, err_msg=name)


def test_segments_hold_the_sums_of_their_rows():
    found = segments_of([10_000, 3_000], [2_500])
    for (file, block), (rows, first, last), moments, missing in zip(
        found.place, found.rows, found.columns[0].moments, found.columns[0].missing, strict=True
    ):
        row = np.arange(first, last + 1)
        assert rows == row.size
        assert ((row - 1) >> found.shift == block).all()
        values = np.sin(row + file)
        np.testing.assert_allclose(moments, [rows, values.mean(), values.var() * rows], rtol=1e-9, atol=1e-12)
        assert missing == (row % 7 == 0).sum()
    assert found.rows[:, 0].sum() == 13_000
    assert found.columns[0].bins.sum() == 13_000


def test_very_many_files_share_segments():
    found = segments_of([3] * (2 * LIMIT + 5), [])
    assert found.files_shift == 2
    assert len(found.place) <= LIMIT
    assert found.rows[:, 0].sum() == 3 * (2 * LIMIT + 5)


def sample_of(files, cuts, chunk, size=50):
    schema = pa.schema([("text", pa.large_string()), ("n", pa.int64())])
    merged = RowSample(schema, 7, size)
    for file, (name, length) in enumerate(files):
        places = np.unique([0, length, *(cut % (length + 1) for cut in cuts)])
        for start, end in itertools.pairwise(places.tolist()):
            part = RowSample(schema, 7, size)
            for first in range(start, end, chunk):
                row = np.arange(first, min(first + chunk, end)) + 1
                part.add(file, name, row, [pa.array([f"{name}{r}" for r in row]), pa.array(row)])
            merged.merge(RowSample.of_table(part.table(), [n for n, _ in files], 7, size), 0)
    return merged.table()


@given(
    lengths=st.lists(st.integers(1, 400), min_size=1, max_size=3),
    cuts=st.lists(st.integers(0, 400), max_size=3),
    chunk=st.integers(1, 300),
)
def test_a_sample_is_the_rows_of_the_smallest_hashes(lengths, cuts, chunk):
    files = [(f"f{place}", length) for place, length in enumerate(lengths)]
    found = sample_of(files, cuts, chunk)
    everything = sorted(
        (int(hash_), file, row + 1)
        for file, (name, length) in enumerate(files)
        for row, hash_ in enumerate(row_priorities(7, name, np.arange(1, length + 1)))
    )[:50]
    assert list(zip(found["(file)"].to_pylist(), found["(row)"].to_pylist(), strict=True)) == [
        e[1:] for e in everything
    ]
    assert found["text"].to_pylist() == [f"f{file}{row}" for _, file, row in everything]
    assert found["n"].to_pylist() == found["(row)"].to_pylist()


def test_a_sample_is_uniform_and_another_seed_gives_another():
    row = np.arange(1, 100_001)
    first, second = row_priorities(0, "a", row), row_priorities(1, "a", row)
    assert stats.kstest(first / 2**64, "uniform").pvalue > 0.001
    assert abs(np.corrcoef(first.astype(float), second.astype(float))[0, 1]) < 0.02
    with pytest.raises(ValueError, match="of seed 0 and 1 cannot be merged"):
        RowSample(pa.schema([]), 0).merge(RowSample(pa.schema([]), 1), 0)


def test_long_strings_are_cut_in_the_sample():
    sample = RowSample(pa.schema([("t", pa.large_string())]), 0)
    sample.add(0, "a", np.array([1]), [pa.array(["é" * 5000])])
    assert len(sample.table()["t"][0].as_py()) == 4096
