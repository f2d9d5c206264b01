"""The blockwise cross-entropy is the plain one: values, gradients, on one device and on four, in less memory."""

from __future__ import annotations

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax.distributed.mesh import model_mesh
from atlas_jax.training.losses import cross_entropy, weighted_mean

BATCH, LENGTH, WIDTH, VOCABULARY = 4, 8, 3, 13  # neither 2 nor 4 devices divide the vocabulary
RNG = np.random.default_rng(0)
X, WEIGHTS = 3 * RNG.normal(size=(BATCH, LENGTH, WIDTH)), RNG.normal(size=(WIDTH, VOCABULARY))
TARGETS = RNG.integers(0, VOCABULARY, (BATCH, LENGTH)).astype(np.int32)
COUNTED = RNG.normal(size=TARGETS.shape)  # weights of the tokens in the sum that is differentiated
MESHES = [None, (1, 4, 1), (2, 2, 1), (1, 2, 2), (2, 1, 2)]


def plain(x, weights):
    logits = jax.nn.log_softmax(x @ weights)
    return -jnp.take_along_axis(logits, jnp.asarray(TARGETS)[..., None], axis=-1)[..., 0]


def with_gradients(losses, dtype):
    def counted(x, weights):
        found = losses(x, weights)
        return jnp.sum(found * jnp.asarray(COUNTED, found.dtype)), found

    return jax.jit(jax.value_and_grad(counted, argnums=(0, 1), has_aux=True))(
        jnp.asarray(X, dtype), jnp.asarray(WEIGHTS, dtype)
    )


@cache
def expected():
    with jax.enable_x64(True):
        return jax.device_get(with_gradients(plain, jnp.float64))


def found(shape, block, dtype):
    blockwise = partial(cross_entropy, targets=jnp.asarray(TARGETS), block=block)
    if shape is None:
        return with_gradients(blockwise, dtype)
    with jax.set_mesh(model_mesh(*shape)):
        return with_gradients(blockwise, dtype)


@pytest.mark.parametrize("block", [1, 5, 32])
@pytest.mark.parametrize("shape", MESHES)
def test_losses_and_gradients_are_the_plain_ones(shape, block):
    """Blocks of one token, blocks that leave a remainder, and all in one."""
    with jax.enable_x64(True):
        for ours, wanted in zip(
            jax.tree.leaves(found(shape, block, jnp.float64)), jax.tree.leaves(expected()), strict=True
        ):
            np.testing.assert_allclose(ours, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", [None, (1, 2, 2)])
def test_in_float32_they_differ_by_rounding(shape):
    for ours, wanted in zip(jax.tree.leaves(found(shape, 5, jnp.float32)), jax.tree.leaves(expected()), strict=True):
        np.testing.assert_allclose(ours, wanted, rtol=1e-5, atol=1e-5)


def test_large_logits_do_not_overflow():
    weights, targets = 1e4 * jnp.eye(4), jnp.zeros((1, 1), jnp.int32)
    x = jnp.array([[[1.0, 0.0, 0.0, 0.0]]])
    assert cross_entropy(x, weights, targets)[0, 0] == 0.0
    with jax.set_mesh(model_mesh(tensor=4)):
        assert jax.jit(cross_entropy)(x, weights, targets)[0, 0] == 0.0


def test_gradients_of_weights_add_up_in_float32_beside_bfloat16_features():
    """4,096 blocks that each add 1/4096: in bfloat16 the sum would stop at 2."""
    x, weights = jnp.ones((1, 4096, 1), jnp.bfloat16), jnp.zeros((1, 2))
    targets = jnp.zeros((1, 4096), jnp.int32)
    gradient = jax.jit(jax.grad(lambda w: jnp.sum(cross_entropy(x, w, targets, block=1))))(weights)
    np.testing.assert_allclose(gradient, [[-2048.0, 2048.0]])


def test_no_program_holds_all_logits():
    tokens, vocabulary = 4096, 1000

    def memory(block):
        x, weights = (
            jax.ShapeDtypeStruct((1, tokens, 8), jnp.float32),
            jax.ShapeDtypeStruct((8, vocabulary), jnp.float32),
        )
        targets = jax.ShapeDtypeStruct((1, tokens), jnp.int32)
        gradient = jax.grad(lambda *args: jnp.mean(cross_entropy(*args, block=block)), argnums=(0, 1))
        return jax.jit(gradient).lower(x, weights, targets).compile().memory_analysis().temp_size_in_bytes

    logits = 4 * tokens * vocabulary
    assert memory(256) < logits / 4
    assert memory(tokens) > logits


def test_what_does_not_fit_is_refused_by_name():
    x, weights, targets = jnp.zeros((3, 2, 4)), jnp.zeros((4, 5)), jnp.zeros((3, 2), jnp.int32)
    with pytest.raises(ValueError, match="cross_entropy: block is 0, expected at least 1 token"):
        cross_entropy(x, weights, targets, block=0)
    with (
        jax.set_mesh(model_mesh(data=2)),
        pytest.raises(ValueError, match="targets: axis batch is 3, expected a multiple of the mesh's data = 2 devices"),
    ):
        cross_entropy(x, weights, targets)


def test_weights_of_a_batch_count_targets_and_parts_add_up_to_the_whole():
    losses, weights = jnp.asarray(RNG.normal(size=(4, 6))), jnp.asarray(RNG.random((4, 6)))
    whole = weighted_mean(losses, {"weights": weights})
    np.testing.assert_allclose(whole, np.sum(np.asarray(losses) * np.asarray(weights)) / 24, rtol=1e-6)
    parts = [weighted_mean(losses[rows], {"weights": weights[rows]}) for rows in (slice(0, 2), slice(2, 4))]
    np.testing.assert_allclose(np.mean(parts), whole, rtol=1e-6)
    np.testing.assert_allclose(weighted_mean(losses, {}), np.mean(losses), rtol=1e-6)
