"""Resonance beyond the shared contract: its config, its counted sizes, and that it learns what needs memory."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax.models import describe
from atlas_jax.training import adamw, cosine, init_state, make_step, train
from spectral import resonance
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


def test_every_preset_s_size_is_its_formula():
    for preset, c in PRESETS.items():
        block = 2 * c.d_model + 4 * c.heads * c.modes + (3 + 2 * c.feed_forward) * c.d_model**2
        total = 2 * c.vocab_size * c.d_model + c.d_model + c.layers * block
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
    block = jax.jit(lambda weights, x: resonance._block(one).apply({"params": weights}, x, None))
    x = jnp.take(params["embedding"], tokens, axis=0) * resonance.EMBEDDING_SCALE
    for layer in range(6):
        weights = jax.tree.map(lambda leaf, n=layer: leaf[n], params["blocks"])
        x, modes = block(weights, x)
        np.testing.assert_allclose(state.modes[layer], modes, rtol=1e-4, atol=1e-5)
    logits = resonance.rms_norm(x, params["norm"]) @ params["head"]
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
    config = ResonanceConfig(vocab_size=16, d_model=16, layers=1, heads=2, modes=2, context=8, chunk=8)

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
