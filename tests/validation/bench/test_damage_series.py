"""Damaged series: what is kept, what is lost, how much of it, and where."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from validation.bench.damage import drop_levels, noise, shuffle_time, sines, smooth, stuck

IN_PLACE = [shuffle_time, stuck, noise, smooth, sines]
WINDOWS = arrays(np.int64, st.tuples(st.integers(1, 12), st.integers(1, 20)), elements=st.integers(0, 99))
FEW_VALUES = arrays(np.int64, st.tuples(st.integers(1, 12), st.integers(1, 6)), elements=st.integers(3, 4))
SHARE = st.floats(0, 1)
SHARES = st.tuples(SHARE, SHARE).map(sorted)
SEED = st.integers(0, 99)


def walks(count=200, width=64, seed=0):
    steps = np.random.default_rng(seed).normal(0, 3, (count, width))
    return (50 + steps.cumsum(1)).round().clip(0, 99).astype(np.int32)


CLEAN = walks()


@pytest.mark.parametrize("damage", IN_PLACE)
@given(windows=WINDOWS | FEW_VALUES, shares=SHARES, seed=SEED)
def test_the_mask_is_true_where_windows_changed_and_more_contains_less(damage, windows, shares, seed):
    clean = windows.copy()
    (some, few), (more, many) = (damage(windows, share, seed) for share in shares)
    assert (windows == clean).all()
    for damaged, changed in ((some, few), (more, many)):
        assert (changed == (damaged != windows).any(1)).all()
        assert damaged.dtype == windows.dtype
        assert damaged.min() >= 0
        assert damaged.max() <= 99
    assert (few <= many).all()
    assert (some[few] == more[few]).all()
    fitting = damage(windows, 1.0, seed)[1].sum()
    assert many.sum() == min(round(shares[1] * len(windows)), fitting)
    again = damage(windows, shares[1], seed)
    assert (again[0] == more).all()


@pytest.mark.parametrize("damage", IN_PLACE)
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_as_many_windows_change_as_asked_for(damage, share):
    assert damage(CLEAN, share, 0)[1].sum() == round(share * len(CLEAN))


@pytest.mark.parametrize("damage", IN_PLACE)
def test_the_seed_decides_which_windows_change(damage):
    assert (damage(CLEAN, 0.5, 1)[1] != damage(CLEAN, 0.5, 2)[1]).any()


@given(windows=WINDOWS | FEW_VALUES, seed=SEED)
def test_shuffled_windows_keep_their_values(windows, seed):
    shuffled, changed = shuffle_time(windows, 1.0, seed)
    assert (np.sort(shuffled, axis=1) == np.sort(windows, axis=1)).all()
    assert (changed == (np.ptp(windows, axis=1) > 0)).all()


def test_stuck_windows_hold_a_value_from_the_first_quarter_on():
    held, _ = stuck(CLEAN, 1.0, 0)
    assert (held[:, 15:] == held[:, 15:16]).all()
    first = np.array([np.flatnonzero(row != row[-1])[-1] + 1 if np.ptp(row) else 0 for row in held])
    assert first.max() <= 15
    assert len(np.unique(first)) > 8
    for old, new, step in zip(CLEAN, held, first, strict=True):
        assert (old[: step + 1] == new[: step + 1]).all()


def test_noise_is_as_strong_as_the_series():
    calm = 50 + (CLEAN - 50) // 4  # Far from both ends, nothing is clipped.
    added = noise(calm, 1.0, 0)[0] - calm
    assert added.std() == pytest.approx(calm.std(), rel=0.03)
    assert abs(np.corrcoef(added[:, 1:].ravel(), added[:, :-1].ravel())[0, 1]) < 0.05


def test_smooth_windows_are_moving_averages_over_nine_steps():
    averaged, _ = smooth(CLEAN, 1.0, 0)
    for row, new in zip(CLEAN[:20], averaged[:20], strict=True):
        expected = [row[max(0, t - 4) : t + 5].mean() for t in range(len(row))]
        assert np.abs(new - expected).max() <= 0.5 + 1e-9


def test_sines_are_six_templates_at_the_levels_of_the_series():
    clean = walks(2000)
    waves, _ = sines(clean, 1.0, 0)
    spectra = np.abs(np.fft.rfft(waves - waves.mean(1, keepdims=True), axis=1))
    assert set(spectra.argmax(1)) == {1, 2, 3, 4, 6, 8}
    top = spectra.max(1) ** 2 / (spectra**2).sum(1)
    assert np.median(top) > 0.95
    assert waves.mean() == pytest.approx(clean.mean(), abs=2)
    assert waves.std(1).mean() == pytest.approx(clean.std(1).mean(), rel=0.1)


@given(windows=WINDOWS | FEW_VALUES, shares=SHARES, seed=SEED)
def test_the_highest_windows_are_dropped_and_more_contains_less(windows, shares, seed):
    few, many = (drop_levels(windows, share, seed) for share in shares)
    for (left, bad), share in ((few, shares[0]), (many, shares[1])):
        assert len(left) == len(bad) == len(windows) - round(share * len(windows))
        assert not bad.any()
        lowest = np.sort(windows.sum(1))[: len(left)]
        assert (np.sort(left.sum(1)) == lowest).all()
    rows = iter(few[0].tolist())
    assert all(row in rows for row in many[0].tolist())


@pytest.mark.parametrize("damage", [*IN_PLACE, drop_levels])
@pytest.mark.parametrize(
    ("windows", "share", "reason"),
    [
        (CLEAN, -0.1, "share: -0.1; expected 0 to 1"),
        (CLEAN, 1.5, "share: 1.5; expected 0 to 1"),
        (CLEAN[:0], 0.5, "at least one window"),
        (CLEAN + 60, 0.5, "expected 0 to 99"),
        (CLEAN - 99, 0.5, "expected 0 to 99"),
    ],
)
def test_what_is_out_of_range(damage, windows, share, reason):
    with pytest.raises(ValueError, match=reason):
        damage(windows, share, 0)
