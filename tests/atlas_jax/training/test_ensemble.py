"""Variants trained together: each as if it were alone, on any number of devices."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax.distributed.mesh import BATCH, variant_mesh
from atlas_jax.training import adamw, init_state, make_step, train
from atlas_jax.training.ensemble import initial_states, make_evaluation, make_segment, mean_over_batch_devices

VOCABULARY, LENGTH, WINDOWS, STEPS, WIDTH = 11, 6, 40, 7, 5
TEXT = np.random.default_rng(0).integers(0, VOCABULARY, (WINDOWS, LENGTH + 1), dtype=np.int32)
OPTIMIZER = adamw(weight_decay=0.1)


def fresh(key):
    embedding, head = jax.random.split(key)
    params = {
        "embedding": jax.random.normal(embedding, (VOCABULARY, WIDTH)),
        "head": jax.random.normal(head, (WIDTH, VOCABULARY)),
    }
    return init_state(params, OPTIMIZER, key)


def losses(params, windows):
    """Loss of each target of a model that sees one token."""
    logits = jnp.tanh(jnp.take(params["embedding"], windows[:, :-1], axis=0)) @ params["head"]
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), windows[:, 1:, None], axis=-1)[..., 0]


def mean_loss(params, windows, key):
    return jnp.mean(losses(params, windows)), {}


def noisy_loss(params, windows, key):
    """Uses the step's key: only a variant with the right key and step count draws the same noise."""
    return mean_loss(params, windows, key)[0] * jax.random.uniform(key), {}


def plan(variants, steps=STEPS, batch=4):
    """Seeds, batch order and learning rates of the variants, all different."""
    rng = np.random.default_rng(variants)
    order = rng.integers(0, WINDOWS, (variants, steps, batch), dtype=np.int32)
    rates = np.geomspace(0.2, 0.01, variants * steps, dtype=np.float32).reshape(variants, steps)
    return np.arange(variants) + 5, order, rates


def run(variants, devices, loss=mean_loss, calls=(STEPS,)):
    """Trains all variants together, in one call or in several; returns the final states, all losses and the mesh."""
    seeds, order, rates = plan(variants)
    mesh = variant_mesh(variants, 4, devices)
    reduced = [mean_over_batch_devices] if mesh.shape[BATCH] > 1 else []
    segment = make_segment(make_step(loss, OPTIMIZER, *reduced), mesh)
    states, curves, done = initial_states(fresh, seeds, mesh), [], 0
    for steps in calls:
        part = slice(done, done + steps)
        states, curve = segment(states, TEXT[order[:, part]], rates[:, part])
        curves.append(np.asarray(curve))
        done += steps
    return states, np.concatenate(curves, axis=1), mesh


class Ordered:
    def __init__(self, order):
        self.order = order

    def at(self, position):
        return TEXT[self.order[position]]


def alone(variant, variants, loss):
    """The plain loop over the same windows, with the same rates."""
    seeds, order, rates = plan(variants)
    table = jnp.asarray(rates[variant])
    events = list(
        train(
            make_step(loss, OPTIMIZER),
            fresh(jax.random.key(seeds[variant])),
            Ordered(order[variant]),
            lambda step: table[step],
            steps=STEPS,
        )
    )
    return events[-1].state, np.array([float(event.metrics["loss"]) for event in events])


def plain(tree):
    """Keys as the integers that they are, so that trees can be compared."""
    return jax.tree.map(
        lambda x: np.asarray(jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x), tree
    )


def test_each_variant_trains_as_if_it_were_alone():
    states, curve, _ = run(3, jax.devices()[:1], noisy_loss)
    for variant in range(3):
        state, expected = alone(variant, 3, noisy_loss)
        np.testing.assert_allclose(curve[variant], expected, rtol=1e-6)
        together = jax.tree.map(lambda leaf, e=variant: leaf[e], plain(states))
        chex.assert_trees_all_close(together, plain(state), rtol=1e-5, atol=1e-6)
        assert together.step == together.position == STEPS


@pytest.mark.parametrize(("variants", "shape"), [(4, (4, 1)), (5, (1, 4)), (6, (2, 2))])
def test_four_devices_equal_one(variants, shape):
    on_four, curve_four, mesh = run(variants, jax.devices())
    on_one, curve_one, _ = run(variants, jax.devices()[:1])
    assert tuple(mesh.shape.values()) == shape
    assert len(on_four.params["head"].sharding.device_set) == 4
    if shape[1] == 1:  # nothing is averaged: each variant's arithmetic is the same
        chex.assert_trees_all_equal(plain(on_four), plain(on_one))
        np.testing.assert_array_equal(curve_four, curve_one)
    else:
        chex.assert_trees_all_close(plain(on_four), plain(on_one), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(curve_four, curve_one, rtol=1e-5)


def test_one_segment_equals_several():
    whole, curve, _ = run(5, jax.devices())
    parts, pieces, _ = run(5, jax.devices(), calls=(3, 3, 1))
    chex.assert_trees_all_equal(plain(whole), plain(parts))
    np.testing.assert_array_equal(curve, pieces)


def test_rates_and_seeds_are_each_variant_s_own():
    mesh = variant_mesh(3, 4, jax.devices()[:1])
    start = initial_states(fresh, np.array([7, 7, 8]), mesh)
    assert np.array_equal(start.params["head"][0], start.params["head"][1])
    assert not np.array_equal(start.params["head"][0], start.params["head"][2])
    for variant, seed in enumerate((7, 7, 8)):
        expected = plain(fresh(jax.random.key(seed)))
        chex.assert_trees_all_equal(jax.tree.map(lambda leaf, e=variant: leaf[e], plain(start)), expected)

    before = plain(start.params)
    order = np.broadcast_to(plan(1)[1], (3, STEPS, 4))
    rates = np.repeat(np.float32([[0.0], [0.01], [0.1]]), STEPS, axis=1)
    states, curve = make_segment(make_step(mean_loss, OPTIMIZER), mesh)(start, TEXT[order], rates)
    moved = [float(np.abs(np.asarray(states.params["head"][e]) - before["head"][e]).max()) for e in range(3)]
    assert moved[0] == 0
    assert 0 < moved[1] < moved[2]
    assert curve[0, 0] == curve[1, 0] != curve[2, 0]


def test_segments_compile_once_and_consume_their_states():
    seeds, order, rates = plan(4)
    mesh = variant_mesh(4, 4)
    segment = make_segment(chex.assert_max_traces(make_step(mean_loss, OPTIMIZER), n=1), mesh)
    first = states = initial_states(fresh, seeds, mesh)
    for _ in range(3):
        states, _ = segment(states, TEXT[order], rates)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(first.params))


@pytest.mark.parametrize("variants", [4, 5, 6])
def test_evaluation_equals_the_direct_computation(variants):
    mesh = variant_mesh(variants, 4)
    params = initial_states(fresh, np.arange(variants), mesh).params

    def measure(params, windows):
        each = losses(params, windows)
        return {"each": each, "worst": jnp.max(each, axis=1)}

    found = make_evaluation(measure, mesh, batch=2)(params, TEXT)
    expected = jax.vmap(measure, in_axes=(0, None))(jax.tree.map(np.asarray, params), TEXT)
    assert found["each"].shape == (variants, WINDOWS, LENGTH)
    chex.assert_trees_all_close(jax.tree.map(np.asarray, found), jax.tree.map(np.asarray, expected), rtol=1e-5)
