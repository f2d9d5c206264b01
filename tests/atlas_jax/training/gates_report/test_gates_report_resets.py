"""Resets and decoding in a real model: the gates pass on it, and fail on one whose resets are broken."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import compiled

from atlas_jax.memory import sequence
from atlas_jax.models import atlas
from atlas_jax.training.gates_report.decoding import decoding_gate
from atlas_jax.training.gates_report.resets import gradient_gate, projection_gate

SMALL = replace(
    atlas.PRESETS["micro-tnt"],
    vocab_size=32,
    d_model=4,
    heads=1,
    layers=1,
    feed_forward=4,
    network="linear",
    context=16,
    chunks=(4,),
    shard=8,
    global_chunk=8,
)
TEXT = np.random.default_rng(0).integers(32, size=(2, 17), dtype=np.int32)


@cache
def parameters():
    return compiled(lambda key: atlas.init(SMALL, key))(jax.random.key(0))


def test_persistent_keys_come_back_at_every_reset():
    gate = projection_gate(SMALL, parameters(), TEXT[:, :-1])
    assert gate.passed, gate.text
    assert [one["place"] for one in gate.measured["openings"]] == [0, 8]
    assert gate.measured["openings"][1]["filled"] == pytest.approx(8, abs=1e-3)
    assert gate.measured["norm_persistent"] > 10


def numerator_alone(state, persistent, boundary):
    """A reset that forgets the denominator, but at the start, where it is 0."""
    return sequence.ProjectionState(
        jnp.where(boundary, persistent.m, state.m), jnp.where(state.norm_sum == 0, persistent.norm_sum, state.norm_sum)
    )


def test_a_denominator_that_is_not_reset_is_seen(monkeypatch):
    monkeypatch.setattr(sequence, "reset", numerator_alone)
    gate = projection_gate(SMALL, parameters(), TEXT[:, :-1])
    assert not gate.passed
    assert gate.measured["numerator"] < 1e-3
    assert gate.measured["denominator"] == pytest.approx(8, abs=1e-3)


def test_sums_without_persistent_keys_are_seen(monkeypatch):
    usual = sequence.persistent_state
    monkeypatch.setattr(sequence, "persistent_state", lambda *given: jax.tree.map(jnp.zeros_like, usual(*given)))
    gate = projection_gate(SMALL, parameters(), TEXT[:, :-1])
    assert not gate.passed
    assert gate.measured["openings"][0]["denominator"] > 10


def test_gradients_stop_at_the_end_of_a_shard():
    gate = gradient_gate(SMALL, parameters(), TEXT)
    assert gate.passed, gate.text
    assert gate.measured["local_parts"] == 5
    assert min(gate.measured["parts"]) > 0


@pytest.mark.slow
def test_a_state_that_crosses_is_seen(monkeypatch):
    usual = sequence.open_chunk
    monkeypatch.setattr(
        sequence,
        "open_chunk",
        lambda config, new, state: usual(config, new, state._replace(age=jnp.where(state.phase < 0, 0, 1))),
    )
    gate = gradient_gate(SMALL, parameters(), TEXT)
    assert not gate.passed
    assert max(gate.measured["local"].values()) > 0


def test_token_by_token_without_resets_is_the_whole():
    gate = decoding_gate(SMALL, parameters(), TEXT[:, :-1])
    assert gate.passed, gate.text
    assert gate.measured["tokens"] == 12
    assert gate.measured["loss"] != gate.measured["loss_with_resets"]


def test_a_reset_in_decoding_is_seen(monkeypatch):
    monkeypatch.setattr("atlas_jax.training.gates_report.decoding.replace", keeps_shard)
    gate = decoding_gate(SMALL, parameters(), TEXT[:, :-1])
    assert not gate.passed
    assert gate.measured["ages"] == (4, 4)


def keeps_shard(config, **changed):
    """A decoder that forgets to leave resets out."""
    return replace(config, **{name: value for name, value in changed.items() if name != "shard"})
