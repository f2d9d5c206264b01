"""A small modern transformer: what attention-free models are measured against, and nothing more than that.

embedding, n blocks of (sliding-window rotary attention, SwiGLU feed-forward), norm, head; every block reads a normalised
copy of the residual stream. The window is the context: within it every token sees all before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from atlas_jax.models.checks import check_batch, check_params, check_state, check_token, check_tokens
from atlas_jax.models.registry import Presets
from atlas_jax.nn import linear
from atlas_jax.nn.attention import Window, init_window, rotary_table, rotate, sliding_window_attention
from atlas_jax.nn.norms import rms_norm
from atlas_jax.types import PyTree


@dataclass(frozen=True)
class TransformerConfig:
    """Sizes of one model; static under jit.

    Attributes:
      vocab_size: tokens known to the embedding and the head.
      d_model: width; a multiple of twice `heads`, as rotary embeddings turn pairs of channels.
      layers: blocks.
      heads: attention heads.
      feed_forward: inner width of the feed-forward, in channels.
      context: tokens that each token sees, itself included.
      chunk: queries per block of attention.

    Raises:
      ValueError: a size is not positive, or d_model is no multiple of twice heads.
    """

    vocab_size: int = 1024
    d_model: int = 32
    layers: int = 2
    heads: int = 4
    feed_forward: int = 32
    context: int = 128
    chunk: int = 128

    def __post_init__(self) -> None:
        for name in ("vocab_size", "d_model", "layers", "heads", "feed_forward", "context", "chunk"):
            if getattr(self, name) < 1:
                raise ValueError(f"TransformerConfig.{name} is {getattr(self, name)}, expected at least 1")
        if self.d_model % (2 * self.heads):
            raise ValueError(
                f"TransformerConfig.d_model is {self.d_model}, expected a multiple of 2 heads = {2 * self.heads}"
            )


class TransformerState(NamedTuple):
    """What the model remembers: the last context - 1 tokens of every layer's window, [n, b, ...], float32."""

    windows: Window


PRESETS = Presets(
    {
        "micro-32": TransformerConfig(d_model=32, heads=2, feed_forward=32),
        "micro-128": TransformerConfig(d_model=128, heads=2, feed_forward=128),
        "micro-208": TransformerConfig(d_model=208, heads=4, feed_forward=208),
    }
)

# The embedding is stored small and multiplied up: with Adam's unit-size steps that is a higher learning rate for a
# table each of whose rows is seen rarely.
EMBEDDING_SCALE = 30.0
HEAD_SCALE = 0.1  # of the logits at the start: uniform to a hundredth of a bit
BRANCH_SCALE = 0.1  # of what all branches together add to the residual stream at the start, beside the embedding's 1
LOOK_BACK = 8.0  # nats by which a head at first prefers its own distance to a random one


def rotary_base(config: TransformerConfig) -> float:
    """Longest wavelength = context: with the usual 10,000 most pairs of channels hardly turn in a window of hundreds."""
    return config.context / (2 * np.pi)


def _look_back(config: TransformerConfig) -> tuple[Float[Array, "h k"], Float[Array, "h k"]]:
    """Biases of query and key with which head i, from 0, starts by looking i + 1 tokens back, whatever they are.

    Biases that rotary embeddings turn make scores of distance alone. Without them a small model spends its few thousand
    steps on finding out that neighbours matter: 2.293 bits a byte instead of 2.255 at width 32, 2.150 instead of 2.108 at
    128 (wikitext-2, 640 steps).
    """
    heads, width = config.heads, config.d_model // config.heads
    key = np.concatenate([np.ones(width // 2), np.zeros(width // 2)]) * (2 * LOOK_BACK / width**0.5) ** 0.5
    keys = jnp.asarray(np.tile(key, (1, heads + 1, 1, 1)), jnp.float32)
    cosine, sine = rotary_table(heads + 1, width, rotary_base(config))
    return rotate(keys, cosine, -sine)[0, 1:, 0], keys[0, 1:, 0]


def _init_block(config: TransformerConfig, key: Array) -> PyTree:
    d, inner, width = config.d_model, config.feed_forward, config.d_model // config.heads
    keys = jax.random.split(key, 4)

    def matrix(key: Array, rows: int, columns: int, scale: float = 1.0) -> Array:
        return jax.random.normal(key, (rows, columns)) * (scale * rows**-0.5)

    query_bias, key_bias = _look_back(config)
    residual = BRANCH_SCALE * (2 * config.layers) ** -0.5  # two branches a block
    return {
        "attention_norm": jnp.ones((d,)),
        "query_key_value": matrix(keys[0], d, 3 * d),
        "query_norm": jnp.ones((width,)),
        "query_bias": query_bias,
        "key_norm": jnp.ones((width,)),
        "key_bias": key_bias,
        "out": matrix(keys[1], d, d, residual),
        "feed_forward_norm": jnp.ones((d,)),
        "up_gate": matrix(keys[2], d, 2 * inner),
        "down": matrix(keys[3], inner, d, residual),
    }


def init(config: TransformerConfig, key: Array) -> PyTree:
    """Fresh float32 parameters; those of the blocks are stacked along a leading layer axis."""
    embedding_key, head_key, block_key = jax.random.split(key, 3)
    d, vocabulary = config.d_model, config.vocab_size
    return {
        "embedding": jax.random.normal(embedding_key, (vocabulary, d)) / EMBEDDING_SCALE,
        "blocks": jax.vmap(lambda key: _init_block(config, key))(jax.random.split(block_key, config.layers)),
        "norm": jnp.ones((d,)),
        "head": jax.random.normal(head_key, (d, vocabulary)) * (HEAD_SCALE * d**-0.5),
    }


@cache
def _parameter_shapes(config: TransformerConfig) -> PyTree:
    return jax.eval_shape(lambda: init(config, jax.random.key(0)))


def init_state(config: TransformerConfig, batch: int) -> TransformerState:
    """The state before the first token: empty windows.

    Raises:
      ValueError: batch is no integer of at least 1.
    """
    check_batch(batch)
    one = init_window(batch, config.context, config.heads, config.d_model // config.heads)
    return TransformerState(jax.tree.map(lambda x: jnp.broadcast_to(x, (config.layers, *x.shape)), one))


def _attention(
    config: TransformerConfig, weights: PyTree, x: Float[Array, "b t d"], window: Window | None
) -> tuple[Float[Array, "b t d"], Window]:
    shape = (*x.shape[:2], config.heads, config.d_model // config.heads)
    query, key, value = (part.reshape(shape) for part in jnp.split(linear(x, weights["query_key_value"]), 3, axis=-1))
    mixed, window = sliding_window_attention(
        rms_norm(query, weights["query_norm"]) + weights["query_bias"][None, None],
        rms_norm(key, weights["key_norm"]) + weights["key_bias"][None, None],
        value,
        window,
        window=config.context,
        chunk=config.chunk,
        base=rotary_base(config),
    )
    return linear(mixed.reshape(x.shape), weights["out"]), window


def _feed_forward(weights: PyTree, x: Float[Array, "b t d"]) -> Float[Array, "b t d"]:
    """(x U * silu(x G)) D (Shazeer 2020, arXiv:2002.05202, equation 6)."""
    up, gate = jnp.split(linear(x, weights["up_gate"]), 2, axis=-1)
    return linear(up * jax.nn.silu(gate), weights["down"])


def features(
    config: TransformerConfig,
    params: PyTree,
    tokens: Int[Array | np.ndarray, "b t"],
    state: TransformerState | None = None,
) -> tuple[Float[Array, "b t d"], TransformerState]:
    """The normalised activations that the head reads, and the state after the last token.

    Raises:
      ValueError: the tokens are no integers [b, t], none, more than `context` or, where their values are known, outside the
        vocabulary; or parameters or state are another model's or batch's. Under `jit` a token outside gives NaN.
    """
    check_tokens(config, tokens)
    check_params(_parameter_shapes(config), params)
    check_state(jax.eval_shape(partial(init_state, config, tokens.shape[0])), state)
    # Unsigned, so that a negative token is as far outside as one that is too large, not the last but so many.
    embedded = jnp.take(params["embedding"], jnp.asarray(tokens).astype(jnp.uint32), axis=0)
    return features_of_embedded(config, params, embedded, state)


def features_of_embedded(
    config: TransformerConfig, params: PyTree, embedded: Float[Array, "b t d"], state: TransformerState | None = None
) -> tuple[Float[Array, "b t d"], TransformerState]:
    """What `features` gives, of tokens that the caller has embedded in a way of its own; it checks nothing.

    Args:
      config: of the model.
      params: parameters; the embedding among them is not looked at.
      embedded: as rows of the embedding are, to be multiplied by `EMBEDDING_SCALE`.
      state: where the last call stopped; None starts the sequences.
    """

    def layer(x: Array, inputs: tuple[PyTree, Window | None]) -> tuple[Array, Window]:
        weights, window = inputs
        mixed, window = _attention(config, weights, rms_norm(x, weights["attention_norm"]), window)
        x = x + mixed
        return x + _feed_forward(weights, rms_norm(x, weights["feed_forward_norm"])), window

    windows = None if state is None else state.windows
    x = embedded * EMBEDDING_SCALE
    # Few layers are unrolled: a scan costs a CPU a copy of every layer's weights each step.
    x, windows = jax.lax.scan(layer, x, (params["blocks"], windows), unroll=config.layers if config.layers <= 4 else 1)
    return rms_norm(x, params["norm"]), TransformerState(windows)


def apply(
    config: TransformerConfig,
    params: PyTree,
    tokens: Int[Array | np.ndarray, "b t"],
    state: TransformerState | None = None,
) -> tuple[Float[Array, "b t v"], TransformerState]:
    """Logits for the token after each given one, and the state after the last; `state=None` starts a sequence.

    Raises:
      ValueError: as for `features`.
    """
    x, state = features(config, params, tokens, state)
    return linear(x, params["head"]), state


def step(
    config: TransformerConfig, params: PyTree, token: Int[Array, " b"], state: TransformerState
) -> tuple[Float[Array, "b v"], TransformerState]:
    """One token: `apply` on a sequence of one.

    Raises:
      ValueError: the token is no integers [b], or as for `features`.
    """
    check_token(config, token)
    logits, state = apply(config, params, token[:, None], state)
    return logits[:, 0], state
