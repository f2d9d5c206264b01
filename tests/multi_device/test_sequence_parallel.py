"""The convolution with its time axis on four devices against its definition: outputs, last state, gradients, messages."""

from __future__ import annotations

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax.distributed.mesh import model_mesh
from spectral import reference
from spectral.convolution import Modes, causal_convolution
from spectral.convolution.causal import ALGORITHMS
from spectral.convolution.sharded import mesh_convolution

MESHES = [(4, 1, 1), (1, 4, 1), (1, 1, 4), (2, 1, 2), (1, 2, 2)]
BATCH, LENGTH, HEADS, MODES, WIDTH = 4, 28, 4, 3, 2  # slices of 7 tokens: two chunks of 3 and a remainder
RNG = np.random.default_rng(0)
X = RNG.normal(size=(BATCH, LENGTH, HEADS, WIDTH))
DRAWN = Modes(RNG.uniform(-4, 0, (HEADS, MODES)), *(RNG.normal(size=(HEADS, MODES)) for _ in range(3)))
STATE = RNG.normal(size=(BATCH, HEADS, 2 * MODES, WIDTH))
WEIGHTS = RNG.normal(size=X.shape)


def over(mesh, function):
    """Jitted for a mesh (None: for one device)."""
    jitted = jax.jit(function)

    def call(*args):
        if mesh is None:
            return jitted(*args)
        with jax.set_mesh(mesh):
            return jitted(*args)

    return call


def on_device(tree, dtype=jnp.float64):
    return jax.tree.map(lambda part: jnp.asarray(part, dtype), tree)


CASES = [(shape, None, True) for shape in MESHES] + [((1, 1, 4), name, True) for name in ALGORITHMS]


@pytest.mark.parametrize(("shape", "algorithm", "started"), [*CASES, ((1, 1, 4), None, False)])
def test_split_convolution_equals_its_definition(shape, algorithm, started):
    state = STATE if started else None
    with jax.enable_x64(True):
        convolve = over(model_mesh(*shape), lambda *args: mesh_convolution(*args, chunk=3, algorithm=algorithm))
        y, last = convolve(*on_device((X, DRAWN, state)))
        np.testing.assert_allclose(y, reference.causal_convolution(X, DRAWN, state), rtol=0, atol=1e-12)
        np.testing.assert_allclose(last, reference.last_state(X, DRAWN, state), rtol=0, atol=1e-12)


def test_in_float32_it_equals_the_definition():
    y, last = over(model_mesh(sequence=4), mesh_convolution)(*on_device((X, DRAWN, STATE), jnp.float32))
    np.testing.assert_allclose(y, reference.causal_convolution(X, DRAWN, STATE), rtol=0, atol=3e-5)  # measured 4e-6
    np.testing.assert_allclose(last, reference.last_state(X, DRAWN, STATE), rtol=0, atol=3e-5)


@cache
def gradient(shape):
    def loss(x, modes, state):
        convolve = causal_convolution if shape is None else mesh_convolution
        y, last = convolve(x, modes, state, chunk=3, algorithm="chunked")
        return jnp.sum(jnp.asarray(WEIGHTS) * y) + jnp.sum(jnp.sin(last))

    with jax.enable_x64(True):
        mesh = None if shape is None else model_mesh(*shape)
        found = over(mesh, jax.grad(loss, argnums=(0, 1, 2)))(*on_device((X, DRAWN, STATE)))
        return [np.asarray(leaf) for leaf in jax.tree.leaves(found)]


@pytest.mark.parametrize("shape", MESHES)
def test_gradients_of_inputs_modes_and_state_are_those_of_one_device(shape):
    for split, whole in zip(gradient(shape), gradient(None), strict=True):
        np.testing.assert_allclose(split, whole, rtol=1e-10, atol=1e-10)


def test_one_device_streams_on_from_the_state_of_four():
    with jax.enable_x64(True):
        x, modes = on_device((X, DRAWN))
        _, state = over(model_mesh(sequence=4), mesh_convolution)(x[:, :20], modes)
        rest, last = jax.jit(causal_convolution)(x[:, 20:], modes, jnp.asarray(np.asarray(state)))
        np.testing.assert_allclose(rest, reference.causal_convolution(X, DRAWN)[:, 20:], rtol=0, atol=1e-12)
        np.testing.assert_allclose(last, reference.last_state(X, DRAWN), rtol=0, atol=1e-12)


def test_devices_exchange_states_whatever_the_length():
    def exchanged(length):
        x, modes = on_device((np.ones((1, length, HEADS, WIDTH)), DRAWN), jnp.float32)
        with jax.set_mesh(model_mesh(sequence=4)):
            text = jax.jit(mesh_convolution).lower(x, modes).as_text()
        assert "all_to_all" not in text
        assert "collective_permute" not in text
        return [line.split(":")[-1] for line in text.splitlines() if "stablehlo.all_gather" in line]

    (short,) = exchanged(16)
    assert exchanged(4096) == [short]
    assert f"tensor<4x1x{HEADS}x{2 * MODES}x{WIDTH}xf32>" in short


@pytest.mark.parametrize(
    ("shape", "x", "message"),
    [
        ((1, 1, 4), X[:, :27], "axis time is 27, expected a multiple of the mesh's sequence = 4"),
        ((4, 1, 1), X[:3], "axis batch is 3, expected a multiple of the mesh's data = 4"),
        ((1, 4, 1), X[:, :, :2], "axis heads is 2, expected a multiple of the mesh's tensor = 4"),
    ],
)
def test_what_does_not_split_is_refused_by_name(shape, x, message):
    modes = Modes(*(part[: x.shape[2]] for part in DRAWN))
    with pytest.raises(ValueError, match=f"convolution inputs: {message} devices"):
        over(model_mesh(*shape), mesh_convolution)(*on_device((x, modes), jnp.float32))


@pytest.mark.parametrize(
    ("x", "chunk", "message"), [(X, 0, "chunk is 0"), (X.astype(np.int32), None, "x is int32, expected one of")]
)
def test_a_slice_is_checked_as_a_whole_sequence_is(x, chunk, message):
    with pytest.raises(ValueError, match=message):
        over(model_mesh(sequence=4), lambda x: mesh_convolution(x, on_device(DRAWN, jnp.float32), chunk=chunk))(
            jnp.asarray(x, jnp.int32 if x.dtype == np.int32 else jnp.float32)
        )
