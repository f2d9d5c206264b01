"""Which rows do it: copies, rows without content or word order, and rows whose loss stands out.

A row is scored by tier-1 models that never trained on it. The sign of the damage differs: rows whose words are in no order
cost a model as much as their own shuffle does; foreign rows have high loss under the trusted models; rows that say what
others say (templates) have low loss under models of this data, lower than the trusted models give them. Each score has its own
null distribution, from the reference's own rows where there is one, and rows are flagged at a stated false discovery rate.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import Bool, Float, Int, PyTree

from atlas_jax.data import Tokenizer, pack
from atlas_jax.distributed.mesh import BATCH, variant_mesh
from atlas_jax.training.ensemble import make_evaluation
from spectral.resonance import ResonanceConfig
from validation.corpus import Circle, tokenize
from validation.diversity.low_information import low_information_scores, reasons
from validation.outliers import conformal, low_group, no_signal, robust_high, share_without_signal
from validation.prepare import Problem, Side
from validation.tiers import token_losses

NULL_TOKENS = 300_000  # scored only to know how rows score that are good, or that have no order
GROUP = 512  # windows per call of the compiled scorer
LEAST_TOKENS = 16  # a shorter row says too little about itself
FALSE_DISCOVERIES = 0.05  # share of rows flagged for their loss that may be harmless
MOST = 0.5  # where more rows than this stand out, it may be the data as a whole
ORDER_PRECISION = 0.9  # share of rows flagged for their word order that have none


@dataclass(frozen=True)
class Flags:
    """One entry per flagged row and issue, worst first within an issue; all arrays [k].

    Attributes:
      rows: index into the corpus.
      issue: see `report.FlaggedRow`.
      score: strength, in the unit said by `detail`.
      detail: the evidence in words.
      orderless: estimated share of the data's tokens that stand in rows without word order, named here or not.
    """

    rows: Int[np.ndarray, " k"]
    issue: list[str]
    score: Float[np.ndarray, " k"]
    detail: list[str]
    orderless: float


def score_rows(
    config: ResonanceConfig,
    params: PyTree,
    documents: list[np.ndarray],
    tokenizer: Tokenizer,
    length: int,
) -> Float[np.ndarray, "e m"]:
    """Mean loss of every row under every model, bits per token.

    Args:
      config: the models' size.
      params: their parameters, stacked [e, ...].
      documents: tokens of each of the m rows.
      tokenizer: theirs.
      length: tokens per window.
    """
    models = jax.tree.leaves(params)[0].shape[0]
    rows = len(documents)
    if not rows:  # every row is too short to be scored
        return np.zeros((models, 0))
    packed = pack(documents, length=length, eos=tokenizer.eos, row_ids=np.arange(rows))
    mesh = variant_mesh(models, 8)
    evaluate = make_evaluation(lambda p, w: token_losses(config, p, w)[0], mesh, batch=8 // mesh.shape[BATCH])
    total, count = np.zeros((models, rows)), np.zeros(rows)
    for start in range(0, len(packed.tokens), GROUP):
        windows, owner = packed.tokens[start : start + GROUP], packed.rows[start : start + GROUP, 1:]
        padded = np.concatenate([windows, np.repeat(windows[:1], GROUP - len(windows), axis=0)])
        bits = np.asarray(evaluate(params, padded))[:, : len(windows)]
        valid = owner >= 0
        count += np.bincount(owner[valid], minlength=rows)
        for model in range(models):
            total[model] += np.bincount(owner[valid], weights=bits[model][valid], minlength=rows)
    return total / np.maximum(count, 1)


def shuffled_words(text: str, rng: np.random.Generator) -> str:
    """The text with its words in random order, the white space between them as it was."""
    parts = re.split(r"(\S+)", text)
    words = parts[1::2]
    parts[1::2] = [words[i] for i in rng.permutation(len(words))]
    return "".join(parts)


@dataclass(frozen=True)
class Scored:
    """Scores of the rows of one side, all [n] in bits per token; NaN where a row was not scored.

    Attributes:
      own: loss under models of the data.
      trusted: loss under models of the reference; None without one.
      order: loss of the row with its words shuffled, minus its own, times the root of its tokens.
      chance: the same between two shuffles: what `order` is when there is no order; of NULL_TOKENS at most.
    """

    own: Float[np.ndarray, " n"]
    trusted: Float[np.ndarray, " n"] | None
    order: Float[np.ndarray, " n"]
    chance: Float[np.ndarray, " n"]


@dataclass(frozen=True)
class Judges:
    """Tier-1 models that score rows: parameters [e, ...], the arcs they trained on, and the side those arcs are of."""

    config: ResonanceConfig
    params: PyTree
    starts: list[float]
    tokens: int
    circle: Circle

    def losses(
        self, side: Side, rows: Int[np.ndarray, " m"], documents: list[np.ndarray], problem: Problem, length: int
    ) -> Float[np.ndarray, " m"]:
        """Mean loss of rows of a side, given as tokens, under the models that did not train on them, bits per token."""
        scores = score_rows(self.config, self.params, documents, problem.tokenizer, length)
        if side.circle is not self.circle:
            return scores.mean(axis=0)
        unseen = np.ones((len(self.starts), len(side.corpus.texts)), bool)
        for model, start in enumerate(self.starts):
            unseen[model, self.circle.arc(start, self.tokens)] = False
        unseen = unseen[:, rows]
        count = unseen.sum(axis=0)
        return np.where(count > 0, (scores * unseen).sum(axis=0) / np.maximum(count, 1), np.nan)


def score_side(side: Side, own: Judges, trusted: Judges | None, problem: Problem, *, length: int, limit: int) -> Scored:
    """Scores the rows of one side, a random part of them where there are more than `limit` tokens."""
    n = len(side.corpus.texts)
    rng = np.random.default_rng([problem.seed, 3])
    rows = rng.permutation(np.flatnonzero(side.tokens.sizes >= LEAST_TOKENS))
    rows = rows[np.cumsum(side.tokens.sizes[rows]) <= limit]
    judge = trusted or own

    def full(rows: Int[np.ndarray, " m"], values: Float[np.ndarray, " m"]) -> Float[np.ndarray, " n"]:
        out = np.full(n, np.nan)
        out[rows] = values
        return out

    def shuffled(rows: Int[np.ndarray, " m"]) -> Float[np.ndarray, " m"]:
        texts = [shuffled_words(side.corpus.texts[row], rng) for row in rows]
        documents = tokenize(texts, np.zeros(len(rows), np.int64), problem.tokenizer).documents
        return judge.losses(side, rows, documents, problem, length)

    documents = [side.tokens.documents[row] for row in rows]
    by_own = own.losses(side, rows, documents, problem, length)
    by_trusted = None if trusted is None else trusted.losses(side, rows, documents, problem, length)
    root = np.sqrt(side.tokens.sizes[rows])
    once = shuffled(rows)
    # A part of the rows tells how far two shuffles of one row lie apart.
    twice = int(np.searchsorted(np.cumsum(side.tokens.sizes[rows]), NULL_TOKENS, side="right"))
    again = shuffled(rows[:twice])
    natural = by_own if by_trusted is None else by_trusted
    return Scored(
        full(rows, by_own),
        None if by_trusted is None else full(rows, by_trusted),
        full(rows, (once - natural) * root),
        full(rows[:twice], (once[:twice] - again) * root[:twice]),
    )


def flag_rows(problem: Problem, scored: Scored, reference: Scored | None) -> Flags:
    """All flagged rows of the data; a row may carry several issues.

    Args:
      problem: the run.
      scored: the data's rows.
      reference: the reference's rows, scored in the same way; None without one.
    """
    duplicates, corpus = problem.duplicates, problem.data.corpus
    found: list[tuple[int, str, float, str]] = []

    def place(row: np.int64) -> str:
        return f"row {corpus.row[row]}"

    for row in np.flatnonzero(duplicates.exact_of >= 0).tolist():
        found.append((row, "exact duplicate", 1.0, f"copy of {place(duplicates.exact_of[row])}"))
    for row in np.flatnonzero((duplicates.near_of >= 0) & (duplicates.exact_of < 0)).tolist():
        similarity = float(duplicates.similarity[row])
        found.append((row, "near duplicate", similarity, f"{similarity:.0%} alike to {place(duplicates.near_of[row])}"))
    emptiness = low_information_scores(corpus.texts)
    for row, reason in enumerate(reasons(corpus.texts)):
        if reason is not None:
            found.append((row, "low information", float(emptiness[row]), reason))
    taken = {row for row, *_ in found}
    free = np.ones(len(corpus.texts), bool)
    free[list(taken)] = False
    usable = np.flatnonzero(np.isfinite(scored.order) & np.isfinite(scored.own) & free)
    for rows, issue, score, shown, words in _by_loss(usable, scored, reference):
        order = np.argsort(-score, kind="stable")
        found += [(int(rows[i]), issue, float(score[i]), words.format(shown[i])) for i in order]
    return Flags(
        np.array([f[0] for f in found], np.int64),
        [f[1] for f in found],
        np.array([f[2] for f in found]),
        [f[3] for f in found],
        _orderless(usable, scored, problem, reference, free),
    )


def _orderless(
    rows: Int[np.ndarray, " m"],
    scored: Scored,
    problem: Problem,
    reference: Scored | None,
    free: Bool[np.ndarray, " n"],
) -> float:
    """Share of the data's tokens in rows without word order, as estimated from the scored ones among the `free` rows."""
    sizes = problem.data.tokens.sizes
    good = None
    if reference is not None and problem.reference is not None:
        known = np.flatnonzero(np.isfinite(reference.order))
        good = (reference.order[known], problem.reference.tokens.sizes[known])
    share = share_without_signal(scored.order[rows], sizes[rows], good)
    return share * float(sizes[free & (sizes >= LEAST_TOKENS)].sum() / sizes.sum())


_Finding = tuple[Int[np.ndarray, " k"], str, Float[np.ndarray, " k"], Float[np.ndarray, " k"], str]


def _by_loss(rows: Int[np.ndarray, " m"], scored: Scored, reference: Scored | None) -> list[_Finding]:
    """(rows, issue, score, value shown, detail) of each issue that shows in the losses."""
    null = scored.chance[np.isfinite(scored.chance)]
    good = None if reference is None else reference.order[np.isfinite(reference.order)]
    orderless = no_signal(scored.order[rows], null, good, ORDER_PRECISION)
    value = scored.order[rows][orderless]
    detail = "shuffling its words changes its loss by {:+.1f} bits x root tokens, as for text without any order"
    out: list[_Finding] = [(rows[orderless], "no word order", -value, value, detail)]
    rows = rows[~orderless]
    own = scored.own[rows]
    if reference is None or scored.trusted is None or reference.trusted is None:
        high, low = robust_high(own), np.zeros(len(own), bool)
        low[~high] = low_group(own[~high])  # of the rest: next to a few foreign rows all others are a low group
        if len(low) and low.mean() > MOST:
            low[:] = False  # what most rows do is no outlier
        out.append((rows[high], "high loss", own[high], own[high], "{:.2f} bits per token, far above the rest"))
        detail = "one of a group of rows that foretell each other: {:.2f} bits per token"
        out.append((rows[low], "low loss", -own[low], own[low], detail))
        return out
    known = np.isfinite(reference.own) & np.isfinite(reference.trusted)
    trusted = scored.trusted[rows]
    # A row is foretold better by models of its own side, which know its document or its style. Rows of the reference show how
    # much of that is natural.
    advantage, natural = trusted - own, (reference.own - reference.trusted)[known]
    alike = _standing_out(advantage, natural)
    foreign = _standing_out(trusted, reference.trusted[known]) & ~alike
    detail = "{:.2f} bits per token under models of the reference"
    out.append((rows[foreign], "high loss", trusted[foreign], trusted[foreign], detail))
    detail = "models of this data foretell it better than models of the reference do, by {:.2f} bits per token"
    out.append((rows[alike], "low loss", advantage[alike], advantage[alike], detail))
    return out


def _standing_out(scores: Float[np.ndarray, " m"], null: Float[np.ndarray, " k"]) -> Bool[np.ndarray, " m"]:
    """Rows that score higher than rows of the reference do.

    Where most rows do, the data as a whole may differ from the reference: then only a group that stands well apart from the
    other rows counts, and nobody where there are no two groups.
    """
    out = conformal(scores, null, FALSE_DISCOVERIES)
    return out & low_group(-scores) if len(out) and out.mean() > MOST else out
