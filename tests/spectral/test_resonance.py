"""Resonance beyond the shared contract: its config, its counted sizes, and that it learns what needs memory."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax.models import describe
from atlas_jax.nn.norms import rms_norm
from atlas_jax.training import adamw, cosine, init_state, make_step, train
from spectral import resonance
from spectral.layers import SpectralFFN
from spectral.resonance import PRESETS, ResonanceConfig

SIZES = ("vocab_size", "d_model", "layers", "heads", "modes", "feed_forward", "context", "chunk")


@pytest.mark.parametrize("name", SIZES)
def test_a_size_below_one_is_refused_by_name(name):
    with pytest.raises(ValueError, match=rf"ResonanceConfig\.{name} is 0, expected at least 1"):
        ResonanceConfig(**{name: 0})


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="d_model is 30, expected a multiple of heads = 4"):
        ResonanceConfig(d_model=30, heads=4)


@pytest.mark.parametrize(
    ("preset", "parameters"), [("micro-32", 80_160), ("micro-128", 492_416), ("micro-208", 1_032_976)]
)
def test_presets_have_their_counted_size(preset, parameters):
    assert describe("resonance", preset)["parameters"] == parameters


@pytest.mark.parametrize(
    ("preset", "parameters", "context"), [("tiny", 76e6, 16_384), ("small", 454e6, 65_536), ("base", 983e6, 131_072)]
)
def test_large_presets_have_the_published_size_within_three_per_cent(preset, parameters, context):
    found = describe("resonance", preset)
    assert found["parameters"] == pytest.approx(parameters, rel=0.03)
    assert found["context"] == context


def test_every_preset_s_size_is_its_formula():
    for preset, c in PRESETS.items():
        block = 2 * c.d_model + 4 * c.heads * c.modes + (3 + 2 * c.feed_forward) * c.d_model**2
        tables = 1 if c.tied else 2
        total = tables * c.vocab_size * c.d_model + c.d_model + c.layers * block
        assert describe("resonance", preset)["parameters"] == total
        state = c.layers * 2 * c.modes * c.d_model * 4
        assert describe("resonance", preset)["state_bytes"] == state


def test_deep_models_scan_their_layers():
    """More than four layers run as a loop, with the same numbers as the layers one after the other."""
    config = ResonanceConfig(vocab_size=17, d_model=8, layers=6, heads=2, modes=2, context=16, chunk=4)
    params = jax.jit(partial(resonance.init, config))(jax.random.key(0))
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 17, (2, 10)), jnp.int32)
    looped, state = jax.jit(partial(resonance.apply, config))(params, tokens)
    one = ResonanceConfig(vocab_size=17, d_model=8, layers=1, heads=2, modes=2, context=16, chunk=4)
    block = jax.jit(lambda weights, x: resonance.layer_of(one).apply({"params": weights}, x, None))
    x = jnp.take(params["embedding"], tokens, axis=0) * resonance.EMBEDDING_SCALE
    for layer in range(6):
        weights = jax.tree.map(lambda leaf, n=layer: leaf[n], params["blocks"])
        x, after = block(weights, x)
        np.testing.assert_allclose(state.modes[layer], after.modes, rtol=1e-4, atol=1e-5)
    logits = rms_norm(x, params["norm"]) @ params["head"]
    np.testing.assert_allclose(looped, logits, rtol=1e-4, atol=1e-5)


class Recurrent:
    """Text whose next token is the last but one plus 3, modulo 16: the last token alone says nothing about it."""

    def at(self, position):
        rng = np.random.default_rng(position)
        tokens = np.zeros((16, 25), np.int64)
        tokens[:, :2] = rng.integers(0, 16, (16, 2))
        for t in range(2, 25):
            tokens[:, t] = (tokens[:, t - 2] + 3) % 16
        return tokens.astype(np.int32)


def test_a_tiny_model_learns_what_only_memory_can_tell():
    config = ResonanceConfig(vocab_size=16, d_model=16, layers=1, heads=2, modes=2, context=24, chunk=8)

    def loss(params, windows, key):
        del key
        logits, _ = resonance.apply(config, params, windows[:, :-1])
        picked = jnp.take_along_axis(jax.nn.log_softmax(logits), windows[:, 1:, None], axis=-1)
        return -jnp.mean(picked[:, 1:]) / np.log(2), {}

    optimizer = adamw()
    params = jax.jit(partial(resonance.init, config))(jax.random.key(0))
    state = init_state(params, optimizer, jax.random.key(1))
    schedule = cosine(0.02, warmup=10, steps=150)
    events = list(train(make_step(loss, optimizer), state, Recurrent(), schedule, steps=150))
    assert float(events[0].metrics["loss"]) > 3.5
    assert float(events[-1].metrics["loss"]) < 0.5  # unigram and bigram entropy are 4 bits


SMALL = ResonanceConfig(vocab_size=17, d_model=16, layers=2, heads=2, modes=2, context=64, chunk=8)
VARIANTS = {
    "band gate": replace(SMALL, band_gate=True),
    "spectral feed-forward": replace(SMALL, channel_block=8),
    "tied and recomputed": replace(SMALL, tied=True, recompute=True),
    "all of them, deep": replace(SMALL, layers=5, band_gate=True, channel_block=8, tied=True, recompute=True),
}


def streamed(config, params, tokens):
    """Logits of `step` after `step`."""

    def body(state, token):
        logits, state = resonance.step(config, params, token, state)
        return state, logits

    _, logits = jax.lax.scan(body, resonance.init_state(config, len(tokens)), tokens.T)
    return logits.swapaxes(0, 1)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_part_is_causal_streams_and_learns(name):
    config = VARIANTS[name]
    params = jax.jit(partial(resonance.init, config))(jax.random.key(0))
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 17, (2, 29)), jnp.int32)
    whole = jax.jit(lambda tokens: resonance.apply(config, params, tokens)[0])
    logits = whole(tokens)
    np.testing.assert_allclose(jax.jit(partial(streamed, config, params))(tokens), logits, rtol=1e-4, atol=1e-5)
    changed = tokens.at[:, 20].set((tokens[:, 20] + 1) % 17)
    moved = np.any(np.asarray(whole(changed)) != np.asarray(logits), axis=-1)
    assert not moved[:, :20].any()
    assert moved[:, 20:].any(axis=1).all()
    gradient = jax.jit(jax.grad(lambda p: jnp.square(resonance.apply(config, p, tokens)[0]).sum()))(params)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert np.any(np.asarray(leaf) != 0), f"no gradient reaches {jax.tree_util.keystr(path)}"


def test_recomputation_changes_no_gradient():
    def gradient(config):
        params = resonance.init(config, jax.random.key(0))
        tokens = jnp.arange(12, dtype=jnp.int32)[None]
        return jax.jit(jax.grad(lambda p: jnp.square(resonance.apply(config, p, tokens)[0]).mean()))(params)

    kept, again = gradient(SMALL), gradient(replace(SMALL, recompute=True))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-6 * np.abs(a).max()), kept, again)


def test_an_identity_spectrum_is_a_plain_feed_forward():
    config = VARIANTS["spectral feed-forward"]
    params = jax.jit(partial(resonance.init, config))(jax.random.key(0))
    inner = params["blocks"]["feed_forward"]
    plain = {**params, "blocks": {**params["blocks"], "feed_forward": {k: inner[k] for k in ("up", "down")}}}
    tokens = jnp.arange(12, dtype=jnp.int32)[None]
    spectral = resonance.apply(config, params, tokens)[0]
    np.testing.assert_allclose(spectral, resonance.apply(SMALL, plain, tokens)[0], rtol=1e-4, atol=1e-5)


def test_a_channel_block_mixes_within_itself_only():
    layer, x = SpectralFFN(width=8, block=4), jnp.asarray(np.random.default_rng(0).normal(size=(1, 1, 8)), jnp.float32)
    params = layer.init(jax.random.key(0), x)["params"]
    params = {
        **params,
        "up": jnp.eye(8),
        "down": jnp.eye(8),
        "real": params["real"].at[0].set(jnp.array([1, 0.2, -0.5])),
    }
    y = layer.apply({"params": params}, jnp.abs(x))[0, 0]
    taps = np.fft.irfft([1, 0.2, -0.5], n=4)
    circulant = np.array([[taps[(i - j) % 4] for j in range(4)] for i in range(4)])
    expected = np.maximum(circulant @ np.abs(x[0, 0, :4]), 0) ** 2
    np.testing.assert_allclose(y[:4], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(y[4:], np.square(np.abs(x[0, 0, 4:])), rtol=1e-5)


def test_bfloat16_stays_close_to_float32():
    params = jax.jit(partial(resonance.init, SMALL))(jax.random.key(0))
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 17, (2, 29)), jnp.int32)
    exact, _ = resonance.apply(SMALL, params, tokens)
    config = replace(SMALL, dtype="bfloat16")
    rounded, state = jax.jit(partial(resonance.apply, config))(params, tokens)
    assert rounded.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(state)} == {jnp.dtype("float32")}
    np.testing.assert_allclose(rounded, exact, rtol=0, atol=0.03 * float(jnp.abs(exact).max()))
    np.testing.assert_allclose(
        jax.jit(partial(streamed, config, params))(tokens), rounded, rtol=0, atol=0.03 * float(jnp.abs(exact).max())
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"channel_block": 5},
            "channel_block is 5, expected 0 or a divisor, 2 at least, of feed_forward x d_model = 32",
        ),
        ({"channel_block": 1}, "channel_block is 1, expected 0 or a divisor"),
        ({"dtype": "float16"}, "dtype is 'float16', expected 'float32' or 'bfloat16'"),
    ],
)
def test_a_wrong_option_is_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=rf"ResonanceConfig\.{message}"):
        replace(SMALL, **changes)


@pytest.mark.parametrize(
    ("tokens", "state", "message"),
    [
        (np.zeros((2, 65), np.int32), None, "Resonance: 65 tokens in one call, expected at most context = 64"),
        (
            np.zeros((2, 5), np.int32),
            resonance.init_state(SMALL, 3),
            r"ResonanceState\.modes has shape \(2, 3, 2, 4, 8\)",
        ),
        (
            np.zeros((2, 5), np.int32),
            resonance.init_state(replace(SMALL, layers=3), 2),
            r"ResonanceState\.modes has shape \(3, 2, 2, 4, 8\), expected \(2, 2, 2, 4, 8\) for this model and batch",
        ),
    ],
)
def test_wrong_inputs_are_refused_by_name(tokens, state, message):
    params = jax.eval_shape(partial(resonance.init, SMALL), jax.random.key(0))
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(partial(resonance.features, SMALL), params, tokens, state)
