"""Needles in texts: models that must find them and must not, and the hook that training calls."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Int

from atlas_jax.models import atlas, transformer
from atlas_jax.training import Event
from atlas_jax.training.needles.probe import NeedleHook, make_probe
from atlas_jax.training.needles.texts import NeedleError, NeedleTask, alphabet

VOCABULARY = 61
STREAM = np.random.default_rng(0).integers(1, VOCABULARY, 3000)
KNOWN = alphabet(STREAM)
TASK = NeedleTask(lengths=(28, 80), depths=(0.0, 1.0), examples=8, key=2, reach=14)
ROOM = 96


class History(NamedTuple):
    tokens: Int[Array, "b r"]
    count: Int[Array, ""]


class PerfectRecall:
    """Goes on as the text went on after the earliest earlier place with the same last three tokens."""

    def __init__(self, *, forgets=False):
        self.traced, self._forgets = 0, forgets

    def init(self, config, key):
        return {}

    def init_state(self, config, batch):
        return History(jnp.full((batch, ROOM), -1, jnp.int32), jnp.zeros((), jnp.int32))

    def apply(self, config, params, tokens, state=None):
        self.traced += 1
        assert tokens.shape[1] <= config.context
        state = self.init_state(config, len(tokens)) if state is None or self._forgets else state
        seen = jax.lax.dynamic_update_slice(state.tokens, tokens, (0, state.count))
        end = state.count + jnp.arange(tokens.shape[1], dtype=jnp.int32)
        same = jnp.ones((len(tokens), tokens.shape[1], ROOM), bool)
        for back in range(3):
            same &= jnp.roll(seen, back, 1)[:, None] == jnp.roll(seen, back, 1)[:, end][:, :, None]
        place = jnp.argmax(same & (jnp.arange(ROOM) >= 2)[None, None], axis=-1)
        said = jnp.take_along_axis(jnp.roll(seen, -1, 1), place, axis=1)
        return jax.nn.one_hot(said, config.vocab_size), History(seen, state.count + tokens.shape[1])

    def step(self, config, params, token, state):
        logits, state = self.apply(config, params, token[:, None], state)
        return logits[:, 0], state


CONFIG = SimpleNamespace(vocab_size=VOCABULARY, context=32)


def test_a_model_that_recalls_finds_all_and_without_memory_only_what_is_near():
    """80 tokens are more than two contexts; the last 14 hold the needle only where it is the last thing before the question."""
    model = PerfectRecall()
    metrics = jax.device_get(make_probe(model, CONFIG, STREAM, KNOWN, TASK, 0)({}))
    np.testing.assert_array_equal(metrics["niah_map"], np.ones((2, 2)))
    np.testing.assert_array_equal(metrics["niah_control_map"][:, 0], 0)
    np.testing.assert_array_equal(metrics["niah_control_map"][:, 1], 1)
    assert metrics["niah_accuracy"] == 1
    assert metrics["niah_control"] == 0.5


def test_a_model_that_forgets_before_the_question_fails():
    metrics = make_probe(PerfectRecall(forgets=True), CONFIG, STREAM, KNOWN, TASK, 0)({})
    assert metrics["niah_accuracy"] < 0.2


def test_a_text_that_is_read_whole_anyway_is_its_own_control():
    task = NeedleTask(lengths=(28,), depths=(0.0,), examples=4, key=2)
    metrics = make_probe(PerfectRecall(), CONFIG, STREAM, KNOWN, task, 0)({})
    assert metrics["niah_accuracy"] == metrics["niah_control"] == 1


def test_probes_repeat_themselves_and_trace_once():
    model = PerfectRecall()
    probe = make_probe(model, CONFIG, STREAM, KNOWN, TASK, 0)
    first, traced = probe({}), model.traced
    second = probe({})
    assert model.traced == traced
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name])


TRANSFORMER = transformer.TransformerConfig(vocab_size=VOCABULARY, d_model=16, layers=1, heads=1, context=24)
ATLAS = atlas.AtlasConfig(
    vocab_size=VOCABULARY,
    d_model=16,
    layers=1,
    heads=1,
    context=32,
    block="gate",
    window=8,
    rule="delta",
    network="linear",
)


@pytest.mark.parametrize(
    ("model", "config"),
    [(transformer, TRANSFORMER), pytest.param(atlas, ATLAS, marks=pytest.mark.slow)],
    ids=["transformer", "atlas"],
)
def test_untrained_models_answer_by_chance(model, config):
    task = NeedleTask(lengths=(32,), depths=(0.0, 0.5), examples=64)
    params = model.init(config, jax.random.key(0))
    metrics = jax.device_get(make_probe(model, config, STREAM, KNOWN, task, 0)(params))
    assert metrics["niah_accuracy"] < 0.15  # chance is 1 of 60
    assert metrics["niah_control"] < 0.15
    if model is atlas:
        assert metrics["niah_memory_success"] == 0  # 16 directions, a hundred pairs after each
        assert abs(metrics["niah_memory_before"]) < 0.5


def test_what_a_probe_of_memories_tells_beside():
    """Nothing where there is no memory, or none for so long."""
    params = jax.eval_shape(partial(atlas.init, ATLAS), jax.random.key(0))
    task = NeedleTask(lengths=(32, 64), depths=(0.0, 0.5, 1.0), examples=2)
    told = {}
    for shard in (None, 64):
        probe = make_probe(atlas, replace(ATLAS, shard=shard), STREAM, KNOWN, task, 0)
        told[shard] = jax.eval_shape(probe, params)
        assert told[shard]["niah_map"].shape == told[shard]["niah_control_map"].shape == (2, 3)
    memory = {f"niah_memory_{name}" for name in ("cosine", "written", "before", "success")}
    assert told[None].keys() - told[64].keys() == memory
    assert all(told[None][name].shape == () for name in memory)


def test_streams_that_are_too_short_or_too_uniform_are_refused_before_training():
    with pytest.raises(ValueError, match="the stream has 40 tokens, expected at least the 61 "):
        make_probe(PerfectRecall(), CONFIG, STREAM[:40], KNOWN, TASK, 0)
    with pytest.raises(ValueError, match="there are 2 symbols, expected at least 12 for 4 needles"):
        make_probe(PerfectRecall(), CONFIG, STREAM, KNOWN._replace(symbols=KNOWN.symbols[:2]), TASK, 0)
    with pytest.raises(NeedleError, match="the context is 2, expected at least the 3 tokens of a question"):
        make_probe(PerfectRecall(), SimpleNamespace(context=2), STREAM, KNOWN, TASK, 0)


class Later:
    """A number on a device that has not come to it."""

    ndim = 0

    def __init__(self, value):
        self.value, self.ready = value, False

    def is_ready(self):
        return self.ready

    def __float__(self):
        return self.value


def test_the_hook_probes_when_due_hands_events_on_and_warns_without_waiting(caplog):
    found, seen = [], []

    def probe(params):
        found.append(Later(float(params["quality"])))
        return {"niah_accuracy": found[-1]}

    def event(index, quality):
        return Event(index, SimpleNamespace(params={"quality": quality}), {"loss": index})

    with caplog.at_level(logging.WARNING), NeedleHook(3, probe, seen.append, bound=0.8, last=7) as hook:
        for index, quality in enumerate([0.0, 0.0, 0.1, 0.0, 0.0, 0.9, 0.3], start=1):
            hook(event(index, quality))
        assert [list(one.metrics) for one in seen] == [
            ["loss", "niah_accuracy"] if index in (3, 6, 7) else ["loss"] for index in range(1, 8)
        ]
        assert caplog.messages == []
        for value in found[:2]:
            value.ready = True
        hook(event(8, 0.0))
        assert [message[:7] for message in caplog.messages] == ["step 3:"]
        assert "niah_accuracy >= 0.8: niah_accuracy 0.100" in caplog.messages[0]
    assert [message[:7] for message in caplog.messages] == ["step 3:", "step 7:"]
    with pytest.raises(ValueError, match="interval=0"):
        NeedleHook(0, probe, seen.append)


def test_answers_that_are_no_number_are_a_failure(caplog):
    nan = {"niah_accuracy": jnp.array(np.nan), "niah_map": jnp.full((2, 2), np.nan)}
    with NeedleHook(1, lambda params: nan, lambda event: None) as hook:
        hook(Event(1, SimpleNamespace(params={}), {}))
    assert len(caplog.messages) == 1
