"""What models answer to input that is none: one line that names it, before anything is computed."""

from __future__ import annotations

import inspect
from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import compiled

from atlas_jax.models import atlas, transformer
from atlas_jax.models.atlas import AtlasConfig
from atlas_jax.models.checks import check_batch, check_params, check_state, check_token, check_tokens
from atlas_jax.models.transformer import TransformerConfig

CONFIG = AtlasConfig(vocab_size=17, d_model=8, layers=2, heads=2, feed_forward=8, context=12, chunks=(4,), expansion=1)
TRANSFORMER = TransformerConfig(vocab_size=17, d_model=8, layers=2, heads=2, feed_forward=8, context=12)
MODELS = [pytest.param(atlas, CONFIG, id="atlas"), pytest.param(transformer, TRANSFORMER, id="transformer")]
each_model = pytest.mark.parametrize(("model", "config"), MODELS)


@cache
def shapes(config, model=atlas):
    return jax.eval_shape(lambda: model.init(config, jax.random.key(0)))


def state_of(config, batch=2):
    return jax.eval_shape(lambda: atlas.init_state(config, batch))


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([[1, 2]], r"Atlas: tokens are a list, expected integers \[batch, time\]"),
        (np.zeros(5, np.int32), r"Atlas: tokens are int32\[5\], expected integers \[batch, time\]"),
        (np.zeros((2, 5), np.float32), r"Atlas: tokens are float32\[2, 5\], expected integers"),
        (np.zeros((2, 5), bool), r"Atlas: tokens are bool\[2, 5\], expected integers"),
        (
            np.zeros((2, 0), np.int32),
            r"Atlas: tokens are int32\[2, 0\], expected at least 1 sequence of at least 1 token",
        ),
        (
            np.zeros((0, 5), np.int32),
            r"Atlas: tokens are int32\[0, 5\], expected at least 1 sequence of at least 1 token",
        ),
        (np.zeros((1, 13), np.int32), "Atlas: 13 tokens in one call, expected at most context = 12"),
        (np.array([[3, 16], [17, 0]]), r"Atlas: tokens\[1, 0\] is 17, expected 0 to 16, as vocab_size = 17"),
        (jnp.array([[3, -1]]), r"Atlas: tokens\[0, 1\] is -1, expected 0 to 16"),
    ],
)
def test_tokens_that_are_none_are_refused(tokens, message):
    with pytest.raises(ValueError, match=message):
        check_tokens(CONFIG, tokens)


def test_tokens_of_any_integer_type_pass():
    for dtype in (np.int8, np.uint8, np.int32, np.uint32, np.int64):
        check_tokens(CONFIG, np.array([[0, 16]], dtype))


@each_model
def test_under_jit_a_token_outside_the_vocabulary_gives_nan_and_no_other_token(model, config):
    params = jax.jit(partial(model.init, config))(jax.random.key(0))
    tokens = np.array([[3, token, 4] for token in (5, 17, -1, -17, 2**31 - 1)], np.int32)
    logits, _ = compiled(partial(model.apply, config))(params, tokens)
    finite = np.isfinite(logits).all(axis=-1)
    assert finite[0].all()
    assert not finite[1:, 1].any()


@each_model
def test_a_model_is_asked_with_its_own_parameters(model, config):
    tokens = jax.ShapeDtypeStruct((2, 5), jnp.int32)
    for change in ({"d_model": 16}, {"layers": 1}, {"vocab_size": 19}, {"feed_forward": 12}):
        with pytest.raises(ValueError, match=r"params\[.* has shape \(.*, expected \(.* for this config"):
            jax.eval_shape(partial(model.apply, config), shapes(replace(config, **change), model), tokens)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tied": True}, r"params\['head'\] is missing, expected float32\[8, 17\] for this config"),
        (
            {"block": "gate"},
            r"params\['blocks'\]\['attention'\]\['key_norm'\] is .*, expected nothing there for this config",
        ),
        ({"chunks": (4, 4)}, r"memory_1'\].* is .*, expected nothing there"),
        ({"expansion": 2}, r"weights\['down'\] has shape \(2, 2, 8, 4\), expected \(2, 2, 4, 4\) for this config"),
    ],
)
def test_parameters_of_another_config_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        check_params(shapes(CONFIG), shapes(replace(CONFIG, **change)))


def test_parameters_of_16_bits_are_refused_in_one_line():
    narrow = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16), shapes(CONFIG))
    with pytest.raises(ValueError, match="is bfloat16, expected float32: what is rounded the config's dtype says"):
        check_params(shapes(CONFIG), narrow)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (
            state_of(CONFIG, 3),
            r"AtlasState\.blocks\.memory\.past has shape \(2, 3, 3, 24\), expected \(2, 2, 3, 24\) for this",
        ),
        (state_of(replace(CONFIG, block="gate")), r"AtlasState\.blocks\.window\.keys is .*, expected nothing there"),
        (
            state_of(replace(CONFIG, chunks=(4, 4))),
            r"AtlasState\.blocks\.memory\.memories\[1\].* expected nothing there",
        ),
        ({}, "state is dict, expected AtlasState with the fields of this model"),
        (tuple(state_of(CONFIG)), "state is tuple, expected AtlasState"),
        (state_of(CONFIG)._replace(blocks=None), r"AtlasState\.blocks\.memory\.past is missing, expected float32\["),
    ],
)
def test_states_of_another_config_are_named(state, message):
    with pytest.raises(ValueError, match=message):
        check_state(state_of(CONFIG), state)


def test_the_segment_of_memory_as_context_is_part_of_its_state():
    config = replace(CONFIG, block="context")
    with pytest.raises(ValueError, match=r"recalled\.keys has shape \(2, 2, 2, 2, 4\), expected \(2, 2, 4, 2, 4\)"):
        check_state(state_of(config), state_of(replace(config, chunks=(2,))))


@pytest.mark.parametrize("batch", [0, -1, 2.0, True, None])
def test_a_batch_is_a_number_of_sequences(batch):
    with pytest.raises(ValueError, match=f"init_state: batch is {batch}, expected an integer of at least 1"):
        check_batch(batch)


@pytest.mark.parametrize(
    ("token", "told"), [(3, "a int"), (np.int32(3), r"int32\[\]"), (np.zeros((2, 1), np.int32), r"int32\[2, 1\]")]
)
def test_a_step_takes_one_token_of_each_sequence(token, told):
    with pytest.raises(ValueError, match=rf"Atlas: token is {told}, expected integers \[batch\]"):
        check_token(CONFIG, token)


@each_model
def test_models_ask(model, config):
    params, tokens = shapes(config, model), jax.ShapeDtypeStruct((2, 1), jnp.int32)
    with pytest.raises(ValueError, match=r"token is int32\[2, 1\], expected integers \[batch\]"):
        jax.eval_shape(partial(inspect.unwrap(model.step), config), params, tokens, None)
    with pytest.raises(ValueError, match="batch is 0"):
        model.init_state(config, 0)
