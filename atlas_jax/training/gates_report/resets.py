"""What a shard's end does to local memories, looked at in a trained model on a real text: gates G2-3 and G2-7."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from atlas_jax.memory.projection import persistent_state
from atlas_jax.memory.sequence import MemoryState
from atlas_jax.models import atlas
from atlas_jax.models.atlas import AtlasConfig, AtlasState
from atlas_jax.training.gates_report.gate import Gate
from atlas_jax.training.gates_report.once import once
from atlas_jax.training.losses import cross_entropy
from atlas_jax.training.memories.first_weights import local_names, with_first_weights

KEY_ERROR = 1e-3  # in keys: a key has length 1, float32 sums of some hundred keep 1e-5
GRADIENT_ERROR = 1e-3  # relative, of float32 gradients summed in two orders
Text = tuple[Int[Array, "b t"], Int[Array, "b t"]]  # inputs and targets
PRESET = "micro-tnt"  # that has all that these gates ask about


class Opening(NamedTuple):
    """What the projections hold around the end of a shard, and how far that is from what they should.

    The state before a shard's first token is not kept anywhere; after it the sums are those of the persistent keys and one
    more key of length 1. Less the persistent keys' they are a projector on one direction and the number 1.

    Attributes:
      place: tokens read before the shard began.
      filled: keys in the sums, less the persistent ones', when the shard before it ended; 0 at the start of a text.
      numerator: largest distance of M - M_persistent from such a projector, over layers, heads and sequences.
      denominator: largest distance of norm_sum - norm_persistent from 1.
    """

    place: int
    filled: float
    numerator: float
    denominator: float


def _missing(config: AtlasConfig) -> str | None:
    """What a model lacks so that the ends of shards can be looked at; None: nothing."""
    shard, context = config.shard, config.context
    if shard is None or not config.chunks:
        return "the model has no local memories with a shard, so that nothing is ever reset"
    if not 2 <= shard <= context // 2:
        return f"shards are {shard} tokens and a sequence {context}: no second shard is ever trained on"
    return None


def _memories(state: AtlasState) -> tuple[MemoryState, ...]:
    blocks: Any = state.blocks
    return blocks.memory.memories


def _sums(
    config: AtlasConfig, params: PyTree, state: AtlasState
) -> list[tuple[Float[np.ndarray, "n b h k k"], Float[np.ndarray, "n b h"]]]:
    """Numerator and denominator of every local memory less those of its persistent keys, float64."""
    found = []
    layers = params["blocks"]["memory"]
    for name, memory in zip(local_names(config), _memories(state)[-len(config.chunks) :], strict=True):
        projection: Any = memory.projection
        batch = projection.norm_sum.shape[1]
        always = jax.vmap(lambda keys, b=batch: persistent_state(keys, b, str(config.projection)))(
            layers[name].persistent
        )
        pairs = zip(projection, always, strict=True)
        found.append(tuple(np.asarray(now, np.float64) - np.asarray(first, np.float64) for now, first in pairs))
    return found


def openings(config: AtlasConfig, params: PyTree, tokens: Int[np.ndarray, "b t"]) -> list[Opening]:
    """Reads a text shard after shard with the state carried, and looks at the first token of each.

    Args:
      config, params: of a model with local memories, shards and a projection.
      tokens: one context of each sequence; what is no whole shard at its end is not read.
    """
    shard = config.shard or 0
    read = once(lambda params, tokens, state: atlas.features(config, params, tokens, state)[1])
    state, filled, found = atlas.init_state(config, tokens.shape[0]), 0.0, []
    for place in range(0, config.context // shard * shard, shard):
        sums = _sums(config, params, read(params, tokens[:, place : place + 1], state))
        one_direction = max(float(np.abs(m @ m - m).max()) for m, _ in sums)
        one_key = max(float(np.abs(np.trace(m, axis1=-2, axis2=-1) - 1).max()) for m, _ in sums)
        denominator = max(float(np.abs(n - 1).max()) for _, n in sums)
        found.append(Opening(place, filled, max(one_direction, one_key), denominator))
        state = read(params, tokens[:, place : place + shard], state)
        filled = _filled(_sums(config, params, state))
    return found


def _filled(sums: list[tuple[np.ndarray, np.ndarray]]) -> float:
    return min(float(n.min()) for _, n in sums)


def filled_at_once(config: AtlasConfig, params: PyTree, tokens: Int[np.ndarray, "b t"]) -> float:
    """Keys beside the persistent ones where several shards, read side by side as training does, end: those of the last alone.

    Args:
      config, params: as for `openings`.
      tokens: whole shards.
    """
    state = once(lambda params, tokens: atlas.features(config, params, tokens)[1])(params, tokens)
    sums = _sums(config, params, state)
    ends = [float(n) for _, norms in sums for n in (norms.min(), norms.max())]
    return max(ends, key=lambda n: abs(n - (config.shard or 0)))


def projection_gate(config: AtlasConfig, params: PyTree, tokens: Int[np.ndarray, "b t"]) -> Gate:
    """G2-3: numerator and denominator of every local memory are the persistent keys' at the start and after every reset.

    Args:
      config, params: of the trained model.
      tokens: real text, one context of each sequence.
    """
    expected = (
        "M and norm_sum those of the persistent keys, and one key more after the first token, where a text and each shard "
        f"begin, to {KEY_ERROR:g} of a key"
    )
    about = partial(Gate, "G2-3", "persistent keys at every reset", expected=expected)
    lacking = "the model has no projection" if config.projection is None else _missing(config)
    if lacking is not None:
        return about(passed=False, measured={}, text=f"{lacking}; choose --preset {PRESET}")
    shard = config.shard or 0
    found, beside = openings(config, params, tokens), filled_at_once(config, params, tokens[:, : 2 * shard])
    layers = params["blocks"]["memory"]
    least = min(
        float(jnp.min(jnp.sum(jnp.square(layers[name].persistent), axis=(-2, -1)))) for name in local_names(config)
    )
    numerator, denominator = max(one.numerator for one in found), max(one.denominator for one in found)
    # A shard that filled nothing would have nothing to reset.
    held = [*(one.filled for one in found if one.place), beside]
    full = all(abs(keys - shard) <= KEY_ERROR * shard for keys in held)
    return about(
        passed=bool(numerator <= KEY_ERROR and denominator <= KEY_ERROR and full and least > 0),
        measured={
            "openings": [one._asdict() for one in found],
            "filled_at_once": beside,
            "norm_persistent": least,
            "numerator": numerator,
            "denominator": denominator,
        },
        text=(
            f"M off by {numerator:.2g} and norm_sum by {denominator:.2g} keys (resets: {len(found) - 1}, local memories: "
            f"{len(config.chunks)}, layers: {config.layers}); at the end of a shard of {shard} tokens they hold {min(held):.1f} "
            "keys more than the persistent ones"
        ),
    )


class Crossing(NamedTuple):
    """What gradients do at the boundary between two shards.

    Attributes:
      local: largest derivative of the second shard's loss by the local memories' state, by the name of its part.
      of_global: the largest by the weights of the global memory, in the layer where it is least.
      parts: norms of the gradients of first weights through the first and through the second shard.
      error: distance of their sum from the gradient of one pass over both, relative to it; of the memory where it is largest.
    """

    local: dict[str, float]
    of_global: float
    parts: tuple[float, float]
    error: float


def crossing(config: AtlasConfig, params: PyTree, tokens: Int[np.ndarray, "b t_plus_1"]) -> Crossing:
    """Gradients of the loss of two shards of a text.

    Args:
      config, params: of a model with local memories, shards and a global memory.
      tokens: at least two shards and a token of each sequence.
    """
    shard = config.shard or 0
    halves = [(tokens[:, i : i + shard], tokens[:, i + 1 : i + shard + 1]) for i in (0, shard)]
    both = (tokens[:, : 2 * shard], tokens[:, 1 : 2 * shard + 1])

    def loss(weights: PyTree, params: PyTree, text: Text, state: AtlasState | None) -> tuple[Array, AtlasState]:
        """Of a text, with these first weights of the local memories, and the state after it."""
        params = with_first_weights(config, params, weights)
        x, state = atlas.features(config, params, text[0], state)
        return jnp.sum(cross_entropy(x, atlas.head_weights(config, params), text[1])), state

    def of_first(weights: PyTree, params: PyTree, text: Text, later: list[Array]) -> Array:
        """The first shard's loss, and the second's as far as it goes by the state between them."""
        found, state = loss(weights, params, text, None)
        return found + sum(jnp.vdot(by, leaf) for by, leaf in zip(later, _floats(state), strict=True))

    weights = tuple(params["blocks"]["memory"][name].weights for name in local_names(config))
    state = once(lambda params, text: atlas.features(config, params, text)[1])(params, halves[0][0])
    by_second = jax.grad(lambda w, state, params, text: loss(w, params, text, state)[0], argnums=(0, 1), allow_int=True)
    second, by_state = once(by_second)(weights, state, params, halves[1])
    first = once(jax.grad(of_first))(weights, params, halves[0], _floats(by_state))
    whole = once(jax.grad(lambda weights, params, text: loss(weights, params, text, None)[0]))(weights, params, both)
    by_memory = _memories(by_state)
    errors = [
        _norm(jax.tree.map(lambda a, b, c: a - b - c, *three)) / max(_norm(three[0]), np.finfo(np.float32).tiny)
        for three in zip(whole, first, second, strict=True)
    ]
    return Crossing(
        local=_felt(by_memory[-len(config.chunks) :]),
        of_global=_least_of_layers(by_memory[0].heads.weights),
        parts=(_norm(first), _norm(second)),
        error=float(max(errors)),
    )


def _floats(tree: PyTree) -> list[Array]:
    """Leaves that have derivatives; what counts tokens has none."""
    return [
        leaf
        for leaf in jax.tree.leaves(tree)
        if leaf.dtype != jax.dtypes.float0 and jnp.issubdtype(leaf.dtype, jnp.floating)
    ]


def _felt(memories: tuple[MemoryState, ...]) -> dict[str, float]:
    """Largest derivative by name; what counts tokens has none, and the past of a window of 1 is empty."""
    leaves = jax.tree_util.tree_leaves_with_path(memories)
    return {
        jax.tree_util.keystr(path): float(jnp.abs(leaf).max())
        for path, leaf in leaves
        if leaf.dtype != jax.dtypes.float0 and leaf.size
    }


def _least_of_layers(weights: PyTree) -> float:
    by_layer = [np.abs(np.asarray(leaf)).reshape(len(leaf), -1).max(axis=1) for leaf in jax.tree.leaves(weights)]
    return float(np.max(by_layer, axis=0).min())


def _norm(tree: PyTree) -> float:
    return float(np.sqrt(sum(np.square(np.asarray(leaf, np.float64)).sum() for leaf in jax.tree.leaves(tree))))


_of_gradients = partial(
    Gate,
    "G2-7",
    "gradients at a shard's end",
    expected=(
        "by the carried local state exactly 0, by the global memory in every layer not 0, of first weights the sum over two "
        f"shards to {GRADIENT_ERROR:g} of it, both parts not 0"
    ),
)


def gradient_gate(config: AtlasConfig, params: PyTree, tokens: Int[np.ndarray, "b t_plus_1"]) -> Gate:
    """G2-7: no gradient by the local state crosses a shard's end, one by the global memory does, first weights get the sum.

    Args:
      config, params: of the trained model; activations are float32 here, so that the sum is held to rounding.
      tokens: real text, two shards and a token of each sequence.
    """
    lacking = "the model has no global memory" if config.global_chunk is None else _missing(config)
    if lacking is not None:
        return _of_gradients(passed=False, measured={}, text=f"{lacking}; choose --preset {PRESET}")
    return crossing_gate(crossing(replace(config, dtype="float32"), params, tokens))


def crossing_gate(found: Crossing) -> Gate:
    """The same of what was found."""
    local = max(found.local.values())
    right = local == 0 and found.of_global > 0 and min(found.parts) > 0 and found.error <= GRADIENT_ERROR
    return _of_gradients(
        passed=bool(right),
        measured={**found._asdict(), "parts": list(found.parts), "local_parts": len(found.local)},
        text=(
            f"by {len(found.local)} parts of the local state at most {local:.2g}, by the global memory at least "
            f"{found.of_global:.2g} (largest of a layer); of first weights {found.parts[0]:.3g} through one shard, "
            f"{found.parts[1]:.3g} through the next, their sum off by {found.error:.2g}"
        ),
    )
