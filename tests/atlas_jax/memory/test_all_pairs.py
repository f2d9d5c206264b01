"""Every rule with every network, feature, window, projection, limit and length against the same memory token by token, float64.

The fast set stands for all pairs of these choices, outer gradients included; the slow one for all triples, and for every rule
with every network, degree and window.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import compiled
from memory_world import RULES, one, random_beginning, random_tokens
from pairs_world import ALL, AXES, PAIRS, TRIPLES, combined, config_of, every_memory

from atlas_jax.memory.decays import BLOCK
from atlas_jax.memory.reference import Trace, reference
from atlas_jax.memory.sequence import MemoryConfig, run

LENGTH = 20  # a shard and a chunk and a beginning of the next


def world(case):
    """Beginning and tokens; with a limit the rates are such that weights and momentum reach it."""
    persistent = 0 if case.projection is None else 3
    tokens = random_tokens(length=LENGTH, rate=0.05 if case.limit is None else 1.0)
    return random_beginning(case.network, degree=case.degree, persistent=persistent), tokens


def fast(config, beginning, tokens):
    """Outputs, weights and momentum, if there is one, of the only head."""
    outputs, state = run(config, beginning, tokens)
    heads = state.heads
    momentum = heads.momentum if hasattr(heads, "momentum") else jax.tree.map(jnp.zeros_like, heads.weights)
    return Trace(outputs[0, 0], *one((heads.weights, momentum)))


def slow(config, beginning, tokens):
    return reference(config, jax.tree.map(lambda x: x[0], beginning), one(tokens))


def assert_close(got, expected, bound):
    """Beside a size of 1, and of the largest value where that is larger."""
    for a, b in zip(*map(jax.tree.leaves, (got, expected)), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=bound * max(1.0, np.abs(b).max()))


def total(memory, config, inputs):
    """A number that all results move, and the results; those of ascent are too large for the sine of them to be exact."""
    trace = memory(config, *inputs)
    sizes = [jnp.maximum(1.0, jax.lax.stop_gradient(jnp.abs(leaf).max())) for leaf in jax.tree.leaves(trace)]
    return sum(jnp.sum(jnp.sin(leaf / size)) for leaf, size in zip(jax.tree.leaves(trace), sizes, strict=True)), trace


def directions(inputs):
    """A random step of every input array."""
    draw = np.random.default_rng(3)
    return [draw.normal(size=leaf.shape) for leaf in jax.tree.leaves(inputs)]


def along_directions(config, inputs):
    """Of the oracle: what `total` gains by the step of each input array alone, in forward mode, and the results."""
    steps, tree = directions(inputs), jax.tree.structure(inputs)

    def along(chosen):
        step = tree.unflatten([weight * step for weight, step in zip(chosen, steps, strict=True)])
        return jax.jvp(lambda inputs: total(slow, config, inputs)[0], (inputs,), (step,))[1]

    return jax.vmap(along)(jnp.eye(len(steps))), slow(config, *inputs)


def name(case):
    return "-".join(map(str, case))


@pytest.mark.parametrize("case", PAIRS, ids=name)
def test_pairs_and_their_outer_gradients(case):
    with jax.enable_x64(True):
        config, inputs = config_of(case), world(case)
        gradients, trace = compiled(jax.grad(partial(total, fast, config), has_aux=True))(inputs)
        gains, expected = compiled(partial(along_directions, config))(inputs)
        assert_close(trace, expected, 1e-10)
        steps = zip(jax.tree.leaves(gradients), directions(inputs), strict=True)
        assert_close([np.sum(gradient * step) for gradient, step in steps], list(gains), 1e-9)


@pytest.mark.parametrize("rule", ["titans", "omega", "muon", "delta"])
def test_chunks_of_several_blocks(rule):
    """Gates are multiplied in blocks, see `memory.decays`; here two and a part of one, and a chunk that ends inside one."""
    config = MemoryConfig(RULES[rule], 2 * BLOCK + 9, tile=3 * BLOCK)
    with jax.enable_x64(True):
        inputs = random_beginning(config.rule.network.name), random_tokens(length=3 * BLOCK)
        assert_close(*(compiled(partial(memory, config))(*inputs) for memory in (fast, slow)), 1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("case", TRIPLES, ids=name)
def test_all_memories(case):
    with jax.enable_x64(True):
        trace, expected = (compiled(partial(memory, config_of(case)))(*world(case)) for memory in (fast, slow))
        assert_close(trace, expected, 1e-10)


@pytest.mark.parametrize(("cases", "strength"), [(PAIRS, 2), (TRIPLES, 3)])
def test_the_sets_stand_for_all_combinations(cases, strength):
    wanted = set().union(*(combined(case, strength) for case in ALL))
    assert set().union(*(combined(case, strength) for case in cases)) == wanted
    assert len(set(cases)) == len(cases) < len(ALL) / 20


def test_every_memory_is_in_the_slow_set_and_every_choice_in_all():
    assert {case[:4] for case in TRIPLES} == {cases[0][:4] for cases in every_memory()}
    assert (
        len(every_memory()) == 6 * 3 * 4 * 4 + 4
    )  # rules, networks, degrees, windows; and the gated delta rule's degrees
    for axis, values in enumerate(AXES):
        assert {case[axis] for case in ALL} == set(values)
