"""Forecasts and anomaly scores: what the protocols ask, what the measures mean, that nothing of the future is used."""

from __future__ import annotations

import csv
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import anomalies, forecasting
from benchmarks.quality import series
from benchmarks.quality.series import MONTH, Labelled, read_etth1, read_nab


@pytest.fixture(scope="module")
def etth1(tmp_path_factory):
    """A folder with a made-up ETTh1: a day's wave in two channels, for twenty of its months."""
    folder = tmp_path_factory.mktemp("etth1")
    (folder / "ts_etth1").mkdir()
    hours = np.arange(20 * MONTH + 50)
    rng = np.random.default_rng(0)
    values = np.stack([np.sin(2 * np.pi * hours / 24), 3 + 2 * np.cos(2 * np.pi * hours / 24)], axis=1)
    values += rng.normal(size=values.shape) * 0.1
    with (folder / "ts_etth1" / "ETTh1.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["date", "A", "B"])
        writer.writerows([[f"hour {hour}", *row] for hour, row in zip(hours, values.tolist(), strict=True)])
    return folder, values


def test_the_parts_are_12_4_and_4_months_in_units_of_the_first(etth1):
    folder, values = etth1
    split = read_etth1(folder, 48)
    assert [len(part) for part in split] == [12 * MONTH, 4 * MONTH + 48, 4 * MONTH + 48]
    np.testing.assert_allclose(split.train.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(split.train.std(axis=0), 1, atol=1e-5)
    first = values[: 12 * MONTH]
    np.testing.assert_allclose(
        split.test * first.std(axis=0) + first.mean(axis=0), values[16 * MONTH - 48 : 20 * MONTH], atol=1e-4
    )


def naive(look_back):
    """Says that the next day will be like the last: an oracle for errors over all windows."""
    return forecasting.Forecaster(
        look_back, lambda key: {}, lambda params, x: x[:, -24:], lambda found, target: jnp.mean(found), 0
    )


def test_errors_are_those_of_every_window(etth1):
    part = read_etth1(etth1[0], 48).test[:400]
    mse, mae, below = forecasting.errors(naive(48), 24, {}, jnp.asarray(part))
    last = np.stack([part[i + 24 : i + 48] for i in range(400 - 48 - 24 + 1)])
    after = np.stack([part[i + 48 : i + 72] for i in range(400 - 48 - 24 + 1)])
    assert mse == pytest.approx(np.mean((last - after) ** 2), rel=1e-5)
    assert mae == pytest.approx(np.mean(np.abs(last - after)), rel=1e-5)
    assert below["0"] == pytest.approx(np.mean(after < last), abs=1e-6)


def test_a_trained_forecaster_beats_the_last_day(etth1):
    split = read_etth1(etth1[0], 48)
    model = forecasting.eigenstate_forecaster(24, 48, 16)
    best = forecasting.train(model, 24, split._replace(train=split.train[:2000]), rate=0.01, seed=0, epochs=2, batch=32)
    test = jnp.asarray(split.test[:600])
    found, last = forecasting.errors(model, 24, best.params, test), forecasting.errors(naive(48), 24, {}, test)
    assert found[0] < 0.75 * last[0]  # the noise of one day instead of two
    assert found[2]["0"] < found[2]["1"] < found[2]["2"]
    assert best.epoch == 1
    inner = forecasting.inner_split(split, 48)
    assert (len(inner.train), len(inner.validation)) == (9 * MONTH, 3 * MONTH + 48)
    np.testing.assert_array_equal(inner.validation[48:], split.train[9 * MONTH :])


def test_dlinear_learns_the_wave(etth1):
    split = read_etth1(etth1[0], 48)
    model, test = forecasting.dlinear_forecaster(24, 48), jnp.asarray(split.test[:600])
    best = forecasting.train(
        model, 24, split._replace(train=split.train[:2000]), rate=0.003, seed=0, epochs=2, batch=32
    )
    assert forecasting.errors(model, 24, best.params, test)[0] < 0.75 * forecasting.errors(naive(48), 24, {}, test)[0]


def test_dlinear_starts_as_the_mean_of_its_window():
    model = forecasting.dlinear_forecaster(5, 40)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 40, 1)), jnp.float32)
    found = model.quantiles(model.init(jax.random.key(0)), x)
    np.testing.assert_allclose(found[..., 0], np.repeat(np.asarray(x).mean(axis=1), 5, axis=1), atol=1e-5)


@pytest.fixture
def nab(tmp_path):
    """Two series of a NAB folder; the second has two labelled windows."""
    (tmp_path / "ts_nab" / "real").mkdir(parents=True)
    times = [f"2014-02-{day:02d} {hour:02d}:00:00" for day in range(1, 6) for hour in range(24)]
    for name in ("a", "b"):
        with (tmp_path / "ts_nab" / "real" / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([["timestamp", "value"], *[[time, i] for i, time in enumerate(times)]])
    windows = [[f"{times[50]}.000000", f"{times[59]}.000000"], [f"{times[100]}.000000", f"{times[104]}.000000"]]
    (tmp_path / "ts_nab" / "windows.json").write_text(json.dumps({"real/b.csv": windows, "real/a.csv": []}))
    return tmp_path


def test_labelled_windows_include_both_ends(nab):
    clean, labelled = read_nab(nab)
    assert (clean.name, labelled.name) == ("real/a.csv", "real/b.csv")
    assert (clean.windows, labelled.windows) == (0, 2)
    assert not clean.anomalous.any()
    assert np.flatnonzero(labelled.anomalous).tolist() == [*range(50, 60), *range(100, 105)]
    assert labelled.start == int(series.PROBATION * 120)


def labelled(count, seed, length=400):
    """Noise with one window in which the values jump about."""
    rng = np.random.default_rng([count, seed])
    values, anomalous = rng.normal(size=length), np.zeros(length, bool)
    start = int(rng.integers(150, 300))
    anomalous[start : start + 40] = True
    values[anomalous] += rng.choice([-8, 8], 40)
    return Labelled(f"{count}", values, anomalous, 1, int(series.PROBATION * length))


def test_average_precision_is_that_of_the_definition():
    rng = np.random.default_rng(0)
    labels, scores = rng.random(200) < 0.2, np.round(rng.random(200), 1)  # many equal scores
    area, before = 0.0, 0.0
    for threshold in np.unique(scores)[::-1]:
        alarms = scores >= threshold
        recall, precision = (alarms & labels).sum() / labels.sum(), (alarms & labels).sum() / alarms.sum()
        area, before = area + precision * (recall - before), recall
    assert anomalies.average_precision(labels, scores) == pytest.approx(area)
    f1, threshold = anomalies.best_threshold(labels, scores)
    every = {t: 2 * ((scores >= t) & labels).sum() / ((scores >= t).sum() + labels.sum()) for t in np.unique(scores)}
    assert f1 == pytest.approx(max(every.values()))
    assert every[threshold] == pytest.approx(f1)


def test_thresholds_are_those_of_the_other_half():
    world = [labelled(i, 0) for i in range(4)]
    perfect = [one.anomalous.astype(float) for one in world]
    found = anomalies.judge(world, perfect)
    assert found["f1"] == found["auprc"] == found["windows_noticed"] == 1
    # Scores of the second half on another scale: a threshold of the first half's does not fit them.
    scaled = [one * (1.0 if index % 2 else 0.01) for index, one in enumerate(perfect)]
    assert anomalies.judge(world, scaled)["f1"] < 0.8
    assert anomalies.judge(world, scaled)["auprc"] == 1


@pytest.mark.parametrize("detector", ["eigenstate", "rolling z-score"])
def test_detectors_find_jumps_and_do_not_look_ahead(detector):
    world = [labelled(i, 1) for i in range(4)]
    scores, options = anomalies.DETECTORS[detector][0], anomalies.Options(steps=60, d_model=8)
    found = scores(world, options, 0)
    assert anomalies.judge(world, found)["auprc"] > 0.5
    changed = [one._replace(values=np.where(np.arange(400) < 250, one.values, 3.0)) for one in world]
    for one, other in zip(found, scores(changed, options, 0), strict=True):
        np.testing.assert_allclose(one[:250], other[:250], rtol=1e-3, atol=1e-3)
        assert np.abs(one[250:] - other[250:]).max() > 0.1
