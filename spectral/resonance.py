"""Resonance: an attention-free, strictly causal language model whose mixing is a bank of damped modes.

embedding, n blocks of (gated frequency layer, feed-forward), norm, head. The state is m complex numbers per head and
channel and layer, whatever the length. Design: the names and sizes follow the published model family; its forward pass
took an FFT over the whole sequence and so saw the future, which this one cannot.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from atlas_jax.nn import linear
from atlas_jax.types import PyTree
from spectral import convolution
from spectral.layers import ResonanceBlock, rms_norm


@dataclass(frozen=True)
class ResonanceConfig:
    """Sizes of one model; static under jit.

    Attributes:
      vocab_size: tokens known to the embedding and the head.
      d_model: width; a multiple of `heads`.
      layers: blocks.
      heads: frequency bands.
      modes: damped modes a band.
      feed_forward: inner width of the feed-forward, as a multiple of d_model.
      context: longest sequence it is meant for, in tokens; memories of the slowest band start there.
      chunk: tokens per Toeplitz block.

    Raises:
      ValueError: a size is not positive, or d_model is no multiple of heads.
    """

    vocab_size: int = 1024
    d_model: int = 32
    layers: int = 2
    heads: int = 4
    modes: int = 4
    feed_forward: int = 2
    context: int = 128
    chunk: int = 128

    def __post_init__(self) -> None:
        for name in ("vocab_size", "d_model", "layers", "heads", "modes", "feed_forward", "context", "chunk"):
            if getattr(self, name) < 1:
                raise ValueError(f"ResonanceConfig.{name} is {getattr(self, name)}, expected at least 1")
        if self.d_model % self.heads:
            raise ValueError(f"ResonanceConfig.d_model is {self.d_model}, expected a multiple of heads = {self.heads}")


class ResonanceState(NamedTuple):
    """What the model remembers: float32 [n, b, h, 2 m, d / h], real parts of the mode states, then imaginary parts."""

    modes: Float[Array, "n b h m2 k"]


PRESETS = {
    "micro-32": ResonanceConfig(d_model=32),
    "micro-128": ResonanceConfig(d_model=128, heads=8),
    "micro-208": ResonanceConfig(d_model=208, heads=8),
}

# The embedding is stored small and multiplied up: with Adam's unit-size steps that is a higher learning rate for a
# table each of whose rows is seen rarely.
EMBEDDING_SCALE = 60.0


def _block(config: ResonanceConfig) -> ResonanceBlock:
    return ResonanceBlock(
        config.heads, config.modes, float(config.context), config.chunk, config.feed_forward * config.d_model
    )


def init(config: ResonanceConfig, key: Array) -> PyTree:
    """Fresh float32 parameters; those of the blocks are stacked along a leading layer axis."""
    embedding_key, head_key, block_key = jax.random.split(key, 3)
    d, vocabulary = config.d_model, config.vocab_size
    example = jnp.zeros((1, 1, d))
    blocks = jax.vmap(lambda k: _block(config).init(k, example, None)["params"])(
        jax.random.split(block_key, config.layers)
    )
    return {
        "embedding": jax.random.normal(embedding_key, (vocabulary, d)) / EMBEDDING_SCALE,
        "blocks": blocks,
        "norm": jnp.ones((d,)),
        "head": jax.random.normal(head_key, (d, vocabulary)) * d**-0.5 * 0.5,
    }


def init_state(config: ResonanceConfig, batch: int) -> ResonanceState:
    """The state before the first token, zeros."""
    one = convolution.init_state(batch, config.heads, config.modes, config.d_model // config.heads)
    return ResonanceState(jnp.broadcast_to(one, (config.layers, *one.shape)))


def features(
    config: ResonanceConfig, params: PyTree, tokens: Int[Array | np.ndarray, "b t"], state: ResonanceState | None = None
) -> tuple[Float[Array, "b t d"], ResonanceState]:
    """The normalised activations that the head reads, and the state after the last token."""
    x = jnp.take(params["embedding"], tokens, axis=0) * EMBEDDING_SCALE
    block = _block(config)

    def layer(x: Array, inputs: tuple[PyTree, Array | None]) -> tuple[Array, Array]:
        weights, modes = inputs
        return block.apply({"params": weights}, x, modes)  # pyright: ignore[reportReturnType] (nothing is mutable)

    modes = None if state is None else state.modes
    # Few layers are unrolled: a scan costs a CPU a copy of every layer's weights each step.
    x, modes = jax.lax.scan(layer, x, (params["blocks"], modes), unroll=config.layers if config.layers <= 4 else 1)
    return rms_norm(x, params["norm"]), ResonanceState(modes)


def apply(
    config: ResonanceConfig, params: PyTree, tokens: Int[Array | np.ndarray, "b t"], state: ResonanceState | None = None
) -> tuple[Float[Array, "b t v"], ResonanceState]:
    """Logits for the token after each given one, and the state after the last; `state=None` starts a sequence."""
    x, state = features(config, params, tokens, state)
    return linear(x, params["head"]), state


def step(
    config: ResonanceConfig, params: PyTree, token: Int[Array, " b"], state: ResonanceState
) -> tuple[Float[Array, "b v"], ResonanceState]:
    """One token: `apply` on a sequence of one."""
    logits, state = apply(config, params, token[:, None], state)
    return logits[:, 0], state
