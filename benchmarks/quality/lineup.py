"""The models whose memories are compared: kinds of Atlas, a transformer of a short window and one that sees everything.

All of one line-up have equal parameters (the feed-forward makes up for what a memory takes) and, but for the transformer that
sees everything, about equal bytes of state: a layer keeps about `STATE` numbers, in the weights of memories, those that the open
chunk began with and momentum, or in a window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from atlas_jax.models import atlas, transformer
from atlas_jax.nn import linear
from benchmarks.quality.sizes import parameters_of, with_parameters
from benchmarks.quality.transformers import SEES_A_WINDOW, SEES_EVERYTHING
from benchmarks.quality.trials import Contestant

WIDTH, LAYERS, FEED_FORWARD = 32, 2, 64  # of the first model; parameters of the others are brought to its
STATE = 1792  # numbers a layer, within about a fifth
WINDOW = STATE // (2 * WIDTH)  # keys and values
CHUNK = 16  # of memories where a task asks for no other
SHARD = 64
EVERYTHING = "attention"  # the transformer that sees everything: the peer, whose state grows with the text


class Kind(NamedTuple):
    """One model of the line-up.

    Attributes:
      config: its sizes; vocabulary, context, chunks and feed-forward are set for the task.
      any_chunk: whether it is compared at several chunks: what it says depends on them, and any can be set.
    """

    config: atlas.AtlasConfig | transformer.TransformerConfig
    any_chunk: bool = False


# The largest inner rates are those, of two or more about a factor of 3 apart, with the fewest bits on validation examples of
# recall. All gradients of a chunk are taken at the same weights, so several of one key overshoot, and an Omega window of 4 tokens
# adds up four times as many.
_ATLAS = atlas.AtlasConfig(d_model=WIDTH, layers=LAYERS, heads=4, expansion=1, chunks=(CHUNK,), rate=0.03)
_OMEGA = {"omega_window": 4, "rate": 0.01}
_HALF = replace(_ATLAS, heads=8)  # half as much in a memory; a window or a second memory has the other half
_GATE = replace(_HALF, block="gate", window=12)
# Reads of the open chunk are left to the window; it holds two copies of its weights, where the others have three.
_MUON = replace(_GATE, rule="muon", omega_window=4, window=CHUNK, rate=0.5)  # of steps that are all of one size
# One copy of its weights, so it is larger. Rates up to 1 as published: an old value is replaced.
_DELTA = replace(_ATLAS, rule="delta", network="linear", d_model=36, heads=1, rate=1.0)
_TRANSFORMER = transformer.TransformerConfig(d_model=WIDTH, layers=LAYERS, heads=2)
KINDS = {
    "titans": Kind(_ATLAS, any_chunk=True),
    "omega": Kind(replace(_ATLAS, **_OMEGA), any_chunk=True),
    # Features make keys longer, so heads and the model are narrower.
    "omega-features": Kind(replace(_ATLAS, **_OMEGA, degree=2, d_model=24, heads=6), any_chunk=True),
    "muon": Kind(_MUON),
    "delta": Kind(_DELTA),
    "delta-negative": Kind(replace(_DELTA, rate=2.0)),  # eigenvalues down to -1, which parity needs
    "linear": Kind(replace(_ATLAS, network="linear", heads=2), any_chunk=True),
    "gate": Kind(_GATE, any_chunk=True),
    "tnt": Kind(replace(_HALF, shard=SHARD, global_chunk=SHARD, projection="norm_sum"), any_chunk=True),
    "window": Kind(_TRANSFORMER),
    EVERYTHING: Kind(_TRANSFORMER),
}
# The Atlas of the paper, of this size, and what is left of it without each of its parts; nothing else changes, so state does.
FULL = "atlas"
_FULL = replace(_MUON, degree=2)
ABLATION = {
    FULL: Kind(_FULL),
    "atlas-no-window": Kind(replace(_FULL, omega_window=1)),
    "atlas-no-features": Kind(replace(_FULL, degree=None)),
    "atlas-linear": Kind(replace(_FULL, network="linear")),
    "atlas-no-muon": Kind(replace(_FULL, rule="descent", **_OMEGA)),
    "atlas-no-attention": Kind(replace(_FULL, block="memory")),
    "atlas-dot": Kind(replace(_FULL, loss="dot")),
    "atlas-ascent": Kind(replace(_FULL, loss="ascent")),
}
LINEUPS = {"kinds": KINDS, "ablation": ABLATION}
PEERS = (EVERYTHING, FULL)  # of the two line-ups


def lineup(
    names: Sequence[str],
    *,
    vocab_size: int,
    longest: int,
    chunks: Sequence[int] = (CHUNK,),
    decoder: bool = False,
    inner_rate: float | None = None,
) -> list[Contestant]:
    """The models set up for a task, the peer first; `preset` says the chunk.

    Args:
      names: of `KINDS` or `ABLATION`.
      vocab_size: tokens of the task.
      longest: tokens of its longest example.
      chunks: a model for each, where chunks make a difference.
      decoder: whether answers are read off the last token, see `with_decoder`.
      inner_rate: the largest at which memories learn, but for "delta", whose rates are of another kind; None: as they are.

    Raises:
      ValueError: a name is unknown, or a model has more parameters without a feed-forward than the first one with it.
    """
    known = KINDS | ABLATION
    for name in names:
        if name not in known:
            raise ValueError(f"model is {name!r}, expected one of {', '.join(known)}")
    wrap = with_decoder if decoder else lambda model: model
    first = replace(_ATLAS, vocab_size=vocab_size, context=longest, feed_forward=FEED_FORWARD)
    parameters = parameters_of(wrap(atlas), first)
    found = []
    for name in sorted(names, key=lambda name: name not in PEERS):
        kind = known[name]
        sizes: dict[str, Any] = {"vocab_size": vocab_size, "context": longest}
        if isinstance(kind.config, atlas.AtlasConfig):
            model = wrap(atlas)
            if inner_rate is not None and kind.config.rule != "delta":
                sizes["rate"] = inner_rate
        elif name == EVERYTHING:
            model, sizes["chunk"] = wrap(SEES_EVERYTHING), min(longest, 128)
        else:
            model, sizes["context"], sizes["chunk"] = wrap(SEES_A_WINDOW), WINDOW, WINDOW
        for chunk in chunks if kind.any_chunk else (None,):
            set_up = replace(kind.config, **sizes, **({} if chunk is None else {"chunks": (chunk,)}))
            config = with_parameters(name, model, set_up, parameters)
            preset = "one-size" if chunk is None else f"chunk-{chunk}"
            found.append(Contestant(name, preset, model, config, parameters_of(model, config)))
    return found


def state_bytes(contestant: Contestant) -> int:
    """What the model carries from one token to the next, for one sequence; of the peer at its longest."""
    shapes = jax.eval_shape(partial(contestant.model.init_state, contestant.config, 1))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))


def with_decoder(model: Any) -> Any:
    """The model with a small network that says every token of the text from the activations of the last one.

    The network sees nothing but those activations and the place that is asked about, as sines and cosines added to them, so
    whatever it says was compressed into them.

    Source: MAD (Poli et al. 2024, arXiv:2403.17844), the auto-encoder of its compression task.
    """

    def init(config: Any, key: Array) -> PyTree:
        keys, d = jax.random.split(key, 3), config.d_model
        return {
            "model": model.init(config, keys[0]),
            "up": jax.random.normal(keys[1], (d, 2 * d)) * d**-0.5,
            "down": jax.random.normal(keys[2], (2 * d, config.vocab_size)) * (0.1 * (2 * d) ** -0.5),
        }

    def apply(config: Any, params: PyTree, tokens: Int[Array, "b t"]) -> tuple[Float[Array, "b t v"], None]:
        x, _ = model.features(config, params["model"], tokens)
        read = x[:, -1:] + _places(tokens.shape[1], config.d_model)[None]
        return linear(jax.nn.gelu(linear(read, params["up"])), params["down"]), None

    return SimpleNamespace(init=init, init_state=model.init_state, apply=apply)


def _places(length: int, width: int) -> Float[np.ndarray, "t d"]:
    """Sines and cosines of every place at wavelengths from 2 pi to 2 pi 10,000."""
    angles = np.arange(length)[:, None] * 10_000.0 ** -np.linspace(0, 1, width // 2)[None]
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)
