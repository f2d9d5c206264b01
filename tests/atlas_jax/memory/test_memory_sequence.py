"""A memory over a sequence: the limit where chunks begin, groups of chunks, and what is refused."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import compiled
from jax.extend.core import ClosedJaxpr, Jaxpr
from memory_world import RULES, random_beginning, random_tokens

from atlas_jax.memory.chunks import Chunks
from atlas_jax.memory.dual import Descent
from atlas_jax.memory.networks import MLP
from atlas_jax.memory.one_step import OneStep
from atlas_jax.memory.sequence import MemoryConfig, run


def outputs_of(config):
    """A number that all outputs move."""
    return lambda beginning, tokens: jnp.sum(jnp.sin(run(config, beginning, tokens)[0]))


def root_mean_square_norms(weights):
    """Of the columns of every matrix of the only head."""
    return [np.sqrt(np.square(matrix).sum() / matrix.shape[-1]) for matrix in jax.tree.leaves(jax.device_get(weights))]


@pytest.mark.parametrize("rule", [Descent, OneStep], ids=["every token", "every chunk"])
def test_weights_and_momentum_are_cut_where_a_chunk_begins(rule):
    """At rates at which both would be far beyond the limit; a state that has seen nothing begins with cut weights too."""
    with jax.enable_x64(True):
        beginning, tokens = random_beginning("mlp"), random_tokens(rate=20.0)
        configs = [MemoryConfig(rule(MLP, limit=limit), 6) for limit in (0.3, None)]
        (cut, state), (free, _) = (compiled(partial(run, config))(beginning, tokens) for config in configs)
        assert not np.abs(cut - free).max() < 1  # or nothing finite
        opened = configs[0].rule.open(jax.tree.map(lambda x: x[0, 0], state.heads))
        for tree in (opened.weights, opened.momentum):
            np.testing.assert_allclose(root_mean_square_norms(tree), 0.3, rtol=1e-12)
        zeros = jax.tree.map(jnp.zeros_like, state)
        np.testing.assert_allclose(compiled(partial(run, configs[0]))(beginning, tokens, zeros)[0], cut, atol=1e-12)


def test_groups_of_chunks_change_nothing_but_what_is_kept():
    with jax.enable_x64(True):
        beginning, tokens = random_beginning("mlp"), random_tokens()
        results = [
            compiled(jax.value_and_grad(outputs_of(MemoryConfig(Descent(MLP, 3), 4, group=group))))
            for group in (1, 4, 9)
        ]
        expected, *others = (jax.tree.leaves(f(beginning, tokens)) for f in results)
        for other in others:
            for got, wanted in zip(other, expected, strict=True):
                np.testing.assert_allclose(got, wanted, atol=1e-12)


@pytest.mark.parametrize(
    ("chunk", "tile", "piece"),
    [(64, 64, 64), (64, 100, 64), (2048, 64, 64), (96, 64, 48), (127, 64, 64), (100, 64, 50), (6, 1, 1)],
)
def test_long_chunks_come_in_tiles_that_divide_them_where_some_do(chunk, tile, piece):
    assert Chunks(chunk, 0, tile=tile).piece == piece
    assert Chunks(chunk, 0).piece == chunk


def largest(jaxpr):
    """Elements of the largest array that a program makes, those inside it included."""
    inner = [
        it for equation in jaxpr.eqns for it in jax.tree.leaves(list(equation.params.values()), is_leaf=is_program)
    ]
    sizes = [variable.aval.size for equation in jaxpr.eqns for variable in equation.outvars]
    return max([*sizes, *(largest(getattr(it, "jaxpr", it)) for it in inner if is_program(it))], default=0)


def is_program(x):
    return isinstance(x, ClosedJaxpr | Jaxpr)


@pytest.mark.parametrize(
    ("rule", "projection"), [("titans", None), ("omega", None), ("delta", None), ("lact", "norm_sum")]
)
def test_work_and_memory_of_a_long_chunk_do_not_grow_with_its_square(rule, projection):
    """No array of tokens by tokens, backward pass included."""
    config = MemoryConfig(RULES[rule], 1024, projection=projection, tile=16)
    beginning = random_beginning(config.rule.network.name, persistent=2 if projection else 0)
    tokens = random_tokens(length=1024)
    program = jax.make_jaxpr(jax.grad(outputs_of(config), allow_int=True))(beginning, tokens)
    assert largest(program.jaxpr) < 1024 * 1024 / 8


@pytest.mark.parametrize(
    ("rule", "projection", "tiled"),
    [("muon", None, False), ("lact", None, False), ("muon", "norm_sum", True), ("titans", None, True)],
)
def test_only_what_is_multiplied_token_by_token_is_cut_into_tiles(rule, projection, tiled):
    """Sums over tokens would but be taken in more steps."""
    beginning = random_beginning(RULES[rule].network.name, persistent=2 if projection else 0)

    def program(tile):
        config = MemoryConfig(RULES[rule], 16, projection=projection, tile=tile)
        return str(jax.make_jaxpr(partial(run, config))(beginning, random_tokens()))

    assert (program(4) != program(16)) == tiled


def test_a_backward_pass_is_given_little_of_a_chunk(monkeypatch):
    """The state before it and what its products gave; of a group of chunks the state alone."""
    beginning, tokens = random_beginning("mlp"), random_tokens(length=64)

    def given(group):
        config = MemoryConfig(Descent(MLP), 4, group=group)
        _, backward = jax.vjp(lambda *inputs: run(config, *inputs)[0], beginning, tokens)
        return sum(leaf.size for leaf in jax.tree.leaves(backward))

    chunks, groups = given(1), given(4)
    monkeypatch.setattr(jax, "checkpoint", lambda function, **_: function)
    assert 3 * groups < chunks < given(1) / 3


@pytest.mark.parametrize(
    ("field", "value"),
    [("chunk", 0), ("shard", 0), ("shard", 12), ("group", 0), ("tile", 0), ("projection", "'sum'")],
)
def test_what_does_not_fit_is_named(field, value):
    with pytest.raises(ValueError, match=f"MemoryConfig.{field} is {value}, expected"):
        MemoryConfig(Descent(MLP), **{"chunk": 8, field: value.strip("'") if isinstance(value, str) else value})


def test_no_tokens_and_no_persistent_keys():
    with pytest.raises(ValueError, match="0 tokens"):
        run(MemoryConfig(Descent(MLP)), random_beginning("mlp"), random_tokens(length=0))
    with pytest.raises(ValueError, match=r"beginning.persistent is None"):
        run(MemoryConfig(Descent(MLP), projection="per_key"), random_beginning("mlp"), random_tokens())
