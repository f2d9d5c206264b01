"""Decoding token by token after a context: milliseconds a step and bytes of state, Atlas beside a transformer of equal size.

    python -m benchmarks.decode_speed

The state of Atlas is as large after 8,192 tokens as after 128, and so must be the time of a `step`: `growth` lines say by what it
grows from the shortest context to the longest. The transformer has the same width, layers and heads, a feed-forward that brings
its parameters to ours, and a cache as long as the context. It has a head of its own, so Atlas is given one here too, where its
presets use the embedding: both then read as much of the vocabulary a token.

Parameters are fresh, as speed does not depend on them. States are what `apply` leaves after a context of random tokens, read in
pieces; one sequence is read and its state copied for a batch, which is what sampling several futures of one past does. `step` is
jitted, its state donated, and waited for after every token.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax import jit
from jaxtyping import Array, Int, PyTree

from atlas_jax.models import atlas, transformer
from benchmarks.quality.records import Records
from benchmarks.quality.sizes import parameters_of, with_parameters
from benchmarks.quality.trials import PEER, Contestant, parameters_agree

OURS = "atlas"
EQUAL = 0.02  # share by which "equal" parameters may differ
WARM, FEWEST = 2, 3  # tokens that are not counted, and that are at least


@dataclass(frozen=True)
class Options:
    """Times decoding; prints figures and appends them to a file."""

    presets: tuple[str, ...] = ("micro", "micro-gate", "micro-tnt", "42.6m")
    """Of Atlas."""
    contexts: tuple[int, ...] = (128, 1024, 8192)
    """Tokens read before, each a multiple of the piece."""
    batches: tuple[int, ...] = (1, 16)
    """Sequences."""
    piece: int = 128
    """Tokens per call while a context is read."""
    tokens: int = 64
    """Tokens timed: a whole number of chunks of every preset."""
    seconds: float = 10.0
    """After which no more tokens are timed."""
    quick: bool = False
    """A run of seconds on the smallest preset, to see that all works."""
    results: Path = Path("benchmarks/results/decode_speed.jsonl")
    """Where figures are appended."""


class Timing(NamedTuple):
    """Milliseconds of a step, and how many steps were timed."""

    median: float
    mean: float
    slowest: float
    timed: int


def quick(options: Options) -> Options:
    """The same in seconds: nothing to conclude from."""
    return replace(options, presets=("micro",), contexts=(16, 64), batches=(1, 2), piece=16, tokens=16)


def contestants(preset: str, context: int, piece: int) -> tuple[Contestant, Contestant]:
    """The transformer whose cache is that long, and the preset of Atlas with a head of its own, of equal parameters.

    Args:
      preset: of Atlas.
      context: tokens, of the cache.
      piece: longest call.

    Raises:
      ValueError: there is no feed-forward that makes their parameters agree.
    """
    ours = replace(atlas.PRESETS[preset], tied=False, context=piece)
    aim = parameters_of(atlas, ours)
    sizes = (ours.vocab_size, ours.d_model, ours.layers, ours.heads)
    least = transformer.TransformerConfig(*sizes, feed_forward=1, context=context, chunk=piece)
    theirs = with_parameters(PEER, transformer, least, aim)
    found = (
        Contestant(PEER, preset, transformer, theirs, parameters_of(transformer, theirs)),
        Contestant(OURS, preset, atlas, ours, aim),
    )
    parameters_agree(found, EQUAL)
    return found


def reader(one: Contestant) -> Callable[[PyTree, Int[Array, "b t"], PyTree], PyTree]:
    """`apply` for its state alone: (params, tokens, state) -> state, jitted, the given state donated."""

    def read(params: PyTree, tokens: Array, state: PyTree) -> PyTree:
        return one.model.apply(one.config, params, tokens, state)[1]

    return jit(read, donate_argnums=2)


def prefill(
    read: Callable[[PyTree, Array, PyTree], PyTree],
    params: PyTree,
    tokens: Int[np.ndarray, "b t"],
    state: PyTree,
    piece: int,
) -> PyTree:
    """The state after more tokens, read in pieces.

    Args:
      read: of the model, see `reader`.
      params: of the model.
      tokens: a whole number of pieces.
      state: before them; consumed.
      piece: tokens per call.
    """
    for start in range(0, tokens.shape[1], piece):
        state = read(params, jnp.asarray(tokens[:, start : start + piece]), state)
    return state


def copies(one: Contestant, state: PyTree, batch: int) -> PyTree:
    """The state of one sequence as that of so many like it; always new arrays, as steps consume theirs."""
    wanted = jax.eval_shape(partial(one.model.init_state, one.config, batch))

    def copied(leaf: Array, wanted: jax.ShapeDtypeStruct) -> Array:
        axes = [axis for axis, size in enumerate(wanted.shape) if size != leaf.shape[axis]]
        return jnp.repeat(leaf, batch, axis=axes[0]) if axes else jnp.array(leaf)

    return jax.tree.map(copied, state, wanted)


def milliseconds(
    step: Callable[[PyTree, Array, PyTree], tuple[Array, PyTree]],
    params: PyTree,
    state: PyTree,
    tokens: Int[np.ndarray, "n b"],
    most_seconds: float,
) -> Timing:
    """Times steps one by one, each waited for.

    Args:
      step: (params, token [b], state) -> (logits, state); the state may be donated.
      params: of the model.
      state: before the first token; consumed.
      tokens: that are fed; the first `WARM` are not counted.
      most_seconds: after which no more are fed, once `FEWEST` are counted.
    """
    times = []
    for token in tokens:
        began = time.perf_counter()
        logits, state = step(params, jnp.asarray(token), state)
        jax.block_until_ready((logits, state))
        times.append(1000 * (time.perf_counter() - began))
        counted = times[WARM:]
        if len(counted) >= FEWEST and sum(counted) > 1000 * most_seconds:
            break
    counted = times[WARM:]
    return Timing(statistics.median(counted), statistics.mean(counted), max(counted), len(counted))


def decode(one: Contestant, state: PyTree, params: PyTree, batch: int, options: Options) -> tuple[Timing, int]:
    """Timing of so many sequences at once from one's state, and bytes of their state."""
    step = jit(partial(one.model.step, one.config), donate_argnums=2)
    state = copies(one, state, batch)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    tokens = random_tokens(one, WARM + options.tokens, batch)
    return milliseconds(step, params, state, tokens, options.seconds), size


def random_tokens(one: Contestant, *shape: int) -> Int[np.ndarray, "a b"]:
    """Tokens of the model's vocabulary."""
    return np.random.default_rng(0).integers(0, one.config.vocab_size, shape, dtype=np.int32)


def compare(preset: str, options: Options, records: Records) -> None:
    """Both models after every context, and by what a token's time grows from the shortest to the longest."""
    ours = contestants(preset, options.contexts[0], options.piece)[1]
    params = jit(partial(atlas.init, ours.config))(jax.random.key(0))
    text, read = random_tokens(ours, 1, max(options.contexts)), reader(ours)
    state, position = atlas.init_state(ours.config, 1), 0
    found: dict[tuple[str, int], list[float]] = {}
    for context in sorted(options.contexts):
        state = prefill(read, params, text[:, position:context], state, options.piece)
        position = context
        theirs = contestants(preset, context, options.piece)[0]
        their_params = jit(partial(transformer.init, theirs.config))(jax.random.key(0))
        their_state = transformer.init_state(theirs.config, 1)
        their_state = prefill(reader(theirs), their_params, text[:, :context], their_state, options.piece)
        for batch in options.batches:
            sides = ((theirs, their_state, their_params), (ours, state, params))
            peer = None
            for one, one_state, one_params in sides:
                timing, size = decode(one, one_state, one_params, batch, options)
                _record(records, one, context, batch, timing, size, peer)
                peer = timing.median
                found.setdefault((one.name, batch), []).append(timing.median)
    for batch in options.batches:
        growth = {name: found[name, batch][-1] / found[name, batch][0] for name in (PEER, OURS)}
        about = {"preset": preset, "batch": batch, "contexts": sorted(options.contexts)}
        records.add(f"decode.{preset}.batch-{batch}.growth", growth[OURS], "times", growth[PEER], **about)


def _record(
    records: Records, one: Contestant, context: int, batch: int, timing: Timing, size: int, peer: float | None
) -> None:
    about: dict[str, Any] = {"model": one.name, "preset": one.preset, "context": context, "batch": batch}
    about |= {"tokens_per_second": 1000 * batch / timing.median, "state_bytes": size, "parameters": one.parameters}
    about |= {"mean": timing.mean, "slowest": timing.slowest, "tokens_timed": timing.timed}
    name = f"decode.{one.name}.{one.preset}.context-{context}.batch-{batch}"
    records.add(name, timing.median, "ms a step", peer, **about)


def check(contexts: Sequence[int], piece: int) -> None:
    """Refuses contexts that are not read in whole pieces.

    Raises:
      ValueError: one is no multiple of the piece.
    """
    for context in contexts:
        if context < piece or context % piece:
            raise ValueError(f"contexts has {context}, expected multiples of piece = {piece}")


def main(options: Options) -> None:
    """Times one preset after the other."""
    options = quick(options) if options.quick else options
    check(options.contexts, options.piece)
    records = Records(options.results)
    for preset in options.presets:
        compare(preset, options, records)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
