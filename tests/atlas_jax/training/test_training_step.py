"""The pure step: against optax by hand, its metrics, its key, its reduction and its one trace."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from atlas_jax.training import NonFiniteError, TrainState, adamw, init_state, make_step, require_finite, train, wsd

INPUTS = np.random.default_rng(0).normal(size=(64, 8)).astype(np.float32)
TARGETS = (INPUTS @ np.arange(8, dtype=np.float32))[:, None]


class Same:
    """The same batch at every position, which it records."""

    def __init__(self):
        self.asked = []

    def at(self, position):
        self.asked.append(position)
        return {"x": INPUTS, "y": TARGETS}


def regression(params, batch, key):
    error = batch["x"] @ params["w"] + params["b"][None, :] - batch["y"]
    return jnp.mean(error**2), {"worst": jnp.max(jnp.abs(error)), "noise": jax.random.uniform(key)}


def start():
    return {"w": jnp.zeros((8, 1)), "b": jnp.zeros((1,))}


def test_step_equals_optax_adamw_after_clipping(key):
    state, step = (
        init_state(start(), adamw(weight_decay=0.1), key),
        jax.jit(make_step(regression, adamw(weight_decay=0.1))),
    )
    mask = {"w": True, "b": False}
    reference = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(0.05, b1=0.9, b2=0.99, eps=1e-8, weight_decay=0.1, mask=mask)
    )
    params, opt_state = start(), reference.init(start())
    batch = Same().at(0)
    for _ in range(5):
        gradients = jax.grad(lambda p: regression(p, batch, key)[0])(params)
        with jax.numpy_dtype_promotion("standard"):
            updates, opt_state = reference.update(gradients, opt_state, params)
        params = optax.apply_updates(params, updates)
        state, metrics = step(state, batch, 0.05)
        assert float(metrics["grad_norm"]) == pytest.approx(float(optax.tree.norm(gradients)), rel=1e-6)
        assert float(metrics["update_norm"]) == pytest.approx(float(optax.tree.norm(updates)), rel=1e-5)
    chex.assert_trees_all_close(state.params, params, rtol=1e-6)


def test_learning_rates_differ_under_one_program(key):
    optimizer = adamw()
    states = jax.vmap(lambda k: init_state(start(), optimizer, k))(jax.random.split(key, 3))
    step = jax.jit(jax.vmap(chex.assert_max_traces(make_step(regression, optimizer), n=1), in_axes=(0, None, 0)))
    batch = Same().at(0)
    _, metrics = step(states, batch, jnp.array([0.0, 0.1, 0.2]))
    states, _ = step(states, batch, jnp.array([0.0, 0.3, 0.4]))
    assert float(metrics["update_norm"][0]) == 0.0
    assert float(metrics["update_norm"][2]) == pytest.approx(2 * float(metrics["update_norm"][1]), rel=1e-5)
    chex.assert_trees_all_equal(jax.tree.map(lambda p: p[0], states.params), start())


def test_each_step_draws_from_the_constant_key(key):
    step, batch = make_step(regression, adamw()), Same().at(0)
    first, one = step(init_state(start(), adamw(), key), batch, 0.1)
    second, two = step(first, batch, 0.1)
    assert float(one["noise"]) == float(jax.random.uniform(jax.random.fold_in(key, 0)))
    assert float(two["noise"]) == float(jax.random.uniform(jax.random.fold_in(key, 1)))
    assert second.key == key
    assert (int(second.step), int(second.position)) == (2, 2)
    assert all(value.dtype == jnp.float32 for value in two.values())


def test_mean_over_shards_equals_the_whole_batch(key):
    batch, optimizer = Same().at(0), adamw()
    state = init_state(start(), optimizer, key)
    whole, metrics = jax.jit(make_step(regression, optimizer))(state, batch, 0.1)

    sharded_step = make_step(regression, optimizer, lambda tree: jax.lax.pmean(tree, "shard"))
    shards = jax.tree.map(lambda x: x.reshape(4, 16, -1), batch)
    over_shards = jax.jit(jax.vmap(sharded_step, in_axes=(None, 0, None), axis_name="shard"))
    stepped, reduced = over_shards(state, shards, 0.1)
    for name in ("loss", "grad_norm", "update_norm"):
        np.testing.assert_allclose(reduced[name], np.full(4, metrics[name]), rtol=1e-5)
    for shard in range(4):
        chex.assert_trees_all_close(jax.tree.map(lambda p, i=shard: p[i], stepped.params), whole.params, rtol=1e-4)


def test_training_learns_with_one_trace(key):
    step = chex.assert_max_traces(make_step(regression, adamw()), n=1)
    state = init_state(start(), adamw(), key)
    schedule = wsd(0.2, warmup=10, stable=90, decay=100)
    losses = [event.metrics["loss"] for event in train(step, state, Same(), schedule, steps=200)]
    assert float(losses[-1]) < 0.01 * float(losses[0])


def test_training_goes_on_at_the_state_s_step_and_position(key):
    batches = Same()
    state = init_state(start(), adamw(), key)
    ahead = TrainState(state.params, state.opt_state, state.key, jnp.int32(7), jnp.int32(12))
    events = list(train(make_step(regression, adamw()), ahead, batches, lambda step: 0.1, steps=10))
    assert [event.index for event in events] == [8, 9, 10]
    assert batches.asked == [12, 13, 14]
    assert (int(events[-1].state.step), int(events[-1].state.position)) == (10, 15)


def test_accumulated_gradients_are_those_of_the_whole_batch():
    optimizer = adamw(clip_norm=None)
    state, batch = init_state(start(), optimizer, jax.random.key(0)), Same().at(0)
    whole, expected = jax.jit(make_step(regression, optimizer))(state, batch, 0.1)
    parts = 4
    found, metrics = jax.jit(make_step(regression, optimizer, accumulation=parts))(state, batch, 0.1)
    for name in ("loss", "grad_norm", "update_norm"):
        np.testing.assert_allclose(metrics[name], expected[name], rtol=1e-5, err_msg=name)
    assert metrics["worst"] < expected["worst"], "one part would be the whole batch"
    chex.assert_trees_all_close(found.opt_state, whole.opt_state, rtol=1e-4, atol=1e-6)


def test_each_part_of_a_batch_has_its_own_noise():
    def noise(params, batch, key):
        return jnp.mean(params["w"]) * jax.random.uniform(key) * 0 + jax.random.uniform(key), {}

    state = init_state({"w": jnp.ones((2, 2))}, adamw(), jax.random.key(0))
    one, two = (make_step(noise, adamw(), accumulation=n)(state, jnp.ones((4, 1)), 0.1)[1]["loss"] for n in (1, 2))
    key = jax.random.fold_in(state.key, 0)
    np.testing.assert_allclose(one, jax.random.uniform(key), rtol=1e-6)
    np.testing.assert_allclose(
        two, np.mean([jax.random.uniform(jax.random.fold_in(key, part)) for part in range(2)]), rtol=1e-6
    )


def test_a_batch_that_cannot_be_cut_is_refused():
    state = init_state(start(), adamw(), jax.random.key(0))
    with pytest.raises(ValueError, match=r"batch is \d+, expected a multiple of accumulation = 7"):
        make_step(regression, adamw(), accumulation=7)(state, Same().at(0), 0.1)


def test_a_nan_in_the_data_is_found_at_its_step():
    class Broken(Same):
        def at(self, position):
            batch = super().at(position)
            return {**batch, "x": np.where(np.arange(8) == position, np.nan, batch["x"])} if position == 3 else batch

    state, seen = init_state(start(), adamw(), jax.random.key(0)), []
    events = train(make_step(regression, adamw()), state, Broken(), lambda step: 0.1, steps=9, hooks=[require_finite])
    with pytest.raises(NonFiniteError, match=r"step 4: .*loss is nan.*expected finite numbers"):
        seen.extend(event.index for event in events)
    assert seen == [1, 2, 3]
