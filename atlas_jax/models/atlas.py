"""Atlas: language models whose memory goes on learning while they read (Titans, ATLAS and TNT as settings of one model).

embedding, n blocks of (memory with or beside sliding-window attention, SwiGLU feed-forward), norm, head. What a sequence has
taught the memories is the state: of constant size, saved, restored and copied like any array.

Source: Titans (arXiv:2501.00663), ATLAS (arXiv:2505.23735), TNT (arXiv:2511.07343); what is ours is said in `nn.memory`,
`nn.blocks` and the rules of `atlas_jax.memory`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from math import factorial
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from atlas_jax.memory.delta import GatedDelta
from atlas_jax.memory.dual import Descent
from atlas_jax.memory.features import DEGREES
from atlas_jax.memory.gradients import Loss
from atlas_jax.memory.networks import NETWORKS
from atlas_jax.memory.one_step import OneStep
from atlas_jax.memory.rule import Rule
from atlas_jax.memory.sequence import MemoryConfig
from atlas_jax.models.checks import check_state, check_tokens
from atlas_jax.nn import linear
from atlas_jax.nn.attention import init_window
from atlas_jax.nn.blocks import Block, BlockState, Kind, WindowAttention
from atlas_jax.nn.context import MemoryAsContext, context_memory, init_context_state
from atlas_jax.nn.memory import Features, GateValues, MemoryLayer, init_layer_state
from atlas_jax.nn.neighbours import ALONE, Neighbours
from atlas_jax.nn.norms import rms_norm, sum_dtype
from atlas_jax.types import PyTree

RuleName = Literal["descent", "muon", "lact", "delta"]
NetworkName = Literal["linear", "mlp", "gated mlp"]

# The embedding is stored small and multiplied up: with Adam's unit-size steps that is a higher learning rate for a table each of
# whose rows is seen rarely.
EMBEDDING_SCALE = 30.0
HEAD_SCALE = 0.1  # of the logits at the start
DELTA_LIMIT = 2.0  # of rate |phi(k)|^2, see `memory.delta`
BRANCH_SCALE = 0.1  # of what all branches together add to the residual stream at the start, beside the embedding's 1


@dataclass(frozen=True)
class AtlasConfig:
    """Sizes and rules of one model; static under jit.

    Lengths are tokens. `chunks`: between two steps of a memory's starting weights; `shard`: after which the memories of `chunks`
    begin anew; `omega_window`: whose losses each update descends; `window`: that attention sees.

    Attributes:
      vocab_size: tokens known to the embedding and the head.
      d_model: width; a multiple of twice `heads`, as rotary embeddings turn pairs of channels.
      layers: blocks.
      heads: of attention and of every memory.
      feed_forward: inner width of the feed-forward, in channels.
      context: longest sequence of one call.
      block: "memory", the memory alone; "gate", attention x memory; "layer", attention over what the memory says; "context",
        attention over segments (the chunk of the only memory, a "descent" without shards) with what the memory says of them.
      window: of attention; of no meaning for "memory" and "context".
      persistent: tokens that attention always sees.
      rule: how memories learn: "descent" is Titans (or the Omega rule, with omega_window > 1), "muon" Atlas, "lact" LaCT, "delta"
        Gated DeltaNet.
      network: of the memories; "delta" is linear.
      loss: that "descent" and "muon" descend.
      omega_window: of "descent" and "muon".
      chunks: of every local memory, one memory each.
      shard: of the local memories; a multiple of every chunk, None never.
      global_chunk: of one more memory, that goes on over shards; a divisor of shard, so that no past token is hidden from both.
        None: no such memory.
      projection: of the queries of local memories, "norm_sum", "per_key" or None.
      expansion: hidden channels of a memory's network, in widths of a head.
      degree: of polynomial features of keys and queries, 1 to 3; None: none.
      features: "polynomial", with trained coefficients, or "exponential", with those of exp(q . k) cut off after `degree`,
        the only ones with which "delta" is stable whatever is trained.
      rate: the largest inner learning rate. All gradients of a chunk are taken at the same weights, so those of similar keys add
        up: an Omega window of 4 tokens wants about a quarter of what Titans bears.
      tied: whether the head is the embedding.
      recompute: whether the backward pass computes each block again instead of keeping its inner activations.
      dtype: of activations and of the factors of products in memories ("delta" has float32 ones), "float32" or "bfloat16";
        parameters, the weights of memories and logits are float32 in both.

    Raises:
      ValueError: a size is not positive, one is no multiple of another that it must be, or a name is unknown.
    """

    vocab_size: int = 1024
    d_model: int = 32
    layers: int = 2
    heads: int = 2
    feed_forward: int = 64
    context: int = 128
    block: Kind = "memory"
    window: int = 16
    persistent: int = 4
    rule: RuleName = "descent"
    network: NetworkName = "mlp"
    loss: Loss = "l2"
    omega_window: int = 1
    chunks: tuple[int, ...] = (16,)
    shard: int | None = None
    global_chunk: int | None = None
    projection: str | None = None
    expansion: int = 4
    degree: int | None = None
    features: Features = "polynomial"
    rate: float = 0.03
    tied: bool = False
    recompute: bool = False
    dtype: str = "float32"

    def __post_init__(self) -> None:
        for name in ("vocab_size", "d_model", "layers", "heads", "feed_forward", "context", "window", "expansion"):
            if getattr(self, name) < 1:
                raise ValueError(f"AtlasConfig.{name} is {getattr(self, name)}, expected at least 1")
        if self.persistent < 0:
            raise ValueError(f"AtlasConfig.persistent is {self.persistent}, expected at least 0")
        if self.d_model % (2 * self.heads):
            raise ValueError(
                f"AtlasConfig.d_model is {self.d_model}, expected a multiple of 2 heads = {2 * self.heads}"
            )
        names_of = {"block": get_args(Kind), "rule": get_args(RuleName), "dtype": ("float32", "bfloat16")}
        for name, names in (names_of | {"degree": (None, *DEGREES), "features": get_args(Features)}).items():
            if getattr(self, name) not in names:
                raise ValueError(
                    f"AtlasConfig.{name} is {getattr(self, name)!r}, expected one of {', '.join(map(str, names))}"
                )
        if self.features == "exponential" and self.degree is None:
            raise ValueError("AtlasConfig.degree is None, expected 1, 2 or 3 for the features 'exponential'")
        _check_rule(self)
        if not self.chunks and self.global_chunk is None:
            raise ValueError("AtlasConfig.chunks is (), expected at least one chunk where there is no global_chunk")
        if self.global_chunk is not None and (self.shard is None or self.shard % self.global_chunk):
            raise ValueError(
                f"AtlasConfig.global_chunk is {self.global_chunk}, expected a divisor of shard = {self.shard}"
            )
        known = memories(self)
        if self.block == "context":
            context_memory(known)


def _check_rule(config: AtlasConfig) -> None:
    """Refuses a rule that cannot have this network, or a rate that it cannot bear."""
    if not config.rate > 0:
        raise ValueError(f"AtlasConfig.rate is {config.rate}, expected more than 0")
    if config.rule != "delta":
        return
    if config.network != "linear":
        raise ValueError(f"AtlasConfig.network is {config.network!r}, expected 'linear' for the rule 'delta'")
    if config.degree is not None and config.features == "polynomial":
        raise ValueError(
            "AtlasConfig.features is 'polynomial', expected 'exponential' for the rule 'delta' with a degree, whose memory could "
            "grow without bound as coefficients are trained"
        )
    length = sum(1 / factorial(i) for i in range(config.degree + 1)) if config.degree else 1.0  # |phi(k)|^2
    if config.rate * length > DELTA_LIMIT:
        raise ValueError(
            f"AtlasConfig.rate is {config.rate}, expected at most {DELTA_LIMIT / length:.3g} for the rule 'delta', whose memory "
            "could grow without bound"
        )


class AtlasState(NamedTuple):
    """What the model remembers: the state of every block, each array [n, ...]."""

    blocks: BlockState


def rule_of(config: AtlasConfig) -> Rule:
    """How the memories learn."""
    network, factors = NETWORKS[config.network], "bfloat16" if config.dtype == "bfloat16" else None
    if config.rule == "delta":
        return GatedDelta()
    if config.rule == "muon":
        return replace(OneStep.atlas(network, config.omega_window), loss=config.loss, dtype=factors)
    if config.rule == "lact":
        return replace(OneStep.lact(network), dtype=factors)
    return Descent(network, config.omega_window, config.loss, dtype=factors)


def memories(config: AtlasConfig) -> tuple[MemoryConfig, ...]:
    """The memories of every layer: the global one first, if there is one, then the local ones."""
    rule = rule_of(config)
    local = tuple(MemoryConfig(rule, chunk, config.shard, config.projection) for chunk in config.chunks)
    return local if config.global_chunk is None else (MemoryConfig(rule, config.global_chunk), *local)


_MICRO = AtlasConfig(tied=True)
_LARGE = AtlasConfig(
    vocab_size=32000,
    feed_forward=1116,
    context=8192,
    block="gate",
    window=64,
    persistent=16,
    chunks=(64,),
    omega_window=4,
    rate=0.01,
    tied=True,
    recompute=True,
)
PRESETS = {
    "micro": _MICRO,
    "micro-gate": replace(_MICRO, block="gate", omega_window=3, degree=2, network="linear"),
    "micro-tnt": replace(_MICRO, chunks=(4, 8), shard=16, global_chunk=16, projection="norm_sum"),
    "micro-muon": replace(_MICRO, block="layer", rule="muon", network="gated mlp", chunks=(8,)),
    "micro-context": replace(_MICRO, block="context", chunks=(8,), omega_window=2),
    "42.6m": replace(_LARGE, d_model=512, layers=6, heads=8),
    "124.7m": replace(_LARGE, d_model=768, layers=12, heads=12),
}


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
    """The state before the first token, zeros."""
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
      ValueError: the tokens are no integers [b, t], more than `context`, or the state is another model's or batch's.
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
    check_state(jax.eval_shape(partial(init_state, config, tokens.shape[0])), state)
    x = jnp.take(params["embedding"], tokens, axis=0) * EMBEDDING_SCALE
    if config.dtype == "bfloat16":
        x = x.astype(jnp.bfloat16)
    block = _block(config, neighbours)

    def layer(x: Array, inputs: tuple[PyTree, BlockState | None]) -> tuple[Array, tuple[Any, ...]]:
        weights, before = inputs
        x, *beside = block.apply({"params": weights}, x, before, method=method)
        return x, tuple(beside)

    blocks = None if state is None else state.blocks
    body = jax.checkpoint(layer) if config.recompute else layer
    return jax.lax.scan(body, x, (params["blocks"], blocks))


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
    """One token: `apply` on a sequence of one."""
    logits, state = apply(config, params, token[:, None], state)
    return logits[:, 0], state
