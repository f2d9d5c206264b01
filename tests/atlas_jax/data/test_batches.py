"""The order of batches: complete epochs, prefixes, random access."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas_jax.data import Batches, batch_order, pack

SIZES = {
    "count": st.integers(1, 20),
    "batch": st.integers(1, 45),
    "steps": st.integers(0, 12),
    "seed": st.integers(0, 9),
}


@given(**SIZES, more=st.integers(0, 5))
def test_epochs_are_permutations_and_fewer_steps_are_a_prefix(count, batch, steps, seed, more):
    order = batch_order(count=count, batch=batch, steps=steps, seed=seed)
    assert order.shape == (steps, batch)
    assert order.dtype == np.int32
    flat = order.ravel()
    for epoch in range(len(flat) // count):
        assert sorted(flat[epoch * count : (epoch + 1) * count]) == list(range(count))
    np.testing.assert_array_equal(batch_order(count=count, batch=batch, steps=steps + more, seed=seed)[:steps], order)


def test_seeds_and_epochs_differ():
    orders = [batch_order(count=50, batch=50, steps=2, seed=seed) for seed in (0, 1)]
    assert not np.array_equal(orders[0], orders[1])
    assert not np.array_equal(orders[0][0], orders[0][1])


@given(**SIZES, data=st.data())
def test_batches_by_position_follow_the_order(count, batch, steps, seed, data):
    packed = pack([np.arange(4 * count)], length=4, eos=0, row_ids=[3])
    order = batch_order(count=len(packed.tokens), batch=batch, steps=steps + 1, seed=seed)
    batches = Batches(packed, batch, seed)
    for position in data.draw(st.permutations(range(steps + 1))):
        found = batches.at(position)
        np.testing.assert_array_equal(found["tokens"], packed.tokens[order[position]])
        np.testing.assert_array_equal(found["rows"], packed.rows[order[position]])


def test_impossible_orders_are_refused():
    packed = pack([np.arange(9)], length=4, eos=0, row_ids=[0])
    with pytest.raises(ValueError, match="count=0, expected 1 or more"):
        batch_order(count=0, batch=1, steps=1, seed=0)
    with pytest.raises(ValueError, match="batch=0"):
        Batches(packed, 0, seed=0)
    with pytest.raises(ValueError, match="seed=-1"):
        Batches(packed, 1, seed=-1)
    with pytest.raises(ValueError, match="position=-1"):
        Batches(packed, 1, seed=0).at(-1)
