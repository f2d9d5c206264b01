"""The program of a tier lowered for four CUDA devices that are not there: an illegal sharding fails here."""

from __future__ import annotations

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, AxisType

from atlas_jax.distributed.mesh import BATCH, VARIANT, idle_variants, mesh_shape
from atlas_jax.training import adamw, init_state, make_step
from atlas_jax.training.ensemble import make_evaluation, make_segment, mean_over_batch_devices
from spectral import resonance
from validation.profiles import PROFILES
from validation.tiers import model_config, token_losses

PROFILE = PROFILES["laptop"]
PLAN = PROFILE.tiers[0]
CONFIG = model_config(PLAN, PROFILE, PROFILE.vocab_size)
STEPS, WINDOWS = 4, 32
CUDA = AbstractDevice(device_kind="NVIDIA H200", num_cores=None, platform="gpu")


def abstract(shape):
    return AbstractMesh(shape, (VARIANT, BATCH), axis_types=(AxisType.Auto,) * 2, abstract_device=CUDA)


def start(key):
    return init_state(resonance.init(CONFIG, key), adamw(), key)


def states(variants):
    return jax.eval_shape(lambda: jax.vmap(lambda seed: start(jax.random.key(seed)))(jnp.arange(variants)))


def windows():
    return jax.ShapeDtypeStruct((WINDOWS, PROFILE.length + 1), jnp.int32)


def loss(params, batch, key):
    return jnp.mean(token_losses(CONFIG, params, batch)[0]), {}


def lowered_segment(variants, shape):
    reduced = [mean_over_batch_devices] if shape[1] > 1 else []
    segment = make_segment(make_step(loss, adamw(), *reduced), abstract(shape))
    batches = jax.ShapeDtypeStruct((variants, STEPS, PLAN.batch, PROFILE.length + 1), jnp.int32)
    rates = jax.ShapeDtypeStruct((variants, STEPS), jnp.float32)
    traced = segment.trace(states(variants), batches, rates)
    return traced.lower(lowering_platforms=("cuda",)).as_text()


@pytest.mark.parametrize(("variants", "shape"), [(5, (1, 4)), (4, (4, 1)), (6, (2, 2))])
def test_segment_lowers_for_four_cuda_devices(variants, shape):
    assert mesh_shape(variants, PLAN.batch, 4) == shape
    text = lowered_segment(variants, shape)
    assert f'sdy.mesh @mesh = <["variant"={shape[0]}, "batch"={shape[1]}]>' in text
    # One flat gradient: the step has a single collective, over the devices that share a variant.
    assert text.count("stablehlo.all_reduce") == (shape[1] > 1)
    if shape[1] > 1:
        groups = re.search(r"replica_groups = dense<(.*?)>", text)
        assert groups is not None
        assert json.loads(groups[1]) == np.arange(4).reshape(shape).tolist()
    for other in ("all_gather", "all_to_all", "collective_permute", "reduce_scatter"):
        assert other not in text
    # A device holds its share of the variants and of each batch, and the variants run as one batch of matmuls.
    share = f"tensor<{variants // shape[0]}x{STEPS}x{PLAN.batch // shape[1]}x{PROFILE.length + 1}xi32>"
    assert re.search(rf"sdy.manual_computation.*{share}", text)
    assert re.search(rf"dot_general.*tensor<{variants // shape[0]}x", text)


@pytest.mark.parametrize(("variants", "shape"), [(5, (1, 4)), (4, (4, 1))])
def test_evaluation_lowers_without_communication(variants, shape):
    evaluate = make_evaluation(lambda params, batch: token_losses(CONFIG, params, batch), abstract(shape), batch=8)
    text = evaluate.trace(states(variants).params, windows()).lower(lowering_platforms=("cuda",)).as_text()
    assert f'"variant"={shape[0]}, "batch"={shape[1]}' in text
    assert not re.search(r"all_reduce|all_gather|all_to_all|collective_permute", text)


def test_a_split_that_does_not_divide_fails_at_trace_time():
    with pytest.raises(ValueError, match="divi"):
        lowered_segment(5, (4, 1))


@pytest.mark.parametrize(("number", "shape"), [(0, (2, 1)), (1, (3, 1)), (2, (1, 4))])
def test_tiers_of_four_h200_lower_as_they_are_placed(number, shape):
    """Ten, five and three models on two, three and four devices, two halves of each batch one after the other."""
    profile = PROFILES["h200x4"]
    plan = profile.tiers[number]
    part = plan.batch // plan.accumulation
    variants = plan.count + idle_variants(plan.count, part, plan.devices)
    assert mesh_shape(variants, part, plan.devices) == shape
    config = model_config(plan, profile, profile.vocab_size)
    assert (config.vocab_size, config.context, config.dtype, config.recompute) == (50_257, 2048, "bfloat16", True)

    def loss(params, batch, key):
        return jnp.mean(resonance.token_losses(config, params, batch[:, :-1], batch[:, 1:])[0]), {}

    def first(key):
        return init_state(resonance.init(config, key), adamw(), key)

    reduced = [mean_over_batch_devices] if shape[1] > 1 else []
    step = make_step(loss, adamw(), *reduced, accumulation=plan.accumulation)
    states = jax.eval_shape(lambda: jax.vmap(lambda seed: first(jax.random.key(seed)))(jnp.arange(variants)))
    batches = jax.ShapeDtypeStruct((variants, profile.segment, plan.batch, profile.length + 1), jnp.int32)
    rates = jax.ShapeDtypeStruct((variants, profile.segment), jnp.float32)
    traced = make_segment(step, abstract(shape), in_turn=True).trace(states, batches, rates)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("stablehlo.all_reduce") == (shape[1] > 1)
    # No logits of a whole part: a block of 4,096 tokens at a time.
    assert f"tensor<4096x{profile.vocab_size}x" in text
    assert f"tensor<{part // shape[1] * profile.length}x{profile.vocab_size}x" not in text
