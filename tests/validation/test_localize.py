"""Which rows are flagged, in a small world whose bad rows are known."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_world import TINY, corpus_of, markov_rows, side_of

from atlas_jax.data import ByteTokenizer
from spectral import resonance
from spectral.resonance import ResonanceConfig
from validation import localize
from validation.localize import Judges, Scored, flag_rows, score_rows, score_side, shuffled_words
from validation.prepare import prepare
from validation.tiers import token_losses

CONFIG = ResonanceConfig(vocab_size=257, d_model=8, layers=1, heads=2, context=128, chunk=32)


@given(st.text(" \n\tabcß.", max_size=60), st.integers(0, 100))
def test_shuffling_keeps_words_and_white_space(text, seed):
    shuffled = shuffled_words(text, np.random.default_rng(seed))
    assert Counter(shuffled.split()) == Counter(text.split())
    assert re.findall(r"\s+", shuffled) == re.findall(r"\s+", text)


def test_shuffling_shuffles():
    text = " ".join(f"w{i}" for i in range(50))
    assert shuffled_words(text, np.random.default_rng(0)) != text


@pytest.fixture(scope="module")
def params():
    return jax.jit(jax.vmap(lambda key: resonance.init(CONFIG, key)))(jax.random.split(jax.random.key(0), 3))


def test_a_rows_score_is_the_mean_loss_of_its_tokens(params):
    side = side_of(["first row", "the second, longer row of them all", "x", "fourth"])
    rows = np.array([3, 1, 0])
    scores = score_rows(CONFIG, params, [side.tokens.documents[r] for r in rows], ByteTokenizer(), 128)
    assert scores.shape == (3, 3)
    stream = np.concatenate([part for r in rows for part in (side.tokens.documents[r], [256])]).astype(np.int32)
    owner = np.repeat(np.arange(3), side.tokens.sizes[rows])
    for model in range(3):
        one = jax.tree.map(lambda leaf, model=model: leaf[model], params)
        bits = np.asarray(token_losses(CONFIG, one, stream[None])[0])[0]
        expected = [bits[owner[1:] == row].mean() for row in range(3)]
        np.testing.assert_allclose(scores[model], expected, rtol=1e-4)


def test_scoring_no_rows_gives_no_scores(params):
    assert score_rows(CONFIG, params, [], ByteTokenizer(), 32).shape == (3, 0)


def test_rows_are_judged_by_models_that_did_not_train_on_them(params):
    problem = prepare(corpus_of(markov_rows(700, 30)), None, TINY, seed=0, tokenizer=ByteTokenizer())
    side, tokens = problem.data, problem.data.circle.tokens // 2
    judges = Judges(CONFIG, params, [0.0, 0.3, 0.6], tokens, side.circle)
    rows = np.arange(0, 700, 7)
    documents = [side.tokens.documents[r] for r in rows]
    found = judges.losses(side, rows, documents, problem, 32)
    scores = score_rows(CONFIG, params, documents, problem.tokenizer, 32)
    arcs = [set(side.circle.arc(start, tokens).tolist()) for start in judges.starts]
    for place, row in enumerate(rows.tolist()):
        unseen = [score for score, arc in zip(scores[:, place], arcs, strict=True) if row not in arc]
        assert unseen, "no row lies in all arcs"
        assert found[place] == pytest.approx(np.mean(unseen))
    # Models of another side have trained on none of these rows.
    other = judges.losses(side_of(side.corpus.texts), rows, documents, problem, 32)
    np.testing.assert_allclose(other, scores.mean(axis=0))


def test_short_rows_and_rows_over_the_limit_have_no_score(params):
    texts = ["short", *markov_rows(699, 31)]
    problem = prepare(corpus_of(texts), None, TINY, seed=0, tokenizer=ByteTokenizer())
    judges = Judges(CONFIG, params, [0.0, 0.3, 0.6], problem.data.circle.tokens // 2, problem.data.circle)
    scored = score_side(problem.data, judges, None, problem, length=32, limit=3000)
    known = np.isfinite(scored.own)
    assert not known[0]
    assert scored.trusted is None
    assert 2000 < problem.data.tokens.sizes[known].sum() <= 3000
    np.testing.assert_array_equal(np.isfinite(scored.order), known)
    np.testing.assert_array_equal(np.isfinite(scored.chance), known)


def test_two_shuffles_of_some_rows_tell_what_chance_is(params, monkeypatch):
    monkeypatch.setattr(localize, "NULL_TOKENS", 1000)
    problem = prepare(corpus_of(markov_rows(700, 33)), None, TINY, seed=0, tokenizer=ByteTokenizer())
    judges = Judges(CONFIG, params, [0.0, 0.3, 0.6], problem.data.circle.tokens // 2, problem.data.circle)
    scored = score_side(problem.data, judges, None, problem, length=32, limit=5000)
    chance, order = np.isfinite(scored.chance), np.isfinite(scored.order)
    assert 500 < problem.data.tokens.sizes[chance].sum() <= 1000
    assert order[chance].all()
    assert problem.data.tokens.sizes[order].sum() > 4000


# Rows of a made-up run: 400 usual ones, then planted ones.
USUAL, PLANTED = 400, 60


@pytest.fixture(scope="module")
def planted():
    rows = markov_rows(USUAL + PLANTED, 32, words=30)
    corpus = corpus_of([*rows, rows[5], rows[7] + " zu", "", "????"])
    corpus = replace(corpus, row=corpus.row * 10)
    return prepare(corpus, None, TINY, seed=0, tokenizer=ByteTokenizer())


def scored_with(problem, *, own=0.0, trusted=None, order=30.0, seed=0):
    """Scores of usual rows, with the planted ones shifted."""
    rng = np.random.default_rng(seed)
    n = len(problem.data.corpus.texts)
    shifted = np.zeros(n)
    shifted[USUAL : USUAL + PLANTED] = 1
    return Scored(
        own=rng.normal(5, 0.3, n) + own * shifted,
        trusted=None if trusted is None else rng.normal(5, 0.3, n) + trusted * shifted,
        order=np.where(shifted == 1, rng.normal(order, max(1.0, order / 6), n), rng.normal(30, 5, n)),
        chance=rng.normal(0, 1, n),
    )


def rows_of(flags, issue):
    return [int(row) for row, kind in zip(flags.rows, flags.issue, strict=True) if kind == issue]


def planted_share(rows):
    """(precision, recall) of the planted rows."""
    hits = sum(USUAL <= row < USUAL + PLANTED for row in rows)
    return hits / max(1, len(rows)), hits / PLANTED


def test_copies_and_empty_rows_are_named_with_their_row_in_the_file(planted):
    flags = flag_rows(planted, scored_with(planted), None)
    details = dict(zip(zip(flags.rows.tolist(), flags.issue, strict=True), flags.detail, strict=True))
    n = USUAL + PLANTED
    assert details[n, "exact duplicate"] == "copy of row 60"
    assert details[n + 1, "near duplicate"].endswith("alike to row 80")
    assert details[n + 2, "low information"] == "empty"
    assert details[n + 3, "low information"] == "one character repeated"
    assert rows_of(flags, "no word order") == []
    # A row is a copy once: exact ones are not repeated as near ones.
    assert rows_of(flags, "exact duplicate") == [n]
    assert n not in rows_of(flags, "near duplicate")
    assert len(flags.rows) == len(flags.score) == len(flags.issue) == len(flags.detail)


@pytest.mark.parametrize("with_reference", [True, False])
def test_rows_without_word_order(planted, with_reference):
    extra = {"trusted": 0.0} if with_reference else {}
    reference = scored_with(planted, seed=1, **extra) if with_reference else None
    flags = flag_rows(planted, scored_with(planted, order=0.0, **extra), reference)
    precision, recall = planted_share(rows_of(flags, "no word order"))
    assert precision > 0.9
    assert recall > (0.9 if with_reference else 0.3)
    scores = [score for score, issue in zip(flags.score, flags.issue, strict=True) if issue == "no word order"]
    assert scores == sorted(scores, reverse=True)
    sizes = planted.data.tokens.sizes
    assert flags.orderless == pytest.approx(sizes[USUAL : USUAL + PLANTED].sum() / sizes.sum(), abs=0.06)


def test_foreign_rows_cost_the_trusted_models_more(planted):
    flags = flag_rows(planted, scored_with(planted, own=3.0, trusted=3.0), scored_with(planted, trusted=0.0, seed=1))
    precision, recall = planted_share(rows_of(flags, "high loss"))
    assert precision > 0.9
    assert recall > 0.95
    assert len(rows_of(flags, "low loss")) < 5


def test_rows_that_foretell_each_other_cost_their_own_models_less(planted):
    flags = flag_rows(planted, scored_with(planted, own=-3.0, trusted=0.0), scored_with(planted, trusted=0.0, seed=1))
    precision, recall = planted_share(rows_of(flags, "low loss"))
    assert precision > 0.9
    assert recall > 0.95
    assert len(rows_of(flags, "high loss")) < 5


def test_that_both_sides_know_their_own_documents_better_is_no_finding(planted):
    n = len(planted.data.corpus.texts)
    scored, reference = scored_with(planted, trusted=0.0), scored_with(planted, trusted=0.0, seed=1)
    home = np.random.default_rng(2).gamma(1.0, 0.5, (2, n))  # what having read the rest of a row's document is worth
    flags = flag_rows(
        planted, replace(scored, own=scored.own - home[0]), replace(reference, trusted=reference.trusted - home[1])
    )
    assert len(rows_of(flags, "low loss")) < 5


def test_where_everything_differs_no_row_stands_out(planted):
    everywhere = scored_with(planted, trusted=0.0)
    everywhere = replace(everywhere, trusted=everywhere.trusted + 3)
    flags = flag_rows(planted, everywhere, scored_with(planted, trusted=0.0, seed=1))
    assert rows_of(flags, "high loss") == rows_of(flags, "low loss") == []


def test_without_a_reference_foreign_rows_do_not_make_all_others_suspicious(planted):
    flags = flag_rows(planted, scored_with(planted, own=5.0), None)
    precision, recall = planted_share(rows_of(flags, "high loss"))
    assert precision > 0.9
    assert recall > 0.95
    assert rows_of(flags, "low loss") == []


def test_without_a_reference_templates_are_a_low_group(planted):
    flags = flag_rows(planted, scored_with(planted, own=-3.0), None)
    precision, recall = planted_share(rows_of(flags, "low loss"))
    assert precision > 0.9
    assert recall > 0.95


def test_clean_rows_are_left_alone(planted):
    for reference in (None, scored_with(planted, trusted=0.0, seed=1)):
        scored = scored_with(planted, trusted=None if reference is None else 0.0)
        flags = flag_rows(planted, scored, reference)
        assert sum(issue in ("no word order", "high loss", "low loss") for issue in flags.issue) < 5


def test_rows_that_were_not_scored_are_not_judged(planted):
    nothing = np.full(len(planted.data.corpus.texts), np.nan)
    flags = flag_rows(planted, Scored(nothing, None, nothing, nothing), None)
    assert set(flags.issue) == {"exact duplicate", "near duplicate", "low information"}
