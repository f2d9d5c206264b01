"""A memory over a whole sequence and over any part of one: all heads of all sequences, chunks, shards, projected queries.

Lengths, everywhere: `chunk`, tokens whose gradients are taken at the same weights; `shard`, tokens after which a local memory
begins anew; `window`, tokens whose losses each update descends. A shard is a whole number of chunks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Float, Int, PyTree

from atlas_jax.memory.checks import check_beginning, check_state, check_tokens
from atlas_jax.memory.chunks import Chunks, run_chunks
from atlas_jax.memory.networks import Weights
from atlas_jax.memory.projection import NORMALISATIONS, ProjectionState, persistent_state, project_chunk, reset, unit
from atlas_jax.memory.rule import Rule
from atlas_jax.memory.tokens import Tokens

TIME = 2  # the axis of time in [b, h, t, ...]


@dataclass(frozen=True)
class MemoryConfig:
    """How a memory learns and goes through time; static under jit.

    Attributes:
      rule: of learning.
      chunk: tokens whose gradients are taken at the same weights.
      shard: tokens after which the memory begins anew; a multiple of chunk, None never.
      projection: queries are mapped into the span of the keys seen, by "norm_sum" or "per_key" (`atlas_jax.memory.projection`);
        None: queries as they are.
      span: where the keys of the projection begin anew: with the "shard", or with every "chunk".
      group: pieces that a backward pass holds at a time, see `chunks.Chunks`.
      tile: most tokens of a longer chunk that are multiplied with one another at once, where the work grows with their square.
        Changes speed and memory, and results by rounding alone. A backward pass is given the state before every tile: weights of
        many features want longer ones.

    Raises:
      ValueError: a length is not positive, shard is no multiple of chunk, or a name is unknown.
    """

    rule: Rule
    chunk: int = 64
    shard: int | None = None
    projection: str | None = None
    span: Literal["shard", "chunk"] = "shard"
    group: int = 1
    tile: int = 64

    def __post_init__(self) -> None:
        for name in ("chunk", "shard", "group", "tile"):
            value = getattr(self, name)
            if value is None and name == "shard":
                continue
            if value is None or value < 1:
                raise ValueError(f"MemoryConfig.{name} is {value}, expected at least 1")
        if self.shard is not None and self.shard % self.chunk:
            raise ValueError(f"MemoryConfig.shard is {self.shard}, expected a multiple of chunk = {self.chunk}")
        for name, known in (("projection", (None, *NORMALISATIONS)), ("span", ("shard", "chunk"))):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"MemoryConfig.{name} is {getattr(self, name)!r}, expected one of {', '.join(map(str, known))}"
                )


class Beginning(NamedTuple):
    """What a memory begins every sequence and every shard with: parameters of every head.

    Attributes:
      weights: each [h, i, o].
      scales: [h, i] of polynomial features, see `features.init_scales`; None: keys and queries as they are.
      persistent: [h, p, d], keys that the projection knows from the start; None without projection.
    """

    weights: Weights
    scales: Float[Array, "h i"] | None = None
    persistent: Float[Array, "h p d"] | None = None


class MemoryState(NamedTuple):
    """A memory between two calls.

    Attributes:
      heads: the rule's state of every head, each array [b, h, ...].
      projection: of every head; None without.
      age: 0 where a sequence or shard begins, so that the next token finds it anew; int32, one for all. Tokens since the shard
        began, 0 to shard - 1; without shards 1 from the first token on.
      phase: tokens since the open chunk began, 0 to chunk - 1; int32, one for all.
    """

    heads: Any
    projection: ProjectionState | None
    age: Int[Array, ""]
    phase: Int[Array, ""]


def init_state(config: MemoryConfig, beginning: Beginning, batch: int, *, width: int, value_width: int) -> MemoryState:
    """The state before the first token.

    Any state of this structure with age and phase 0 is one: the beginning is put in place when the first chunk opens.

    Args:
      config: of the memory.
      beginning: what all sequences begin with.
      batch: sequences.
      width, value_width: channels of a key and of a value.

    Raises:
      ValueError: the config projects and there are no persistent keys.
    """
    one = jax.vmap(lambda weights: config.rule.start(weights, width, value_width))(beginning.weights)
    heads = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (batch, *leaf.shape)), one)
    projection = None
    if config.projection is not None:
        if beginning.persistent is None:
            raise ValueError("beginning.persistent is None, expected the keys that the projection begins with")
        projection = persistent_state(beginning.persistent, batch, config.projection)
    return MemoryState(heads, projection, jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))


def run(
    config: MemoryConfig, beginning: Beginning, tokens: Tokens, state: MemoryState | None = None
) -> tuple[Float[Array, "b h t v"], MemoryState]:
    """Learns and reads a stretch of every sequence.

    Any split of a sequence gives what the whole gives. Without a state, whole shards go side by side as a larger batch: the
    scan is as long as one of them.

    Args:
      config: static.
      beginning: parameters; what a sequence and a shard begin with.
      tokens: query and key [b, h, t, d], value [b, h, t, v], gates [b, h, t], in the dtype of the weights.
      state: where the last call stopped; None starts the sequences.

    Returns:
      y_t = M_t(q_t), each token's own update included, and the state after the last token.

    Raises:
      ValueError: no token, or tokens, beginning and state do not fit each other or the config.
    """
    check_tokens(tokens)
    check_beginning(config.rule.network, tokens, *beginning)
    length = tokens.query.shape[TIME]
    if state is not None or config.shard is None or length <= config.shard:
        return _run(config, beginning, tokens, state)
    whole = length // config.shard * config.shard
    outputs, state = _shards_as_batch(config, beginning, jax.tree.map(lambda x: x[:, :, :whole], tokens), config.shard)
    if whole == length:
        return outputs, state
    rest, state = _run(config, beginning, jax.tree.map(lambda x: x[:, :, whole:], tokens), None)
    return jnp.concatenate([outputs, rest], axis=TIME), state


def _run(
    config: MemoryConfig, beginning: Beginning, tokens: Tokens, given: MemoryState | None
) -> tuple[Float[Array, "b h t v"], MemoryState]:
    batch, _, _, width = tokens.query.shape
    new = init_state(config, beginning, batch, width=width, value_width=tokens.value.shape[-1])
    if given is not None:
        check_state(new, given)
        _check_phase(config, given)
    quadratic = config.rule.quadratic or config.projection is not None
    chunks = Chunks(config.chunk, TIME, config.group, config.tile if quadratic else None)

    # Only a state from elsewhere, or a shard's end, can ask for a new beginning.
    resets = given is not None or config.shard is not None
    open = partial(open_chunk if resets else _opened, config, new)

    def advance(state: MemoryState, tokens: Tokens, count: Int[Array, ""]) -> tuple[MemoryState, Array]:
        return advance_chunk(config, beginning.scales, state, tokens, count)

    state, phase = (new, None) if given is None else (given, given.phase)
    outputs, state, phase = run_chunks(chunks, open, advance, state, phase, tokens)
    return outputs, state._replace(phase=phase)


def _check_phase(config: MemoryConfig, state: MemoryState) -> None:
    """Refuses a state within a chunk or shard longer than there are; seen where numbers are, that is not under jit."""
    for name, count, length in (("phase", state.phase, config.chunk), ("age", state.age, config.shard)):
        if length is not None and not isinstance(count, Tracer) and not 0 <= int(count) < length:
            raise ValueError(f"state.{name} is {int(count)}, expected 0 to {length - 1}: it comes from other lengths")


def open_chunk(config: MemoryConfig, new: MemoryState, state: MemoryState) -> MemoryState:
    """The memory as a new chunk finds it; everything anew where a sequence or shard begins, in the projection both sums.

    Args:
      config: of the memory.
      new: `init_state`.
      state: after the last chunk.
    """
    begins = state.age == 0
    state = _opened(config, new, state)
    heads = jax.tree.map(lambda new, old: jnp.where(begins, new, old), new.heads, state.heads)
    projection = state.projection
    if projection is not None and new.projection is not None:
        projection = reset(projection, new.projection, begins)
    return state._replace(heads=heads, projection=projection)


def _opened(config: MemoryConfig, new: MemoryState, state: MemoryState) -> MemoryState:
    """A new chunk of a sequence and shard under way."""
    projection = new.projection if config.span == "chunk" else state.projection
    return state._replace(heads=jax.vmap(jax.vmap(config.rule.open))(state.heads), projection=projection)


def advance_chunk(
    config: MemoryConfig, scales: Float[Array, "h i"] | None, state: MemoryState, tokens: Tokens, count: Int[Array, ""]
) -> tuple[MemoryState, Float[Array, "b h t v"]]:
    """Learns and reads the first `count` tokens, all of the open chunk; see `rule.Rule.advance`. The phase is the caller's."""
    projection = state.projection
    if projection is not None and config.projection is not None:
        there = (jnp.arange(tokens.key.shape[TIME], dtype=count.dtype) < count)[None, None, :, None]
        keys = jnp.where(there, tokens.key, 0.0)
        query, projection = project_chunk(projection, tokens.query, keys, config.projection)
        tokens = tokens._replace(query=unit(query))

    def one(state: PyTree, tokens: Tokens, scales: Array | None) -> tuple[PyTree, Array]:
        return config.rule.advance(state, tokens, count, scales)

    by_head = jax.vmap(one, in_axes=(0, 0, None if scales is None else 0))
    heads, outputs = jax.vmap(by_head, in_axes=(0, 0, None))(state.heads, tokens, scales)
    age = jnp.minimum(state.age + count, 1) if config.shard is None else (state.age + count) % config.shard
    return MemoryState(heads, projection, age, state.phase), outputs


def _shards_as_batch(
    config: MemoryConfig, beginning: Beginning, tokens: Tokens, shard: int
) -> tuple[Float[Array, "b h t v"], MemoryState]:
    """Whole shards do not know of one another."""
    batch, heads, length, _ = tokens.query.shape
    count = length // shard

    def beside(x: Float[Array, "b h t *rest"]) -> Float[Array, "nb h s *rest"]:
        cut = jnp.moveaxis(x.reshape(batch, heads, count, shard, *x.shape[3:]), 2, 0)
        return cut.reshape(count * batch, heads, shard, *x.shape[3:])

    outputs, state = _run(replace(config, shard=None), beginning, jax.tree.map(beside, tokens), None)
    state = state._replace(age=jnp.zeros_like(state.age))
    state = jax.tree.map(lambda x: x.reshape(count, batch, *x.shape[1:])[-1] if x.ndim else x, state)
    outputs = jnp.moveaxis(outputs.reshape(count, batch, heads, shard, -1), 0, 2)
    return outputs.reshape(batch, heads, length, -1), state
