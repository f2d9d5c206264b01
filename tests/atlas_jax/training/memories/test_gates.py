"""Gates of memories in training: handed out by the same pass, pushed apart by a live loss, and described."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import compiled

from atlas_jax.distributed.mesh import model_mesh
from atlas_jax.models import atlas
from atlas_jax.models.atlas import AtlasConfig
from atlas_jax.nn.memory import GATE_BIAS
from atlas_jax.training import adamw, init_state, make_step
from atlas_jax.training.memories.gates import (
    gate_spread,
    gate_statistics,
    make_polarised_step,
    next_token_loss,
    polarisation,
    polarisation_weight,
    polarised,
    with_gate_spread,
    with_gate_statistics,
)
from atlas_jax.training.runs.programs import make_update, mean_over_data

TINY = AtlasConfig(
    vocab_size=11,
    d_model=8,
    layers=2,
    heads=2,
    feed_forward=8,
    window=4,
    chunks=(4,),
    expansion=1,
    tied=True,
    context=9,
)
WINDOWED = {"forget", "momentum", "rate", "strength"}
CONFIGS = {
    "descent": (replace(TINY, block="gate"), {"forget", "momentum", "rate"}),
    "two memories": (
        replace(TINY, chunks=(2,), shard=4, global_chunk=4, network="linear", recompute=True),
        {"forget", "momentum", "rate"},
    ),
    "omega muon": (replace(TINY, block="layer", rule="muon", network="linear", omega_window=2), WINDOWED),
    "delta": (replace(TINY, rule="delta", network="linear", rate=0.5), {"forget", "rate"}),
    "context": (replace(TINY, block="context", network="linear", omega_window=2), WINDOWED),
}
each_config = pytest.mark.parametrize(("config", "kinds"), CONFIGS.values(), ids=CONFIGS)


@cache
def parameters(config):
    return compiled(partial(atlas.init, config))(jax.random.key(0))


@cache
def passed(config):
    return compiled(partial(atlas.features_and_gates, config))


def batch_of(batch=2, length=9, seed=0):
    tokens = np.random.default_rng(seed).integers(0, TINY.vocab_size, (batch, length), dtype=np.int32)
    return {"tokens": tokens}


@each_config
def test_a_pass_hands_out_the_gates_that_it_went_through(config, kinds):
    """Bounded, of every layer, memory, head and token, and where they start."""
    _, _, gates = passed(config)(parameters(config), batch_of(length=8)["tokens"])
    assert [set(memory) for memory in gates] == [kinds] * len(atlas.memories(config))
    for memory in gates:
        for kind, values in memory.items():
            assert values.shape == (config.layers, 2, config.heads, 8)
            start = float(jax.nn.sigmoid(GATE_BIAS[kind]))
            assert abs(float(values.mean()) - start) < 0.1
            assert 0.0 < float(values.min()) < float(values.max()) < 1.0, "differs from token to token"


def test_features_are_those_of_the_pass_without_gates():
    config = replace(TINY, block="context", network="linear", omega_window=2)
    params, tokens = parameters(config), batch_of(length=8)["tokens"]
    x, state, _ = passed(config)(params, tokens)
    chex.assert_trees_all_close(
        (x, state), compiled(partial(atlas.features, config))(params, tokens), rtol=1e-5, atol=1e-6
    )


@each_config
def test_the_gates_handed_out_are_those_that_memories_learn_by(config, kinds):
    """With the rate gate shut nothing is learnt; with forgetting at 1 nothing is kept: in the numbers and in the outputs."""
    params, tokens = parameters(config), batch_of(length=8)["tokens"]
    order = list(GATE_BIAS)

    def shut(kind, value):
        bias = params["blocks"]["memory"]["gate_bias"]
        sizes = (config.layers, len(atlas.memories(config)), 4, config.heads)
        moved = bias.reshape(sizes).at[:, :, order.index(kind)].set(value).reshape(bias.shape)
        return {**params, "blocks": {**params["blocks"], "memory": {**params["blocks"]["memory"], "gate_bias": moved}}}

    run = passed(config)
    before, _, gates = run(params, tokens)
    for kind in kinds:
        moved, _, opened = run(shut(kind, -12.0), tokens)
        assert float(jnp.abs(moved - before).max()) > 1e-6, f"{kind} is read"
        for memory, old in zip(opened, gates, strict=True):
            assert float(memory[kind].max()) < 1e-4
            for other in kinds - {
                kind
            }:  # of the first layer, whose inputs are the same, unless attention sees the memory
                if config.block != "context":
                    np.testing.assert_allclose(memory[other][0], old[other][0], atol=1e-6)


def test_polarisation_is_one_for_open_halves_and_zero_at_the_ends():
    halves = {"forget": jnp.full((2, 3), 0.5), "rate": jnp.full((2, 3), 0.5)}
    ends = {"forget": jnp.array([0.0, 1.0, 1.0])}
    assert polarisation([halves]) == 1.0
    assert polarisation([ends]) == 0.0
    np.testing.assert_allclose(
        polarisation([halves, {"rate": jnp.array([0.9, 0.9, 0.1])}]), (12 + 3 * 0.2) / 15, rtol=1e-6
    )


def test_lambda_is_held_and_then_falls_by_a_constant_factor():
    weight = polarisation_weight(1000)
    np.testing.assert_allclose([weight(step) for step in (0, 50, 100)], 10.0, rtol=1e-6)
    np.testing.assert_allclose([weight(step) for step in (325, 550, 1000)], [10 * 0.01**0.25, 1.0, 0.1], rtol=1e-4)
    assert weight(jnp.int32(5000)) == pytest.approx(0.1, rel=1e-5)
    for wrong in ({"steps": 0}, {"steps": 10, "hold": 1.0}, {"steps": 10, "floor": 0.0}):
        with pytest.raises(ValueError, match="polarisation_weight: steps="):
            polarisation_weight(**wrong)


def test_the_gradient_of_polarisation_is_that_of_its_differences():
    """It reaches what gates are made of, through the whole model; checked against a difference along itself."""
    config = CONFIGS["context"][0]
    params, tokens = parameters(config), batch_of(length=4)["tokens"]
    memory = params["blocks"]["memory"]
    away = {**memory, "gate_bias": memory["gate_bias"] + 1.0}  # from 1/2, where the term has a kink
    params = {**params, "blocks": {**params["blocks"], "memory": away}}

    def term(params):
        return polarisation(atlas.features_and_gates(config, params, tokens)[2])

    value, gradient = compiled(jax.value_and_grad(term))(params)
    memory = gradient["blocks"]["memory"]
    assert min(float(jnp.abs(memory[name]).max()) for name in ("gates", "gate_bias")) > 1e-4
    assert float(jnp.abs(gradient["embedding"]).max()) > 1e-6
    norm = float(jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(gradient))))
    length = 1e-2 / norm
    term = compiled(term)
    moved = [term(jax.tree.map(lambda p, g, s=s: p + s * length * g, params, gradient)) for s in (1, -1)]
    assert (float(moved[0]) - float(moved[1])) / (2 * length * norm**2) == pytest.approx(1.0, rel=0.05)
    assert 0 < float(value) < 1


@cache
def steps():
    gated, optimizer = next_token_loss(replace(TINY, layers=1, network="linear")), adamw()
    weight = polarisation_weight(40)
    return (
        compiled(make_polarised_step(gated, optimizer, weight)),
        compiled(with_gate_spread(make_step(with_gate_statistics(gated), optimizer))),
    )


def fresh():
    return init_state(parameters(replace(TINY, layers=1, network="linear")), adamw(), jax.random.key(1))


def test_training_with_the_loss_polarises_gates_and_training_without_it_does_not():
    seen = []
    for step in steps():
        state = fresh()
        for i in range(40):
            state, metrics = step(state, batch_of(seed=i), 0.03)
        seen.append(jax.device_get(metrics))
    with_it, without = seen
    assert with_it["gate_polarised"] > 0.8
    assert without["gate_polarised"] < 0.5
    assert with_it["gate_rate_polarised"] > 0.6
    assert without["gate_rate_polarised"] < 0.1
    assert "polarisation" not in without, "an option: off unless the step is made with it"


def test_the_loss_without_the_term_is_reported_and_lambda_is_that_of_the_state_s_step():
    """Also where a rollback or a resumption has moved the step."""
    step, plain = steps()
    for count in (0, 22, 39):
        state, batch = fresh()._replace(step=jnp.int32(count)), batch_of()
        _, metrics = step(state, batch, 0.01)
        _, without = plain(state, batch, 0.01)
        assert float(metrics["loss"]) == pytest.approx(float(without["loss"]), rel=1e-5)
        weight = polarisation_weight(40)(count)
        assert float(metrics["polarisation_weight"]) == pytest.approx(float(weight), rel=1e-5)
        total = metrics["loss"] + weight * metrics["polarisation"]
        assert float(metrics["total_loss"]) == pytest.approx(float(total), rel=1e-5)
        assert "task_loss" not in metrics


def test_the_loss_is_that_of_every_token_but_the_first():
    config, batch = replace(TINY, layers=1, network="linear"), batch_of()
    loss, _, _ = next_token_loss(config)(parameters(config), batch, jax.random.key(0))
    logits, _ = atlas.apply(config, parameters(config), batch["tokens"][:, :-1])
    picked = jnp.take_along_axis(jax.nn.log_softmax(logits), batch["tokens"][:, 1:, None], axis=-1)
    assert float(loss) == pytest.approx(-float(picked.mean()), rel=1e-5)


def test_accumulated_parts_give_the_polarised_gradient_of_the_whole_batch():
    def gated(params, batch, key):
        gates = ({"rate": jax.nn.sigmoid(batch * params["w"][None, :])},)
        return jnp.mean(params["w"] ** 2), {}, gates

    state = init_state({"w": jnp.array([0.3, -0.2])}, adamw(clip_norm=None), jax.random.key(0))
    batch = jax.random.normal(jax.random.key(1), (4, 2))
    whole, parts = (
        make_polarised_step(gated, adamw(clip_norm=None), polarisation_weight(10), accumulation=n)(state, batch, 0.1)
        for n in (1, 2)
    )
    chex.assert_trees_all_close(whole[0].opt_state, parts[0].opt_state, rtol=1e-5)
    for name in ("loss", "total_loss", "polarisation", "gate_polarised"):
        np.testing.assert_allclose(whole[1][name], parts[1][name], rtol=1e-5)


def test_statistics_are_those_of_numpy_by_kind_and_over_all():
    generator = np.random.default_rng(0)
    forget = [
        generator.uniform(0.0, 0.2, (2, 3)).astype(np.float32),
        generator.uniform(0.0, 0.4, (3,)).astype(np.float32),
    ]
    rate = generator.uniform(0.8, 1.0, (5,)).astype(np.float32)
    gates = [{"forget": jnp.asarray(forget[0]), "rate": jnp.asarray(rate)}, {"forget": jnp.asarray(forget[1])}]
    found = jax.jit(lambda gates: gate_spread(gate_statistics(gates)))(gates)
    joined = {"forget": np.concatenate([part.ravel() for part in forget]), "rate": rate}
    decided = {kind: np.abs(2 * values - 1) > 0.8 for kind, values in joined.items()}
    expected = {}
    for kind, values in joined.items():
        expected |= {f"gate_{kind}_mean": values.mean(), f"gate_{kind}_std": values.std()}
        expected[f"gate_{kind}_polarised"] = decided[kind].mean()
    expected["gate_polarised"] = np.concatenate(list(decided.values())).mean()
    expected["gate_variance"] = np.mean([values.var() for values in joined.values()])
    expected["gate_std"] = expected["gate_variance"] ** 0.5
    chex.assert_trees_all_close(dict(found), {name: np.float32(value) for name, value in expected.items()}, rtol=1e-5)


def by_rows(params, batch, key):
    """Gates that are the same within a sequence, and others in the next."""
    gates = {kind: jax.nn.sigmoid(params["w"] * batch[kind]) for kind in ("rate", "forget")}
    return jnp.mean(params["w"] ** 2), {}, (gates,)


def plain(gated, optimizer, reduce_gradients=lambda tree: tree, *, accumulation=1):
    step = make_step(with_gate_statistics(gated), optimizer, reduce_gradients, accumulation=accumulation)
    return with_gate_spread(step)


def with_term(gated, optimizer, reduce_gradients=lambda tree: tree, *, accumulation=1):
    return make_polarised_step(gated, optimizer, polarisation_weight(10), reduce_gradients, accumulation=accumulation)


@pytest.mark.parametrize("make", [plain, with_term])
def test_the_spread_of_gates_is_that_of_the_whole_batch_by_parts_and_by_devices(make):
    """Each of four sequences has gates of its own, all the same: within a part or a device nothing varies."""
    rows = np.array([-2.0, -0.5, 0.5, 3.0], np.float32)
    batch = {"rate": np.repeat(rows[:, None], 5, axis=1), "forget": np.repeat(0.1 * rows[:, None], 5, axis=1)}
    gates = {kind: 1 / (1 + np.exp(-values.astype(np.float64))) for kind, values in batch.items()}
    expected = {f"gate_{kind}_std": values.std() for kind, values in gates.items()}
    expected["gate_variance"] = np.mean([values.var() for values in gates.values()])
    expected["gate_std"] = expected["gate_variance"] ** 0.5

    optimizer = adamw(clip_norm=None)
    state = init_state({"w": jnp.ones((1, 1))}, optimizer, jax.random.key(0))
    found = [make(by_rows, optimizer, accumulation=parts)(state, batch, 0.1)[1] for parts in (1, 4)]
    for devices in (1, 4):
        update = make_update(make(by_rows, optimizer, mean_over_data), lambda step: 0.1, model_mesh(devices))
        found.append(update(jax.tree.map(jnp.copy, state), batch, np.float32(1))[1])
    for metrics in found:
        assert not any(name.endswith("_square") for name in metrics)
        for name, value in expected.items():
            assert float(metrics[name]) == pytest.approx(value, rel=1e-4), name


def test_gates_that_are_all_the_same_have_a_spread_of_none_and_a_small_one_is_seen():
    same = gate_spread(gate_statistics([{"rate": jnp.full((999,), 0.9)}]))
    assert float(same["gate_std"]) < 2e-4
    values = np.float32(0.98) + np.random.default_rng(0).normal(0, 1e-2, 100_000).astype(np.float32)
    found = gate_spread(gate_statistics([{"rate": jnp.asarray(values)}]))
    assert float(found["gate_std"]) == pytest.approx(values.std(), rel=1e-2)


def test_polarised_adds_the_term_to_the_loss():
    def gated(params, batch, key):
        return params, {"own": params}, ({"rate": jnp.array([0.5, 1.0])},)

    loss, aux = polarised(gated, 4.0)(jnp.float32(2.0), None, jax.random.key(0))
    assert (float(loss), float(aux["task_loss"]), float(aux["polarisation"]), float(aux["own"])) == (4.0, 2.0, 0.5, 2.0)
