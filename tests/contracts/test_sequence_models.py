"""The contract of `atlas_jax.types.SequenceModel`, for every preset of every registered model."""

from __future__ import annotations

import dataclasses
from functools import cache, partial
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import compiled
from hypothesis import given
from hypothesis import strategies as st

from atlas_jax.models import describe, presets, registered
from atlas_jax.models.generate import greedy

MODELS = registered()
LARGE = 100_000  # parameters from which on a preset is tested at a smaller width
BATCH = 2


def cases():
    """Every preset, those that are the same at the tested size once."""
    found = {}
    for name, preset, config in presets():
        large = describe(name, preset)["parameters"] >= LARGE
        found.setdefault((name, reduced(config) if large else config), []).append(preset)
    for (name, config), same in found.items():
        yield pytest.param(MODELS[name], config, id="-".join([name, *same]))


def reduced(config):
    """The code path of a large preset (its loop over layers, tied head, recomputation, contexts) at a testable size."""
    changes = {"vocab_size": 61, "d_model": 32, "layers": 5, "heads": 4, "dtype": "float32", "context": 1024}
    return dataclasses.replace(config, **{k: v for k, v in changes.items() if hasattr(config, k)})


each_preset = pytest.mark.parametrize(("model", "config"), list(cases()))


def past_a_chunk(config):
    """Tokens that fill no whole number of chunks, and more than one, where the model has any."""
    return getattr(config, "chunk", 32) + 22


def longer(config):
    """With room for more than one chunk in a call, where a chunk is the whole context."""
    return dataclasses.replace(config, context=max(config.context, past_a_chunk(config)))


def short(config):
    """The same code path with few tokens a chunk and a small vocabulary, so that many splits are quick to run."""
    changes = {"vocab_size": 61, "chunk": 8}
    return dataclasses.replace(config, **{k: v for k, v in changes.items() if hasattr(config, k)})


def tokens_of(config, length, batch=BATCH, seed=0):
    return np.random.default_rng(seed).integers(0, config.vocab_size, (batch, length), dtype=np.int32)


def other_token(config, tokens, seed=1):
    """A different token in every place."""
    shift = np.random.default_rng(seed).integers(1, config.vocab_size, tokens.shape, dtype=np.int32)
    return (tokens + shift) % np.int32(config.vocab_size)


@cache
def parameters(model, config):
    return compiled(model.init, static_argnums=0)(config, jax.random.key(0))


@cache
def applied(model):
    return compiled(model.apply, static_argnums=0)


@each_preset
def test_the_future_changes_nothing_and_the_past_does(model, config):
    config, length = longer(config), past_a_chunk(config)
    edge = length - 22
    cuts = np.array([1, 2, 9, edge // 2, edge - 1, edge, edge + 1, length - 1])
    tokens = tokens_of(config, length, len(cuts))
    future = np.arange(length) >= cuts[:, None]
    run = applied(model)
    before, _ = run(config, parameters(model, config), tokens)
    after, _ = run(config, parameters(model, config), np.where(future, other_token(config, tokens), tokens))
    before, after = np.asarray(before), np.asarray(after)
    # Bitwise: the mixing is local in time, so a future token meets only exact zeros.
    np.testing.assert_array_equal(before[~future], after[~future])
    assert np.all(np.any(before[future] != after[future], axis=-1))


@each_preset
def test_one_changed_token_is_remembered(model, config):
    config, length = longer(config), past_a_chunk(config)
    places = np.array([0, 3, length - 24, length - 2])  # the third is the end of the first chunk but one token
    tokens = tokens_of(config, length, len(places))
    changed = np.where(np.arange(length) == places[:, None], other_token(config, tokens), tokens)
    run = applied(model)
    before, _ = run(config, parameters(model, config), tokens)
    after, _ = run(config, parameters(model, config), changed)
    moved = np.any(np.asarray(before) != np.asarray(after), axis=-1)
    for row, place in zip(moved, places, strict=True):
        assert not row[:place].any()
        assert row[place : place + 3].all()


class Stream(NamedTuple):
    """One model at one precision: its tokens, and what `step` said about each of them."""

    model: object
    config: object
    dtype: type
    params: object
    tokens: np.ndarray
    logits: np.ndarray  # [t, b, v]
    states: object  # after each token, [t, ...]


PARTS = (1, 5, 13)  # lengths of a split's pieces: few, as each compiles a program; 13 is a chunk and a remainder
LENGTH = 29
TOLERANCE = {np.float32: 5e-6, np.float64: 1e-12}  # relative to the largest value; measured 4e-7 and 9e-16


def cast(tree, dtype):
    return jax.tree.map(lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree)


@pytest.fixture(scope="module", params=[np.float32, np.float64], ids=["float32", "float64"])
def precision(request):
    return request.param


@cache
def stepped(model, preset_config, dtype):
    """`step` over all tokens as one scan: that it can be scanned is part of the contract."""
    config = short(preset_config)
    params = parameters(model, config)
    tokens = tokens_of(config, LENGTH)
    with jax.enable_x64(dtype == np.float64):
        params = cast(params, dtype)

        def body(state, token):
            logits, state = model.step(config, params, token, state)
            return state, (logits, state)

        start = cast(model.init_state(config, BATCH), dtype)
        _, (logits, states) = compiled(partial(jax.lax.scan, body))(start, tokens.T)
        return Stream(model, config, dtype, params, tokens, np.asarray(logits), jax.tree.map(np.asarray, states))


def assert_close(actual, expected, dtype):
    if np.issubdtype(expected.dtype, np.integer):  # a count, the same at every precision
        np.testing.assert_array_equal(actual, expected)
        return
    bound = TOLERANCE[dtype] * (1 + np.abs(expected).max(initial=0.0))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=bound)
    assert actual.dtype == dtype


def assert_states_close(actual, expected, dtype):
    jax.tree.map(lambda a, e: assert_close(np.asarray(a), e, dtype), actual, expected)


@each_preset
def test_the_whole_equals_its_steps(model, config, precision):
    stream = stepped(model, config, precision)
    with jax.enable_x64(precision == np.float64):
        logits, state = applied(model)(stream.config, stream.params, stream.tokens)
    assert_close(np.asarray(logits), stream.logits.swapaxes(0, 1), precision)
    assert_states_close(state, jax.tree.map(lambda x: x[-1], stream.states), precision)


@each_preset
@given(parts=st.lists(st.sampled_from(PARTS), min_size=1, max_size=8))
def test_any_split_equals_the_steps(model, config, precision, parts):
    stream = stepped(model, config, precision)
    run, done = applied(model), 0
    with jax.enable_x64(precision == np.float64):
        state = cast(model.init_state(stream.config, BATCH), precision)
    for part in parts:
        if done + part > LENGTH:
            break
        with jax.enable_x64(precision == np.float64):
            piece = stream.tokens[:, done : done + part]
            logits, state = run(stream.config, stream.params, piece, state)
        assert_close(np.asarray(logits), stream.logits[done : done + part].swapaxes(0, 1), precision)
        done += part
    assert_states_close(state, jax.tree.map(lambda x: x[done - 1], stream.states), precision)


@each_preset
def test_no_state_is_the_initial_state(model, config):
    config = short(config)
    run = applied(model)
    for length in (5, LENGTH):
        tokens = tokens_of(config, length)
        without = run(config, parameters(model, config), tokens)
        started = run(config, parameters(model, config), tokens, model.init_state(config, BATCH))
        chex.assert_trees_all_close(without, started, rtol=1e-6, atol=1e-6)


@each_preset
def test_the_state_never_grows(model, config):
    params = jax.eval_shape(partial(model.init, config), jax.random.key(0))
    start = jax.eval_shape(lambda: model.init_state(config, BATCH))
    for length in (1, min(past_a_chunk(config), config.context), config.context):
        tokens = jax.ShapeDtypeStruct((BATCH, length), jnp.int32)
        logits, state = jax.eval_shape(partial(model.apply, config), params, tokens)
        chex.assert_trees_all_equal_shapes_and_dtypes(state, start)
        assert logits.shape == (BATCH, length, config.vocab_size)
        assert logits.dtype == jnp.float32
        _, state = jax.eval_shape(partial(model.apply, config), params, tokens, start)
        chex.assert_trees_all_equal_shapes_and_dtypes(state, start)
    logits, state = jax.eval_shape(
        partial(model.step, config), params, jax.ShapeDtypeStruct((BATCH,), jnp.int32), start
    )
    chex.assert_trees_all_equal_shapes_and_dtypes(state, start)
    assert logits.shape == (BATCH, config.vocab_size)


@each_preset
def test_step_compiles_once(model, config):
    config = short(config)
    chex.clear_trace_counter()  # it counts by source text, so over presets too

    @jax.jit
    @chex.assert_max_traces(n=1)
    def step(params, token, state):
        return model.step(config, params, token, state)

    state = model.init_state(config, BATCH)
    for token in jnp.asarray(tokens_of(config, 4).T):
        _, state = step(parameters(model, config), token, state)


@each_preset
def test_every_parameter_learns(model, config):
    config = longer(config)
    tokens = jnp.asarray(tokens_of(config, past_a_chunk(config) + 1))

    @jax.jit
    def gradient(params):
        def loss(params):
            logits, _ = model.apply(config, params, tokens[:, :-1])
            picked = jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[:, 1:, None], axis=-1)
            return -jnp.mean(picked)

        return jax.grad(loss)(params)

    gradients = gradient(parameters(model, config))
    chex.assert_tree_all_finite(gradients)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
        assert np.any(np.asarray(leaf) != 0), f"no gradient reaches {jax.tree_util.keystr(path)}"


@each_preset
def test_parameters_are_float32_and_follow_the_key(model, config):
    config = short(config)
    init = jax.jit(model.init, static_argnums=0)
    one, same, other = (init(config, jax.random.key(seed)) for seed in (0, 0, 1))
    assert {leaf.dtype for leaf in jax.tree.leaves(one)} == {jnp.dtype("float32")}
    chex.assert_trees_all_equal(one, same)
    assert any(jax.tree.leaves(jax.tree.map(lambda a, b: bool(jnp.any(a != b)), one, other)))


@each_preset
def test_generation_from_the_state_is_generation_from_the_whole_text(model, config):
    """The likeliest continuation drawn token by token equals that of a model which reads everything anew for each one."""
    config = short(config)
    params, prompt, count = parameters(model, config), jnp.asarray(tokens_of(config, 11)), 6
    drawn = greedy(model, config, params, prompt, tokens=count)
    text = jnp.pad(prompt, ((0, 0), (0, count)))  # what follows a place does not change it
    for place in range(11, 11 + count):
        best = jnp.argmax(applied(model)(config, params, text)[0][:, place - 1], axis=-1).astype(jnp.int32)
        np.testing.assert_array_equal(drawn[:, place - 11], best)
        text = text.at[:, place].set(best)
