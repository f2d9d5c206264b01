"""From rows to a training problem: tokens, a held-out part that nothing trains on, and the subsample of every model."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from atlas_jax.data import Packed, Tokenizer, pack, train_bpe
from validation.corpus import (
    Circle,
    Corpus,
    TokenRows,
    by_target,
    circle,
    deal,
    find_words,
    token_stream,
    tokenize,
    windows,
)
from validation.datasets import DatasetError
from validation.diversity.duplicates import Duplicates, find_duplicates
from validation.profiles import Profile, TierPlan
from validation.tiers import HeldOut, Variant

HELD_OUT_SHARE = 0.1  # of the tokens, at most
HELD_OUT_BLOCKS = 4  # contiguous stretches, where neighbouring rows belong to one document
TAIL_SHARE = 0.1  # the rarest decile


@dataclass(frozen=True)
class Side:
    """One body of text to train on: the data, or the reference.

    Attributes:
      corpus: its rows.
      tokens: the same as tokens.
      circle: the rows that models may train on; a model's subsample is an arc of it.
    """

    corpus: Corpus
    tokens: TokenRows
    circle: Circle


@dataclass(frozen=True)
class Problem:
    """Everything the tiers train and measure on.

    Attributes:
      data: what is judged.
      reference: what it is judged against; None without one.
      tokenizer: shared by both.
      held_out: windows of the reference (of the data without one) that no model trains on.
      held_out_rows: rows of that side which they come from.
      duplicates: of the data's rows.
      leaked: rows of the data that also stand, nearly or exactly, in the held-out part: never trained on.
      steps: optimizer steps of each model, by tier.
      seed: of the run.
    """

    data: Side
    reference: Side | None
    tokenizer: Tokenizer
    held_out: HeldOut
    held_out_rows: Int[np.ndarray, " h"]
    duplicates: Duplicates
    leaked: Bool[np.ndarray, " n"]
    steps: dict[TierPlan, int]
    seed: int


def prepare(
    data: Corpus, reference: Corpus | None, profile: Profile, *, seed: int, tokenizer: Tokenizer | None = None
) -> Problem:
    """Lays out a run.

    Args:
      data: rows to judge.
      reference: trusted rows of the same kind, or None.
      profile: size of the run.
      seed: decides every split and subsample.
      tokenizer: the user's own; without it a byte-pair encoding is trained on the reference, or on the data.

    Raises:
      DatasetError: there is too little text for a run; the message says how much is needed.
    """
    for corpus, name in ((data, "the data"), (reference, "the reference")):
        if corpus is not None and not any(text.strip() for text in corpus.texts):
            raise DatasetError(f"{name} holds no text: all {len(corpus.texts)} rows are empty")
    trusted = data if reference is None else reference
    neighbours = trusted.neighbours
    tokenizer = tokenizer or train_bpe(trusted.texts, profile.vocab_size)
    data_tokens = tokenize(data.texts, data.trained_from, tokenizer)
    if reference is None:
        duplicates = find_duplicates(data.texts, seed=seed)
        places = deal(duplicates.group, seed)
        held_out_rows = _hold_out(places, duplicates.group, data_tokens, profile, neighbours)
        train_rows = _outside(held_out_rows, duplicates.group, data_tokens, neighbours)
        leaked = np.zeros(len(data.texts), bool)
        sides = (Side(data, data_tokens, circle(train_rows, places, data_tokens.sizes)), None)
    else:
        tokens = tokenize(reference.texts, reference.trained_from, tokenizer)
        groups = find_duplicates(reference.texts, seed=seed).group
        places = deal(groups, seed)
        held_out_rows = _hold_out(places, groups, tokens, profile, neighbours)
        trusted_side = Side(
            reference, tokens, circle(_outside(held_out_rows, groups, tokens, neighbours), places, tokens.sizes)
        )
        duplicates, leaked = _compare(data.texts, [reference.texts[r] for r in held_out_rows], seed)
        allowed = np.flatnonzero(~leaked)
        sides = (
            Side(data, data_tokens, circle(allowed, deal(duplicates.group, seed), data_tokens.sizes)),
            trusted_side,
        )
    steps = {plan: _steps(sides, plan, profile) for plan in profile.tiers}
    held_out = _held_out(sides[1] or sides[0], held_out_rows, tokenizer, profile)
    return Problem(*sides, tokenizer, held_out, held_out_rows, duplicates, leaked, steps, seed)


def _hold_out(
    places: Float[np.ndarray, " n"],
    groups: Int[np.ndarray, " n"],
    tokens: TokenRows,
    profile: Profile,
    neighbours: bool,
) -> Int[np.ndarray, " h"]:
    """One row of each of some groups, up to the wanted number of tokens: at random, or in a few contiguous blocks.

    Paragraphs of one document share its names and topic: held out one by one they would favour whoever trained on the rest
    of that document, which the controls did and the data did not (wikitext-2 against itself: 0.25 bits per token).
    """
    total = int(tokens.sizes.sum())
    wanted = min(profile.held_out_windows * profile.length, int(total * HELD_OUT_SHARE))
    if neighbours:
        block = np.cumsum(tokens.sizes) * HELD_OUT_BLOCKS // max(1, wanted)
        # The place of a block is that of its first row: random, the same for all its rows.
        places = places[np.searchsorted(block, block)]
    firsts = np.flatnonzero((groups == np.arange(len(groups))) & (tokens.sizes > 1))
    order = firsts[np.argsort(-places[firsts], kind="stable")]
    # What is held out of a heavily repeated set: at most every tenth distinct row.
    count = min(int(np.searchsorted(np.cumsum(tokens.sizes[order]), wanted)) + 1, max(1, len(order) // 10))
    return np.sort(order[:count])


def _outside(
    held_out: Int[np.ndarray, " h"], groups: Int[np.ndarray, " n"], tokens: TokenRows, neighbours: bool
) -> Int[np.ndarray, " k"]:
    """Rows to train on: no copies of held-out ones and, in a text file, none closer to one than a block is long.

    What lies beside a held-out block is of the same document. On random halves of the articles of wikitext-2, five times, the
    control was ahead by .16 bits per token with no gap, .07 with half a block and .05 (standard error .04) with a whole one.
    """
    outside = ~np.isin(groups, groups[held_out])
    if neighbours:
        middle = np.cumsum(tokens.sizes) - tokens.sizes / 2
        held = middle[held_out]
        after = np.searchsorted(held, middle)
        nearest = np.minimum(
            np.abs(held[np.minimum(after, len(held) - 1)] - middle), np.abs(held[np.maximum(after - 1, 0)] - middle)
        )
        outside &= nearest > tokens.sizes[held_out].sum() / HELD_OUT_BLOCKS
    return np.flatnonzero(outside)


def _compare(texts: list[str], held_out: list[str], seed: int) -> tuple[Duplicates, Bool[np.ndarray, " n"]]:
    """Duplicates within the data, and which of its rows also stand in the held-out part."""
    n = len(texts)
    both = find_duplicates([*texts, *held_out], seed=seed)
    within = Duplicates(both.exact_of[:n], both.near_of[:n], both.group[:n], both.similarity[:n], both.empty[:n])
    return within, np.isin(within.group, both.group[n:])


def _steps(sides: tuple[Side, Side | None], plan: TierPlan, profile: Profile) -> int:
    """Steps such that a model sees about half of the smaller side once, and no more than the plan's rows of it.

    With fewer there is too little to tell models apart.
    """
    per_step = profile.tokens(plan, 1)
    for side, name in zip(sides, ("the data", "the reference"), strict=True):
        needed = profile.step_grain * per_step
        if side is not None and side.circle.tokens < needed:
            rows = len(side.circle.order)
            more = math.ceil(needed / max(1, side.circle.tokens) * max(1, rows))
            raise DatasetError(
                f"{name} has too little text for profile {profile.name!r}: {side.circle.tokens:,} tokens in {rows:,} rows "
                f"to train on, expected at least {needed:,} tokens (about {more:,} rows of this length)"
            )
    seen, grain = min(_seen(side, plan) for side in sides if side is not None), profile.step_grain
    return int(np.clip(seen // per_step // grain * grain, grain, profile.steps))


def _seen(side: Side, plan: TierPlan) -> int:
    """Tokens of the side that a model may see."""
    half = side.circle.tokens // 2
    return half if plan.rows is None else min(half, round(plan.rows * side.circle.tokens / len(side.circle.order)))


def _held_out(side: Side, rows: Int[np.ndarray, " h"], tokenizer: Tokenizer, profile: Profile) -> HeldOut:
    tokens = side.tokens
    packed = pack([tokens.documents[r] for r in rows], length=profile.length, eos=tokenizer.eos, row_ids=rows)
    packed = Packed(packed.tokens[: profile.held_out_windows].copy(), packed.rows[: profile.held_out_windows])
    trained_on = np.concatenate([np.arange(int(tokens.sizes[r])) >= tokens.prompt[r] for r in rows])
    measured = by_target(trained_on, packed)
    lengths = tokenizer.byte_lengths()[packed.tokens[:, 1:]]
    return HeldOut(packed.tokens, measured, np.zeros((0, *measured.shape), bool), float(lengths[measured].mean()))


def held_out_for(plan: TierPlan, variants: list[Variant], problem: Problem, profile: Profile) -> HeldOut:
    """The held-out part with the rarest decile of words of every variant.

    How rare a word is, is counted in the trusted side outside the variant's arc: rows that neither this model nor its paired
    control trained on. Counted in what the control saw, the rarest words would be those that happen to be missing there, and
    the control would look bad on them (wikitext-2: by 0.3 bits per token).
    """
    side = problem.reference or problem.data
    stream = token_stream(side.tokens, problem.held_out_rows, problem.tokenizer.eos)
    words = find_words(side.tokens, side.circle.order, problem.tokenizer)
    packed = Packed(problem.held_out.windows, np.zeros_like(problem.held_out.windows))
    masks = []
    for variant in variants:
        outside = np.ones(len(side.corpus.texts), bool)
        outside[subsample(side, plan, variant, problem, profile)] = False
        if not outside[side.circle.order].any():  # too little text for two halves: the count is over all of it
            outside[:] = True
        frequency = by_target(words.frequency(stream, outside), packed)
        rarest = np.quantile(frequency[problem.held_out.measured], TAIL_SHARE, method="inverted_cdf")
        masks.append(problem.held_out.measured & (frequency <= rarest))
    return problem.held_out._replace(tail=np.stack(masks))


def data_variants(plan: TierPlan, seed: int) -> list[Variant]:
    """The models of a tier: model i sees arc i of the circle with seed i."""
    return [Variant(i, 1000 * seed + i, plan.learning_rate * m) for i, m in enumerate(plan.multipliers())]


def subsample(
    side: Side, plan: TierPlan, variant: Variant, problem: Problem, profile: Profile
) -> Int[np.ndarray, " m"]:
    """The rows that a model trains on, enough for its windows; some twice where the side has too few."""
    return side.circle.arc(variant.subsample / plan.count, profile.tokens(plan, problem.steps[plan]) + profile.length)


def training_windows(
    side: Side, plan: TierPlan, variants: list[Variant], problem: Problem, profile: Profile
) -> list[Packed]:
    """Each model's windows: one pass over its arc, shuffled row by row."""
    return [
        windows(
            side.tokens,
            subsample(side, plan, v, problem, profile),
            length=profile.length,
            eos=problem.tokenizer.eos,
            count=problem.steps[plan] * plan.batch,
            seed=v.seed,
        )
        for v in variants
    ]
