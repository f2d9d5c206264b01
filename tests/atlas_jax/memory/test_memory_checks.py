"""What a memory refuses: one line that names the array or field, in place of a broadcast or of an error far from its cause."""

import inspect
from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest
from compiling import compiled
from memory_world import random_beginning, random_tokens

from atlas_jax.memory.checks import check_state
from atlas_jax.memory.delta import GatedDelta
from atlas_jax.memory.dual import Descent
from atlas_jax.memory.networks import LINEAR, MLP
from atlas_jax.memory.one_step import OneStep
from atlas_jax.memory.projection import persistent_state, project_chunk
from atlas_jax.memory.sequence import MemoryConfig, run

LENGTH = 6
CONFIG = MemoryConfig(Descent(MLP), 4)
PROJECTED = replace(CONFIG, projection="per_key")
BEGINNING, TOKENS = random_beginning("mlp"), random_tokens(length=LENGTH)


def shapes(config, beginning, tokens, state=None):
    """Of a run, which is traced alone; the state of it too."""
    return jax.eval_shape(lambda *given: run(config, *given), beginning, tokens, state)


def narrow(tree):
    return jax.tree.map(lambda x: x.astype(jnp.bfloat16), tree)


def gates_of(**changed):
    return TOKENS._replace(gates=TOKENS.gates._replace(**changed))


@pytest.mark.parametrize("rule", [Descent, OneStep])
@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("window", 0, "window is 0, expected at least 1"),
        ("limit", 0.0, "limit is 0.0, expected more than 0, or None"),
        ("limit", float("nan"), "limit is nan, expected more than 0"),
    ],
)
def test_rules_that_are_none(rule, field, value, message):
    with pytest.raises(ValueError, match=f"^{rule.__name__}.{message}"):
        rule(MLP, **{field: value})


@pytest.mark.parametrize("rule", [Descent(MLP), OneStep(MLP)])
def test_an_unknown_loss_is_no_gradient_ascent(rule):
    object.__setattr__(rule, "loss", "L2")  # the tests' own type checks would speak first
    with pytest.raises(ValueError, match=r"loss is 'L2', expected one of l2, dot, ascent"):
        rule.__post_init__()


def test_a_clip_that_is_none():
    with pytest.raises(ValueError, match=r"Descent.clip is -1.0, expected more than 0, or None"):
        Descent(MLP, clip=-1.0)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (jax.tree.map(lambda x: x[0, 0], TOKENS), r"query is float32\[6, 4\], expected floats \[batch, heads, time, w"),
        (TOKENS._replace(query=TOKENS.query.astype(int)), r"query is int32\[1, 1, 6, 4\], expected floats"),
        (random_tokens(length=0), "query has 0 tokens, expected at least 1"),
        (random_tokens(batch=0, length=LENGTH), "query has 0 sequences, expected at least 1"),
        (random_tokens(heads=0, length=LENGTH), "query has 0 heads, expected at least 1"),
        (TOKENS._replace(key=TOKENS.key[:, :, :5]), r"key is float32\[1, 1, 5, 4\], expected float32\[1, 1, 6, 4\]"),
        (TOKENS._replace(key=TOKENS.key.astype(int)), r"key is int32\[1, 1, 6, 4\], expected float32\[1, 1, 6, 4\]"),
        (TOKENS._replace(value=TOKENS.value[0]), r"value is float32\[1, 6, 4\], expected float32\[1, 1, 6, 4\]"),
        (TOKENS._replace(value=TOKENS.value[..., :1]), "value has 1 channels, expected the 4 of a key: mlp adds it"),
        (gates_of(rate=TOKENS.gates.rate[..., :1]), r"gates.rate is float32\[1, 1, 1\], expected float32\[1, 1, 6\]"),
        (gates_of(log_keep=TOKENS.gates.log_keep[..., None]), r"gates.log_keep is float32\[1, 1, 6, 1\], expected"),
    ],
)
def test_tokens_that_do_not_fit_each_other(tokens, message):
    with pytest.raises(ValueError, match=f"^tokens.{message}"):
        shapes(CONFIG, BEGINNING, tokens)


@pytest.mark.parametrize(
    ("beginning", "message"),
    [
        (random_beginning("linear"), "weights holds value, expected up, down: mlp"),
        (random_beginning("gated mlp"), "weights holds .*gate.*, expected up, down: mlp"),
        (random_beginning("mlp", heads=2), r"weights\['up'\] is float32\[2, 4, 6\], expected float32\[1, 4, 6\]"),
        (random_beginning("mlp", width=5), r"weights\['up'\] is float32\[1, 5, 6\], expected float32\[1, 4, 6\]"),
        (narrow(BEGINNING), r"weights\['up'\] is bfloat16\[1, 4, 6\], expected float32\[1, 4, 6\]"),
        (
            BEGINNING._replace(weights=BEGINNING.weights | {"down": jnp.ones((1, 5, 4))}),
            r"weights\['down'\] is float32\[1, 5, 4\], expected float32\[1, 6, 4\]",
        ),
        (
            random_beginning("mlp", degree=2)._replace(scales=None),
            r"weights\['up'\] is float32\[1, 15, 6\], expected float32\[1, 4, 6\]",
        ),
        (
            random_beginning("mlp", degree=2)._replace(scales=jnp.ones((2, 3))),
            r"scales is float32\[2, 3\], expected float32\[1, 3\]",
        ),
        (
            BEGINNING._replace(persistent=jnp.ones((1, 3, 5))),
            r"persistent is float32\[1, 3, 5\], expected float32\[1, 3, 4\]",
        ),
    ],
)
def test_parameters_of_another_memory(beginning, message):
    with pytest.raises(ValueError, match=f"^beginning.{message}"):
        shapes(PROJECTED, beginning, TOKENS)


def test_a_linear_memory_of_one_output_is_not_broadcast_over_four():
    config, tokens = MemoryConfig(Descent(LINEAR), 4), TOKENS._replace(value=TOKENS.value[..., :1])
    beginning = random_beginning("linear")
    with pytest.raises(ValueError, match=r"weights\['value'\] is float32\[1, 4, 4\], expected float32\[1, 4, 1\]"):
        shapes(config, beginning, tokens)
    narrower = beginning._replace(weights={"value": beginning.weights["value"][..., :1]})
    assert shapes(config, narrower, tokens)[0].shape == (1, 1, LENGTH, 1)


def state_of(config=CONFIG, beginning=BEGINNING, tokens=TOKENS):
    return shapes(config, beginning, tokens)[1]


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (
            state_of(tokens=random_tokens(batch=2, length=LENGTH)),
            r"heads.base\['down'\] is float32\[2, 1, 6, 4\], expected float32\[1, 1, 6, 4\]",
        ),
        (
            state_of(MemoryConfig(Descent(MLP, 3), 4)),
            r"heads.past.key is float32\[1, 1, 2, 4\], expected float32\[1, 1, 0, 4\]",
        ),
        (
            state_of(beginning=narrow(BEGINNING), tokens=narrow(TOKENS)),
            r"heads.base\['down'\] is bfloat16\[1, 1, 6, 4\], expected float32",
        ),
        (state_of(MemoryConfig(GatedDelta(), 4), random_beginning("linear")), r"heads.base\['down'\] is missing"),
        (
            state_of(PROJECTED, BEGINNING._replace(persistent=jnp.ones((1, 3, 4)))),
            "projection.m is there, unlike in a state of this memory",
        ),
    ],
)
def test_the_state_of_another_memory(state, message):
    with pytest.raises(ValueError, match=rf"^state\.{message}"):
        shapes(CONFIG, BEGINNING, TOKENS, state)


def test_a_state_of_another_kind_with_the_same_names():
    state = state_of()
    check_state(state, state)
    with pytest.raises(ValueError, match="state is list, expected the tuple of this memory"):
        check_state((jnp.ones(1),), [jnp.ones(1)])


@pytest.mark.parametrize(("field", "lengths", "most"), [("phase", (8, None), 3), ("age", (4, 8), 3)])
def test_a_state_within_a_longer_chunk_or_shard(field, lengths, most):
    """It would have stood beyond the end of its chunk: outputs of zero, and a memory that is never reset again."""
    _, state = compiled(lambda tokens: run(MemoryConfig(Descent(MLP), *lengths), BEGINNING, tokens))(TOKENS)
    config = MemoryConfig(Descent(MLP), 4, 4 if field == "age" else None)
    with pytest.raises(ValueError, match=f"state.{field} is 6, expected 0 to {most}: it comes from other lengths"):
        run(config, BEGINNING, TOKENS, state)


@pytest.mark.parametrize(
    ("keys", "found"),
    [((2, 1, 4, 5), "2, 1, 4, 5"), ((2, 3, 2, 5), "2, 3, 2, 5"), ((2, 3, 4, 2), "2, 3, 4, 2")],
)
def test_projected_queries_want_a_key_each(keys, found):
    state = persistent_state(jnp.ones((3, 2, 5)), 2)
    with pytest.raises(ValueError, match=rf"^k is float32\[{found}\], expected float32\[2, 3, 4, 5\]"):
        inspect.unwrap(project_chunk)(state, jnp.ones((2, 3, 4, 5)), jnp.ones(keys))
