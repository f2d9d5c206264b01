"""Memory as context (MAC): attention over a segment sees, beside the segment, what the memory of earlier segments knows of it.

A segment is a chunk of the memory. For the tokens S_s of segment s, with persistent tokens P,

  h_t = M_{s-1}(q(S_t))                      the memory as the last segment left it, W_init in the first
  y_t = Attn of token t over P, h_j and S_j  j <= t, of the same segment only
  o_t = y_t * M_t(q(y_t))                    M_t has learnt y up to token t; both sides normalised by learnt vectors

Rotary positions count from the segment's start, h_j stands where S_j stands, and both have the same keys and values projections.
The memory learns y token by token, as `nn.memory` learns its inputs, without the short convolution.

Source: Titans (arXiv:2501.00663) section 4.1. Deviations: read as printed, with all of h seen by every token and M_s of the
whole segment in the output, the layer sees its own future; here h_j is hidden from the tokens before j, and token t reads M_t.
The product is that of `nn.blocks`: both sides normalised, nothing after them. Persistent tokens are seen, and not learnt.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from atlas_jax.memory.checks import check_state
from atlas_jax.memory.chunks import Chunks, kept, run_chunks
from atlas_jax.memory.dual import Descent
from atlas_jax.memory.features import expand
from atlas_jax.memory.networks import Weights
from atlas_jax.memory.products import matmul
from atlas_jax.memory.projection import unit
from atlas_jax.memory.sequence import Beginning, MemoryConfig, MemoryState, advance_chunk, init_state, open_chunk
from atlas_jax.memory.tokens import Gates, Tokens
from atlas_jax.nn.attention import attend, persistent_scores, rotary_table, rotate
from atlas_jax.nn.linear import linear
from atlas_jax.nn.memory import (
    Features,
    GateValues,
    check_layer,
    gate_values,
    gates_of,
    init_beginning,
    init_gate_bias,
    init_layer_state,
    join_heads,
    split_heads,
    with_coefficients,
)
from atlas_jax.nn.neighbours import ALONE, Neighbours
from atlas_jax.nn.norms import rms_norm, sum_dtype

TIME = 1  # the axis of time in [b, t, ...]


class Slots(NamedTuple):
    """A segment's keys, turned to their positions, and values: token by token; what stands beyond the last one is stale."""

    keys: Float[Array, "b l h k"]
    values: Float[Array, "b l h k"]


class ContextState(NamedTuple):
    """What the layer carries between two calls.

    Attributes:
      memory: its phase is that of the open segment.
      recalled: h of the open segment.
      segment: S of the open segment.
    """

    memory: MemoryState
    recalled: Slots
    segment: Slots


class ContextParameters(NamedTuple):
    """Parameters of the layer, float32 (or the dtype of float64 inputs)."""

    recall: Float[Array, "d d"]  # queries of the memory before the segment
    recall_norm: Float[Array, " d"]
    query_key_value: Float[Array, "d d3"]  # of attention
    query_norm: Float[Array, " k"]
    key_norm: Float[Array, " k"]
    persistent: tuple[Float[Array, "p h k"], Float[Array, "p h k"]] | None  # keys and values
    attention_out: Float[Array, "d d"]
    attention_norm: Float[Array, " d"]
    learnt: Float[Array, "d d3"]  # queries, keys and values of the memory, made of y
    gates: Float[Array, "d h4"]
    gate_bias: Float[Array, " h4"]
    beginning: Beginning
    memory_out: Float[Array, "d d"]
    memory_norm: Float[Array, " d"]


class _Inputs(NamedTuple):
    """What is made of the layer's inputs alone: the memory's queries, and attention's queries, keys and values."""

    recall: Float[Array, "b t h k"]
    query: Float[Array, "b t h k"]
    key: Float[Array, "b t h k"]
    value: Float[Array, "b t h k"]


def context_memory(memories: tuple[MemoryConfig, ...]) -> MemoryConfig:
    """The only memory of the layer.

    Raises:
      ValueError: there are several, or it is none that knows at a segment's start what it was at the end of the last one and is
        read by queries as they are.
    """
    if len(memories) != 1:
        raise ValueError(f"memory as context: {len(memories)} memories, expected exactly one")
    memory = memories[0]
    if not isinstance(memory.rule, Descent):
        raise ValueError(f"memory as context: the rule is {type(memory.rule).__name__}, expected Descent")
    for name in ("shard", "projection"):
        if getattr(memory, name) is not None:
            raise ValueError(f"memory as context: {name} is {getattr(memory, name)!r}, expected None")
    return memory


def init_context_state(
    memories: tuple[MemoryConfig, ...], batch: int, heads: int, d_model: int, expansion: int, degree: int | None
) -> ContextState:
    """The state before the first token: zeros, float32.

    Args:
      memories: of the layer, exactly one.
      batch: sequences.
      heads, d_model, expansion, degree: of the layer.

    Raises:
      ValueError: as for `context_memory`.
    """
    config = context_memory(memories)
    (memory,) = init_layer_state(memories, batch, heads, d_model, expansion, degree).memories
    slots = jnp.zeros((batch, config.chunk, heads, d_model // heads))
    return ContextState(memory, Slots(slots, slots), Slots(slots, slots))


def memory_as_context(
    config: MemoryConfig,
    parameters: ContextParameters,
    x: Float[Array, "b t d"],
    state: ContextState | None = None,
    *,
    base: float,
    rate: float,
) -> tuple[tuple[Float[Array, "b t d"], GateValues], ContextState]:
    """The layer on a stretch of every sequence; any split of a sequence gives what the whole gives. See the top of this file.

    Args:
      config: of the memory, as `context_memory` gives it; its chunk is the segment.
      parameters: of the layer.
      x: inputs.
      state: where an earlier call stopped; None at the start of a sequence.
      base: of the rotary frequencies.
      rate: the largest theta.

    Returns:
      o in the dtype of x and the gates [b, h, t] of the memory, and the state after the last token.

    Raises:
      ValueError: the state is another layer's or batch's.
    """
    width = parameters.query_norm.shape[0]
    heads = x.shape[-1] // width
    inputs = _inputs(parameters, x, heads)
    new = init_state(config, parameters.beginning, x.shape[0], width=width, value_width=width)
    # A piece may reach beyond the segment, by tokens that do not count.
    tables = [jnp.asarray(table, sum_dtype(x.dtype)) for table in rotary_table(2 * config.chunk, width, base)]

    def open(state: ContextState) -> ContextState:
        memory = open_chunk(config, new, state.memory)
        return state._replace(memory=memory._replace(phase=jnp.zeros_like(memory.phase)))

    def advance(
        state: ContextState, inputs: _Inputs, count: Int[Array, ""]
    ) -> tuple[ContextState, tuple[Array, Array]]:
        phase = state.memory.phase
        key, value = _recalled(config, parameters, state.memory, inputs.recall, x.dtype)
        angles = [jax.lax.dynamic_slice_in_dim(table, phase, key.shape[TIME]) for table in tables]
        query, key, own = (rotate(part, *angles) for part in (inputs.query, key, inputs.key))
        recalled = _filled(state.recalled, Slots(key, value), phase, count)
        segment = _filled(state.segment, Slots(own, inputs.value), phase, count)
        mixed = _attention(parameters, inputs.query, query, recalled, segment, phase)
        y = rms_norm(kept(linear(mixed, parameters.attention_out.astype(x.dtype))), parameters.attention_norm)
        tokens = _learnt(config, parameters, y, heads, rate)
        memory, said = advance_chunk(config, parameters.beginning.scales, state.memory, tokens, count)
        return ContextState(memory._replace(phase=phase + count), recalled, segment), (y, join_heads(said))

    slots = jnp.zeros_like(inputs.key, shape=(x.shape[0], config.chunk, heads, width), dtype=sum_dtype(x.dtype))
    before, phase = ContextState(new, Slots(slots, slots), Slots(slots, slots)), None
    if state is not None:
        check_state(before, state)
        before, phase = state, state.memory.phase
    chunks = Chunks(config.chunk, TIME, config.group)
    (y, said), after, phase = run_chunks(chunks, open, advance, before, phase, inputs)
    said = linear(said.astype(x.dtype), parameters.memory_out.astype(x.dtype))
    o = y * rms_norm(said, parameters.memory_norm)
    # Made of y once more, so that the scan hands nothing out beside it.
    opened = gate_values(_gates(config, parameters, y, heads, rate), config.rule, rate)
    return (o, opened), after._replace(memory=after.memory._replace(phase=phase))


def _by_head(x: Float[Array, "b t d"], heads: int) -> Float[Array, "b t h k"]:
    return x.reshape(*x.shape[:2], heads, -1)


def _inputs(parameters: ContextParameters, x: Float[Array, "b t d"], heads: int) -> _Inputs:
    recall = linear(x, parameters.recall.astype(x.dtype)).astype(sum_dtype(x.dtype))
    parts = jnp.split(linear(x, parameters.query_key_value.astype(x.dtype)), 3, axis=-1)
    query, key, value = (_by_head(part, heads) for part in parts)
    query, key = rms_norm(query, parameters.query_norm), rms_norm(key, parameters.key_norm)
    return _Inputs(unit(_by_head(recall, heads)), query, key, value)


def _recalled(
    config: MemoryConfig,
    parameters: ContextParameters,
    memory: MemoryState,
    query: Float[Array, "b t h k"],
    dtype: jnp.dtype,
) -> tuple[Float[Array, "b t h k"], Float[Array, "b t h k"]]:
    """Keys and values of h: what the memory said where the segment began."""
    heads, scales, rule = query.shape[2], parameters.beginning.scales, config.rule
    assert isinstance(rule, Descent)  # `context_memory`

    def one(weights: Weights, scales: Array | None, query: Array) -> Array:
        """M(q) of one head, with the same weights for all tokens."""

        def layer(name: str, x: Array) -> Array:
            read = expand(x, scales) if name in rule.network.first else x
            return kept(matmul(read, weights[name], rule.dtype))

        return rule.network.forward(layer, query)

    by_head = jax.vmap(one, in_axes=(0, None if scales is None else 0, 0))
    read = jax.vmap(by_head, in_axes=(0, None, 0))(memory.heads.base, scales, jnp.moveaxis(query, 2, 1))
    h = rms_norm(join_heads(read).astype(dtype), parameters.recall_norm)
    projection = parameters.query_key_value[:, h.shape[-1] :].astype(dtype)
    key, value = (_by_head(part, heads) for part in jnp.split(kept(linear(h, projection)), 2, axis=-1))
    return rms_norm(key, parameters.key_norm), value


def _filled(slots: Slots, tokens: Slots, phase: Int[Array, ""], count: Int[Array, ""]) -> Slots:
    """The first `count` tokens in the slots from `phase` on; the other slots as they were."""
    size, length = slots.keys.shape[1], tokens.keys.shape[1]
    place = jnp.arange(size, dtype=phase.dtype)[None, :, None, None]
    there = (place >= phase) & (place < phase + count)

    def one(old: Array, new: Array) -> Array:
        new = jnp.pad(new.astype(old.dtype), ((0, 0), (0, size - length), (0, 0), (0, 0)))
        return jnp.where(there, jnp.roll(new, phase, 1), old)

    return jax.tree.map(one, slots, tokens)


def _attention(
    parameters: ContextParameters,
    query: Float[Array, "b t h k"],
    turned: Float[Array, "b t h k"],
    recalled: Slots,
    segment: Slots,
    phase: Int[Array, ""],
) -> Float[Array, "b t d"]:
    """Each token over the slots up to its own and the persistent tokens; `turned` is the query at its position."""
    size, length, dtype = segment.keys.shape[1], query.shape[1], query.dtype
    own = phase + jnp.arange(length, dtype=phase.dtype)
    visible = jnp.arange(size, dtype=phase.dtype)[None, :] <= own[:, None]
    keys, values = (jnp.concatenate(pair, axis=1).astype(dtype) for pair in zip(recalled, segment, strict=True))
    beside = None
    if parameters.persistent is not None:
        more_keys, more_values = (part.astype(dtype) for part in parameters.persistent)
        beside = (persistent_scores(query, rms_norm(more_keys, parameters.key_norm)), more_values)
    mixed = attend(turned, keys, values, jnp.concatenate([visible, visible], axis=1)[None], beside)
    return mixed.reshape(*mixed.shape[:2], -1)


def _learnt(
    config: MemoryConfig, parameters: ContextParameters, y: Float[Array, "b t d"], heads: int, rate: float
) -> Tokens:
    """What the memory is given of y, in float32 at least."""
    wide = sum_dtype(y.dtype)
    raw = kept(linear(y, parameters.learnt.astype(y.dtype)))
    parts = jnp.split(raw.astype(wide), 3, axis=-1)
    query, key, value = (split_heads(part, heads) for part in parts)
    return Tokens(unit(query), unit(key), value, _gates(config, parameters, y, heads, rate))


def _gates(
    config: MemoryConfig, parameters: ContextParameters, y: Float[Array, "b t d"], heads: int, rate: float
) -> Gates:
    (gates,) = gates_of(y, parameters.gates, parameters.gate_bias, (config,), heads, rate)
    return gates


class MemoryAsContext(nn.Module):
    """Parameters of `memory_as_context`.

    Attributes:
      heads: of attention and of the memory.
      memories: exactly one, see `context_memory`; its chunk is the segment.
      persistent: tokens that all tokens see besides.
      base: of the rotary frequencies.
      branch: of what the layer gives at the start.
      expansion: hidden channels of the memory's network, in widths of a head.
      degree: of polynomial features of the memory's keys and queries, 1 to 3; None: none.
      rate: the largest theta.
      features: "polynomial", with trained coefficients, or "exponential", with those of its series.
      neighbours: where what came before the inputs is found.
    """

    heads: int
    memories: tuple[MemoryConfig, ...]
    persistent: int
    base: float
    branch: float = 1.0
    expansion: int = 4
    degree: int | None = None
    rate: float = 0.03
    features: Features = "polynomial"
    neighbours: Neighbours = ALONE

    def _matrix(self, name: str, rows: int, columns: int, scale: float = 1.0) -> Array:
        return self.param(name, nn.initializers.normal(scale * rows**-0.5), (rows, columns))

    def _scale(self, name: str, width: int, start: float = 1.0) -> Array:
        return self.param(name, nn.initializers.constant(start), (width,))

    def _persistent(self, width: int) -> tuple[Array, Array] | None:
        if not self.persistent:
            return None
        shape, initial = (self.persistent, self.heads, width), nn.initializers.normal(1.0)
        return self.param("persistent_keys", initial, shape), self.param("persistent_values", initial, shape)

    def __call__(
        self, x: Float[Array, "b t d"], state: ContextState | None = None
    ) -> tuple[Float[Array, "b t d"], ContextState]:
        """Reads and learns a stretch.

        Args:
          x: inputs.
          state: where an earlier call stopped; None at the start of a sequence.

        Returns:
          y * M(q(y)) of every token, and the state after the last.

        Raises:
          ValueError: as for `context_memory`, or a field, the inputs or the state do not fit; it names them.
        """
        o, after, _ = self.with_gates(x, state)
        return o, after

    @nn.compact
    def with_gates(
        self, x: Float[Array, "b t d"], state: ContextState | None = None
    ) -> tuple[Float[Array, "b t d"], ContextState, tuple[GateValues, ...]]:
        """What a call gives, and the gates [b, h, t] of the memory."""
        check_layer(self, x)
        config, d, width = context_memory(self.memories), x.shape[-1], x.shape[-1] // self.heads
        sizes = (self.heads, width, self.expansion, self.degree, self.features)
        parameters = ContextParameters(
            recall=self._matrix("recall", d, d),
            recall_norm=self._scale("recall_norm", d),
            query_key_value=self._matrix("query_key_value", d, 3 * d),
            query_norm=self._scale("query_norm", width),
            key_norm=self._scale("key_norm", width),
            persistent=self._persistent(width),
            attention_out=self._matrix("attention_out", d, d),
            attention_norm=self._scale("attention_norm", d),
            learnt=self._matrix("learnt", d, 3 * d),
            gates=self._matrix("gates", d, 4 * self.heads, 0.1),
            gate_bias=self.param("gate_bias", lambda key: init_gate_bias(self.heads, 1)),
            beginning=with_coefficients(
                self.param("memory", lambda key: init_beginning(config, key, *sizes)), self.degree
            ),
            memory_out=self._matrix("memory_out", d, d),
            memory_norm=self._scale("memory_norm", d, self.branch),
        )
        learn = partial(memory_as_context, config, parameters, base=self.base, rate=self.rate)
        (o, opened), after = self.neighbours.go_on(learn, x, state, config.shard)
        return o, after, (opened,)
