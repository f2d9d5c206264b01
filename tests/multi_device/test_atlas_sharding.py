"""Atlas with its batch and its time on four devices is Atlas on one: logits, state, gradients, decoding; messages; refusals."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compiling import compiled
from jax.sharding import AxisType

from atlas_jax.distributed.long_context import sharded_apply
from atlas_jax.distributed.mesh import SEQUENCE, abstract_model_mesh, model_mesh
from atlas_jax.distributed.sharding import REPLICATED, spec
from atlas_jax.distributed.step import make_sharded_step, sharded_start
from atlas_jax.distributed.wavefront import in_turn, pieces_of
from atlas_jax.models import atlas
from atlas_jax.models.atlas import PRESETS, memories
from atlas_jax.training import adamw, init_state, make_step

SMALL = {"vocab_size": 11, "d_model": 8, "layers": 2, "feed_forward": 8, "window": 5, "persistent": 2, "expansion": 1}
CONFIGS = {  # slices of 8 tokens or 16; chunks of 3 begin anywhere in one
    "micro": replace(PRESETS["micro"], **SMALL, chunks=(3,)),
    "micro-tnt": replace(PRESETS["micro-tnt"], **SMALL, network="linear", chunks=(4,), shard=8, global_chunk=4),
    "micro-mlp": replace(PRESETS["micro-tnt"], **SMALL, chunks=(2, 4), shard=8, global_chunk=8, tile=2),
    "micro-gate": replace(PRESETS["micro-gate"], **SMALL, chunks=(4,)),
    "micro-muon": replace(PRESETS["micro-muon"], **SMALL, chunks=(4,)),
    "micro-context": replace(PRESETS["micro-context"], **SMALL, chunks=(4,)),
}
LOCAL = replace(CONFIGS["micro-tnt"], global_chunk=None)
BATCH, LENGTH = 4, 32
TOKENS = np.random.default_rng(0).integers(0, 11, (BATCH, LENGTH), dtype=np.int32)
TIGHT = 1e-11  # of the largest entry of an array; float64


def double(tree):
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float64) if x.dtype == jnp.float32 else x, tree)


@cache
def parameters(config):
    """Drawn in float32; float64."""
    with jax.enable_x64(False):
        drawn = jax.device_get(compiled(partial(atlas.init, config))(jax.random.key(0)))
    return double(drawn)


@cache
def apply_on(config, shape):
    """On a mesh; None: on one device."""
    return partial(atlas.apply, config) if shape is None else sharded_apply(config, model_mesh(*shape))


@cache
def results(config, shape):
    """Logits, state, and the gradient of a sum over both."""

    def loss(params):
        logits, state = apply_on(config, shape)(params, TOKENS)
        learnt = [leaf for leaf in jax.tree.leaves(state) if leaf.dtype == jnp.float64]
        return jnp.mean(jnp.sin(9 * logits)) + sum(jnp.sum(jnp.sin(leaf)) for leaf in learnt) / 99, (logits, state)

    (_, (logits, state)), gradient = compiled(jax.value_and_grad(loss, has_aux=True))(parameters(config))
    return jax.device_get((logits, state, gradient))


def assert_equal_trees(found, expected, tolerance=TIGHT):
    found = jax.tree_util.tree_leaves_with_path(found)
    for (path, leaf), wanted in zip(found, jax.tree.leaves(expected), strict=True):
        error = np.abs(np.asarray(leaf) - wanted).max(initial=0) / max(np.abs(wanted).max(initial=0), 1e-6)
        assert error < tolerance, f"{jax.tree_util.keystr(path)} differs by {error:.1e} of its largest entry"


CASES = [("micro-tnt", (2, 1, 2))] + [
    pytest.param(name, shape, marks=pytest.mark.slow)
    for shape, names in (
        ((1, 1, 4), CONFIGS),
        ((2, 1, 2), ("micro", "micro-gate", "micro-muon", "micro-context")),
        ((4, 1, 1), ("micro-tnt", "micro-gate")),
    )
    for name in names
]


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_logits_state_and_gradients_are_those_of_one_device(name, shape):
    with jax.enable_x64(True):
        assert_equal_trees(results(CONFIGS[name], shape), results(CONFIGS[name], None))


def decay(xs, state):
    """s_t = factor s_{t-1} + x_t, counted; a state of zeros begins."""
    x, factor = xs
    sums, count = (jnp.zeros_like(x[:, 0]), jnp.zeros((), jnp.int32)) if state is None else state

    def token(carry, inputs):
        carry = inputs[1] * carry + inputs[0]
        return carry, carry

    last, y = jax.lax.scan(token, sums, (jnp.moveaxis(x, 1, 0), jnp.moveaxis(factor, 1, 0)))
    return jnp.moveaxis(y, 0, 1), (last, count + x.shape[1])


def in_slices(shape):
    """`decay` with each device's slice after its neighbour's; the states after all slices, one after the other."""

    def one_slice(xs, given):
        y, after = in_turn(decay, xs, given, SEQUENCE)
        return y, jax.tree.map(lambda x: x[None], after)

    def split(xs, given):
        slices, state = spec("batch", "time"), None if given is None else (spec("batch"), REPLICATED)
        after = (spec("time", "batch"), spec("time"))
        mesh = model_mesh(*shape)
        return jax.shard_map(
            one_slice, mesh=mesh, in_specs=(slices, state), out_specs=(slices, after), check_vma=False
        )(xs, given)

    return split


@pytest.mark.parametrize(("batch", "shape"), [(1, (1, 1, 4)), (4, (1, 1, 4)), (6, (1, 1, 4)), (6, (2, 1, 2))])
@pytest.mark.parametrize("started", [False, True])
def test_devices_that_take_turns_go_from_token_to_token(batch, shape, started):
    """One sequence, as many as devices, and a number that they do not divide; from a state and from none."""
    rng, devices = np.random.default_rng(0), shape[-1]
    with jax.enable_x64(True):
        xs = tuple(jnp.asarray(rng.normal(size=(batch, 8, 3))) for _ in range(2))
        sums = jnp.asarray(rng.normal(size=(batch, 3))) if started else None

        def loss(function, xs, sums):
            y, after = function(xs, (sums, jnp.asarray(5, jnp.int32)) if started else None)
            return jnp.sum(jnp.sin(y)), (y, after)

        def result(function):
            wanted = (0, 1) if started else 0
            (_, (y, after)), gradients = compiled(
                jax.value_and_grad(partial(loss, function), argnums=wanted, has_aux=True)
            )(xs, sums)
            return (y, gradients), after

        found, (last, count) = result(in_slices(shape))
        expected, (wanted_last, wanted_count) = result(decay)
        assert_equal_trees(found, expected, 1e-12)
        np.testing.assert_allclose(last[-1], wanted_last, rtol=1e-12)
        ends = np.arange(1, devices + 1) * 8 // devices
        np.testing.assert_array_equal(count, int(wanted_count) - 8 + ends)


def test_a_device_computes_only_when_it_is_its_turn():
    """Four devices, two pieces: eight computations in the five rounds, not twenty."""
    calls = []

    def learn(xs, state):
        jax.debug.callback(lambda: calls.append(1))
        return decay(xs, state)

    xs = (jnp.ones((2, 8, 3)),) * 2
    slices = spec("batch", "time")
    run = jax.shard_map(
        lambda xs: in_turn(learn, xs, None, SEQUENCE)[0],
        mesh=model_mesh(sequence=4),
        in_specs=slices,
        out_specs=slices,
        check_vma=False,
    )
    jax.block_until_ready(compiled(run)(xs))
    jax.effects_barrier()
    assert len(calls) == 8


def test_a_batch_is_cut_into_as_many_pieces_as_there_are_devices_if_it_divides():
    assert [pieces_of(batch, 4) for batch in (1, 2, 3, 4, 5, 6, 8)] == [1, 2, 3, 4, 1, 3, 4]


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("micro-tnt", "micro-muon", "micro-context")]


@pytest.mark.parametrize("name", ["micro-gate", *SLOW])
def test_four_devices_go_on_from_one_and_one_decodes_from_four(name):
    """From a state within a shard and a chunk, to a state that lies on the devices."""
    config = CONFIGS[name]
    text = np.concatenate([TOKENS, TOKENS[:, ::-1]], axis=1)
    with jax.enable_x64(True):
        params = parameters(config)
        one, four = (compiled(apply_on(config, shape)) for shape in (None, (2, 1, 2)))
        logits, last = one(params, text[:, :40])
        _, begun = one(params, text[:, :5])
        prefilled, state = four(params, text[:, 5:37], begun)
        assert_equal_trees(prefilled, logits[:, 5:37])
        decode = compiled(partial(atlas.step, config))
        for t in range(37, 40):
            found, state = decode(params, text[:, t], state)
            assert_equal_trees(found, logits[:, t])
        assert_equal_trees(state, last)


@pytest.mark.slow
def test_the_gradient_of_a_global_memory_crosses_devices_and_that_of_local_ones_does_not():
    """Of the last device's logits with respect to the embeddings of tokens that stand on the first only."""

    def gradient(config):
        tokens = np.concatenate([TOKENS[:, :3], TOKENS[:, 3:] % 10 + 1], axis=1)  # token 0 nowhere but in front
        tokens[:, 0] = 0

        def loss(params):
            return jnp.sum(sharded_apply(config, model_mesh(2, 1, 2))(params, tokens)[0][:, -1])

        config = replace(config, tied=False)
        return np.asarray(compiled(jax.grad(loss))(parameters(config))["embedding"])[0]

    with jax.enable_x64(True):
        local = replace(LOCAL, layers=1)
        assert np.abs(gradient(replace(local, global_chunk=4))).max() > 1e-8
        np.testing.assert_array_equal(gradient(local), 0)


@pytest.mark.slow
def test_a_training_step_on_four_devices_is_that_of_one():
    config, optimizer = CONFIGS["micro-tnt"], optax.chain(optax.trace(0.0), adamw(eps=1e-3))
    params = jax.device_get(parameters(config))
    axes = jax.tree.map(lambda leaf: (None,) * leaf.ndim, params)

    def result(shape):
        def loss(params, windows, key):
            del key
            logits, _ = apply_on(config, shape)(params, windows[:, :-1])
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, windows[:, 1:])
            return jnp.mean(losses), {}

        step, windows = make_step(loss, optimizer), np.concatenate([TOKENS, TOKENS[:, :1]], axis=1)

        def start(key):
            return init_state(jax.tree.map(jnp.asarray, params), optimizer, key)

        if shape is None:
            state, metrics = jax.jit(step)(start(jax.random.key(1)), windows, np.float64(0.1))
        else:
            mesh = model_mesh(*shape)
            state = sharded_start(start, jax.random.key(1), axes, mesh)
            state, metrics = make_sharded_step(step, state, axes, mesh)(state, windows, np.float64(0.1))
        return jax.device_get((metrics["loss"], state.opt_state[0].trace, state.params))

    with jax.enable_x64(True):
        assert_equal_trees(result((2, 1, 2)), result(None))


@cache
def lowered(config, shape, batch, length, *, gradients=False):
    """For GPUs that are not there: the logits, or the gradients of their mean."""
    apply = sharded_apply(config, abstract_model_mesh(*shape))

    def logits(params, tokens):
        return apply(params, tokens)[0]

    def loss(params, tokens):
        return jnp.mean(logits(params, tokens))

    params = jax.eval_shape(partial(atlas.init, config), jax.random.key(0))
    tokens = jax.ShapeDtypeStruct((batch, length), jnp.int32)
    program = jax.jit(jax.grad(loss) if gradients else logits)
    return program.trace(params, tokens).lower(lowering_platforms=("cuda",)).as_text()


def collectives(text):
    names = ("collective_permute", "all_reduce", "all_gather", "all_to_all", "reduce_scatter")
    counts = {name: text.count(f"stablehlo.{name}") for name in names}
    return {name: count for name, count in counts.items() if count}


LARGE = PRESETS["42.6m"]
LARGE_LOCAL = replace(LARGE, chunks=(16, 64), shard=1024)
HALO = 3  # inputs of the convolution, keys, values


@pytest.mark.parametrize("data", [1, 2])
def test_the_large_model_lowers_for_cuda_devices_and_memories_pass_their_state_on(data):
    text = lowered(LARGE, (data, 1, 4), 4, 4096)
    assert f'sdy.mesh @mesh = <["data"={data}, "tensor"=1, "sequence"=4]>' in text
    state = jax.eval_shape(lambda: atlas.init_state(LARGE, 1)).blocks.memory.memories
    assert collectives(text) == {"collective_permute": HALO + len(jax.tree.leaves(state))}
    here = 4 // data  # a device's sequences, of 1,024 tokens each; their logits
    assert f"tensor<{here}x1024x{LARGE.vocab_size}xf32>" in text


def test_local_memories_exchange_nothing():
    """Forward three halos a layer, whatever the length; as many backward and for a block computed again; gradients once."""
    assert len(memories(LARGE_LOCAL)) == 2
    for length in (4096, 8192):
        assert collectives(lowered(LARGE_LOCAL, (1, 1, 4), 2, length)) == {"collective_permute": HALO}
    count = len(jax.tree.leaves(jax.eval_shape(partial(atlas.init, LARGE_LOCAL), jax.random.key(0))))
    for recompute, times in ((True, 3), (False, 2)):
        config = replace(LARGE_LOCAL, recompute=recompute)
        found = collectives(lowered(config, (1, 1, 4), 2, 4096, gradients=True))
        assert found == {"collective_permute": times * HALO, "all_reduce": count}


@pytest.mark.slow
@pytest.mark.parametrize("chunks", [(8, 16, 32, 64), (16, 32, 64, 128), (8, 32, 64)], ids="ABC")
def test_the_large_hierarchy_sends_the_state_of_its_global_memory_alone(chunks):
    """Sizes of TNT's paper: four devices of one shard of 2,048 tokens each."""
    config = replace(LARGE, chunks=chunks, shard=2048, global_chunk=2048, projection="norm_sum")
    first, *local = jax.eval_shape(lambda: atlas.init_state(config, 1)).blocks.memory.memories
    assert len(local) == len(chunks)
    found = collectives(lowered(config, (1, 1, 4), 2, 8192))
    assert found == {"collective_permute": HALO + len(jax.tree.leaves(first))}


@pytest.mark.parametrize(
    ("changes", "mesh", "tokens", "message"),
    [
        (
            {},
            (1, 1, 4),
            TOKENS[:, :30],
            "tokens: axis time is 30, expected a multiple of the mesh's sequence = 4 devices",
        ),
        ({}, (4, 1, 1), TOKENS[:3], "tokens: axis batch is 3, expected a multiple of the mesh's data = 4 devices"),
        (
            {},
            (1, 1, 4),
            TOKENS[:, :16],
            "AtlasConfig.shard is 8, expected a divisor of the 4 tokens that each device has",
        ),
        (
            {"block": "gate", "window": 10},
            (1, 1, 4),
            TOKENS,
            "AtlasConfig.window is 10 tokens, expected at most 9 where each device has 8",
        ),
        (
            {"shard": None, "global_chunk": None},
            (1, 1, 4),
            TOKENS[:, :8],
            "the short convolution is 4 tokens, expected at most 3 where each device has 2",
        ),
        ({"context": 16}, (1, 1, 4), TOKENS, "32 tokens in one call, expected at most context = 16"),
        ({}, (1, 2, 2), TOKENS, "the mesh's tensor is 2, expected 1: only batch and time are split"),
    ],
)
def test_what_does_not_split_is_refused_by_name(changes, mesh, tokens, message):
    config = replace(CONFIGS["micro-tnt"], **changes)
    params = jax.eval_shape(partial(atlas.init, config), jax.random.key(0))
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(sharded_apply(config, abstract_model_mesh(*mesh)), params, jnp.asarray(tokens))


def test_a_mesh_of_other_axes_is_refused():
    mesh = jax.make_mesh((4,), ("variant",), axis_types=(AxisType.Auto,))
    with pytest.raises(ValueError, match=r"mesh has axes \('variant',\), expected 'data' and 'sequence' among them"):
        sharded_apply(LOCAL, mesh)


def test_the_state_of_another_batch_is_refused():
    with pytest.raises(ValueError, match=r"AtlasState.* expected \(2, 4, "):
        jax.eval_shape(
            sharded_apply(LOCAL, abstract_model_mesh(sequence=4)),
            jax.eval_shape(partial(atlas.init, LOCAL), jax.random.key(0)),
            jnp.asarray(TOKENS),
            atlas.init_state(LOCAL, 2),
        )


@pytest.mark.parametrize("name", ["micro-tnt", "micro-gate", "micro-context"])
def test_a_state_in_bfloat16_comes_out_as_it_goes_in(name):
    config = replace(CONFIGS[name], dtype="bfloat16")
    params = jax.eval_shape(partial(atlas.init, config), jax.random.key(0))
    state, tokens = jax.eval_shape(lambda: atlas.init_state(config, BATCH)), jnp.asarray(TOKENS)
    apply = sharded_apply(config, abstract_model_mesh(2, 1, 2))
    for given in (None, state):
        _, after = jax.eval_shape(apply, params, tokens, given)
        assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(lambda x: (x.shape, x.dtype), state)
