"""The layer around memories that learn at test time: what they read, how fast they learn, and what is made of what they say.

inputs -> linear, short causal convolution -> keys, values, queries (keys and queries of length 1) and gates
       -> one memory or several, each a rule with its own chunks and shards (`atlas_jax.memory`), summed
       -> norm of every head, output gate, linear.

Several memories make the hierarchy of TNT: a global one with large chunks, and local ones with small chunks that begin anew
with every shard and read projected queries.

Source: Titans (arXiv:2501.00663) section 4.4, ATLAS (arXiv:2505.23735) section 6, TNT (arXiv:2511.07343) section 4. Gates are
bounded: 0 < alpha < 1, 0 < eta < 1, 0 < gamma < 1, 0 < theta < `rate`. Deviations: persistent tokens are not written into a
memory, whose trained first weights stand for what they would have taught it. Keys, values and queries are linear: Titans puts a
SiLU before the convolution, whose mostly positive keys resemble each other, so that what is learnt of one is said of all.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from atlas_jax.memory import sequence
from atlas_jax.memory.delta import GatedDelta
from atlas_jax.memory.features import feature_count, init_scales
from atlas_jax.memory.projection import init_persistent_keys, unit
from atlas_jax.memory.rule import Rule
from atlas_jax.memory.sequence import Beginning, MemoryConfig, MemoryState
from atlas_jax.memory.tokens import Gates, Tokens
from atlas_jax.nn.convolution import init_kernel, init_past, short_convolution
from atlas_jax.nn.linear import linear
from atlas_jax.nn.neighbours import ALONE, Neighbours
from atlas_jax.nn.norms import rms_norm, sum_dtype

Features = Literal["polynomial", "exponential"]
GateValues = dict[str, Float[Array, "..."]]  # by kind, the names of GATE_BIAS

CONVOLUTION = 4  # tokens wide
# Where gates start, before the sigmoid: a memory of about 50 tokens, momentum 1/2, half the largest rate, windows nearly full.
GATE_BIAS = {"forget": -4.0, "momentum": 0.0, "rate": 0.0, "strength": 2.0}


class LayerState(NamedTuple):
    """What a layer carries between two calls.

    Attributes:
      past: the last inputs of the convolution.
      memories: of every memory.
    """

    past: Float[Array, "b w d3"]
    memories: tuple[MemoryState, ...]


def split_heads(x: Float[Array, "b t d"], heads: int) -> Float[Array, "b h t k"]:
    """Channels dealt to heads."""
    return jnp.moveaxis(x.reshape(*x.shape[:2], heads, -1), 2, 1)


def join_heads(x: Float[Array, "b h t k"]) -> Float[Array, "b t d"]:
    """The channels of all heads side by side."""
    x = jnp.moveaxis(x, 1, 2)
    return x.reshape(*x.shape[:2], -1)


def init_gate_bias(heads: int, memories: int) -> Float[Array, " g"]:
    """Where the gates of some memories start: for each memory, for each of the four, a number a head."""
    return jnp.tile(jnp.repeat(jnp.array(list(GATE_BIAS.values())), heads), memories)


def gates_of(
    x: Float[Array, "b t d"],
    matrix: Float[Array, "d g"],
    bias: Float[Array, " g"],
    memories: tuple[MemoryConfig, ...],
    heads: int,
    rate: float,
) -> list[Gates]:
    """Gates of every memory, made of x, in float32 at least.

    Args:
      x: inputs.
      matrix, bias: in the order of `init_gate_bias`.
      memories: of the layer.
      heads: of every memory.
      rate: the largest theta.
    """
    raw = linear(x, matrix.astype(x.dtype)).astype(sum_dtype(x.dtype)) + bias[None, None]
    return [
        bounded_gates(part, heads, rate, windowed=config.rule.window > 1)
        for part, config in zip(jnp.split(raw, len(memories), axis=-1), memories, strict=True)
    ]


def bounded_gates(raw: Float[Array, "b t h4"], heads: int, rate: float, *, windowed: bool) -> Gates:
    """Gates [b, h, t] from unbounded numbers, four a head: forget, momentum, rate, strength.

    Args:
      raw: any numbers, biases added.
      heads: of the memory.
      rate: the largest theta.
      windowed: whether strengths mean something beside the rate; else they are 1.
    """
    forget, momentum, theta, strength = jnp.split(jnp.moveaxis(raw, -1, 1), 4, axis=1)
    return Gates(
        jax.nn.log_sigmoid(-forget),
        jax.nn.log_sigmoid(momentum),
        rate * jax.nn.sigmoid(theta),
        jax.nn.sigmoid(strength) if windowed else jnp.ones_like(strength),
    )


def gate_values(gates: Gates, rule: Rule, rate: float) -> GateValues:
    """How far open every gate that the rule reads is, 0 to 1, with a gradient: alpha, eta, theta / rate, gamma.

    Args:
      gates: of a memory, from `bounded_gates`.
      rule: of the memory. The delta rule has no momentum, and without a window strengths are no gates.
      rate: the largest theta.
    """
    values = {"forget": -jnp.expm1(gates.log_keep), "rate": gates.rate / rate}
    if not isinstance(rule, GatedDelta):
        values["momentum"] = jnp.exp(gates.log_momentum)
    if rule.window > 1:
        values["strength"] = gates.strength
    return values


def init_layer_state(
    memories: tuple[MemoryConfig, ...], batch: int, heads: int, d_model: int, expansion: int, degree: int | None
) -> LayerState:
    """The state before the first token: zeros, as every memory begins by itself.

    Args:
      memories: of the layer.
      batch: sequences.
      heads, d_model, expansion, degree: of the layer.
    """
    width = d_model // heads

    def one(config: MemoryConfig) -> MemoryState:
        beginning = init_beginning(config, jax.random.key(0), heads, width, expansion, degree)
        return sequence.init_state(config, beginning, batch, width=width, value_width=width)

    shapes = jax.eval_shape(lambda: tuple(one(config) for config in memories))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return LayerState(init_past(batch, CONVOLUTION, 3 * d_model), zeros)


def init_beginning(
    config: MemoryConfig,
    key: Array,
    heads: int,
    width: int,
    expansion: int,
    degree: int | None,
    features: Features = "polynomial",
) -> Beginning:
    """Fresh parameters that a memory begins with, float32.

    Args:
      config: of the memory.
      key: of the random numbers.
      heads: of the layer.
      width: of a key and a value.
      expansion: hidden channels of the memory's network, in widths.
      degree: of polynomial features; None: none.
      features: whose coefficients are trained; those of the "exponential" are fixed, see `with_coefficients`.
    """
    weights_key, persistent_key = jax.random.split(key)
    read = width if degree is None else feature_count(width, degree)
    network = config.rule.network
    weights = jax.vmap(lambda key: network.init(key, read, width, expansion * width))(
        jax.random.split(weights_key, heads)
    )
    scales = None
    if degree is not None and features == "polynomial":
        scales = jnp.tile(init_scales(degree), (heads, 1))
    persistent = None if config.projection is None else init_persistent_keys(persistent_key, heads, width)
    return Beginning(weights, scales, persistent)


def with_coefficients(beginning: Beginning, degree: int | None) -> Beginning:
    """The beginning with the coefficients of the exponential, in the dtype of the weights, where there are none to be trained.

    Args:
      beginning: parameters of a memory, as `init_beginning` made them.
      degree: of polynomial features; None: none, and the beginning as it is.
    """
    if degree is None or beginning.scales is not None:
        return beginning
    weights = next(iter(beginning.weights.values()))
    return beginning._replace(scales=jnp.tile(init_scales(degree, weights.dtype), (len(weights), 1)))


def check_layer(layer: Any, x: Float[Array, "b t d"]) -> None:
    """Refuses inputs that are none, and a layer that cannot be or that would be another one than was asked for.

    Args:
      layer: with heads, expansion, rate, degree and features.
      x: its inputs.

    Raises:
      ValueError: it names the field, or what the inputs are.
    """
    name = type(layer).__name__
    if x.ndim != 3 or 0 in x.shape or not jnp.issubdtype(x.dtype, jnp.floating):
        found = f"{x.dtype}{list(x.shape)}"
        raise ValueError(f"{name}: inputs are {found}, expected floats [batch, time, channels], at least one of each")
    for field in ("heads", "expansion"):
        if getattr(layer, field) < 1:
            raise ValueError(f"{name}.{field} is {getattr(layer, field)}, expected at least 1")
    if x.shape[-1] % layer.heads:
        raise ValueError(f"{name}: inputs have {x.shape[-1]} channels, expected a multiple of heads = {layer.heads}")
    if not layer.rate > 0:
        raise ValueError(f"{name}.rate is {layer.rate}, expected more than 0")
    if layer.features not in get_args(Features):
        raise ValueError(f"{name}.features is {layer.features!r}, expected one of {', '.join(get_args(Features))}")
    if layer.features == "exponential" and layer.degree is None:
        raise ValueError(f"{name}.degree is None, expected 1, 2 or 3 for the features 'exponential'")


class MemoryLayer(nn.Module):
    """Memories that learn from the sequence they read; see the top of this file.

    Attributes:
      heads: of every memory.
      memories: configurations; their outputs are summed.
      expansion: hidden channels of a memory's network, in widths of a head.
      degree: of polynomial features of keys and queries, 1 to 3; None: none.
      rate: the largest theta.
      features: "polynomial", with trained coefficients, or "exponential", with those of its series.
      scale: of what the layer gives at the start.
      neighbours: where what came before the inputs is found.
    """

    heads: int
    memories: tuple[MemoryConfig, ...]
    expansion: int = 4
    degree: int | None = None
    rate: float = 0.03
    features: Features = "polynomial"
    scale: float = 1.0
    neighbours: Neighbours = ALONE

    def _matrix(self, name: str, rows: int, columns: int, scale: float = 1.0) -> Array:
        return self.param(name, nn.initializers.normal(scale * rows**-0.5), (rows, columns))

    def _tokens(
        self, x: Float[Array, "b t d"], past: Float[Array, "b w d3"] | None
    ) -> tuple[tuple[Array, Array, Array], Float[Array, "b w d3"]]:
        """Queries, keys and values [b, h, t, k], in float32 at least, and the convolution's last inputs."""
        d = x.shape[-1]
        mixed = linear(x, self._matrix("query_key_value", d, 3 * d).astype(x.dtype))
        kernel = self.param("convolution", init_kernel, (CONVOLUTION, 3 * d))
        before = self.neighbours.inputs_before(mixed, CONVOLUTION - 1, past)
        mixed, past = short_convolution(mixed, kernel, before)
        parts = (split_heads(part, self.heads) for part in jnp.split(mixed.astype(sum_dtype(x.dtype)), 3, axis=-1))
        query, key, value = parts
        return (unit(query), unit(key), value), past

    def _gates(self, x: Float[Array, "b t d"]) -> list[Gates]:
        """Of every memory."""
        matrix = self._matrix("gates", x.shape[-1], 4 * self.heads * len(self.memories), 0.1)
        bias = self.param("gate_bias", lambda key: init_gate_bias(self.heads, len(self.memories)))
        return gates_of(x, matrix, bias, self.memories, self.heads, self.rate)

    def __call__(
        self, x: Float[Array, "b t d"], state: LayerState | None = None
    ) -> tuple[Float[Array, "b t d"], LayerState]:
        """Reads and learns a stretch.

        Args:
          x: inputs.
          state: where an earlier call stopped; None at the start of a sequence.

        Returns:
          What the memories say of every token, and the state after the last.

        Raises:
          ValueError: a field, the inputs or the state do not fit; it names them.
        """
        said, state, _ = self.with_gates(x, state)
        return said, state

    @nn.compact
    def with_gates(
        self, x: Float[Array, "b t d"], state: LayerState | None = None
    ) -> tuple[Float[Array, "b t d"], LayerState, tuple[GateValues, ...]]:
        """What a call gives, and the gates [b, h, t] of every memory that it went through."""
        check_layer(self, x)
        if not self.memories:
            raise ValueError("MemoryLayer.memories is (), expected at least one")
        if state is not None and len(state.memories) != len(self.memories):
            raise ValueError(
                f"state is of {len(state.memories)} memories, expected {len(self.memories)} as the layer has"
            )
        d, width = x.shape[-1], x.shape[-1] // self.heads
        (query, key, value), past = self._tokens(x, None if state is None else state.past)
        said, after, opened = jnp.zeros_like(value), [], []
        for i, (config, gates) in enumerate(zip(self.memories, self._gates(x), strict=True)):
            beginning = self.param(
                f"memory_{i}",
                lambda key, c=config: init_beginning(
                    c, key, self.heads, width, self.expansion, self.degree, self.features
                ),
            )
            before = None if state is None else state.memories[i]
            learn = partial(sequence.run, config, with_coefficients(beginning, self.degree))
            outputs, last = self.neighbours.go_on(learn, Tokens(query, key, value, gates), before, config.shard)
            said, after = said + outputs, [*after, last]
            opened.append(gate_values(gates, config.rule, self.rate))
        scale = self.param("norm", nn.initializers.ones, (width,))
        normed = join_heads(rms_norm(said, scale)).astype(x.dtype)
        gated = normed * jax.nn.silu(linear(x, self._matrix("output_gate", d, d).astype(x.dtype)))
        out = self._matrix("out", d, d, self.scale)
        return linear(gated, out.astype(x.dtype)), LayerState(past, tuple(after)), tuple(opened)
