"""Schedules at their corners, and what weight decay and clipping act on."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas_jax.training import adamw, cosine, wsd


def test_wsd_corners():
    schedule = wsd(2.0, warmup=10, stable=20, decay=40, floor=0.1)
    corners = {0: 0.0, 5: 1.0, 10: 2.0, 29: 2.0, 30: 2.0, 50: 1.1, 70: 0.2, 1000: 0.2}
    np.testing.assert_allclose([schedule(step) for step in corners], list(corners.values()), rtol=1e-6)
    assert [float(wsd(1.0, warmup=0, stable=2, decay=0)(step)) for step in (0, 1, 2, 9)] == [1.0] * 4


def test_cosine_corners():
    schedule = cosine(2.0, warmup=10, steps=110, floor=0.1)
    corners = {0: 0.0, 5: 1.0, 10: 2.0, 60: 1.1, 110: 0.2, 1000: 0.2}
    np.testing.assert_allclose([schedule(step) for step in corners], list(corners.values()), rtol=1e-6)


@given(warmup=st.integers(0, 9), stable=st.integers(0, 9), decay=st.integers(1, 9), floor=st.floats(0, 1))
def test_wsd_equals_a_plain_loop_on_arrays_and_traced_steps(warmup, stable, decay, floor):
    def plain(step):
        if step < warmup:
            return step / warmup
        through = min(max(step - warmup - stable, 0) / decay, 1.0)
        return 1.0 + through * (floor - 1.0)

    schedule, steps = wsd(1.0, warmup=warmup, stable=stable, decay=decay, floor=floor), np.arange(30, dtype=np.int32)
    expected = [plain(int(step)) for step in steps]
    np.testing.assert_allclose(schedule(steps), expected, atol=1e-6)
    np.testing.assert_allclose(jax.vmap(schedule)(jnp.asarray(steps)), expected, atol=1e-6)


def test_peaks_may_be_traced():
    peaks = jnp.array([1.0, 3.0])
    rates = jax.vmap(lambda peak: cosine(peak, warmup=2, steps=9)(jnp.int32(2)))(peaks)
    np.testing.assert_allclose(rates, peaks)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: wsd(1.0, warmup=-1, stable=1, decay=1), "warmup=-1"),
        (lambda: wsd(1.0, warmup=1, stable=1, decay=-2), "decay=-2"),
        (lambda: cosine(1.0, warmup=5, steps=5), "warmup=5 must be shorter than steps=5"),
    ],
)
def test_impossible_schedules_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def direction(optimizer, params, gradients):
    return optimizer.update(gradients, optimizer.init(params), params)[0]


def test_decay_acts_on_matrices_unless_told_otherwise():
    params = {"matrix": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    still = jax.tree.map(jnp.zeros_like, params)
    chex.assert_trees_all_close(
        direction(adamw(weight_decay=0.5), params, still), {"matrix": jnp.full((2, 2), 0.5), "bias": jnp.zeros(2)}
    )
    reversed_choice = adamw(weight_decay=0.5, decayed=lambda p: {"matrix": False, "bias": True})
    chex.assert_trees_all_close(
        direction(reversed_choice, params, still), {"matrix": jnp.zeros((2, 2)), "bias": jnp.full(2, 0.5)}
    )


def test_clipping_can_be_left_out():
    params, gradients = {"w": jnp.zeros(2)}, {"w": jnp.array([30.0, 40.0])}
    moments = [
        adamw(clip_norm=norm).update(gradients, adamw(clip_norm=norm).init(params), params)[1] for norm in (5.0, None)
    ]
    first_moments = [jax.tree.leaves(state[1].mu)[0] for state in moments]
    np.testing.assert_allclose(first_moments[0], [0.3, 0.4], rtol=1e-6)
    np.testing.assert_allclose(first_moments[1], [3.0, 4.0], rtol=1e-6)
