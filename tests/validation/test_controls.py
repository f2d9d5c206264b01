"""Controls are trained once for a reference, and never taken for those of another run."""

from __future__ import annotations

from dataclasses import replace

import jax
import numpy as np
import pytest
from small_world import TINY, corpus_of, markov_rows

from spectral import resonance
from validation.controls import cached_controls, control_key
from validation.prepare import prepare
from validation.tiers import TierResult, model_config

PLAN = TINY.tiers[0]
CONFIG = model_config(PLAN, TINY, 300)


def result_of(seed):
    """What a training of two models might have given."""
    rng = np.random.default_rng(seed)
    params = jax.jit(jax.vmap(lambda key: resonance.init(CONFIG, key)))(jax.random.split(jax.random.key(seed), 2))
    loss, curve = rng.random((2, 4)), rng.random((2, 40))
    each = rng.random(2)
    return TierResult(loss, loss + 1, each, curve, each, np.array([0, 1]), jax.tree.map(np.asarray, params), 1.5)


def equal(one, other):
    np.testing.assert_array_equal(one.loss, other.loss)
    np.testing.assert_array_equal(one.restarts, other.restarts)
    for left, right in zip(jax.tree.leaves(one.params), jax.tree.leaves(other.params), strict=True):
        np.testing.assert_array_equal(left, right)
    return True


def test_the_second_call_does_not_train(cache):
    calls = []

    def train():
        calls.append(1)
        return result_of(0)

    first = cached_controls("key", CONFIG, 2, train)
    second = cached_controls("key", CONFIG, 2, train)
    assert len(calls) == 1
    assert equal(first, second)
    cached_controls("other", CONFIG, 2, train)
    assert len(calls) == 2
    assert sorted(path.name for path in (cache / "controls").iterdir()) == ["key", "other"]


def test_a_training_that_fails_leaves_nothing_behind(cache):
    def train():
        raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError, match="interrupted"):
        cached_controls("key", CONFIG, 2, train)
    assert not (cache / "controls" / "key").exists()
    assert equal(cached_controls("key", CONFIG, 2, lambda: result_of(0)), result_of(0))


def test_of_two_writers_one_folder_remains(cache, monkeypatch):
    def train():
        # Another process, with another id, finishes first.
        with monkeypatch.context() as other:
            other.setattr("os.getpid", lambda: 1)
            cached_controls("key", CONFIG, 2, lambda: result_of(0))
        return result_of(0)

    assert equal(cached_controls("key", CONFIG, 2, train), result_of(0))
    assert [path.name for path in (cache / "controls").iterdir()] == ["key"]
    assert equal(cached_controls("key", CONFIG, 2, lambda: result_of(1)), result_of(0))


@pytest.fixture(scope="module")
def problem():
    rows = markov_rows(1200, 20)
    return prepare(corpus_of(rows[:600]), corpus_of(rows[600:]), TINY, seed=0)


def test_the_key_names_everything_that_controls_depend_on(problem):
    rows = markov_rows(1200, 20)
    other_reference = prepare(corpus_of(rows[:600]), corpus_of(rows[600:1190]), TINY, seed=0)
    faster = replace(PLAN, learning_rate=0.02)
    keys = [
        control_key(problem, TINY, PLAN),
        control_key(other_reference, TINY, PLAN),
        control_key(replace(problem, seed=1), TINY, PLAN),
        control_key(replace(problem, steps={**problem.steps, PLAN: 160}), TINY, PLAN),
        control_key(problem, replace(TINY, length=64), PLAN),
        control_key(problem, TINY, TINY.tiers[1]),
        control_key(replace(problem, steps={**problem.steps, faster: problem.steps[PLAN]}), TINY, faster),
    ]
    assert len(set(keys)) == len(keys)


def test_the_key_does_not_depend_on_the_data(problem):
    rows = markov_rows(1200, 20)
    other_data = prepare(corpus_of(markov_rows(700, 21)), corpus_of(rows[600:]), TINY, seed=0)
    assert control_key(other_data, TINY, PLAN) == control_key(problem, TINY, PLAN)
