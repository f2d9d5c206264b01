"""The generators write what their counts or their model say: frequencies, lengths, truncation, seeds."""

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import chex
import jax.numpy as jnp
import numpy as np
import pytest

from spectral import eigenstate
from validation.bench.generators import model_generation, ngram_generation
from validation.bench.generators.model import WINDOW, draw, sample
from validation.bench.generators.streams import LONGEST, STREAMS, collect, longest_document

EOS = 0
# A first, B after it in 3 of 4, C in the rest; then the end.
TINY = [np.array([1, 2])] * 3 + [np.array([1, 3])]


def both(documents, *, seed, tokens, **options):
    """The two generators on the same documents; few steps are enough where the model's quality does not matter."""
    common = {"vocab_size": 8, "eos": EOS, "tokens": tokens, "seed": seed, **options}
    return ngram_generation(documents, **common), model_generation(documents, **common, steps=4)


def followers(documents, context):
    """How often each token (or the end) follows a context, the start being that of -1."""
    found = Counter()
    for document in documents:
        padded = [-1, *document.tolist(), EOS]
        found.update(after for before, after in pairwise(padded) if before == context)
    return found


def shares(found):
    return {token: number / found.total() for token, number in found.items()}


def test_bigram_samples_have_the_interpolated_frequencies():
    drawn = ngram_generation(TINY, vocab_size=4, eos=EOS, tokens=60_000, seed=1, order=2)
    # Of the unigrams each of 12 tokens: eos 4, A 4, B 3, C 1. After A: N = 4, T = 2.
    unigram = np.array([4, 4, 3, 1]) / 12
    after_a = 4 / 6 * np.array([0, 0, 3, 1]) / 4 + 2 / 6 * unigram
    seen = shares(followers(drawn, 1))
    np.testing.assert_allclose([seen[token] for token in range(4)], after_a, atol=0.012)
    # After the start: N = 4, T = 1; the end is not drawn there, as no empty document is kept.
    first = 4 / 5 * np.array([0, 1, 0, 0]) + 1 / 5 * unigram
    first = np.where(np.arange(4) == EOS, 0, first) / (1 - first[EOS])
    seen = shares(followers(drawn, -1))
    np.testing.assert_allclose([seen.get(token, 0) for token in range(4)], first, atol=0.012)


def test_long_contexts_decide_where_they_have_occurred():
    documents = [np.array([1, 2, 3])] * 50 + [np.array([4, 2, 5])] * 50
    drawn = ngram_generation(documents, vocab_size=8, eos=EOS, tokens=40_000, seed=3)
    known = Counter(tuple(document[:3]) for document in drawn if len(document) >= 3)
    assert known[1, 2, 3] > 20 * known[1, 2, 5]
    bigrams = ngram_generation(documents, vocab_size=8, eos=EOS, tokens=40_000, seed=3, order=2)
    known = Counter(tuple(document[:3]) for document in bigrams if len(document) >= 3)
    assert 0.8 < known[1, 2, 3] / known[1, 2, 5] < 1.25


def test_the_whole_interpolation_against_its_formula():
    rng = np.random.default_rng(0)
    documents = [rng.integers(1, 4, rng.integers(1, 6)) for _ in range(30)]
    order, vocabulary = 3, 4

    def probability(history, token):
        """Recursion of the definition, on tuples."""
        occurrences = Counter()
        for document in documents:
            padded = (*[EOS] * (order - 1), *document.tolist(), EOS)
            for place in range(order - 1, len(padded)):
                if padded[place - len(history) : place] == history:
                    occurrences[padded[place]] += 1
        if not history:
            return occurrences[token] / occurrences.total()
        shorter = probability(history[1:], token)
        if not occurrences:
            return shorter
        n, t = occurrences.total(), len(occurrences)
        return (occurrences[token] + t * shorter) / (n + t)

    drawn = ngram_generation(documents, vocab_size=vocabulary, eos=EOS, tokens=300_000, seed=0, order=order)
    seen: dict[tuple[int, ...], Counter] = {}
    for document in drawn:
        padded = (EOS, EOS, *document.tolist(), EOS)
        for place in range(2, len(padded)):
            seen.setdefault(padded[place - 2 : place], Counter())[padded[place]] += 1
    checked = 0
    for history, counts in seen.items():
        if counts.total() < 3000 or history == (EOS, EOS):  # the start leaves the end out
            continue
        expected = [probability(history, token) for token in range(vocabulary)]
        assert np.isclose(sum(expected), 1)
        found = [counts[token] / counts.total() for token in range(vocabulary)]
        np.testing.assert_allclose(found, expected, atol=4 * 0.5 / counts.total() ** 0.5)
        checked += 1
    assert checked >= 9


def test_the_most_likely_continuation_alone():
    documents = [*TINY, np.array([1, 3, 2]), np.array([5, 5])]
    drawn = ngram_generation(documents, vocab_size=8, eos=EOS, tokens=50, seed=0, top_k=1)
    # After A come B (three times) and C (twice); after A B always the end.
    assert {tuple(document) for document in drawn} == {(1, 2)}
    tie = ngram_generation([np.array([7]), np.array([4])], vocab_size=8, eos=EOS, tokens=50, seed=0, top_k=1)
    assert {tuple(document) for document in tie} == {(4,)}


def test_a_context_with_k_continuations_draws_from_no_other():
    documents = [np.array([1, token]) for token in (2, 2, 2, 3, 3, 4)]
    drawn = ngram_generation(documents, vocab_size=8, eos=EOS, tokens=20_000, seed=0, top_k=2, order=2)
    seen = shares(followers(drawn, 1))
    assert set(seen) == {2, 3}
    assert abs(seen[2] - 3 / 5) < 0.02


def test_the_model_draws_what_it_has_learnt():
    rng = np.random.default_rng(0)
    weights = np.array([0, 0.5, 0.25, 0.125, 0.0625, 0.0625])
    documents = [rng.choice(6, 9, p=weights) for _ in range(400)]
    common = {"vocab_size": 6, "eos": EOS, "tokens": 20_000, "seed": 0, "steps": 200}
    drawn = model_generation(documents, **common)
    found = np.bincount(np.concatenate(drawn), minlength=6) / sum(map(len, drawn))
    np.testing.assert_allclose(found, weights, atol=0.05)
    assert abs(np.mean([len(document) for document in drawn]) - 9) < 1
    likely = model_generation(documents, **common, top_k=2)
    # Two of the tokens and, where a document should end, its end.
    tokens = np.bincount(np.concatenate(likely), minlength=6) / sum(map(len, likely))
    assert tokens[[1, 2]].sum() > 0.98


def test_the_model_begins_no_document_with_its_end_and_cuts_long_ones(key):
    config = replace(eigenstate.PRESETS["micro-32"], vocab_size=8, context=WINDOW)
    params = eigenstate.init(config, key)
    even = {**params, "head": jnp.zeros_like(params["head"])}  # all tokens are equally likely
    ended = next(sample(eigenstate, config, even, eos=EOS, longest=4, seed=0, top_k=None)) == EOS
    assert not ended[0].any()
    assert not (ended[1:] & ended[:-1]).any()
    runs = np.lib.stride_tricks.sliding_window_view(ended, 5, axis=0).any(axis=-1)
    assert runs.all()
    assert not np.lib.stride_tricks.sliding_window_view(ended, 4, axis=0).any(axis=-1).all()


def test_seeds_repeat_and_differ():
    documents = [np.arange(1, 8), np.arange(7, 1, -1), np.array([3, 3, 1])] * 4
    for one, again, other in zip(
        both(documents, seed=1, tokens=500), both(documents, seed=1, tokens=500), both(documents, seed=2, tokens=500),
        strict=True,
    ):  # fmt: skip
        chex.assert_trees_all_equal(one, again)
        assert [*map(tuple, one)] != [*map(tuple, other)]


@pytest.mark.parametrize("tokens", [1, 40, 3000])
@pytest.mark.parametrize("top_k", [None, 1, 3])
def test_documents_reach_the_tokens_and_no_more(tokens, top_k):
    documents = [np.array([1, 2, 3, 4, 5]), np.array([2]), np.array([6, 6, 7]), np.array([], int)]
    for drawn in both(documents, seed=0, tokens=tokens, top_k=top_k):
        sizes = [len(document) + 1 for document in drawn]
        assert sum(sizes) >= tokens > sum(sizes[:-1])
        assert min(sizes) >= 2
        assert max(sizes) <= 4 * 5 + 1
        assert not any((document == EOS).any() for document in drawn)
        assert all(document.dtype == np.int32 and 1 <= document.min() <= document.max() <= 7 for document in drawn)


def test_short_documents_have_no_advantage():
    """Half of all documents have one token and half have 60: those finished first would be short ones, four in five."""
    found = []
    for seed in range(8):
        rng = np.random.default_rng(seed)

        def stream(rng=rng):
            while True:
                yield from [1] * (1 if rng.random() < 0.5 else 60)
                yield EOS

        streams = [stream() for _ in range(STREAMS)]
        found += collect(lambda streams=streams: np.array([[next(one) for one in streams]]), tokens=4000, eos=EOS)
    short = np.mean([len(document) == 1 for document in found])
    assert abs(short - 0.5) < 4 * 0.5 / len(found) ** 0.5
    assert {len(document) for document in found} == {1, 60}


def test_documents_stop_growing():
    assert longest_document([np.ones(3, int), np.ones(10, int)]) == 40
    assert longest_document([np.ones(5 * LONGEST, int)]) == LONGEST
    # An end after one token in eleven: of documents without a limit one in fifty would be longer than 40.
    drawn = ngram_generation([np.ones(10, int)], vocab_size=8, eos=EOS, tokens=20_000, seed=0, order=1)
    assert max(len(document) for document in drawn) == 40


def test_contexts_that_never_occurred_leave_the_draw_to_shorter_ones():
    documents = [np.array(pair) for pair in ([1, 2], [2, 1], [3, 4], [3, 4], [4, 3])]
    drawn = ngram_generation(documents, vocab_size=5, eos=EOS, tokens=200_000, seed=0, order=3)
    after = Counter()
    for document in drawn:
        padded = [*document.tolist(), EOS]
        after.update(padded[i + 2] for i in range(len(padded) - 2) if padded[i : i + 2] == [1, 3])
    # 1 3 has not occurred. After 3 came 4 twice and the end once: N = 3, T = 2.
    unigram = np.array([5, 2, 2, 3, 3]) / 15
    expected = 3 / 5 * np.array([1, 0, 0, 0, 2]) / 3 + 2 / 5 * unigram
    assert after.total() > 1200
    found = [after[token] / after.total() for token in range(5)]
    np.testing.assert_allclose(found, expected, atol=4 * 0.5 / after.total() ** 0.5)


def test_draws_have_the_probabilities_of_the_softmax(key):
    weights = np.array([0, 0.4, 0.1, 0, 0.25, 0.05, 0.2], np.float32)  # seven: the last group of three is not full
    with np.errstate(divide="ignore"):
        logits = jnp.asarray(np.log(weights) + np.float32(30))
    drawn = np.asarray(draw(jnp.broadcast_to(logits, (40_000, 7)), key))
    found = np.bincount(drawn, minlength=7) / len(drawn)
    np.testing.assert_allclose(found, weights, atol=0.01)
    assert found[0] == found[3] == 0


def test_equal_shapes_compile_once(monkeypatch):
    both([np.array([1, 2, 3]), np.array([4])], seed=0, tokens=100)

    def trace(*_):
        raise AssertionError("a program was traced again")

    monkeypatch.setattr(eigenstate, "apply", trace)
    both([np.array([5, 6, 7, 1, 1])] * 300, seed=9, tokens=9000)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"documents": []}, "documents: 0, none with a token"),
        ({"documents": [np.array([], int)]}, "documents: 1, none with a token"),
        ({"documents": [np.array([1, 8])]}, "tokens from 1 to 8, expected 0 to 7"),
        ({"documents": [np.array([-1, 1])]}, "tokens from -1 to 1"),
        ({"documents": [np.array([1, EOS])]}, "eos = 0 among their tokens"),
        ({"eos": 8}, "eos is 8"),
        ({"tokens": 0}, "tokens is 0"),
        ({"top_k": 0}, "top_k is 0"),
        ({"top_k": 9}, "top_k is 9"),
    ],
)
def test_wrong_input_is_named(changed, message):
    options = {"documents": TINY, "vocab_size": 8, "eos": EOS, "tokens": 10, "seed": 0, **changed}
    with pytest.raises(ValueError, match=message):
        ngram_generation(**options)
    with pytest.raises(ValueError, match=message):
        model_generation(**options, steps=4)


def test_wrong_sizes_of_one_generator_are_named():
    common = {"vocab_size": 4, "eos": EOS, "tokens": 10, "seed": 0}
    with pytest.raises(ValueError, match="order is 0"):
        ngram_generation(TINY, **common, order=0)
    with pytest.raises(ValueError, match="steps is 1"):
        model_generation(TINY, **common, steps=1)
