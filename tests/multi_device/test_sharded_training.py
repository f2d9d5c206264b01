"""A training step of the whole model on four devices is that of one: loss, gradients, parameters; and what is refused."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from atlas_jax.distributed.mesh import abstract_model_mesh, model_mesh
from atlas_jax.distributed.step import make_sharded_step, sharded_start, train_state_shardings
from atlas_jax.training import adamw, init_state, make_step
from spectral import resonance
from spectral.resonance import ResonanceConfig

MESHES = [(4, 1, 1), (1, 4, 1), (1, 1, 4), (2, 1, 2), (1, 2, 2)]
# Slices of 8 and more tokens in chunks of 3; a vocabulary that four do not divide.
GATED = ResonanceConfig(
    vocab_size=29, d_model=8, layers=1, heads=4, modes=2, context=64, chunk=3, band_gate=True, tied=True
)
PLAIN = replace(GATED, band_gate=False, tied=False)
DEEP = replace(GATED, layers=5, recompute=True, channel_block=4)
# Of the largest entry of each array. Only the order of sums differs: 1e-16 a term in float64 and 6e-8 in float32, and the gate's
# logarithm of an energy near zero enlarges it.
TIGHT, SINGLE = 1e-11, 1e-4
BATCH = np.random.default_rng(0).integers(0, 29, (4, 33)).astype(np.int32)


def start(config, dtype):
    """First state of a run; drawn in float32, so that both precisions start from the same numbers."""
    with jax.enable_x64(False):
        drawn = jax.jit(lambda key: resonance.init(config, key))(jax.random.key(0))
    params = jax.tree.map(lambda leaf: np.asarray(leaf, dtype), drawn)
    return lambda key: init_state(jax.tree.map(jnp.asarray, params), optimizer(), key)


def optimizer():
    """AdamW that keeps the gradient too. A floor under its second moments: without one the first step is the gradient's sign,
    and an entry that is zero but for rounding would move by a whole step, up here and down there."""
    return optax.chain(optax.trace(0.0), adamw(eps=1e-3))


def step(config):
    def loss(params, windows, key):
        del key
        return jnp.mean(resonance.token_losses(config, params, windows[:, :-1], windows[:, 1:])[0]), {}

    return make_step(loss, optimizer())


def result(state, metrics):
    """Loss, gradients and parameters after the step."""
    gradients = state.opt_state[0].trace
    return jax.device_get((metrics["loss"], gradients, state.params))


@cache
def one_device(config, dtype):
    state = start(config, dtype)(jax.random.key(1))
    return result(*jax.jit(step(config))(state, BATCH, np.asarray(0.1, dtype)))


def assert_equal_trees(found, expected, tolerance):
    paths = jax.tree_util.tree_leaves_with_path(found)
    for (path, leaf), wanted in zip(paths, jax.tree.leaves(expected), strict=True):
        error = np.abs(leaf - wanted).max() / np.abs(wanted).max()
        assert error < tolerance, f"{jax.tree_util.keystr(path)} differs by {error:.1e} of its largest entry"


def program(config, dtype, shape):
    mesh, axes = model_mesh(*shape), resonance.parameter_axes(config)
    state = sharded_start(start(config, dtype), jax.random.key(1), axes, mesh)
    return state, make_sharded_step(step(config), state, axes, mesh)


CASES = [(GATED, shape) for shape in MESHES] + [(PLAIN, (1, 2, 2)), (DEEP, (1, 2, 2))]


@pytest.mark.slow
@pytest.mark.parametrize(("config", "shape"), CASES)
def test_a_step_on_four_devices_is_that_of_one(config, shape):
    with jax.enable_x64(True):
        state, sharded = program(config, np.float64, shape)
        assert_equal_trees(result(*sharded(state, BATCH, np.float64(0.1))), one_device(config, np.float64), TIGHT)


def test_a_step_in_float32_differs_by_rounding():
    state, sharded = program(GATED, np.float32, (1, 2, 2))
    assert_equal_trees(result(*sharded(state, BATCH, np.float32(0.1))), one_device(GATED, np.float32), SINGLE)


def test_moments_are_spread_and_parameters_split():
    state, _ = program(GATED, np.float32, (2, 2, 1))
    moments = state.opt_state[1][1].mu["blocks"]["feed_forward"]
    weights = state.params["blocks"]["feed_forward"]
    for array, shape in [(weights["up"], (1, 8, 8)), (weights["down"], (1, 8, 8)), (moments["up"], (1, 4, 8))]:
        assert {shard.data.shape for shard in array.addressable_shards} == {shape}


def test_a_device_of_four_holds_a_quarter_of_the_large_model_s_moments():
    config, optim = resonance.PRESETS["base"], adamw()
    state = jax.eval_shape(lambda key: init_state(resonance.init(config, key), optim, key), jax.random.key(0))
    shardings = train_state_shardings(state, resonance.parameter_axes(config), abstract_model_mesh(2, 1, 2))

    def share(arrays, laid_out):
        parts = jax.tree.map(lambda leaf, s: np.prod(s.shard_shape(leaf.shape)) / leaf.size, arrays, laid_out)
        sizes = jax.tree.map(lambda leaf: leaf.size, arrays)
        return sum(map(np.multiply, jax.tree.leaves(parts), jax.tree.leaves(sizes))) / sum(jax.tree.leaves(sizes))

    assert share(state.params, shardings.params) == 1
    assert share(state.opt_state, shardings.opt_state) == pytest.approx(0.25, rel=1e-3)


def test_devices_that_split_the_time_exchange_no_activations():
    """Beside gradients and parameters only mode states travel."""
    state, sharded = program(replace(PLAIN, context=256), np.float32, (1, 1, 4))
    windows = jax.ShapeDtypeStruct((4, 257), jnp.int32)
    text = sharded.lower(state, windows, np.float32(0.1)).compile().as_text()
    lines = re.findall(r"= (.*) (?:all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter)\(", text)
    shapes = [shape for line in lines for shape in re.findall(r"f32\[([\d,]*)\]", line)]
    sizes = [np.prod([int(size) for size in shape.split(",") if size]) for shape in shapes]
    assert len(sizes) > 5
    assert max(sizes) < 4 * 64 * PLAIN.d_model  # the activations of one device


def test_four_devices_leave_the_state_that_one_streams_on_from():
    tokens = jnp.asarray(BATCH[:, :32])
    params = start(GATED, np.float32)(jax.random.key(1)).params
    apply = jax.jit(lambda params, tokens, state: resonance.apply(GATED, params, tokens, state))
    logits, last = apply(params, tokens, None)
    with jax.set_mesh(model_mesh(1, 2, 2)):
        split_logits, state = jax.device_get(apply(params, tokens[:, :24], None))
    np.testing.assert_allclose(split_logits, logits[:, :24], rtol=0, atol=1e-5)
    rest, after = apply(params, tokens[:, 24:], state)
    np.testing.assert_allclose(rest, logits[:, 24:], rtol=0, atol=1e-5)
    for found, expected in zip(after, last, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "config", "windows", "message"),
    [
        ((1, 1, 4), GATED, (4, 31), "tokens: axis time is 30, expected a multiple of the mesh's sequence = 4 devices"),
        ((4, 1, 1), GATED, (3, 33), "batch: axis batch is 3, expected a multiple of the mesh's data = 4 devices"),
        (
            (1, 4, 1),
            replace(GATED, heads=2),
            (4, 33),
            "params.*: axis heads is 2, expected a multiple of the mesh's tensor = 4 devices",
        ),
    ],
)
def test_what_does_not_split_is_refused_by_name(shape, config, windows, message):
    key, mesh, axes = jax.random.key(0), model_mesh(*shape), resonance.parameter_axes(config)
    state = jax.eval_shape(lambda key: init_state(resonance.init(config, key), optimizer(), key), key)
    with pytest.raises(ValueError, match=message):
        make_sharded_step(step(config), state, axes, mesh).trace(
            state, jax.ShapeDtypeStruct(windows, jnp.int32), jax.ShapeDtypeStruct((), jnp.float32)
        )


@pytest.mark.parametrize("config", [GATED, PLAIN, DEEP])
def test_every_parameter_s_axes_are_named(config):
    params = jax.eval_shape(lambda key: resonance.init(config, key), jax.random.key(0))
    names = jax.tree.map(len, resonance.parameter_axes(config), is_leaf=lambda x: isinstance(x, tuple))
    assert names == jax.tree.map(lambda leaf: leaf.ndim, params)
