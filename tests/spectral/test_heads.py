"""Forecasts and anomaly scores: quantiles, their loss, windows, streaming, and that both work on small problems."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas_jax.training import adamw, cosine, init_state, make_step
from spectral import eigenstate, heads
from spectral.eigenstate import EigenstateConfig
from spectral.heads import AnomalyScale, ForecastHead

HEAD = ForecastHead(horizon=3, channels=2, levels=(0.05, 0.25, 0.5, 0.75, 0.95))


class TestWindow:
    x = np.random.default_rng(0).normal(3, 2, (2, 30, 2)).astype(np.float32)

    @pytest.mark.parametrize("normalise", [heads.normalise_window, heads.normalise_from_last])
    def test_restoring_is_the_inverse(self, normalise):
        y, scale = normalise(jnp.asarray(self.x))
        np.testing.assert_allclose(heads.restore(y[..., None], scale)[..., 0], self.x, rtol=1e-5)
        np.testing.assert_allclose(np.std(y, axis=1), 1, rtol=1e-4)

    def test_the_mean_or_the_last_value_becomes_zero(self):
        np.testing.assert_allclose(np.mean(heads.normalise_window(jnp.asarray(self.x))[0], axis=1), 0, atol=1e-6)
        np.testing.assert_array_equal(heads.normalise_from_last(jnp.asarray(self.x))[0][:, -1], 0)

    def test_a_constant_window_stays_finite(self):
        y, scale = heads.normalise_window(jnp.full((1, 5, 1), 7.0))
        np.testing.assert_array_equal(y, 0)
        np.testing.assert_allclose(heads.restore(jnp.zeros((1, 2, 1, 1)), scale), 7)


class TestForecast:
    @given(seed=st.integers(0, 100), size=st.sampled_from([0.1, 10.0, 1e4]))
    def test_quantiles_never_cross(self, seed, size):
        rng = np.random.default_rng(seed)
        params = heads.init_forecast(HEAD, 4, jax.random.key(0))
        params = jax.tree.map(lambda p: jnp.asarray(size * rng.normal(size=p.shape), jnp.float32), params)
        found = heads.forecast(HEAD, params, jnp.asarray(rng.normal(size=(5, 2, 4)), jnp.float32))
        assert found.shape == (5, 3, 2, 5)
        assert np.all(np.diff(found, axis=-1) >= 0)
        assert np.any(np.diff(found, axis=-1) > 0)
        np.testing.assert_array_equal(heads.point_forecast(HEAD, found), found[..., 2])

    def test_it_starts_at_the_quantiles_of_a_standard_normal(self):
        params = heads.init_forecast(HEAD, 4, jax.random.key(0))
        found = heads.forecast(HEAD, params, jnp.zeros((1, 1, 4)))
        expected = [-1.644854, -0.67449, 0, 0.67449, 1.644854]
        np.testing.assert_allclose(found, np.broadcast_to(expected, found.shape), atol=1e-5)

    def test_it_reads_the_last_step_alone(self):
        params = heads.init_forecast(HEAD, 4, jax.random.key(0))
        x = np.random.default_rng(0).normal(size=(1, 6, 4)).astype(np.float32)
        same, other = x.copy(), x.copy()
        same[:, :-1] += 1
        other[:, -1] += 1
        first, second, third = (np.asarray(heads.forecast(HEAD, params, jnp.asarray(f))) for f in (x, same, other))
        np.testing.assert_array_equal(first, second)
        assert np.all(first != third)

    @pytest.mark.parametrize("levels", [(0.1, 0.9), (0.5, 0.1), (0.0, 0.5), (0.5, 1.0), (0.5, 0.5), ()])
    def test_levels_are_ascending_with_the_median(self, levels):
        with pytest.raises(ValueError, match=r"ForecastHead\.levels is .*, expected ascending levels inside \(0, 1\)"):
            ForecastHead(horizon=1, channels=1, levels=levels)

    def test_wrong_sizes_are_refused_by_name(self):
        with pytest.raises(ValueError, match=r"ForecastHead\.horizon is 0, expected at least 1"):
            ForecastHead(horizon=0, channels=1)
        params = heads.init_forecast(HEAD, 4, jax.random.key(0))
        with pytest.raises(ValueError, match=r"has shape \(4, 3, 2, 5\), expected \(6, 3, 2, 5\)"):
            heads.forecast(HEAD, params, jnp.zeros((1, 1, 6)))


class TestPinball:
    def test_its_minimum_is_at_the_quantiles_of_the_data(self):
        """Steps down the gradient of a constant forecast end at NumPy's quantiles."""
        data = np.random.default_rng(0).exponential(size=(401, 1, 1)).astype(np.float32)
        head = ForecastHead(horizon=1, channels=1, levels=(0.2, 0.5, 0.9))

        def loss(constant):
            return heads.pinball_loss(head, jnp.broadcast_to(constant, (401, 1, 1, 3)), jnp.asarray(data))

        def descend(constant, rate):
            return constant - rate * jax.grad(loss)(constant), None

        found, _ = jax.lax.scan(descend, jnp.zeros((3,)), jnp.geomspace(1.0, 1e-3, 600))
        np.testing.assert_allclose(found, np.quantile(data, head.levels), atol=0.02)

    def test_its_gradient_is_the_share_on_the_wrong_side(self):
        head = ForecastHead(horizon=1, channels=1, levels=(0.1, 0.5))
        target = jnp.asarray([1.0, 2.0, 3.0, 4.0]).reshape(4, 1, 1)

        def loss(quantiles):
            return heads.pinball_loss(head, jnp.broadcast_to(quantiles, (4, 1, 1, 2)), target)

        at = jnp.asarray([2.5, 3.5])
        # Half of the values lie below the first, three quarters below the second; the mean is over both levels.
        np.testing.assert_allclose(jax.grad(loss)(at), [(0.5 - 0.1) / 2, (0.75 - 0.5) / 2], rtol=1e-6)
        nudged = [(loss(at + h) - loss(at - h)) / 0.02 for h in 0.01 * jnp.eye(2)]
        np.testing.assert_allclose(jax.grad(loss)(at), nudged, rtol=1e-3)

    def test_with_the_median_alone_it_is_half_of_the_mean_absolute_error(self):
        head = ForecastHead(horizon=1, channels=1, levels=(0.5,))
        loss = heads.pinball_loss(head, jnp.asarray([1.0, -3.0]).reshape(2, 1, 1, 1), jnp.zeros((2, 1, 1)))
        assert float(loss) == pytest.approx(1)


def waves(batch, length, seed):
    """Two sines and a little noise; phase and size differ by row."""
    rng = np.random.default_rng(seed)
    t = np.arange(length)[None] + rng.uniform(0, 100, (batch, 1))
    size = rng.uniform(0.5, 2, (batch, 1))
    return ((np.sin(2 * np.pi * t / 12) + 0.5 * np.sin(2 * np.pi * t / 31)) * size)[..., None].astype(np.float32)


def test_a_tiny_model_forecasts_a_mixture_of_sines():
    """After 100 steps the median is much nearer than the window's own mean and its last value, and the levels hold."""
    config = EigenstateConfig(d_model=16, layers=1, context=48, scales=(1, 2))
    head = ForecastHead(horizon=6, channels=1)

    def predict(params, x):
        scaled, scale = heads.normalise_window(x[:, :48])
        features, _ = eigenstate.features_of_series(config, params["model"], scaled)
        return heads.restore(heads.forecast(head, params["head"], features), scale)

    def loss(params, x, key):
        del key
        return heads.pinball_loss(head, predict(params, x), x[:, 48:]), {}

    keys = jax.random.split(jax.random.key(0), 2)
    start = {"model": eigenstate.init_series(config, 1, keys[0]), "head": heads.init_forecast(head, 16, keys[1])}
    optimizer = adamw()
    step, schedule = make_step(loss, optimizer), cosine(0.02, warmup=10, steps=100)
    data = jnp.asarray(waves(100 * 32, 54, seed=0).reshape(100, 32, 54, 1))
    rates = jnp.asarray([float(schedule(n)) for n in range(100)])

    @jax.jit
    def fit(state):
        return jax.lax.scan(lambda state, now: (step(state, *now)[0], None), state, (data, rates))[0]

    params = fit(init_state(start, optimizer, keys[0])).params
    held = jnp.asarray(waves(256, 54, seed=1))
    quantiles = np.asarray(jax.jit(predict)(params, held))
    target = np.asarray(held)[:, 48:]
    error = np.mean(np.abs(quantiles[..., 1] - target))
    of_mean = np.mean(np.abs(np.mean(held[:, :48], axis=1, keepdims=True) - target))
    of_last = np.mean(np.abs(np.asarray(held)[:, 47:48] - target))
    assert error < 0.3 * min(of_mean, of_last)
    inside = np.mean((target >= quantiles[..., 0]) & (target <= quantiles[..., 2]))
    assert 0.6 < inside <= 1  # of a nominal 0.8


class TestAnomaly:
    settings = AnomalyScale(memory=64.0, warm_up=16)

    def noise(self, length=300, seed=0):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(2, length, 2)).astype(np.float32)
        return x * np.array([1, 5], np.float32)

    def scores(self, x, state=None):
        """With the prediction that the next value is 0."""
        if state is None:
            state = heads.init_anomaly(x.shape[0], x.shape[2])
        return run_scores(self.settings, jnp.zeros(x.shape), jnp.asarray(x), state)

    def test_a_planted_spike_has_the_highest_score_and_does_not_become_normal(self):
        x = self.noise()
        x[0, 200, 0] += 12
        x[1, 100, 1] -= 60
        found, _ = self.scores(x)
        quiet, _ = self.scores(self.noise())
        np.testing.assert_array_equal(np.argmax(found, axis=1), [200, 100])
        assert np.all(np.max(found, axis=1) > 8)
        # What follows scores at least 85 per cent of what it would have without the spike.
        assert np.all(np.asarray(found)[0, 201:] >= 0.85 * np.asarray(quiet)[0, 201:])

    def test_scores_of_normal_errors_are_in_deviations(self):
        found, _ = self.scores(self.noise(2000)[..., :1])
        assert np.mean(np.square(found[:, 200:])) == pytest.approx(1, abs=0.15)

    def test_nothing_is_scored_while_the_scale_is_unknown(self):
        found, _ = self.scores(self.noise())
        np.testing.assert_array_equal(found[:, :17], 0)  # the first value has no error, the next 16 are learned from
        assert np.all(found[:, 17:] > 0)

    def test_the_scale_follows_the_definition(self):
        x = self.noise(60)[:1, :, :1]
        _, state = self.scores(x)
        scale = 0.0
        for n, error in enumerate(np.abs(x[0, 1:, 0].astype(np.float64)), 1):
            counted = min(error, 4 * scale) if n > 16 else error
            scale += max(1 / n, 1 / 64) * (counted - scale)
        assert float(state.scale[0, 0]) == pytest.approx(scale, rel=1e-5)
        assert float(state.errors[0]) == 59

    @given(cuts=st.sets(st.sampled_from([1, 17, 40, 100, 250]), max_size=3))
    def test_streaming_equals_the_batch(self, cuts):
        x = self.noise()
        whole, last = self.scores(x)
        state, parts = None, []
        for begin, end in zip([0, *sorted(cuts)], [*sorted(cuts), 300], strict=True):
            part, state = self.scores(x[:, begin:end], state)
            parts.append(part)
        np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)
        jax.tree.map(np.testing.assert_array_equal, state, last)

    def test_no_score_depends_on_a_later_value(self):
        x = self.noise()
        changed = x.copy()
        changed[:, 150:] += 3
        before, after = (np.asarray(self.scores(series)[0]) for series in (x, changed))
        np.testing.assert_array_equal(before[:, :150], after[:, :150])
        assert np.any(before[:, 150:] != after[:, 150:])

    def test_the_error_is_that_of_the_prediction_one_step_before(self):
        x = np.cumsum(self.noise(100), axis=1)
        ahead = np.concatenate([x[:, 1:], x[:, -1:]], axis=1)
        found, _ = run_scores(self.settings, jnp.asarray(ahead), jnp.asarray(x), heads.init_anomaly(2, 2))
        np.testing.assert_array_equal(found, 0)

    def test_another_series_or_state_is_refused(self):
        x = jnp.zeros((2, 3, 2))
        with pytest.raises(ValueError, match=r"predictions have shape \(2, 3, 1\), expected \(2, 3, 2\)"):
            heads.anomaly_scores(self.settings, x[..., :1], x, heads.init_anomaly(2, 2))
        with pytest.raises(ValueError, match=r"AnomalyState.scale has shape \(3, 2\), expected \(2, 2\)"):
            heads.anomaly_scores(self.settings, x, x, heads.init_anomaly(3, 2))
        with pytest.raises(ValueError, match=r"AnomalyScale\.memory is 0.0, expected at least 1"):
            AnomalyScale(memory=0.0)
        with pytest.raises(ValueError, match=r"AnomalyScale\.floor is 0.0, expected more than 0"):
            AnomalyScale(floor=0.0)


run_scores = jax.jit(heads.anomaly_scores, static_argnums=0)


def test_the_prediction_starts_near_the_present_value_and_reads_the_features():
    params = heads.init_prediction(2, 4, jax.random.key(0))
    rng = np.random.default_rng(0)
    x, features = (jnp.asarray(rng.normal(size=(1, 5, n)), jnp.float32) for n in (2, 4))
    found = np.asarray(heads.predict_next(params, features, x))
    assert 0 < np.abs(found - np.asarray(x)).max() < 0.5
    with pytest.raises(ValueError, match=r"has shape \(4, 2\), expected \(4, 1\)"):
        heads.predict_next(params, features, x[..., :1])
