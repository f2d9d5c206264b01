"""The next generation by a small language model: trained from scratch on documents, then sampled from its state."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from atlas_jax.data import batch_order, pack
from atlas_jax.models.generate import kth_largest
from atlas_jax.training import adamw, cosine, init_state, make_step
from atlas_jax.types import PyTree, SequenceModel
from spectral import eigenstate
from spectral.eigenstate import EigenstateConfig
from validation.bench.generators.streams import BLOCK, STREAMS, check_generation, collect, longest_document

WINDOW = 128  # tokens of a training example, and the context of the model
BATCH = 4  # windows per step
RATE = 0.04  # peak; of .005 to .08 the best for 120, 240 and 960 steps on two corpora, .02 and .08 within 2 %
WARMUP = 1 / 20  # of all steps


class Streams(NamedTuple):
    """Documents being written side by side."""

    tokens: Int[Array, " s"]  # the latest; int32
    lengths: Int[Array, " s"]  # tokens since the document began; int32
    state: PyTree
    key: Key[Array, ""]


def model_generation(
    documents: Sequence[Int[np.ndarray, " _"]],
    *,
    vocab_size: int,
    eos: int,
    tokens: int,
    seed: int,
    steps: int,
    top_k: int | None = None,
    config: EigenstateConfig = eigenstate.PRESETS["micro-32"],
) -> list[Int[np.ndarray, " _"]]:
    """Documents drawn from a Temporal Eigenstate model that was trained on others, at temperature 1.

    The model learns the documents as one stream with eos between them. It then writes many streams at once, each from
    an eos on and through every eos into the next document, with the state carried: the cost of a token does not grow.
    A document's first token is not eos.

    Args:
      documents: token numbers without eos; empty ones are left out.
      vocab_size: tokens are 0 to vocab_size - 1.
      eos: what ends a document; it occurs in none.
      tokens: to reach, with one eos a document.
      seed: of the parameters, the order of the examples and the draws; the same one gives the same documents on one machine.
      steps: of training, at least 2, each on 4 windows of 128 tokens.
      top_k: draw from so many of the likeliest tokens; 1 to vocab_size, or None for all.
      config: of the model; vocabulary and context are set here.

    Returns:
      int32 documents without eos, none empty; the last one reaches `tokens`. One that grows too long is cut, see
      `streams.longest_document`.

    Raises:
      ValueError: no document with a token, a token out of range, or a number out of its range.
    """
    found = check_generation(documents, vocab_size=vocab_size, eos=eos, tokens=tokens, top_k=top_k)
    if steps < 2:
        raise ValueError(f"steps is {steps}, expected at least 2: one to warm up and one to learn")
    config = replace(config, vocab_size=vocab_size, context=WINDOW)
    params = fit(config, found, eos=eos, steps=steps, seed=seed)
    blocks = sample(eigenstate, config, params, eos=eos, longest=longest_document(found), seed=seed, top_k=top_k)
    return collect(partial(next, blocks), tokens=tokens, eos=eos)


def fit(
    config: EigenstateConfig, documents: Sequence[Int[np.ndarray, " _"]], *, eos: int, steps: int, seed: int
) -> PyTree:
    """Trained parameters: AdamW, a linear warm-up, then a cosine down to zero."""
    packed = pack(documents, length=config.context, eos=eos, row_ids=range(len(documents)))
    targets = np.where(packed.rows[:, 1:] >= 0, packed.tokens[:, 1:], -1)
    order = batch_order(count=len(targets), batch=BATCH, steps=steps, seed=seed)
    examples = np.stack([packed.tokens[:, :-1], targets], axis=1)[order]
    schedule = cosine(RATE, warmup=max(1, round(steps * WARMUP)), steps=steps)
    rates = np.asarray(schedule(np.arange(1, steps + 1)), np.float32)
    return _train(config, jax.random.key(seed), examples, rates)


@partial(jax.jit, static_argnames="config")
def _train(
    config: EigenstateConfig, key: Key[Array, ""], examples: Int[Array, "n b 2 t"], rates: Float[Array, " n"]
) -> PyTree:
    def loss(params: PyTree, examples: Int[Array, "b 2 t"], key: Key[Array, ""]) -> tuple[Array, dict[str, Array]]:
        del key  # nothing in the model is random
        logits, _ = eigenstate.apply(config, params, examples[:, 0])
        counts = examples[:, 1] >= 0
        picked = jnp.take_along_axis(logits, jnp.maximum(examples[:, 1], 0)[..., None], axis=-1)[..., 0]
        nats = jnp.where(counts, jax.nn.logsumexp(logits, axis=-1) - picked, 0.0)
        return jnp.sum(nats) / jnp.sum(counts).astype(nats.dtype), {}

    optimizer = adamw()
    step = make_step(loss, optimizer)
    state = init_state(eigenstate.init(config, key), optimizer, key)
    state, _ = jax.lax.scan(lambda state, inputs: (step(state, *inputs)[0], None), state, (examples, rates))
    return state.params


def sample(
    model: SequenceModel, config: Any, params: PyTree, *, eos: int, longest: int, seed: int, top_k: int | None
) -> Iterator[Int[np.ndarray, "t s"]]:
    """The next tokens of all streams, drawn from any sequence model's state, block after block, without end."""
    state = model.init_state(config, STREAMS)
    start, lengths = jnp.full(STREAMS, eos, jnp.int32), jnp.zeros(STREAMS, jnp.int32)
    key = jax.random.fold_in(jax.random.key(seed), STREAMS)  # another than that of the parameters
    streams = Streams(start, lengths, state, key)
    while True:
        streams, drawn = _block(model, config, params, streams, np.int32(eos), np.int32(longest), top_k)
        yield np.asarray(drawn)


@partial(jax.jit, static_argnames=("model", "config", "top_k"))
def _block(
    model: SequenceModel,
    config: Any,
    params: PyTree,
    streams: Streams,
    eos: Int[Array, ""],
    longest: Int[Array, ""],
    top_k: int | None,
) -> tuple[Streams, Int[Array, "t s"]]:
    def one(streams: Streams, _: None) -> tuple[Streams, Array]:
        tokens, lengths, state, key = streams
        logits, state = model.step(config, params, tokens, state)
        empty = (lengths == 0)[:, None] & (jnp.arange(config.vocab_size) == eos)[None]
        logits = jnp.where(empty, -jnp.inf, logits)
        if top_k is not None:
            logits = jnp.where(logits < kth_largest(logits, top_k), -jnp.inf, logits)
        key, now = jax.random.split(key)
        tokens = jnp.where(lengths == longest, eos, draw(logits, now))
        lengths = jnp.where(tokens == eos, 0, lengths + 1)
        return Streams(tokens, lengths, state, key), tokens

    return jax.lax.scan(one, streams, None, length=BLOCK)


def draw(logits: Float[Array, "s v"], key: Key[Array, ""]) -> Int[Array, " s"]:
    """One token of each row with the softmax's probabilities, int32; a token of -inf is never drawn.

    First one of about sqrt(v) groups of tokens, then a token of it: two uniform numbers a row, where a categorical draw
    by the Gumbel trick takes one a token: 42,000 tokens/s on the same machine, against 337,000 this way.
    """
    rows, tokens = logits.shape
    width = int(np.ceil(tokens**0.5))
    weights = jnp.exp(logits - jnp.max(logits, axis=-1, keepdims=True))
    groups = jnp.pad(weights, ((0, 0), (0, -tokens % width))).reshape(rows, -1, width)
    uniform = jax.random.uniform(key, (2, rows, 1))

    def pick(weights: Float[Array, "s n"], uniform: Float[Array, "s 1"]) -> Int[Array, " s"]:
        reached = jnp.cumsum(weights, axis=-1)
        return jnp.argmax(reached > uniform * reached[:, -1:], axis=-1).astype(jnp.int32)

    group = pick(jnp.sum(groups, axis=-1), uniform[0])
    inside = jnp.take_along_axis(groups, group[:, None, None], axis=1)[:, 0]
    return group * width + pick(inside, uniform[1])
