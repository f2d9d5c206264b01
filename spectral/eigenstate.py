"""Temporal Eigenstate: an attention-free, strictly causal model of text and of time series on complex eigenmodes.

embedding (or projection of a series), n layers of (modes at several scales, coupled, gated and read out; feed-forward),
norm, head. The state is one complex number per mode and channel and the sums of unfinished blocks, whatever the length.
Design: the names follow the published model family; its pooling was centred on each token and so saw the future, which
this one cannot, and its modes forgot after about one token, where these start with memories spread up to the context.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from atlas_jax.models.checks import check_state, check_tokens
from atlas_jax.nn import linear
from atlas_jax.nn.norms import rms_norm, sum_dtype
from atlas_jax.types import PyTree
from spectral.eigenstate_layers import EigenstateLayer, LayerState
from spectral.layers import matmul
from spectral.resonance import EMBEDDING_SCALE


@dataclass(frozen=True)
class EigenstateConfig:
    """Sizes of one model; static under jit.

    Attributes:
      vocab_size: tokens known to the embedding and the head; of no meaning for a series.
      d_model: width; a multiple of twice `heads`.
      layers: of mixer and feed-forward.
      heads: groups of modes, an equal number for every scale.
      modes: complex eigenmodes a head, each of d_model / (2 heads) complex channels.
      feed_forward: inner width of the feed-forward, as a multiple of d_model.
      context: longest sequence of one call, in tokens; memories of the slowest modes start there.
      scales: tokens per block of each group of heads: powers of two, ascending.
      selective: whether the tokens set how fast the modes decay.
      dtype: of activations and of weights in matmuls, "float32" or "bfloat16"; parameters, norms, mode states and logits are
        float32 in both.

    Raises:
      ValueError: a size is not positive, one is no multiple of another that it must be, the scales are not powers of two in
        ascending order, or the dtype is another.
    """

    vocab_size: int = 1024
    d_model: int = 32
    layers: int = 2
    heads: int = 4
    modes: int = 4
    feed_forward: int = 2
    context: int = 128
    scales: tuple[int, ...] = (1, 2, 4, 8)
    selective: bool = False
    dtype: str = "float32"

    def __post_init__(self) -> None:
        for name in ("vocab_size", "d_model", "layers", "heads", "modes", "feed_forward", "context"):
            if getattr(self, name) < 1:
                raise ValueError(f"EigenstateConfig.{name} is {getattr(self, name)}, expected at least 1")
        if self.d_model % (2 * self.heads):
            raise ValueError(
                f"EigenstateConfig.d_model is {self.d_model}, expected a multiple of 2 heads = {2 * self.heads}"
            )
        scales = self.scales
        if not scales or any(s < 1 or s & (s - 1) for s in scales) or list(scales) != sorted(set(scales)):
            raise ValueError(f"EigenstateConfig.scales is {scales}, expected powers of two, ascending, each once")
        if self.heads % len(scales):
            raise ValueError(
                f"EigenstateConfig.heads is {self.heads}, expected a multiple of the number of scales = {len(scales)}"
            )
        if self.dtype not in ("float32", "bfloat16"):
            raise ValueError(f"EigenstateConfig.dtype is {self.dtype!r}, expected 'float32' or 'bfloat16'")


class EigenstateState(NamedTuple):
    """What the model remembers, float32, of constant size.

    Attributes:
      modes: [n, b, 2, h, m, w], real and imaginary part of each mode after its last complete block.
      partial: [n, b, h, p], sums over the unfinished block of each head: real and imaginary inputs, and, with `selective`,
        what moves the decay of its modes.
      phase: [n, b], tokens seen modulo the longest block, the same in every layer.
    """

    modes: Float[Array, "n b 2 h m w"]
    partial: Float[Array, "n b h p"]
    phase: Float[Array, "n b"]


# On text one scale is better than four, by .2 to .5 % of the bits in four comparisons of four (`benchmarks/ablations.py`).
PRESETS = {
    "micro-32": EigenstateConfig(d_model=32, scales=(1,)),
    "micro-128": EigenstateConfig(d_model=128, scales=(1,)),
    "micro-208": EigenstateConfig(d_model=208, scales=(1,)),
}


def _layer(config: EigenstateConfig) -> EigenstateLayer:
    return EigenstateLayer(
        config.heads,
        config.modes,
        config.scales,
        float(config.context),
        config.selective,
        config.feed_forward * config.d_model,
    )


def _init_trunk(config: EigenstateConfig, key: Array) -> PyTree:
    """The parameters that text and series share; those of the layers are stacked along a leading axis."""
    example = jnp.zeros((1, 1, config.d_model))
    layers = jax.vmap(lambda k: _layer(config).init(k, example, None)["params"])(jax.random.split(key, config.layers))
    return {"blocks": layers, "norm": jnp.ones((config.d_model,))}


def init(config: EigenstateConfig, key: Array) -> PyTree:
    """Fresh float32 parameters of a language model."""
    embedding_key, head_key, layer_key = jax.random.split(key, 3)
    d, vocabulary = config.d_model, config.vocab_size
    return {
        "embedding": jax.random.normal(embedding_key, (vocabulary, d)) / EMBEDDING_SCALE,
        **_init_trunk(config, layer_key),
        "head": jax.random.normal(head_key, (d, vocabulary)) * d**-0.5 * 0.5,
    }


def init_series(config: EigenstateConfig, channels: int, key: Array) -> PyTree:
    """Fresh float32 parameters of a model of time series with `channels` values a time step; the heads are apart.

    Raises:
      ValueError: channels is not positive.
    """
    if channels < 1:
        raise ValueError(f"channels is {channels}, expected at least 1")
    input_key, layer_key = jax.random.split(key)
    weights = jax.random.normal(input_key, (channels, config.d_model)) * channels**-0.5
    return {"input": weights, "bias": jnp.zeros((config.d_model,)), **_init_trunk(config, layer_key)}


def init_state(config: EigenstateConfig, batch: int) -> EigenstateState:
    """The state before the first token, zeros."""
    width = config.d_model // (2 * config.heads)
    parts = 2 * width + (config.modes if config.selective else 0)
    return EigenstateState(
        jnp.zeros((config.layers, batch, 2, config.heads, config.modes, width)),
        jnp.zeros((config.layers, batch, config.heads, parts)),
        jnp.zeros((config.layers, batch)),
    )


def _trunk(
    config: EigenstateConfig, params: PyTree, x: Float[Array, "b t d"], state: EigenstateState | None
) -> tuple[Float[Array, "b t d"], EigenstateState]:
    check_state(jax.eval_shape(partial(init_state, config, x.shape[0])), state)
    if config.dtype == "bfloat16":
        x = x.astype(jnp.bfloat16)
    layer = _layer(config)

    def one_layer(x: Array, inputs: tuple[PyTree, LayerState | None]) -> tuple[Array, LayerState]:
        weights, remembered = inputs
        return layer.apply({"params": weights}, x, remembered)  # pyright: ignore[reportReturnType] (nothing is mutable)

    remembered = None if state is None else LayerState(*state)
    # Few layers are unrolled: a scan costs a CPU a copy of every layer's weights each step.
    unroll = config.layers if config.layers <= 4 else 1
    x, after = jax.lax.scan(one_layer, x, (params["blocks"], remembered), unroll=unroll)
    return rms_norm(x, params["norm"]), EigenstateState(*after)


def features(
    config: EigenstateConfig,
    params: PyTree,
    tokens: Int[Array | np.ndarray, "b t"],
    state: EigenstateState | None = None,
) -> tuple[Float[Array, "b t d"], EigenstateState]:
    """The normalised activations that the head reads, and the state after the last token.

    Raises:
      ValueError: more tokens than `context`, or a state of another model or batch.
    """
    check_tokens(config, tokens)
    return _trunk(config, params, jnp.take(params["embedding"], tokens, axis=0) * EMBEDDING_SCALE, state)


def features_of_series(
    config: EigenstateConfig,
    params: PyTree,
    x: Float[Array | np.ndarray, "b t c"],
    state: EigenstateState | None = None,
) -> tuple[Float[Array, "b t d"], EigenstateState]:
    """The normalised activations that a head of `spectral.heads` reads, and the state after the last time step.

    Args:
      config: of the model.
      params: from `init_series`.
      x: the series, each channel of about unit size (`heads.normalise_window`).
      state: where an earlier call stopped; None at the start.

    Raises:
      ValueError: another number of channels than the parameters have, no time step or more than `context`, or a state of
        another model or batch.
    """
    channels = params["input"].shape[0]
    if x.shape[-1] != channels:
        raise ValueError(f"series has {x.shape[-1]} channels, expected {channels} as in params['input']")
    if not 1 <= x.shape[1] <= config.context:
        raise ValueError(f"series has {x.shape[1]} time steps in one call, expected 1 to context = {config.context}")
    entry = linear(jnp.asarray(x), params["input"]) + params["bias"][None, None]
    return _trunk(config, params, entry, state)


def apply(
    config: EigenstateConfig,
    params: PyTree,
    tokens: Int[Array | np.ndarray, "b t"],
    state: EigenstateState | None = None,
) -> tuple[Float[Array, "b t v"], EigenstateState]:
    """Logits for the token after each given one, and the state after the last; `state=None` starts a sequence.

    Raises:
      ValueError: more tokens than `context`, or a state of another model or batch.
    """
    x, state = features(config, params, tokens, state)
    logits = matmul(x, params["head"])
    return logits.astype(sum_dtype(x.dtype)), state


def step(
    config: EigenstateConfig, params: PyTree, token: Int[Array, " b"], state: EigenstateState
) -> tuple[Float[Array, "b v"], EigenstateState]:
    """One token: `apply` on a sequence of one."""
    logits, state = apply(config, params, token[:, None], state)
    return logits[:, 0], state
