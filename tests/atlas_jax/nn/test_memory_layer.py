"""The layer around memories, and blocks, against their definitions, token by token inside; low precision; what is refused."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import compiled

from atlas_jax.memory.delta import GatedDelta
from atlas_jax.memory.dual import Descent
from atlas_jax.memory.networks import MLP
from atlas_jax.memory.one_step import OneStep
from atlas_jax.memory.reference import reference
from atlas_jax.memory.sequence import MemoryConfig
from atlas_jax.memory.tokens import Gates, Tokens
from atlas_jax.nn.blocks import Block, WindowAttention
from atlas_jax.nn.context import MemoryAsContext, init_context_state
from atlas_jax.nn.memory import MemoryLayer, init_layer_state

HEADS, D, LENGTH, RATE = 2, 8, 9, 0.5
WIDTH = D // HEADS
MEMORIES = (
    MemoryConfig(Descent(MLP, 2), 4),
    MemoryConfig(OneStep.atlas(MLP), 2, 4, "norm_sum"),
)
LAYER = MemoryLayer(HEADS, MEMORIES, expansion=2, degree=2, rate=RATE)
ONE = (MemoryConfig(Descent(MLP), 4),)


@cache
def parameters(module, *more):
    """Random ones, so that each of them shows; float64."""
    rng = np.random.default_rng(1)

    def drawn(leaf):
        if len(leaf.shape) == 1:
            return 1 + 0.3 * rng.normal(size=leaf.shape)
        return rng.normal(size=leaf.shape) * leaf.shape[-2] ** -0.5

    return jax.tree.map(drawn, jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 1, D)), *more)["params"])


def inputs(batch=1, length=LENGTH):
    return np.random.default_rng(2).normal(size=(batch, length, D))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def rms(x, scale):
    return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + 1e-6) * scale


def by_head(x):
    """[t, d] to [h, t, k]."""
    return np.moveaxis(x.reshape(len(x), HEADS, -1), 1, 0)


def tokens_of(params, x):
    """Of one sequence: queries, keys and values of every head, and of every memory the gates that `Gates` is made of."""
    mixed, kernel = x @ params["query_key_value"], params["convolution"]
    seen = np.concatenate([np.zeros((3, 3 * D)), mixed])
    mixed = sum(kernel[j] * seen[3 - j : 3 - j + len(x)] for j in range(4))
    query, key, value = (by_head(part) for part in np.split(mixed, 3, axis=-1))
    query, key = (part / np.sqrt((part**2).sum(-1, keepdims=True) + 1e-12) for part in (query, key))
    raw = (x @ params["gates"] + params["gate_bias"]).reshape(len(x), len(MEMORIES), 4, HEADS)
    return (query, key, value), sigmoid(np.transpose(raw, (1, 2, 3, 0)))


@cache
def oracle(config):
    return compiled(jax.vmap(lambda beginning, tokens: reference(config, beginning, tokens).outputs))


def said_by(params, x):
    """The layer's definition, [t, d]."""
    vectors, opened = tokens_of(params, x)
    said = 0
    for i, (config, (forget, momentum, rate, strength)) in enumerate(zip(MEMORIES, opened, strict=True)):
        counts = strength if config.rule.window > 1 else np.ones_like(strength)
        gates = Gates(np.log(1 - forget), np.log(momentum), RATE * rate, counts)
        given = jax.tree.map(jnp.asarray, (params[f"memory_{i}"], Tokens(*vectors, gates)))
        said = said + np.asarray(oracle(config)(*given))
    normed = np.moveaxis(rms(said, params["norm"]), 0, 1).reshape(len(x), D)
    gate = x @ params["output_gate"]
    return (normed * gate * sigmoid(gate)) @ params["out"]


def test_the_layer_is_its_definition_token_by_token():
    with jax.enable_x64(True):
        params, x = parameters(LAYER), inputs()
        outputs, _, opened = compiled(partial(LAYER.apply, method="with_gates"))({"params": params}, jnp.asarray(x))
        np.testing.assert_allclose(outputs[0], said_by(params, x[0]), rtol=0, atol=1e-10)
        _, expected = tokens_of(params, x[0])
        for gates, wanted, config in zip(opened, expected, MEMORIES, strict=True):
            kinds = ("forget", "momentum", "rate", "strength")[: 4 if config.rule.window > 1 else 3]
            assert set(gates) == set(kinds)
            for kind, values in zip(kinds, wanted, strict=False):
                np.testing.assert_allclose(gates[kind][0], values, rtol=1e-9)


def test_of_the_delta_rule_there_is_no_momentum_to_look_at():
    layer = MemoryLayer(HEADS, (MemoryConfig(GatedDelta(), 4),))
    _, _, (gates,) = jax.eval_shape(
        partial(layer.apply, method="with_gates"), {"params": parameters(layer)}, jnp.zeros((1, 3, D))
    )
    assert set(gates) == {"forget", "rate"}


@pytest.mark.parametrize("kind", ["memory", "gate", "layer"])
def test_a_block_is_its_definition(kind):
    """By what its layers give, which have definitions of their own."""
    memory, attention = MemoryLayer(HEADS, ONE, expansion=1), WindowAttention(HEADS, 3, 2, 1.0)
    block = Block(kind, memory, attention, 6, 0.5)
    with jax.enable_x64(True):
        params, x = parameters(block), inputs()

        def layer(module, name, x, *state):
            return np.asarray(compiled(module.apply)({"params": params[name]}, jnp.asarray(x), *state)[0])

        read = rms(x, params["mix_norm"])
        said = layer(memory, "memory", read)
        if kind == "gate":
            seen = layer(attention, "attention", read, None)
            said = rms(said, params["memory_norm"]) * rms(seen, params["attention_norm"])
        elif kind == "layer":
            said = layer(attention, "attention", rms(said, params["memory_norm"]), None)
        after = x + said
        inner = params["FeedForward_0"]
        up, gate = np.split(rms(after, params["feed_forward_norm"]) @ inner["up_gate"], 2, axis=-1)
        expected = after + (up * gate * sigmoid(gate)) @ inner["down"]
        got, _ = compiled(block.apply)({"params": params}, jnp.asarray(x))
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12)


ROUNDED = {
    "omega and atlas": LAYER,
    "context": MemoryAsContext(HEADS, (MemoryConfig(Descent(MLP, 2), 4),), 3, 3.0, expansion=2, rate=RATE),
}


@pytest.mark.parametrize("layer", ROUNDED.values(), ids=ROUNDED)
def test_bfloat16_inputs_change_what_is_said_little(layer):
    """As a bfloat16 model gives them, parameters in float32: measured .005 and .016 of the norm."""
    params, x = jax.tree.map(jnp.float32, parameters(layer)), jnp.asarray(inputs(4, 21), jnp.bfloat16)
    apply = compiled(layer.apply)
    wide, _ = apply({"params": params}, x.astype(jnp.float32))
    narrow, _ = apply({"params": params}, x)
    assert narrow.dtype == jnp.bfloat16
    distance = jnp.linalg.norm(narrow.astype(jnp.float32) - wide) / jnp.linalg.norm(wide)
    assert 1e-4 < distance < 0.03


def shapes(layer, x, state=None):
    params = parameters(layer)
    return jax.eval_shape(layer.apply, {"params": params}, x, state)


@pytest.mark.parametrize("layer", [MemoryLayer(HEADS, ONE), MemoryAsContext(HEADS, ONE, 2, 3.0)])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 0}, "heads is 0, expected at least 1"),
        ({"heads": 3}, ": inputs have 8 channels, expected a multiple of heads = 3"),
        ({"expansion": 0}, "expansion is 0, expected at least 1"),
        ({"rate": 0.0}, "rate is 0.0, expected more than 0"),
        ({"rate": -1.0}, "rate is -1.0, expected more than 0"),
        ({"features": "exp", "degree": 2}, "features is 'exp', expected one of polynomial, exponential"),
        ({"features": "exponential"}, "degree is None, expected 1, 2 or 3 for the features 'exponential'"),
        ({"degree": 4}, "degree is 4, expected one of 1, 2, 3"),
    ],
)
def test_layers_that_cannot_be(layer, changes, message):
    other = layer.clone()
    for field, value in changes.items():
        object.__setattr__(other, field, value)  # the tests' own type checks would speak first
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda: other.init(jax.random.key(0), jnp.zeros((1, 3, D))))


@pytest.mark.parametrize("layer", [MemoryLayer(HEADS, ONE), MemoryAsContext(HEADS, ONE, 2, 3.0)])
@pytest.mark.parametrize("shape", [(2, 0, D), (0, 3, D), (2, 3, 0)])
def test_inputs_that_are_none(layer, shape):
    found = rf"inputs are float32\[{', '.join(map(str, shape))}\], expected floats \[batch, time, channels\]"
    x = jnp.zeros(shape)
    with pytest.raises(ValueError, match=found):
        jax.eval_shape(layer.init, jax.random.key(0), x)


def test_a_layer_of_no_memories():
    with pytest.raises(ValueError, match=r"MemoryLayer.memories is \(\), expected at least one"):
        jax.eval_shape(MemoryLayer(HEADS, ()).init, jax.random.key(0), jnp.zeros((1, 1, D)))


def test_the_state_of_another_layer_or_batch():
    x, layer, context = jnp.zeros((2, 3, D)), MemoryLayer(HEADS, ONE), MemoryAsContext(HEADS, ONE, 2, 3.0)
    longer = (MemoryConfig(Descent(MLP), 8),)
    for other, state, message in (
        (layer, init_layer_state(ONE * 2, 2, HEADS, D, 4, None), "state is of 2 memories, expected 1 as the layer has"),
        (
            layer,
            init_layer_state(ONE, 2, HEADS, D, 2, None),
            r"state.heads.base\['down'\] is float32\[2, 2, 8, 4\], exp",
        ),
        (
            context,
            init_context_state(ONE, 1, HEADS, D, 4, None),
            r"state.memory.heads.base\['down'\] is float32\[1, 2,",
        ),
        (
            context,
            init_context_state(longer, 2, HEADS, D, 4, None),
            r"recalled.keys is float32\[2, 8, 2, 4\], expected",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            shapes(other, x, state)


@pytest.mark.parametrize(
    ("kind", "memory", "message"),
    [
        (
            "mag",
            MemoryLayer(HEADS, ONE),
            "Block.kind is 'mag' with a MemoryLayer, expected one of memory, gate, layer, c",
        ),
        ("context", MemoryLayer(HEADS, ONE), "Block.kind is 'context' with a MemoryLayer"),
        ("gate", MemoryAsContext(HEADS, ONE, 2, 3.0), "Block.kind is 'gate' with a MemoryAsContext"),
    ],
)
def test_blocks_that_are_none(kind, memory, message):
    block = Block("memory", memory, WindowAttention(HEADS, 3, 2, 1.0), 6, 0.5)
    object.__setattr__(block, "kind", kind)  # the tests' own type checks would speak first
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(block.init, jax.random.key(0), jnp.zeros((1, 3, D)))


def test_attention_of_heads_that_do_not_divide():
    attention = WindowAttention(3, 3, 2, 1.0)
    with pytest.raises(ValueError, match="WindowAttention: inputs have 8 channels, expected a multiple of heads = 3"):
        jax.eval_shape(lambda: attention.init(jax.random.key(0), jnp.zeros((1, 3, D)), None))
