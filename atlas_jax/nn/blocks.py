"""Blocks of an Atlas model: a memory alone, beside sliding-window attention, before it, or as its context.

Attention is always windowed: beside full attention a memory learns nothing, as nothing is left for it to remember.

Source: Titans (arXiv:2501.00663) section 4: memory as gate (MAG), as layer (MAL), as context (MAC: `atlas_jax.nn.context`), and
the memory alone (LMM). Persistent tokens are keys and values that all tokens see (see `nn.attention`).
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from atlas_jax.nn.attention import Window, sliding_window_attention
from atlas_jax.nn.context import ContextState, MemoryAsContext
from atlas_jax.nn.linear import linear
from atlas_jax.nn.memory import GateValues, LayerState, MemoryLayer
from atlas_jax.nn.neighbours import ALONE, Neighbours
from atlas_jax.nn.norms import rms_norm

Kind = Literal["memory", "gate", "layer", "context"]


class BlockState(NamedTuple):
    """What a block carries between two calls.

    Attributes:
      memory: of its memories; of the whole layer where the memory is attention's context.
      window: of its attention; None where there is none.
    """

    memory: LayerState | ContextState
    window: Window | None


def matrix(module: nn.Module, name: str, rows: int, columns: int, scale: float = 1.0) -> Float[Array, "i o"]:
    """A float32 parameter of variance scale^2 / rows."""
    return module.param(name, nn.initializers.normal(scale * rows**-0.5), (rows, columns))


class WindowAttention(nn.Module):
    """Sliding-window attention with rotary embeddings, normalised queries and keys, and persistent tokens.

    Attributes:
      heads: of it.
      window: tokens that each token sees, itself included.
      persistent: tokens that all tokens see besides.
      base: of the rotary frequencies.
      scale: of what it gives at the start.
      neighbours: where what came before the inputs is found.
    """

    heads: int
    window: int
    persistent: int
    base: float
    scale: float = 1.0
    neighbours: Neighbours = ALONE

    @nn.compact
    def __call__(self, x: Float[Array, "b t d"], state: Window | None) -> tuple[Float[Array, "b t d"], Window]:
        """Inputs to mixed inputs, and the window after the last token."""
        d = x.shape[-1]
        if self.heads < 1 or d % self.heads:
            raise ValueError(f"WindowAttention: inputs have {d} channels, expected a multiple of heads = {self.heads}")
        shape = (*x.shape[:2], self.heads, d // self.heads)
        parts = jnp.split(linear(x, matrix(self, "query_key_value", d, 3 * d).astype(x.dtype)), 3, axis=-1)
        query, key, value = (part.reshape(shape) for part in parts)
        query = rms_norm(query, self.param("query_norm", nn.initializers.ones, shape[-1:]))
        key_scale = self.param("key_norm", nn.initializers.ones, shape[-1:])
        key = rms_norm(key, key_scale)
        always = None
        if self.persistent:
            keys, values = (
                self.param(name, nn.initializers.normal(1.0), (self.persistent, *shape[2:])).astype(x.dtype)
                for name in ("persistent_keys", "persistent_values")
            )
            always = (rms_norm(keys, key_scale), values)
        mixed, state = sliding_window_attention(
            query,
            key,
            value,
            self.neighbours.window_before(key, value, self.window, state),
            window=self.window,
            chunk=self.window,
            base=self.base,
            persistent=always,
        )
        return linear(mixed.reshape(x.shape), matrix(self, "out", d, d, self.scale).astype(x.dtype)), state


class FeedForward(nn.Module):
    """(x U * silu(x G)) D (Shazeer 2020, arXiv:2002.05202, equation 6).

    Attributes:
      inner: its width.
      scale: of D at the start.
    """

    inner: int
    scale: float

    @nn.compact
    def __call__(self, x: Float[Array, "b t d"]) -> Float[Array, "b t d"]:
        """Inputs to outputs, token by token."""
        up, gate = jnp.split(
            linear(x, matrix(self, "up_gate", x.shape[-1], 2 * self.inner).astype(x.dtype)), 2, axis=-1
        )
        return linear(up * jax.nn.silu(gate), matrix(self, "down", self.inner, x.shape[-1], self.scale).astype(x.dtype))


class Block(nn.Module):
    """Mixing, then a feed-forward, each of a normalised copy of the residual stream and added to it.

    Attributes:
      kind: "memory": the memory alone; "gate": attention x memory, each normalised; "layer": attention over what the memory says;
        "context": attention over segments and what the memory says of them, learnt by the memory.
      memory: its memories; for "context" with an attention of their own.
      attention: not used by "memory" and "context".
      feed_forward: inner width.
      branch: of what the feed-forward and "gate" add at the start, beside the residual stream's 1; memory and attention have
        their own.
    """

    kind: Kind
    memory: MemoryLayer | MemoryAsContext
    attention: WindowAttention
    feed_forward: int
    branch: float

    def _norm(self, name: str, x: Float[Array, "b t d"], start: float = 1.0) -> Float[Array, "b t d"]:
        return rms_norm(x, self.param(name, nn.initializers.constant(start), x.shape[-1:]))

    def __call__(
        self, x: Float[Array, "b t d"], state: BlockState | None = None
    ) -> tuple[Float[Array, "b t d"], BlockState]:
        """The residual stream after the block, and the block's state after the last token."""
        x, state, _ = self.with_gates(x, state)
        return x, state

    @nn.compact
    def with_gates(
        self, x: Float[Array, "b t d"], state: BlockState | None = None
    ) -> tuple[Float[Array, "b t d"], BlockState, tuple[GateValues, ...]]:
        """What a call gives, and the gates [b, h, t] of every memory."""
        if self.kind not in get_args(Kind) or (self.kind == "context") != isinstance(self.memory, MemoryAsContext):
            found = f"{self.kind!r} with a {type(self.memory).__name__}"
            raise ValueError(
                f"Block.kind is {found}, expected one of {', '.join(get_args(Kind))} with the memory of its kind"
            )
        memory, window = (None, None) if state is None else state
        read = self._norm("mix_norm", x)
        said, memory, opened = self.memory.with_gates(read, memory)  # pyright: ignore[reportArgumentType] (its own state)
        if self.kind in ("memory", "context"):
            mixed = said
        elif self.kind == "gate":
            seen, window = self.attention(read, window)
            mixed = self._norm("memory_norm", said, self.branch) * self._norm("attention_norm", seen)
        else:
            mixed, window = self.attention(self._norm("memory_norm", said), window)
        x = x + mixed
        x = x + FeedForward(self.feed_forward, self.branch)(self._norm("feed_forward_norm", x))
        return x, BlockState(memory, window), opened
