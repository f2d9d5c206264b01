"""Sampling: the truncations against their definitions, and a stream that equals feeding the whole text again."""

from __future__ import annotations

import inspect
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas_jax.models import registered
from atlas_jax.models.generate import generate, greedy, kth_largest, truncate
from spectral.resonance import ResonanceConfig

MODEL = registered()["resonance"]
CONFIG = ResonanceConfig(vocab_size=19, d_model=16, layers=2, heads=2, modes=2, context=64, chunk=8)


@pytest.fixture(scope="module")
def params():
    params = jax.jit(partial(MODEL.init, CONFIG))(jax.random.key(0))
    return {**params, "head": 6 * params["head"]}  # far from uniform, so that truncation matters


@pytest.fixture(scope="module")
def prompt():
    return jnp.asarray(np.random.default_rng(0).integers(0, 19, (2, 11)), jnp.int32)


def kept(logits, **options):
    return np.isfinite(np.asarray(truncate(jnp.asarray(logits, jnp.float32)[None], **options))[0])


@given(st.integers(0, 1000), st.integers(1, 19), st.floats(0.05, 1.0), st.floats(0.1, 3.0))
def test_truncation_keeps_what_its_definition_says(seed, top_k, top_p, temperature):
    logits = np.random.default_rng(seed).normal(size=19) * 2
    rank = np.argsort(np.argsort(-logits))
    np.testing.assert_array_equal(kept(logits, top_k=top_k, temperature=temperature), rank < top_k)
    share = np.exp(logits / temperature) / np.exp(logits / temperature).sum()
    before = np.array([share[rank < r].sum() for r in rank])
    found = kept(logits, top_p=top_p, temperature=temperature)
    clear = np.abs(before - top_p) > 1e-5  # rounding may decide what lies on the border
    np.testing.assert_array_equal(found[clear], (before < top_p)[clear])
    assert found[np.argmax(logits)]


def test_draws_follow_the_distribution():
    logits = jnp.log(jnp.asarray([[0.5, 0.3, 0.15, 0.05]]))
    kept_logits = truncate(logits, temperature=0.5, top_k=3)
    expected = np.array([0.25, 0.09, 0.0225, 0]) / 0.3625
    drawn = jax.random.categorical(jax.random.key(0), jnp.broadcast_to(kept_logits, (20_000, 4)))
    np.testing.assert_allclose(np.bincount(drawn, minlength=4) / 20_000, expected, atol=0.015)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "temperature is 0.0, expected above 0"),
        ({"temperature": 1e-40}, "temperature is 1e-40, expected above 0, 1e-30 at the least"),
        ({"temperature": float("nan")}, "temperature is nan, expected above 0"),
        ({"top_k": 2.5}, "top_k is 2.5, expected 1 to vocab_size = 5"),
        ({"top_k": 0}, "top_k is 0, expected 1 to vocab_size = 5"),
        ({"top_k": 6}, "top_k is 6, expected 1 to vocab_size = 5"),
        ({"top_p": 0.0}, "top_p is 0.0, expected above 0 and at most 1"),
        ({"top_p": 1.5}, "top_p is 1.5, expected above 0 and at most 1"),
    ],
)
def test_an_option_out_of_range_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        inspect.unwrap(truncate)(jnp.zeros((1, 5)), **options)


def test_the_likeliest_continuation_equals_feeding_everything_again(params, prompt):
    found = np.asarray(jax.jit(partial(greedy, MODEL, CONFIG, tokens=9))(params, prompt))
    text = np.asarray(prompt)
    for place in range(9):
        logits, _ = MODEL.apply(CONFIG, params, jnp.asarray(text))
        following = np.asarray(jnp.argmax(logits[:, -1], axis=-1))
        np.testing.assert_array_equal(found[:, place], following)
        text = np.concatenate([text, following[:, None].astype(np.int32)], axis=1)


def test_a_seed_decides_the_draw_and_a_state_goes_on(params, prompt):
    draw = jax.jit(partial(generate, MODEL, CONFIG, tokens=12, temperature=0.8, top_p=0.9))
    one, state = draw(params, prompt, jax.random.key(1))
    same, _ = draw(params, prompt, jax.random.key(1))
    other, _ = draw(params, prompt, jax.random.key(2))
    np.testing.assert_array_equal(one, same)
    assert np.any(np.asarray(one) != np.asarray(other))
    # The state holds all but the last token, so feeding that one is as feeding the whole text.
    whole, _ = MODEL.apply(CONFIG, params, jnp.concatenate([prompt, one], axis=1))
    following, _ = MODEL.step(CONFIG, params, one[:, -1], state)
    np.testing.assert_allclose(following, whole[:, -1], rtol=1e-4, atol=1e-4)


def test_nothing_to_feed_or_to_draw_is_refused(params, prompt):
    with pytest.raises(ValueError, match="prompt of 0 tokens, 3 to draw; expected at least 1 of each"):
        generate(MODEL, CONFIG, params, prompt[:, :0], jax.random.key(0), tokens=3)
    with pytest.raises(ValueError, match="prompt of 11 tokens, 0 to draw"):
        generate(MODEL, CONFIG, params, prompt, jax.random.key(0), tokens=0)


@pytest.mark.parametrize(
    ("given_prompt", "message"),
    [
        ([1, 2], r"generate: prompt is a list, expected integers \[batch, time\]"),
        (np.zeros(3, np.int32), r"generate: prompt is int32\[3\], expected integers \[batch, time\]"),
        (np.zeros((1, 3), np.float32), r"generate: prompt is float32\[1, 3\], expected integers"),
    ],
)
def test_a_prompt_that_is_none_is_told(params, given_prompt, message):
    with pytest.raises(ValueError, match=message):
        inspect.unwrap(generate)(MODEL, CONFIG, params, given_prompt, jax.random.key(0), tokens=3)


def test_a_number_of_tokens_is_an_integer(params, prompt):
    with pytest.raises(ValueError, match=r"generate: tokens is 2\.0, expected an integer of at least 1"):
        inspect.unwrap(generate)(MODEL, CONFIG, params, prompt, jax.random.key(0), tokens=2.0)


def test_an_answer_that_is_not_a_number_draws_no_token(params, prompt):
    """Not the first of the vocabulary, which would look like one."""
    broken = {**params, "head": params["head"].at[0, 0].set(jnp.nan)}
    for options in ({}, {"top_k": 1}, {"top_p": 0.5}):
        drawn, _ = generate(MODEL, CONFIG, broken, prompt, jax.random.key(0), tokens=1, **options)
        np.testing.assert_array_equal(drawn, -1)


def test_the_coldest_temperature_draws_the_likeliest():
    logits = jnp.asarray([[3e8, 1.0, 3.1e8, -1e8]])
    drawn = jax.random.categorical(jax.random.key(0), jnp.broadcast_to(truncate(logits, temperature=1e-30), (99, 4)))
    np.testing.assert_array_equal(drawn, 2)


@given(st.integers(0, 2**32 - 1), st.integers(1, 37))
def test_kth_largest_is_exact(seed, k):
    x = np.random.default_rng(seed).normal(size=(3, 37)).astype(np.float32)
    x[0, :5], x[1, 3:20], x[2, 7] = -np.inf, x[1, 0], 0.0
    found = kth_largest(jnp.asarray(x), k)
    np.testing.assert_array_equal(np.asarray(found)[:, 0], np.sort(x, axis=-1)[:, -k])
