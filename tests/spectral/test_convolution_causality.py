"""No output depends on a later input: to the last bit where the algorithm is local in time, to rounding where it is an FFT."""

from __future__ import annotations

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spectral.convolution import Modes, causal_convolution, filter_convolution, hierarchical_fft

LENGTH, CHUNK, HEADS = 37, 8, 2
CUTS = np.array([1, 2, 7, 8, 9, 16, 23, 36])
FUTURE = np.arange(LENGTH) >= CUTS[:, None]  # one sequence of the batch for each cut


def modes(dtype):
    parts = np.random.default_rng(0).normal(size=(4, HEADS, 3))
    return Modes(*(jnp.asarray(part, dtype) for part in (parts[0] - 2.5, np.pi * parts[1], parts[2], parts[3])))


def modal(algorithm):
    def run(x):
        state = jnp.ones((x.shape[0], HEADS, 6, x.shape[3]), x.dtype)
        return causal_convolution(x, modes(x.dtype), state, chunk=CHUNK, algorithm=algorithm)[0]

    return run


def taps(dtype):
    return jnp.asarray(np.random.default_rng(1).normal(size=(HEADS, LENGTH)), dtype)


def filtered(algorithm):
    return lambda x: filter_convolution(x, taps(x.dtype), algorithm=algorithm)


def blocks(x):
    return hierarchical_fft(x, taps(x.dtype), block=CHUNK)


LOCAL = {
    **{name: modal(name) for name in ("toeplitz", "chunked", "parallel", "scan")},
    "filter toeplitz": filtered("toeplitz"),
    "blocks": blocks,
}
TRANSFORMED = {"fft": modal("fft"), "filter fft": filtered("fft")}


@cache
def compiled(name):
    return jax.jit((LOCAL | TRANSFORMED)[name])


def inputs(size, dtype=np.float32):
    """One past and two different futures, `size` times as large as the past."""
    rng = np.random.default_rng(2)
    past, first, second = (rng.normal(size=(len(CUTS), LENGTH, HEADS, 3)) for _ in range(3))
    future = FUTURE[..., None, None]
    return [jnp.asarray(np.where(future, size * other, past), dtype) for other in (first, second)]


@pytest.mark.parametrize("name", LOCAL)
def test_the_future_does_not_move_a_bit_of_the_past(name):
    before, after = (np.asarray(compiled(name)(x)) for x in inputs(1e6))
    np.testing.assert_array_equal(before[~FUTURE], after[~FUTURE])
    assert np.all(before[FUTURE] != after[FUTURE])


@pytest.mark.parametrize("name", LOCAL)
def test_no_gradient_flows_from_the_past_to_the_future(name):
    weights = np.where(FUTURE[..., None, None], 0.0, 1.0).astype(np.float32)
    x = inputs(1.0)[0]
    gradient = np.asarray(jax.jit(jax.grad(lambda x: jnp.sum(jnp.asarray(weights) * LOCAL[name](x))))(x))
    assert np.all(gradient[FUTURE] == 0)
    assert np.all(gradient[~FUTURE] != 0)


@pytest.mark.parametrize("name", TRANSFORMED)
@pytest.mark.parametrize(("dtype", "bound"), [(np.float64, 1e-12), (np.float32, 1e-5)])  # measured 3e-16 and 2e-7
def test_a_transform_leaks_no_more_than_the_rounding_of_the_future(name, dtype, bound):
    with jax.enable_x64(dtype == np.float64):
        before, after = (np.asarray(compiled(name)(x)) for x in inputs(1e6, dtype))
    assert before.dtype == dtype
    moved = np.abs(before - after)
    assert moved[~FUTURE].max() < bound * np.abs(after[FUTURE]).max()
    assert np.all(moved[FUTURE] > 0)


@pytest.mark.parametrize(
    ("name", "reach"),
    # A matmul multiplies what it does not need by 0, and 0 * NaN is NaN: a Toeplitz block is spoiled as a whole.
    # Blocks are 5 tokens there: 37 halved until it is at most 8.
    [("scan", 1), ("chunked", CHUNK), ("parallel", CHUNK), ("blocks", 5)],
)
def test_a_nan_never_reaches_an_earlier_block(name, reach):
    for place in (1, 8, 20, 36):
        spoiled = np.asarray(inputs(1.0)[0]).copy()
        spoiled[:, place] = np.nan
        y = np.asarray(compiled(name)(jnp.asarray(spoiled)))
        assert np.all(np.isfinite(y[:, : place // reach * reach]))
        assert np.all(np.isnan(y[:, place:]))


@pytest.mark.parametrize("algorithm", ["chunked", "scan"])
def test_sequences_split_over_devices(algorithm):
    """Inside `shard_map` the state before the first token must vary over the mesh as the inputs do."""
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    along = jax.sharding.PartitionSpec("data")
    everywhere = jax.sharding.PartitionSpec()
    run = partial(causal_convolution, algorithm=algorithm, chunk=CHUNK)
    x = inputs(1.0)[0]
    split = jax.jit(jax.shard_map(run, mesh=mesh, in_specs=(along, everywhere), out_specs=(along, along)))
    y, state = split(x, modes(np.float32))
    expected, after = jax.jit(run)(x, modes(np.float32))
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-6 * np.abs(expected).max())
    np.testing.assert_allclose(state, after, rtol=0, atol=1e-6 * np.abs(after).max())
