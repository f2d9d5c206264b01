"""Resonance: an attention-free, strictly causal language model whose mixing is a bank of damped modes.

embedding, n blocks of (gated frequency layer, feed-forward), norm, head. The state is m complex numbers per head and
channel and layer, whatever the length. Design: the names and sizes follow the published model family; its forward pass
took an FFT over the whole sequence and so saw the future, which this one cannot.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from atlas_jax.distributed.mesh import use
from atlas_jax.distributed.sharding import constrain
from atlas_jax.models.checks import check_state, check_tokens
from atlas_jax.nn import linear
from atlas_jax.nn.norms import rms_norm
from atlas_jax.training.losses import cross_entropy
from atlas_jax.types import PyTree
from spectral.layers import ACTIVATIONS, LayerState, ResonanceLayer


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
      band_gate: whether `AdvancedSpectralGating` acts on the bands.
      channel_block: inner channels that `SpectralFFN` mixes with one another; 0 is a plain feed-forward.
      tied: whether the head is the embedding.
      dtype: of activations and of weights in matmuls, "float32" or "bfloat16"; parameters, norms, mode states and logits are
        float32 in both.
      recompute: whether the backward pass computes each layer again instead of keeping its inner activations.

    Raises:
      ValueError: a size is not positive, one is no multiple of another that it must be, or the dtype is another.
    """

    vocab_size: int = 1024
    d_model: int = 32
    layers: int = 2
    heads: int = 4
    modes: int = 4
    feed_forward: int = 2
    context: int = 128
    chunk: int = 128
    band_gate: bool = False
    channel_block: int = 0
    tied: bool = False
    dtype: str = "float32"
    recompute: bool = False

    def __post_init__(self) -> None:
        for name in ("vocab_size", "d_model", "layers", "heads", "modes", "feed_forward", "context", "chunk"):
            if getattr(self, name) < 1:
                raise ValueError(f"ResonanceConfig.{name} is {getattr(self, name)}, expected at least 1")
        if self.d_model % self.heads:
            raise ValueError(f"ResonanceConfig.d_model is {self.d_model}, expected a multiple of heads = {self.heads}")
        inner = self.feed_forward * self.d_model
        if self.channel_block and (self.channel_block < 2 or inner % self.channel_block):
            raise ValueError(
                f"ResonanceConfig.channel_block is {self.channel_block}, expected 0 or a divisor, 2 at least, of "
                f"feed_forward x d_model = {inner}"
            )
        if self.dtype not in ("float32", "bfloat16"):
            raise ValueError(f"ResonanceConfig.dtype is {self.dtype!r}, expected 'float32' or 'bfloat16'")


class ResonanceState(NamedTuple):
    """What the model remembers, float32, of constant size.

    Attributes:
      modes: [n, b, h, 2 m, d / h], real parts of the mode states, then imaginary parts.
      energy: [n, b, h, 2, 2], running sums and weights of the band gates' means; [n, b, 0, 2, 2] without gates.
    """

    modes: Float[Array, "n b h m2 k"]
    energy: Float[Array, "n b g 2 2"]


def _large(d_model: int, layers: int, context: int) -> ResonanceConfig:
    return ResonanceConfig(
        vocab_size=50_257,
        d_model=d_model,
        layers=layers,
        heads=d_model // 64,
        modes=8,
        feed_forward=4,
        context=context,
        tied=True,
        dtype="bfloat16",
        recompute=True,
    )


PRESETS = {
    "micro-32": ResonanceConfig(d_model=32),
    "micro-128": ResonanceConfig(d_model=128, heads=8),
    "micro-208": ResonanceConfig(d_model=208, heads=8),
    "tiny": _large(640, 10, 16_384),
    "small": _large(1280, 22, 65_536),
    "base": _large(2048, 19, 131_072),
}

# The embedding is stored small and multiplied up: with Adam's unit-size steps that is a higher learning rate for a
# table each of whose rows is seen rarely.
EMBEDDING_SCALE = 60.0


def layer_of(config: ResonanceConfig) -> ResonanceLayer:
    """The module of one layer; its parameters are `init`'s under "blocks", one slice each."""
    return ResonanceLayer(
        config.heads,
        config.modes,
        float(config.context),
        config.chunk,
        config.feed_forward * config.d_model,
        config.band_gate,
        config.channel_block,
    )


def init(config: ResonanceConfig, key: Array) -> PyTree:
    """Fresh float32 parameters; those of the layers are stacked along a leading axis."""
    embedding_key, head_key, layer_key = jax.random.split(key, 3)
    d, vocabulary = config.d_model, config.vocab_size
    example = jnp.zeros((1, 1, d))
    with use(None):  # the example is too small to be split over a mesh
        layers = jax.vmap(lambda k: layer_of(config).init(k, example, None)["params"])(
            jax.random.split(layer_key, config.layers)
        )
    params = {
        "embedding": jax.random.normal(embedding_key, (vocabulary, d)) / EMBEDDING_SCALE,
        "blocks": layers,
        "norm": jnp.ones((d,)),
    }
    if not config.tied:
        params["head"] = jax.random.normal(head_key, (d, vocabulary)) * d**-0.5 * 0.5
    return params


def init_state(config: ResonanceConfig, batch: int) -> ResonanceState:
    """The state before the first token, zeros."""
    modes = jnp.zeros((config.layers, batch, config.heads, 2 * config.modes, config.d_model // config.heads))
    return ResonanceState(modes, jnp.zeros((config.layers, batch, config.heads if config.band_gate else 0, 2, 2)))


def features(
    config: ResonanceConfig, params: PyTree, tokens: Int[Array | np.ndarray, "b t"], state: ResonanceState | None = None
) -> tuple[Float[Array, "b t d"], ResonanceState]:
    """The normalised activations that the head reads, and the state after the last token.

    Raises:
      ValueError: more tokens than `context`, or a state of another model or batch.
    """
    check_tokens(config, tokens)
    check_state(jax.eval_shape(partial(init_state, config, tokens.shape[0])), state)
    x = constrain("tokens", jnp.take(params["embedding"], tokens, axis=0) * EMBEDDING_SCALE, *ACTIVATIONS)
    if config.dtype == "bfloat16":
        x = x.astype(jnp.bfloat16)
    layer = layer_of(config)

    def one_layer(x: Array, inputs: tuple[PyTree, LayerState | None]) -> tuple[Array, LayerState]:
        weights, remembered = inputs
        return layer.apply({"params": weights}, x, remembered)  # pyright: ignore[reportReturnType] (nothing is mutable)

    body = jax.checkpoint(one_layer) if config.recompute else one_layer
    remembered = None if state is None else LayerState(*state)
    # Few layers are unrolled: a scan costs a CPU a copy of every layer's weights each step.
    x, after = jax.lax.scan(body, x, (params["blocks"], remembered), unroll=config.layers if config.layers <= 4 else 1)
    return rms_norm(x, params["norm"]), ResonanceState(*after)


def head_weights(config: ResonanceConfig, params: PyTree) -> Float[Array, "d v"]:
    """The matrix from features to logits."""
    return params["embedding"].T if config.tied else params["head"]


def head(config: ResonanceConfig, params: PyTree, x: Float[Array, "b t d"]) -> Float[Array, "b t v"]:
    """Logits of what `features` gave, float32."""
    return linear(x, head_weights(config, params).astype(x.dtype)).astype(params["norm"].dtype)


def apply(
    config: ResonanceConfig, params: PyTree, tokens: Int[Array | np.ndarray, "b t"], state: ResonanceState | None = None
) -> tuple[Float[Array, "b t v"], ResonanceState]:
    """Logits for the token after each given one, and the state after the last; `state=None` starts a sequence.

    Raises:
      ValueError: more tokens than `context`, or a state of another model or batch.
    """
    x, state = features(config, params, tokens, state)
    return head(config, params, x), state


def step(
    config: ResonanceConfig, params: PyTree, token: Int[Array, " b"], state: ResonanceState
) -> tuple[Float[Array, "b v"], ResonanceState]:
    """One token: `apply` on a sequence of one."""
    logits, state = apply(config, params, token[:, None], state)
    return logits[:, 0], state


def token_losses(
    config: ResonanceConfig,
    params: PyTree,
    tokens: Int[Array | np.ndarray, "b t"],
    targets: Int[Array | np.ndarray, "b t"],
    state: ResonanceState | None = None,
) -> tuple[Float[Array, "b t"], ResonanceState]:
    """Cross-entropy of every target in nats, without the logits of all tokens in memory at once; and the state after the last.

    Raises:
      ValueError: more tokens than `context`, or a state of another model or batch.
    """
    x, state = features(config, params, tokens, state)
    return cross_entropy(x, head_weights(config, params), jnp.asarray(targets)), state


def parameter_axes(config: ResonanceConfig) -> PyTree:
    """Names of the axes of every parameter, for `atlas_jax.distributed.sharding`: a tree like `init`'s, of tuples."""
    bands = ("layers", "heads", None)
    mixer: dict[str, PyTree] = dict.fromkeys(("log_rate", "frequency", "real", "imaginary"), bands)
    mixer |= {"in": ("layers", None, "inner"), "out": ("layers", "inner", None)}
    if config.band_gate:
        mixer["band_gate"] = {
            "weight": ("layers", None, "heads"),
            "slope": ("layers", "heads"),
            "threshold": ("layers", "heads"),
        }
    feed_forward: dict[str, PyTree] = {"up": ("layers", None, "inner"), "down": ("layers", "inner", None)}
    if config.channel_block:
        feed_forward |= dict.fromkeys(("real", "imaginary"), ("layers", "inner", None))
    norm = {"scale": ("layers", None)}
    blocks = {"mixer": mixer, "feed_forward": feed_forward, "mixer_norm": norm, "feed_forward_norm": norm}
    # A vocabulary need not divide, so the table is stored by its columns.
    axes = {"embedding": ("vocabulary_rows", "columns"), "blocks": blocks, "norm": (None,)}
    return axes if config.tied else {**axes, "head": ("columns", "vocabulary_rows")}
