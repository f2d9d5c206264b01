"""Layers that look back over the cut of a sequence between devices are those of one device: outputs, states, gradients."""

from __future__ import annotations

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax.distributed.halo import left_neighbour, of_last_device, tokens_before, window_before
from atlas_jax.distributed.mesh import DATA, SEQUENCE, abstract_model_mesh, model_mesh
from atlas_jax.distributed.sharding import REPLICATED, spec
from atlas_jax.nn.attention import Window, sliding_window_attention
from atlas_jax.nn.convolution import short_convolution

BATCH, LENGTH, HEADS, WIDTH, TOKENS, WINDOW, CHUNK = 2, 32, 2, 4, 5, 7, 4  # slices of 8: two blocks of 4
RNG = np.random.default_rng(0)
X, KERNEL, PAST = (RNG.normal(size=shape) for shape in ((BATCH, LENGTH, WIDTH), (4, WIDTH), (BATCH, 3, WIDTH)))
ARRAYS = tuple(RNG.normal(size=(BATCH, LENGTH, HEADS, WIDTH)) for _ in range(3))
PERSISTENT = tuple(RNG.normal(size=(TOKENS, HEADS, WIDTH)) for _ in range(2))
CARRIED = tuple(RNG.normal(size=(BATCH, WINDOW - 1, HEADS, WIDTH)) for _ in range(2))
TIME, BATCHES = spec("batch", "time"), spec("batch")


def sharded(function, shape, in_specs, out_specs):
    """Jitted, with its time axis on the devices of a mesh; None: on one."""
    if shape is None:
        return jax.jit(function)
    return jax.jit(jax.shard_map(function, mesh=model_mesh(*shape), in_specs=in_specs, out_specs=out_specs))


def double(tree):
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), tree)


@cache
def convolution(shape):
    """y and the last inputs; on a mesh from the halo, on one device as it is."""

    def whole(x, kernel, past):
        return short_convolution(x, kernel, past)

    def one_slice(x, kernel, past):
        kernel = jax.lax.pcast(
            kernel, (DATA, SEQUENCE), to="varying"
        )  # its derivative, a custom one, is that of a device
        y, last = short_convolution(x, kernel, tokens_before(x, 3, SEQUENCE, past))
        return y, of_last_device(last, SEQUENCE)

    return sharded(one_slice if shape else whole, shape, (TIME, REPLICATED, BATCHES), (TIME, BATCHES))


@cache
def attention(shape):
    """The mixed values and the last window."""

    def whole(query, key, value, persistent, state):
        return sliding_window_attention(query, key, value, state, window=WINDOW, chunk=CHUNK, persistent=persistent)

    def one_slice(query, key, value, persistent, state):
        before = window_before(key, value, WINDOW, SEQUENCE, state)
        mixed, last = whole(query, key, value, persistent, before)
        return mixed, jax.tree.map(lambda x: of_last_device(x, SEQUENCE), last)

    specs = (TIME, TIME, TIME, REPLICATED, BATCHES)
    return sharded(one_slice if shape else whole, shape, specs, (TIME, BATCHES))


def arguments(layer, started):
    if layer is convolution:
        return double((X, KERNEL, PAST if started else None))
    state = Window(*CARRIED, np.ones((BATCH, WINDOW - 1))) if started else None
    return double((*ARRAYS, PERSISTENT, state))


def assert_equal_trees(found, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-12), found, expected)


LAYERS = pytest.mark.parametrize("layer", [convolution, attention])


@LAYERS
@pytest.mark.parametrize(("shape", "started"), [((1, 1, 4), False), ((2, 1, 2), True), ((2, 1, 1), True)])
def test_slices_equal_the_whole(layer, shape, started):
    with jax.enable_x64(True):
        inputs = arguments(layer, started)
        assert_equal_trees(layer(shape)(*inputs), layer(None)(*inputs))


@LAYERS
def test_gradients_of_inputs_weights_and_states_are_those_of_one_device(layer):
    with jax.enable_x64(True):
        inputs = arguments(layer, True)

        def loss_and_gradients(shape):
            def loss(inputs):
                y, last = layer(shape)(*inputs)
                return jnp.sum(jnp.sin(y)) + sum(jnp.sum(jnp.cos(leaf)) for leaf in jax.tree.leaves(last))

            return jax.jit(jax.value_and_grad(loss))(inputs)

        assert_equal_trees(loss_and_gradients((1, 1, 4)), loss_and_gradients(None))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.int32])
def test_each_device_gets_its_left_neighbour_s(dtype):
    x = jnp.arange(8, dtype=dtype).reshape(1, 8)
    first = jnp.asarray([[40, 50]], dtype)

    def both(x, first):
        return left_neighbour(x, SEQUENCE), left_neighbour(x, SEQUENCE, first), of_last_device(x, SEQUENCE)

    zeros, given, last = sharded(both, (1, 1, 4), (TIME, BATCHES), (TIME, TIME, BATCHES))(x, first)
    np.testing.assert_array_equal(np.asarray(zeros, np.int32), [[0, 0, 0, 1, 2, 3, 4, 5]])
    np.testing.assert_array_equal(np.asarray(given, np.int32), [[40, 50, 0, 1, 2, 3, 4, 5]])
    np.testing.assert_array_equal(np.asarray(last, np.int32), [[6, 7]])


def test_sequences_side_by_side_start_without_a_window():
    def one_part(query, key, value):
        return sliding_window_attention(query, key, value, window=WINDOW, chunk=CHUNK)[0]

    arrays = [jnp.asarray(x, jnp.float32) for x in ARRAYS]
    mixed = sharded(one_part, (2, 1, 1), (BATCHES,) * 3, BATCHES)(*arrays)
    np.testing.assert_allclose(mixed, jax.jit(one_part)(*arrays), rtol=0, atol=1e-6)


def test_a_window_of_one_token_needs_no_neighbour():
    def one_slice(query, key, value):
        before = window_before(key, value, 1, SEQUENCE)
        return sliding_window_attention(query, key, value, before, window=1, chunk=CHUNK)[0]

    arrays = [jnp.asarray(x, jnp.float32) for x in ARRAYS]
    mixed = sharded(one_slice, (1, 1, 4), (TIME, TIME, TIME), TIME)(*arrays)
    np.testing.assert_allclose(mixed, arrays[2], rtol=1e-6)


def lowered(length, window=WINDOW):
    """For four GPUs that are not there."""

    def one_slice(query, key, value):
        before = window_before(key, value, window, SEQUENCE)
        return sliding_window_attention(query, key, value, before, window=window, chunk=CHUNK)[0]

    mesh = abstract_model_mesh(sequence=4)
    shapes = [jax.ShapeDtypeStruct((BATCH, length, HEADS, WIDTH), jnp.float32)] * 3
    program = jax.jit(jax.shard_map(one_slice, mesh=mesh, in_specs=TIME, out_specs=TIME))
    return program.trace(*shapes).lower(lowering_platforms=("cuda",)).as_text()


def test_devices_exchange_windows_whatever_the_length():
    def exchanged(length):
        text = lowered(length)
        for other in ("all_gather", "all_to_all", "all_reduce", "reduce_scatter"):
            assert other not in text
        lines = [line for line in text.splitlines() if "stablehlo.collective_permute" in line]
        return sorted(line.split("->")[-1].strip() for line in lines)

    window = f"tensor<{BATCH}x{WINDOW - 1}x{HEADS}x{WIDTH}xf32>"
    assert exchanged(LENGTH) == exchanged(4096) == sorted([window, window])


@pytest.mark.parametrize(("length", "window", "fits"), [(24, 7, True), (24, 8, False), (28, 8, True), (28, 9, False)])
def test_a_slice_shorter_than_the_look_back_is_refused_when_traced(length, window, fits):
    if fits:
        assert "collective_permute" in lowered(length, window)
        return
    message = f"mesh axis sequence has {length // 4} tokens, expected at least the {window - 1} that the next device"
    with pytest.raises(ValueError, match=f"tokens_before: the slice of each device on {message}"):
        lowered(length, window)
