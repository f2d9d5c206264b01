"""C3: what becomes of the models when each generation reads only what the one before it wrote.

Source: replace generations as in Shumailov et al. 2024 (Nature 631); the entropy of a sample is estimated by the loss of its own
writer on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int, PyTree

from validation.bench.domain import Domain
from validation.bench.generators import STREAMS, longest_document, sample
from validation.bench.outcomes import ALL, LABEL_MODEL, by_group
from validation.bench.training import LENGTH, MEASURED, measure, train

GENERATIONS = 3
BEFORE = 64  # tokens that a stream writes before those that count, so that not every window begins a document
ENTROPY_WINDOWS = 8 * MEASURED  # of a sample, to estimate its entropy


class Recursion(NamedTuple):
    """A chain of generations for every seed.

    Attributes:
      slope: rise of the loss on held-out real rows, bits per token and generation.
      retention: entropy of what the last generation writes, as a share of what the first one writes.
    """

    slope: Float[np.ndarray, " seeds"]
    retention: Float[np.ndarray, " seeds"]


def recurse(domain: Domain, params: PyTree, seeds: Sequence[int]) -> Recursion:
    """Lets models write, trains new ones of equal seed on that, and so on for three generations.

    Generation 1 reads what the given models write, 32,768 tokens, and every later one as much from the one before, the same for
    a case and its controls. The slope is fitted over generations 1 to 3, which are trained alike.

    Args:
      domain: of the models.
      params: of label models, stacked by seed.
      seeds: theirs.
    """
    losses, entropies = [], []
    for generation in range(1, GENERATIONS + 1):
        written = [_write(domain, params, index, 100 * seed + generation) for index, seed in enumerate(seeds)]
        entropies.append(_entropy(params, written))
        params = train(LABEL_MODEL, written, seeds, steps=domain.steps)
        losses.append(by_group(measure(LABEL_MODEL, params, domain.measured.windows), domain.measured)[ALL])
    written = [_write(domain, params, index, 100 * seed) for index, seed in enumerate(seeds)]
    entropies.append(_entropy(params, written))
    slope = np.polyfit(np.arange(GENERATIONS), np.stack(losses), 1)[0]
    return Recursion(slope, entropies[-1] / entropies[0])


def _write(domain: Domain, params: PyTree, index: int, seed: int) -> Int[np.ndarray, "n t1"]:
    """A window of what one of the models writes at temperature 1, from each of 256 streams."""
    own, eos = jax.tree.map(lambda leaf: leaf[index], params), domain.tokenizer.eos
    longest = longest_document(domain.encode(domain.held_out))
    blocks = sample(LABEL_MODEL.model, LABEL_MODEL.config, own, eos=eos, longest=longest, seed=seed, top_k=None)
    drawn = np.zeros((0, STREAMS), np.int32)
    while len(drawn) < BEFORE + LENGTH + 1:
        drawn = np.concatenate([drawn, next(blocks)])
    return np.ascontiguousarray(drawn[BEFORE : BEFORE + LENGTH + 1].T)


def _entropy(params: PyTree, written: Sequence[Int[np.ndarray, "n t1"]]) -> Float[np.ndarray, " seeds"]:
    """Loss of every model on its own sample, bits per token."""
    bits = measure(LABEL_MODEL, params, np.concatenate([windows[:ENTROPY_WINDOWS] for windows in written]))
    return np.array(
        [own[i * ENTROPY_WINDOWS : (i + 1) * ENTROPY_WINDOWS].mean(dtype=np.float64) for i, own in enumerate(bits)]
    )
