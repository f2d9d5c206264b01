"""A memory over a whole sequence and over any part of one: chunk after chunk, with an open chunk carried in the state.

Lengths, everywhere: `chunk`, tokens whose gradients are taken at the same weights; `shard`, tokens after which a local memory
begins anew; `window`, tokens whose losses each update descends. A shard is a whole number of chunks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from atlas_jax.memory.dual import FastState, Loss, Tokens, advance, start
from atlas_jax.memory.networks import Network, Weights


@dataclass(frozen=True)
class MemoryConfig:
    """How a memory goes through time; static under jit.

    Attributes:
      network: of the memory.
      chunk: tokens whose gradients are taken at the same weights.
      window: tokens whose losses each update descends, itself included (the Omega rule; 1 is Titans).
      shard: tokens after which the memory begins anew; a multiple of chunk, None never.
      loss: what it descends.

    Raises:
      ValueError: a length is not positive, or shard is no multiple of chunk.
    """

    network: Network
    chunk: int = 64
    window: int = 1
    shard: int | None = None
    loss: Loss = "l2"

    def __post_init__(self) -> None:
        for name, value in (("chunk", self.chunk), ("window", self.window), ("shard", self.shard)):
            if value is not None and value < 1:
                raise ValueError(f"MemoryConfig.{name} is {value}, expected at least 1")
        if self.shard is not None and self.shard % self.chunk:
            raise ValueError(f"MemoryConfig.shard is {self.shard}, expected a multiple of chunk = {self.chunk}")


class MemoryState(NamedTuple):
    """A memory between two calls.

    Attributes:
      fast: weights, momentum and window of every head, each array [b, h, ...].
      phase: tokens since the open chunk began, 0 to chunk - 1; int32, one for all.
      age: tokens since the shard began, 0 to shard - 1; int32, 0 where there are no shards.
    """

    fast: FastState
    phase: Int[Array, ""]
    age: Int[Array, ""]


def init_state(config: MemoryConfig, initial: Weights, batch: int, *, width: int, value_width: int) -> MemoryState:
    """The state before the first token.

    Args:
      config: of the memory.
      initial: its first weights, each [h, i, o]; the same for all sequences.
      batch: sequences.
      width, value_width: channels of a key and of a value.
    """
    one = jax.vmap(lambda weights: start(weights, config.window, width, value_width))(initial)
    fast = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (batch, *leaf.shape)), one)
    return MemoryState(fast, jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))


def run(
    config: MemoryConfig, initial: Weights, tokens: Tokens, state: MemoryState | None = None
) -> tuple[Float[Array, "b h t v"], MemoryState]:
    """Learns and reads a stretch of every sequence.

    Any split of a sequence gives what the whole gives: without a state the stretch is known to begin a chunk, so that full
    chunks go through one `lax.scan`; with one, every piece may hold the end of one chunk and the beginning of the next.

    Args:
      config: static.
      initial: first weights of every head, each [h, i, o]; what a shard begins from.
      tokens: query and key [b, h, t, d], value [b, h, t, v], gates [b, h, t].
      state: where the last call stopped; None starts the sequences.

    Returns:
      y_t = M_t(q_t), each token's own update included, and the state after the last token.

    Raises:
      ValueError: no token.
    """
    batch, _, length, width = tokens.query.shape
    if length < 1:
        raise ValueError(f"run: {length} tokens, expected at least 1")
    beginning = init_state(config, initial, batch, width=width, value_width=tokens.value.shape[-1])
    if state is None and config.shard is not None and length % config.shard == 0:
        return _shards_as_batch(config, initial, tokens, config.shard)
    aligned = state is None
    state = beginning if state is None else state
    pieces, rest = divmod(length, config.chunk)

    def piece(state: MemoryState, tokens: Tokens) -> tuple[MemoryState, Array]:
        return _aligned(config, beginning, state, tokens) if aligned else _piece(config, beginning, state, tokens)

    outputs = []
    if pieces:
        full = jax.tree.map(lambda x: _cut(x[:, :, : pieces * config.chunk], config.chunk), tokens)
        state, stacked = jax.lax.scan(jax.checkpoint(piece), state, full)
        outputs.append(_joined(stacked))
    if rest:
        state, last = piece(state, jax.tree.map(lambda x: x[:, :, pieces * config.chunk :], tokens))
        outputs.append(last)
    return jnp.concatenate(outputs, axis=2), state


def step(config: MemoryConfig, initial: Weights, tokens: Tokens, state: MemoryState) -> tuple[Array, MemoryState]:
    """One token: `run` on a stretch of one."""
    return run(config, initial, tokens, state)


def _cut(x: Float[Array, "b h t *rest"], size: int) -> Float[Array, "n b h c *rest"]:
    return jnp.moveaxis(x.reshape(*x.shape[:2], -1, size, *x.shape[3:]), 2, 0)


def _joined(x: Float[Array, "n b h c v"]) -> Float[Array, "b h t v"]:
    n, b, h, c, v = x.shape
    return jnp.moveaxis(x, 0, 2).reshape(b, h, n * c, v)


def _advance(
    config: MemoryConfig, fast: FastState, tokens: Tokens, learnt: Bool[Array, " t"] | None = None
) -> tuple[FastState, Array]:
    taught = jnp.ones(tokens.query.shape[2], bool) if learnt is None else learnt

    def one(fast: FastState, tokens: Tokens) -> tuple[FastState, Array]:
        return advance(config.network, fast, tokens, taught, window=config.window, loss=config.loss)

    return jax.vmap(jax.vmap(one))(fast, tokens)


def _shards_as_batch(config: MemoryConfig, initial: Weights, tokens: Tokens, shard: int) -> tuple[Array, MemoryState]:
    """Whole shards do not know of one another: they go side by side, and the scan is as long as one of them."""
    batch, heads, length, _ = tokens.query.shape
    count = length // shard
    beside = jax.tree.map(lambda x: _cut(x, shard).reshape(count * batch, heads, shard, *x.shape[3:]), tokens)
    outputs, state = run(replace(config, shard=None), initial, beside)
    last = jax.tree.map(lambda x: x.reshape(count, batch, *x.shape[1:])[-1], state.fast)
    return _joined(outputs.reshape(count, batch, *outputs.shape[1:])), MemoryState(last, state.phase, state.age)


def _opened(config: MemoryConfig, beginning: MemoryState, state: MemoryState) -> FastState:
    """The memory as a new chunk finds it: gradients from its weights of now, or everything anew where a shard begins."""
    fast = state.fast._replace(base=state.fast.weights)
    if config.shard is None:
        return fast
    return jax.tree.map(lambda new, old: jnp.where(state.age == 0, new, old), beginning.fast, fast)


def _later(config: MemoryConfig, state: MemoryState, fast: FastState, count: int) -> MemoryState:
    age = state.age if config.shard is None else (state.age + count) % config.shard
    return MemoryState(fast, (state.phase + count) % config.chunk, age)


def _aligned(
    config: MemoryConfig, beginning: MemoryState, state: MemoryState, tokens: Tokens
) -> tuple[MemoryState, Array]:
    """A piece that begins a chunk."""
    fast, outputs = _advance(config, _opened(config, beginning, state), tokens)
    return _later(config, state, fast, outputs.shape[2]), outputs


def _piece(
    config: MemoryConfig, beginning: MemoryState, state: MemoryState, tokens: Tokens
) -> tuple[MemoryState, Array]:
    """A piece of at most a chunk that begins anywhere in one: the rest of the open chunk, then the beginning of the next."""
    length = tokens.query.shape[2]
    left = config.chunk - state.phase  # of the open chunk; all of a new one where the phase is 0

    def within(state: MemoryState, tokens: Tokens) -> tuple[MemoryState, Array]:
        fast = jax.tree.map(
            lambda new, old: jnp.where(state.phase == 0, new, old), _opened(config, beginning, state), state.fast
        )
        fast, outputs = _advance(config, fast, tokens)
        return _later(config, state, fast, length), outputs

    def across(state: MemoryState, tokens: Tokens) -> tuple[MemoryState, Array]:
        old = jnp.arange(length, dtype=left.dtype) < left
        first, before = _advance(config, state.fast, tokens, old)
        # The window of the next chunk is the same tokens: only weights and momentum of the first part are taken over.
        between = MemoryState(
            first._replace(past=state.fast.past), jnp.zeros_like(state.phase), _aged(config, state, left)
        )
        opened = _opened(config, beginning, between)
        new_shard = config.shard is not None
        tokens_now = _forgotten(tokens, old & (between.age == 0)) if new_shard else tokens
        second, after = _advance(config, opened, tokens_now, ~old)
        return _later(config, state, second, length), jnp.where(old[:, None], before, after)

    return jax.lax.cond(left >= length, within, across, state, tokens)


def _aged(config: MemoryConfig, state: MemoryState, count: Int[Array, ""]) -> Int[Array, ""]:
    return state.age if config.shard is None else (state.age + count) % config.shard


def _forgotten(tokens: Tokens, gone: Bool[Array, " t"]) -> Tokens:
    """Tokens of an earlier shard stand in no window of this one."""
    strength = jnp.where(gone, 0.0, tokens.gates.strength)
    return tokens._replace(gates=tokens.gates._replace(strength=strength))
