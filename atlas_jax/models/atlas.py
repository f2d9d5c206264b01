"""Atlas: language models whose memory goes on learning while they read (Titans, ATLAS and TNT as settings of one model).

embedding, n blocks of (memory with or beside sliding-window attention, SwiGLU feed-forward), norm, head. What a sequence has
taught the memories is the state: of constant size, saved, restored and copied like any array.

Source: Titans (arXiv:2501.00663), ATLAS (arXiv:2505.23735), TNT (arXiv:2511.07343); what is ours is said in `nn.memory`,
`nn.blocks` and the rules of `atlas_jax.memory`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from atlas_jax.models.atlas_config import PRESETS, AtlasConfig, memories  # noqa: F401 (a model offers its PRESETS)
from atlas_jax.models.checks import check_batch, check_params, check_state, check_token, check_tokens
from atlas_jax.nn import linear
from atlas_jax.nn.attention import init_window
from atlas_jax.nn.blocks import Block, BlockState, WindowAttention
from atlas_jax.nn.context import ContextState, MemoryAsContext, init_context_state
from atlas_jax.nn.memory import GateValues, MemoryLayer, init_layer_state
from atlas_jax.nn.neighbours import ALONE, Neighbours
from atlas_jax.nn.norms import rms_norm, sum_dtype
from atlas_jax.types import PyTree

# The embedding is stored small and multiplied up: with Adam's unit-size steps that is a higher learning rate for a table each of
# whose rows is seen rarely.
EMBEDDING_SCALE = 30.0
HEAD_SCALE = 0.1  # of the logits at the start
BRANCH_SCALE = 0.1  # of what all branches together add to the residual stream at the start, beside the embedding's 1


class AtlasState(NamedTuple):
    """What the model remembers: the state of every block, each array [n, ...]."""

    blocks: BlockState


def _block(config: AtlasConfig, neighbours: Neighbours = ALONE) -> Block:
    known, branch = memories(config), BRANCH_SCALE * (2 * config.layers) ** -0.5
    if config.block == "context":
        memory = MemoryAsContext(
            config.heads,
            known,
            config.persistent,
            known[0].chunk / (2 * np.pi),
            branch,
            config.expansion,
            config.degree,
            config.rate,
            config.features,
            neighbours,
        )
    else:
        last = branch if config.block == "memory" else 1.0  # elsewhere it is normalised
        memory = MemoryLayer(
            config.heads, known, config.expansion, config.degree, config.rate, config.features, last, neighbours
        )
    base, last = config.window / (2 * np.pi), branch if config.block == "layer" else 1.0
    attention = WindowAttention(config.heads, config.window, config.persistent, base, last, neighbours)
    return Block(config.block, memory, attention, config.feed_forward, branch)


def init(config: AtlasConfig, key: Array) -> PyTree:
    """Fresh float32 parameters; those of the blocks are stacked along a leading layer axis."""
    embedding_key, head_key, block_key = jax.random.split(key, 3)
    d, vocabulary = config.d_model, config.vocab_size
    example = jnp.zeros((1, 1, d))
    blocks = jax.vmap(lambda key: _block(config).init(key, example)["params"])(
        jax.random.split(block_key, config.layers)
    )
    params = {
        "embedding": jax.random.normal(embedding_key, (vocabulary, d)) / EMBEDDING_SCALE,
        "blocks": blocks,
        "norm": jnp.ones((d,)),
    }
    if not config.tied:
        params["head"] = jax.random.normal(head_key, (d, vocabulary)) * (HEAD_SCALE * d**-0.5)
    return params


def init_state(config: AtlasConfig, batch: int) -> AtlasState:
    """The state before the first token, zeros.

    Raises:
      ValueError: batch is no integer of at least 1.
    """
    check_batch(batch)
    one = _init_block_state(config, batch)
    return AtlasState(jax.tree.map(lambda x: jnp.broadcast_to(x, (config.layers, *x.shape)), one))


def _init_block_state(config: AtlasConfig, batch: int) -> BlockState:
    dtype = jnp.dtype(config.dtype)
    sizes = (memories(config), batch, config.heads, config.d_model, config.expansion, config.degree)
    if config.block == "context":
        return BlockState(init_context_state(*sizes), None)
    memory = init_layer_state(*sizes)
    window = None
    if config.block != "memory":
        window = init_window(batch, config.window, config.heads, config.d_model // config.heads)
    if config.dtype == "bfloat16":
        memory, window = (
            memory._replace(past=memory.past.astype(dtype)),
            jax.tree.map(lambda x: x.astype(dtype), window),
        )
    return BlockState(memory, window)


def features(
    config: AtlasConfig,
    params: PyTree,
    tokens: Int[Array | np.ndarray, "b t"],
    state: AtlasState | None = None,
    *,
    neighbours: Neighbours = ALONE,
) -> tuple[Float[Array, "b t d"], AtlasState]:
    """The normalised activations that the head reads, and the state after the last token.

    Args:
      config, params: of the model.
      tokens: a sequence, or one device's part of it.
      state: before the whole sequence; None starts it.
      neighbours: of the part, see `distributed.long_context`.

    Raises:
      ValueError: the tokens are no integers [b, t], none, more than `context` or, where their values are known, outside the
        vocabulary; or parameters or state are another model's or batch's. Under `jit` a token outside gives NaN.
    """
    x, (blocks,) = _layers(config, params, tokens, state, neighbours, Block.__call__)
    return rms_norm(x, params["norm"]), AtlasState(blocks)


def features_and_gates(
    config: AtlasConfig,
    params: PyTree,
    tokens: Int[Array | np.ndarray, "b t"],
    state: AtlasState | None = None,
    *,
    neighbours: Neighbours = ALONE,
) -> tuple[Float[Array, "b t d"], AtlasState, tuple[GateValues, ...]]:
    """`features`, and the gates that the same pass went through: a loss on them has a gradient.

    Returns:
      Activations, state, and for every memory of `memories` the gates [n, b, h, t] of all layers by kind, each 0 to 1: how much
      is forgotten ("forget"), the momentum, the share of the largest inner rate ("rate"), the strength in windows. Kinds
      that the rule does not read are left out.
    """
    x, (blocks, opened) = _layers(config, params, tokens, state, neighbours, Block.with_gates)
    return rms_norm(x, params["norm"]), AtlasState(blocks), opened


def _layers(
    config: AtlasConfig,
    params: PyTree,
    tokens: Array | np.ndarray,
    state: AtlasState | None,
    neighbours: Neighbours,
    method: Callable[..., Any],
) -> tuple[Float[Array, "b t d"], tuple[Any, ...]]:
    """The residual stream after all blocks, and of all blocks what a method of `Block` gives beside it."""
    check_tokens(config, tokens)
    check_params(_parameter_shapes(config), params)
    check_state(jax.eval_shape(partial(init_state, config, tokens.shape[0])), state)
    # Unsigned, so that a negative token is as far outside as one that is too large, not the last but so many.
    x = jnp.take(params["embedding"], jnp.asarray(tokens).astype(jnp.uint32), axis=0) * EMBEDDING_SCALE
    if config.dtype == "bfloat16":
        x = x.astype(jnp.bfloat16)
    block = _block(config, neighbours)

    def layer(x: Array, inputs: tuple[PyTree, BlockState | None]) -> tuple[Array, tuple[Any, ...]]:
        weights, before = inputs
        x, *beside = block.apply({"params": weights}, x, before, method=method)
        return x, tuple(beside)

    blocks = None if state is None else _in_chunks_of(config, state.blocks)
    body = jax.checkpoint(layer) if config.recompute else layer
    return jax.lax.scan(body, x, (params["blocks"], blocks))


@cache
def _parameter_shapes(config: AtlasConfig) -> PyTree:
    return jax.eval_shape(lambda: init(config, jax.random.key(0)))


def _in_chunks_of(config: AtlasConfig, state: BlockState) -> BlockState:
    """The state with the open chunks of memories where the config has them; as it is, if it comes from chunks of these sizes.

    From others a chunk might be open for longer than the new size, or over the end of a shard, which is only looked for where a
    chunk begins. Where there are shards, chunks are counted from where they begin; else the open one ends with the new size.
    """
    if isinstance(state.memory, ContextState):  # it has the size of the chunk
        return state
    known, found = memories(config), state.memory.memories
    age = None if known[-1].shard is None else found[-1].age  # the local memories come last, and are of equal age
    placed = tuple(
        memory._replace(phase=(memory.phase if age is None else age) % wanted.chunk)
        for wanted, memory in zip(known, found, strict=True)
    )
    return state._replace(memory=state.memory._replace(memories=placed))


def head_weights(config: AtlasConfig, params: PyTree) -> Float[Array, "d v"]:
    """Of the linear map from features to logits."""
    return params["embedding"].T if config.tied else params["head"]


def apply(
    config: AtlasConfig,
    params: PyTree,
    tokens: Int[Array | np.ndarray, "b t"],
    state: AtlasState | None = None,
    *,
    neighbours: Neighbours = ALONE,
) -> tuple[Float[Array, "b t v"], AtlasState]:
    """Logits for the token after each given one, and the state after the last; `state=None` starts a sequence.

    Args:
      config, params, tokens, state, neighbours: as for `features`.

    Raises:
      ValueError: as for `features`.
    """
    x, state = features(config, params, tokens, state, neighbours=neighbours)
    head = head_weights(config, params)
    return linear(x, head.astype(x.dtype)).astype(sum_dtype(x.dtype)), state


def step(
    config: AtlasConfig, params: PyTree, token: Int[Array, " b"], state: AtlasState
) -> tuple[Float[Array, "b v"], AtlasState]:
    """One token: `apply` on a sequence of one.

    Raises:
      ValueError: the token is no integers [b], or as for `features`.
    """
    check_token(config, token)
    logits, state = apply(config, params, token[:, None], state)
    return logits[:, 0], state
