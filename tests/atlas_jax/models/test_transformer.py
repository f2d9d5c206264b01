"""The transformer beyond the shared contract: its config and sizes, an independent float64 forward pass, what it learns."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax.models import describe, transformer
from atlas_jax.models.transformer import PRESETS, TransformerConfig
from atlas_jax.training import adamw, cosine, init_state, make_step, train

SIZES = ("vocab_size", "d_model", "layers", "heads", "feed_forward", "context", "chunk")
SMALL = TransformerConfig(vocab_size=17, d_model=12, layers=2, heads=3, feed_forward=10, context=11, chunk=4)


def parameters(config, seed=0):
    return jax.jit(partial(transformer.init, config))(jax.random.key(seed))


def tokens_of(config, length, batch=2):
    return np.random.default_rng(0).integers(0, config.vocab_size, (batch, length), dtype=np.int32)


@pytest.mark.parametrize("name", SIZES)
def test_a_size_below_one_is_refused_by_name(name):
    with pytest.raises(ValueError, match=rf"TransformerConfig\.{name} is 0, expected at least 1"):
        TransformerConfig(**{name: 0})


@pytest.mark.parametrize(("d_model", "heads"), [(30, 4), (36, 4)])
def test_heads_must_divide_the_width_into_pairs(d_model, heads):
    with pytest.raises(ValueError, match=rf"d_model is {d_model}, expected a multiple of 2 heads = 8"):
        TransformerConfig(d_model=d_model, heads=heads)


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_have_the_size_of_resonance(preset):
    config = PRESETS[preset]
    count = sum(
        leaf.size for leaf in jax.tree.leaves(jax.eval_shape(partial(transformer.init, config), jax.random.key(0)))
    )
    assert count == pytest.approx(describe("resonance", preset)["parameters"], rel=0.02)
    d, f, width = config.d_model, config.feed_forward, config.d_model // config.heads
    block = 4 * d + 2 * width + 4 * d * d + 3 * d * f
    assert count == 2 * config.vocab_size * d + d + config.layers * block


def definition(config, params, tokens):
    """The whole model in float64 NumPy, one sequence, every pair of tokens."""
    d, width = config.d_model, config.d_model // config.heads

    def norm(x, scale):
        return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + 1e-6) * scale

    def turn(x):  # [t, h, k]
        angle = np.arange(len(x))[:, None] * (config.context / 2 / np.pi) ** (-2 * np.arange(width // 2) / width)
        z = (x[..., : width // 2] + 1j * x[..., width // 2 :]) * np.exp(1j * angle)[:, None]
        return np.concatenate([z.real, z.imag], axis=-1)

    x = params["embedding"][tokens] * transformer.EMBEDDING_SCALE
    for n in range(config.layers):
        w = {name: leaf[n] for name, leaf in params["blocks"].items()}
        projected = norm(x, w["attention_norm"]) @ w["query_key_value"]
        q, k, v = (projected[:, i * d : (i + 1) * d].reshape(len(x), config.heads, width) for i in range(3))
        q, k = norm(q, w["query_norm"]) + w["query_bias"], norm(k, w["key_norm"]) + w["key_bias"]
        scores = np.einsum("thk,shk->hts", turn(q), turn(k)) / np.sqrt(width)
        distance = np.subtract.outer(np.arange(len(x)), np.arange(len(x)))
        weights = np.where((distance >= 0) & (distance < config.context), np.exp(scores), 0)
        mixed = np.einsum("hts,shk->thk", weights / weights.sum(axis=-1, keepdims=True), v)
        x = x + mixed.reshape(len(x), d) @ w["out"]
        up, gate = np.split(norm(x, w["feed_forward_norm"]) @ w["up_gate"], 2, axis=1)
        x = x + (up * gate / (1 + np.exp(-gate))) @ w["down"]
    return norm(x, params["norm"]) @ params["head"]


@pytest.mark.parametrize("layers", [2, 6])  # more than four layers run as a loop
def test_logits_equal_the_definition_also_beyond_the_window(layers):
    config = TransformerConfig(**{name: getattr(SMALL, name) for name in SIZES} | {"layers": layers})
    tokens = tokens_of(config, 3 * config.context)
    with jax.enable_x64(True):
        params = jax.tree.map(lambda x: x.astype(jnp.float64), parameters(config))
        state = jax.tree.map(lambda x: x.astype(jnp.float64), transformer.init_state(config, len(tokens)))
        run, pieces = jax.jit(partial(transformer.apply, config)), []
        for start in range(0, tokens.shape[1], config.context):
            logits, state = run(params, tokens[:, start : start + config.context], state)
            pieces.append(np.asarray(logits))
    logits = np.concatenate(pieces, axis=1)
    for row, found in zip(tokens, logits, strict=True):
        np.testing.assert_allclose(found, definition(config, jax.tree.map(np.asarray, params), row), rtol=0, atol=1e-11)


def test_features_are_what_the_head_reads():
    params, tokens = parameters(SMALL), tokens_of(SMALL, 9)
    x, _ = jax.jit(partial(transformer.features, SMALL))(params, tokens)
    logits, _ = jax.jit(partial(transformer.apply, SMALL))(params, tokens)
    np.testing.assert_allclose(x @ params["head"], logits, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(np.mean(np.square(x), axis=-1), 1, rtol=1e-3)  # normalised, with the scale still at one


@pytest.mark.parametrize("preset", PRESETS)
def test_an_untrained_model_says_next_to_nothing(preset):
    config = PRESETS[preset]
    logits, _ = jax.jit(partial(transformer.apply, config))(parameters(config), tokens_of(config, 32))
    bits = np.asarray(jax.nn.logsumexp(logits, axis=-1) - jnp.mean(logits, axis=-1)) / np.log(2)
    assert abs(bits.mean() - np.log2(config.vocab_size)) < 0.02


@pytest.mark.parametrize("layers", [1, 8])
def test_the_branches_start_small_at_any_depth(layers):
    config = TransformerConfig(d_model=64, layers=layers, feed_forward=64)
    blocks = parameters(config)["blocks"]
    for name, rows in (("out", 64), ("down", 64)):
        assert np.std(blocks[name]) == pytest.approx(0.1 * (2 * layers * rows) ** -0.5, rel=0.05)
    assert np.std(blocks["query_key_value"]) == pytest.approx(64**-0.5, rel=0.05)


@pytest.mark.parametrize("preset", PRESETS)
def test_head_i_starts_by_looking_i_plus_one_tokens_back(preset):
    config = PRESETS[preset]
    blocks = parameters(config)["blocks"]
    length, width = 40, config.d_model // config.heads
    biases = [np.asarray(blocks[name][0], np.float64) for name in ("query_bias", "key_bias")]
    angle = np.arange(length)[:, None] * transformer.rotary_base(config) ** (-2 * np.arange(width // 2) / width)
    query, key = (np.exp(1j * angle) * (b[:, None, : width // 2] + 1j * b[:, None, width // 2 :]) for b in biases)
    scores = np.einsum("htr,hsr->hts", query, key.conj()).real / np.sqrt(width)
    for head in range(config.heads):
        past = scores[head, -1, ::-1]  # by distance
        assert np.argmax(past) == head + 1
        assert past[head + 1] == pytest.approx(transformer.LOOK_BACK, rel=1e-5)
        assert past[head + 10 :].max() < transformer.LOOK_BACK / 2


def test_wrong_input_is_refused():
    params, tokens = parameters(SMALL), tokens_of(SMALL, 12)
    with pytest.raises(ValueError, match="12 tokens in one call, expected at most context = 11"):
        transformer.apply(SMALL, params, tokens)
    with pytest.raises(ValueError, match=r"keys has shape \(2, 3, 10, 3, 4\), expected \(2, 2, 10, 3, 4\)"):
        transformer.apply(SMALL, params, tokens[:, :5], transformer.init_state(SMALL, 3))


class Recurrent:
    """Text whose next token is the last but one plus 3, modulo 16: the last token alone says nothing about it."""

    def at(self, position):
        rng = np.random.default_rng(position)
        tokens = np.zeros((16, 25), np.int64)
        tokens[:, :2] = rng.integers(0, 16, (16, 2))
        for t in range(2, 25):
            tokens[:, t] = (tokens[:, t - 2] + 3) % 16
        return tokens.astype(np.int32)


def test_a_tiny_model_learns_to_look_back():
    config = TransformerConfig(vocab_size=16, d_model=16, layers=1, heads=2, feed_forward=16, context=24)

    def loss(params, windows, key):
        del key
        logits, _ = transformer.apply(config, params, windows[:, :-1])
        picked = jnp.take_along_axis(jax.nn.log_softmax(logits), windows[:, 1:, None], axis=-1)
        return -jnp.mean(picked[:, 1:]) / np.log(2), {}

    optimizer = adamw()
    state = init_state(parameters(config), optimizer, jax.random.key(1))
    schedule = cosine(0.02, warmup=10, steps=200)
    events = list(train(make_step(loss, optimizer), state, Recurrent(), schedule, steps=200))
    assert float(events[0].metrics["loss"]) == pytest.approx(4, abs=0.1)
    assert float(events[-1].metrics["loss"]) < 0.1
