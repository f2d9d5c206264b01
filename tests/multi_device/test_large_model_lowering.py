"""The large preset's training step lowered for four H200s that are not there, at full context and full width."""

from __future__ import annotations

import re
from functools import cache

import jax
import jax.numpy as jnp
import pytest

from atlas_jax.distributed.mesh import MODEL_AXES, abstract_model_mesh
from atlas_jax.distributed.step import make_sharded_step
from atlas_jax.training import adamw, init_state, make_step
from spectral import resonance

BASE = resonance.PRESETS["base"]


@cache
def lowered(shape, batch, length):
    def loss(params, windows, key):
        del key
        return jnp.mean(resonance.token_losses(BASE, params, windows[:, :-1], windows[:, 1:])[0]), {}

    state = jax.eval_shape(lambda key: init_state(resonance.init(BASE, key), adamw(), key), jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(state.params)) == 979_635_200
    step = make_sharded_step(
        make_step(loss, adamw()), state, resonance.parameter_axes(BASE), abstract_model_mesh(*shape)
    )
    windows = jax.ShapeDtypeStruct((batch, length + 1), jnp.int32)
    return (
        step.trace(state, windows, jax.ShapeDtypeStruct((), jnp.float32)).lower(lowering_platforms=("cuda",)).as_text()
    )


def shapes(text, operation):
    """Of what every such operation gives; those with a body say it where the body ends."""
    found = re.findall(rf'"?stablehlo\.{operation}"?(?:(?!stablehlo\.{operation}).)*?-> (tensor<\S+>)', text, re.DOTALL)
    return sorted(found)


CASES = [
    ((1, 1, 4), 1, 131_072),
    ((1, 2, 2), 2, 131_072),
    ((4, 1, 1), 16, 2_048),
    ((1, 4, 1), 16, 2_048),
    ((2, 1, 2), 16, 2_048),
]


@pytest.mark.parametrize(("shape", "batch", "length"), CASES)
def test_the_large_model_lowers_for_four_cuda_devices(shape, batch, length):
    text = lowered(shape, batch, length)
    axes = ", ".join(f'"{name}"={size}' for name, size in zip(MODEL_AXES, shape, strict=True))
    assert f"sdy.mesh @mesh = <[{axes}]>" in text
    assert "all_to_all" not in text
    data, tensor, sequence = shape
    # What one device convolves: its sequences and tokens, cut into chunks of 128, and its heads, in bfloat16.
    here, chunks, heads = batch // data, length // sequence // 128, 32 // tensor
    assert f"tensor<{here}x{chunks}x128x{heads}x64xbf16>" in text
    # Logits exist for one block of tokens and the device's share of the vocabulary, made full to divide.
    assert f"tensor<4096x{-(-50_257 // tensor)}xf32>" in text
    assert not re.search(r"tensor<\d+x\d+x(50257|50258|50260)x", text)


def test_devices_that_split_the_time_exchange_one_state_a_layer():
    """Forward and, as the layer is computed again, backward; 0.5 MB for 131,072 tokens as for 2,048."""
    for length in (2_048, 131_072):
        assert shapes(lowered((1, 1, 4), 1, length), "all_gather") == ["tensor<4x1x32x16x64xf32>"] * 2
