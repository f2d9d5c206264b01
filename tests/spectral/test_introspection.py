"""Filters, eigenvalues and spectra against definitions computed another way."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax.nn.norms import rms_norm
from spectral import reference, resonance
from spectral.convolution import Modes
from spectral.introspection import activations, eigenvalues, figure, filter_responses, layer_outputs, spectral_metrics
from spectral.resonance import ResonanceConfig

CONFIG = ResonanceConfig(vocab_size=23, d_model=16, layers=2, heads=4, modes=3, context=64, chunk=16)


@pytest.fixture(scope="module")
def params():
    return jax.jit(partial(resonance.init, CONFIG))(jax.random.key(0))


@pytest.fixture(scope="module")
def tokens():
    return jnp.asarray(np.random.default_rng(0).integers(0, 23, (3, 40)), jnp.int32)


def modes_of(params, layer):
    mixer = params["blocks"]["mixer"]
    return Modes(*(np.asarray(mixer[name][layer]) for name in ("log_rate", "frequency", "real", "imaginary")))


def test_responses_are_the_transform_of_the_kernel(params):
    frequencies = np.linspace(0, np.pi, 9)
    found = filter_responses(params, frequencies)
    assert found.shape == (2, 4, 9)
    for layer in range(2):
        taps = reference.kernel(modes_of(params, layer), 2000)  # the slowest memory is 64 tokens
        expected = np.abs(taps @ np.exp(-1j * np.outer(np.arange(2000), frequencies)))
        np.testing.assert_allclose(found[layer], expected, rtol=1e-5, atol=1e-6)


def test_eigenvalues_lie_in_the_unit_circle_band_after_band(params):
    found = eigenvalues(params)
    assert found.shape == (2, 4, 3)
    assert np.abs(found).max() < 1
    assert np.all(np.diff(np.abs(found[0]).min(axis=1)) > 0)  # later bands remember longer


def test_activations_are_those_of_the_model(params, tokens):
    outputs, activity = activations(CONFIG, params, tokens)
    np.testing.assert_allclose(
        jax.jit(partial(layer_outputs, CONFIG))(params, tokens), np.stack(outputs), rtol=1e-4, atol=1e-5
    )
    whole, _ = resonance.features(CONFIG, params, tokens)
    np.testing.assert_allclose(rms_norm(outputs[-1], params["norm"]), whole, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(activity.energy.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_array_equal(activity.open, 1)


def test_a_band_that_is_silenced_carries_nothing(params, tokens):
    mixer = dict(params["blocks"]["mixer"])
    mixer["real"], mixer["imaginary"] = (mixer[name].at[0, 2].set(0.0) for name in ("real", "imaginary"))
    silenced = {**params, "blocks": {**params["blocks"], "mixer": mixer}}
    _, activity = activations(CONFIG, silenced, tokens)
    assert activity.energy[0, 2] == 0
    assert activity.energy[1].min() > 0


def test_the_openness_of_a_band_follows_its_threshold(tokens):
    config = replace(CONFIG, band_gate=True)
    params = jax.jit(partial(resonance.init, config))(jax.random.key(0))
    gate = params["blocks"]["mixer"]["band_gate"]
    gate["threshold"] = gate["threshold"].at[1, 3].set(40.0)
    _, activity = activations(config, params, tokens)
    assert activity.open[1, 3] < 1e-6
    assert activity.open[0].min() > 0.3


def test_metrics_of_known_signals():
    t = np.arange(512)
    tone = np.repeat(np.sin(2 * np.pi * 32 / 512 * t)[None, :, None], 4, axis=2)
    noise = np.random.default_rng(1).normal(size=(8, 512, 4))
    of_tone, of_noise = (spectral_metrics(jnp.asarray(x, jnp.float32)) for x in (tone, noise))
    assert of_tone.energy == pytest.approx(0.5, rel=1e-3)
    assert of_tone.entropy < 0.2
    assert of_tone.concentration > 0.999
    assert of_tone.rank == pytest.approx(1, abs=1e-3)
    assert of_noise.energy == pytest.approx(1, rel=0.05)
    assert of_noise.entropy > 0.99
    assert 0.1 < of_noise.concentration < 0.2
    assert of_noise.variance == pytest.approx(1, rel=0.05)
    assert of_noise.rank == pytest.approx(4, rel=0.01)


def test_metrics_at_their_edges():
    nothing = spectral_metrics(jnp.zeros((2, 8, 3)))
    assert nothing.energy == nothing.entropy == nothing.concentration == nothing.variance == 0
    with pytest.raises(ValueError, match="activations of 1 position, expected at least 2"):
        spectral_metrics(jnp.zeros((2, 1, 3)))


def test_the_figure_has_a_row_a_layer(params, tokens):
    page = figure(CONFIG, params, tokens)
    assert len(page.axes) == 6
    assert [len(page.axes[0].lines), len(page.axes[2].patches)] == [4, 4]
