"""Temporal Eigenstate beyond the shared contract: its definition, its two paths, its config, and that it learns."""

from __future__ import annotations

import dataclasses
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax.training import adamw, cosine, init_state, make_step, train
from spectral import eigenstate, eigenstate_reference, resonance
from spectral.eigenstate import PRESETS, EigenstateConfig

SIZES = ("vocab_size", "d_model", "layers", "heads", "modes", "feed_forward", "context")
SMALL = EigenstateConfig(vocab_size=11, d_model=16, layers=1, heads=4, modes=3, context=32)
SELECTIVE = dataclasses.replace(SMALL, selective=True)
PLAIN = dataclasses.replace(SMALL, scales=(1,))
each_kind = pytest.mark.parametrize("config", [SMALL, SELECTIVE, PLAIN], ids=["fixed", "selective", "one scale"])


def parameters(config, dtype=np.float32):
    """With every array drawn, so that nothing is at a start value that hides it."""
    shapes = jax.eval_shape(partial(eigenstate.init, config), jax.random.key(0))
    rng = np.random.default_rng(0)
    drawn = jax.tree.map(lambda x: rng.normal(size=x.shape) * max(x.shape) ** -0.5, shapes)
    return jax.tree.map(lambda x: x.astype(dtype), drawn)


@cache
def applied(config):
    return jax.jit(partial(eigenstate.apply, config))


def tokens_of(config, length, batch=2, seed=0):
    return np.random.default_rng(seed).integers(0, config.vocab_size, (batch, length), dtype=np.int32)


@pytest.mark.parametrize("name", SIZES)
def test_a_size_below_one_is_refused_by_name(name):
    with pytest.raises(ValueError, match=rf"EigenstateConfig\.{name} is 0, expected at least 1"):
        EigenstateConfig(**{name: 0})


@pytest.mark.parametrize("scales", [(), (0,), (1, 3), (2, 1), (1, 1), (4, 2, 1)])
def test_scales_are_powers_of_two_in_ascending_order(scales):
    with pytest.raises(ValueError, match=r"EigenstateConfig\.scales is .*, expected powers of two, ascending"):
        EigenstateConfig(scales=scales)


def test_sizes_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="d_model is 36, expected a multiple of 2 heads = 8"):
        EigenstateConfig(d_model=36)
    with pytest.raises(ValueError, match="heads is 2, expected a multiple of the number of scales = 4"):
        EigenstateConfig(heads=2)
    with pytest.raises(ValueError, match="dtype is 'float16', expected 'float32' or 'bfloat16'"):
        EigenstateConfig(dtype="float16")


def count(init, config):
    return sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(partial(init, config), jax.random.key(0))))


@pytest.mark.parametrize(("preset", "size"), [("micro-32", 80_160), ("micro-128", 492_288), ("micro-208", 1_032_848)])
def test_presets_have_their_counted_size_and_that_of_resonance(preset, size):
    assert count(eigenstate.init, PRESETS[preset]) == size
    assert size == pytest.approx(count(resonance.init, resonance.PRESETS[preset]), rel=0.03)


@pytest.mark.parametrize(
    "config",
    [SMALL, SELECTIVE, PLAIN, dataclasses.replace(PLAIN, layers=5)],
    ids=["fixed", "selective", "one scale", "a loop over layers"],
)
def test_the_model_equals_its_definition(config):
    params, tokens = parameters(config, np.float64), tokens_of(config, 19)
    with jax.enable_x64(True):
        logits, _ = applied(config)(params, tokens)
    expected = eigenstate_reference.logits(config, params, tokens)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-12 * np.abs(expected).max())


def states_of_ages(config, params, tokens, ages):
    """Of each row after its own number of tokens, by single steps, put together into one batch."""
    step = jax.jit(partial(eigenstate.step, config))
    state, after = eigenstate.init_state(config, len(ages)), []
    for t in range(max(ages) + 1):
        after.append(state)
        _, state = step(params, tokens[:, t], state)
    rows = [jax.tree.map(lambda leaf, r=row: leaf[:, r : r + 1], after[age]) for row, age in enumerate(ages)]
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves, axis=1), *rows)


@each_kind
def test_rows_may_stand_at_different_places_of_their_blocks(config):
    """States of several sequences of other lengths, put together into one batch, go on as each would alone."""
    params = parameters(config)
    run = applied(config)
    ages, whole = (0, 1, 4, 7, 8, 14), tokens_of(config, 24, batch=6)
    together = states_of_ages(config, params, whole, ages)
    rest = np.stack([whole[row, age : age + 10] for row, age in enumerate(ages)])
    logits, after = run(params, rest, together)
    expected, _ = run(params, whole)
    for row, age in enumerate(ages):
        np.testing.assert_allclose(logits[row], expected[row, age : age + 10], rtol=0, atol=2e-5)
        np.testing.assert_array_equal(after.phase[:, row], (age + 10) % config.scales[-1])


def test_a_sum_is_kept_only_inside_a_block():
    params, tokens = parameters(SMALL), tokens_of(SMALL, 18)
    ages = tuple(range(18))
    state = states_of_ages(SMALL, params, np.repeat(tokens[:1], 18, axis=0), ages)
    empty = np.all(np.asarray(state.partial) == 0, axis=(0, 3))
    np.testing.assert_array_equal(empty, [[age % scale == 0 for scale in SMALL.scales] for age in ages])


def test_the_state_of_another_batch_or_model_is_refused_by_name():
    params, tokens = parameters(SMALL), tokens_of(SMALL, 3)
    with pytest.raises(ValueError, match=r"EigenstateState\.modes has shape \(1, 3, 2, 4, 3, 2\), expected \(1, 2, "):
        eigenstate.apply(SMALL, params, tokens, eigenstate.init_state(SMALL, 3))
    with pytest.raises(ValueError, match=r"EigenstateState\.partial has shape \(1, 2, 4, 7\), expected \(1, 2, 4, 4\)"):
        eigenstate.apply(SMALL, params, tokens, eigenstate.init_state(SELECTIVE, 2))
    with pytest.raises(ValueError, match="33 tokens in one call, expected at most context = 32"):
        eigenstate.apply(SMALL, params, tokens_of(SMALL, 33))


@pytest.mark.parametrize("config", [SMALL, SELECTIVE], ids=["fixed", "selective"])
def test_bfloat16_activations_keep_float32_states_and_nearly_the_logits(config):
    params, tokens = parameters(config), tokens_of(config, 30)
    narrow = dataclasses.replace(config, dtype="bfloat16")
    expected, _ = applied(config)(params, tokens)
    logits, state = applied(narrow)(params, tokens)
    assert logits.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(state)} == {jnp.dtype("float32")}
    assert float(jnp.std(logits - expected)) < 0.03 * float(jnp.std(expected))


def test_logits_start_near_uniform():
    config = PRESETS["micro-128"]
    params = jax.jit(partial(eigenstate.init, config))(jax.random.key(0))
    logits, _ = jax.jit(partial(eigenstate.apply, config))(params, tokens_of(config, 64))
    entropy = -jnp.mean(jnp.sum(jax.nn.softmax(logits) * jax.nn.log_softmax(logits), axis=-1))
    assert float(entropy) == pytest.approx(np.log(config.vocab_size), rel=0.03)


class Recurrent:
    """Text whose next token is the last but one plus 3, modulo 16: the last token alone says nothing about it."""

    def at(self, position):
        rng = np.random.default_rng(position)
        tokens = np.zeros((16, 25), np.int64)
        tokens[:, :2] = rng.integers(0, 16, (16, 2))
        for t in range(2, 25):
            tokens[:, t] = (tokens[:, t - 2] + 3) % 16
        return tokens.astype(np.int32)


def without_past(config, params, tokens):
    """The same network on sequences of one token: the control that mixes nothing."""
    logits, _ = eigenstate.apply(config, params, tokens.reshape(-1, 1))
    return logits.reshape(*tokens.shape, -1)


def final_loss(config, model, steps=120):
    def loss(params, windows, key):
        del key
        picked = jnp.take_along_axis(
            jax.nn.log_softmax(model(config, params, windows[:, :-1])), windows[:, 1:, None], axis=-1
        )
        return -jnp.mean(picked[:, 1:]) / np.log(2), {}

    optimizer = adamw()
    params = jax.jit(partial(eigenstate.init, config))(jax.random.key(0))
    state = init_state(params, optimizer, jax.random.key(1))
    schedule = cosine(0.02, warmup=10, steps=steps)
    return list(train(make_step(loss, optimizer), state, Recurrent(), schedule, steps=steps))[-1].metrics["loss"]


@pytest.mark.parametrize("selective", [False, True], ids=["fixed", "selective"])
def test_a_tiny_model_learns_what_only_memory_can_tell(selective):
    config = EigenstateConfig(vocab_size=16, d_model=16, layers=1, context=24, selective=selective)
    assert float(final_loss(config, lambda *args: eigenstate.apply(*args)[0])) < 0.5
    if not selective:
        assert float(final_loss(config, without_past)) > 3.5  # of 4 bits


class TestSeries:
    """The entry for time series."""

    channels = 3

    def series(self, length, batch=2):
        return np.random.default_rng(0).normal(size=(batch, length, self.channels)).astype(np.float32)

    def params(self):
        return jax.jit(partial(eigenstate.init_series, SMALL, self.channels))(jax.random.key(0))

    def test_the_whole_equals_its_parts(self):
        run = jax.jit(partial(eigenstate.features_of_series, SMALL))
        params, x = self.params(), self.series(21)
        whole, last = run(params, x)
        state, parts = None, []
        for begin, end in ((0, 5), (5, 6), (6, 21)):
            part, state = run(params, x[:, begin:end], state)
            parts.append(part)
        np.testing.assert_allclose(np.concatenate(parts, axis=1), whole, rtol=0, atol=1e-5)
        np.testing.assert_allclose(state.modes, last.modes, rtol=0, atol=1e-5)

    def test_no_feature_depends_on_a_later_value(self):
        run = jax.jit(partial(eigenstate.features_of_series, SMALL))
        params, x = self.params(), self.series(21)
        changed = x.copy()
        changed[:, 13:] += 1
        before, after = (np.asarray(run(params, series)[0]) for series in (x, changed))
        np.testing.assert_array_equal(before[:, :13], after[:, :13])
        assert np.all(np.any(before[:, 13:] != after[:, 13:], axis=-1))

    def test_another_number_of_channels_or_steps_is_refused(self):
        params = self.params()
        with pytest.raises(ValueError, match="series has 2 channels, expected 3 as in"):
            eigenstate.features_of_series(SMALL, params, self.series(4)[..., :2])
        with pytest.raises(ValueError, match="series has 33 time steps in one call, expected 1 to context = 32"):
            eigenstate.features_of_series(SMALL, params, self.series(33))
        with pytest.raises(ValueError, match="channels is 0, expected at least 1"):
            eigenstate.init_series(SMALL, 0, jax.random.key(0))
