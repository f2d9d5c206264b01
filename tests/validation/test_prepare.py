"""The layout of a run: nothing that is measured on is trained on."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from small_world import TINY, corpus_of, markov_rows

from atlas_jax.data import ByteTokenizer
from validation.bench.damage import duplicates
from validation.datasets import DatasetError
from validation.diversity.texts import normalised
from validation.prepare import HELD_OUT_BLOCKS, HELD_OUT_SHARE, data_variants, held_out_for, prepare, training_windows


@pytest.fixture(scope="module")
def rows():
    return markov_rows(1400, 1)


def trained_on(side, plan, problem, profile=TINY):
    """Rows in the windows of all models of a tier."""
    packed = training_windows(side, plan, data_variants(plan, problem.seed), problem, profile)
    assert all(len(p.tokens) == problem.steps[plan] * plan.batch for p in packed)
    return np.unique(np.concatenate([p.rows.reshape(-1) for p in packed]))


def texts_of(corpus, rows):
    return {normalised(corpus.texts[row]) for row in rows if row >= 0}


@pytest.mark.parametrize("with_reference", [False, True])
@pytest.mark.parametrize("copies", [1, 5])
def test_no_held_out_row_or_copy_of_one_is_trained_on(rows, with_reference, copies):
    data = rows[:600] if copies == 1 else duplicates(rows[:600], copies, 0)[0]
    if copies > 1:  # a copy that differs in case and white space is a copy
        data = [text.upper() + " " if i % 3 == 0 else text for i, text in enumerate(data)]
    reference = corpus_of([*rows[600:], *rows[600:650]]) if with_reference else None
    problem = prepare(corpus_of(data), reference, TINY, seed=0)
    trusted = problem.reference or problem.data
    held_out = texts_of(trusted.corpus, problem.held_out_rows)
    assert len(held_out) == len(problem.held_out_rows) > 5
    for plan in TINY.tiers[:2]:
        assert not held_out & texts_of(problem.data.corpus, trained_on(problem.data, plan, problem))
        assert not held_out & texts_of(trusted.corpus, trained_on(trusted, plan, problem))


def test_rows_of_the_data_that_stand_in_the_held_out_part_are_left_out(rows):
    reference = corpus_of(rows[600:])
    first = prepare(corpus_of(rows[:600]), reference, TINY, seed=0)
    leaks = [reference.texts[row] for row in first.held_out_rows[:10]]
    data = [*rows[:300], *leaks, *rows[300:600], *(text.title() for text in leaks[:3])]
    problem = prepare(corpus_of(data), reference, TINY, seed=0)
    np.testing.assert_array_equal(problem.held_out_rows, first.held_out_rows)
    np.testing.assert_array_equal(np.flatnonzero(problem.leaked), [*range(300, 310), 610, 611, 612])
    assert not set(problem.data.circle.order) & set(np.flatnonzero(problem.leaked))
    assert len(problem.data.circle.order) == 600
    assert first.leaked.sum() == 0


def test_the_held_out_part_is_a_tenth_at_most_and_depends_on_the_seed(rows):
    problem = prepare(corpus_of(rows), None, TINY, seed=0)
    sizes = problem.data.tokens.sizes
    wanted = min(TINY.held_out_windows * TINY.length, sizes.sum() * HELD_OUT_SHARE)
    assert wanted - 1 <= sizes[problem.held_out_rows].sum() < wanted + sizes.max()
    other = prepare(corpus_of(rows), None, TINY, seed=1)
    assert len(np.intersect1d(problem.held_out_rows, other.held_out_rows)) < 0.4 * len(problem.held_out_rows)
    again = prepare(corpus_of(rows), None, TINY, seed=0)
    np.testing.assert_array_equal(problem.held_out_rows, again.held_out_rows)
    np.testing.assert_array_equal(problem.data.circle.order, again.data.circle.order)


def test_paragraphs_are_held_out_in_a_few_stretches(rows):
    def stretches(neighbours):
        held_out = prepare(corpus_of(rows, neighbours=neighbours), None, TINY, seed=0).held_out_rows
        return 1 + int((np.diff(held_out) > 1).sum()), len(held_out)

    runs, count = stretches(True)
    assert runs <= HELD_OUT_BLOCKS + 1
    assert count >= 4 * runs
    assert stretches(False)[0] > 3 * runs


@pytest.mark.parametrize("with_reference", [False, True])
def test_the_neighbours_of_held_out_stretches_are_not_trained_on(rows, with_reference):
    def near(neighbours):
        """Rows next to held-out ones that are trained on, and tokens trained on."""
        text = corpus_of(rows, neighbours=neighbours)
        problem = prepare(*((corpus_of(markov_rows(900, 2)), text) if with_reference else (text, None)), TINY, seed=0)
        side = problem.reference or problem.data
        beside = np.union1d(problem.held_out_rows - 1, problem.held_out_rows + 1)
        return len(np.intersect1d(beside, side.circle.order)), side.circle.tokens / side.tokens.sizes.sum()

    beside, share = near(True)
    assert beside == 0
    assert share > 1 - 3.5 * HELD_OUT_SHARE
    assert near(False)[0] > 10


def test_steps_are_whole_grains_of_half_the_smaller_side(rows):
    profile = replace(TINY, steps=800)
    plan = TINY.tiers[0]
    per_step = profile.tokens(plan, 1)
    few = prepare(corpus_of(rows[:700]), None, TINY, seed=0)
    assert few.steps[plan] == TINY.steps
    grown = prepare(corpus_of(markov_rows(3000, 2)), None, profile, seed=0)
    half = grown.data.circle.tokens // 2 // per_step
    assert grown.steps[plan] % profile.step_grain == 0
    assert half - profile.step_grain < grown.steps[plan] <= half
    assert grown.steps[plan] > TINY.steps
    with_reference = prepare(corpus_of(markov_rows(3000, 2)), corpus_of(rows[:900]), profile, seed=0)
    assert with_reference.steps[plan] < grown.steps[plan]


def test_a_plan_with_few_rows_takes_fewer_steps(rows):
    small, large = (replace(TINY.tiers[0], rows=count) for count in (800, 10**9))
    profile = replace(TINY, steps=800, tiers=(small, large, TINY.tiers[2]))
    problem = prepare(corpus_of(markov_rows(3000, 2)), None, profile, seed=0)
    assert problem.steps[large] == problem.steps[TINY.tiers[2]]
    per_row = problem.data.circle.tokens / len(problem.data.circle.order)
    seen = profile.tokens(small, problem.steps[small])
    assert 800 * per_row - profile.tokens(small, profile.step_grain) < seen <= 800 * per_row
    assert problem.steps[small] < problem.steps[large]


@pytest.mark.parametrize("small", ["data", "reference"])
def test_too_little_text_says_how_many_rows_would_do(rows, small):
    sides = {"data": corpus_of(rows), "reference": corpus_of(rows), small: corpus_of(rows[:60])}
    with pytest.raises(DatasetError, match=rf"^the {small} has too little text for profile 'quick'") as error:
        prepare(sides["data"], sides["reference"], TINY, seed=0)
    message = str(error.value)
    assert "\n" not in message
    needed = int(re.search(r"about ([\d,]+) rows", message)[1].replace(",", ""))
    # The promise holds: so many rows of this length, and a tenth to hold out, are enough.
    prepare(corpus_of(markov_rows(round(needed * 1.15), 3)), None, TINY, seed=0)
    assert needed > 60


def test_a_dataset_of_empty_rows_is_refused(rows):
    with pytest.raises(DatasetError, match="the reference holds no text: all 3 rows are empty"):
        prepare(corpus_of(rows), corpus_of(["", " ", "\n"]), TINY, seed=0)


def test_only_the_response_is_measured():
    prompts, answers = markov_rows(700, 4), [text.upper() for text in markov_rows(700, 5)]
    texts = [f"{prompt}\n\n{answer}" for prompt, answer in zip(prompts, answers, strict=True)]
    corpus = corpus_of(texts, trained_from=[len(prompt) + 2 for prompt in prompts])
    problem = prepare(corpus, None, TINY, seed=0, tokenizer=ByteTokenizer())
    targets = problem.held_out.windows[:, 1:]
    measured = problem.held_out.measured
    letters = (targets >= 65) & (targets <= 90) | (targets == 32) & measured | (targets == ByteTokenizer.eos)
    assert letters[measured].all()
    capitals = (targets >= 65) & (targets <= 90)
    assert measured[capitals].all()
    assert not measured[(targets >= 97) & (targets <= 122)].any()
    np.testing.assert_allclose(problem.held_out.bytes_per_token, 1, atol=0.02)


def test_the_tail_is_the_rarest_decile_of_words_that_the_model_did_not_see(rows):
    problem = prepare(corpus_of(rows[:500]), corpus_of(rows[500:]), TINY, seed=0)
    plan = TINY.tiers[0]
    variants = data_variants(plan, 0)
    held_out = held_out_for(plan, variants, problem, TINY)
    assert held_out.tail.shape == (10, *held_out.measured.shape)
    assert (held_out.tail <= held_out.measured).all()
    shares = held_out.tail.sum(axis=(1, 2)) / held_out.measured.sum()
    assert (shares >= 0.1).all()
    assert shares.max() < 0.3
    assert (held_out.tail[0] != held_out.tail[5]).any()


def test_variants_are_arcs_seeds_and_two_rates():
    plan = TINY.tiers[0]
    variants = data_variants(plan, 3)
    assert [v.subsample for v in variants] == list(range(10))
    assert len({v.seed for v in variants} | {v.seed for v in data_variants(plan, 4)}) == 20
    assert [v.learning_rate / plan.learning_rate for v in variants] == [1.0] * 5 + [0.5] * 5
