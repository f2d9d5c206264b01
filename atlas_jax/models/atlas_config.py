"""The settings of one Atlas model, what they refuse, and the named ones.

Titans, ATLAS and TNT, Gated DeltaNet and LaCT are settings; the model itself is `atlas`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import factorial
from typing import Literal, get_args

import numpy as np

from atlas_jax.memory.delta import GatedDelta
from atlas_jax.memory.dual import Descent
from atlas_jax.memory.features import DEGREES
from atlas_jax.memory.gradients import Loss
from atlas_jax.memory.networks import NETWORKS
from atlas_jax.memory.one_step import OneStep
from atlas_jax.memory.rule import Rule
from atlas_jax.memory.sequence import MemoryConfig
from atlas_jax.models.checks import is_integer
from atlas_jax.models.registry import Presets
from atlas_jax.nn.blocks import Kind
from atlas_jax.nn.context import context_memory
from atlas_jax.nn.memory import Features

RuleName = Literal["descent", "muon", "lact", "delta"]
NetworkName = Literal["linear", "mlp", "gated mlp"]

DELTA_LIMIT = 2.0  # of rate |phi(k)|^2, see `memory.delta`


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
      chunks: of every local memory, one memory each. They may change between two calls, of the same parameters and state,
        but for "context", whose state holds a segment.
      shard: of the local memories; a multiple of every chunk, None never.
      global_chunk: of one more memory, that goes on over shards; a divisor of shard, so that no past token is hidden from both.
        None: no such memory.
      tile: tokens of a longer chunk that are multiplied with one another at once, see `memory.sequence`; for speed and memory
        alone, and not for "context".
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
      ValueError: a size is no positive integer, one is no multiple of another that it must be, or a name is unknown.
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
    tile: int = 64
    projection: str | None = None
    expansion: int = 4
    degree: int | None = None
    features: Features = "polynomial"
    rate: float = 0.03
    tied: bool = False
    recompute: bool = False
    dtype: str = "float32"

    def __post_init__(self) -> None:
        _check_sizes(self)
        if self.d_model % (2 * self.heads):
            raise ValueError(
                f"AtlasConfig.d_model is {self.d_model}, expected a multiple of 2 heads = {2 * self.heads}"
            )
        names_of = {
            "block": get_args(Kind),
            "rule": get_args(RuleName),
            "network": get_args(NetworkName),
            "loss": get_args(Loss),
            "degree": (None, *DEGREES),
            "features": get_args(Features),
            "dtype": ("float32", "bfloat16"),
        }
        for name, names in names_of.items():
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


def _check_sizes(config: AtlasConfig) -> None:
    """Refuses what is no number of channels, tokens or things."""
    sizes = ("vocab_size", "d_model", "layers", "heads", "feed_forward", "context", "expansion")
    lengths = ("window", "omega_window", "tile", "shard", "global_chunk")
    for name, smallest in (dict.fromkeys((*sizes, *lengths, "degree"), 1) | {"persistent": 0}).items():
        value: int = getattr(config, name)
        if value is None and name in {"shard", "global_chunk", "degree"}:
            continue
        if not is_integer(value):
            raise ValueError(f"AtlasConfig.{name} is {value!r}, expected an integer")
        if value < smallest:
            raise ValueError(f"AtlasConfig.{name} is {value}, expected at least {smallest}")
    if not isinstance(config.chunks, tuple) or not all(is_integer(chunk) and chunk > 0 for chunk in config.chunks):
        raise ValueError(f"AtlasConfig.chunks is {config.chunks!r}, expected a tuple of integers of at least 1")


def _check_rule(config: AtlasConfig) -> None:
    """Refuses a rule that cannot have this network, or a rate that it cannot bear."""
    if not isinstance(config.rate, int | float | np.floating) or not 0 < config.rate < np.inf:
        raise ValueError(f"AtlasConfig.rate is {config.rate!r}, expected a finite number of more than 0")
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
    rule, tile = rule_of(config), config.tile
    local = tuple(MemoryConfig(rule, chunk, config.shard, config.projection, tile=tile) for chunk in config.chunks)
    return local if config.global_chunk is None else (MemoryConfig(rule, config.global_chunk, tile=tile), *local)


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
PRESETS = Presets(
    {
        "micro": _MICRO,
        "micro-gate": replace(_MICRO, block="gate", omega_window=3, degree=2, network="linear"),
        "micro-tnt": replace(_MICRO, chunks=(4, 8), shard=16, global_chunk=16, projection="norm_sum"),
        "micro-muon": replace(_MICRO, block="layer", rule="muon", network="gated mlp", chunks=(8,)),
        "micro-context": replace(_MICRO, block="context", chunks=(8,), omega_window=2),
        "42.6m": replace(_LARGE, d_model=512, layers=6, heads=8),
        "124.7m": replace(_LARGE, d_model=768, layers=12, heads=12),
    }
)
