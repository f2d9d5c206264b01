"""What a body of data does to the models that are trained on it: their losses on held-out real rows, group by group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float, PyTree

from atlas_jax.models import transformer
from atlas_jax.models.transformer import TransformerConfig
from validation.bench.domain import VOCABULARY, Domain, HeldOut
from validation.bench.rows import Rows
from validation.bench.training import LENGTH, Trainee, measure, train

# Two layers of width 32, 86k parameters: a family that no detector of this project uses.
LABEL_MODEL = Trainee(
    transformer,
    replace(
        TransformerConfig(vocab_size=VOCABULARY, context=LENGTH, chunk=LENGTH),
        d_model=32,
        heads=2,
        feed_forward=64,
    ),
    rate=0.02,
)
SEEDS = (0, 1, 2)
ALL = "all"  # the group of all targets


class Outcome(NamedTuple):
    """Models after training on one body of rows, one a seed.

    Attributes:
      losses: held-out loss by group of targets, "all" first; bits per token.
      params: trained parameters, stacked by seed.
    """

    losses: dict[str, Float[np.ndarray, " seeds"]]
    params: PyTree


def train_cases(
    domain: Domain, cases: Sequence[Rows], *, seeds: Sequence[int] = SEEDS, at_once: int = 1
) -> list[Outcome]:
    """Trains one model a seed on every case and measures it.

    Args:
      domain: what the cases were made of.
      cases: their rows.
      seeds: of the models.
      at_once: cases trained by one program; the last group is filled up with copies, so that it is compiled once.
    """
    outcomes: list[Outcome] = []
    for start in range(0, len(cases), at_once):
        group = cases[start : start + at_once]
        read = [domain.windows(rows) for rows in group]
        padded = read + read[-1:] * (at_once - len(group))
        params = train(
            LABEL_MODEL,
            [windows for windows in padded for _ in seeds],
            [seed for _ in padded for seed in seeds],
            steps=domain.steps,
        )
        losses = by_group(measure(LABEL_MODEL, params, domain.measured.windows), domain.measured)
        outcomes += [_of_case(losses, params, index, len(seeds)) for index in range(len(group))]
    return outcomes


def _of_case(losses: dict[str, Float[np.ndarray, " e"]], params: PyTree, index: int, seeds: int) -> Outcome:
    mine = slice(index * seeds, (index + 1) * seeds)
    own = {name: values[mine] for name, values in losses.items()}
    return Outcome(own, jax.tree.map(lambda leaf: np.asarray(leaf)[mine], params))


def train_controls(domain: Domain, *, seeds: Sequence[int] = SEEDS, at_once: int = 1) -> list[Outcome]:
    """Trains every seed on four disjoint samples of real rows, each as large as a case.

    Two are of the trusted part and two of the pool: with the trusted part alone, what distinguishes the two halves by chance
    would stand in the harm of every case of a corpus (-.03 bits on clean resamples of Adult), and the spread would not show it.
    """
    samples = [half for part in (domain.trusted, domain.pool) for half in _halves(domain, part)]
    return train_cases(domain, samples, seeds=seeds, at_once=at_once)


def _halves(domain: Domain, part: Rows) -> list[Rows]:
    """Two disjoint samples, each as large as a case."""
    ends = np.cumsum(domain.sizes(part))
    starts = (0, int(np.searchsorted(ends, ends[-1] / 2)) + 1)
    counts = [
        int(np.searchsorted(ends[start:] - (ends[start - 1] if start else 0), domain.tokens)) + 1 for start in starts
    ]
    stops = (starts[1], len(part))
    return [
        part.take(range(start, min(start + count, stop)))
        for start, count, stop in zip(starts, counts, stops, strict=True)
    ]


def by_group(bits: Float[np.ndarray, "e n t"], held_out: HeldOut) -> dict[str, Float[np.ndarray, " e"]]:
    """Mean loss of each model on all targets and on those of every group."""
    masks = {ALL: held_out.counted, **held_out.groups}
    return {name: bits[:, mask].mean(axis=1, dtype=np.float64) for name, mask in masks.items()}
