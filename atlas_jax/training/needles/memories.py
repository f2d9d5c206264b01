"""Needles in a memory: one pair is written, a hundred others after it, and the first is asked for.

What is probed is the memory itself, by its own rule of learning, from its trained first weights, with the gates that the model
has on a text: nothing around it can answer in its place. Keys and values are random, so that what a memory can hold is asked,
not what a text makes of it. An answer counts where its cosine to the value that was written is at least 0.8.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, PyTree

from atlas_jax.memory import sequence
from atlas_jax.memory.projection import unit
from atlas_jax.memory.sequence import Beginning, MemoryConfig, MemoryState
from atlas_jax.memory.tokens import Gates, Tokens
from atlas_jax.models.atlas import AtlasConfig, features_and_gates, memories
from atlas_jax.nn.memory import with_coefficients

SUCCESS = 0.8  # cosine
DISTRACTORS = 100
# Logarithm of the momentum gate of a read: old momentum must not move the weights once more before they are read.
_STILL = -30.0


class Pairs(NamedTuple):
    """Keys of length 1 and their values, in the order in which they are written; the first is the needle."""

    keys: Float[Array, "b h p d"]
    values: Float[Array, "b h p v"]


class Recall(NamedTuple):
    """Cosine of what a memory says of the needle's key to the needle's value.

    Attributes:
      before: when nothing has been written: chance, as measured.
      written: right after the needle.
      kept: after the distractors.
    """

    before: Float[Array, "*n"]
    written: Float[Array, "*n"]
    kept: Float[Array, "*n"]


def random_pairs(key: Key[Array, ""], *, sequences: int, heads: int, pairs: int, width: int, value_width: int) -> Pairs:
    """Keys of random direction and normal values: a fresh layer's have variance 1 a channel.

    Args:
      key: equal keys give equal pairs.
      sequences, heads: each has pairs of its own.
      pairs: the needle and its distractors.
      width, value_width: channels of a key and of a value.
    """
    key_key, value_key = jax.random.split(key)
    keys = unit(jax.random.normal(key_key, (sequences, heads, pairs, width)))
    return Pairs(keys, jax.random.normal(value_key, (sequences, heads, pairs, value_width)))


def recall(config: MemoryConfig, beginning: Beginning, gates: Gates, pairs: Pairs) -> Recall:
    """Writes the pairs into a memory and asks for the first, before, right after it, and at the end.

    A read opens a new chunk, so that rules which move their weights where a chunk ends have moved them; it teaches nothing.

    Args:
      config: of the memory.
      beginning: what it begins with, of every head.
      gates: [b, h, p] of every pair.
      pairs: the needle first.

    Returns:
      Cosines [b, h].

    Raises:
      ValueError: the memory begins anew before the last pair is written and the needle read.
    """
    batch, _, count, width = pairs.keys.shape
    if not _holds(config, count):
        raise ValueError(f"MemoryConfig.shard is {config.shard}, expected at least {count + 1} to hold {count} pairs")
    tokens = Tokens(pairs.keys, pairs.keys, pairs.values, gates)

    new = sequence.init_state(config, beginning, batch, width=width, value_width=pairs.values.shape[-1])
    _, written = sequence.run(config, beginning, jax.tree.map(lambda x: x[:, :, :1], tokens))
    _, kept = sequence.run(config, beginning, tokens)
    silent = jnp.zeros_like(gates.rate[..., :1])
    reading = Tokens(
        query=pairs.keys[:, :, :1],
        key=jnp.zeros_like(pairs.keys[:, :, :1]),
        value=jnp.zeros_like(pairs.values[:, :, :1]),
        gates=Gates(silent, jnp.full_like(silent, _STILL), silent, silent),
    )

    def read(state: MemoryState) -> Float[Array, "b h v"]:
        opened = state._replace(phase=jnp.zeros((), jnp.int32))
        return sequence.run(config, beginning, reading, opened)[0][:, :, 0]

    said = jax.vmap(read)(jax.tree.map(lambda *states: jnp.stack(states), new, written, kept))
    return Recall(*_cosine(said, pairs.values[None, :, :, 0]))


def _holds(config: MemoryConfig, pairs: int) -> bool:
    """Whether a memory can still know the first of the pairs when the last is written."""
    return config.shard is None or config.shard > pairs


def _cosine(x: Float[Array, "*n v"], y: Float[Array, "*#n v"]) -> Float[Array, "*n"]:
    product, lengths = jnp.sum(x * y, axis=-1), jnp.linalg.norm(x, axis=-1) * jnp.linalg.norm(y, axis=-1)
    return product / jnp.maximum(lengths, jnp.finfo(x.dtype).tiny)


def can_hold(config: AtlasConfig, distractors: int = DISTRACTORS) -> bool:
    """Whether any memory of the model goes on for so long: local ones of short shards do not.

    Args:
      config: of the model.
      distractors: pairs written after the needle.
    """
    return any(_holds(memory, 1 + distractors) for memory in memories(config))


def gates_on(config: AtlasConfig, params: PyTree, tokens: Int[Array | np.ndarray, "b t"]) -> list[Gates]:
    """Gates of every memory of the model while it reads a text, each [n, b, h, t].

    Args:
      config, params: of the model.
      tokens: at most a context.
    """

    def log(values: Float[Array, "*n"]) -> Float[Array, "*n"]:
        return jnp.log(jnp.maximum(values, jnp.finfo(values.dtype).tiny))

    _, _, opened = features_and_gates(config, params, tokens)
    found = []
    for values in opened:
        forget, rate = values["forget"], values["rate"]
        momentum, strength = (values.get(kind, jnp.ones_like(rate)) for kind in ("momentum", "strength"))
        found.append(Gates(log(1 - forget), log(momentum), config.rate * rate, strength))
    return found


def _beginnings(config: AtlasConfig, params: PyTree) -> list[Beginning]:
    """What every memory of the model begins with, arrays [n, h, ...]."""
    layers = params["blocks"]["memory"]
    names = ["memory"] if config.block == "context" else [f"memory_{i}" for i in range(len(memories(config)))]
    return [jax.vmap(lambda beginning: with_coefficients(beginning, config.degree))(layers[name]) for name in names]


def memory_needles(
    config: AtlasConfig,
    params: PyTree,
    tokens: Int[Array | np.ndarray, "b t"],
    key: Key[Array, ""],
    *,
    distractors: int = DISTRACTORS,
) -> Recall:
    """Needles in every memory of a model that can hold one: local memories of shorter shards are left out.

    Args:
      config, params: of the model.
      tokens: texts, at most a context: pair i is learnt as the model learns their token i, and they begin again after the last.
      key: of the random pairs.
      distractors: pairs written after each needle.

    Returns:
      Cosines [m, n, b, h], m the memories that were probed; trace it inside jit.

    Raises:
      ValueError: every memory begins anew before the distractors are written.
    """
    count, batch, width = 1 + distractors, tokens.shape[0], config.d_model // config.heads
    if not can_hold(config, distractors):
        raise ValueError(
            f"AtlasConfig.shard is {config.shard}, expected at least {count + 1} to hold a needle and {distractors} distractors"
        )
    known, beginnings, gates = memories(config), _beginnings(config, params), gates_on(config, params, tokens)
    again = np.arange(count) % tokens.shape[1]
    found = []
    for index, memory in enumerate(known):
        if not _holds(memory, count):
            continue
        sizes = {"sequences": batch, "heads": config.heads, "pairs": count, "width": width, "value_width": width}

        def one(key: Array, beginning: Beginning, gates: Gates, memory: MemoryConfig = memory, sizes=sizes) -> Recall:
            return recall(memory, beginning, gates, random_pairs(key, **sizes))

        keys = jax.random.split(jax.random.fold_in(key, index), config.layers)
        by_pair = jax.tree.map(lambda gate: gate[..., again], gates[index])
        found.append(jax.vmap(one)(keys, beginnings[index], by_pair))
    return jax.tree.map(lambda *cosines: jnp.stack(cosines), *found)
